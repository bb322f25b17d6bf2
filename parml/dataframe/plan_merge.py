"""The node of a plan that joins two frames, and what one partition of it is: plain pandas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from parml.dataframe.plan import Blockwise, Columns, Input, Node, Rows, columns_of, trimmed
from parml.dataframe.plan_shuffle import Together, known_together


@dataclass(frozen=True)
class Match:
    """
    How rows of two frames are matched, whose columns were renamed so that no two have one name but keys that become one.

    Parameters
    ----------
    how : str
    left_on, right_on : tuple, optional
        None: the labels.
    indicator : bool or str
    """

    how: str
    left_on: tuple[Any, ...] | None = None
    right_on: tuple[Any, ...] | None = None
    indicator: bool | str = False
    validate: str | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The arguments of pandas that tell the keys."""
        if self.how == "cross":
            return {}
        if self.left_on == self.right_on and self.left_on is not None:
            return {"on": list(self.left_on)}
        left = {"left_index": True} if self.left_on is None else {"left_on": list(self.left_on)}
        return left | ({"right_index": True} if self.right_on is None else {"right_on": list(self.right_on)})

    @property
    def labelled(self) -> bool:
        """Whether rows of the result have labels of their own, rather than numbers."""
        return self.how != "cross" and (self.left_on is None or self.right_on is None)

    def __call__(self, left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        options: dict[str, Any] = {"how": self.how, "indicator": self.indicator, "validate": self.validate}
        return left.merge(right, **options, **self.keys)


class Merge(Blockwise):
    """
    Rows of one frame beside the matching rows of another: matching rows are in partitions of one number, or all rows of one
    frame are in one partition beside each of the other.
    """

    def __init__(self, left: Node, right: Node, match: Match) -> None:
        self.match = match
        super().__init__("merge", match, (left, right), (Input(0), Input(1)), rows=Rows(""))
        self.rows = Rows(self.token, None if match.labelled else self, whole=not match.labelled)
        self.together = () if match.how == "cross" else self._together()

    def _together(self) -> tuple[Together, ...]:
        match, found = self.match, []
        for node, on, keeps in zip(self.inputs, self._keys(), ("left", "right"), strict=True):
            # Rows without a match have nulls for the other side's columns, but for keys of both sides.
            one_key = match.left_on == match.right_on
            for known in () if node.broadcast else known_together(node):
                if match.how in ("inner", keeps) or (one_key and set(known.columns) <= on):
                    found.append(known)
        return tuple(dict.fromkeys(found))

    def _parameters(self) -> tuple[Any, ...]:
        return (self.match,)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return tuple(wanted & columns_of(node) | keys for node, keys in zip(self.inputs, self._keys(), strict=True))

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        left, right = (trimmed(node, wanted | keys) for node, keys in zip(inputs, self._keys(), strict=True))
        return Merge(left, right, self.match)

    def _keys(self) -> list[Columns]:
        return [frozenset(self.match.left_on or ()), frozenset(self.match.right_on or ())]

    def describe(self) -> str:
        left, right = self.match.left_on or "labels", self.match.right_on or "labels"
        on = f" on {left}" if left == right else f" {left} with {right}"
        side = next((f", all of the {name} beside each" for node, name in zip(self.inputs, ("left", "right"), strict=True)
                     if node.broadcast), "")  # fmt: skip
        return f"{self.match.how} merge{'' if self.match.how == 'cross' else on}{side}"

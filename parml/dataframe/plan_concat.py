"""The nodes of a plan that put frames one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from parml.dataframe.plan import Blockwise, Columns, Node, Rows, columns_of, trimmed
from parml_core.typing import Key


class Conform(Blockwise):
    """
    Partitions of one of several frames with the columns and dtypes that all of them have one after the other.

    Parameters
    ----------
    node : Node
    metas : sequence
        Of all frames.
    place : int
        Which of them this is.
    join : {"outer", "inner"}
    ignore_labels : bool
        Number the rows of each partition from 0.
    """

    def __init__(self, node: Node, metas: Sequence[Any], place: int, join: str, ignore_labels: bool) -> None:
        self.metas, self.place, self.join, self.ignore_labels = tuple(metas), place, join, ignore_labels
        step = Among(self.metas[:place], self.metas[place + 1 :], join, ignore_labels)
        super().__init__("concat", step, (node,), rows=Rows(f"concat {node.rows.origin}"))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted & columns_of(self.inputs[0]),)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        metas = [_narrow(meta, wanted) for meta in self.metas]
        return Conform(trimmed(inputs[0], wanted), metas, self.place, self.join, self.ignore_labels)


def _narrow(meta: Any, wanted: Columns) -> Any:
    return meta.loc[:, [column in wanted for column in meta.columns]] if isinstance(meta, pd.DataFrame) else meta


@dataclass(frozen=True)
class Among:
    """A partition as it is when frames like these stand before and after it."""

    before: tuple[Any, ...]
    after: tuple[Any, ...]
    join: str
    ignore_labels: bool

    def __call__(self, frame: Any) -> Any:
        whole = pd.concat([*self.before, frame, *self.after], join=self.join, ignore_index=True)  # type: ignore[call-overload]
        if self.ignore_labels:
            return whole
        labels = frame.index
        if any(other.index.names != labels.names for other in (*self.before, *self.after)):
            labels = labels.set_names([None] * labels.nlevels)
        return whole.set_axis(labels, axis=0)


class Concat(Node):
    """Partitions of several frames, one after the other; no work of its own."""

    name = "concat"

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.inputs, self.meta = tuple(nodes), nodes[0].meta
        self.npartitions = sum(node.npartitions for node in nodes)
        counted = all(getattr(node, "ignore_labels", True) for node in nodes)
        self.rows = Rows(self.token, self if counted else None, whole=counted)

    def _parameters(self) -> tuple[Any, ...]:
        return ()

    def key(self, index: int) -> Key:
        for node in self.inputs:
            if index < node.npartitions:
                return node.key(index)
            index -= node.npartitions
        raise IndexError(index)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return tuple(wanted for _ in self.inputs)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Concat(inputs)

    def describe(self) -> str:
        return f"{len(self.inputs)} frames one after the other"

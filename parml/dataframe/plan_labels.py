"""The nodes of a plan that change the labels of rows, or choose rows by them, and what is known of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.plan import (
    NO_COLUMNS,
    Assign,
    Blockwise,
    Columns,
    Columnwise,
    Filter,
    Input,
    Node,
    Project,
    Rename,
    Rows,
    Source,
    columns_of,
    trimmed,
)
from parml.dataframe.plan_across import Regroup, Select


class SetIndex(Blockwise):
    """
    Columns as labels.

    Parameters
    ----------
    node : Node
    columns : list or object
    drop : bool
    in_order : bool
        Labels ascend, within partitions and from one to the next.
    divisions : tuple, optional
        The labels at which all partitions but the first begin.
    """

    ends: tuple[Any, ...] = ()
    """The label at which the first partition begins, and that with which the last one ends, where they are known."""

    def __init__(self, node: Node, columns: Any, drop: bool, in_order: bool = False, divisions: tuple[Any, ...] = ()) -> None:
        self.columns, self.drop, self.in_order, self.divisions = columns, drop, in_order, divisions
        step = steps.labelled_by
        rows = Rows(f"labels {columns!r} of {node.rows.origin}")
        super().__init__("set_index", step, (node,), (Input(0), columns, drop), rows=rows)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted | set(self.columns if isinstance(self.columns, list) else [self.columns]),)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        (needed,) = self.needs(wanted)
        node = SetIndex(trimmed(inputs[0], needed or NO_COLUMNS), self.columns, self.drop, self.in_order, self.divisions)
        return trimmed(node, wanted)

    def describe(self) -> str:
        return f"labels from {self.columns!r}"


class ResetIndex(Blockwise):
    """Labels as columns, or forgotten; rows are numbered."""

    def __init__(self, node: Node, drop: bool, kwargs: dict[str, Any]) -> None:
        self.drop, self.given = drop, kwargs
        step = partial(steps.call_method, "reset_index")
        super().__init__("reset_index", step, (node,), (Input(0),), {"drop": drop, **kwargs}, rows=Rows(""))
        self.rows = Rows(self.token, self, whole=True)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted & columns_of(self.inputs[0]),)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return ResetIndex(trimmed(inputs[0], wanted), self.drop, self.given)


class TakePlaces(Blockwise):
    """The rows at some places of each partition."""

    def __init__(self, node: Node, places: Node) -> None:
        super().__init__("take", _take, (node, places), rows=replace(node.rows, whole=False))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted, NO_COLUMNS)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return TakePlaces(trimmed(inputs[0], wanted), inputs[1])


def _take(frame: Any, places: pd.Series) -> Any:
    return frame.take(places.to_numpy(dtype="int64"))


class BetweenLabels(Blockwise):
    """The rows with labels from one to another, both among them."""

    def __init__(self, node: Node, start: Any, stop: Any) -> None:
        self.start, self.stop = start, stop
        super().__init__("loc", _between, (node,), (Input(0), start, stop), rows=replace(node.rows, whole=False))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted,)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return BetweenLabels(trimmed(inputs[0], wanted), self.start, self.stop)

    def describe(self) -> str:
        return f"labels from {self.start!r} to {self.stop!r}"


def _between(frame: Any, start: Any, stop: Any) -> Any:
    return frame.loc[start:stop] if len(frame) else frame


RELABELLING = frozenset({"shift_labels", "to_timestamp", "tz_convert", "tz_localize"})
"""Steps of each column that give rows other labels."""


def labelled_by(node: Node) -> Node:
    """The node that gave the rows of a node their labels."""
    while isinstance(node, Filter | Project | Assign | Rename | Columnwise | TakePlaces | BetweenLabels):
        if node.name in RELABELLING:
            break
        node = node.inputs[0]
    return node


def in_order(node: Node) -> bool:
    """Whether it is known that labels ascend."""
    node = labelled_by(node)
    if node.name == "number_rows":
        return True
    if isinstance(node, Source):
        data = getattr(node.reader, "data", None)
        return data is not None and bool(data.index.is_monotonic_increasing)
    if isinstance(node, Regroup):
        return in_order(node.inputs[0])
    if isinstance(node, Select):
        return list(node.indices) == sorted(node.indices) and in_order(node.inputs[0])
    return bool(getattr(node, "in_order", False))


def divisions_of(node: Node) -> Sequence[Any] | None:
    """The labels at which all partitions but the first begin, where they are known."""
    found = getattr(labelled_by(node), "divisions", ())
    return found if len(found) == node.npartitions - 1 else None


def known_divisions(node: Node) -> tuple[Any, ...] | None:
    """The label at which each partition begins, and that with which the last one ends; where they are known."""
    of_labels = labelled_by(node)
    if isinstance(of_labels, Source):
        data = getattr(of_labels.reader, "data", None)
        return None if data is None or of_labels.rows.counted_by is not None else _of_memory(data.index, of_labels.parts)
    inner, ends = divisions_of(node), tuple(getattr(of_labels, "ends", ()))
    return (ends[0], *inner, ends[1]) if inner is not None and ends and in_order(node) else None


def _of_memory(labels: pd.Index, parts: Sequence[tuple[int, int]]) -> tuple[Any, ...] | None:
    if not len(labels) or isinstance(labels, pd.MultiIndex) or not labels.is_monotonic_increasing:
        return None
    if any(start == stop for start, stop in parts):
        return None
    starts = [plain_label(labels[start]) for start, _ in parts]
    before = [plain_label(labels[stop - 1]) for _, stop in parts]
    apart = all(last < first for last, first in zip(before, starts[1:], strict=False))
    return (*starts, before[-1]) if apart else None


def plain_label(label: Any) -> Any:
    """A number of numpy as one of Python, which shows as what it is."""
    return label.item() if isinstance(label, np.number | np.bool_) else label

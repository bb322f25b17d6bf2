"""Rows beside the last or next row of another frame, by sorted keys: `merge_asof`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.ascending import ends_of
from parml.dataframe.base import Frame
from parml.dataframe.groupby import CountedBlock
from parml.dataframe.keys import Keys, Order
from parml.dataframe.merge import mergeable
from parml.dataframe.plan import Blockwise, Node, Rows
from parml.dataframe.plan_across import Reduce, labelled
from parml.dataframe.plan_scan import Scan
from parml.dataframe.plan_shuffle import joined, ranged


def merge_asof(
    left: Any,
    right: Any,
    on: Any = None,
    left_on: Any = None,
    right_on: Any = None,
    left_index: bool = False,
    right_index: bool = False,
    by: Any = None,
    left_by: Any = None,
    right_by: Any = None,
    suffixes: tuple[str, str] = ("_x", "_y"),
    tolerance: Any = None,
    allow_exact_matches: bool = True,
    direction: str = "backward",
) -> Any:
    """
    Each row of one frame beside the row of another whose key is the nearest before it, after it, or on either side.

    Both frames ascend by their keys, which is found out while they are computed. Rows go to partitions of one range of keys
    each; where the right frame is one partition, as one of pandas is, no row of the left one moves.

    Parameters
    ----------
    left, right : DataFrame, named Series, or one of pandas
    on, left_on, right_on : column, optional
    left_index, right_index : bool
        The labels of rows are the keys.
    by, left_by, right_by : column or list of columns, optional
        Only rows that are equal in these match.
    suffixes, tolerance, allow_exact_matches, direction
        As in pandas.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> trades = pdf.from_pandas(pd.DataFrame({"t": [3, 5, 9], "n": [1, 2, 3]}), npartitions=2)
    >>> quotes = pdf.from_pandas(pd.DataFrame({"t": [1, 4, 5], "price": [10, 20, 30]}), npartitions=2)
    >>> pdf.merge_asof(trades, quotes, on="t").price.compute().tolist()
    [10, 30, 30]
    """
    left, right = mergeable(left), mergeable(right)
    given: dict[str, Any] = {"on": on, "left_on": left_on, "right_on": right_on, "by": by, "left_by": left_by}
    given |= {"left_index": left_index, "right_index": right_index, "right_by": right_by, "suffixes": suffixes}
    given |= {"tolerance": tolerance, "allow_exact_matches": allow_exact_matches, "direction": direction}
    pd.merge_asof(left._meta, right._meta, **given)  # mistakes show here, in pandas' words
    own_labels = left_index or right_index
    left_node = labelled(left._node) if own_labels else left._node
    right_node = labelled(right._node) if right_index else right._node
    left_key = None if left_index else _only(left_on if on is None else on)
    right_key = None if right_index else _only(right_on if on is None else on)
    checks = [ends_of(left_node, left_key, "in merge_asof"), ends_of(right_node, right_key, "in merge_asof")]
    around: list[Node] = []
    if right_node.npartitions == 1:
        right_node = Reduce("broadcast", right_node, steps.concat, steps.concat, right_node.meta)
    else:
        n = max(left_node.npartitions, right_node.npartitions)
        left_node, bounds = _by_ranges(left_node, left_key, n)
        right_node, _ = _by_ranges(right_node, right_key, n, bounds)
        groups = _listed(right_by if by is None else by)
        around += [_edge(right_node, groups, after=False)] if direction in ("backward", "nearest") else []
        around += [_edge(right_node, groups, after=True)] if direction in ("forward", "nearest") else []
    match = AsOf(given, len(around), after=direction == "forward")
    inputs = (left_node, right_node, *around, *checks)
    meta = match(*(node.meta for node in inputs))
    if not own_labels:
        return Frame._of(CountedBlock("merge_asof", match, inputs, meta=meta))
    result = Blockwise("merge_asof", match, inputs, meta=meta)
    result.rows = Rows(result.token)
    return Frame._of(result)


def _only(column: Any) -> Any:
    return column[0] if isinstance(column, list | tuple) and len(column) == 1 else column


def _listed(columns: Any) -> list[Any] | None:
    return columns if columns is None or isinstance(columns, list) else [columns]


def _by_ranges(node: Node, key: Any, n: int, bounds: Node | None = None) -> tuple[Node, Node]:
    """Rows with keys of one range in each partition, and where these begin. Rows keep their order, as they ascend."""
    counted = node.rows.counted_by is not None
    order = Order(Keys(None if key is None else (key,)))
    moved = ranged(node, order, n, partial(joined, counted), bounds=bounds, counted=counted)
    return moved, moved.inputs[1]


def _edge(node: Node, by: list[Any] | None, after: bool) -> Node:
    """For each partition the last row, of each group, of those before it, or the first of those after it."""
    kept = Edge(None if by is None else tuple(by), "first" if after else "last")
    ends = Blockwise("merge_asof-ends", kept, (node,))
    return Scan(f"merge_asof-{'after' if after else 'before'}", ends, kept, backward=after)


@dataclass(frozen=True)
class Edge:
    """The first or the last row, or that of each group."""

    by: tuple[Any, ...] | None
    keep: str

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        if self.by is None:
            return rows.head(1) if self.keep == "first" else rows.tail(1)
        return rows.drop_duplicates(list(self.by), keep=self.keep)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class AsOf:
    """
    pandas' ``merge_asof`` of partitions.

    Parameters
    ----------
    given : dict
        Its arguments.
    around : int
        With how many partitions of rows from before or after those of the right frame it is called.
    after : bool
        The only one of these is of rows after.
    """

    given: dict[str, Any]
    around: int
    after: bool

    def __call__(self, left: pd.DataFrame, right: pd.DataFrame, *others: Any) -> pd.DataFrame:
        rows = [right, *others[: self.around]]
        if self.around and not self.after:
            rows[:2] = rows[1], rows[0]
        return pd.merge_asof(left, steps.concat(rows), **self.given)

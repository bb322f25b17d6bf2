"""
The nodes of a plan that move rows between partitions, and what is known of where rows are.

`hashed` and `ranged` give a node whose rows with equal keys are in one partition, and move nothing where that is so already:
after a merge, a group-by of the same keys starts at once. `taken_home` brings rows back to the partition that they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.keys import Keys, Order, Quantiles, hash_rows, merge_samples, sample
from parml.dataframe.plan import (
    Assign,
    Blockwise,
    Columns,
    Filter,
    Node,
    Numbers,
    Project,
    Rename,
    Rows,
    columns_of,
    listed,
    trimmed,
)
from parml.dataframe.plan_across import Reduce
from parml_core.hashing import tokenize

SAMPLE_ROWS = 256
"""So many keys of each partition are looked at to cut the sorted rows into parts of about equal length."""

_HOME_BITS = 40


@dataclass(frozen=True)
class Together:
    """
    Rows with equal values in `columns` are in one partition.

    Parameters
    ----------
    columns : tuple
    how : str
        Nodes of equal `how` and `npartitions` have equal keys in partitions of the same number.
    npartitions : int
    """

    columns: tuple[Any, ...]
    how: str
    npartitions: int
    sorted: bool = False
    """And partitions are in the ascending order of these columns, nulls last."""


class Shuffle(Node):
    """
    Each row in the partition that it belongs to.

    Parameters
    ----------
    name : str
    node : Node
    npartitions : int
    target_of : callable
        ``target_of(partition, *bounds)`` is the new partition of each row.
    join : callable
        Makes a partition of a list of pieces.
    needed : frozenset, optional
        The columns that `target_of` and `join` look at. Default: all of them.
    bounds : Node, optional
        A total that `target_of` gets.
    together : sequence of Together
        What is known of the result.
    meta : optional
        Default: the node's.
    rows : Rows, optional
        Default: rows of their own.
    counted : bool
        Rows of their own have no labels, and are numbered from 0 in each partition.
    """

    def __init__(
        self,
        name: str,
        node: Node,
        npartitions: int,
        target_of: Callable[..., np.ndarray],
        join: Callable[[list[Any]], Any],
        *,
        needed: Columns | None = None,
        bounds: Node | None = None,
        together: Sequence[Together] = (),
        meta: Any = None,
        rows: Rows | None = None,
        counted: bool = False,
    ) -> None:
        self.name, self.npartitions, self.target_of, self.join, self.needed = name, npartitions, target_of, join, needed
        self.inputs = (node,) if bounds is None else (node, bounds)
        self.together, self.meta = tuple(together), node.meta if meta is None else meta
        self.rows = rows or Rows(self.token, self if counted else None, whole=counted)

    def _parameters(self) -> tuple[Any, ...]:
        return (self.npartitions, self.target_of, self.join)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        kept = columns_of(self.inputs[0]) if self.needed is None else wanted | self.needed
        return (kept, *(columns_of(node) for node in self.inputs[1:]))

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        if inputs == self.inputs and (self.needed is None or wanted | self.needed >= columns_of(self)):
            return self
        node, bounds = inputs[0], inputs[1] if len(inputs) > 1 else None
        known: dict[str, Any] = {"needed": self.needed, "bounds": bounds, "together": self.together, "rows": self.rows}
        if self.needed is None:
            return Shuffle(self.name, node, self.npartitions, self.target_of, self.join, meta=self.meta, **known)
        return Shuffle(self.name, trimmed(node, wanted | self.needed), self.npartitions, self.target_of, self.join, **known)

    def describe(self) -> str:
        by = f" by {listed(self.together[0].columns)}" if self.together else ""
        return f"{self.name}{by} into {self.npartitions} partitions"


class Gather(Reduce):
    """All partitions as one: not a total but a frame of one partition."""

    broadcast = False

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Gather(self.name, inputs[0], self.combine, self.finish, self.meta)

    def describe(self) -> str:
        return f"{self.name} in one partition"


# ------------------------------------------------------------------------------------------------------ where rows are


def known_together(node: Node) -> tuple[Together, ...]:
    """What is known of equal keys in a node's partitions."""
    passed = []
    while isinstance(node, Filter | Project | Assign | Rename):
        passed.append(node)
        node = node.inputs[0]
    found: tuple[Together, ...] = getattr(node, "together", ())
    for step in reversed(passed):
        found = tuple(kept for known in found if (kept := _after(step, known)) is not None)
    return found


def _after(step: Node, known: Together) -> Together | None:
    if isinstance(step, Rename):
        return replace(known, columns=tuple(step.names.get(column, column) for column in known.columns))
    if isinstance(step, Assign) and step.column in known.columns:
        return None
    return known if columns_of(step) >= set(known.columns) else None


def are_together(node: Node, columns: Sequence[Any]) -> bool:
    """Whether rows with equal values in these columns are in one partition: also where some of the columns suffice."""
    return node.npartitions == 1 or any(set(known.columns) <= set(columns) for known in known_together(node))


# --------------------------------------------------------------------------------------------------------- moving rows


@dataclass(frozen=True)
class ByHash:
    """Rows of equal keys to one target."""

    keys: Keys
    n_targets: int

    def __call__(self, frame: Any) -> np.ndarray:
        return (hash_rows(self.keys.of(frame)) % np.uint64(self.n_targets)).astype("int64")


def hashed(node: Node, columns: Sequence[Any] | None, npartitions: int) -> Node:
    """
    Rows with equal values in these columns, or with equal labels, in one partition; partitions of any such node of equal
    `npartitions` have the same keys. Rows keep the order in which they were within a partition.
    """
    if node.npartitions == npartitions == 1:
        return node
    keys = Keys(None if columns is None else tuple(columns))
    together = () if keys.columns is None else (Together(keys.columns, "hash", npartitions),)
    if together and together[0] in known_together(node):
        return node
    needed, counted = frozenset(keys.columns or ()), node.rows.counted_by is not None
    target_of, join = ByHash(keys, npartitions), partial(joined, counted)
    return Shuffle("shuffle", node, npartitions, target_of, join, needed=needed, together=together, counted=counted)


def ranged(
    node: Node,
    order: Order,
    npartitions: int,
    join: Callable[[list[Any]], Any],
    *,
    bounds: Node | pd.DataFrame | None = None,
    meta: Any = None,
    counted: bool = False,
) -> Node:
    """
    Partitions that are in order, of about equal length: equal keys are in one of them.

    Parameters
    ----------
    node : Node
    order : Order
    npartitions : int
    join : callable
        Makes a partition of a list of pieces.
    bounds : Node or DataFrame, optional
        The keys at which all partitions but the first begin. Default: found from samples.
    meta, counted
        See `Shuffle`.
    """
    columns = order.keys.columns
    if bounds is None:
        keys = node if columns is None else Project(node, list(columns))
        samples = Blockwise("sample", partial(sample, order, SAMPLE_ROWS), (keys,), meta=0)
        bounds = Reduce("bounds", samples, merge_samples, Quantiles(order, npartitions), 0)
    ascends = not order.nulls_first and all(order.ascending or (True,))
    how = f"range {bounds.token if isinstance(bounds, Node) else tokenize(bounds)}"
    together = () if columns is None else (Together(columns, how, npartitions, ascends),)
    given = isinstance(bounds, pd.DataFrame)
    return Shuffle(
        "sort", node, npartitions, partial(order.targets, bounds=bounds) if given else order.targets, join,
        needed=frozenset(columns or ()) if meta is None else None, bounds=None if given else bounds,
        together=together, meta=meta, counted=counted,
    )  # fmt: skip


def joined(forget_labels: bool, pieces: list[Any]) -> Any:
    """Pieces as one partition."""
    return steps.concat(pieces, forget_labels)


def sort_joined(order: Order, forget_labels: bool, pieces: list[Any]) -> Any:
    """Pieces as one partition in order."""
    rows = order.sorted(steps.concat(pieces))
    return rows.reset_index(drop=True) if forget_labels else rows


def gathered(node: Node) -> Node:
    """All rows in one partition, in order."""
    if node.npartitions == 1:
        return node
    return Gather("gather", node, steps.concat, steps.concat, node.meta)


def sorted_rows(node: Node, order: Order, *, npartitions: int | None = None, bounds: Any = None, counted: bool = False) -> Node:
    """The rows in order, in partitions of about equal length; with `counted`, numbered anew."""
    n, join = npartitions or node.npartitions, partial(sort_joined, order, counted)
    if node.npartitions == n == 1:
        return Gather("sort", node, steps.concat, join, node.meta)
    return ranged(node, order, n, join, bounds=bounds, counted=counted)


def with_home(node: Node) -> Node:
    """
    The frame with its columns numbered, and a last one that tells where each row lies; see `taken_home`.
    """
    inputs, rows = (node, Numbers(node.npartitions)), Rows(f"homes of {node.rows.origin}")
    return Blockwise("with_home", _add_home, inputs, meta=_add_home(node.meta, 0), rows=rows)


def _add_home(frame: pd.DataFrame, partition: int) -> pd.DataFrame:
    numbered = frame.set_axis(range(frame.shape[1]), axis=1)
    numbered[frame.shape[1]] = np.arange(len(frame), dtype="int64") + (partition << _HOME_BITS)
    return numbered


def taken_home(node: Node, of: Node, meta: Any, *, all_rows: bool = True) -> Node:
    """
    The rows of `node`, whose last column tells where they lay in `of`, there and in that order, like `meta`.

    With `all_rows`, no row is missing.
    """
    rows = of.rows if all_rows else replace(of.rows, whole=False)
    return Shuffle("back", node, of.npartitions, _home_of, partial(_join_home, meta), meta=meta, rows=rows)


def place_of(home: pd.Series) -> pd.Series:
    """The place of a row in the partition that it came from."""
    return home & ((1 << _HOME_BITS) - 1)


def _home_of(frame: pd.DataFrame) -> np.ndarray:
    return frame.iloc[:, -1].to_numpy() >> _HOME_BITS


def _join_home(meta: Any, pieces: list[pd.DataFrame]) -> Any:
    frame = steps.concat(pieces)
    frame = frame.take(np.argsort(frame.iloc[:, -1].to_numpy(), kind="stable"))
    if isinstance(meta, pd.Series):
        return frame.iloc[:, 0].rename(meta.name)
    return frame.iloc[:, :-1].set_axis(meta.columns, axis=1)

"""The nodes of a plan that look at several partitions, and `numbered`, which is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from parml.dataframe import steps
from parml.dataframe.plan import Blockwise, Columns, CountRows, Node, Numbers, Rows, listed, trimmed
from parml_core.hashing import tokenize
from parml_core.typing import Key


class Reduce(Node):
    """
    All partitions merged into one by a tree.

    Parameters
    ----------
    name : str
    node : Node
    combine, finish : callable
        Take a list of partitions, or of what `combine` returned, in order. `finish` is called last, once.
    meta : object
    """

    broadcast = True
    npartitions = 1

    def __init__(
        self, name: str, node: Node, combine: Callable[[list[Any]], Any], finish: Callable[[list[Any]], Any], meta: Any
    ) -> None:
        self.name, self.inputs, self.combine, self.finish, self.meta = name, (node,), combine, finish, meta
        self.rows = Rows(self.token)

    def _parameters(self) -> tuple[Any, ...]:
        return (self.combine, self.finish)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Reduce(self.name, inputs[0], self.combine, self.finish, self.meta)

    def describe(self) -> str:
        return f"{self.name} over all partitions"


class Select(Node):
    """Some of the partitions; no work of its own."""

    name = "partitions"

    def __init__(self, node: Node, indices: Sequence[int]) -> None:
        self.inputs, self.indices, self.meta, self.npartitions = (node,), tuple(indices), node.meta, len(indices)
        counted_by = node.rows.counted_by
        if counted_by is not None:
            counted_by = self if counted_by == node else Select(counted_by, indices)
        self.rows = replace(node.rows, origin=tokenize(node.rows.origin, self.indices), counted_by=counted_by)

    def _parameters(self) -> tuple[Any, ...]:
        return (self.indices,)

    def key(self, index: int) -> Key:
        return self.inputs[0].key(self.indices[index])

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted,)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Select(trimmed(inputs[0], wanted), self.indices)

    def describe(self) -> str:
        return f"partitions {listed(self.indices)}"


class Regroup(Node):
    """The same rows, in the same order, in another number of partitions."""

    name = "repartition"

    def __init__(self, node: Node, npartitions: int) -> None:
        self.inputs, self.meta, self.npartitions = (node,), node.meta, npartitions
        self.ignore_labels = node.rows.whole
        self.rows = Rows(self.token, self if self.ignore_labels else None, whole=self.ignore_labels)

    def _parameters(self) -> tuple[Any, ...]:
        return (self.npartitions, self.ignore_labels)

    def pieces(self) -> list[list[tuple[int, int, int]]]:
        """For each new partition what it is made of: (old partition, which piece, of how many)."""
        old, new = self.inputs[0].npartitions, self.npartitions
        if new <= old:
            bounds = [old * place // new for place in range(new + 1)]
            return [[(index, 0, 1) for index in range(*bounds[place : place + 2])] for place in range(new)]
        shares = [new // old + (index < new % old) for index in range(old)]
        return [[(index, piece, share)] for index, share in enumerate(shares) for piece in range(share)]

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted,)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Regroup(trimmed(inputs[0], wanted), self.npartitions)

    def describe(self) -> str:
        return f"repartition into {self.npartitions}"


def numbered(node: Node) -> Node:
    """The node with labels that are right once its partitions are computed and put together."""
    return node if node.rows.whole else labelled(node)


def labelled(node: Node) -> Node:
    """The node with labels that are right across partitions, where they are numbers that begin anew in each."""
    rows = node.rows
    if rows.counted_by is None or node.npartitions == 1:
        return node
    starts = Reduce("starts", CountRows(rows.counted_by), steps.listed, steps.running_starts, [0])
    inputs = (node, starts, Numbers(node.npartitions))
    return Blockwise("number_rows", steps.shift_labels, inputs, meta=node.meta, rows=Rows(f"numbered {rows.origin}"))

"""The node of a plan that carries something from each partition to the next: running totals, the last rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parml.dataframe import steps
from parml.dataframe.plan import Columns, Node, trimmed
from parml.primitives import chunk_key
from parml_core.graph import Ref, Task


class Scan(Node):
    """
    Partition i is what is kept of all partitions before it: a chain of small tasks, each of which sees the one before.

    Parameters
    ----------
    name : str
    node : Node
        What there is to keep of each partition: a frame or series of few rows.
    kept : callable
        What of several of these together, in order, is passed on.
    backward : bool
        Partition i is what is kept of all partitions after it.
    """

    def __init__(self, name: str, node: Node, kept: Callable[[Any], Any], *, backward: bool = False) -> None:
        self.name, self.inputs, self.kept, self.backward = name, (node,), kept, backward
        self.meta, self.npartitions, self.rows = node.meta, node.npartitions, node.rows

    def _parameters(self) -> tuple[Any, ...]:
        return (self.kept, self.backward)

    def tasks(self) -> list[Task]:
        """The chain."""
        order = list(range(self.npartitions))[:: -1 if self.backward else 1]
        chain = [Task(chunk_key(self.group, order[0]), steps.same, (self.meta,))]
        for index in order[:-1]:
            pair = (Ref(chain[-1].key), Ref(self.inputs[0].key(index)))
            step = steps.carry_back if self.backward else steps.carry_on
            chain.append(Task(self.key(index + (-1 if self.backward else 1)), step, (self.kept, *pair)))
        return chain

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted,)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Scan(self.name, trimmed(inputs[0], wanted), self.kept, backward=self.backward)

    def describe(self) -> str:
        return f"{self.name} of the partitions {'after' if self.backward else 'before'}"

"""
From plans to one Graph.

`optimise` walks from the results to the readers, collecting which columns and rows of each node are needed, and back,
rebuilding the nodes with no more than that. Steps that several results need are one node, as equal nodes have equal tokens.
`lower` then runs each chain of blockwise steps, from reading on, as one task per partition; what two tasks need is a task of
its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from parml.dataframe import steps
from parml.dataframe.plan import NO_COLUMNS, Blockwise, Chunks, Columns, Input, Kept, Node, Source, columns_of
from parml.dataframe.plan_across import Reduce, Regroup
from parml.dataframe.plan_scan import Scan
from parml.dataframe.plan_shuffle import Shuffle
from parml.dataframe.predicate import EVERYTHING
from parml.dataframe.pushdown import known_counts, row_conditions
from parml.drawing import Drawing
from parml.primitives import chunk_key, map_blocks, shuffle, tree_reduce
from parml_core.engine.base import Future
from parml_core.graph import Graph, Ref, Task
from parml_core.typing import Key


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots are made of, once, inputs before those that use them."""
    order: dict[Node, None] = {}
    stack = [(root, False) for root in roots][::-1]
    while stack:
        node, ready = stack.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
        else:
            stack.append((node, True))
            stack.extend((node, False) for node in reversed(node.inputs))
    return list(order)


def optimise(roots: Sequence[Node]) -> list[Node]:
    """Equal plans that read and carry only the columns that the roots need, and leave out rows that no filter lets through."""
    order = topological(roots)
    counts = known_counts(order)
    conditions = row_conditions(order, roots, counts)
    wanted: dict[Node, Columns] = {root: columns_of(root) for root in roots}
    for node in reversed(order):
        if node in wanted:
            for below, columns in zip(node.inputs, node.needs(wanted[node]), strict=True):
                if columns is not None:
                    wanted[below] = wanted.get(below, NO_COLUMNS) | columns
    made: dict[Node, Node] = {}
    for node in order:
        if node in counts:
            made[node] = counts[node]
        elif isinstance(node, Source) and node in wanted:
            made[node] = node.narrowed((), wanted[node]).where(conditions.get(node, EVERYTHING))
        elif node in wanted:
            made[node] = node.narrowed(tuple(made.get(below, below) for below in node.inputs), wanted[node])
    return [made[root] for root in roots]


def lower(roots: Sequence[Node]) -> Graph:
    """The tasks of all partitions of the roots: ``root.key(i)`` for each."""
    order = topological(roots)
    heads = _heads(order, set(roots))
    members: dict[Node, list[Node]] = {}
    for node in order:
        members.setdefault(heads[node], []).append(node)
    tasks: list[Task] = []
    futures: dict[Key, Future[Any]] = {}
    others: list[Graph] = []
    for node, inside in members.items():
        if isinstance(node, Blockwise | Source):
            tasks += _fused(node, inside)
        elif isinstance(node, Reduce):
            tasks += tree_reduce(node.group, _keys(node.inputs[0]), node.combine, node.finish)
        elif isinstance(node, Regroup):
            tasks += _regrouped(node)
        elif isinstance(node, Scan):
            tasks += node.tasks()
        elif isinstance(node, Shuffle):
            bounds = [Ref(bound.key(0)) for bound in node.inputs[1:]]
            tasks += shuffle(node.group, _keys(node.inputs[0]), node.npartitions, node.target_of, node.join, *bounds)
        elif isinstance(node, Kept):
            futures.update((future.key, future) for future in node.futures)
        elif isinstance(node, Chunks):
            others += [collection.__parml_graph__() for collection in node.collections]
    graph = Graph(tasks, futures)
    return Graph.merge([graph, *others]) if others else graph


def _heads(order: Sequence[Node], roots: set[Node]) -> dict[Node, Node]:
    """For each node the one in whose tasks it is computed: itself, or the only one that needs it."""
    heads: dict[Node, Node] = {}
    users: dict[Node, list[Node]] = {node: [] for node in order}
    for node in order:
        for below in node.inputs:
            users[below].append(node)
    for node in reversed(order):
        above = {heads[user] if _fits_into(node, user) else None for user in users[node]}
        only = above.pop() if len(above) == 1 and node not in roots else None
        heads[node] = node if only is None else only
    return heads


def _fits_into(node: Node, user: Node) -> bool:
    return isinstance(user, Blockwise) and isinstance(node, Blockwise | Source) and node.broadcast == user.broadcast


def _fused(head: Node, members: Sequence[Node]) -> list[Task]:
    """One task for each partition of `head`, running all members."""
    inside = set(members)
    columns: list[Any] = []
    places: dict[Node, int] = {}
    argument_of: dict[Node, int] = {}
    for node in members:
        if isinstance(node, Source):
            argument_of[node] = len(columns)
            columns.append([node.reader.argument(part) for part in node.parts])
        for below in node.inputs:
            if below not in inside and below not in places:
                places[below] = len(columns)
                columns.append(_refs(below) if below.npartitions == head.npartitions else _refs(below) * head.npartitions)
    program: list[Step] = []
    for place, node in enumerate(members, len(columns)):
        if isinstance(node, Source):
            program.append(Step(node.reader.load, (Input(argument_of[node]),), {}))
        elif isinstance(node, Blockwise):
            program.append(Step(node.fn, *node.filled([Input(places[below]) for below in node.inputs])))
        places[node] = place
    return map_blocks(head.group, Program(program), *columns)


def _refs(node: Node) -> list[Ref]:
    return [Ref(key) for key in _keys(node)]


def _keys(node: Node) -> list[Key]:
    return [node.key(index) for index in range(node.npartitions)]


def _regrouped(node: Regroup) -> list[Task]:
    below = node.inputs[0]
    return [
        Task(
            chunk_key(node.group, place),
            steps.join_pieces,
            ([(Ref(below.key(index)), piece, of) for index, piece, of in pieces], node.ignore_labels),
        )
        for place, pieces in enumerate(node.pieces())
    ]


class Step:
    """One call of a program; `Input` numbers its inputs first and the results of the steps after them."""

    __slots__ = ("args", "fn", "kwargs")

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs


class Program:
    """Several steps as one function: the task of a fused chain. The last step's result is the program's."""

    def __init__(self, program: Sequence[Step]) -> None:
        self.steps = tuple(program)
        last_use: dict[int, int] = {}
        for number, step in enumerate(program):
            for arg in (*step.args, *step.kwargs.values()):
                if type(arg) is Input:
                    last_use[arg.place] = number
        self._over = [[place for place, last in last_use.items() if last == number] for number in range(len(program))]

    def __call__(self, *inputs: Any) -> Any:
        values: list[Any] = list(inputs)
        for step, over in zip(self.steps, self._over, strict=True):
            args = [values[arg.place] if type(arg) is Input else arg for arg in step.args]
            kwargs = {name: values[arg.place] if type(arg) is Input else arg for name, arg in step.kwargs.items()}
            values.append(step.fn(*args, **kwargs))
            for place in over:
                values[place] = None  # a partition that nobody needs any more shall not fill the memory
        return values[-1]

    def __repr__(self) -> str:
        return " → ".join(getattr(step.fn, "__name__", type(step.fn).__name__) for step in self.steps)


def explain(roots: Sequence[Node]) -> str:
    """The optimised plan as a tree; a step that is used twice is shown once and referred to by its number."""
    return drawing(roots, sys.maxsize).text


def drawing(roots: Sequence[Node], most: int) -> Drawing:
    """The optimised plan, from the results down to what is read."""
    return Drawing(roots, lambda node: node.inputs, lambda node: node.describe(), most)

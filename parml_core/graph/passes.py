"""Passes: a graph in, a graph with the same results out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from parml_core.graph.graph import Graph
from parml_core.graph.task import Ref, Task, run
from parml_core.typing import Key

__all__ = ["cull", "fuse"]


def cull(graph: Graph, wants: Iterable[Key]) -> Graph:
    """
    The part of a graph that the wanted keys need.

    Parameters
    ----------
    graph : Graph
    wants : iterable of str

    Returns
    -------
    Graph
        Tasks in topological order, and the futures that they or `wants` name.

    Raises
    ------
    MissingKeyError, CycleError
    TypeError
        `graph` is something else.

    Examples
    --------
    >>> from parml_core.graph import Graph, Task, Ref
    >>> sorted(cull(Graph([Task("a", int), Task("b", abs, (Ref("a"),)), Task("c", int)]), ["b"]))
    ['a', 'b']
    """
    if not isinstance(graph, Graph):
        raise TypeError(
            f"expected a parml_core.graph.Graph, found a {type(graph).__name__}; make one: Graph([Task(key, fn, args), …])"
        )
    wants = list(wants)
    tasks = {key: graph[key] for key in graph.topological(wants)}
    if not graph.futures:
        return Graph(tasks)
    named = {dep for task in tasks.values() for dep in task.deps}.union(wants)
    return Graph(tasks, {key: future for key, future in graph.futures.items() if key in named})


def fuse(graph: Graph, keep: Iterable[Key] = ()) -> Graph:
    """
    Make one task of each linear chain, so that its steps cost one task and its intermediate results are never stored.

    A task joins the one it needs where that is the only one it needs, nothing else refers to that one, that one is not in
    `keep`, and both have equal hints. The last task of the chain gives its key; the other keys vanish.

    Parameters
    ----------
    graph : Graph
    keep : iterable of str
        Keys that must stay: those that are wanted.

    Returns
    -------
    Graph

    Examples
    --------
    >>> from parml_core.graph import Graph, Task, Ref, evaluate
    >>> graph = Graph([Task("a", int, ("-3",)), Task("b", abs, (Ref("a"),)), Task("c", pow, (Ref("b"), 2))])
    >>> fused = fuse(graph, ["c"])
    >>> list(fused), evaluate(fused, ["c"])
    (['c'], [9])
    """
    kept = set(keep)
    users: dict[Key, int] = {}
    for task in graph.values():
        for dep in task.deps:
            users[dep] = users.get(dep, 0) + 1
    chains: dict[Key, list[Task]] = {}
    for key in graph.topological():
        task = graph[key]
        needed = [dep for dep in task.deps if dep in graph]
        before = needed[0] if len(needed) == 1 else None
        if before is not None and users[before] == 1 and before not in kept and graph[before].hints == task.hints:
            chain = chains.pop(before)
            chain.append(task)
        else:
            chain = [task]
        chains[key] = chain
    return Graph({key: chain[0] if len(chain) == 1 else _fused(chain) for key, chain in chains.items()}, graph.futures)


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One call of a chain. `deps` are the names under which its Refs find values."""

    key: Key
    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deps: tuple[Key, ...]


class Chain:
    """
    The steps of a fused task, opaque to whoever looks for Refs: those inside are about the chain's own results.

    The steps stand among the arguments, and `run_chain` is the function of every fused task, so that it is sent once.
    """

    __slots__ = ("inputs", "steps")

    def __init__(self, steps: tuple[Step, ...], inputs: tuple[Key, ...]) -> None:
        self.steps = steps
        self.inputs = inputs

    def __reduce__(self) -> Any:
        return Chain, (self.steps, self.inputs)


def run_chain(chain: Chain, *inputs: Any) -> Any:
    """Run the steps one after the other, each with the result of the one before and the chain's inputs."""
    given = dict(zip(chain.inputs, inputs, strict=True))
    before: dict[Key, Any] = {}
    for step in chain.steps:
        before = {step.key: run(step.fn, step.args, step.kwargs, step.deps, {**given, **before})}
    return before[chain.steps[-1].key]


def _fused(chain: list[Task]) -> Task:
    own = {task.key for task in chain}
    inputs = tuple(dict.fromkeys(dep for task in chain for dep in task.deps if dep not in own))
    steps = tuple(Step(task.key, task.fn, task.args, dict(task.kwargs), task.deps) for task in chain)
    return Task(chain[-1].key, run_chain, (Chain(steps, inputs), *map(Ref, inputs)), hints=chain[-1].hints)

"""
What a graph means. Every engine is tested to give what `evaluate` gives.

A task is called once, after all tasks it refers to, with their results in the place of its Refs. An exception ends the
evaluation. Nothing else is part of the meaning: no engine promises an order between tasks that do not refer to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from parml_core.graph.graph import Graph
from parml_core.graph.task import run
from parml_core.typing import Key


def evaluate(graph: Graph, wants: Iterable[Key], known: Mapping[Key, Any] | None = None) -> list[Any]:
    """
    Results of the wanted keys.

    Parameters
    ----------
    graph : Graph
    wants : iterable of str
    known : mapping of str to object, optional
        Results of keys that need no evaluation, those of the graph's futures among them.

    Returns
    -------
    list
        One result for each wanted key, in that order.

    Raises
    ------
    MissingKeyError, CycleError
        The graph cannot be evaluated.

    Examples
    --------
    >>> from parml_core.graph import Graph, Task, Ref
    >>> evaluate(Graph([Task("a", int, ("3",)), Task("b", pow, (Ref("a"), 2))]), ["b", "a"])
    [9, 3]
    """
    wants = list(wants)
    results: dict[Key, Any] = dict(known) if known else {}
    for key, future in graph.futures.items():
        if key not in results:
            results[key] = future.result()
    for key in graph.topological(wants):
        if key not in results:
            task = graph[key]
            results[key] = run(task.fn, task.args, task.kwargs, task.deps, results)
    return [results[key] for key in wants]

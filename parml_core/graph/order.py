"""
In which order to run tasks so that few results are alive at a time.

The rule: go depth first from each final task in turn, in the order of the graph; at each task visit the dependency that needs
most results alive at once first (Sethi and Ullman's number), for what is visited later waits in memory while it runs. And
whenever a task has run after which one of its inputs has one user left, and that user has all it needs, that user follows at
once: it frees the input.
"""

from __future__ import annotations

from parml_core.graph.graph import Graph
from parml_core.typing import Key

__all__ = ["order"]


def order(graph: Graph) -> dict[Key, int]:
    """
    The position of each task, 0 first. Dependencies stand before dependants; equal graphs give equal orders; linear time.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    dict of str to int

    Raises
    ------
    MissingKeyError, CycleError

    Examples
    --------
    >>> from parml_core.graph import Graph, Task, Ref
    >>> g = Graph([Task("x", int), Task("y", int), Task("x2", abs, (Ref("x"),)), Task("y2", abs, (Ref("y"),))])
    >>> sorted(g, key=order(g).get)
    ['x', 'x2', 'y', 'y2']
    """
    keys = graph.topological()
    index = {key: i for i, key in enumerate(keys)}
    deps = [[index[dep] for dep in graph[key].deps if dep in index] for key in keys]
    _heaviest_first(deps)
    return {keys[i]: position for position, i in enumerate(_depth_first(deps))}


def _heaviest_first(deps: list[list[int]]) -> None:
    """Sort the dependencies of each task by how many results are alive at most while they are computed, largest first."""
    alive: list[int] = []
    for own in deps:
        if not own:
            alive.append(1)
            continue
        own.sort(key=alive.__getitem__, reverse=True)
        alive.append(max(len(own) + 1, *[alive[dep] + done for done, dep in enumerate(own)]))


def _depth_first(deps: list[list[int]]) -> list[int]:
    users: list[list[int]] = [[] for _ in deps]
    for i, own in enumerate(deps):
        for dep in own:
            users[dep].append(i)
    missing = [len(own) for own in deps]  # dependencies that have not run
    left = [len(own) for own in users]  # users that have not run
    last = [sum(own) for own in users]  # their sum: the user itself once one is left
    ran = bytearray(len(deps))
    result: list[int] = []

    def run(i: int) -> None:
        follow = [i]
        while follow:
            i = follow.pop()
            if ran[i]:
                continue
            ran[i] = 1
            result.append(i)
            for user in users[i]:
                missing[user] -= 1
            for dep in deps[i]:
                left[dep] -= 1
                last[dep] -= i
                if left[dep] == 1 and not missing[last[dep]]:
                    follow.append(last[dep])
            if left[i] == 1 and not missing[last[i]]:
                follow.append(last[i])

    unvisited = [iter(own) for own in deps]
    for final in range(len(deps)):
        if users[final] or ran[final]:
            continue
        path = [final]
        while path:
            i = path[-1]
            if not missing[i]:
                run(path.pop())
                continue
            path.append(next(dep for dep in unvisited[i] if not ran[dep]))
    return result

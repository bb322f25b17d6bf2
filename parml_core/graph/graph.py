"""Graph: tasks by key, and the futures that some of them refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parml_core.errors import CycleError, GraphError, MissingKeyError
from parml_core.graph.task import Task
from parml_core.typing import Key

_LONGEST_CYCLE_SHOWN = 16


class Graph(Mapping[Key, Task]):
    """
    An immutable mapping of key to Task.

    Parameters
    ----------
    tasks : iterable of Task, or mapping of key to Task
    futures : mapping of key to Future
        Results that already exist (or are being computed) on the engine that will run the graph. Tasks refer to them by
        ``Ref(key)`` like to any other.

    Examples
    --------
    >>> from parml_core.graph import Graph, Task, Ref
    >>> g = Graph([Task("a", int, ("3",)), Task("b", abs, (Ref("a"),))])
    >>> sorted(g), g["b"].deps
    (['a', 'b'], ('a',))
    """

    __slots__ = ("_tasks", "futures")

    def __init__(self, tasks: Iterable[Task] | Mapping[Key, Task] = (), futures: Mapping[Key, Any] | None = None) -> None:
        if isinstance(tasks, Mapping):
            self._tasks: dict[Key, Task] = dict(tasks)
        else:
            self._tasks = {}
            for task in tasks:
                if task.key in self._tasks:
                    raise GraphError(
                        f"expected one task for each key, found two named {task.key!r}; give one of them another key"
                    )
                self._tasks[task.key] = task
        self.futures: dict[Key, Any] = dict(futures) if futures else {}

    def __getitem__(self, key: Key) -> Task:
        return self._tasks[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: object) -> bool:
        return key in self._tasks

    def __repr__(self) -> str:
        return f"Graph({len(self._tasks)} tasks, {len(self.futures)} futures)"

    def __reduce__(self) -> Any:
        return Graph, (self._tasks, self.futures)

    @staticmethod
    def merge(graphs: Iterable[Graph]) -> Graph:
        """All tasks and futures of several graphs. Equal keys stand for equal work, so either task serves."""
        tasks: dict[Key, Task] = {}
        futures: dict[Key, Any] = {}
        for graph in graphs:
            tasks.update(graph._tasks)
            futures.update(graph.futures)
        return Graph(tasks, futures)

    def add(self, tasks: Iterable[Task]) -> Graph:
        """This graph and more tasks."""
        return Graph.merge([self, Graph(tasks)])

    def topological(self, wants: Iterable[Key] | None = None) -> list[Key]:
        """
        Keys of the tasks that `wants` need, dependencies before dependants.

        Parameters
        ----------
        wants : iterable of str, optional
            Default: every task.

        Returns
        -------
        list of str
            Without the keys of futures.

        Raises
        ------
        MissingKeyError
            A wanted key or a dependency is neither a task nor a future of this graph.
        CycleError
            Tasks wait for each other.
        """
        order: list[Key] = []
        done: set[Key] = set()
        path: list[tuple[Key, Iterator[Key]]] = []  # from a wanted key down to the one being looked at
        on_path: set[Key] = set()

        def enter(key: Key) -> None:
            path.append((key, iter(self._tasks[key].deps)))
            on_path.add(key)

        for root in self._tasks if wants is None else wants:
            if root in done:
                continue
            if root not in self._tasks:
                if root in self.futures:
                    continue
                raise MissingKeyError(f"expected {root!r} to be a task of the graph, found no task or future of that name")
            enter(root)
            while path:
                key, deps = path[-1]
                for dep in deps:
                    if dep in done:
                        continue
                    if dep in on_path:
                        raise _cycle_error([name for name, _ in path], dep)
                    if dep in self._tasks:
                        enter(dep)
                        break
                    if dep not in self.futures:
                        raise MissingKeyError(
                            f"expected a task or future named {dep!r}, which task {key!r} refers to, found none; "
                            "add that task to the graph or pass its future"
                        )
                else:
                    path.pop()
                    on_path.remove(key)
                    done.add(key)
                    order.append(key)
        return order


def _cycle_error(path: list[Key], dep: Key) -> CycleError:
    cycle = [*path[path.index(dep) :], dep]
    if len(cycle) > _LONGEST_CYCLE_SHOWN:
        cycle = [*cycle[: _LONGEST_CYCLE_SHOWN // 2], "…", *cycle[-_LONGEST_CYCLE_SHOWN // 2 :]]
    return CycleError(f"expected a graph without cycles, found {' → '.join(cycle)}; remove one of these Refs")

"""
What a chunked collection is, and the two things that can be done with any: `compute` and `persist`.

Anything with the methods of `Collection` is one. They are looked up on the type, so an object that answers to every
attribute name is not taken for a collection by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

from parml_core.engine.base import Engine, Future
from parml_core.engine.registry import resolve
from parml_core.graph import Graph
from parml_core.graph.passes import cull, fuse
from parml_core.typing import Key


@runtime_checkable
class Collection(Protocol):
    """
    A value that is made of chunks, each the result of a task.

    A collection whose graph may become better when it is built together with others of its kind has a static method
    ``__parml_together__(collections) -> collections`` besides.
    """

    def __parml_graph__(self) -> Graph:
        """All tasks that the chunks need."""

    def __parml_keys__(self) -> list[Key]:
        """The keys of the chunks, in order."""

    @property
    def __parml_finish__(self) -> Callable[[list[Any]], Any]:
        """Makes the value from the results of the chunks; a method, or a callable that can travel without the collection."""

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Any:
        """The same collection, with one future in the place of each chunk's tasks."""

    def __parml_token__(self) -> str:
        """Equal for collections that stand for equal work."""


def is_collection(value: object) -> TypeGuard[Collection]:
    """
    Whether `value` is made of chunks.

    Examples
    --------
    >>> from parml import delayed
    >>> is_collection(delayed(abs)(-1)), is_collection([1])
    (True, False)
    """
    return hasattr(type(value), "__parml_keys__")


def compute(*values: Any, engine: Engine | None = None) -> tuple[Any, ...]:
    """
    Values with every collection in them replaced by its result; work that they share is done once.

    Parameters
    ----------
    *values : object
        Collections, or lists, tuples and dicts that hold some at any depth. All else is returned as it is.
    engine : Engine, optional
        Where to compute. Default: the current Client, without one the threads of this process.

    Returns
    -------
    tuple
        One item for each value.

    Examples
    --------
    >>> from parml import compute, delayed
    >>> one = delayed(int)("1")
    >>> compute(one, {"two": one + 1, "list": [one, 5]})
    (1, {'two': 2, 'list': [1, 5]})
    """
    found = list(_collections_in(values))
    if not found:
        return values
    engine = resolve(engine)
    planned = _planned_together(found)
    groups = [collection.__parml_keys__() for collection in planned]
    futures = _submit(planned, groups, engine)
    results = dict(zip(futures, engine.gather(list(futures.values())), strict=True))
    done = {
        id(collection): plan.__parml_finish__([results[key] for key in keys])
        for collection, plan, keys in zip(found, planned, groups, strict=True)
    }
    return _replaced(values, done)


def persist(*values: Any, engine: Engine | None = None) -> tuple[Any, ...]:
    """
    Start computing collections and return at once with collections of the same kind, whose chunks stay on the engine.

    Parameters
    ----------
    *values : object
        Collections, or lists, tuples and dicts that hold some. All else is returned as it is.
    engine : Engine, optional
        Default: the current Client, without one the threads of this process.

    Returns
    -------
    tuple
        One item for each value.

    Examples
    --------
    >>> from parml import delayed, persist
    >>> (one,) = persist(delayed(int)("1"))
    >>> (one + 1).compute()
    2
    """
    found = list(_collections_in(values))
    if not found:
        return values
    engine = resolve(engine)
    planned = _planned_together(found)
    groups = [collection.__parml_keys__() for collection in planned]
    futures = _submit(planned, groups, engine)
    kept = {
        id(collection): plan.__parml_persisted__([futures[key] for key in keys])
        for collection, plan, keys in zip(found, planned, groups, strict=True)
    }
    return _replaced(values, kept)


def _collections_in(value: Any) -> list[Collection]:
    """Every collection in lists, tuples and dict values, each object once."""
    found: dict[int, Collection] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if is_collection(item):
            found[id(item)] = item
        elif type(item) is list or type(item) is tuple:
            stack.extend(reversed(item))
        elif type(item) is dict:
            stack.extend(reversed(item.values()))
    return list(found.values())


def _replaced(value: Any, by_id: Mapping[int, Any]) -> Any:
    if id(value) in by_id:
        return by_id[id(value)]
    if type(value) is list or type(value) is tuple:
        return type(value)(_replaced(item, by_id) for item in value)
    if type(value) is dict:
        return {name: _replaced(item, by_id) for name, item in value.items()}
    return value


def _planned_together(collections: Sequence[Collection]) -> list[Any]:
    """The same collections, those of a kind planned as one."""
    kinds: dict[Any, list[int]] = {}
    planned: list[Any] = list(collections)
    for place, collection in enumerate(collections):
        together = getattr(type(collection), "__parml_together__", None)
        if together is not None:
            kinds.setdefault(together, []).append(place)
    for together, places in kinds.items():
        for place, plan in zip(places, together([collections[place] for place in places]), strict=True):
            planned[place] = plan
    return planned


def graph_of(*collections: Collection) -> tuple[Graph, list[list[Key]]]:
    """
    All tasks of several collections, planned together, and the keys of each.

    Examples
    --------
    >>> from parml import delayed
    >>> one = delayed(int)("1")
    >>> graph, groups = graph_of(one, one + 1)
    >>> len(graph), [len(keys) for keys in groups]
    (2, [1, 1])
    """
    planned = _planned_together(collections)
    return _merged(planned), [collection.__parml_keys__() for collection in planned]


def _merged(collections: Sequence[Collection]) -> Graph:
    graphs = [collection.__parml_graph__() for collection in collections]
    return Graph.merge({id(graph): graph for graph in graphs}.values())  # those planned together share one


def _submit(collections: Sequence[Collection], groups: Sequence[Sequence[Key]], engine: Engine) -> dict[Key, Future[Any]]:
    """One future for each different key."""
    graph = _merged(collections)
    futures = {key: graph.futures[key] for keys in groups for key in keys if key in graph.futures and key not in graph}
    wants = list(dict.fromkeys(key for keys in groups for key in keys if key not in futures))
    if wants:
        graph = fuse(cull(graph, wants), wants)
        futures.update(zip(wants, engine.submit_graph(graph, wants), strict=True))
    return futures

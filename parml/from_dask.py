"""
Dask's arrays and dataframes as collections of parml: the tasks of their graph are run by the engine, not by Dask.

Known by protocol, so dask is imported only where an object of it is already there. A node of Dask's graph becomes a task, so
that what several partitions need is computed once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from parml.tables import concatenate, library_of
from parml_core.engine.base import Future
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.typing import Key

__all__ = ["DaskPartitions", "as_collection"]


def as_collection(value: Any) -> Any:
    """
    A Dask collection as one of parml; everything else as it is.

    Examples
    --------
    >>> as_collection([1, 2])
    [1, 2]
    """
    return DaskPartitions.of(value) if hasattr(type(value), "__dask_keys__") else value


class DaskPartitions:
    """
    The rows of a Dask array or dataframe: one partition for each of its partitions, or for each chunk of rows.

    Parameters
    ----------
    graph : Graph
    keys : sequence of str
    """

    def __init__(self, graph: Graph, keys: Sequence[Key]) -> None:
        self._graph = graph
        self._keys = list(keys)

    @classmethod
    def of(cls, value: Any) -> DaskPartitions:
        """The same rows, with Dask's own optimisations made."""
        value = _optimised(value)
        nodes, wanted = dict(value.__dask_graph__()), value.__dask_keys__()
        if any(library_of(getattr(node, "value", node)) == "distributed" for node in nodes.values()):
            raise InputError(
                "expected a Dask collection that is not computed yet, found one that a dask.distributed cluster holds; pass it "
                "before its persist(), or write it to files for parml.dataframe.read_parquet"
            )
        readable = _readable(nodes)
        if readable is not None:
            tasks = [_task_of(key, node) for key, node in readable.items()]
        else:  # nobody but Dask itself can read it
            tasks = [Task(_name(key), _get, (_Graph(nodes), key)) for keys in wanted for key in _flat(keys)]
        ends = []
        for keys in wanted:
            blocks = list(_flat(keys))
            ends.append(_name(blocks[0]))
            if len(blocks) > 1:  # an array that is cut into columns as well
                ends[-1] = f"{_name(blocks[0])},row"
                tasks.append(Task(ends[-1], _side_by_side, ([Ref(_name(key)) for key in blocks],)))
        return cls(Graph(tasks), ends)

    def __parml_graph__(self) -> Graph:
        return self._graph

    def __parml_keys__(self) -> list[Key]:
        return self._keys

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        return concatenate(results)

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> DaskPartitions:
        keys = [future.key for future in futures]
        return DaskPartitions(Graph((), dict(zip(keys, futures, strict=True))), keys)

    def __parml_token__(self) -> str:
        return ";".join(self._keys)

    def __repr__(self) -> str:
        return f"DaskPartitions({len(self._keys)} partitions)"


def _optimised(value: Any) -> Any:
    if hasattr(type(value), "optimize"):  # a dataframe: dask.optimize is about graphs, and this about the query
        return value.optimize()
    from dask.base import optimize

    return optimize(value)[0]


def _readable(nodes: Mapping[Hashable, Any]) -> Mapping[Hashable, Any] | None:
    """The nodes, each callable with what it depends on; None where this Dask has only tuples, its older form."""
    if all(callable(node) and hasattr(node, "dependencies") for node in nodes.values()):
        return nodes
    try:
        from dask._task_spec import convert_legacy_graph
    except ImportError:
        return None
    found: Mapping[Hashable, Any] = convert_legacy_graph(nodes)
    return found


class _Graph:
    """Opaque to whoever looks for Refs."""

    def __init__(self, nodes: Mapping[Hashable, Any]) -> None:
        self.nodes = nodes


def _task_of(key: Hashable, node: Any) -> Task:
    return Task(_name(key), _run, (node, {dep: Ref(_name(dep)) for dep in node.dependencies}))


def _run(node: Any, values: dict[Hashable, Any]) -> Any:
    return node(values)


def _get(graph: _Graph, key: Any) -> Any:
    from dask.local import get_sync

    return get_sync(graph.nodes, key)


def _name(key: Any) -> Key:
    """Dask's ``("array-3f9c", 0, 1)`` is parml's ``"dask-array-3f9c:0,1"``."""
    if isinstance(key, tuple):
        return f"dask-{key[0]}:{','.join(map(str, key[1:]))}"
    return f"dask-{key}"


def _flat(keys: Any) -> Any:
    """The keys in nested lists, in order; a key itself may be a tuple."""
    if not isinstance(keys, list):
        yield keys
        return
    for item in keys:
        yield from _flat(item)


def _side_by_side(blocks: list[Any]) -> Any:
    if library_of(blocks[0]) == "scipy":
        import scipy.sparse as ss

        return ss.hstack(blocks, format="csr")
    import numpy as np

    return np.concatenate(blocks, axis=1)

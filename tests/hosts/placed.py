"""Collections whose partitions lie where a test wants them, and ones that can be made again anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from parml_core.engine.base import Engine, Future
from parml_core.graph import Graph, Hints, Task
from parml_core.hashing import tokenize


class Parts:
    """Rows of `value` in runs that end at `edges`."""

    def __init__(self, value: Any, edges: Sequence[int]) -> None:
        token = tokenize(value, list(edges))
        parts = [value[start:stop] for start, stop in pairwise([0, *edges])]
        self._graph = Graph([Task(f"part-{token}:{i}", _same, ([part],)) for i, part in enumerate(parts)])
        self._keys = [f"part-{token}:{i}" for i in range(len(parts))]

    def __parml_graph__(self) -> Graph:
        return self._graph

    def __parml_keys__(self) -> list[str]:
        return self._keys

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        return results

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Parts:
        kept = object.__new__(Parts)
        kept._keys = [future.key for future in futures]
        kept._graph = Graph((), dict(zip(kept._keys, futures, strict=True)))
        return kept

    def __parml_token__(self) -> str:
        return str(self._keys)


class Placed:
    """
    Rows of `value` in partitions between `edges`, each on a worker.

    Parameters
    ----------
    engine : Engine
    value : array or table
    edges : sequence of int
        The first is 0; two that are equal make a partition without rows.
    workers : sequence of str
        Their ids, taken in turns.
    """

    def __init__(self, engine: Engine, value: Any, edges: Sequence[int], workers: Sequence[str]) -> None:
        self.futures = [
            engine.submit(_same, [value[start:stop]], hints=Hints(where=(workers[i % len(workers)],)))
            for i, (start, stop) in enumerate(pairwise(edges))
        ]

    def __parml_graph__(self) -> Graph:
        return Graph((), {future.key: future for future in self.futures})

    def __parml_keys__(self) -> list[str]:
        return [future.key for future in self.futures]

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        return results

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Placed:
        return self

    def __parml_token__(self) -> str:
        return str(self.__parml_keys__())


def _same(box: list[Any]) -> Any:
    return box[0]

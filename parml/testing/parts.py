"""Rows in partitions as a collection by protocol alone: what takes it takes any collection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from parml.tables import concatenate, row_count, slice_rows
from parml_core.engine.base import Future
from parml_core.graph import Graph, Task
from parml_core.hashing import tokenize
from parml_core.typing import Key

__all__ = ["Parts", "cut", "cut_evenly"]


class Parts:
    """
    A collection whose partitions are given.

    Parameters
    ----------
    *parts : arrays, tables or sequences

    Examples
    --------
    >>> from parml import compute
    >>> import numpy as np
    >>> compute(Parts(np.array([1, 2]), np.array([3])))
    (array([1, 2, 3]),)
    """

    def __init__(self, *parts: Any) -> None:
        token = tokenize("Parts", *parts)
        self.keys = [f"part-{token}:{i}" for i in range(len(parts))]
        self.graph = Graph([Task(key, _give, ([part],)) for key, part in zip(self.keys, parts, strict=True)])

    def __parml_graph__(self) -> Graph:
        return self.graph

    def __parml_keys__(self) -> list[Key]:
        return self.keys

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        return concatenate(results)

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Parts:
        kept = Parts()
        kept.keys = [future.key for future in futures]
        kept.graph = Graph((), dict(zip(kept.keys, futures, strict=True)))
        return kept

    def __parml_token__(self) -> str:
        return tokenize(*self.keys)


def _give(box: list[Any]) -> Any:
    return box[0]


def cut(value: Any, *edges: int) -> Parts:
    """
    The rows of `value` in partitions that end at `edges`, and one with those that are left.

    Examples
    --------
    >>> len(cut([1, 2, 3, 4, 5], 2, 2).keys)
    3
    """
    return Parts(*(slice_rows(value, start, stop) for start, stop in pairwise([0, *edges, row_count(value)])))


def cut_evenly(value: Any, n: int = 3) -> Parts:
    """
    The rows of `value` in `n` partitions, and a second one without rows, which changes nothing.

    Examples
    --------
    >>> len(cut_evenly([1, 2, 3, 4, 5], 2).keys)
    3
    """
    rows = row_count(value)
    first, *others = [round(i * rows / n) for i in range(1, n + 1)]
    return cut(value, *[first, first, *others][:n])

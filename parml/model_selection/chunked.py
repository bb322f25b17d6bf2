"""
Rows in partitions as the X of a search: scikit-learn counts them and takes rows of them, and nobody ever joins them.

Labels, weights and groups, a number for each row, come to the caller, who needs them to split and to score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from itertools import pairwise
from typing import Any

import numpy as np

from parml.collections import compute, graph_of, is_collection, persist
from parml.data import PartitionedArray
from parml.from_dask import as_collection
from parml.tables import row_count, slice_rows, take_rows
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.hashing import tokenize
from parml_core.typing import Key

__all__ = ["Answered", "ChunkedRows", "laid_out", "trains_on_engine"]


def trains_on_engine(estimator: Any) -> bool:
    """Whether the estimator itself brings its training to the engine's workers, and takes collections."""
    return bool(getattr(type(estimator), "__parml_trains_on_engine__", False))


def laid_out(engine: Engine, estimator: Any, X: Any, y: Any, params: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """
    What scikit-learn's functions get for collections among the data: `ChunkedRows` for X, and all else in memory.

    Raises
    ------
    InputError
        X is a collection, and the estimator cannot train on one.
    """
    X, y, fields = as_collection(X), as_collection(y), {name: as_collection(value) for name, value in params.items()}
    if is_collection(X) and not trains_on_engine(estimator):
        raise InputError(
            "expected an estimator that trains on partitions where X is a collection, as those of parml.xgboost and "
            f"parml.lightgbm do, found {estimator!r:.200}; use one of them, or fetch the rows where they fit into one process: "
            "X, y = parml.compute(X, y); for an estimator with partial_fit there is IncrementalSearchCV"
        )
    X, y, fields = persist(X, y, fields, engine=engine)  # together: they may come from the same files
    y, fields = compute(y, fields, engine=engine)
    return ChunkedRows.counted(engine, X) if is_collection(X) else X, y, fields


class ChunkedRows(PartitionedArray):
    """
    Partitions whose numbers of rows are known. Indexed with row numbers it gives these rows, in partitions again.

    Parameters
    ----------
    graph : Graph
    keys : sequence of str
        One for each partition.
    lengths : sequence of int
        The rows of each.
    """

    def __init__(self, graph: Graph, keys: Sequence[Key], lengths: Sequence[int]) -> None:
        super().__init__(graph, keys)
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @classmethod
    def counted(cls, engine: Engine, rows: Any) -> ChunkedRows:
        """Of any collection; it is computed where it is not yet, and counted there."""
        (rows,) = persist(rows, engine=engine)
        graph, (keys,) = graph_of(rows)
        return cls(graph, keys, engine.gather([engine.submit(row_count, graph.futures[key]) for key in keys]))

    @property
    def shape(self) -> tuple[int]:
        """The number of rows, as scikit-learn asks for it."""
        return (int(self._starts[-1]),)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> ChunkedRows:
        """
        The rows with these numbers, lazily. Partitions without any are left out.

        Examples
        --------
        >>> from parml.testing.parts import cut
        >>> from parml_core.engine.inline import InlineEngine
        >>> engine = InlineEngine()
        >>> rows = ChunkedRows.counted(engine, cut(np.arange(5) * 10, 2))
        >>> rows[np.array([0, 3, 4])].compute(engine)
        array([ 0, 30, 40])
        """
        rows = np.asarray(rows[0] if isinstance(rows, tuple) else rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if (np.diff(rows) < 0).any():
            raise InputError(
                "expected row numbers in ascending order, since rows do not change partitions, found others; sort them"
            )
        edges = np.searchsorted(rows, self._starts)
        token, tasks, lengths = tokenize("rows", self._keys, rows), [], []
        for i, (start, stop) in enumerate(pairwise(edges)):
            if stop > start:
                within = rows[start:stop] - self._starts[i]
                tasks.append(Task(f"rows-{token}:{i}", _taken, (Ref(self._keys[i]), *_range_or_rows(within))))
                lengths.append(stop - start)
        return ChunkedRows(self._graph.add(tasks), [task.key for task in tasks], lengths)


def _range_or_rows(rows: np.ndarray) -> tuple[int, int, np.ndarray | None]:
    """First and last row, and all of them where some between are missing or stand twice."""
    first, last = int(rows[0]), int(rows[-1])
    whole = last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all())
    return first, last, None if whole else rows.astype(np.int32 if last < 2**31 else np.int64)


def _taken(partition: Any, first: int, last: int, rows: np.ndarray | None) -> Any:
    return slice_rows(partition, first, last + 1) if rows is None else take_rows(partition, rows)


class Answered:
    """A fitted model whose lazy answers are computed: a scorer asks it like any other, and gets arrays."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._model)

    def __getattr__(self, name: str) -> Any:
        if name == "_model":  # while it is copied there is none
            raise AttributeError(name)
        value = getattr(self._model, name)
        if not callable(value):
            return value

        @wraps(value)
        def ask(*args: Any, **kwargs: Any) -> Any:
            return compute(value(*args, **kwargs))[0]

        return ask

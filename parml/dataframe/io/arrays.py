"""Frames as arrays of Dask, whose tasks are those of the frame, and the other way round; where Dask is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from parml.collections import graph_of
from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame
from parml.dataframe.index import Index
from parml.dataframe.io.convert import from_array
from parml.dataframe.plan import Blockwise
from parml.dataframe.pushdown import known_lengths
from parml.dataframe.series import Series
from parml_core.errors import InputError
from parml_core.graph import Task
from parml_core.graph.passes import cull, fuse
from parml_core.graph.task import run


def to_dask_array(self: Frame, lengths: Any = None) -> Any:
    """
    The values as an array of Dask that is not computed yet: a chunk for each partition, made by the tasks of the frame.

    Parameters
    ----------
    lengths : True or sequence of int, optional
        How many rows each partition has; True counts them now. Default: where they are not known beforehand, chunks are of
        unknown length.

    Returns
    -------
    dask.array.Array, shape (n_rows, n_columns), or (n_rows,) of a series or of labels

    Raises
    ------
    ImportError
        Dask is not installed.
    InputError
        The frame is persisted: Dask cannot reach what an engine of parml holds.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.from_pandas(pd.DataFrame({"x": [1, 2, 3], "y": [0.5, 0, 0]}), npartitions=2).to_dask_array().sum().compute()
    np.float64(6.5)
    """
    if importlib.util.find_spec("dask") is None:
        raise ImportError("expected Dask to make an array of it, found none; pip install 'dask[array]', or use to_numpy()")
    import dask.array as da

    empty = np.asarray(self._meta.to_numpy())
    values = Frame._of(Blockwise("values", partial(_values, empty.dtype), (self._node,), meta=0))
    graph, (keys,) = graph_of(values)
    if graph.futures:
        raise InputError("expected a frame that is not persisted, found one that an engine holds; use to_numpy()")
    tasks = {task.key: (_run, task, list(task.deps)) for task in fuse(cull(graph, keys), keys).values()}
    name = f"parml-{self._node.token}"
    blocks = {(name, place, *([0] * (empty.ndim - 1))): key for place, key in enumerate(keys)}
    chunks = (_lengths(self, lengths), *((n,) for n in empty.shape[1:]))
    return da.Array({**tasks, **blocks}, name, chunks, meta=empty)


def _lengths(frame: Frame, lengths: Any) -> tuple[float, ...]:
    if lengths is True:
        lengths = known_lengths(frame._node) or [len(part) for part in frame.partitions]
    elif lengths is None:
        lengths = known_lengths(frame._node) or [np.nan] * frame.npartitions
    if len(lengths) != frame.npartitions:
        raise InputError(f"expected the length of each of {frame.npartitions} partitions, found {len(lengths)}")
    return tuple(lengths)


def _values(dtype: Any, part: Any) -> np.ndarray:
    values: np.ndarray = part.to_numpy(dtype=dtype)
    return values


def _run(task: Task, results: Sequence[Any]) -> Any:
    found: Mapping[Any, Any] = dict(zip(task.deps, results, strict=True))
    return run(task.fn, task.args, task.kwargs, task.deps, found)


def values(self: Frame) -> Any:
    """The values as an array of Dask that is not computed yet, as Dask's own frames have it; `to_numpy` computes them."""
    if importlib.util.find_spec("dask") is None:
        raise AttributeError("expected Dask to make an array of the values, found none; to_numpy() computes one")
    return to_dask_array(self)


def from_dask_array(x: Any, columns: Any = None) -> Any:
    """
    A frame of the rows of an array of Dask, whose tasks are run by parml: a series, where it has one dimension.

    Parameters
    ----------
    x : dask.array.Array, shape (n_rows,) or (n_rows, n_columns)
        Each chunk of rows is a partition.
    columns : list, or name of the series, optional
        Default: 0, 1, 2 and so on.

    Returns
    -------
    DataFrame or Series
        Its rows are numbered.

    Examples
    --------
    >>> import dask.array as da, parml.dataframe as pdf
    >>> pdf.from_dask_array(da.arange(6, chunks=4).reshape(3, 2), columns=["a", "b"]).b.sum().compute()
    np.int64(9)
    """
    if not hasattr(type(x), "__dask_keys__") or getattr(x, "ndim", None) not in (1, 2):
        raise InputError(f"expected an array of Dask of one or two dimensions, found {type(x).__name__}; see from_array")
    return from_array(x, columns=columns).reset_index(drop=True)


for _collection in (DataFrame, Series, Index):
    setattr(_collection, to_dask_array.__name__, to_dask_array)
    setattr(_collection, values.__name__, property(values))

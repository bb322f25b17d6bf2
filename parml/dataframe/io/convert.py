"""Frames of what other libraries hold, of functions and of delayed work; and as Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from parml.collections import is_collection
from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame
from parml.dataframe.io.arrow_tables import plain
from parml.dataframe.memory import from_pandas
from parml.dataframe.meta import as_meta, emptied
from parml.dataframe.plan import Blockwise, Chunks, Columns, Input, Node, Source
from parml.dataframe.series import Series
from parml.from_dask import as_collection
from parml_core.errors import InputError
from parml_core.hashing import tokenize


def from_map(
    fn: Callable[..., Any], *iterables: Iterable[Any], args: Sequence[Any] = (), meta: Any = None, **kwargs: Any
) -> Any:
    """
    A frame whose partition i is ``fn(*[iterable[i] for iterable in iterables], *args, **kwargs)``.

    Parameters
    ----------
    fn : callable
        Returns a pandas DataFrame or Series; is called by the tasks.
    *iterables : iterable
        Equally long.
    args, **kwargs
        The same in each call.
    meta : optional
        What it returns; see `DataFrame.map_partitions`. Default: the first partition is made here to learn it.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.from_map(lambda n: pd.DataFrame({"x": range(n)}), [2, 3]).x.sum().compute()
    np.int64(4)
    """
    calls = list(zip(*iterables, strict=True))
    if not calls:
        raise InputError("expected at least one item for from_map, found none")
    meta = emptied(fn(*calls[0], *args, **kwargs)) if meta is None else as_meta(meta)
    reader = MapReader(fn, tuple(args), dict(kwargs), _checked_meta(meta, "the function of from_map"))
    return Frame._of(Source(reader, calls, origin=tokenize(reader, calls), counted=False))


@dataclass(frozen=True)
class MapReader:
    """Calls a function for each partition."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    meta: Any
    columns: Any = None
    name: str = field(default="from_map", init=False)

    def load(self, part: tuple[Any, ...]) -> Any:
        made = self.fn(*part, *self.args, **self.kwargs)
        if self.columns is not None and isinstance(made, pd.DataFrame):
            made = made[[name for name in made.columns if name in self.columns]]
        return like_meta(self.meta, made)

    def argument(self, part: tuple[Any, ...]) -> tuple[Any, ...]:
        return part

    def narrowed(self, wanted: Columns) -> MapReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns], columns=frozenset(columns))

    def __parml_token__(self) -> str:
        return tokenize(self.fn, self.args, self.kwargs, self.meta)

    def describe(self) -> str:
        return f"from_map {getattr(self.fn, '__name__', type(self.fn).__name__).strip('<>')}"


def from_delayed(dfs: Any, meta: Any = None) -> Any:
    """
    A frame whose partitions are the results of delayed calls.

    Parameters
    ----------
    dfs : list of Delayed, or Delayed
        Each a pandas DataFrame or Series.
    meta : optional
        What they are; see `DataFrame.map_partitions`. Default: the first is computed to learn it.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> from parml import delayed
    >>> pdf.from_delayed([delayed(pd.DataFrame)({"x": [n]}) for n in (1, 2)]).x.sum().compute()
    np.int64(3)
    """
    parts = list(dfs) if isinstance(dfs, list | tuple) else [dfs]
    for part in parts:
        if not is_collection(part) or len(part.__parml_keys__()) != 1:
            raise InputError(f"expected a list of Delayed, found {type(part).__name__} in it; wrap the call with parml.delayed")
    if not parts:
        raise InputError("expected at least one Delayed, found an empty list")
    meta = emptied(parts[0].compute()) if meta is None else as_meta(meta)
    return _of_chunks("from_delayed", parts, _checked_meta(meta, "a Delayed"))


def from_dask(data: Any) -> Any:
    """
    A frame of the rows of a Dask dataframe or series that is not computed yet; its tasks are run by parml.

    Parameters
    ----------
    data : dask.dataframe DataFrame or Series

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> import dask.dataframe as dd
    >>> pdf.from_dask(dd.from_pandas(pd.DataFrame({"x": [1, 2, 3]}), npartitions=2)).x.sum().compute()
    np.int64(6)
    """
    meta = getattr(data, "_meta", None)
    if not hasattr(type(data), "__dask_keys__") or not isinstance(meta, pd.DataFrame | pd.Series):
        raise InputError(f"expected a dataframe or series of Dask, found {type(data).__name__}")
    return _of_chunks("from_dask", [as_collection(data)], emptied(meta))


def from_array(x: Any, npartitions: int | None = None, columns: Any = None) -> Any:
    """
    A frame of the rows of an array: a series, where it has one dimension.

    Parameters
    ----------
    x : array, shape (n_rows,) or (n_rows, n_columns)
        Of numpy, or of Dask: then each chunk of rows is a partition, whose labels begin at 0.
    npartitions : int, optional
        Default: one for each processor.
    columns : list, or name of the series, optional
        Default: 0, 1, 2 and so on.

    Examples
    --------
    >>> import numpy as np, parml.dataframe as pdf
    >>> pdf.from_array(np.arange(6).reshape(3, 2), columns=["a", "b"]).b.sum().compute()
    np.int64(9)
    """
    if getattr(x, "ndim", None) not in (1, 2) or not hasattr(x, "dtype"):
        raise InputError(f"expected an array of one or two dimensions, found {type(x).__name__}; pass numpy.asarray of it")
    build = partial(pd.Series, name=columns) if x.ndim == 1 else partial(pd.DataFrame, columns=columns)
    if not hasattr(type(x), "__dask_keys__"):
        return from_pandas(build(np.asarray(x)), npartitions)
    meta = build(np.empty((0, *map(int, x.shape[1:])), x.dtype))
    chunks = Chunks("from_array", [as_collection(x)], meta)
    return Frame._of(Blockwise("from_array", build, (chunks,), meta=meta))


def from_dict(data: Any, npartitions: int | None = None, orient: str = "columns", columns: Any = None) -> Any:
    """
    A frame of a dict, as :meth:`pandas.DataFrame.from_dict` makes it.

    Parameters
    ----------
    data : dict
    npartitions : int, optional
        Default: one for each processor.
    orient, columns
        As in pandas.

    Examples
    --------
    >>> import parml.dataframe as pdf
    >>> pdf.from_dict({"x": [1, 2, 3]}, npartitions=2).x.max().compute()
    np.int64(3)
    """
    return from_pandas(pd.DataFrame.from_dict(data, orient=orient, columns=columns), npartitions)


def from_arrow(data: Any, npartitions: int | None = None) -> Any:
    """
    A frame of the rows of an Arrow table, or of anything that gives an Arrow C stream: tables of polars and duckdb too.

    Parameters
    ----------
    data : pyarrow Table, RecordBatch or RecordBatchReader, or object with ``__arrow_c_stream__``
    npartitions : int, optional
        Default: one for each processor.

    Examples
    --------
    >>> import pyarrow as pa, parml.dataframe as pdf
    >>> pdf.from_arrow(pa.table({"x": [1, 2, 3]}), npartitions=2).x.sum().compute()
    np.int64(6)
    """
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    elif not isinstance(data, pa.Table):
        if not hasattr(data, "__arrow_c_stream__"):
            raise InputError(f"expected an Arrow table or an object with __arrow_c_stream__, found {type(data).__name__}")
        data = pa.table(data)
    return from_pandas(plain(data).to_pandas(), npartitions)


def from_polars(data: Any, npartitions: int | None = None) -> Any:
    """
    A frame of the rows of a polars DataFrame; a LazyFrame is collected.

    Parameters
    ----------
    data : polars DataFrame or LazyFrame
    npartitions : int, optional
        Default: one for each processor.
    """
    data = data.collect() if hasattr(data, "collect") and not hasattr(data, "__arrow_c_stream__") else data
    return from_arrow(data, npartitions)


def to_arrow(self: DataFrame, *, engine: Any = None) -> pa.Table:
    """
    All rows as one Arrow table; labels are columns where the rows have some of their own.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.from_pandas(pd.DataFrame({"x": [1, 2]}), npartitions=2).to_arrow().column("x").to_pylist()
    [1, 2]
    """
    return pa.Table.from_pandas(self.compute(engine=engine))


def arrow_stream(self: DataFrame, requested_schema: Any = None) -> Any:
    """The rows as an Arrow C stream: computed when it is asked for."""
    return self.compute().__arrow_c_stream__(requested_schema)


def interchange(self: DataFrame, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
    """The rows by the dataframe interchange protocol: computed when they are asked for."""
    return self.compute().__dataframe__(nan_as_null, allow_copy)


def _of_chunks(name: str, collections: list[Any], meta: Any) -> Any:
    chunks: Node = Chunks(name, collections, meta)
    return Frame._of(Blockwise(name, like_meta, (chunks,), (meta, Input(0)), meta=meta))


def _checked_meta(meta: Any, what: str) -> Any:
    if not isinstance(meta, pd.DataFrame | pd.Series):
        raise InputError(f"expected {what} to give a pandas DataFrame or Series, found {type(meta).__name__}")
    return meta


def like_meta(meta: Any, value: Any) -> Any:
    """
    A partition that somebody made, once it is sure that it has the type, columns and dtypes that all have.

    Raises
    ------
    InputError
        It has not.
    """
    advice = "make every partition alike, or pass meta= of what they are"
    if type(value) is not type(meta):
        raise InputError(f"expected each partition to be a {type(meta).__name__}, found {type(value).__name__}; {advice}")
    if isinstance(meta, pd.Series):
        found, wanted = {value.name: value.dtype}, {meta.name: meta.dtype}
    else:
        if list(value.columns) != list(meta.columns):
            raise InputError(
                f"expected each partition to have columns {list(meta.columns)}, found {list(value.columns)}; {advice}"
            )
        found, wanted = dict(value.dtypes), dict(meta.dtypes)
    for name, dtype in wanted.items():
        if found.get(name) != dtype and len(value):
            raise InputError(
                f"expected column {name!r} to have dtype {dtype} in each partition, found {found.get(name)}; {advice}"
            )
    return value if len(value) else meta


def frame_from_dict(
    cls: type, data: Any, *, npartitions: int | None = None, orient: Any = "columns", dtype: Any = None, columns: Any = None
) -> Any:
    """A frame of a dict, as :meth:`pandas.DataFrame.from_dict` makes it; see `parml.dataframe.from_dict`."""
    return from_pandas(pd.DataFrame.from_dict(data, orient=orient, dtype=dtype, columns=columns), npartitions)


def series_from_dict(cls: type, data: Any, *, npartitions: int | None = None, dtype: Any = None, name: Any = None) -> Any:
    """A series of a dict of label to value, as :class:`pandas.Series` makes it."""
    return from_pandas(pd.Series(data, dtype=dtype, name=name), npartitions)


DataFrame.from_dict = classmethod(frame_from_dict)  # type: ignore[attr-defined]
Series.from_dict = classmethod(series_from_dict)  # type: ignore[attr-defined]
for _name, _method in {"to_arrow": to_arrow, "__arrow_c_stream__": arrow_stream, "__dataframe__": interchange}.items():
    setattr(DataFrame, _name, _method)

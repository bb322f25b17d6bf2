"""pandas' functions of frames and series."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe.base import Frame, elementwise
from parml.dataframe.plan import Blockwise, Input
from parml_core.errors import InputError


def _converted(name: str, fn: Callable[..., Any], series: Any, kwargs: dict[str, Any]) -> Any:
    if not isinstance(series, Frame) or not isinstance(series._meta, pd.Series):
        raise InputError(f"expected a parml series in {name}, found {type(series).__name__}; use pandas.{name}")
    return elementwise(name, partial(fn, **kwargs), (series,))


def to_numeric(arg: Any, **kwargs: Any) -> Any:
    """
    A series of texts as numbers.

    Parameters
    ----------
    arg : Series
    **kwargs
        As of pandas' ``to_numeric``.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.to_numeric(pdf.from_pandas(pd.Series(["1", "2"]), npartitions=2)).sum().compute()
    np.int64(3)
    """
    return _converted("to_numeric", pd.to_numeric, arg, kwargs)


def to_datetime(arg: Any, *, format: str, **kwargs: Any) -> Any:
    """
    A series of texts as times.

    Parameters
    ----------
    arg : Series
    format : str
        How times are written: pandas would guess it from the first row, which is another one in each partition.
    **kwargs
        As of pandas' ``to_datetime``.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.to_datetime(pdf.from_pandas(pd.Series(["2020-01-31"]), npartitions=1), format="%Y-%m-%d").dt.day.compute().tolist()
    [31]
    """
    meta = pd.to_datetime(pd.Series(["2000-01-01"]), format="%Y-%m-%d", utc=kwargs.get("utc", False)).iloc[:0]
    if not isinstance(arg, Frame) or not isinstance(arg._meta, pd.Series):
        raise InputError(f"expected a parml series in to_datetime, found {type(arg).__name__}; use pandas.to_datetime")
    step = partial(_as_times, meta.dtype, format=format, **kwargs)
    return Frame._of(Blockwise("to_datetime", step, (arg._node,), (Input(0),), meta=meta.rename(arg._meta.name)))


def _as_times(dtype: Any, texts: pd.Series, **kwargs: Any) -> pd.Series:
    return pd.to_datetime(texts, **kwargs) if len(texts) else texts.astype(dtype)


def isna(obj: Any) -> Any:
    """
    Where there are nulls.

    Parameters
    ----------
    obj : DataFrame, Series or Index

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.isna(pdf.from_pandas(pd.Series([1.0, None]), npartitions=2)).compute().tolist()
    [False, True]
    """
    return obj.isna()


def get_dummies(data: Any, **kwargs: Any) -> Any:
    """
    A column of truth values for each category.

    Parameters
    ----------
    data : DataFrame or Series
        Of categories: which other values there are is not known beforehand.
    **kwargs
        As of pandas' ``get_dummies``.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> colours = pd.Series(["red", "blue"], dtype=pd.CategoricalDtype(["blue", "red"]))
    >>> pdf.get_dummies(pdf.from_pandas(colours, npartitions=2)).compute().red.tolist()
    [True, False]
    """
    if not isinstance(data, Frame) or not isinstance(data._meta, pd.DataFrame | pd.Series):
        raise InputError(f"expected a parml frame or series in get_dummies, found {type(data).__name__}")
    columns = [data._meta] if isinstance(data._meta, pd.Series) else [column for _, column in data._meta.items()]
    chosen = kwargs.get("columns")
    for column in columns:
        texts = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
        wanted = column.name in chosen if chosen is not None else texts or isinstance(data._meta, pd.Series)
        if wanted and not isinstance(column.dtype, pd.CategoricalDtype):
            raise InputError(
                f"expected categories in get_dummies, found column {column.name!r} of dtype {column.dtype}; use "
                "astype(pandas.CategoricalDtype([...]))"
            )
    return elementwise("get_dummies", partial(pd.get_dummies, **kwargs), (data,), columnwise=False)


def map_partitions(fn: Callable[..., Any], frame: Any, *args: Any, **kwargs: Any) -> Any:
    """`Frame.map_partitions` as a function."""
    return frame.map_partitions(fn, *args, **kwargs)


def map_overlap(fn: Callable[..., Any], frame: Any, before: Any, after: Any, *args: Any, **kwargs: Any) -> Any:
    """`DataFrame.map_overlap` as a function."""
    return frame.map_overlap(fn, before, after, *args, **kwargs)

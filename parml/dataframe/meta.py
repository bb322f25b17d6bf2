"""Empty frames that tell what full ones will look like, and tiny ones to try a function on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from parml_core.errors import InputError


def emptied(value: Any) -> Any:
    """A frame or series without its rows; anything else as it is."""
    return value.iloc[:0] if isinstance(value, pd.DataFrame | pd.Series) else value


def as_meta(spec: Any) -> Any:
    """
    The empty frame or series that a user describes.

    Parameters
    ----------
    spec : DataFrame, Series, dict of column to dtype, (name, dtype), or dtype

    Examples
    --------
    >>> as_meta({"a": "int64"}).dtypes.to_dict()
    {'a': dtype('int64')}
    >>> as_meta(("p", float)).name
    'p'
    """
    if isinstance(spec, pd.DataFrame | pd.Series):
        return emptied(spec)
    if isinstance(spec, dict):
        return pd.DataFrame({column: pd.Series([], dtype=dtype) for column, dtype in spec.items()})
    name, dtype = spec if isinstance(spec, tuple) and len(spec) == 2 else (None, spec)
    try:
        return pd.Series([], dtype=dtype, name=name)
    except (TypeError, ValueError) as error:
        raise InputError(
            "expected meta= to be an empty frame or series, a dict of column to dtype, a (name, dtype) or a dtype, "
            f"found {spec!r}"
        ) from error


def sample_of(meta: Any) -> Any:
    """Two made-up rows like those of `meta`, for functions that cannot do anything with none."""
    if isinstance(meta, pd.DataFrame):
        columns = {place: _sample(meta.iloc[:, place]) for place in range(len(meta.columns))}
        sample = pd.DataFrame(columns, index=range(2))
        sample.columns = meta.columns
        return sample
    return _sample(meta) if isinstance(meta, pd.Series) else meta


def _sample(series: pd.Series) -> pd.Series:
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        value: Any = dtype.categories[0] if len(dtype.categories) else None
    elif pd.api.types.is_bool_dtype(dtype):
        value = True
    elif pd.api.types.is_numeric_dtype(dtype):
        value = 1
    elif isinstance(dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(dtype):
        value = pd.Timestamp(2000, 1, 1, tz=getattr(dtype, "tz", None))
    elif pd.api.types.is_timedelta64_dtype(dtype):
        value = pd.Timedelta(days=1)
    elif isinstance(dtype, pd.PeriodDtype):
        value = pd.Period("2000-01-01", freq=dtype.freq)
    else:
        value = "a" if pd.api.types.is_string_dtype(dtype) else None
    return pd.Series([value, value], dtype=dtype, name=series.name)


def learned(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, what: str) -> Any:
    """
    The empty frame or series that a user's function returns, found by calling it on made-up rows.

    Raises
    ------
    InputError
        It raised or returned neither; the message asks for meta=.
    """
    try:
        result = fn(*map(sample_of, args), **{name: sample_of(value) for name, value in kwargs.items()})
    except Exception as error:
        raise InputError(
            f"expected {what} to work on two made-up rows, from which the columns of its result are learned, "
            f"found {type(error).__name__}: {error}; pass meta=, an empty frame or series of what it returns"
        ) from error
    if not isinstance(result, pd.DataFrame | pd.Series) and getattr(result, "ndim", None) == 1:
        result = pd.Series(result)
    if not isinstance(result, pd.DataFrame | pd.Series):
        raise InputError(
            f"expected {what} to return a frame, a series, or an array with one item for each row, "
            f"found {type(result).__name__}; change the function or pass meta= of what it returns"
        )
    return emptied(result)

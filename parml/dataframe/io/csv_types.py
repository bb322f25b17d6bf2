"""
Which type each column of CSV files has: decided once, from samples of all files, and the same in every block.

The rules are those of ``pandas.read_csv``: whole numbers are int64, or float64 where some are missing; a column without any
value is float64, one without any row object; True and False are bool, or object where some are missing; what looks like a
date stays text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.tseries.api import guess_datetime_format

from parml.dataframe.frame import checked_category
from parml_core.errors import InputError


@dataclass(frozen=True)
class Spelling:
    """
    How numbers are written where marks stand between their thousands; they are parsed as texts first.

    Parameters
    ----------
    thousands, decimal : str
    kind : pyarrow type
        Of the numbers.
    """

    thousands: str
    decimal: str
    kind: pa.DataType

    def numbers(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Raises ArrowInvalid where a text is no number."""
        plain = pc.replace_substring(pc.utf8_trim_whitespace(texts), self.thousands, "")
        return pc.cast(pc.replace_substring(plain, self.decimal, ".") if self.decimal != "." else plain, self.kind)


@dataclass(frozen=True)
class ColumnType:
    """
    How a column is read.

    Parameters
    ----------
    arrow : pyarrow type
        As which its text is parsed.
    dtype : pandas dtype
        What the user gets.
    date_format : str, optional
        The text is parsed as a time of this format.
    nullable : bool
        Values may be missing.
    spelling : Spelling, optional
        The text is parsed as a number that is written so.
    """

    arrow: pa.DataType
    dtype: Any
    date_format: str | None = None
    nullable: bool = True
    spelling: Spelling | None = None

    def spelled(self, thousands: str | None, decimal: str) -> ColumnType:
        """The same of numbers with marks between their thousands."""
        if thousands is None or not (pa.types.is_integer(self.arrow) or pa.types.is_floating(self.arrow)):
            return self
        return replace(self, arrow=pa.string(), spelling=Spelling(thousands, decimal, self.arrow))

    def described(self) -> str:
        return f"a date like {self.date_format!r}" if self.date_format else str(self.dtype)


TEXT = ColumnType(pa.string(), pd.Series([], dtype="str").dtype)


def inferred(columns: Iterable[pa.ChunkedArray], thousands: str | None = None, decimal: str = ".") -> ColumnType:
    """The type of a column, from samples of it that were parsed one by one."""
    kinds, missing, rows = set(), False, 0
    for column in map(_read_as_numbers(thousands, decimal), columns) if thousands else columns:
        rows += len(column)
        missing = missing or column.null_count > 0
        if not pa.types.is_null(column.type):
            kinds.add(column.type)
    if not rows:
        return ColumnType(pa.string(), np.dtype(object))
    if kinds <= {pa.int64(), pa.float64()}:
        if kinds == {pa.int64()} and not missing:
            return ColumnType(pa.int64(), np.dtype("int64"), nullable=False)
        return ColumnType(pa.float64(), np.dtype("float64"))
    if kinds == {pa.bool_()}:
        return ColumnType(pa.bool_(), np.dtype(object if missing else bool), nullable=missing)
    return TEXT


def _read_as_numbers(thousands: str, decimal: str) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    def read(texts: pa.ChunkedArray) -> pa.ChunkedArray:
        for kind in (pa.int64(), pa.float64()) if pa.types.is_string(texts.type) else ():
            try:
                return Spelling(thousands, decimal, kind).numbers(texts)
            except pa.ArrowInvalid:
                continue
        return texts

    return read


def declared(dtype: Any) -> ColumnType:
    """The type of a column that the user gave a dtype."""
    checked_category([dtype])
    dtype = pd.api.types.pandas_dtype(dtype)
    if isinstance(dtype, pd.ArrowDtype):
        return ColumnType(dtype.pyarrow_dtype, dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        kind = pa.array(dtype.categories).type
        return ColumnType(pa.string() if pa.types.is_large_string(kind) else kind, dtype)
    if isinstance(dtype, pd.StringDtype) or pd.api.types.is_object_dtype(dtype):
        return ColumnType(pa.string(), dtype)
    plain = getattr(dtype, "numpy_dtype", dtype)
    if not isinstance(plain, np.dtype) or plain.kind not in "biuf":
        raise InputError(f"expected a dtype of numbers, truths, texts or categories, found {dtype}; use parse_dates for times")
    nullable = isinstance(dtype, pd.api.extensions.ExtensionDtype) or plain.kind == "f"
    return ColumnType(pa.from_numpy_dtype(plain), dtype, nullable=nullable)


def dated(name: Any, samples: Iterable[pa.ChunkedArray], date_format: str | None = None) -> ColumnType:
    """The type of a column of times: of a format, or of that of the first value."""
    texts = pd.concat([pd.Series([], dtype="str"), *(column.to_pandas() for column in samples)], ignore_index=True).dropna()
    if not len(texts):
        return ColumnType(pa.string(), np.dtype("datetime64[us]"), date_format or "ISO8601")
    formats = [date_format] if date_format else _formats_like(texts.iloc[0])
    for candidate in formats:
        try:
            return ColumnType(pa.string(), pd.to_datetime(texts, format=candidate).dtype, candidate)
        except ValueError as error:
            reason = str(error).splitlines()[0]
    raise InputError(
        f"expected dates like {texts.iloc[0]!r} (format {formats[0]!r}) in column {name!r}, found others: {reason}; "
        f"pass parse_dates={{{name!r}: format}}, or read the column as text"
    )


def _formats_like(text: str) -> list[str]:
    month_first, day_first = (guess_datetime_format(text, dayfirst=dayfirst) for dayfirst in (False, True))
    if month_first is None or month_first.startswith("%Y-%m-%d"):
        return ["ISO8601"]
    return list(dict.fromkeys([month_first, day_first or month_first]))


def to_pandas(table: pa.Table, types: dict[Any, ColumnType]) -> pd.DataFrame:
    """A parsed table as a frame in which every column has its fixed dtype."""
    columns = {name: series_of(table.column(name), types[name]) for name in table.column_names}
    return pd.DataFrame(columns, copy=False, index=range(table.num_rows))


def series_of(column: pa.ChunkedArray, kind: ColumnType) -> pd.Series:
    """A parsed column in its fixed dtype."""
    if kind.spelling is not None:
        column = kind.spelling.numbers(column)
    if isinstance(kind.dtype, pd.ArrowDtype):
        return pd.Series(pd.array(column, dtype=kind.dtype))
    if kind.date_format is None and hasattr(kind.dtype, "__from_arrow__"):  # texts and nullable numbers
        return pd.Series(kind.dtype.__from_arrow__(column))
    series = column.to_pandas()
    if kind.date_format is not None:
        return pd.to_datetime(pd.Series(series, dtype="str"), format=kind.date_format).astype(kind.dtype)
    if series.dtype == object:
        series = series.where(series.notna(), np.nan)
    return series if series.dtype == kind.dtype else series.astype(kind.dtype)

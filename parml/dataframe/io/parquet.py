"""``read_parquet``: one partition for each row group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.files import expand_paths, identity, same_names
from parml.dataframe.plan import Columns, Source
from parml_core.errors import InputError
from parml_core.hashing import tokenize


def read_parquet(paths: Any, *, columns: Sequence[Any] | None = None) -> DataFrame:
    """
    A frame of the rows of Parquet files, one partition for each row group.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.parquet``) or patterns. All have the same columns and types.
    columns : list of columns, optional
        Default: all. Columns that nobody uses are not read anyway.

    Returns
    -------
    DataFrame
        An index that pandas has written as columns is the frame's; otherwise rows are numbered as by `read_csv`. Dictionary
        columns become what their dictionaries hold, as every row group has another one.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.DataFrame({"x": range(6), "k": list("ababab")}).to_parquet(folder + "/1.parquet", row_group_size=2)
    ...     frame = pdf.read_parquet(folder)
    ...     frame.npartitions, frame[frame.k == "a"].x.sum().compute()
    (3, np.int64(6))
    """
    files = expand_paths(paths, ".parquet")
    footers = [_footer(file) for file in files]
    schema = footers[0].schema.to_arrow_schema()
    for file, footer in zip(files, footers, strict=True):
        _check_schema(schema, footer.schema.to_arrow_schema(), files[0], file)
    parts = [RowGroup(file, i) for file, footer in zip(files, footers, strict=True) for i in range(footer.num_row_groups)]
    index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    meta = _meta(schema, _columns_with_nulls(footers))
    reader = ParquetReader(meta, tuple(index))
    if columns is not None:
        for column in columns:
            if column not in meta.columns:
                known = ", ".join(map(repr, meta.columns))
                raise MissingColumn(f"expected columns of the files in columns, found {column!r}; they have {known}")
        reader = replace(reader, meta=meta[list(columns)])
    origin = tokenize("read_parquet", [identity(file) for file in files])
    return DataFrame(Source(reader, parts or [RowGroup(files[0], None)], origin=origin, counted=not index))


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a file; none: no rows."""

    path: str
    number: int | None


@dataclass(frozen=True)
class ParquetReader:
    """Reads some columns of one row group."""

    meta: pd.DataFrame
    index: tuple[str, ...]
    name: str = field(default="read_parquet", init=False)

    def load(self, part: RowGroup) -> pd.DataFrame:
        if part.number is None:
            return self.meta
        with pyarrow.parquet.ParquetFile(part.path) as file:
            names = [*self.meta.columns, *self.index]
            table = file.read_row_group(part.number, columns=names, use_threads=False)
        frame = _plain(table).to_pandas(use_threads=False)
        if not self.index:
            frame.index = pd.RangeIndex(len(frame))
        frame = frame[list(self.meta.columns)]
        wrong = {name: dtype for name, dtype in self.meta.dtypes.items() if frame.dtypes[name] != dtype}
        return frame.astype(wrong) if wrong else frame

    def argument(self, part: RowGroup) -> RowGroup:
        return part

    def narrowed(self, wanted: Columns) -> ParquetReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def __parml_token__(self) -> str:
        return tokenize(self.meta, self.index)

    def describe(self) -> str:
        return f"read_parquet columns {', '.join(map(repr, self.meta.columns))}"


def _footer(path: str) -> Any:
    try:
        return pyarrow.parquet.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"expected a Parquet file at {path}, found another kind or half of one: {error}") from error


def _check_schema(first: pa.Schema, other: pa.Schema, first_path: str, other_path: str) -> None:
    same_names(first.names, other.names, first_path, other_path)
    for ours, theirs in zip(first, other, strict=True):
        if ours.type != theirs.type:
            raise InputError(
                f"expected column {ours.name!r} to have the type of {first_path} ({ours.type}) in every file, found "
                f"{theirs.type} in {other_path}; write the files with equal types"
            )


def _plain(table: pa.Table) -> pa.Table:
    """The table without dictionaries."""
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            plain = table.column(place).cast(column.type.value_type)
            table = table.set_column(place, pa.field(column.name, column.type.value_type), plain)
    return table


def _columns_with_nulls(footers: Sequence[Any]) -> set[str]:
    """Columns of which some row group has a null, or does not say that it has none."""
    found: set[str] = set()
    for footer in footers:
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            for place in range(group.num_columns if group.num_rows else 0):
                column = group.column(place)
                statistics = column.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    found.add(column.path_in_schema)
    return found


def _meta(schema: pa.Schema, nullable: set[str]) -> pd.DataFrame:
    """The empty frame; whole numbers and truth values get the dtype that they have in pandas where some are missing."""
    meta = _plain(schema.empty_table()).to_pandas()
    dtypes: dict[Any, Any] = {}
    for name in meta.columns:
        kind = meta.dtypes[name]
        if name in nullable and isinstance(kind, np.dtype) and kind.kind in "iub":
            dtypes[name] = np.dtype(object if kind.kind == "b" else "float64")
    return meta.astype(dtypes) if dtypes else meta

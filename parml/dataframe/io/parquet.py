"""
``read_parquet``: row groups of files, and of them those that can hold what a condition asks for.

When the frame is made, the footers of all files are read. They say how many rows there are and what the least and greatest
values of each row group are, so that rows are counted, and row groups left out, without reading them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.arrow_tables import check_schema, empty_frame, index_columns, to_frame
from parml.dataframe.io.files import File, Remote, expand_dataset, identity, open_file, parse_nbytes, same_names
from parml.dataframe.io.hive import partition_values
from parml.dataframe.io.parquet_stats import RowGroupStatistics, columns_with_nulls
from parml.dataframe.plan import Columns, Source
from parml.dataframe.predicate import Predicate, of_filters
from parml_core.errors import InputError
from parml_core.hashing import tokenize

_LEAST_BYTES, _MOST_BYTES, _PARTITIONS = 1 << 20, 32 << 20, 16


def read_parquet(
    paths: Any,
    *,
    columns: Sequence[Any] | None = None,
    filters: Any = None,
    blocksize: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> DataFrame:
    """
    A frame of the rows of Parquet files, some row groups in each partition.

    Of a frame that is then filtered, ``frame[(frame.x > 3) & frame.k.isin(["a"])]``, only those row groups are read that can
    hold such rows, as their statistics say; see `DataFrame.explain`. ``len`` reads none.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.parquet``, also in directories below) or patterns; or URLs. All have the same columns
        and types. Directories named ``key=value`` are columns of categories.
    columns : list of columns, optional
        Default: all. Columns that nobody uses are not read anyway.
    filters : list of (column, op, value), or list of such lists, optional
        Which rows to take: those for which all of a list is true, or all of one of the lists. As in pandas, comparisons with
        a missing value are not.
    blocksize : int or str, optional
        Row groups are joined to partitions of up to so many bytes, uncompressed as in the file. Default: 1 to 32 MiB, so that
        there are some 16 partitions.
    storage_options : dict, optional
        For fsspec, where `paths` are URLs.

    Returns
    -------
    DataFrame
        An index that pandas has written as columns is the frame's; otherwise rows are numbered as by `read_csv`. Dictionary
        columns become what their dictionaries hold, as every row group has another one.

    Raises
    ------
    FileNotFoundError
        No file is there.
    InputError
        The columns or types of two files differ, or a file is not whole.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.DataFrame({"x": range(6), "k": list("ababab")}).to_parquet(folder + "/1.parquet", row_group_size=2)
    ...     frame = pdf.read_parquet(folder, blocksize=1)
    ...     frame.npartitions, frame[frame.x > 3].x.sum().compute(), len(frame)
    (3, np.int64(9), 6)
    """
    found = expand_dataset(paths, ".parquet", storage_options)
    files = [file for file, _ in found]
    with ThreadPoolExecutor(8) as pool:
        footers = list(pool.map(_footer, files))
    schema = footers[0].schema.to_arrow_schema()
    for file, footer in zip(files, footers, strict=True):
        other = footer.schema.to_arrow_schema()
        same_names(schema.names, other.names, files[0], file)
        check_schema(schema, other, files[0], file)
    keys = partition_values([inner for _, inner in found], files, schema.names)
    dataset = Dataset.of(schema, files, footers, keys)
    reader = ParquetReader(dataset, dataset.meta, index_columns(schema))
    if columns is not None:
        _check_columns(dataset, columns, "columns")
        reader = replace(reader, meta=dataset.meta[list(columns)])
    parts = _parts(dataset, blocksize)
    origin = tokenize("read_parquet", [identity(file) for file in files], [len(part) for part in parts], filters)
    if filters is not None:
        condition, used = of_filters(filters)
        _check_columns(dataset, used, "filters")
        reader = replace(
            reader, filters=Filters(pyarrow.parquet.filters_to_expression(filters), tuple(sorted(used)), repr(filters))
        )
        can = condition.may_match(dataset.plain_statistics)
        parts = [kept for part in parts if (kept := tuple(group for group in part if can[group.place]))]
    return DataFrame(Source(reader, parts or [()], origin=origin, counted=not reader.index))


def _check_columns(dataset: Dataset, columns: Any, argument: str) -> None:
    for column in columns:
        if column not in dataset.meta.columns and column not in dataset.schema.names:
            known = ", ".join(map(repr, dataset.meta.columns))
            raise MissingColumn(f"expected columns of the files in {argument}, found {column!r}; they have {known}")


@dataclass(frozen=True, slots=True)
class RowGroup:
    """
    One row group.

    Parameters
    ----------
    path : path or Remote
    number : int
        In its file.
    place : int
        Among those of all files.
    rows : int
    start : int
        The number of its first row in its partition.
    keys : tuple of (column, value)
        What the file's directories say.
    """

    path: File
    number: int
    place: int
    rows: int
    start: int = 0
    keys: tuple[tuple[str, Any], ...] = ()


class Dataset:
    """What the footers of files say; stays where the frame is made."""

    def __init__(self, schema: pa.Schema, groups: list[RowGroup], footers: list[Any], keys: dict[str, list[Any]]) -> None:
        self.schema, self.groups, self.footers = schema, groups, footers
        self.keys = {name: [dict(group.keys)[name] for group in groups] for name in keys}
        meta = empty_frame(schema, columns_with_nulls(footers))
        for name, values in keys.items():
            meta[name] = pd.Categorical([], categories=pd.Series(values).dropna().unique())
        self.meta = meta

    @classmethod
    def of(cls, schema: pa.Schema, files: Sequence[File], footers: Sequence[Any], keys: dict[str, list[Any]]) -> Dataset:
        groups: list[RowGroup] = []
        for number, (file, footer) in enumerate(zip(files, footers, strict=True)):
            named = tuple((name, values[number]) for name, values in keys.items())
            for i in range(footer.num_row_groups):
                groups.append(RowGroup(file, i, len(groups), footer.row_group(i).num_rows, keys=named))
        return cls(schema, groups, [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)], keys)

    @cached_property
    def statistics(self) -> RowGroupStatistics:
        """In the dtypes of the frame, for conditions on its columns."""
        dtypes = {name: dtype for name, dtype in self.meta.dtypes.items() if name not in self.keys}
        return RowGroupStatistics(self.schema, self.footers, self.keys, dtypes)

    @cached_property
    def plain_statistics(self) -> RowGroupStatistics:
        """In the types of the files, for conditions on their rows."""
        return RowGroupStatistics(self.schema, self.footers, self.keys, {})


@dataclass(frozen=True)
class Filters:
    """A condition on the rows of a table, and its columns."""

    expression: Any
    columns: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class ParquetReader:
    """Reads some columns of row groups."""

    dataset: Dataset
    meta: pd.DataFrame
    index: tuple[str, ...]
    filters: Filters | None = None
    name: str = field(default="read_parquet", init=False)

    @property
    def load(self) -> Load:
        return Load(self.meta, self.index, self.filters, frozenset(self.dataset.keys))

    def argument(self, part: tuple[RowGroup, ...]) -> tuple[RowGroup, ...]:
        return part

    def narrowed(self, wanted: Columns) -> ParquetReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def lengths(self, parts: Sequence[tuple[RowGroup, ...]]) -> list[int] | None:
        return None if self.filters else [sum(group.rows for group in part) for part in parts]

    def matching(self, parts: Sequence[tuple[RowGroup, ...]], condition: Predicate) -> tuple[list[tuple[RowGroup, ...]], str]:
        can = condition.may_match(self.dataset.statistics)
        kept = [tuple(group for group in part if can[group.place]) for part in parts]
        return kept, f"{sum(map(len, kept))} of {sum(map(len, parts))} row groups"

    def __parml_token__(self) -> str:
        return tokenize(self.meta, self.index, self.filters and self.filters.text)

    def describe(self) -> str:
        where = f" with filters {self.filters.text}" if self.filters else ""
        return f"read_parquet columns {', '.join(map(repr, self.meta.columns))}{where}"


@dataclass(frozen=True)
class Load:
    """What a worker does to read a partition."""

    meta: pd.DataFrame
    index: tuple[str, ...]
    filters: Filters | None
    keys: frozenset[str]

    def __call__(self, part: tuple[RowGroup, ...]) -> pd.DataFrame:
        if not part:
            return self.meta
        names = dict.fromkeys([*self.meta.columns, *self.index, *(self.filters.columns if self.filters else ())])
        tables = [self._of_file(list(groups), list(names)) for _, groups in groupby(part, key=lambda group: group.path)]
        table = pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
        if self.filters:
            table = table.filter(self.filters.expression)
        frame = to_frame(table, self.meta)
        if not self.index:
            frame.index = pd.RangeIndex(len(frame)) if self.filters else _row_numbers(part)
        return frame

    def _of_file(self, groups: list[RowGroup], names: list[str]) -> pa.Table:
        stored = [name for name in names if name not in self.keys]
        path, numbers = groups[0].path, [group.number for group in groups]
        rows = sum(group.rows for group in groups)
        # Ranges that lie beside each other are fetched at once where each request has to travel.
        with open_file(path) as opened, pyarrow.parquet.ParquetFile(opened, pre_buffer=isinstance(path, Remote)) as file:
            table = file.read_row_groups(numbers, columns=stored, use_threads=False)
        for name, value in groups[0].keys:
            if name in names:
                kind = pa.string() if value is None or isinstance(value, str) else pa.int64()
                table = table.append_column(name, pa.array([value], kind).take(pa.array(np.zeros(rows, np.int32))))
        return table


def _row_numbers(part: Sequence[RowGroup]) -> pd.Index:
    """Labels of the rows of some row groups of a partition."""
    start, stop = part[0].start, part[-1].start + part[-1].rows
    if sum(group.rows for group in part) == stop - start:
        return pd.RangeIndex(start, stop)
    return pd.Index(np.concatenate([np.arange(group.start, group.start + group.rows) for group in part]))


def _parts(dataset: Dataset, blocksize: int | str | None) -> list[tuple[RowGroup, ...]]:
    """Row groups that follow each other, up to a size."""
    sizes = [group.total_byte_size for group in dataset.footers]
    limit = max(_LEAST_BYTES, min(_MOST_BYTES, sum(sizes) // _PARTITIONS)) if blocksize is None else parse_nbytes(blocksize)
    parts: list[tuple[RowGroup, ...]] = []
    current: list[RowGroup] = []
    rows = nbytes = 0
    for group, size in zip(dataset.groups, sizes, strict=True):
        if current and nbytes + size > limit:
            parts.append(tuple(current))
            current, rows, nbytes = [], 0, 0
        current.append(replace(group, start=rows))
        rows, nbytes = rows + group.rows, nbytes + size
    return [*parts, tuple(current)] if current else parts


def _footer(path: File) -> Any:
    try:
        with open_file(path) as file:
            return pyarrow.parquet.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InputError(f"expected a Parquet file at {path}, found another kind or half of one: {error}") from error

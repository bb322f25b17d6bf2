"""``read_feather``: Arrow IPC files by their record batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyarrow as pa

from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.arrow_tables import check_schema, empty_frame, index_columns, to_frame
from parml.dataframe.io.files import File, expand_paths, identity, open_file, same_names
from parml.dataframe.plan import Columns, Source
from parml_core.errors import InputError
from parml_core.hashing import tokenize


def read_feather(
    paths: Any, columns: Sequence[Any] | None = None, *, storage_options: Mapping[str, Any] | None = None
) -> DataFrame:
    """
    A frame of the rows of Arrow IPC files (Feather of version 2), one partition for each record batch.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.arrow``) or patterns; or URLs. All have the same columns and types.
    columns : list of columns, optional
        Default: all. Columns that nobody uses are not read anyway.
    storage_options : dict, optional
        For fsspec, where `paths` are URLs.

    Returns
    -------
    DataFrame
        Labelled as by `read_parquet`. Columns of whole numbers and truth values are read once beforehand, as only they
        tell whether values are missing.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.DataFrame({"x": range(6)}).to_feather(folder + "/x.arrow", chunksize=2)
    ...     frame = pdf.read_feather(folder)
    ...     frame.npartitions, frame.x.sum().compute(), len(frame)
    (3, np.int64(15), 6)
    """
    files = expand_paths(paths, ".arrow", storage_options)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(_batches, files))
    schema = found[0][0]
    for file, (other, _, _) in zip(files, found, strict=True):
        same_names(schema.names, other.names, files[0], file)
        check_schema(schema, other, files[0], file)
    meta = empty_frame(schema, set().union(*(nullable for _, _, nullable in found)))
    reader = FeatherReader(meta, index_columns(schema))
    if columns is not None:
        for column in columns:
            if column not in meta.columns:
                known = ", ".join(map(repr, meta.columns))
                raise MissingColumn(f"expected columns of the files in columns, found {column!r}; they have {known}")
        reader = replace(reader, meta=meta[list(columns)])
    parts = [Batch(file, i, rows) for file, (_, lengths, _) in zip(files, found, strict=True) for i, rows in enumerate(lengths)]
    origin = tokenize("read_feather", [identity(file) for file in files])
    return DataFrame(Source(reader, parts or [Batch(files[0], None, 0)], origin=origin, counted=not reader.index))


@dataclass(frozen=True, slots=True)
class Batch:
    """One record batch of a file; none: no rows."""

    path: File
    number: int | None
    rows: int


@dataclass(frozen=True)
class FeatherReader:
    """Reads some columns of one record batch."""

    meta: pd.DataFrame
    index: tuple[str, ...]
    name: str = field(default="read_feather", init=False)

    def load(self, part: Batch) -> pd.DataFrame:
        if part.number is None:
            return self.meta
        with open_file(part.path) as opened:
            schema = pa.ipc.open_file(opened).schema
            names = [schema.get_field_index(name) for name in (*self.meta.columns, *self.index)]
            options = pa.ipc.IpcReadOptions(included_fields=sorted(names), use_threads=False)
            table = pa.Table.from_batches([pa.ipc.open_file(opened, options=options).get_batch(part.number)])
        frame = to_frame(table, self.meta)
        if not self.index:
            frame.index = pd.RangeIndex(len(frame))
        return frame

    def argument(self, part: Batch) -> Batch:
        return part

    def lengths(self, parts: Sequence[Batch]) -> list[int]:
        return [part.rows for part in parts]

    def narrowed(self, wanted: Columns) -> FeatherReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def __parml_token__(self) -> str:
        return tokenize(self.meta, self.index)

    def describe(self) -> str:
        return f"read_feather columns {', '.join(map(repr, self.meta.columns))}"


def _batches(path: File) -> tuple[pa.Schema, list[int], set[str]]:
    """Schema, the length of each record batch, and the columns with nulls of those whose dtype depends on it."""
    try:
        with open_file(path) as opened:
            schema = pa.ipc.open_file(opened).schema
            counted = [
                place
                for place, column in enumerate(schema)
                if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
            ]
            options = pa.ipc.IpcReadOptions(included_fields=counted or [0], use_threads=False)
            reader = pa.ipc.open_file(opened, options=options)
            lengths, nullable = [], set()
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                lengths.append(batch.num_rows)
                nullable |= {name for name in batch.schema.names if batch.column(name).null_count}
    except pa.ArrowInvalid as error:
        raise InputError(f"expected an Arrow IPC file at {path}, found another kind or half of one: {error}") from error
    return schema, lengths, nullable

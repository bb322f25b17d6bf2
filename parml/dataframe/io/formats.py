"""How partitions become files: CSV, JSON lines, Arrow IPC and Parquet."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from parml.dataframe.io.arrow_tables import plain_type
from parml.dataframe.io.files import same_names
from parml_core.errors import InputError


@dataclass(frozen=True)
class CsvFormat:
    """Lines; what pandas' to_csv makes of a partition."""

    options: dict[str, Any]
    compression: str | None
    header: Any = True
    index: bool = True
    suffix = "csv"

    def write(self, frame: pd.DataFrame, file: Any, first: bool) -> None:
        with packing(file, self.compression) as packed:
            text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
            frame.to_csv(text, header=self.header if first else False, index=self.index, **self.options)
            text.flush()
            text.detach()

    def facts(self, frame: pd.DataFrame) -> dict[str, Any]:
        return {"rows": len(frame)}

    def join(self, pieces: Sequence[Callable[[], Any]], file: Any) -> None:
        joined(pieces, file)


@dataclass(frozen=True)
class JsonFormat:
    """One object for each line."""

    options: dict[str, Any]
    compression: str | None
    suffix = "json"

    def write(self, frame: pd.DataFrame, file: Any, first: bool) -> None:
        text = frame.to_json(orient="records", lines=True, **self.options) if len(frame) else ""
        with packing(file, self.compression) as packed:
            packed.write(text.encode() if not text or text.endswith("\n") else text.encode() + b"\n")

    def facts(self, frame: pd.DataFrame) -> dict[str, Any]:
        return {"rows": len(frame)}

    def join(self, pieces: Sequence[Callable[[], Any]], file: Any) -> None:
        joined(pieces, file)


@dataclass(frozen=True)
class ArrowFormat:
    """
    What IPC and Parquet share: the types of columns, which have to be the same in every file.

    Parameters
    ----------
    index : bool
        Whether labels are columns.
    kinds : dict of column to Arrow type
        Of columns whose dtype tells it; of others each partition does.
    """

    index: bool
    kinds: dict[str, pa.DataType]
    compression: str | None
    options: dict[str, Any] = field(default_factory=dict)
    suffix = "arrow"

    def table(self, frame: pd.DataFrame) -> pa.Table:
        try:
            table = pa.Table.from_pandas(frame, preserve_index=self.index)
            for place, name in enumerate(table.column_names):
                kind = self.kinds.get(name)
                if kind is not None and table.schema.field(place).type != kind:
                    table = table.set_column(place, pa.field(name, kind), table.column(place).cast(kind))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            reason = "; ".join(map(str, error.args))
            raise InputError(
                f"expected columns of values of one type each, found: {reason}; convert the column with astype before it is "
                "written, or pass schema="
            ) from error
        return table

    def facts(self, frame: pd.DataFrame) -> dict[str, Any]:
        schema = self.table(frame.iloc[:0] if not self._open(frame) else frame).schema
        return {"rows": len(frame), "schema": schema.remove_metadata().serialize().to_pybytes().hex()}

    def _open(self, frame: pd.DataFrame) -> bool:
        """Whether values have to be looked at to tell the types."""
        return any(map(pd.api.types.is_object_dtype, [*frame.dtypes, frame.index.dtype]))

    def write(self, frame: pd.DataFrame, file: Any, first: bool) -> None:
        self.write_table(self.table(frame), file)

    def write_table(self, table: pa.Table, file: Any) -> None:
        options = pa.ipc.IpcWriteOptions(compression=self.compression)
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            writer.write_table(table)

    def read_table(self, file: Any) -> pa.Table:
        return pa.ipc.open_file(file).read_all()

    def join(self, pieces: Sequence[Callable[[], Any]], file: Any) -> None:
        options = pa.ipc.IpcWriteOptions(compression=self.compression)
        writer = None
        for piece in pieces:
            with piece() as opened:
                table = self.read_table(opened)
                writer = writer or pa.ipc.new_file(file, table.schema, options=options)
                writer.write_table(table)
        if writer is not None:
            writer.close()


@dataclass(frozen=True)
class ParquetFormat(ArrowFormat):
    """One file of row groups."""

    suffix = "parquet"

    def write_table(self, table: pa.Table, file: Any) -> None:
        pyarrow.parquet.write_table(table, file, compression=self.compression or "none", **self.options)

    def read_table(self, file: Any) -> pa.Table:
        return pyarrow.parquet.ParquetFile(io.BytesIO(file.read())).read()

    def check_fits(self, meta: pd.DataFrame, file: Any, path: str) -> None:
        """
        Check that rows like `meta` can stand beside those of a file.

        Raises
        ------
        InputError
            Columns or types differ, as far as they are known.
        """
        there, ours = pyarrow.parquet.read_schema(file), self.table(meta).schema
        same_names(there.names, ours.names, path, "the frame")
        for name in self.kinds:
            if _as_stored(there.field(name).type) != _as_stored(ours.field(name).type):
                raise InputError(
                    f"expected column {name!r} to have the type that it has in {path} ({there.field(name).type}) to be added "
                    f"there, found {ours.field(name).type}; convert it with astype, or write to another directory"
                )


class Format(Protocol):
    """How partitions become files."""

    @property
    def suffix(self) -> str: ...

    def write(self, frame: pd.DataFrame, file: Any, first: bool) -> None:
        """A partition as a file of its own; `first` of those that are joined."""

    def facts(self, frame: pd.DataFrame) -> dict[str, Any]:
        """What there is to know of a partition when all are written."""

    def join(self, pieces: Sequence[Callable[[], Any]], file: Any) -> None:
        """Files as one, each opened by a call."""


def packing(file: Any, compression: str | None) -> Any:
    """A file that compresses what is written to it; closing it leaves the other open."""
    if compression is None:
        return _Open(file)
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="wb", mtime=0)
    import bz2
    import lzma

    if compression in ("bz2", "xz"):
        return bz2.BZ2File(file, "wb") if compression == "bz2" else lzma.LZMAFile(file, "wb")
    raise InputError(f"expected compression to be 'infer', 'gzip', 'bz2', 'xz' or None to write text, found {compression!r}")


class _Open(io.RawIOBase):
    """Passes on what is written and does not close."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(data)
        return len(data)


def joined(pieces: Iterable[Callable[[], Any]], file: Any) -> None:
    """The bytes of files one after the other; compressed ones are members of one compressed file."""
    for piece in pieces:
        with piece() as opened:
            shutil.copyfileobj(opened, file, 1 << 20)


def _as_stored(kind: Any) -> pa.DataType:
    """Of types that differ in memory alone one."""
    kind = plain_type(kind)
    return pa.string() if pa.types.is_large_string(kind) else pa.binary() if pa.types.is_large_binary(kind) else kind


def _wider(one: Any, other: Any) -> pa.DataType:
    """Decimals with room for those of both types."""
    scale = max(one.scale, other.scale)
    digits = scale + max(one.precision - one.scale, other.precision - other.scale)
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def same_types(summaries: Sequence[dict[str, Any]]) -> pa.Schema:
    """
    The types that the files of a write have, given what each partition says; a column without values fits any.

    Raises
    ------
    InputError
        Two partitions differ.
    """
    first: dict[str, tuple[pa.DataType, int]] = {}
    schema = None
    for summary in summaries:
        schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(summary["schema"])))
        for column in schema:
            kind, number = first.setdefault(column.name, (column.type, summary["partition"]))
            if pa.types.is_null(kind):
                first[column.name] = (column.type, summary["partition"])
            elif pa.types.is_decimal(kind) and pa.types.is_decimal(column.type):
                first[column.name] = (_wider(kind, column.type), number)
            elif column.type != kind and not pa.types.is_null(column.type):
                raise InputError(
                    f"expected values of one type in column {column.name!r}, found {kind} in partition {number} and "
                    f"{column.type} in partition {summary['partition']}; convert it with astype before it is written, or pass "
                    f"schema={{{column.name!r}: type}}"
                )
    return pa.schema([(name, first[name][0]) for name in (schema.names if schema else ())])

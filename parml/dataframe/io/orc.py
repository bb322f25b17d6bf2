"""``read_orc`` by the stripes of files, and ``to_orc``."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.orc

from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.arrow_tables import check_schema, empty_frame, to_frame
from parml.dataframe.io.files import File, as_path, expand_paths, identity, open_file, same_names
from parml.dataframe.io.formats import ArrowFormat
from parml.dataframe.io.write import kinds_of, to_files
from parml.dataframe.plan import Columns, Source
from parml.dataframe.plan_across import labelled
from parml.dataframe.series import Series
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.hashing import tokenize


def read_orc(
    paths: Any,
    columns: Sequence[Any] | None = None,
    index: Any = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> DataFrame:
    """
    A frame of the rows of ORC files, one partition for each stripe.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.orc``) or patterns; or URLs. All have the same columns and types.
    columns : list of columns, optional
        Default: all. Columns that nobody uses are not read anyway.
    index : column or list of columns, optional
        Become the labels. Default: rows are numbered as by `read_csv`.
    storage_options : dict, optional
        For fsspec, where `paths` are URLs.

    Returns
    -------
    DataFrame
        Columns of whole numbers and truth values are read once beforehand, as only they tell whether values are missing.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.DataFrame({"x": range(6)}).to_orc(os.path.join(folder, "x.orc"))
    ...     pdf.read_orc(folder).x.sum().compute()
    np.int64(15)
    """
    files = expand_paths(paths, ".orc", storage_options)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(_described, files))
    schema = found[0][0]
    for file, (other, _, _) in zip(files, found, strict=True):
        same_names(schema.names, other.names, files[0], file)
        check_schema(schema, other, files[0], file)
    meta = empty_frame(schema, set().union(*(nullable for _, _, nullable in found)))
    labels = [] if index is None else [index] if pd.api.types.is_scalar(index) else list(index)
    wanted = meta.columns if columns is None else [*columns, *(name for name in labels if name not in columns)]
    for name in wanted if index is None else [*wanted, *labels]:
        if name not in meta.columns:
            known = ", ".join(map(repr, meta.columns))
            raise MissingColumn(f"expected columns of the files, found {name!r}; they have {known}")
    reader = OrcReader(meta[list(wanted)])
    parts = [Stripe(file, i) for file, (_, stripes, _) in zip(files, found, strict=True) for i in range(stripes)]
    origin = tokenize("read_orc", [identity(file) for file in files])
    frame = DataFrame(Source(reader, parts or [Stripe(files[0], None)], origin=origin, counted=True))
    return frame if index is None else frame.set_index(index, sort=False)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Stripe:
    """One stripe of a file; none: no rows."""

    path: File
    number: int | None


@dataclass(frozen=True)
class OrcReader:
    """Reads some columns of one stripe."""

    meta: pd.DataFrame
    name: str = field(default="read_orc", init=False)

    def load(self, part: Stripe) -> pd.DataFrame:
        if part.number is None:
            return self.meta
        with open_file(part.path) as opened:
            batch = pyarrow.orc.ORCFile(opened).read_stripe(part.number, columns=list(self.meta.columns))
        frame = to_frame(pa.Table.from_batches([batch]), self.meta)
        frame.index = pd.RangeIndex(len(frame))
        return frame

    def argument(self, part: Stripe) -> Stripe:
        return part

    def narrowed(self, wanted: Columns) -> OrcReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def __parml_token__(self) -> str:
        return tokenize(self.meta)

    def describe(self) -> str:
        return f"read_orc columns {', '.join(map(repr, self.meta.columns))}"


def _described(path: File) -> tuple[pa.Schema, int, set[str]]:
    """Schema, the number of stripes, and the columns with nulls of those whose dtype depends on it."""
    try:
        with open_file(path) as opened:
            file = pyarrow.orc.ORCFile(opened)
            counted = [
                field.name for field in file.schema if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
            ]
            nullable: set[str] = set()
            for number in range(file.nstripes if counted else 0):
                batch = file.read_stripe(number, columns=counted)
                nullable |= {name for name in counted if batch.column(name).null_count}
            return file.schema, file.nstripes, nullable
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InputError(f"expected an ORC file at {path}, found another kind or half of one: {error}") from error


@dataclass(frozen=True)
class OrcFormat(ArrowFormat):
    """One file of stripes."""

    suffix = "orc"

    def write_table(self, table: pa.Table, file: Any) -> None:
        pyarrow.orc.write_table(table, file, compression=self.compression or "uncompressed", **self.options)

    def read_table(self, file: Any) -> pa.Table:
        return pyarrow.orc.ORCFile(io.BytesIO(file.read())).read()

    def join(self, pieces: Sequence[Callable[[], Any]], file: Any) -> None:
        with pyarrow.orc.ORCWriter(file, compression=self.compression or "uncompressed", **self.options) as writer:
            for piece in pieces:
                with piece() as opened:
                    writer.write(self.read_table(opened))


def to_orc(
    self: Frame,
    path: Any,
    *,
    index: bool | None = None,
    compression: str | None = None,
    schema: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    compute: bool = True,
    engine: Engine | None = None,
    **options: Any,
) -> Any:
    """
    Write the rows as ORC.

    Parameters
    ----------
    path, storage_options, compute, engine
        As in `to_csv`.
    index : bool, optional
        Whether labels are columns. Default: no, and labels other than row numbers are refused, as pandas does.
    compression : "snappy", "zlib", "lz4", "zstd" or None
    schema : dict of column to Arrow type, or pyarrow Schema, optional
        As in `to_parquet`.
    **options
        Of :func:`pyarrow.orc.write_table`: ``stripe_size=`` for instance.

    Returns
    -------
    list of str
        The paths of the files.

    Raises
    ------
    InputError
        ORC has no such type: categories, durations, numbers without sign.
    """
    node = labelled(self._node) if index else self._node
    frame = Frame._of(node)
    if isinstance(node.meta, pd.Series):
        frame = frame.to_frame()
    if index:
        frame = frame.reset_index()
    elif index is None and not _is_numbered(node):
        raise InputError(
            "expected rows that are numbered from 0 to be written as ORC, which has no labels, found others; pass index=True "
            "to write them as columns, or index=False to leave them out"
        )
    form = OrcFormat(False, kinds_of(frame._meta, schema), compression, options)
    try:
        form.write_table(form.table(frame._meta).slice(0, 0), io.BytesIO())
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"expected types that ORC has, found: {error}; convert the column with astype") from error
    return to_files(frame._node, form, as_path(path), storage_options, compute, engine)


def _is_numbered(node: Any) -> bool:
    return node.rows.counted_by is not None or (isinstance(node.meta.index, pd.RangeIndex) and node.meta.index.name is None)


for _collection in (DataFrame, Series):
    setattr(_collection, to_orc.__name__, to_orc)

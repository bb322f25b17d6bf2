"""``to_csv``, ``to_json``, ``to_feather`` and ``to_parquet``: each partition is written by the task that makes it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa

from parml.dataframe import steps
from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.files import MOVING, as_path
from parml.dataframe.io.formats import ArrowFormat, CsvFormat, Format, JsonFormat, ParquetFormat
from parml.dataframe.io.staging import Files, LocalFiles, Staging, files_of
from parml.dataframe.io.write_steps import Join, Move, WritePart
from parml.dataframe.plan import Blockwise, Node, Source
from parml.dataframe.plan_across import Reduce, Select, labelled
from parml.dataframe.series import Series
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.hashing import tokenize

_PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}


def to_csv(
    self: Frame,
    path: Any,
    *,
    index: bool = True,
    header: Any = True,
    compression: str | None = "infer",
    storage_options: Mapping[str, Any] | None = None,
    compute: bool = True,
    engine: Engine | None = None,
    **options: Any,
) -> Any:
    """
    Write the rows as CSV.

    Parameters
    ----------
    path : str or path
        One file, with the bytes that pandas would write; or with a ``*`` in its name, in whose place each partition's number
        stands, one file for each partition. A file that is there is replaced when the new one is complete.
    index : bool
        Whether to write labels. Numbering the rows of files reads them once more.
    header, **options
        As in :meth:`pandas.DataFrame.to_csv`.
    compression : "infer", "gzip", "bz2", "xz" or None
    storage_options : dict, optional
        For fsspec, where `path` is a URL.
    compute : bool
        False returns what writes when it is computed.
    engine : Engine, optional

    Returns
    -------
    list of str
        The paths of the files.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"x": [1, 2, 3]}), npartitions=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (path,) = frame.to_csv(os.path.join(folder, "x.csv"), index=False)
    ...     open(path).read()
    'x\\n1\\n2\\n3\\n'
    """
    path = as_path(path)
    node = labelled(self._node) if index else self._node
    form = CsvFormat(options, _compression(path, compression), header, index)
    return to_files(node, form, path, storage_options, compute, engine)


def to_json(
    self: Frame,
    path: Any,
    *,
    orient: str = "records",
    lines: bool = True,
    compression: str | None = "infer",
    storage_options: Mapping[str, Any] | None = None,
    compute: bool = True,
    engine: Engine | None = None,
    **options: Any,
) -> Any:
    """
    Write the rows as JSON, one object in each line; a series is written as a frame of one column.

    Parameters
    ----------
    path, compression, storage_options, compute, engine
        As in `to_csv`.
    orient, lines
        Only ``"records"`` and True.
    **options
        As in :meth:`pandas.DataFrame.to_json`.

    Returns
    -------
    list of str
        The paths of the files.
    """
    if orient != "records" or lines is not True:
        raise InputError(f"expected orient='records' and lines=True, found {orient!r} and {lines!r}; other JSON has no parts")
    path = as_path(path)
    return to_files(self._node, JsonFormat(options, _compression(path, compression)), path, storage_options, compute, engine)


def to_feather(
    self: DataFrame,
    path: Any,
    *,
    compression: str | None = "lz4",
    schema: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    compute: bool = True,
    engine: Engine | None = None,
) -> Any:
    """
    Write the rows in the Arrow IPC format, which is Feather's second version.

    Parameters
    ----------
    path, storage_options, compute, engine
        As in `to_csv`.
    compression : "lz4", "zstd" or None
    schema : dict of column to Arrow type, or pyarrow Schema, optional
        Default: what the dtypes say; of columns of objects, what their values are.

    Returns
    -------
    list of str
        The paths of the files.
    """
    form = ArrowFormat(_has_labels(self._node), kinds_of(self._meta, schema), compression)
    return to_files(self._node, form, as_path(path), storage_options, compute, engine)


def to_parquet(
    self: DataFrame,
    path: Any,
    *,
    compression: str | None = "snappy",
    index: bool | None = None,
    partition_cols: Sequence[Any] | None = None,
    partition_on: Sequence[Any] | None = None,
    overwrite: bool = False,
    append: bool = False,
    schema: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    compute: bool = True,
    engine: Engine | None = None,
    **options: Any,
) -> Any:
    """
    Write the rows as a directory of Parquet files, one for each partition.

    The files appear in the directory when all are complete. If this process or the machine is killed before, the same call
    goes on from the files that are, so do not change the functions in between; a worker that is killed is replaced, as in every
    computation. What raises leaves nothing.

    Parameters
    ----------
    path : str or path
        A directory, or a URL of one.
    compression : "snappy", "zstd", "gzip", "brotli", "lz4" or None
    index : bool, optional
        Whether labels are columns. Default: yes, unless they are the numbers of rows of files.
    partition_cols : column or list of columns, optional
        Rows go to directories named ``column=value``. `partition_on` is another name of it.
    overwrite : bool
        Replace the files that are there. They are removed when the new ones are complete, just before these are moved to their
        place; parml does not read the directory in between.
    append : bool
        Add files to those that are there.
    schema : dict of column to Arrow type, or pyarrow Schema, optional
        Default: what the dtypes say; of columns of objects, what their values are.
    storage_options : dict, optional
        For fsspec, where `path` is a URL.
    compute : bool
        False returns what writes when it is computed.
    engine : Engine, optional
    **options
        Of :func:`pyarrow.parquet.write_table`: ``row_group_size=`` for instance.

    Returns
    -------
    list of str
        The paths of the files.

    Raises
    ------
    InputError
        There are files already; or partitions differ in the type of a column.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"x": [1, 2, 3], "k": list("aba")}), npartitions=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = frame.to_parquet(folder, partition_cols=["k"])
    ...     pdf.read_parquet(folder, filters=[("k", "==", "a")]).x.sum().compute()
    np.int64(4)
    """
    if overwrite and append:
        raise InputError("expected overwrite or append, found both; choose one")
    keys = partition_cols if partition_cols is not None else partition_on
    keys = [] if keys is None else [keys] if pd.api.types.is_scalar(keys) else list(keys)
    for key in keys:
        if key not in self.columns:
            raise MissingColumn(f"expected columns in partition_cols, found {key!r}; they are {list(self.columns)}")
    if keys and len(keys) == len(self.columns):
        raise InputError(f"expected a column besides those of partition_cols, found none but {keys}; leave one out")
    node = labelled(self._node) if index else self._node
    labels = _has_labels(self._node) if index is None else index
    form = ParquetFormat(labels, kinds_of(self._meta.drop(columns=keys), schema), compression, options)
    folder = as_path(path)
    files = files_of(folder, storage_options)
    if isinstance(files, LocalFiles) and os.path.isfile(folder):
        raise InputError(
            f"expected a directory, or a path where none is yet, found the file {folder}; remove it, or choose another"
        )
    moving = posixpath.join(folder, MOVING)
    begun = files.open(moving).read().decode() if files.exists(moving) else None
    there = [name for name in _data_files(files, folder) if begun is None or f"-{begun}." not in name]
    if there and not overwrite and not append:
        raise InputError(
            f"expected no Parquet files in {folder}, found {len(there)}; pass overwrite=True to replace them, append=True to "
            "add to them, or another path"
        )
    if append and there:
        with files.open(posixpath.join(folder, there[0])) as file:
            form.check_fits(self._meta.drop(columns=keys), file, there[0])
    start = (
        1 + max([int(found[1]) for name in there if (found := re.search(r"part-(\d+)-", name))], default=-1) if append else 0
    )
    token = tokenize(node.token, form, keys, there if append else None)[:12]
    staging = Staging(folder, token, files)
    if not append:
        for name in {name.split("/")[0] for name in files.names(folder) if name.startswith(".parml-")}:
            if name != posixpath.basename(staging.hidden):
                files.remove(posixpath.join(folder, name))
    names = partial(_part_name, start, token)
    finish = Move(staging, form, tuple(there) if overwrite else ())
    return _start(node, WritePart(staging, form, names, tuple(keys), joined=False), finish, compute, engine)


def _part_name(start: int, token: str, number: int) -> str:
    return f"part-{start + number:05d}-{token}.parquet"


def _data_files(files: Files, folder: str) -> list[str]:
    names = [name for name in files.names(folder) if not any(part.startswith((".", "_")) for part in name.split("/"))]
    return [name for name in names if name.endswith(".parquet")]


def _has_labels(node: Node) -> bool:
    return node.rows.counted_by is None


def _compression(path: str, compression: str | None) -> str | None:
    return _PACKED.get(os.path.splitext(path)[1]) if compression == "infer" else compression


def kinds_of(meta: pd.DataFrame, schema: Any) -> dict[str, pa.DataType]:
    """The Arrow types that are known before the rows are."""
    known = (
        meta[[name for name, dtype in meta.dtypes.items() if not pd.api.types.is_object_dtype(dtype)]]
        if meta.columns.is_unique
        else meta
    )
    found = {field.name: field.type for field in pa.Schema.from_pandas(known, preserve_index=False)}
    if schema is None:
        return found
    given = schema if isinstance(schema, Mapping) else {field.name: field.type for field in schema}
    return {**found, **given}


def to_files(node: Node, form: Format, path: str, options: Any, compute: bool, engine: Engine | None) -> Any:
    """One file of all partitions, or one of each where the name has a star."""
    folder, name = posixpath.split(path)
    if "*" in folder or name.count("*") > 1 or not name:
        raise InputError(f"expected a path of a file, with one * in its name or none, found {path}")
    staging = Staging(folder, tokenize(node.token, form, path)[:12], files_of(path, options))
    if "*" in name:
        digits = len(str(node.npartitions - 1))
        names = partial(_starred, name, digits)
        return _start(node, WritePart(staging, form, names, (), joined=False), Move(staging, form, ()), compute, engine)
    return _start(node, WritePart(staging, form, str, (), joined=True), Join(staging, form, name), compute, engine)


def _starred(pattern: str, digits: int, number: int) -> str:
    return pattern.replace("*", f"{number:0{digits}d}")


def _start(node: Node, write: WritePart, finish: Move | Join, compute: bool, engine: Engine | None) -> Any:
    """Write the partitions that are not there from the same write before, then finish."""
    names = set(write.staging.files.names(write.staging.hidden))
    found = {number: write.staging.summary(number) for number in range(node.npartitions) if f"done/{number}.json" in names}
    done = {number: summary for number, summary in found.items() if summary is not None}
    missing = [number for number in range(node.npartitions) if number not in done]
    finish = finish.after(list(done.values()))
    if not missing:
        missing = [0]  # something has to run, and a partition that is written again is the same
    chosen = node if len(missing) == node.npartitions else Select(node, missing)
    written = Blockwise(f"to_{write.form.suffix}", write, (chosen, Source.of_numbers(missing)), meta=0)
    result = Frame._of(Reduce("finish_write", written, steps.listed, finish, []))
    if not compute:
        return result
    try:
        return result.compute(engine=engine)
    except BaseException:
        # Whoever mends a function and calls it again shall not get what it wrote before: functions are known by their names.
        write.staging.discard()
        raise


for _writer in (to_csv, to_json, to_feather, to_parquet):
    setattr(DataFrame, _writer.__name__, _writer)
for _writer in (to_csv, to_json):
    setattr(Series, _writer.__name__, _writer)

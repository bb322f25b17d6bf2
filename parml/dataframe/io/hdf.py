"""``read_hdf`` by ranges of rows, and ``to_hdf``; both by pandas and PyTables, where it is installed."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.convert import like_meta
from parml.dataframe.io.files import as_path, expand_paths, identity, is_url
from parml.dataframe.io.write import to_files
from parml.dataframe.meta import emptied
from parml.dataframe.plan import Columns, Source
from parml.dataframe.plan_across import labelled
from parml.dataframe.series import Series
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.hashing import tokenize

_SAMPLED_ROWS = 100
_ONE_AT_A_TIME = threading.Lock()
"""PyTables may be used by one thread of a process at a time."""


def read_hdf(
    paths: Any,
    key: str,
    *,
    columns: Sequence[Any] | None = None,
    start: int = 0,
    stop: int | None = None,
    chunksize: int = 1_000_000,
) -> Any:
    """
    A frame or series of what pandas has written to HDF5 files.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.h5``) or patterns, on this machine.
    key : str
        What is read of each file; a pattern such as ``"/data*"`` names several, in the order of their names.
    columns : list of columns, optional
        Default: all.
    start, stop : int, optional
        The first row of each key, and the one before which to end.
    chunksize : int
        The number of rows of a partition. What was not written with ``format="table"`` is read in whole by each partition.

    Returns
    -------
    DataFrame or Series
        With the labels that were written.

    Raises
    ------
    ImportError
        PyTables is not installed.
    """
    _tables()
    files = expand_paths(paths, ".h5")
    if any(is_url(str(file)) for file in files):
        raise InputError(f"expected HDF5 files on this machine, found {files[0]}; PyTables reads no others")
    parts = [part for file in files for part in _parts(str(file), key, start, stop, chunksize)]
    if not parts:
        raise KeyError(f"expected a key like {key!r} in {files[0]}, found none")
    first = parts[0]
    with _opened(first.path) as store:
        meta = emptied(store.select(first.key, start=first.start, stop=min(first.stop, first.start + _SAMPLED_ROWS)))
    reader = HdfReader(meta)
    if columns is not None:
        for column in columns:
            if column not in meta.columns:
                raise MissingColumn(f"expected columns of the files, found {column!r}; they have {list(meta.columns)}")
        reader = replace(reader, meta=meta[list(columns)])
    origin = tokenize("read_hdf", [identity(file) for file in files], parts)
    return Frame._of(Source(reader, parts, origin=origin, counted=False))


def to_hdf(
    self: Frame,
    path: Any,
    key: str,
    *,
    compute: bool = True,
    engine: Engine | None = None,
    **options: Any,
) -> Any:
    """
    Write the rows to HDF5 files, as pandas does with ``format="table"``.

    Parameters
    ----------
    path : str or path
        One file; or with a ``*`` in its name, in whose place each partition's number stands, one file for each partition. A
        file that is there is replaced when the new one is complete.
    key : str
        The name of the table in each file.
    compute, engine
        As in `to_csv`.
    **options
        Of :meth:`pandas.HDFStore.append`: ``data_columns=``, ``complevel=`` or, where a text of a later partition may be
        longer than those of the first, ``min_itemsize=``.

    Returns
    -------
    list of str
        The paths of the files.

    Raises
    ------
    ImportError
        PyTables is not installed.
    """
    _tables()
    refused = {"mode": "w", "append": False, "format": "table"}
    for name, value in refused.items():
        if options.pop(name, value) != value:
            raise InputError(f"expected {name}={value!r} in to_hdf, as files are replaced when the new ones are complete")
    form = HdfFormat(key, isinstance(self._meta, pd.Series), options)
    return to_files(labelled(self._node), form, as_path(path), None, compute, engine)


@contextmanager
def _opened(path: str, mode: Any = "r") -> Iterator[pd.HDFStore]:
    with _ONE_AT_A_TIME, pd.HDFStore(path, mode=mode) as store:
        yield store


def _tables() -> None:
    if importlib.util.find_spec("tables") is None:
        raise ImportError("expected PyTables, by which pandas reads and writes HDF5, found none; pip install tables")


@dataclass(frozen=True, slots=True)
class Rows:
    """A range of the rows of a key."""

    path: str
    key: str
    start: int
    stop: int


def _parts(path: str, pattern: str, start: int, stop: int | None, chunksize: int) -> list[Rows]:
    parts = []
    with _opened(path) as store:
        for key in sorted(store.keys()):
            if not fnmatch.fnmatchcase(key, "/" + pattern.lstrip("/")):
                continue
            storer = store.get_storer(key)
            total = storer.nrows if storer.is_table else len(store.get(key))
            end = total if stop is None else min(stop, total)
            bounds = [*range(start, end, chunksize), max(start, end)]
            parts += [Rows(path, key, a, b) for a, b in zip(bounds, bounds[1:] or bounds, strict=False)]
    return parts


@dataclass(frozen=True)
class HdfReader:
    """Reads some columns of a range of rows."""

    meta: Any
    name: str = field(default="read_hdf", init=False)

    def load(self, part: Rows) -> Any:
        with _opened(part.path) as store:
            chosen: dict[str, Any] = {}
            if isinstance(self.meta, pd.DataFrame) and store.get_storer(part.key).is_table:
                chosen = {"columns": list(self.meta.columns)}
            made = store.select(part.key, start=part.start, stop=part.stop, **chosen)
        return like_meta(self.meta, made[list(self.meta.columns)] if isinstance(self.meta, pd.DataFrame) else made)

    def argument(self, part: Rows) -> Rows:
        return part

    def lengths(self, parts: Sequence[Rows]) -> list[int]:
        return [part.stop - part.start for part in parts]

    def narrowed(self, wanted: Columns) -> HdfReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def __parml_token__(self) -> str:
        return tokenize(self.meta)

    def describe(self) -> str:
        return f"read_hdf columns {', '.join(map(repr, self.meta.columns))}" if self.meta.ndim > 1 else "read_hdf"


@dataclass(frozen=True)
class HdfFormat:
    """A table that rows are appended to. PyTables writes files by their path alone: made beside, then copied."""

    key: str
    series: bool
    options: dict[str, Any]
    suffix = "h5"

    def write(self, frame: pd.DataFrame, file: Any, first: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "part.h5")
            self._append(path, frame)
            with open(path, "rb") as made:
                shutil.copyfileobj(made, file, 1 << 20)

    def facts(self, frame: pd.DataFrame) -> dict[str, Any]:
        return {"rows": len(frame)}

    def join(self, pieces: Sequence[Callable[[], Any]], file: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            whole, part = os.path.join(folder, "whole.h5"), os.path.join(folder, "part.h5")
            with _opened(whole, "w"):
                pass
            for piece in pieces:
                with piece() as opened, open(part, "wb") as copy:
                    shutil.copyfileobj(opened, copy, 1 << 20)
                with _opened(part) as store:
                    rows = store.get(self.key) if self.key in store else None
                if rows is not None:
                    self._append(whole, rows.to_frame() if isinstance(rows, pd.Series) else rows)
            with open(whole, "rb") as made:
                shutil.copyfileobj(made, file, 1 << 20)

    def _append(self, path: str, frame: pd.DataFrame) -> None:
        values = frame.iloc[:, 0] if self.series else frame
        with _opened(path, "a") as store:
            if not len(values):  # pandas writes nothing for no rows
                return
            store.append(self.key, values, format="table", **self.options)


for _collection in (DataFrame, Series):
    setattr(_collection, to_hdf.__name__, to_hdf)

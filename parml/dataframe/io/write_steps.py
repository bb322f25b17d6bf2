"""The tasks of a write: a partition into its files, and all files to their place."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa

from parml.dataframe import steps
from parml.dataframe.io.formats import ArrowFormat, Format, same_types
from parml.dataframe.io.hive import NULL
from parml.dataframe.io.staging import Staging, Write


@dataclass(frozen=True)
class WritePart:
    """Writes one partition; returns a small summary."""

    staging: Staging
    form: Format
    name_of: Any
    keys: tuple[Any, ...]
    joined: bool

    def __call__(self, frame: Any, number: int) -> dict[str, Any]:
        frame = frame.to_frame() if isinstance(frame, pd.Series) else frame
        pieces = list(self._pieces(frame, number))
        plain = frame.drop(columns=list(self.keys)) if self.keys else frame
        return self.staging.write(number, pieces, **self.form.facts(plain))

    def _pieces(self, frame: pd.DataFrame, number: int) -> Iterator[tuple[str, Write]]:
        name, first = self.name_of(number), number == 0 or not self.joined
        if not self.keys:
            yield name, partial(self.form.write, frame, first=first)
            return
        for values, rows in frame.groupby(list(self.keys), dropna=False, observed=True):
            folders = [
                f"{key}={NULL if pd.isna(value) else quote(str(value), safe='')}"
                for key, value in zip(self.keys, values, strict=True)
            ]
            yield "/".join([*folders, name]), partial(self.form.write, rows.drop(columns=list(self.keys)), first=first)


@dataclass(frozen=True)
class Finish:
    """What is done once all partitions are written."""

    staging: Staging
    form: Format

    def _files(self, summaries: Sequence[dict[str, Any]]) -> list[str]:
        """The names of the files in order, all of the same types."""
        by_number = {summary["partition"]: summary for summary in summaries}
        ordered = [by_number[number] for number in sorted(by_number)]
        if isinstance(self.form, ArrowFormat):
            schema = same_types(ordered)
            for summary in ordered:
                kinds = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(summary["schema"])))
                if kinds != schema:
                    for name in summary["files"]:
                        self._convert(name, schema)
        return [name for summary in ordered for name in summary["files"]]

    def _convert(self, name: str, schema: pa.Schema) -> None:
        """Give columns of a file that have no value the type that they have in others."""
        form, path = self.form, self.staging.staged(name)
        if not isinstance(form, ArrowFormat) or not self.staging.files.exists(path):  # it was moved already
            return
        with self.staging.files.open(path) as file:
            table = form.read_table(file)
        kinds = [field.with_type(schema.field(field.name).type) for field in table.schema]
        table = table.cast(pa.schema(kinds, metadata=table.schema.metadata))
        self.staging.files.write(path, partial(form.write_table, table))


@dataclass(frozen=True)
class Move(Finish):
    """Each file to its place."""

    old: tuple[str, ...]
    done: tuple[dict[str, Any], ...] = ()

    def after(self, done: Sequence[dict[str, Any]]) -> Move:
        return Move(self.staging, self.form, self.old, tuple(done))

    def __call__(self, summaries: Sequence[Any]) -> list[str]:
        names = self._files([*self.done, *steps.listed(list(summaries))])
        self.staging.move(names, self.old)
        return [posixpath.join(self.staging.folder, name) for name in names]


@dataclass(frozen=True)
class Join(Finish):
    """All files as one."""

    name: str
    done: tuple[dict[str, Any], ...] = ()

    def after(self, done: Sequence[dict[str, Any]]) -> Join:
        return Join(self.staging, self.form, self.name, tuple(done))

    def __call__(self, summaries: Sequence[Any]) -> list[str]:
        path = posixpath.join(self.staging.folder, self.name)
        names = self._files([*self.done, *steps.listed(list(summaries))])
        pieces = [partial(self.staging.files.open, self.staging.staged(name)) for name in names]
        self.staging.files.write(path, partial(self.form.join, pieces))
        self.staging.discard()
        return [path]

"""What reads and parses one block of a CSV file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from parml.dataframe.io.csv_errors import Diagnosis
from parml.dataframe.io.csv_rows import Block
from parml.dataframe.io.csv_types import ColumnType, series_of, to_pandas
from parml.dataframe.io.files import open_file, read_range
from parml.dataframe.plan import Columns
from parml.dataframe.predicate import EVERYTHING, Predicate
from parml_core.errors import InputError
from parml_core.hashing import tokenize

_CHUNK_BYTES = 4 << 20

# What pandas.read_csv takes for a missing value.
NULLS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How the files are written."""

    sep: str
    quotechar: str
    nulls: tuple[str, ...]
    newlines: bool = False
    trusted: bool = True
    decimal: str = "."
    given: tuple[str, ...] | None = None
    """The names of the columns, where the files do not have them."""
    thousands: str | None = None
    comment: str | None = None
    encoding: str = "utf-8"
    true_values: tuple[str, ...] = ()
    false_values: tuple[str, ...] = ()

    @property
    def quote(self) -> bytes:
        return self.quotechar.encode()

    def plain(self, text: bytes) -> bytes:
        """Whole lines as UTF-8, without comments."""
        text = self.without_comments(text)
        return text if self.encoding == "utf-8" else text.decode(self.encoding).encode()

    def without_comments(self, text: bytes) -> bytes:
        """Whole lines as far as comments begin, which fields in quotes may seem to hold."""
        if self.comment is None or self.comment.encode() not in text:
            return text
        quote, sep, mark = (re.escape(each.encode()) for each in (self.quotechar, self.sep, self.comment))
        field = rb"(?:\A|(?<=[%s\n]))%s[^%s]*%s" % (sep, quote, quote, quote)
        return re.sub(rb"(%s)|%s[^\r\n]*" % (field, mark), rb"\1", text)

    def is_row(self, line: bytes) -> bool:
        """Whether a line is one, and not blank or a comment."""
        return bool(self.plain(line).strip(b"\r\n"))

    def names(self, header: bytes) -> list[str]:
        """The columns that a first line names; pandas' names for those without or twice."""
        if self.given is not None:
            return list(self.given)
        return list(pd.read_csv(io.BytesIO(self.plain(header)), sep=self.sep, quotechar=self.quotechar, nrows=0).columns)

    def parse(self, text: bytes, names: Sequence[str], types: dict[str, pa.DataType], chosen: Sequence[str] = ()) -> pa.Table:
        """A table of some of the columns; types that are not given are inferred."""
        quoted = self.quote in text
        try:
            return pyarrow.csv.read_csv(pa.BufferReader(text), **self._options(quoted, names, types, chosen))
        except pa.ArrowInvalid:
            if len(text) <= _CHUNK_BYTES:
                raise
            options = self._options(quoted, names, types, chosen, len(text) + 1)  # one row may be longer than a chunk
            return pyarrow.csv.read_csv(pa.BufferReader(text), **options)

    def parse_unquoted(
        self, block: Block, names: Sequence[str], types: dict[str, pa.DataType], chosen: Sequence[str]
    ) -> pa.Table | None:
        """
        What `parse` makes of a block without having all of its text at once, as the fresh memory for that takes a third as
        much time as the parsing.

        None where a quote is found, where the text is to be changed before, or what only `parse` can tell the reason of.
        """
        if self.comment is not None or self.encoding != "utf-8":
            return None
        with open_file(block.path) as file:
            pieces = UnquotedPieces(file, block, self.quote)
            try:
                options = self._options(False, names, types, chosen)
                table = pyarrow.csv.read_csv(pa.PythonFile(pieces, mode="r"), **options)
            except pa.ArrowInvalid:
                return None
        return None if pieces.quoted else table

    def stream(
        self, text: bytes, names: Sequence[str], types: dict[str, pa.DataType], chosen: Sequence[str]
    ) -> Iterator[pa.Table]:
        """What `parse` makes, piece by piece, of rows that are no longer than a piece."""
        options = self._options(self.quote in text, names, types, chosen)
        for batch in pyarrow.csv.open_csv(pa.BufferReader(text), **options):
            yield pa.Table.from_batches([batch])

    def _options(
        self,
        quoted: bool,
        names: Sequence[str],
        types: dict[str, pa.DataType],
        chosen: Sequence[str],
        chunk_bytes: int = _CHUNK_BYTES,
    ) -> dict[str, Any]:
        convert = pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(chosen),
            null_values=list(self.nulls),
            strings_can_be_null=True,
            true_values=["True", "TRUE", "true", *self.true_values],
            false_values=["False", "FALSE", "false", *self.false_values],
            decimal_point=self.decimal,
        )
        parse = pyarrow.csv.ParseOptions(
            delimiter=self.sep, quote_char=self.quotechar, newlines_in_values=quoted, ignore_empty_lines=True
        )
        # One thread: the engine runs as many of these at a time as there are threads to use.
        read = pyarrow.csv.ReadOptions(use_threads=False, column_names=list(names), block_size=chunk_bytes)
        return {"read_options": read, "parse_options": parse, "convert_options": convert}


class UnquotedPieces(io.RawIOBase):
    """The text of a block, piece by piece, up to the first piece that holds a quote."""

    def __init__(self, file: IO[bytes], block: Block, quote: bytes) -> None:
        self._file, self._left, self._quote = file, block.stop - block.start, quote
        self.quoted = False
        file.seek(block.start)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        self.quoted = self.quoted or self._quote in piece
        return b"" if self.quoted else piece


class Parsed:
    """The columns of a table in their dtypes, as a condition looks at them."""

    def __init__(self, table: pa.Table, types: dict[str, ColumnType]) -> None:
        self._table, self._types = table, types

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: Any) -> pd.Series | None:
        return series_of(self._table.column(name), self._types[name]) if name in self._types else None


@dataclass(frozen=True)
class CsvReader:
    """
    Reads and parses one block.

    Parameters
    ----------
    style : Style
    columns : list of str
        All columns of the files.
    types : dict of column to ColumnType
    chosen : tuple of str
        The columns to make.
    condition : Predicate
        Rows that do not meet it are left out; those that are not keep their labels.
    """

    style: Style
    columns: list[str]
    types: dict[str, ColumnType]
    chosen: tuple[str, ...]
    condition: Predicate = EVERYTHING
    name: str = field(default="read_csv", init=False)

    @cached_property
    def meta(self) -> pd.DataFrame:
        return pd.DataFrame({name: pd.Series([], dtype=self.types[name].dtype) for name in self.chosen})

    def load(self, block: Block) -> pd.DataFrame:
        types = {name: self.types[name] for name in self.chosen}
        of_arrow = {name: kind.arrow for name, kind in types.items()}
        # Elsewhere than in a file of this machine, one request is cheaper.
        if self.condition == EVERYTHING and isinstance(block.path, str) and block.stop - block.start > _CHUNK_BYTES:
            table = self.style.parse_unquoted(block, self.columns, of_arrow, self.chosen)
            if table is not None:
                self._check_nulls(table, types, block)
                return self._converted(table, types, block)
        text = self.style.plain(read_range(block.path, block.start, block.stop))
        if not text or text.isspace():
            return self.meta
        self._check_ends(text, block)
        given = (text, self.columns, of_arrow, self.chosen)
        try:
            if self.condition != EVERYTHING:
                return self._restricted(given, types, block)
            table = self.style.parse(*given)
        except pa.ArrowInvalid as error:
            raise self._diagnosis(block).of_parser(error, self.types) from error
        self._check_nulls(table, types, block)
        return self._converted(table, types, block)

    def _restricted(self, given: tuple[Any, ...], types: dict[str, ColumnType], block: Block) -> pd.DataFrame:
        """The rows that may meet the condition, of one piece of the text after the other."""
        try:
            kept = self._kept(self.style.stream(*given), types, block)
        except pa.ArrowInvalid:
            kept = self._kept(iter([self.style.parse(*given)]), types, block)
        frame = self._converted(pa.concat_tables([table for table, _ in kept]), types, block)
        frame.index = pd.Index(np.concatenate([places for _, places in kept]))
        return frame

    def _kept(
        self, tables: Iterator[pa.Table], types: dict[str, ColumnType], block: Block
    ) -> list[tuple[pa.Table, np.ndarray]]:
        start, kept = 0, []
        for table in tables:
            self._check_nulls(table, types, block)
            mask = self.condition.holds(Parsed(table, types))
            kept.append((table.filter(pa.array(mask)), start + np.flatnonzero(mask)))
            start += table.num_rows
        return kept

    def _check_nulls(self, table: pa.Table, types: dict[str, ColumnType], block: Block) -> None:
        for name, kind in types.items():
            if not kind.nullable and table.column(name).null_count:
                raise self._diagnosis(block).of_null(name, kind, self.style.nulls)

    def _converted(self, table: pa.Table, types: dict[str, ColumnType], block: Block) -> pd.DataFrame:
        try:
            return to_pandas(table, types)
        except ValueError as error:
            for name, kind in types.items():
                look = self._diagnosis(block)
                found = kind.date_format and look.of_date(name, kind, table.column(name))
                found = found or look.of_number(name, kind, table.column(name))
                if found:
                    raise found from error
            raise

    def _diagnosis(self, block: Block) -> Diagnosis:
        return Diagnosis(block, self.columns, self.style.sep, self.style.quotechar, self.style.plain)

    def _check_ends(self, text: bytes, block: Block) -> None:
        """A block that ends inside of quotes was cut where no row ends."""
        if self.style.trusted or self.style.newlines or self.style.quote not in text:
            return
        if text.count(self.style.quote) % 2:
            raise InputError(
                f"expected whole rows from byte {block.start} to {block.stop} of {block.path}, found a quote that is open; "
                "pass newlines_in_values=True if quoted values hold line ends, or False if quotes are plain text"
            )

    def argument(self, part: Block) -> Block:
        return part

    def narrowed(self, wanted: Columns) -> CsvReader:
        chosen = tuple(name for name in self.chosen if name in wanted) or self.chosen[:1]
        return replace(self, chosen=chosen)

    def restricted(self, condition: Predicate) -> CsvReader:
        return replace(self, condition=self.condition & condition)

    def __parml_token__(self) -> str:
        return tokenize(self.style, self.columns, [(name, self.types[name]) for name in self.chosen])

    def describe(self) -> str:
        return f"read_csv columns {', '.join(map(repr, self.chosen))}"

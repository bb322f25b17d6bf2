"""What reads and parses one block of a CSV file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from parml.dataframe.io.csv_errors import Diagnosis
from parml.dataframe.io.csv_rows import Block
from parml.dataframe.io.csv_types import ColumnType, to_pandas
from parml.dataframe.io.files import open_file, read_range
from parml.dataframe.plan import Columns
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

    @property
    def quote(self) -> bytes:
        return self.quotechar.encode()

    def names(self, header: bytes) -> list[str]:
        """The columns that a first line names; pandas' names for those without or twice."""
        if self.given is not None:
            return list(self.given)
        return list(pd.read_csv(io.BytesIO(header), sep=self.sep, quotechar=self.quotechar, nrows=0).columns)

    def parse(self, text: bytes, names: Sequence[str], types: dict[str, pa.DataType], chosen: Sequence[str] = ()) -> pa.Table:
        """A table of some of the columns; types that are not given are inferred."""
        quoted = self.quote in text
        try:
            return self._parsed(pa.BufferReader(text), names, types, chosen, quoted, _CHUNK_BYTES)
        except pa.ArrowInvalid:
            if len(text) <= _CHUNK_BYTES:
                raise
            # One row may be longer than a chunk.
            return self._parsed(pa.BufferReader(text), names, types, chosen, quoted, len(text) + 1)

    def parse_unquoted(
        self, block: Block, names: Sequence[str], types: dict[str, pa.DataType], chosen: Sequence[str]
    ) -> pa.Table | None:
        """
        What `parse` makes of a block without having all of its text at once, as the fresh memory for that takes a third as
        much time as the parsing.

        None where a quote is found, or what only `parse` can tell the reason of.
        """
        with open_file(block.path) as file:
            pieces = UnquotedPieces(file, block, self.quote)
            try:
                table = self._parsed(pa.PythonFile(pieces, mode="r"), names, types, chosen, False, _CHUNK_BYTES)
            except pa.ArrowInvalid:
                return None
        return None if pieces.quoted else table

    def _parsed(
        self,
        source: pa.NativeFile,
        names: Sequence[str],
        types: dict[str, pa.DataType],
        chosen: Sequence[str],
        quoted: bool,
        chunk_bytes: int,
    ) -> pa.Table:
        convert = pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(chosen),
            null_values=list(self.nulls),
            strings_can_be_null=True,
            true_values=["True", "TRUE", "true"],
            false_values=["False", "FALSE", "false"],
            decimal_point=self.decimal,
        )
        parse = pyarrow.csv.ParseOptions(
            delimiter=self.sep, quote_char=self.quotechar, newlines_in_values=quoted, ignore_empty_lines=True
        )
        # One thread: the engine runs as many of these at a time as there are threads to use.
        read = pyarrow.csv.ReadOptions(use_threads=False, column_names=list(names), block_size=chunk_bytes)
        return pyarrow.csv.read_csv(source, read_options=read, parse_options=parse, convert_options=convert)


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
    """

    style: Style
    columns: list[str]
    types: dict[str, ColumnType]
    chosen: tuple[str, ...]
    name: str = field(default="read_csv", init=False)

    @cached_property
    def meta(self) -> pd.DataFrame:
        return pd.DataFrame({name: pd.Series([], dtype=self.types[name].dtype) for name in self.chosen})

    def load(self, block: Block) -> pd.DataFrame:
        types = {name: self.types[name] for name in self.chosen}
        of_arrow = {name: kind.arrow for name, kind in types.items()}
        table = None
        if isinstance(block.path, str) and block.stop - block.start > _CHUNK_BYTES:  # elsewhere one request is cheaper
            table = self.style.parse_unquoted(block, self.columns, of_arrow, self.chosen)
        if table is None:
            text = read_range(block.path, block.start, block.stop)
            if not text or text.isspace():
                return self.meta
            self._check_ends(text, block)
            try:
                table = self.style.parse(text, self.columns, of_arrow, self.chosen)
            except pa.ArrowInvalid as error:
                raise self._diagnosis(block).of_parser(error, self.types) from error
        for name, kind in types.items():
            if not kind.nullable and table.column(name).null_count:
                raise self._diagnosis(block).of_null(name, kind, self.style.nulls)
        return self._converted(table, types, block)

    def _converted(self, table: pa.Table, types: dict[str, ColumnType], block: Block) -> pd.DataFrame:
        try:
            return to_pandas(table, types)
        except ValueError as error:
            for name, kind in types.items():
                found = kind.date_format and self._diagnosis(block).of_date(name, kind, table.column(name))
                if found:
                    raise found from error
            raise

    def _diagnosis(self, block: Block) -> Diagnosis:
        return Diagnosis(block, self.columns, self.style.sep, self.style.quotechar)

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

    def __parml_token__(self) -> str:
        return tokenize(self.style, self.columns, [(name, self.types[name]) for name in self.chosen])

    def describe(self) -> str:
        return f"read_csv columns {', '.join(map(repr, self.chosen))}"

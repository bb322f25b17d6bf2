"""What is wrong with a block that does not parse: file, line, column, what was expected, what was found."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from parml.dataframe.io.csv_rows import Block
from parml.dataframe.io.csv_types import ColumnType
from parml.dataframe.io.files import read_range, scan
from parml_core.errors import InputError

_CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to .+?: invalid value '(.*)'", re.DOTALL)
_SHOWN = 60


@dataclass(frozen=True)
class Diagnosis:
    """
    A second look at a block, row by row, once it is known that something is wrong with it.

    Parameters
    ----------
    block : Block
    names : sequence of str
        All columns of the file.
    sep, quotechar : str
    plain : callable
        What is parsed of the bytes of the file.
    """

    block: Block
    names: Sequence[str]
    sep: str
    quotechar: str
    plain: Callable[[bytes], bytes] = bytes

    def of_parser(self, error: pa.ArrowInvalid, types: dict[str, ColumnType]) -> InputError:
        """For what pyarrow said."""
        match = _CONVERSION.search(str(error))
        if match is not None:
            name, text = self.names[int(match[1])], match[2]
            return self._of_value(name, types.get(name), lambda cell: cell.strip() == text.strip(), text)
        line, row = self._find(lambda cells: len(cells) != len(self.names))
        if row is None:
            return InputError(f"expected CSV in {self.block.path}, {self._bytes}, found: {error}; correct the file")
        return InputError(
            f"expected {len(self.names)} fields in {self.block.path}, line {line}, found {len(row)}: "
            f"{_short(self.sep.join(row))}; correct the line, and check sep= and quotes"
        )

    def of_null(self, name: str, kind: ColumnType, nulls: Sequence[str]) -> InputError:
        """For a missing value in a column whose type has none."""
        return self._of_value(name, kind, lambda cell: cell in nulls, None)

    def of_date(self, name: str, kind: ColumnType, column: pa.ChunkedArray) -> InputError | None:
        """For a text that is no date, or one of another format; None where there is none in that column."""
        texts = pd.Series(column.to_pandas(), dtype="str")
        wrong = texts[texts.notna() & pd.to_datetime(texts, format=kind.date_format, errors="coerce").isna()]
        return self._of_value(name, kind, lambda cell: cell == wrong.iloc[0], wrong.iloc[0]) if len(wrong) else None

    def of_number(self, name: str, kind: ColumnType, column: pa.ChunkedArray) -> InputError | None:
        """For a text that is no number in a column whose numbers are spelled; None where there is none in that column."""
        for text in column.drop_null().to_pylist() if kind.spelling else ():
            try:
                kind.spelling.numbers(pa.chunked_array([[text]]))  # type: ignore[union-attr]
            except pa.ArrowInvalid:
                return self._of_value(name, kind, lambda cell, text=text: cell == text, text)  # type: ignore[misc]
        return None

    def _of_value(self, name: str, kind: ColumnType | None, is_it: Callable[[str], bool], text: str | None) -> InputError:
        place = self.names.index(name)
        line, row = self._find(lambda cells: len(cells) > place and is_it(cells[place]))
        where = self._bytes if line is None else f"line {line}"
        if text is None:
            found = "no value" if row is None or not row[place] else f"no value ({row[place]})"
            advice = f"dtype={{{name!r}: 'float64'}}"
        else:
            found, advice = _short(text), f"dtype={{{name!r}: {'float64' if _is_number(text) else 'str'!r}}}"
        expected = kind.described() if kind else "a value of another type"
        return InputError(
            f"expected {expected} in {self.block.path}, {where}, column {name!r}, found {found}; types that are not given are "
            f"learned from samples: pass {advice} or another type that fits every row, or correct the file"
        )

    @property
    def _bytes(self) -> str:
        return f"bytes {self.block.start} to {self.block.stop}"

    def _find(self, is_it: Callable[[list[str]], bool]) -> tuple[int | None, list[str] | None]:
        """Line in the file and cells of the first row of the block that a condition holds for."""
        before = sum(piece.count(b"\n") for _, piece in scan(self.block.path, 0, self.block.start))
        text = self.plain(read_range(self.block.path, self.block.start, self.block.stop)).decode("utf-8", errors="replace")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=self.sep, quotechar=self.quotechar)
        line = 1
        try:
            for cells in rows:
                if cells and is_it(cells):
                    return before + line, cells
                line = rows.line_num + 1
        except csv.Error:  # a field too large for this module, for instance
            pass
        return None, None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")

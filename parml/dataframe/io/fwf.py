"""``read_fwf``: text files whose columns stand at the same places of each line, by blocks of bytes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parml.dataframe.frame import DataFrame
from parml.dataframe.io.csv import text_frame
from parml.dataframe.io.csv_options import check_options, checked_encoding, null_texts, one_character
from parml.dataframe.io.csv_reader import Style
from parml.dataframe.io.csv_rows import after_lines
from parml.dataframe.io.files import File, expand_paths, scan, unpacked
from parml_core.errors import InputError

_SEP, _QUOTE = "\x1f", "\x1e"
_BLANK = " \t\r\n"


def read_fwf(
    paths: Any,
    *,
    colspecs: Any = "infer",
    widths: Sequence[int] | None = None,
    infer_nrows: int = 100,
    usecols: Sequence[Any] | None = None,
    dtype: Any = None,
    parse_dates: Sequence[Any] | Mapping[Any, str] = (),
    date_format: Any = None,
    na_values: Any = (),
    keep_default_na: bool = True,
    blocksize: int | str = "64MiB",
    header: int | str | None = "infer",
    names: Sequence[Any] | None = None,
    skiprows: int = 0,
    nrows: int | None = None,
    index_col: Any = None,
    decimal: str = ".",
    thousands: str | None = None,
    encoding: str | None = None,
    filters: Any = None,
    compression: str | None = "infer",
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DataFrame:
    """
    A frame of the rows of files of fixed-width lines, in the order of the files.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.txt``) or patterns; or URLs. All have the same columns.
    colspecs : list of (int, int), or "infer"
        From which letter of a line to before which each column goes. To infer looks at the first lines of the first file,
        where columns of blanks separate those of text.
    widths : list of int, optional
        In the place of `colspecs`, for columns that lie side by side.
    infer_nrows : int
        At so many lines.
    usecols, dtype, parse_dates, date_format, na_values, keep_default_na, blocksize, header, names, skiprows, nrows
        As for `read_csv`.
    index_col, decimal, thousands, encoding, filters, compression, storage_options, **options
        As for `read_csv`.

    Returns
    -------
    DataFrame
        Its rows are numbered as by `read_csv`.

    Examples
    --------
    >>> import os, tempfile, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(os.path.join(folder, "x.txt"), "w") as file:
    ...         print("id  name\\n 1  Ann\\n12  Bo", file=file)
    ...     pdf.read_fwf(folder).compute()
       id name
    0   1  Ann
    1  12   Bo
    """
    check_options("read_fwf", options)
    files = unpacked(expand_paths(paths, ".txt", storage_options), compression)
    code = checked_encoding(encoding)
    style = FixedWidths(
        _SEP,
        _QUOTE,
        null_texts(na_values, keep_default_na),
        decimal=one_character("decimal", decimal),
        thousands=None if thousands is None else one_character("thousands", thousands),
        encoding=code,
        places=_places(files[0], colspecs, widths, infer_nrows, skiprows, code),
    )
    return text_frame(
        files, style, "read_fwf",
        usecols=usecols, dtype=dtype, parse_dates=parse_dates, date_format=date_format, blocksize=blocksize,
        newlines_in_values=False, header=header, names=names, skiprows=skiprows, index_col=index_col,
        nrows=nrows, filters=filters,
    )  # fmt: skip


@dataclass(frozen=True)
class FixedWidths(Style):
    """
    Lines cut at places, which are then parsed as those of CSV are.

    Parameters
    ----------
    places : tuple of (int or None, int or None)
        From which letter to before which each column goes.
    """

    places: tuple[tuple[int | None, int | None], ...] = ()

    def plain(self, text: bytes) -> bytes:
        letters = text.decode(self.encoding)
        if _SEP in letters or _QUOTE in letters:
            raise InputError("expected text of fixed widths, found the control characters 0x1E or 0x1F in it; remove them")
        return "\n".join(map(self._line, letters.split("\n"))).encode()

    def _line(self, line: str) -> str:
        cells = [line[start:stop].strip(_BLANK) for start, stop in self.places]
        return _SEP.join(cells) if any(cells) else ""


def _places(
    file: File, colspecs: Any, widths: Sequence[int] | None, infer_nrows: int, skiprows: int, encoding: str
) -> tuple[tuple[Any, Any], ...]:
    if widths is not None:
        if colspecs not in (None, "infer"):
            raise InputError("expected colspecs or widths, found both; pass one")
        return tuple(itertools.pairwise(itertools.accumulate(widths, initial=0)))
    if colspecs != "infer":
        given = tuple(tuple(pair) for pair in colspecs)
        if not given or any(len(pair) != 2 or not all(isinstance(end, int | None) for end in pair) for pair in given):
            raise InputError(f"expected pairs of places in colspecs, found {colspecs!r}")
        return given
    text = b""
    for _, piece in scan(file, after_lines(file, skiprows)):
        text += piece
        if text.count(b"\n") >= infer_nrows:
            break
    return _inferred([line.decode(encoding) for line in text.split(b"\n")[:infer_nrows]], file)


def _inferred(lines: Sequence[str], file: File) -> tuple[tuple[int, int], ...]:
    """Where text stands in any of some lines, as pandas finds it."""
    taken = np.zeros(max(map(len, lines), default=0) + 2, dtype=bool)
    for line in lines:
        for word in re.finditer(f"[^{_BLANK}]+", line.removeprefix("\ufeff")):
            taken[word.start() + 1 : word.end() + 1] = True
    edges = np.flatnonzero(taken[1:] != taken[:-1]).tolist()
    if not edges:
        raise InputError(f"expected lines to infer columns from in {file}, found none; pass colspecs=")
    return tuple(zip(edges[::2], edges[1::2], strict=True))

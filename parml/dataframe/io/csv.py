"""
``read_csv``: text files by blocks of bytes.

When the frame is made, the first line of every file is compared, the types of the columns are learned from samples, and
the offsets of the blocks are found. Each block is then read and parsed by the task that needs it, and only the columns that
the plan needs are made.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.csv_errors import Diagnosis
from parml.dataframe.io.csv_reader import NULLS, CsvReader, Style
from parml.dataframe.io.csv_rows import Block, has_quoted_line_end, header_of, row_starts
from parml.dataframe.io.csv_types import ColumnType, dated, declared, inferred
from parml.dataframe.io.files import expand_paths, identity, parse_nbytes, read_range, same_names
from parml.dataframe.plan import Source
from parml_core.errors import InputError
from parml_core.hashing import tokenize

SAMPLED_BYTES = 16 << 20  # of all files; where they hold no more than this, the types are learned from every row
SAMPLED_FILES = 256
_SMALLEST_SAMPLE = 1 << 14


def read_csv(
    paths: Any,
    *,
    usecols: Sequence[Any] | None = None,
    dtype: Any = None,
    parse_dates: Sequence[Any] | Mapping[Any, str] = (),
    na_values: Any = (),
    keep_default_na: bool = True,
    sep: str = ",",
    quotechar: str = '"',
    blocksize: int | str = "64MiB",
    newlines_in_values: bool | None = None,
) -> DataFrame:
    """
    A frame of the rows of CSV files, in the order of the files.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.csv``) or patterns such as ``"data/2013-*.csv"``. All have the same columns.
    usecols : list of columns, optional
        Default: all. Columns that nobody uses are not made anyway.
    dtype : dict of column to dtype, or dtype, optional
        Default: learned from samples of the files, by the rules of pandas. The dtypes are then fixed: a value that does not
        fit raises `InputError`.
    parse_dates : list of columns, or dict of column to format
        Columns of dates or times. Default: the first value tells the format of all.
    na_values : str, number, or list of them
        More texts that stand for a missing value.
    keep_default_na : bool
        Whether what pandas takes for missing values is missing.
    sep, quotechar : str
        One character each.
    blocksize : int or str
        The size of a partition in bytes of text.
    newlines_in_values : bool, optional
        Whether quoted values hold line ends. The files are then read once beforehand, to find where rows begin. Default:
        whether the first rows of a file do; should some do later, that is noticed and raises `InputError`.

    Returns
    -------
    DataFrame
        Its rows are numbered from 0 as pandas would, over all files. Inside of `map_partitions` they are numbered from 0 in
        each partition, for how many rows the others have is not known then.

    Raises
    ------
    FileNotFoundError
        No file is there.
    InputError
        The columns of two files differ, or a row does not parse; the message names files, line and column.

    Examples
    --------
    >>> import os, tempfile, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, rows in {"1.csv": "x,k\\n1,a\\n2,b\\n", "2.csv": "x,k\\n3,a\\n"}.items():
    ...         with open(os.path.join(folder, name), "w") as file:
    ...             _ = file.write(rows)
    ...     frame = pdf.read_csv(folder + "/*.csv")
    ...     frame[frame.k == "a"].compute()
       x  k
    0  1  a
    2  3  a
    """
    nulls = (*(NULLS if keep_default_na else ()), *_texts(na_values))
    style = Style(_one_character("sep", sep), _one_character("quotechar", quotechar), nulls)
    files = expand_paths(paths, ".csv")
    begins = _compared(files, style)
    names = style.names(header_of(files[0], style.quote)[0])
    style = replace(style, newlines=newlines_in_values or _has_newlines(files, begins, style, newlines_in_values))
    style = replace(style, trusted=newlines_in_values is not None)
    samples = _samples(files, begins, style)
    dates: dict[str, str | None] = dict.fromkeys(parse_dates)
    if isinstance(parse_dates, Mapping):
        dates.update(parse_dates)
    types = _types(names, samples, style, dtype, dates)
    blocks = _blocks(files, begins, style, parse_nbytes(blocksize))
    reader = CsvReader(style, names, types, tuple(names))
    if usecols is not None:
        _check_names(names, usecols, "usecols")
        reader = reader.narrowed(frozenset(usecols))
    origin = tokenize("read_csv", [identity(file) for file in files], style, [(block.start, block.stop) for block in blocks])
    return DataFrame(Source(reader, blocks, origin=origin, counted=True))


def _texts(values: Any) -> list[str]:
    return [str(value) for value in ([values] if isinstance(values, str | float | int) else values)]


def _one_character(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) != 1 or not value.isascii():
        raise InputError(f"expected {name} to be one ASCII character, found {value!r}")
    return value


def _check_names(names: Sequence[str], given: Iterable[Any], argument: str) -> None:
    for name in given:
        if name not in names:
            raise MissingColumn(
                f"expected columns of the files in {argument}, found {name!r}; they have {', '.join(map(repr, names))}"
            )


def _compared(files: Sequence[str], style: Style) -> list[int]:
    """Where the rows of each file begin, once it is sure that all have the same columns."""
    begins: list[int] = []
    first_header, first_names = b"", list[str]()
    for file in files:
        header, begin = header_of(file, style.quote)
        if not begins:
            first_header, first_names = header, style.names(header)
        elif header != first_header:
            same_names(first_names, style.names(header), files[0], file)
        begins.append(begin)
    return begins


def _has_newlines(files: Sequence[str], begins: Sequence[int], style: Style, given: bool | None) -> bool:
    if given is not None:
        return given
    share = max(_SMALLEST_SAMPLE, SAMPLED_BYTES // len(files))
    chosen = _spread(len(files), SAMPLED_FILES)
    return any(has_quoted_line_end(read_range(files[i], begins[i], begins[i] + share), style.quote) for i in chosen)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of ``range(count)``, evenly, with the first and the last."""
    return sorted({i * (count - 1) // max(1, min(count, most) - 1) for i in range(min(count, most))})


def _samples(files: Sequence[str], begins: Sequence[int], style: Style) -> list[Block]:
    """Whole rows from the beginning, the middle and the end of each file; all rows where they are few."""
    total = sum(os.path.getsize(file) for file in files)
    chosen = range(len(files)) if total <= SAMPLED_BYTES else _spread(len(files), SAMPLED_FILES)
    piece = max(_SMALLEST_SAMPLE, SAMPLED_BYTES // (3 * len(chosen)))
    blocks = []
    for i in chosen:
        begin, size = begins[i], os.path.getsize(files[i])
        if total <= SAMPLED_BYTES or size - begin <= 3 * piece:
            blocks.append(Block(files[i], begin, size))
            continue
        middle = (begin + size) // 2
        edges = [begin + piece, middle, middle + piece, size - piece]
        first, *inner = row_starts(files[i], edges, begin=begin, quote=style.quote, by_quotes=style.newlines)
        blocks += [Block(files[i], begin, first), Block(files[i], *inner[:2]), Block(files[i], inner[2], size)]
    return [block for block in blocks if block.start < block.stop]


def _types(
    names: list[str], samples: Sequence[Block], style: Style, dtype: Any, dates: dict[str, str | None]
) -> dict[str, ColumnType]:
    given = dict(dtype) if isinstance(dtype, dict) else {} if dtype is None else dict.fromkeys(names, dtype)
    _check_names(names, given, "dtype")
    _check_names(names, dates, "parse_dates")
    types = {name: declared(kind) for name, kind in given.items() if name not in dates}
    as_text = {name: pa.string() for name in (*types, *dates)}
    tables = []
    for block in samples:
        text = read_range(block.path, block.start, block.stop)
        if not text or text.isspace():
            continue
        try:
            tables.append(style.parse(text, names, as_text))
        except pa.ArrowInvalid as error:
            raise Diagnosis(block, names, style.sep, style.quotechar).of_parser(error, types) from error
    for name in names:
        if name in dates:
            types[name] = dated(name, [table.column(name) for table in tables], dates[name])
        elif name not in types:
            types[name] = inferred(table.column(name) for table in tables)
    return {name: types[name] for name in names}


def _blocks(files: Sequence[str], begins: Sequence[int], style: Style, blocksize: int) -> list[Block]:
    blocks = []
    for file, begin in zip(files, begins, strict=True):
        size = os.path.getsize(file)
        count = max(1, -(-(size - begin) // blocksize))
        edges = [begin + (size - begin) * i // count for i in range(1, count)]
        starts = row_starts(file, edges, begin=begin, quote=style.quote, by_quotes=style.newlines)
        bounds = [begin, *starts, size]
        cuts = [Block(file, start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
        blocks += cuts or [Block(file, begin, begin)]
    return blocks

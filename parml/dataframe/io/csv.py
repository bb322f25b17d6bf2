"""
``read_csv``: text files by blocks of bytes.

When the frame is made, the first line of every file is compared, the types of the columns are learned from samples, and
the offsets of the blocks are found. Each block is then read and parsed by the task that needs it, and only the columns that
the plan needs are made.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.csv_errors import Diagnosis
from parml.dataframe.io.csv_reader import NULLS, CsvReader, Style
from parml.dataframe.io.csv_rows import Block, after_lines, has_quoted_line_end, header_of, row_starts
from parml.dataframe.io.csv_types import ColumnType, dated, declared, inferred
from parml.dataframe.io.files import END, File, expand_paths, identity, parse_nbytes, read_range, same_names, size_of, unpacked
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
    header: int | str | None = "infer",
    names: Sequence[Any] | None = None,
    skiprows: int = 0,
    decimal: str = ".",
    compression: str | None = "infer",
    storage_options: Mapping[str, Any] | None = None,
) -> DataFrame:
    """
    A frame of the rows of CSV files, in the order of the files.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.csv``) or patterns such as ``"data/2013-*.csv"``; or URLs. All have the same columns.
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
    header : 0, "infer" or None
        Whether the first line of each file names the columns: None says that it does not; to infer, that it does unless
        `names` are given.
    names : list, optional
        The columns, in place of those that the files name. Default without a header: 0, 1, 2 and so on.
    skiprows : int
        How many lines to leave out at the beginning of each file.
    decimal : str
        The decimal point.
    compression : "infer", "gzip", "bz2", "xz", "zip", "zstd" or None
        To infer looks at the ends of the names. A compressed file is one partition.
    storage_options : dict, optional
        For fsspec, where `paths` are URLs.

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
    decimal = _one_character("decimal", decimal)
    style = Style(_one_character("sep", sep), _one_character("quotechar", quotechar), nulls, decimal=decimal)
    files = unpacked(expand_paths(paths, ".csv", storage_options), compression)
    begins, columns = _begins(files, style, header, names, skiprows)
    names = list(map(str, columns))
    style = replace(style, given=tuple(names))
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
        _check_names(columns, usecols, "usecols")
        reader = reader.narrowed(frozenset(map(str, usecols)))
    origin = tokenize("read_csv", [identity(file) for file in files], style, [(block.start, block.stop) for block in blocks])
    frame = DataFrame(Source(reader, blocks, origin=origin, counted=True))
    return frame if names == columns else frame.rename(columns=dict(zip(names, columns, strict=True)))


def _begins(
    files: Sequence[File], style: Style, header: int | str | None, names: Sequence[Any] | None, skiprows: int
) -> tuple[list[int], list[Any]]:
    """Where the rows of each file begin, and what the columns are called."""
    if header not in (0, None, "infer") or isinstance(header, bool):
        raise InputError(
            f"expected header to be 0, None or 'infer', found {header!r}; leave out lines before it with skiprows="
        )
    if not isinstance(skiprows, int) or isinstance(skiprows, bool) or skiprows < 0:
        raise InputError(f"expected skiprows to be a number of lines, found {skiprows!r}")
    starts = [after_lines(file, skiprows) for file in files]
    first = header_of(files[0], style.quote, starts[0])[0]
    found: list[Any] = style.names(first)
    without = header is None or (header == "infer" and names is not None)
    begins = starts if without else _compared(files, style, starts)
    if names is None:
        return begins, list(range(len(found))) if without else found
    if len(names) != len(found) or len(set(map(str, names))) < len(names):
        raise InputError(f"expected {len(found)} different names for the columns of {files[0]}, found {list(names)!r}")
    return begins, list(names)


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


def _compared(files: Sequence[File], style: Style, starts: Sequence[int]) -> list[int]:
    """Where the rows of each file begin, once it is sure that all have the same columns."""
    begins: list[int] = []
    first_header, first_names = b"", list[str]()
    for file, start in zip(files, starts, strict=True):
        header, begin = header_of(file, style.quote, start)
        if not begins:
            first_header, first_names = header, style.names(header)
        elif header != first_header:
            same_names(first_names, style.names(header), files[0], file)
        begins.append(begin)
    return begins


def _has_newlines(files: Sequence[File], begins: Sequence[int], style: Style, given: bool | None) -> bool:
    if given is not None:
        return given
    share = max(_SMALLEST_SAMPLE, SAMPLED_BYTES // len(files))
    chosen = _spread(len(files), SAMPLED_FILES)
    return any(has_quoted_line_end(read_range(files[i], begins[i], begins[i] + share), style.quote) for i in chosen)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of ``range(count)``, evenly, with the first and the last."""
    return sorted({i * (count - 1) // max(1, min(count, most) - 1) for i in range(min(count, most))})


def _samples(files: Sequence[File], begins: Sequence[int], style: Style) -> list[Block]:
    """Whole rows from the beginning, the middle and the end of each file; all rows where they are few."""
    total = sum(size_of(file) for file in files)
    chosen = range(len(files)) if total <= SAMPLED_BYTES else _spread(len(files), SAMPLED_FILES)
    piece = max(_SMALLEST_SAMPLE, SAMPLED_BYTES // (3 * len(chosen)))
    blocks = []
    for i in chosen:
        begin, size = begins[i], size_of(files[i])
        if size == END:  # not known before the end is read
            stops = row_starts(files[i], [begin + 3 * piece], begin=begin, quote=style.quote, by_quotes=style.newlines)
            blocks.append(Block(files[i], begin, stops[0]))
            continue
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


def _blocks(files: Sequence[File], begins: Sequence[int], style: Style, blocksize: int) -> list[Block]:
    blocks = []
    for file, begin in zip(files, begins, strict=True):
        size = size_of(file)
        count = 1 if size == END else max(1, -(-(size - begin) // blocksize))
        edges = [begin + (size - begin) * i // count for i in range(1, count)]
        starts = row_starts(file, edges, begin=begin, quote=style.quote, by_quotes=style.newlines)
        bounds = [begin, *starts, size]
        cuts = [Block(file, start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
        blocks += cuts or [Block(file, begin, begin)]
    return blocks

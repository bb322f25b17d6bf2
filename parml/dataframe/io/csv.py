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
from parml.dataframe.io.csv_options import check_options, checked_encoding, dates_of, filtered, null_texts, one_character
from parml.dataframe.io.csv_reader import CsvReader, Style
from parml.dataframe.io.csv_rows import Block, after_lines, after_rows, has_quoted_line_end, header_of, row_starts
from parml.dataframe.io.csv_types import ColumnType, dated, declared, inferred
from parml.dataframe.io.files import (
    END,
    File,
    Packed,
    expand_paths,
    identity,
    parse_nbytes,
    read_range,
    same_names,
    size_of,
    unpacked,
)
from parml.dataframe.plan import Source
from parml_core.errors import InputError, NotSupported
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
    thousands: str | None = None,
    comment: str | None = None,
    encoding: str | None = None,
    index_col: Any = None,
    nrows: int | None = None,
    date_format: Any = None,
    true_values: Sequence[str] = (),
    false_values: Sequence[str] = (),
    filters: Any = None,
    compression: str | None = "infer",
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
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
    thousands : str, optional
        One character that may stand between the digits of numbers.
    comment : str, optional
        One character; from it on, unless it stands in quotes, a line is no text.
    encoding : str, optional
        Default: UTF-8. Those in which a line end may be another byte, such as UTF-16, are refused.
    index_col : column, its place, or list of those, optional
        Become the labels. Default: rows are numbered.
    nrows : int, optional
        The number of rows to read, from the beginning of the first file on.
    date_format : str, or dict of column to str, optional
        Of the columns in `parse_dates`.
    true_values, false_values : list of str
        More texts that stand for truth values.
    filters : list of (column, op, value), or list of such lists, optional
        Which rows to take, as for `read_parquet`; they are numbered. Like ``frame[condition]``, this leaves rows out as each
        piece of a block is parsed.
    compression : "infer", "gzip", "bz2", "xz", "zip", "zstd" or None
        To infer looks at the ends of the names. A compressed file is one partition.
    storage_options : dict, optional
        For fsspec, where `paths` are URLs.
    **options
        Others of pandas: what changes nothing is no mistake, other values raise `NotSupported`.

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
    options = dict(options)
    sep = options.pop("delimiter", None) or sep
    check_options("read_csv", options)
    style = Style(
        one_character("sep", sep),
        one_character("quotechar", quotechar),
        null_texts(na_values, keep_default_na),
        decimal=one_character("decimal", decimal),
        thousands=None if thousands is None else one_character("thousands", thousands),
        comment=None if comment is None else one_character("comment", comment),
        encoding=checked_encoding(encoding),
        true_values=tuple(true_values),
        false_values=tuple(false_values),
    )
    return text_frame(
        unpacked(expand_paths(paths, ".csv", storage_options), compression), style, "read_csv",
        usecols=usecols, dtype=dtype, parse_dates=parse_dates, date_format=date_format, blocksize=blocksize,
        newlines_in_values=newlines_in_values, header=header, names=names, skiprows=skiprows, index_col=index_col,
        nrows=nrows, filters=filters,
    )  # fmt: skip


def read_table(paths: Any, *, sep: str = "\t", **options: Any) -> DataFrame:
    """
    A frame of the rows of text files whose columns are apart by tabs: `read_csv` with another separator.

    Parameters
    ----------
    paths, sep, **options
        As for `read_csv`.

    Examples
    --------
    >>> import os, tempfile, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(os.path.join(folder, "x.csv"), "w") as file:
    ...         _ = file.write("x\\tk\\n1\\ta\\n")
    ...     pdf.read_table(folder).k.compute().tolist()
    ['a']
    """
    return read_csv(paths, sep=sep, **options)


def text_frame(
    files: Sequence[File],
    style: Style,
    name: str,
    *,
    usecols: Sequence[Any] | None = None,
    dtype: Any = None,
    parse_dates: Sequence[Any] | Mapping[Any, str] = (),
    date_format: Any = None,
    blocksize: int | str = "64MiB",
    newlines_in_values: bool | None = False,
    header: int | str | None = "infer",
    names: Sequence[Any] | None = None,
    skiprows: int = 0,
    index_col: Any = None,
    nrows: int | None = None,
    filters: Any = None,
) -> DataFrame:
    """A frame of the rows of text files in a style; arguments as for `read_csv`."""
    begins, columns = _begins(files, style, header, names, skiprows)
    texts = list(map(str, columns))
    style = replace(style, given=tuple(texts))
    style = replace(style, newlines=newlines_in_values or _has_newlines(files, begins, style, newlines_in_values))
    style = replace(style, trusted=newlines_in_values is not None)
    if style.newlines and style.comment is not None:
        raise NotSupported(
            "expected no line ends in quoted values beside comment=, as a comment may hold a quote too, found some; leave out "
            "comment=, or the comments"
        )
    wholes = [Block(file, begin, size_of(file)) for file, begin in zip(files, begins, strict=True)]
    if nrows is not None:
        wholes = _first_rows(wholes, nrows, style)
    types = _types(texts, _samples(wholes, style), style, dtype, dates_of(parse_dates, date_format))
    blocks = _blocks(wholes, style, parse_nbytes(blocksize))
    reader = CsvReader(style, texts, types, tuple(texts))
    if usecols is not None:
        _check_names(columns, usecols, "usecols")
        reader = reader.narrowed(frozenset(map(str, usecols)))
    origin = tokenize(name, [identity(file) for file in files], style, [(block.start, block.stop) for block in blocks])
    frame = DataFrame(Source(reader, blocks, origin=origin, counted=True))
    if texts != columns:
        frame = frame.rename(columns=dict(zip(texts, columns, strict=True)))
    if filters is not None:
        frame = filtered(frame, filters)
    if index_col is None or index_col is False:
        return frame
    keys = [frame.columns[key] if isinstance(key, int) and key not in frame.columns else key for key in _listed(index_col)]
    _check_names(list(frame.columns), keys, "index_col")
    return frame.set_index(keys if isinstance(index_col, list | tuple) else keys[0], sort=False)  # type: ignore[no-any-return]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _first_rows(wholes: Sequence[Block], nrows: Any, style: Style) -> list[Block]:
    """The files as far as their first rows reach."""
    if not isinstance(nrows, int) or isinstance(nrows, bool) or nrows < 0:
        raise InputError(f"expected nrows to be a number of rows, found {nrows!r}")
    chosen = []
    for whole in wholes:
        stop, found = after_rows(whole.path, whole.start, nrows, style.is_row, style.quote if style.newlines else None)
        chosen.append(replace(whole, stop=stop))
        nrows -= found
        if not nrows:
            break
    return chosen


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
    first = _header(files[0], style, starts[0])[0]
    found: list[Any] = style.names(first)
    without = header is None or (header == "infer" and names is not None)
    begins = starts if without else _compared(files, style, starts)
    if names is None:
        return begins, list(range(len(found))) if without else found
    if len(names) != len(found) or len(set(map(str, names))) < len(names):
        raise InputError(f"expected {len(found)} different names for the columns of {files[0]}, found {list(names)!r}")
    return begins, list(names)


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
        header, begin = _header(file, style, start)
        if not begins:
            first_header, first_names = header, style.names(header)
        elif header != first_header:
            same_names(first_names, style.names(header), files[0], file)
        begins.append(begin)
    return begins


def _header(file: File, style: Style, start: int) -> tuple[bytes, int]:
    """The first line that is not blank or a comment, and where the next begins."""
    quote = style.quote if style.comment is None else b"\0"  # a comment may hold a quote
    header, begin = header_of(file, quote, start)
    while not style.is_row(header):
        header, begin = header_of(file, quote, begin)
    return header, begin


def _has_newlines(files: Sequence[File], begins: Sequence[int], style: Style, given: bool | None) -> bool:
    if given is not None:
        return given
    share = max(_SMALLEST_SAMPLE, SAMPLED_BYTES // len(files))
    chosen = _spread(len(files), SAMPLED_FILES)
    texts = (style.without_comments(read_range(files[i], begins[i], begins[i] + share)) for i in chosen)
    return any(has_quoted_line_end(text, style.quote) for text in texts)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of ``range(count)``, evenly, with the first and the last."""
    return sorted({i * (count - 1) // max(1, min(count, most) - 1) for i in range(min(count, most))})


def _samples(wholes: Sequence[Block], style: Style) -> list[Block]:
    """Whole rows from the beginning, the middle and the end of each file; all rows where they are few."""
    total = sum(whole.stop for whole in wholes)
    chosen = range(len(wholes)) if total <= SAMPLED_BYTES else _spread(len(wholes), SAMPLED_FILES)
    piece = max(_SMALLEST_SAMPLE, SAMPLED_BYTES // (3 * len(chosen)))
    blocks = []
    for i in chosen:
        file, begin, size = wholes[i].path, wholes[i].start, wholes[i].stop
        if size == END:  # not known before the end is read
            stops = row_starts(file, [begin + 3 * piece], begin=begin, quote=style.quote, by_quotes=style.newlines)
            blocks.append(Block(file, begin, stops[0]))
            continue
        if total <= SAMPLED_BYTES or size - begin <= 3 * piece:
            blocks.append(Block(file, begin, size))
            continue
        middle = (begin + size) // 2
        edges = [begin + piece, middle, middle + piece, size - piece]
        first, *inner = row_starts(file, edges, begin=begin, quote=style.quote, by_quotes=style.newlines)
        blocks += [Block(file, begin, first), Block(file, *inner[:2]), Block(file, inner[2], size)]
    return [block for block in blocks if block.start < block.stop]


def _types(
    names: list[str], samples: Sequence[Block], style: Style, dtype: Any, dates: dict[str, str | None]
) -> dict[str, ColumnType]:
    given = dict(dtype) if isinstance(dtype, dict) else {} if dtype is None else dict.fromkeys(names, dtype)
    _check_names(names, given, "dtype")
    _check_names(names, dates, "parse_dates")
    types = {name: declared(kind).spelled(style.thousands, style.decimal) for name, kind in given.items() if name not in dates}
    as_text = {name: pa.string() for name in (*types, *dates)}
    tables = []
    for block in samples:
        text = style.plain(read_range(block.path, block.start, block.stop))
        if not text or text.isspace():
            continue
        try:
            tables.append(style.parse(text, names, as_text))
        except pa.ArrowInvalid as error:
            raise Diagnosis(block, names, style.sep, style.quotechar, style.plain).of_parser(error, types) from error
    for name in names:
        if name in dates:
            types[name] = dated(name, [table.column(name) for table in tables], dates[name])
        elif name not in types:
            found = inferred((table.column(name) for table in tables), style.thousands, style.decimal)
            types[name] = found.spelled(style.thousands, style.decimal)
    return {name: types[name] for name in names}


def _blocks(wholes: Sequence[Block], style: Style, blocksize: int) -> list[Block]:
    blocks = []
    for whole in wholes:
        file, begin, size = whole.path, whole.start, whole.stop
        count = 1 if isinstance(file, Packed) else max(1, -(-(size - begin) // blocksize))
        edges = [begin + (size - begin) * i // count for i in range(1, count)]
        starts = row_starts(file, edges, begin=begin, quote=style.quote, by_quotes=style.newlines)
        bounds = [begin, *starts, size]
        cuts = [Block(file, start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
        blocks += cuts or [Block(file, begin, begin)]
    return blocks

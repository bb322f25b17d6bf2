"""What `read_csv` of pandas knows besides: what it means over parts of files, and what it cannot mean there."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Mapping
from typing import Any

import pandas as pd

from parml.dataframe.io.csv_reader import NULLS
from parml.dataframe.predicate import COMPARISONS, of_filters
from parml_core.errors import InputError, NotSupported

_WITHOUT_EFFECT = frozenset({"engine", "low_memory", "memory_map", "cache_dates", "verbose"})
_REASONS = {
    "chunksize": "a frame has partitions: see blocksize= and frame.partitions",
    "converters": "a function of values is used after reading: see Series.map",
    "dayfirst": "dates are read by their format: pass parse_dates={column: format}",
    "escapechar": "rows are found by line ends and quotes alone; write values with line ends in quotes",
    "iterator": "a frame has partitions: see blocksize= and frame.partitions",
    "lineterminator": "lines end in \\n or \\r\\n; convert the line ends",
    "on_bad_lines": "a line with other fields is an error that names it; correct the file",
    "skipfooter": "where a file ends is not known at its beginning; leave the lines out of the file",
}


def check_options(function: str, options: Mapping[str, Any]) -> None:
    """
    Check options that only pandas has: those that change nothing, or are left as they are by default, are no mistake.

    Raises
    ------
    NotSupported
        Parts of a file cannot be read so; the message says why.
    TypeError
        pandas has no such option either.
    """
    known = inspect.signature(getattr(pd, function)).parameters
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
        if name not in _WITHOUT_EFFECT and not (value is known[name].default or value == known[name].default):
            reason = _REASONS.get(name, "files are parsed by pyarrow, which has no such option; use from_map with pandas")
            raise NotSupported(f"expected {function} without {name}=, found {value!r}: {reason}")


def checked_encoding(name: str | None) -> str:
    """
    The encoding's name, if line ends, quotes and separators are the same bytes in it wherever they stand.

    Examples
    --------
    >>> checked_encoding("latin1"), checked_encoding(None)
    ('iso8859-1', 'utf-8')
    """
    try:
        found = codecs.lookup(name or "utf-8").name
        if found in ("utf-8", "utf-8-sig", "ascii"):  # a mark at the beginning is left out anyway
            return "utf-8"
        plain = bytes(range(1, 128)).decode(found).encode(found) == bytes(range(1, 128))
    except (LookupError, UnicodeError):
        plain, found = False, str(name)
    if not plain or found.startswith(("utf-16", "utf-32", "utf-7", "iso2022", "hz")):
        raise NotSupported(
            f"expected an encoding in which a line end is one byte, such as 'utf-8', 'latin-1' or 'cp1252', found {name!r}, of "
            "which no part can be read by itself; convert the files"
        )
    return found


def null_texts(na_values: Any, keep_default_na: bool) -> tuple[str, ...]:
    """The texts that stand for a missing value."""
    given = [na_values] if isinstance(na_values, str | float | int) else na_values
    return (*(NULLS if keep_default_na else ()), *(str(value) for value in given))


def one_character(name: str, value: Any) -> str:
    """The value, if it is one."""
    if not isinstance(value, str) or len(value) != 1 or not value.isascii():
        raise InputError(f"expected {name} to be one ASCII character, found {value!r}")
    return value


def dates_of(parse_dates: Any, date_format: Any) -> dict[str, str | None]:
    """Columns of dates, with their formats where these are given."""
    if isinstance(parse_dates, bool):
        raise NotSupported(f"expected a list of columns in parse_dates, found {parse_dates!r}; name those that hold dates")
    formats = parse_dates if isinstance(parse_dates, Mapping) else date_format
    dates: dict[str, str | None] = dict.fromkeys(parse_dates)
    return {name: formats.get(name) if isinstance(formats, Mapping) else formats for name in dates}


def filtered(frame: Any, filters: Any) -> Any:
    """The rows that ``filters=`` names, numbered from 0: comparisons with a missing value are not true."""
    _, columns = of_filters(filters)
    for column in sorted(columns, key=str):
        frame[column]  # its own error where there is none
    lists = filters if isinstance(filters[0], list) else [filters]
    chosen: Any = None
    for conditions in lists:
        every: Any = None
        for column, op, value in conditions:
            mask = _mask(frame[column], op, value)
            every = mask if every is None else every & mask
        chosen = every if chosen is None else chosen | every
    if chosen is None:
        raise InputError(f"expected a condition in filters=, found {filters!r}")
    return frame[chosen].reset_index(drop=True)


def _mask(column: Any, op: str, value: Any) -> Any:
    if op in ("in", "not in"):
        mask = column.isin(list(value))
        return mask if op == "in" else ~mask
    mask = COMPARISONS["==" if op == "=" else op](column, value)
    return mask & column.notna() if op == "!=" else mask

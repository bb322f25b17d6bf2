"""
Where the rows of a CSV file begin, so that it can be cut into blocks of whole rows.

A line end is the end of a row unless it stands inside quotes, and whether it does only the text before it tells. So there
are two ways to cut: at the next line end, which reads a few bytes at each cut; or, where quoted fields hold line ends, by
counting quotes from the beginning, which reads the file once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parml.dataframe.io.files import SCAN_BYTES, File, read_range, scan, size_of
from parml_core.errors import InputError

_HEADER_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes of a file that hold whole rows."""

    path: File
    start: int
    stop: int


def after_lines(path: File, count: int) -> int:
    """The offset of the line after the first `count`."""
    for offset, piece in scan(path, 0) if count else ():
        end = -1
        while count and (end := piece.find(b"\n", end + 1)) >= 0:
            count -= 1
        if not count:
            return offset + end + 1
    if count:
        raise InputError(f"expected more lines than skiprows= skips in {path}, found {count} fewer; skip fewer")
    return 0


def header_of(path: File, quote: bytes, start: int = 0) -> tuple[bytes, int]:
    """
    The first row from `start` on that is not blank, and the offset of the row after it.

    Raises
    ------
    InputError
        The file is empty, or its lines end in a bare carriage return.
    """
    text = b""
    for offset, piece in scan(path, start, piece_bytes=_HEADER_BYTES):
        text += piece
        if offset == start and b"\n" not in text and b"\r" in text.rstrip(b"\r"):
            raise InputError(f"expected lines that end in \\n or \\r\\n in {path}, found \\r alone; convert the line ends")
        end = -1
        while (end := text.find(b"\n", end + 1)) >= 0:
            if text.count(quote, 0, end) % 2 == 0 and text[:end].removeprefix(_BOM).strip(b"\r\n"):
                return text[: end + 1].removeprefix(_BOM).lstrip(b"\r\n"), start + end + 1
    if not text.removeprefix(_BOM).strip(b"\r\n"):
        raise InputError(f"expected a first line with the names of the columns in {path}, found an empty file; leave it out")
    return text.removeprefix(_BOM).lstrip(b"\r\n"), start + len(text)


def after_rows(path: File, begin: int, count: int, is_row: Callable[[bytes], bool], quote: bytes | None) -> tuple[int, int]:
    """
    The offset after so many rows from `begin` on, and how many there are.

    Parameters
    ----------
    path : path, Remote or Packed
    begin, count : int
    is_row : callable
        Of a line, whether it is one and not blank, for instance.
    quote : bytes, optional
        Fields within these may hold line ends.
    """
    found, offset, rest = 0, begin, b""
    for _, piece in scan(path, begin) if count else ():
        *lines, last = (rest + piece).split(b"\n")
        rest = b""
        for line in lines:
            rest += line + b"\n"
            if quote and rest.count(quote) % 2:
                continue
            offset, found, rest = offset + len(rest), found + is_row(rest), b""
            if found == count:
                return offset, found
        rest += last
    return offset + len(rest), found + is_row(rest)


def has_quoted_line_end(text: bytes, quote: bytes) -> bool:
    """Whether a line end stands inside quotes in a text that begins with a row."""
    return any(b"\n" in quoted for quoted in text.split(quote)[1::2])


def row_starts(
    path: File, positions: Sequence[int], *, begin: int, quote: bytes, by_quotes: bool, piece_bytes: int = SCAN_BYTES
) -> list[int]:
    """
    For each position the offset of the first row that begins there or later; the size of the file where none does.

    Parameters
    ----------
    path : path, Remote or Packed
    positions : sequence of int
        Ascending, none before `begin`.
    begin : int
        Where a row begins.
    quote : bytes
    by_quotes : bool
        Fields may hold line ends: count quotes from `begin` on, reading `piece_bytes` at a time.
    """
    if by_quotes:
        return _row_starts_by_quotes(path, positions, begin, quote, piece_bytes)
    return [begin if position <= begin else _next_line(path, position) for position in positions]


def _next_line(path: File, position: int) -> int:
    step = 1 << 12
    while piece := read_range(path, position - 1, position - 1 + step):
        found = piece.find(b"\n")
        if found >= 0:
            return position + found
        position += len(piece)
        step = 1 << 20
    return size_of(path)


def _row_starts_by_quotes(path: File, positions: Sequence[int], begin: int, quote: bytes, piece_bytes: int) -> list[int]:
    starts: list[int] = []
    wanted = iter(positions)
    position = next(wanted, None)
    while position is not None and position <= begin:
        starts.append(begin)
        position = next(wanted, None)
    inside = False
    for offset, piece in scan(path, begin, piece_bytes=piece_bytes):
        if position is None:
            break
        place = 0
        for number, part in enumerate(piece.split(quote)):
            inside ^= number > 0
            end = -1
            while position is not None and not inside:
                # The row that follows a line end at or after the byte before the position.
                end = part.find(b"\n", max(0, position - 1 - offset - place))
                if end < 0:
                    break
                start = offset + place + end + 1
                while position is not None and position <= start:
                    starts.append(start)
                    position = next(wanted, None)
            place += len(part) + len(quote)
    size = size_of(path)
    return starts + [size] * (len(positions) - len(starts))

"""Which files a user means, and pieces of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from parml_core.errors import InputError, NotSupported

SCAN_BYTES = 1 << 20
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst", ".tar")


def expand_paths(paths: Any, suffix: str) -> list[str]:
    """
    The files that a path, a pattern, a directory or a list of these names, absolute.

    What a pattern or a directory names is sorted; a list keeps its order. Of a directory the files are taken that end in
    `suffix`.

    Raises
    ------
    FileNotFoundError
        One of them names no file; the message shows it.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = [file for path in paths for file in _files_of(os.fspath(path), suffix)]
    if not found:
        raise FileNotFoundError("expected at least one file to read, found an empty list of paths")
    for file in found:
        if file.endswith(_PACKED):
            raise NotSupported(f"expected plain files, of which parts can be read, found {file}; decompress it first")
    return found


def _files_of(path: str, suffix: str) -> list[str]:
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        found = sorted(file for file in glob.glob(os.path.join(glob.escape(path), f"*{suffix}")) if os.path.isfile(file))
        what = f"files that end in {suffix} in the directory {path}"
    elif glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        what = f"files that match the pattern {path!r}"
    else:
        raise FileNotFoundError(f"expected a file at {path}, found none; check the path as this process sees it")
    if not found:
        raise FileNotFoundError(f"expected {what}, found none; check the path as this process sees it")
    return found


def parse_nbytes(size: int | str) -> int:
    """
    A number of bytes given as a number or with a unit.

    Examples
    --------
    >>> parse_nbytes("64MiB")
    67108864
    """
    if isinstance(size, int) and not isinstance(size, bool):
        nbytes = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", str(size).lower())
        if match is None or match[2] not in _UNITS:
            raise InputError(f"expected a number of bytes such as 1000000 or '64MiB', found {size!r}")
        nbytes = int(float(match[1]) * _UNITS[match[2]])
    if nbytes < 1:
        raise InputError(f"expected at least one byte, found {size!r}")
    return nbytes


def read_range(path: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to before `stop`."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def scan(path: str, start: int, stop: int | None = None, piece_bytes: int = SCAN_BYTES) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file from `start` on, each with its offset."""
    with open(path, "rb") as file:
        file.seek(start)
        while stop is None or start < stop:
            piece = file.read(piece_bytes if stop is None else min(piece_bytes, stop - start))
            if not piece:
                return
            yield start, piece
            start += len(piece)


def identity(path: str) -> tuple[str, int, int]:
    """Path, size and time of change: what tells one content of a file from another."""
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def same_names(first: Iterable[Any], other: Iterable[Any], first_path: str, other_path: str) -> None:
    """
    Check that two files have the same columns.

    Raises
    ------
    InputError
        They have not; the message names both files and the columns.
    """
    first, other = list(first), list(other)
    if first == other:
        return
    missing = [name for name in first if name not in other]
    added = [name for name in other if name not in first]
    found = []
    if missing:
        found.append(f"none named {', '.join(map(repr, missing))}")
    if added:
        found.append(f"also {', '.join(map(repr, added))}")
    if not found:
        found.append(f"them in another order: {', '.join(map(repr, other))}")
    raise InputError(
        f"expected in every file the columns of {first_path} ({', '.join(map(repr, first))}), found in {other_path} "
        f"{' and '.join(found)}; read the files apart, or write them with equal columns"
    )

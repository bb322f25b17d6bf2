"""Which files a user means, and pieces of them: on this machine, and by URL where fsspec is installed."""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from parml_core.errors import InputError, NotSupported
from parml_core.hashing import tokenize

SCAN_BYTES = 1 << 20
MOVING = "_parml_unfinished"
"""The name of a file that stands in a directory while a write puts its files there."""
END = 1 << 62
"""Where a file ends whose size only reading tells."""
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip", ".zst": "zstd"}


@dataclass(frozen=True)
class Remote:
    """
    A file of a filesystem that fsspec knows.

    Parameters
    ----------
    url : str
        With its protocol, such as ``s3://bucket/name``.
    options : dict
        What fsspec is told besides: ``storage_options`` of pandas.
    """

    url: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Packed:
    """A compressed file, read from its beginning; offsets are those of its text."""

    file: str | Remote
    method: str

    def __str__(self) -> str:
        return str(self.file)


File = str | Remote | Packed


def filesystem(url: str, options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and its path there."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise NotSupported(f"expected fsspec to be installed to reach {url}, found none; pip install fsspec") from error
    try:
        found: tuple[Any, str] = url_to_fs(url, **(options or {}))
    except (ImportError, ValueError) as error:
        raise InputError(f"expected a URL that fsspec can open, found {url}: {error}") from error
    return found


def is_url(path: str) -> bool:
    return "://" in path


def as_path(path: Any) -> str:
    """A path or URL as text; ``file://`` and ``~`` resolved."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"expected a path, found {type(path).__name__}")
    text = text.removeprefix("file://")
    return text if is_url(text) else os.path.abspath(os.path.expanduser(text))


def expand_paths(
    paths: Any, suffix: str, storage_options: Mapping[str, Any] | None = None, *, deep: bool = False
) -> list[str | Remote]:
    """
    The files that a path, a pattern, a directory or a list of these names, absolute.

    What a pattern or a directory names is sorted; a list keeps its order. Of a directory the files are taken that end in
    `suffix`; `deep` also in directories below, but for names that begin with ``_`` or ``.``.

    Raises
    ------
    FileNotFoundError
        One of them names no file; the message shows it.
    """
    return [file for file, _ in expand_dataset(paths, suffix, storage_options, deep=deep)]


def expand_dataset(
    paths: Any, suffix: str, storage_options: Mapping[str, Any] | None = None, *, deep: bool = True
) -> list[tuple[str | Remote, str]]:
    """The same, each with the directories that lead to it below what was given: a directory, a pattern."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: list[tuple[str | Remote, str]] = []
    for path in map(as_path, paths):
        if is_url(path):
            fs, inner = filesystem(path, storage_options)
            names = _names(fs, inner, suffix, deep, path)
            found += [(Remote(fs.unstrip_protocol(name), dict(storage_options or {})), below) for name, below in names]
        else:
            found += _names(_LOCAL, path, suffix, deep, path)
    if not found:
        raise FileNotFoundError("expected at least one file to read, found an empty list of paths")
    return found


class _Local:
    """The few verbs of an fsspec filesystem that are needed here, so that local files need no fsspec."""

    isfile, isdir, exists = staticmethod(os.path.isfile), staticmethod(os.path.isdir), staticmethod(os.path.exists)

    @staticmethod
    def glob(pattern: str) -> list[str]:
        return glob.glob(pattern, recursive=True)

    @staticmethod
    def find(path: str) -> list[str]:
        return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]


_LOCAL = _Local()


def _names(fs: Any, path: str, suffix: str, deep: bool, shown: str) -> list[tuple[str, str]]:
    if fs.isfile(path):
        return [(path, "")]
    if fs.isdir(path):
        if fs.exists(posixpath.join(path, MOVING)):
            raise InputError(
                f"expected complete files in the directory {shown}, found that a write to it has not ended; wait for it, or "
                f"run it again if it was killed (the file {MOVING} marks it)"
            )
        base, files = path.rstrip("/"), [name for name in fs.find(path) if name.endswith(suffix)]
        below = [(name, posixpath.relpath(name, base)) for name in sorted(files)]
        files = [name for name, inner in below if (not _is_hidden(inner) if deep else "/" not in inner)]
        what = f"files that end in {suffix} in the directory {shown}"
    elif glob.has_magic(path):
        fixed = path[: re.search(r"[*?[]", path).start()]  # type: ignore[union-attr]
        base, files = posixpath.dirname(fixed), sorted(name for name in fs.glob(path) if fs.isfile(name))
        what = f"files that match the pattern {shown!r}"
    else:
        raise FileNotFoundError(f"expected a file at {shown}, found none; check the path as this process sees it")
    if not files:
        raise FileNotFoundError(f"expected {what}, found none; check the path as this process sees it")
    return [(name, posixpath.dirname(posixpath.relpath(name, base or "/"))) for name in files]


def _is_hidden(inner: str) -> bool:
    return any(part.startswith(("_", ".")) for part in inner.split("/"))


def unpacked(files: Iterable[str | Remote], compression: str | None) -> list[File]:
    """
    The files, those that are compressed as such.

    Parameters
    ----------
    files : iterable
    compression : "infer", "gzip", "bz2", "xz", "zip", "zstd" or None
        To infer looks at the ends of the names.
    """
    if compression not in ("infer", None, *_PACKED.values()):
        raise InputError(
            f"expected compression to be 'infer', None or one of {', '.join(_PACKED.values())}, found {compression!r}"
        )
    if compression is None:
        return list(files)
    found: list[File] = []
    for file in files:
        method = _PACKED.get(os.path.splitext(str(file))[1].lower()) if compression == "infer" else compression
        found.append(Packed(file, method) if method else file)
    return found


def open_file(file: File) -> IO[bytes]:
    """
    A file open for reading.

    Raises
    ------
    FileNotFoundError, PermissionError
        With what to do about it.
    """
    try:
        if isinstance(file, Packed):
            return _unpacking(open_file(file.file), file.method)
        if isinstance(file, Remote):
            fs, path = filesystem(file.url, file.options)
            opened: IO[bytes] = fs.open(path, "rb")
            return opened
        return open(file, "rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"expected a file at {file}, found none; it was removed, or this process does not see it (workers need the same)"
        ) from error
    except PermissionError as error:
        raise PermissionError(
            f"expected a file that may be read at {file}, found that user id {os.getuid()} may not ({error.strerror}); "
            "change its permissions, or run as a user who may"
        ) from error


def _unpacking(file: IO[bytes], method: str) -> Any:
    match method:
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bz2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case "zip":
            names = (archive := zipfile.ZipFile(file)).namelist()
            if len(names) != 1:
                raise InputError(f"expected one file in the archive {file.name}, found {len(names)}; unpack it first")
            return archive.open(names[0])
    import io

    import pyarrow as pa

    return io.BytesIO(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), method).read())


def size_of(file: File) -> int:
    """The size in bytes; `END` where it is compressed."""
    if isinstance(file, Packed):
        return END
    if isinstance(file, Remote):
        fs, path = filesystem(file.url, file.options)
        return int(fs.size(path))
    return os.path.getsize(file)


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


def read_range(file: File, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to before `stop`."""
    with open_file(file) as opened:
        opened.seek(start)
        return opened.read(-1 if stop >= END else stop - start)


def scan(file: File, start: int, stop: int | None = None, piece_bytes: int = SCAN_BYTES) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file from `start` on, each with its offset."""
    with open_file(file) as opened:
        opened.seek(start)
        while stop is None or start < stop:
            piece = opened.read(piece_bytes if stop is None else min(piece_bytes, stop - start))
            if not piece:
                return
            yield start, piece
            start += len(piece)


def identity(file: File) -> tuple[Any, ...]:
    """Path, size and time of change: what tells one content of a file from another."""
    if isinstance(file, Packed):
        return (file.method, *identity(file.file))
    if isinstance(file, Remote):
        fs, path = filesystem(file.url, file.options)
        return file.url, tokenize(sorted((name, str(value)) for name, value in fs.info(path).items()))
    status = os.stat(file)
    return file, status.st_size, status.st_mtime_ns


def same_names(first: Iterable[Any], other: Iterable[Any], first_path: Any, other_path: Any) -> None:
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

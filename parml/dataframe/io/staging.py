"""
Writing that is complete or not there.

The files of a write are made in a hidden directory beside their place, ``.parml-<token>``, each under another name until it is
whole. When all are, they are moved to their place. A write that was killed leaves nothing but that directory, which no reader
looks into; the same write, run again, takes the files from it that are whole and makes the others. While files are moved, a
mark stands in the directory, with which parml does not read it.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parml.dataframe.io.files import MOVING, filesystem, is_url
from parml_core.errors import InputError

Write = Callable[[Any], None]
"""Writes to a binary file."""


class LocalFiles:
    """Files of this machine, or of one that it mounts."""

    def write(self, path: str, write: Write) -> int:
        """Put a file in its place when it is whole; returns its size."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        beside = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.half")
        try:
            with open(beside, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.replace(beside, path)
        except BaseException:
            if os.path.exists(beside):
                os.unlink(beside)
            raise
        return size

    def open(self, path: str) -> Any:
        return open(path, "rb")

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def move(self, old: str, new: str) -> None:
        os.makedirs(os.path.dirname(new), exist_ok=True)
        os.replace(old, new)

    def remove(self, path: str) -> None:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)

    def names(self, folder: str) -> list[str]:
        """All files below a directory, relative to it."""
        return [
            os.path.relpath(os.path.join(below, name), folder) for below, _, names in os.walk(folder) for name in sorted(names)
        ]


@dataclass(frozen=True)
class RemoteFiles:
    """
    Files of a filesystem that fsspec knows. They are put whole, and moved one by one as it is able to.

    Parameters
    ----------
    url : str
    options : dict
    """

    url: str
    options: Mapping[str, Any]

    @property
    def _fs(self) -> Any:
        return filesystem(self.url, self.options)[0]

    def write(self, path: str, write: Write) -> int:
        import io

        buffer = io.BytesIO()
        write(buffer)
        self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
        self._fs.pipe(path, buffer.getvalue())
        return buffer.tell()

    def open(self, path: str) -> Any:
        return self._fs.open(path, "rb")

    def exists(self, path: str) -> bool:
        found: bool = self._fs.exists(path)
        return found

    def move(self, old: str, new: str) -> None:
        self._fs.makedirs(posixpath.dirname(new), exist_ok=True)
        self._fs.mv(old, new)

    def remove(self, path: str) -> None:
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def names(self, folder: str) -> list[str]:
        base = self._fs._strip_protocol(folder).rstrip("/")
        found = self._fs.find(base) if self._fs.isdir(base) else []
        return sorted(posixpath.relpath(name, base) for name in found)


Files = LocalFiles | RemoteFiles


def files_of(path: str, options: Mapping[str, Any] | None) -> Files:
    return RemoteFiles(path, dict(options or {})) if is_url(path) else LocalFiles()


@dataclass(frozen=True)
class Staging:
    """
    The hidden directory of one write.

    Parameters
    ----------
    folder : str
        Where the files will be.
    token : str
        The same for the same write.
    files : LocalFiles or RemoteFiles
    """

    folder: str
    token: str
    files: Files = field(default_factory=LocalFiles)

    @property
    def hidden(self) -> str:
        return posixpath.join(self.folder, f".parml-{self.token}")

    def summary(self, number: int) -> dict[str, Any] | None:
        """What was written of a partition; None where that is not complete."""
        path = self._record(number)
        if not self.files.exists(path):
            return None
        with self.files.open(path) as file:
            found: dict[str, Any] = json.load(file)
        return found

    def write(self, number: int, pieces: Iterable[tuple[str, Write]], **facts: Any) -> dict[str, Any]:
        """Write the files of a partition and then the summary that says that they are there."""
        names, nbytes = [], 0
        for name, write in pieces:
            nbytes += self.files.write(posixpath.join(self.hidden, name), write)
            names.append(name)
        summary = {"partition": number, "files": names, "nbytes": nbytes, **facts}
        text = json.dumps(summary).encode()
        self.files.write(self._record(number), lambda file: file.write(text))
        return summary

    def staged(self, name: str) -> str:
        """The path of a file before it is moved."""
        return posixpath.join(self.hidden, name)

    def move(self, names: Iterable[str], old: Iterable[str] = ()) -> None:
        """
        Put the files in their place, and remove the old ones that they replace; done twice, it goes on where it was.

        Raises
        ------
        InputError
            A file is not there: the workers write elsewhere.
        """
        mark = posixpath.join(self.folder, MOVING)
        self.files.write(mark, lambda file: file.write(self.token.encode()))
        for name in old:
            self.files.remove(posixpath.join(self.folder, name))
        for name in names:
            staged, final = self.staged(name), posixpath.join(self.folder, name)
            if self.files.exists(staged):
                self.files.move(staged, final)
            elif not self.files.exists(final):
                raise InputError(
                    f"expected the file that a worker has written at {staged}, found none; write to a directory that all "
                    "workers share, or to a URL"
                )
        self.files.remove(mark)
        self.discard()

    def discard(self) -> None:
        """Remove the hidden directory."""
        self.files.remove(self.hidden)

    def _record(self, number: int) -> str:
        return posixpath.join(self.hidden, "done", f"{number}.json")

"""
Values on disk: what a worker has more of than fits into its memory.

They lie in files that have no name, so nothing is left of them, however their process ends: large ones in one each, small ones
several to a file, which bounds how many are open. A value is its head and its buffers, laid out as in shared memory
(`store.shared`), and is mapped to be read: what comes back takes memory that the system can take away again. A checksum says
whether it is what was written. Other processes of the host are lent the file as it is.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import shutil
import stat
import tempfile
import weakref
import zlib

from parml_core.errors import SpillError
from parml_core.protocol.frames import nbytes_of
from parml_core.protocol.messages import Loan
from parml_core.protocol.serialize import Serialized
from parml_core.store.pool import mapped, open_lent, write_at
from parml_core.store.shared import NO_RESERVE, layout
from parml_core.typing import Buffer

FILE_BYTES = 4 << 20
"""A file that has more takes no further value, and a value that has more takes a file of its own."""

_open: set[int] = set()


class Unreadable(Exception):
    """What is on disk is not what was written: the value is lost."""


class Disk:
    """
    A folder that values are written to, by one thread at a time.

    Examples
    --------
    >>> disk = Disk(tempfile.gettempdir())
    >>> disk.write(Serialized(b"head", [bytes(3), b"abc"])).read().buffers[1].tobytes()
    b'abc'
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._begun: weakref.ref[_File] | None = None  # goes with the last value in it

    def write(self, value: Serialized) -> OnDisk:
        """Write a value. Raises SpillError where there is no room for it; nothing of it is left then."""
        pieces: list[Buffer] = [value.head, *value.buffers]
        lengths = [nbytes_of(piece) for piece in pieces]
        try:
            file = None if self._begun is None or value.nbytes > FILE_BYTES else self._begun()
            if file is None or file.end > FILE_BYTES:
                file = _File(_unnamed_file(self.folder))
                if value.nbytes <= FILE_BYTES:
                    self._begun = weakref.ref(file)
        except OSError as error:
            raise _no_room(value, self.folder, error) from error
        begin = -(-file.end // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            checksum = file.append(pieces, [begin + offset for offset in layout(lengths)[0]])
            file.end = begin + layout(lengths)[1]
        except OSError as error:
            raise _no_room(value, self.folder, error, taken=os.fstat(file.fd).st_size - file.end) from error
        finally:
            os.ftruncate(file.fd, file.end)
        return OnDisk(file, begin, lengths, checksum)


class OnDisk:
    """A value in a file."""

    __slots__ = ("_begin", "_checksum", "_file", "_lengths", "nbytes")

    def __init__(self, file: _File, begin: int, lengths: list[int], checksum: int) -> None:
        self._file = file
        self._begin = begin
        self._lengths = lengths
        self._checksum = checksum
        self.nbytes = layout(lengths)[1]

    def read(self, *, private: bool = False) -> Serialized:
        """
        The value, whose buffers are the file, which can be lent; `private`: memory that can be written to, seen by nobody else.

        Raises
        ------
        Unreadable
            It is not what was written.
        """
        offsets, _ = layout(self._lengths)
        end = self.check_length()
        whole = self._file.read(self._begin, end, private=private)
        pieces = [whole[offset : offset + n] for offset, n in zip(offsets, self._lengths, strict=True)]
        checksum = 0
        for piece in pieces:
            checksum = zlib.crc32(piece, checksum)
        if checksum != self._checksum:
            raise Unreadable(f"expected the checksum {self._checksum:08x}, found {checksum:08x}")
        head, *buffers = pieces
        return Serialized(bytes(head), list(buffers), None if private else self)

    def check_length(self) -> int:
        """Where the value ends. Raises Unreadable where the file is shorter: what is mapped of it must not be touched."""
        offsets, _ = layout(self._lengths)
        end = max((offset + n for offset, n in zip(offsets, self._lengths, strict=True) if n), default=0)
        found = os.fstat(self._file.fd).st_size
        if found < self._begin + end:
            raise Unreadable(f"expected a file of {self._begin + end} bytes, found {found}")
        return end

    def loan(self) -> Loan:
        """What another process of this host needs to know to read it, as long as this object lives."""
        inode = os.fstat(self._file.fd).st_ino
        return Loan(os.getpid(), self._file.fd, inode, self._lengths, 0, self._begin, self._checksum)


def borrow_from_disk(loan: Loan, *, keep: bool, private: bool = False) -> Serialized:
    """
    A value that another process has on disk; `keep` and `private` as of `Segment.borrow`.

    Raises
    ------
    OSError
        It is not there any more, or its owner is out of reach.
    Unreadable
        What is there is not what was written.
    """
    assert loan.checksum is not None
    file = _File(open_lent(loan.pid, loan.fd))
    found = os.fstat(file.fd)
    if not stat.S_ISREG(found.st_mode) or found.st_ino != loan.inode:
        raise FileNotFoundError(f"descriptor {loan.fd} of process {loan.pid} is another file by now")
    value = OnDisk(file, loan.offset, loan.lengths, loan.checksum).read(private=private)
    if not keep or _too_many_are_open():
        value.segment = None  # what is mapped stays mapped
    return value


class _File:
    """An open file that goes with the values in it."""

    __slots__ = ("__weakref__", "end", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.end = 0
        _open.add(fd)

    def __del__(self) -> None:
        _open.discard(self.fd)
        os.close(self.fd)

    def append(self, pieces: list[Buffer], offsets: list[int]) -> int:
        """Write these pieces there; their checksum."""
        checksum = 0
        for piece, offset in zip(pieces, offsets, strict=True):
            view = memoryview(piece).cast("B")
            checksum = zlib.crc32(view, checksum)
            write_at(self.fd, view, offset)
        return checksum

    def read(self, begin: int, nbytes: int, *, private: bool) -> memoryview:
        """What is there, as memory; copied where this process may map nothing more."""
        if not nbytes:
            return memoryview(b"")
        try:
            if private:
                return mapped(self.fd, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | NO_RESERVE, begin)
            return mapped(self.fd, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, begin)
        except OSError:
            copy = memoryview(bytearray(nbytes))
            done = 0
            while done < nbytes and (count := os.preadv(self.fd, [copy[done:]], begin + done)):
                done += count
            return copy


def _too_many_are_open() -> bool:
    """Half of the files that this process may open belong to segments, a quarter to the disk."""
    return 4 * len(_open) > resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _unnamed_file(folder: str) -> int:
    if _too_many_are_open():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):  # file systems that have no such files
            raise
    fd, path = tempfile.mkstemp(prefix="parml-", dir=folder)
    os.unlink(path)
    return fd


def _no_room(value: Serialized, folder: str, error: OSError, taken: int = 0) -> SpillError:
    expected = f"expected to move {value.nbytes} bytes from memory to the disk in {folder}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        found = f"{len(_open)} files of values open there already, and no more allowed ({error.strerror})"
        return SpillError(f"{expected}, found {found}; raise the limit (ulimit -n), or give the workers more memory")
    try:
        free = f"{shutil.disk_usage(folder).free + taken} bytes free"
    except OSError as problem:
        free = f"no way to it ({problem.strerror})"
    return SpillError(
        f"{expected}, found {free} ({error.strerror}); make room there, choose another folder "
        "(LocalCluster(spill_directory=...), parml worker --spill-directory), or give the workers more memory"
    )

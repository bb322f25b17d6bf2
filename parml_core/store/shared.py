"""
Values that the processes of one host have in common: the buffers of a value in memory that each of them maps.

A segment is a file in memory that has no name. Its owner tells others a `Loan`, by which they open it through ``/proc``; it is
gone when the last process that has it is gone, whatever ended them, so nothing can be left behind. Before anybody else sees
it, it is sealed: nobody can ever write to it or cut it short.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import resource
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from parml_core.protocol.frames import nbytes_of
from parml_core.protocol.messages import Loan
from parml_core.protocol.serialize import Serialized
from parml_core.typing import Buffer

SHARED_BYTES = 64 * 1024
"""Buffers that are larger together are worth a segment."""

_ALIGN = 64  # what vectorised code likes its arrays to begin at
_open: set[int] = set()


@functools.cache
def this_place() -> str:
    """
    Names all processes that could open each other's segments; empty where none could.

    Examples
    --------
    >>> this_place() == this_place()
    True
    """
    if not hasattr(os, "memfd_create") or not hasattr(fcntl, "F_ADD_SEALS"):
        return ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The network is part of it, so that containers that share all else keep to what they may say to each other.
        return "/".join([boot, os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self/ns/net"), str(os.getuid())])
    return ""


class Segment:
    """
    Buffers that other processes of this host can map.

    Attributes
    ----------
    buffers : list of memoryview
        Read-only.
    nbytes : int

    Examples
    --------
    >>> segment = Segment.of([b"abc", bytes(100)])
    >>> [bytes(buffer[:3]) for buffer in Segment.borrow(segment.loan(), keep=False).buffers]
    [b'abc', b'\\x00\\x00\\x00']
    """

    __slots__ = ("_fd", "_inode", "_lengths", "buffers", "nbytes")

    def __init__(self, fd: int, lengths: Sequence[int]) -> None:
        """Map an open segment, and own its descriptor."""
        self._lengths = list(lengths)
        self._inode = os.fstat(fd).st_ino
        offsets, self.nbytes = _layout(lengths)
        whole = _mapped(fd, self.nbytes) if self.nbytes else memoryview(b"")
        self.buffers = [whole[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)]
        self._fd = fd  # from here on it is this object's to close
        _open.add(fd)

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        """What was mapped stays mapped as long as a buffer is used."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            _open.discard(fd)
            os.close(fd)

    @classmethod
    def of(cls, buffers: Sequence[Buffer]) -> Segment:
        """Copy buffers into a new segment. Raises OSError where there is no memory or no descriptor for it."""
        if 2 * len(_open) > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise OSError(errno.EMFILE, "segments have taken half of the files that this process may open")
        lengths = [nbytes_of(buffer) for buffer in buffers]
        offsets, nbytes = _layout(lengths)
        fd = os.memfd_create("parml", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            for buffer, offset in zip(buffers, offsets, strict=True):
                view, done = memoryview(buffer).cast("B"), 0
                while done < len(view):  # written, not mapped: the kernel need not clear the pages first
                    done += os.pwrite(fd, view[done:], offset + done)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return cls(fd, lengths)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def borrow(cls, loan: Loan, *, keep: bool) -> Segment:
        """
        Map a segment of another process.

        Parameters
        ----------
        loan : Loan
        keep : bool
            Whether it shall be possible to lend it to others in turn, which costs a descriptor.

        Raises
        ------
        OSError
            It is not there any more, or its owner is out of reach.
        """
        # By now the descriptor may be a FIFO, whose writer would be waited for without O_NONBLOCK.
        fd = os.open(f"/proc/{loan.pid}/fd/{loan.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if found.st_ino != loan.inode or found.st_size != _layout(loan.lengths)[1]:
                raise FileNotFoundError(f"descriptor {loan.fd} of process {loan.pid} is another file by now")
            segment = cls(fd, loan.lengths)
        except BaseException:
            os.close(fd)
            raise
        if not keep:
            segment._close()
        return segment

    def loan(self) -> Loan:
        """What another process of this host needs to know to map it, as long as this object lives."""
        return Loan(os.getpid(), self._fd, self._inode, self._lengths)


def share(value: Serialized) -> Serialized:
    """
    The same value with its buffers in a segment; itself where that is not worth it, not possible, or so already.

    A large pickle has to be read before it is of use: shared, it would be there beside what was read.
    """
    if value.segment is not None or value.head == b"" or value.nbytes - len(value.head) < SHARED_BYTES:
        return value
    try:
        segment = Segment.of(value.buffers)
    except OSError:  # no memory or descriptor left for it: the bytes can be sent
        return value
    return Serialized(value.head, list(segment.buffers), segment)


def borrow(head: bytes, loan: Loan, *, keep: bool) -> Serialized:
    """A value whose buffers another process has lent; kept, it can be lent in turn. Raises OSError as `Segment.borrow`."""
    segment = Segment.borrow(loan, keep=keep)
    return Serialized(head, list(segment.buffers), segment if keep else None)


def loan_of(value: Serialized) -> Loan | None:
    """How others can map the buffers of a value that `share` or `borrow` gave."""
    return None if value.segment is None else value.segment.loan()


def _mapped(fd: int, nbytes: int) -> memoryview:
    """
    The content of a file as memory, as long as a part of the view is used.

    Like `mmap.mmap`, which however keeps a descriptor of its own open for each mapping (up to Python 3.12 without a choice).
    """
    address = _libc().mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = (ctypes.c_char * nbytes).from_address(address)
    weakref.finalize(memory, _libc().munmap, address, nbytes).atexit = False
    return memoryview(memory).cast("B").toreadonly()


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


def _layout(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Where each buffer begins, and where the last one ends."""
    offsets, end = [], 0
    for length in lengths:
        start = -(-end // _ALIGN) * _ALIGN
        offsets.append(start)
        end = start + length
    return offsets, end

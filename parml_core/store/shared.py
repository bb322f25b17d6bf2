"""
Values that the processes of one host have in common: the buffers of a value in memory that each of them maps.

A segment is a file in memory that has no name. Its owner tells others a `Loan`, by which they open it through ``/proc``; it is
gone when the last process that has it is gone, whatever ended them, so nothing can be left behind. Before anybody else sees
it, it is sealed: nobody else can ever write to it or cut it short. Its owner writes another value into it when nobody has it
any more (`store.pool`).
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from parml_core.protocol.frames import nbytes_of
from parml_core.protocol.messages import Loan
from parml_core.protocol.serialize import Serialized
from parml_core.store.pool import ALIGN, START, USE, MemoryFile, mapped, open_fds, open_lent, pool, written
from parml_core.typing import Buffer

SHARED_BYTES = 64 * 1024
"""Buffers that are larger together are worth a segment."""

NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # most who could write to what they got never do

_borrowed: dict[int, tuple[Loan, int]] = {}  # segments that count as somebody else's, and their bytes, by descriptor
_adopted: dict[int, int] = {}


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
        Read-only, unless it was borrowed as `private`.
    nbytes : int

    Examples
    --------
    >>> segment = Segment.of([b"abc", bytes(100)])
    >>> [bytes(buffer[:3]) for buffer in Segment.borrow(segment.loan(), keep=False).buffers]
    [b'abc', b'\\x00\\x00\\x00']
    """

    __slots__ = ("_fd", "_file", "_inode", "_lengths", "_use", "buffers", "nbytes")

    def __init__(self, fd: int, inode: int, use: int, lengths: Sequence[int], *, private: bool = False) -> None:
        """
        Map the file that is open as `fd`, which stays the caller's.

        Raises
        ------
        FileNotFoundError
            It holds another value by now.
        """
        offsets, end = layout(lengths)
        self._lengths, self._inode, self._use, self.nbytes = list(lengths), inode, use, end - START
        if private:
            whole = mapped(fd, end, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | NO_RESERVE)
        else:
            whole = mapped(fd, end, mmap.PROT_READ, mmap.MAP_SHARED)
        # From here on the file cannot be given another value. Was it before?
        if USE.unpack_from(whole, 0)[0] != use:
            raise FileNotFoundError("the value that was lent is gone, its place is another one's by now")
        self.buffers = [whole[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)]
        self._file: MemoryFile | None = None
        self._fd = -1

    def __del__(self) -> None:
        """What was mapped stays mapped as long as a buffer is used."""
        fd, file = getattr(self, "_fd", -1), getattr(self, "_file", None)
        if file is not None:
            pool.give(file)
        elif fd >= 0:
            open_fds.discard(fd)
            _borrowed.pop(fd, None)
            _adopted.pop(fd, None)
            os.close(fd)

    @classmethod
    def of(cls, buffers: Sequence[Buffer]) -> Segment:
        """Copy buffers into a segment. Raises OSError where there is no memory or no descriptor for it."""
        lengths = [nbytes_of(buffer) for buffer in buffers]
        offsets, end = layout(lengths)
        file = pool.take(end)
        file.fill(buffers, offsets, end)
        fd = open_lent(os.getpid(), file.fd)  # also this process reads by a descriptor that tells the kernel that somebody does
        try:
            segment = cls(fd, file.inode, file.use, lengths)
        finally:
            os.close(fd)
        segment._file, segment._fd = file, file.fd
        return segment

    @classmethod
    def borrow(cls, loan: Loan, *, keep: bool, private: bool = False) -> Segment:
        """
        Map a segment of another process.

        Parameters
        ----------
        loan : Loan
        keep : bool
            Whether it shall be possible to lend it to others in turn, which costs a descriptor.
        private : bool
            Whether the buffers shall be writable: then a page is copied when it is first written to, and nobody else sees that.

        Raises
        ------
        OSError
            It is not there any more, or its owner is out of reach.
        """
        fd = open_lent(loan.pid, loan.fd)
        try:
            found = os.fstat(fd)
            if found.st_ino != loan.inode or found.st_size < layout(loan.lengths)[1]:
                raise FileNotFoundError(f"descriptor {loan.fd} of process {loan.pid} is another file by now")
            segment = cls(fd, loan.inode, loan.use, loan.lengths, private=private)
        except BaseException:
            os.close(fd)
            raise
        if keep:
            segment._fd = fd
            open_fds.add(fd)
            _borrowed[fd] = loan, segment.nbytes
        else:
            os.close(fd)
        return segment

    @property
    def owned(self) -> bool:
        """Whether its memory counts as this process's."""
        return self._file is not None or self._fd in _adopted

    def loan(self) -> Loan:
        """What another process of this host needs to know to map it, as long as this object lives."""
        return Loan(os.getpid(), self._fd, self._inode, self._lengths, self._use)


def owned_bytes() -> int:
    """Bytes of all segments that count as this process's, those included that wait for another value."""
    return sum(written.copy().values()) + sum(_adopted.copy().values())


def adopt_orphans() -> None:
    """What was borrowed, and the owner has let go of, counts as that of those who still have it."""
    for fd, (loan, nbytes) in list(_borrowed.items()):
        try:
            orphaned = os.stat(f"/proc/{loan.pid}/fd/{loan.fd}").st_ino != loan.inode
        except OSError:
            orphaned = True
        if orphaned and _borrowed.pop(fd, None) is not None:
            _adopted[fd] = nbytes


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


def borrow(head: bytes, loan: Loan, *, keep: bool, private: bool = False) -> Serialized:
    """A value whose buffers another process has lent; `keep`, `private` and OSError as of `Segment.borrow`."""
    segment = Segment.borrow(loan, keep=keep, private=private)
    return Serialized(head, list(segment.buffers), segment if keep else None)


def loan_of(value: Serialized) -> Loan | None:
    """How others can map the buffers of a value that `share` or `borrow` gave."""
    return None if value.segment is None else value.segment.loan()


def layout(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Where each buffer begins, and where the last one ends."""
    offsets, end = [], START
    for length in lengths:
        start = -(-end // ALIGN) * ALIGN
        offsets.append(start)
        end = start + length
    return offsets, end

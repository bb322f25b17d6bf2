"""
Files in memory that this process writes and others map, and those that are kept warm for the next value.

On a virtual machine the first touch of a page costs many times what a copy into it costs. So a file whose value is gone is
used again, soon, by a value of about its size. Whether somebody still has it is not counted but asked of the kernel: it
grants a lease only of a file that nobody else has open or mapped, also in processes that were forked, or killed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import resource
import signal
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from parml_core.typing import Buffer

ALIGN = 64
"""What the buffers are aligned to: vectorised code likes its arrays so."""

START = 2048
"""
Where the first buffer begins; the use is told before it. Large arrays mostly begin shortly after a page does, and a copy to an
address that differs a little from its source's, but for pages, takes up to four times as long: the processor has each load wait
for the store before it.
"""

IDLE_S = 5.0
"""A file that was of no use for so long is given back."""

USE = struct.Struct("<Q")
_SEAL_FUTURE_WRITE = 0x10
_POPULATE_WRITE = 23

open_fds: set[int] = set()
"""Descriptors of files in memory that this process has open."""

written: dict[int, int] = {}
"""Bytes of those that this process has made and still has, by descriptor: as far as something was ever written to them."""

_mappings: set[int] = set()


class MemoryFile:
    """
    A file in memory without a name, written by this process alone: before it was sealed it was mapped here.

    Attributes
    ----------
    fd : int
    inode : int
    nbytes : int
        Its size. Of what was never written to no page exists.
    use : int
        How many values it has had. The number is in the file too: by it is a loan of an earlier value known.
    pid : int
        Of the process that made it, the only one that may give it another value.
    """

    __slots__ = ("_memory", "_populated", "fd", "inode", "nbytes", "pid", "use")

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self.use, self.pid, self._populated = nbytes, 1, os.getpid(), 0
        made = os.memfd_create("parml", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:  # opened again, since a lease takes account of writers, and the kernel does not count who made the file as one
            self.fd = os.open(f"/proc/self/fd/{made}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(made)
        open_fds.add(self.fd)
        os.ftruncate(self.fd, nbytes)
        self.inode = os.fstat(self.fd).st_ino
        self._memory = mapped(self.fd, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)

    def __del__(self) -> None:
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            open_fds.discard(fd)
            written.pop(fd, None)
            os.close(fd)

    def fill(self, buffers: Sequence[Buffer], offsets: Sequence[int], end: int) -> None:
        """Copy the buffers to these places; none lies beyond `end`."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        written[self.fd] = max(written.get(self.fd, 0), end)
        if self.use == 1:
            write_at(self.fd, memoryview(USE.pack(1)), 0)
            for view, offset in zip(views, offsets, strict=True):
                write_at(self.fd, view, offset)  # a page that is mapped would have to be cleared first
            with suppress(OSError):  # Linux before 5.1 has no such seal
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return
        if end > self._populated:  # all pages at once, not one by one as they are written to
            _libc().madvise(_address_of(self._memory), end, _POPULATE_WRITE)
            self._populated = end
        to = _address_of(self._memory)
        for view, offset in zip(views, offsets, strict=True):
            if view:  # all at once, past the cache, and without the interpreter
                ctypes.memmove(to + offset, _address_of(view), len(view))

    def renew(self) -> bool:
        """Make it ready for another value, and void what was lent of the last one; False where somebody may still read that."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)  # who opens it meanwhile is refused, and this is ignored
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
        try:
            self.use += 1
            USE.pack_into(self._memory, 0, self.use)
        finally:
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True


class Pool:
    """
    Files that wait for another value, at most `limit_bytes` of them, each for `IDLE_S`.

    Whoever lets values go calls `trim` now and then; where nobody does, nothing is kept.

    Examples
    --------
    >>> pool = Pool(2**20)
    >>> pool.trim()
    >>> file = pool.take(1000)
    >>> file.fill([b"abc"], [64], 67)
    >>> pool.give(file)
    >>> pool.take(1000) is file, pool.take(1000) is file
    (True, False)
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._given: deque[tuple[float, MemoryFile]] = deque()  # by finalisers, which cannot wait for the lock
        self._idle: list[tuple[float, MemoryFile]] = []  # oldest first
        self._trimmed_s = float("-inf")

    def take(self, nbytes: int) -> MemoryFile:
        """A file for so many bytes, which may be a new one. Raises OSError where there is no memory or no descriptor for it."""
        size = _rounded(nbytes)
        with self._lock:
            self._sort_in()
            for i in reversed(range(len(self._idle))):
                file = self._idle[i][1]
                if file.nbytes == size and file.renew():
                    del self._idle[i]
                    return file
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        if len(open_fds) > most:
            self.trim(0.0)
        if len(open_fds) > most:
            raise OSError(errno.EMFILE, "segments have taken half of the files that this process may open")
        return MemoryFile(size)

    def give(self, file: MemoryFile) -> None:
        """Its value is not used here any more. Called from finalisers too."""
        now_s = time.monotonic()
        if file.pid == os.getpid() and now_s - self._trimmed_s < 2 * IDLE_S:
            self._given.append((now_s, file))
            if self._lock.acquire(blocking=False):
                try:
                    self._sort_in()
                finally:
                    self._lock.release()

    def trim(self, idle_s: float = IDLE_S) -> None:
        """Give back what has waited for so long."""
        with self._lock:
            self._trimmed_s = time.monotonic()
            self._sort_in()
            self._idle = [(since_s, file) for since_s, file in self._idle if since_s + idle_s > self._trimmed_s]

    def idle_bytes(self) -> int:
        """What waits, as sizes of files; of some of it there may be no pages."""
        with self._lock:
            self._sort_in()
            return sum(file.nbytes for _, file in self._idle)

    def _sort_in(self) -> None:
        while self._given:
            self._idle.append(self._given.popleft())
        excess = sum(file.nbytes for _, file in self._idle) - self.limit_bytes
        while excess > 0:
            excess -= self._idle.pop(0)[1].nbytes

    def forget(self) -> None:
        """After a fork: the files are the parent's, and the lock may have been held by a thread that is not here."""
        self.__init__(self.limit_bytes)  # type: ignore[misc]


def _rounded(nbytes: int) -> int:
    """One of eight sizes between two powers of two, so that values of about the same size can have each other's files."""
    step = max(mmap.PAGESIZE, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


pool = Pool(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
"""Of this process."""

os.register_at_fork(after_in_child=pool.forget)


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all of these bytes to a place in a file."""
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def open_lent(pid: int, fd: int) -> int:
    """A descriptor of one's own for the file that a process has open as `fd`, to read it."""
    # By now the descriptor may be a FIFO, whose writer would be waited for without O_NONBLOCK.
    return os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def mapped(fd: int, nbytes: int, protection: int, flags: int, offset: int = 0) -> memoryview:
    """
    The content of a file as memory, from a page that begins at `offset` on, as long as a part of the view is used.

    Like `mmap.mmap`, which however keeps a descriptor of its own open for each mapping (up to Python 3.12 without a choice).
    """
    if len(_mappings) >= _most_mappings():
        raise OSError(errno.ENOMEM, "segments have taken half of the mappings that this process may have")
    address = _libc().mmap(None, nbytes, protection, flags, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = (ctypes.c_char * nbytes).from_address(address)
    _mappings.add(address)
    weakref.finalize(memory, _unmap, address, nbytes).atexit = False
    view = memoryview(memory).cast("B")
    return view if protection & mmap.PROT_WRITE else view.toreadonly()


def _unmap(address: int, nbytes: int) -> None:
    _mappings.discard(address)
    _libc().munmap(address, nbytes)


class _Buffer(ctypes.Structure):
    """``Py_buffer``: ctypes itself tells the address only of memory that may be written to."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        *((name, ctypes.c_ssize_t) for name in ("len", "itemsize")),
        *((name, ctypes.c_int) for name in ("readonly", "ndim")),
        *((name, ctypes.c_void_p) for name in ("format", "shape", "strides", "suboffsets", "internal")),
    )


def _address_of(view: memoryview) -> int:
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address = buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return int(address or 0)


@functools.cache
def _most_mappings() -> int:
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            return int(file.read()) // 2
    except (OSError, ValueError):
        return 32_765


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc

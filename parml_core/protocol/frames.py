"""
One frame: a header and the buffers that belong to it, as they travel on a stream of bytes.

::

    u32 length of the header │ u32 number of buffers │ u64 length of each buffer │ header │ buffers      (little endian)

Lengths come first and are checked against `Limits` before anything is allocated; and memory is committed as data arrives,
not because a peer claims that much will. `Parser` does no input or output.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
import weakref
from collections.abc import Sequence

import msgspec

from parml_core.errors import ProtocolError
from parml_core.typing import Buffer

__all__ = ["LARGE_BYTES", "Frame", "Limits", "Parser", "allocate", "check", "encode", "nbytes_of"]

Frame = tuple[Buffer, list[memoryview]]

LARGE_BYTES = 64 * 1024
"""Buffers of this size and more are sent and received in place; smaller ones are joined with their neighbours."""

_MALLOC_BYTES = 1024 * 1024  # from here on it is worth not to write zeros into memory first
_HUGE_PAGED_BYTES = 4 * 1024 * 1024  # first touched in 2 MiB pages, which takes less than half the time
_PREFIX = struct.Struct("<II")
_MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True):
    """
    What a peer may send in one frame.

    Parameters
    ----------
    max_header_bytes : int
    max_buffers : int
    max_frame_bytes : int or None
        Header and buffers together. None: as much as this machine has memory.
    """

    max_header_bytes: int = 64 * _MIB
    max_buffers: int = 65536
    max_frame_bytes: int | None = None


_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
_DEFAULT = Limits()


def nbytes_of(buffer: Buffer) -> int:
    """Size of a buffer in bytes."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def check(header_bytes: int, lengths: Sequence[int], limits: Limits = _DEFAULT) -> None:
    """
    Raise unless a frame of these lengths is within the limits.

    Raises
    ------
    ProtocolError
    """
    if header_bytes > limits.max_header_bytes:
        raise ProtocolError(
            f"expected a header of at most {limits.max_header_bytes} bytes, found {header_bytes}; "
            "send large data as buffers or in several frames"
        )
    if len(lengths) > limits.max_buffers:
        raise ProtocolError(
            f"expected at most {limits.max_buffers} buffers in a frame, found {len(lengths)}; send several frames"
        )
    most = limits.max_frame_bytes or _MEMORY_BYTES
    total = header_bytes + sum(lengths)
    if total > most:
        raise ProtocolError(f"expected a frame of at most {most} bytes, found {total}; send it in several frames")


def encode(header: Buffer, buffers: Sequence[Buffer] = (), limits: Limits = _DEFAULT) -> list[Buffer]:
    """
    The pieces to write, in order: large buffers as they are, what lies between them joined.

    Raises
    ------
    ProtocolError
        The frame is larger than the limits.

    Examples
    --------
    >>> encode(b"header", [b"a", b"bc"])
    [b'\\x06\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00headerabc']
    """
    if not buffers and len(header) < LARGE_BYTES and len(header) <= limits.max_header_bytes:
        return [_PREFIX.pack(len(header), 0) + header]
    lengths = [nbytes_of(buffer) for buffer in buffers]
    check(len(header), lengths, limits)
    views = [memoryview(buffer).cast("B") for buffer, length in zip(buffers, lengths, strict=True) if length]
    pieces: list[Buffer] = []
    small: list[Buffer] = [struct.pack(f"<II{len(lengths)}Q", len(header), len(lengths), *lengths)]
    for view in (header, *views):
        if len(view) < LARGE_BYTES:
            small.append(view)
            continue
        if small:
            pieces.append(b"".join(small))
            small = []
        pieces.append(view)
    if small:
        pieces.append(b"".join(small))
    return pieces


class Parser:
    """
    Cuts a stream of bytes into frames.

    Loop: `next`; while that gives None, read into `space()` and tell with `filled` how many bytes came.

    Parameters
    ----------
    limits : Limits

    Examples
    --------
    >>> parser = Parser()
    >>> for byte in encode(b"ab", [b"c"])[0]:
    ...     parser.space()[:1] = bytes([byte])
    ...     parser.filled(1)
    >>> header, buffers = parser.next()
    >>> bytes(header), bytes(buffers[0])
    (b'ab', b'c')
    """

    __slots__ = ("_direct", "_end", "_frame", "_inbox", "_start", "_view", "limits")

    def __init__(self, limits: Limits = _DEFAULT) -> None:
        self.limits = limits
        self._inbox = bytearray(LARGE_BYTES)
        self._view = memoryview(self._inbox)
        self._start = self._end = 0  # what of the inbox is not yet taken
        self._frame: _Assembly | None = None  # the frame that is being put together
        self._direct = False  # the last space() was in that frame, not in the inbox

    def next(self) -> Frame | None:
        """
        The next frame, or None while it is not complete.

        Raises
        ------
        ProtocolError
            The peer breaks the limits; the stream is of no use any more.
        """
        frame = self._frame
        if frame is None:
            start, end = self._start, self._end
            if end - start < _PREFIX.size:
                return None
            header_bytes, n_buffers = _PREFIX.unpack_from(self._inbox, start)
            begin = start + _PREFIX.size
            stop = begin + header_bytes
            if stop <= end and not n_buffers and header_bytes <= self.limits.max_header_bytes:  # nearly all control messages
                self._start = stop
                return bytes(self._view[begin:stop]), []
            self._start = begin
            frame = self._frame = _Assembly(header_bytes, n_buffers, self.limits)
        while not frame.complete:
            missing = frame.missing()
            taken = min(len(missing), self._end - self._start)
            if not taken:
                return None
            missing[:taken] = self._view[self._start : self._start + taken]
            self._start += taken
            frame.filled(taken)
        self._frame = None
        return frame.pieces[1], frame.pieces[2:]

    def space(self) -> memoryview:
        """Where the next bytes belong; not empty once `next` has given None."""
        if self._frame is not None:
            missing = self._frame.missing()
            self._direct = len(missing) >= LARGE_BYTES
            if self._direct:
                return missing
        if self._start:
            rest = self._view[self._start : self._end].tobytes()
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `space()`."""
        if self._direct and self._frame is not None:
            self._direct = False
            self._frame.filled(count)
        else:
            self._end += count


class _Assembly:
    """A frame of which some has arrived. Its pieces: the lengths, the header, the buffers, each in memory of its own."""

    __slots__ = ("_filled", "_limits", "_sizes", "complete", "pieces")

    def __init__(self, header_bytes: int, n_buffers: int, limits: Limits) -> None:
        check(header_bytes, range(n_buffers) if n_buffers > limits.max_buffers else (), limits)
        self._limits = limits
        self._sizes = [8 * n_buffers, header_bytes]
        self.pieces: list[memoryview] = [allocate(8 * n_buffers)]
        self._filled = 0  # of the last piece
        self.complete = False
        self._open_next()

    def missing(self) -> memoryview:
        """The rest of the piece that is being received; never empty while the frame is not complete."""
        return self.pieces[-1][self._filled :]

    def filled(self, count: int) -> None:
        self._filled += count
        self._open_next()

    def _open_next(self) -> None:
        while self._filled == len(self.pieces[-1]):
            if len(self.pieces) == 1:
                lengths = struct.unpack(f"<{len(self.pieces[0]) // 8}Q", self.pieces[0])
                check(self._sizes[1], lengths, self._limits)
                self._sizes += lengths
            if len(self.pieces) == len(self._sizes):
                self.complete = True
                return
            self.pieces.append(allocate(self._sizes[len(self.pieces)]))
            self._filled = 0


def allocate(nbytes: int) -> memoryview:
    """Writable memory, of which pages that were not there before cost nothing before something is written to them."""
    if nbytes < _MALLOC_BYTES:
        return memoryview(bytearray(nbytes))
    libc = _libc()
    address = libc.malloc(nbytes)  # not zeroed, and in a worker often warm
    if not address:
        raise ProtocolError(f"expected room for {nbytes} bytes that a peer sends, found none; send it in smaller pieces")
    if nbytes >= _HUGE_PAGED_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):  # a kernel without huge pages refuses
        begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(begin, address + nbytes - begin, mmap.MADV_HUGEPAGE)
    memory = (ctypes.c_char * nbytes).from_address(address)
    weakref.finalize(memory, libc.free, address).atexit = False
    return memoryview(memory).cast("B")


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc

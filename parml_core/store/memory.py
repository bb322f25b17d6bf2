"""
The values that a worker holds: in memory, and those that it has no room for on disk.

A value may be here as an object (a task made it), as bytes (it came from a peer), or as both. Bytes become an object when a
task first needs it, on that task's thread. What another process of this host asks for moves into memory that both map.
Tasks share the objects, so arrays are read-only, and each task gets a pandas object of its own, which copies nothing before
somebody writes to it.

A value that was moved to disk stays there, also when it was read again: it costs nothing to let go of it once more.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from parml_core.errors import SerializationError, SpillError
from parml_core.protocol.messages import Loan
from parml_core.protocol.serialize import Serialized, dumps, loads
from parml_core.store.disk import Disk, OnDisk
from parml_core.store.shared import loan_of, share
from parml_core.typing import Key

_NOTHING: Any = object()
_moving = threading.Lock()  # two readers of a value get the same segment, and it moves to one place at a time

SPILLED_BYTES = 64 * 1024
"""Smaller values are not worth a file."""


class Entry:
    """One value."""

    __slots__ = ("_on_disk", "_serialized", "_stays", "_value")

    def __init__(self, value: Any = _NOTHING, serialized: Serialized | None = None) -> None:
        self._value = value
        self._serialized = serialized
        lent = None if serialized is None else serialized.segment
        self._on_disk: OnDisk | None = lent if isinstance(lent, OnDisk) else None
        self._stays = False  # it cannot be pickled

    def value(self) -> Any:
        """
        The object, for one task: an array that it cannot write to, a pandas object of its own, or else what all share.

        Raises
        ------
        Unreadable
            It was on disk, and is not what it was.
        """
        value = self._value
        if value is not _NOTHING and self._on_disk is not None:
            self._on_disk.check_length()
        if value is _NOTHING:
            serialized = self.serialized()
            buffers = [memoryview(buffer).toreadonly() for buffer in serialized.buffers]
            value = self._value = loads(serialized.head, buffers)
            if not serialized.head:  # mostly one large pickle, and so not memory of the value: it would be there twice
                self._serialized = None
        share = _SHARE.get(type(value).__module__.partition(".")[0])
        return value if share is None else share(value)

    def serialized(self) -> Serialized:
        """As bytes, whose buffers are the memory of the value itself. Raises SerializationError, Unreadable."""
        while True:  # it may move meanwhile
            if self._on_disk is not None:  # also where it was read before: what leaves this process is looked at
                return self._on_disk.read()
            serialized, value = self._serialized, self._value
            if serialized is not None:
                return serialized
            if value is not _NOTHING:
                return dumps(value)

    def spill(self, disk: Disk) -> int:
        """
        Move the value to disk. What a task uses or another process lends stays, since its memory would not be freed, and what
        cannot be pickled.

        Returns
        -------
        int
            Bytes that were let go of.

        Raises
        ------
        SpillError
            There is no room; the value is where it was.
        """
        with _moving:
            return self._spill(disk)

    def _spill(self, disk: Disk) -> int:
        value, serialized = self._value, self._serialized
        if self._stays or (value is _NOTHING and serialized is None):
            return 0
        if value is not _NOTHING and sys.getrefcount(value) > _REFERENCES:
            return 0
        if self._on_disk is None:
            if serialized is not None and serialized.segment is not None and not serialized.segment.owned:
                return 0
            try:
                written = dumps(value) if serialized is None else serialized
            except SerializationError:
                self._stays = True
                return 0
            self._on_disk = disk.write(written)
        self._value, self._serialized = _NOTHING, None  # in this order: whoever finds no value looks for the bytes
        return self._on_disk.nbytes

    def pack(self) -> tuple[Serialized, Loan | None]:
        """As bytes that are to be sent."""
        return self.serialized(), None

    def lend(self, disk: Disk | None = None) -> tuple[Serialized, Loan | None]:
        """
        As bytes, and how other processes of this host can map the buffers; None where that is not worth it or not possible.

        From the first time on the value is in shared memory alone: what tasks get has its buffers there. One that is on disk is
        lent as it lies there; whoever borrows it reads it. So is one that can move to `disk`, for lack of room in memory.
        """
        with _moving:
            if disk is not None:
                with suppress(SpillError):
                    self._spill(disk)
            if self._on_disk is not None:
                return Serialized(b"", []), self._on_disk.loan()
            shared = self.to_segment()
            return shared, loan_of(shared)

    def to_segment(self) -> Serialized:
        """Move the value into memory that others can map, as `lend` does. For whoever alone knows of it."""
        serialized = self.serialized()
        shared = share(serialized)
        if shared is not serialized:
            self._serialized = shared
            self._value = _NOTHING
        return shared


class MemoryStore:
    """
    Values by key.

    Examples
    --------
    >>> store = MemoryStore()
    >>> store.put("a", 1)
    >>> store.entry("a").value()
    1
    >>> store.drop(["a"])
    >>> store.entry("a") is None
    True
    """

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._large: OrderedDict[Key, None] = OrderedDict()  # those that may go to disk, the one used last at the end

    def put(self, key: Key, value: Any, nbytes: int = 0) -> None:
        self.keep(key, Entry(value), nbytes)

    def keep(self, key: Key, entry: Entry, nbytes: int) -> None:
        self._entries[key] = entry
        if nbytes >= SPILLED_BYTES:
            self._large[key] = None

    def put_serialized(self, key: Key, serialized: Serialized) -> None:
        self._entries[key] = Entry(serialized=serialized)
        if serialized.nbytes >= SPILLED_BYTES:
            self._large[key] = None

    def entry(self, key: Key) -> Entry | None:
        """What is here of a value; whoever asks is about to use it."""
        if key in self._large:
            self._large.move_to_end(key)
        return self._entries.get(key)

    def least_used(self) -> list[Entry]:
        """Large values, the one that was not asked for the longest first."""
        return [self._entries[key] for key in self._large]

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if self._entries.pop(key, None) is not None:
                self._large.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)


def is_bulk(value: Any) -> bool:
    """
    Whether a value is little else than its buffers: an array of numbers, or a table of such columns.

    Examples
    --------
    >>> import numpy as np
    >>> is_bulk(np.zeros(3)), is_bulk(np.array([None])), is_bulk([1, 2])
    (True, False, False)
    """
    match type(value).__module__.partition(".")[0], type(value).__name__:
        case "numpy", "ndarray":
            return not value.dtype.hasobject
        case "pandas", "DataFrame":
            return not any(dtype.kind == "O" and dtype.name == "object" for dtype in value.dtypes)
    return False


def _share_array(value: Any) -> Any:
    """A view that cannot be written to; the array itself stays writable for whoever gets it as a result."""
    if type(value).__name__ != "ndarray":
        return value
    view = value.view()
    view.setflags(write=False)
    return view


def _share_frame(value: Any) -> Any:
    return value.copy(deep=False) if hasattr(value, "copy") and hasattr(value, "iloc") else value


_SHARE: dict[str, Callable[[Any], Any]] = {"numpy": _share_array, "pandas": _share_frame}

_REFERENCES = 3  # of a value that nobody uses: the entry's, a variable's and that of the call that counts

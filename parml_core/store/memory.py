"""
The values that a worker holds, in memory.

A value may be here as an object (a task made it), as bytes (it came from a peer), or as both. Bytes become an object when a
task first needs it, on that task's thread. What another process of this host asks for moves into memory that both map.
Tasks share the objects, so arrays are read-only, and each task gets a pandas object of its own, which copies nothing before
somebody writes to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from parml_core.protocol.messages import Loan
from parml_core.protocol.serialize import Serialized, dumps, loads
from parml_core.store.shared import loan_of, share
from parml_core.typing import Key

_NOTHING: Any = object()
_lending = threading.Lock()  # two readers of a value get the same segment


class Entry:
    """One value."""

    __slots__ = ("_serialized", "_value")

    def __init__(self, value: Any = _NOTHING, serialized: Serialized | None = None) -> None:
        self._value = value
        self._serialized = serialized

    def value(self) -> Any:
        """The object, for one task: an array that it cannot write to, a pandas object of its own, or else what all share."""
        value = self._value
        if value is _NOTHING:
            assert self._serialized is not None
            buffers = [memoryview(buffer).toreadonly() for buffer in self._serialized.buffers]
            value = self._value = loads(self._serialized.head, buffers)
        share = _SHARE.get(type(value).__module__.partition(".")[0])
        return value if share is None else share(value)

    def serialized(self) -> Serialized:
        """As bytes, whose buffers are the memory of the value itself. Raises SerializationError."""
        if self._serialized is not None:
            return self._serialized
        return dumps(self._value)

    def pack(self) -> tuple[Serialized, Loan | None]:
        """As bytes that are to be sent."""
        return self.serialized(), None

    def lend(self) -> tuple[Serialized, Loan | None]:
        """
        As bytes, and how other processes of this host can map the buffers; None where that is not worth it or not possible.

        From the first time on the value is in shared memory alone: what tasks get has its buffers there.
        """
        with _lending:
            serialized = self.serialized()
            shared = share(serialized)
            if shared is not serialized:
                self._serialized = shared
                self._value = _NOTHING
            return shared, loan_of(shared)


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

    def put(self, key: Key, value: Any) -> None:
        self._entries[key] = Entry(value)

    def put_serialized(self, key: Key, serialized: Serialized) -> None:
        self._entries[key] = Entry(serialized=serialized)

    def entry(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)


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

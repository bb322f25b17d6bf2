"""The walk through values that hashes what it finds."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from hashlib import blake2b
from itertools import chain
from typing import Any

from parml_core.hashing.forms import Attributes, Joined, Unique, find_normal_form, own_token
from parml_core.hashing.objects import reduced
from parml_core.typing import Buffer

_DIGEST_BYTES = 16


def tokenize(*values: Any) -> str:
    """
    A name for the content of `values`.

    Parameters
    ----------
    *values : object

    Returns
    -------
    str
        32 hexadecimal digits.

    Examples
    --------
    >>> tokenize("sum", {"axis": 0}) == tokenize("sum", {"axis": 0})
    True
    >>> tokenize({1, 2}) == tokenize({2, 1}), tokenize(1) == tokenize(1.0)
    (True, False)
    """
    try:
        return _Walk().digest(values).hex()
    except RecursionError:  # nested too deeply to look at
        return uuid.uuid4().hex


def _sized(tag: bytes, data: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(data), data)


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"f%b;" % value.hex().encode(),
    complex: lambda value: b"c%b,%b;" % (value.real.hex().encode(), value.imag.hex().encode()),
    str: lambda value: _sized(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: _sized(b"b", value),
    type(...): lambda value: b"E",
    type(NotImplemented): lambda value: b"I",
    Unique: lambda value: b"u" + uuid.uuid4().bytes,
}
_TAGS: dict[type, bytes] = {
    list: b"L", tuple: b"U", dict: b"D", set: b"S", frozenset: b"Z", bytearray: b"A", memoryview: b"M",
    Joined: b"J", Attributes: b"K",
}  # fmt: skip


class _Walk:
    """One walk through values: every object is looked at once, and a cycle is told by how far it leads back."""

    __slots__ = ("known", "path")

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, bytes]] = {}  # holds the object too, so that its id stays its own
        self.path: dict[int, int] = {}

    def feed(self, update: Callable[[Buffer], None], value: Any) -> None:
        scalar = _SCALARS.get(type(value))
        update(scalar(value) if scalar is not None else b"#" + self.digest(value))

    def digest(self, value: Any) -> bytes:
        ident = id(value)
        if ident in self.known:
            return self.known[ident][1]
        if ident in self.path:
            return (len(self.path) - self.path[ident]).to_bytes(_DIGEST_BYTES, "big")
        self.path[ident] = len(self.path)
        hasher = blake2b(digest_size=_DIGEST_BYTES)
        try:
            self._fill(hasher.update, value)
        finally:
            del self.path[ident]
        digest = hasher.digest()
        self.known[ident] = value, digest
        return digest

    def _fill(self, update: Callable[[Buffer], None], value: Any) -> None:
        kind: Any = type(value)
        update(_TAGS.get(kind, b"O"))
        if kind is list or kind is tuple:
            for item in value:
                self.feed(update, item)
        elif kind is dict or kind is Attributes:
            for item in chain.from_iterable(value.items()):
                self.feed(update, item)
        elif kind is set or kind is frozenset:
            for digest in sorted(self.digest((item,)) for item in value):
                update(digest)
        elif kind is bytearray or kind is memoryview:
            view = memoryview(value)
            self.feed(update, (view.format, view.shape))
            update(view if view.c_contiguous else view.tobytes())
        elif kind is Joined:
            update(b"%d:" % value.nbytes)
            for buffer in value.buffers:
                update(buffer)
        else:
            self.feed(update, kind if kind is not type else "type")  # the class of classes would be its own part
            for item in _taken_apart(value, kind):
                self.feed(update, item)


def _taken_apart(value: Any, kind: Any) -> tuple[Any, ...]:
    form = find_normal_form(kind)
    if form is own_token:
        return own_token(value)
    try:
        return (form or reduced)(value)
    except Exception:  # a class that only half behaves like the library's own: it must not get a wrong token, nor stop work
        return (Unique(),)

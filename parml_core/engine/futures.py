"""What the engines of this process and the cluster's client do with futures in the same way."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import is_
from typing import Any, Literal

from parml_core.engine.base import Future
from parml_core.engine.context import waiting
from parml_core.graph import Ref
from parml_core.typing import Key

__all__ = ["Gate", "futures_to_refs", "name_of", "unique_key", "wait_for"]

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
_serial = itertools.count()


def name_of(fn: Callable[..., Any]) -> str:
    """
    What people call a function.

    Examples
    --------
    >>> name_of(print), name_of(lambda: 0), name_of(functools.partial(int, base=2))
    ('print', 'lambda', 'int')
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return str(name).strip("<>").replace(":", ".")


def unique_key(fn: Callable[..., Any]) -> Key:
    """A key for one call, unique in this process; never that of a collection, whose tokens are hexadecimal."""
    return f"{name_of(fn)}-t{next(_serial)}"


def futures_to_refs(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any], dict[Key, Future[Any]]]:
    """
    Arguments with Refs in the place of Futures (also inside lists, tuples and dicts), and these Futures by key.

    Examples
    --------
    >>> futures_to_refs((1, [2]), {"a": 3})
    ((1, [2]), {'a': 3}, {})
    """
    found: dict[Key, Future[Any]] = {}
    args = tuple([value if type(value) in _PLAIN else _with_refs(value, found) for value in args])
    if kwargs:
        kwargs = {name: _with_refs(value, found) for name, value in kwargs.items()}
    return args, kwargs, found


def _with_refs(value: Any, found: dict[Key, Future[Any]]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        items = [_with_refs(item, found) for item in value]
        return value if all(map(is_, items, value)) else kind(items)
    if kind is dict:
        items = [_with_refs(item, found) for item in value.values()]
        return value if all(map(is_, items, value.values())) else dict(zip(value, items, strict=True))
    if isinstance(value, Future):
        found[value.key] = value
        return Ref(value.key)
    return value


class Gate:
    """Opens once; made of a bare lock, which waits at no cost of Python code and lets Ctrl-C through."""

    __slots__ = ("_lock", "is_open")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_open = False

    def open(self) -> None:
        self.is_open = True
        with suppress(RuntimeError):  # it was open
            self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether the gate is open now."""
        if not self.is_open and self._lock.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0)):
            self.open()  # for the next who waits
        return self.is_open


def wait_for(
    futures: Iterable[Future[Any]],
    *,
    until: Literal["all", "first", "first_error"] = "all",
    timeout_s: float | None = None,
) -> tuple[list[Future[Any]], list[Future[Any]]]:
    """
    `Engine.wait` for futures of any engines, by their callbacks.

    Returns
    -------
    done, pending : lists of Future
        Each in the given order.
    """
    if until not in ("all", "first", "first_error"):
        raise ValueError(f"expected until to be 'all', 'first' or 'first_error', found {until!r}")
    futures = list(futures)
    pending = [future for future in futures if not future.done()]
    if pending and not (until == "first" and len(pending) < len(futures)):
        failed = until == "first_error" and any(future.status in ("erred", "cancelled") for future in futures)
        if not failed:
            _wait_until(pending, until, timeout_s)
    pending_ids = {id(future) for future in futures if not future.done()}
    return (
        [future for future in futures if id(future) not in pending_ids],
        [future for future in futures if id(future) in pending_ids],
    )


def _wait_until(pending: list[Future[Any]], until: str, timeout_s: float | None) -> None:
    gate = Gate()
    ended = itertools.count(1)

    def on_end(future: Future[Any]) -> None:
        if next(ended) == len(pending) or until == "first" or (until == "first_error" and future.status != "finished"):
            gate.open()

    for future in pending:
        future.add_done_callback(on_end)
    try:
        with waiting():
            gate.wait(timeout_s)
    finally:
        if not gate.is_open:
            for future in pending:
                future.remove_done_callback(on_end)

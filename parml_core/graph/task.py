"""
Task: a function call that has a name. Ref: the one way to write «the result of that task» among its arguments.

Refs are found inside lists, tuples and dict values of arguments, at any depth; everything else is opaque. A string that
equals a key is a string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import is_
from typing import Any

import msgspec

from parml_core.typing import Key, WorkerId


class Ref(msgspec.Struct, frozen=True, gc=False):
    """
    Stands for the result of the task named `key`.

    Parameters
    ----------
    key : str

    Examples
    --------
    >>> Ref("a")
    Ref(key='a')
    """

    key: Key


class Hints(msgspec.Struct, frozen=True, array_like=True):
    """
    What an engine may use to place and run a task. No hint changes a result.

    Parameters
    ----------
    priority : int
        Larger runs earlier.
    retries : int
        How often a task that raised is tried again.
    where : tuple of str
        Ids or names of workers that may run the task; empty means any.
    threads : int
        Threads that the task itself uses, counted against the worker's slots. 0: the task takes no slot and starts at once.
    resources : dict of str to float
        Amounts of named resources that the worker must have free.
    """

    priority: int = 0
    retries: int = 0
    where: tuple[WorkerId, ...] = ()
    threads: int = 1
    resources: dict[str, float] = {}


NO_HINTS = Hints()
_NO_KWARGS: dict[str, Any] = {}


class Task(msgspec.Struct, frozen=True):
    """
    A call ``fn(*args, **kwargs)`` whose result is named `key`.

    Parameters
    ----------
    key : str
    fn : callable
    args : tuple
        May hold `Ref`.
    kwargs : dict
        May hold `Ref`.
    hints : Hints

    Attributes
    ----------
    deps : tuple of str
        Keys of all Refs in args and kwargs, each once, in the order of their first appearance.

    Examples
    --------
    >>> Task("c", max, (Ref("a"), [Ref("b"), Ref("a")])).deps
    ('a', 'b')
    """

    key: Key
    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = _NO_KWARGS
    hints: Hints = NO_HINTS
    deps: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        found = find_refs(self.args, self.kwargs)
        if found:
            msgspec.structs.force_setattr(self, "deps", found)


def find_refs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Key, ...]:
    """Keys of the Refs in args and kwargs, each once, in order of first appearance."""
    found: dict[Key, None] = {}
    for value in args:
        if type(value) in _SEEN_INTO:
            for ref in _refs_in(value):
                found[ref.key] = None
    for value in kwargs.values():
        if type(value) in _SEEN_INTO:
            for ref in _refs_in(value):
                found[ref.key] = None
    return tuple(found)


def substitute(value: Any, results: Mapping[Key, Any]) -> Any:
    """`value` with every Ref in it replaced by its result; containers without a Ref are returned as they are."""
    kind = type(value)
    if kind is Ref:
        return results[value.key]
    if kind is list or kind is tuple:
        items = [substitute(item, results) for item in value]
        return value if all(map(is_, items, value)) else kind(items)
    if kind is dict:
        items = [substitute(item, results) for item in value.values()]
        return value if all(map(is_, items, value.values())) else dict(zip(value, items, strict=True))
    return value


def run(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], deps: tuple[Key, ...], results: Mapping[Key, Any]
) -> Any:
    """Call `fn` with the Refs in its arguments replaced by results."""
    if deps:
        args = substitute(args, results)
        kwargs = {name: substitute(value, results) for name, value in kwargs.items()} if kwargs else kwargs
    return fn(*args, **kwargs)


_SEEN_INTO = frozenset({Ref, list, tuple, dict})


def _refs_in(value: Any) -> Iterator[Ref]:
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is Ref:
            yield item
        elif kind is list or kind is tuple:
            stack.extend(child for child in reversed(item) if type(child) in _SEEN_INTO)
        elif kind is dict:
            stack.extend(child for child in reversed(item.values()) if type(child) in _SEEN_INTO)

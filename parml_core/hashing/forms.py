"""What normal forms are made of, and which class has which."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parml_core.typing import Buffer


class Joined:
    """In a normal form: many buffers that count as one, so that how they are cut does not show in the token."""

    __slots__ = ("buffers", "nbytes")

    def __init__(self, nbytes: int, buffers: Iterable[Buffer]) -> None:
        self.nbytes = nbytes
        self.buffers = buffers


class Attributes:
    """In a normal form: a mapping whose order does not count."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = sorted(items.items(), key=lambda item: str(item[0]))

    def items(self) -> list[tuple[str, Any]]:
        return self._items


class Unique:
    """In a normal form: something that equals nothing else."""

    __slots__ = ()


NormalForm = Callable[[Any], tuple[Any, ...]]
_normal_forms: dict[str, NormalForm] = {}


def normal_form_of(*type_names: str) -> Callable[[NormalForm], NormalForm]:
    """
    Register a function that takes an object apart, for classes of these full names and those derived from them.

    Examples
    --------
    >>> @normal_form_of("fractions.Fraction")
    ... def fraction(value):
    ...     return value.numerator, value.denominator
    """

    def register(function: NormalForm) -> NormalForm:
        _normal_forms.update(dict.fromkeys(type_names, function))
        find_normal_form.cache_clear()
        return function

    return register


@functools.lru_cache(maxsize=4096)
def find_normal_form(kind: type) -> NormalForm | None:
    """How objects of this class are taken apart; None: as pickle does it."""
    for base in kind.__mro__:
        if "__parml_token__" in base.__dict__:
            return own_token
        found = _normal_forms.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    return None


def own_token(value: Any) -> tuple[Any, ...]:
    """What the class itself says."""
    return (value.__parml_token__(),)

"""Hypothesis strategies for graphs."""

from __future__ import annotations

import zlib
from typing import Any

from hypothesis import strategies as st

from parml_core.graph import Graph, Hints, Ref, Task
from parml_core.hashing import tokenize
from parml_core.typing import Key

__all__ = ["boom", "digest_of", "graphs"]


def digest_of(*args: Any, **kwargs: Any) -> int:
    """A number that depends on every argument, its type and its place."""
    return zlib.crc32(repr((args, sorted(kwargs.items()))).encode())


def boom(*args: Any, **kwargs: Any) -> None:
    """The task that always raises."""
    raise ValueError("boom")


_HINTS = st.builds(Hints, priority=st.integers(-2, 2), retries=st.integers(0, 1), threads=st.integers(0, 2))

# Values with numbers at the leaves, which `_filled` makes Refs, strings, None or leaves as they are.
_REF, _STRING, _NONE = range(3)
_SHAPES = st.recursive(
    st.tuples(st.just("leaf"), st.integers(0, 5), st.integers(0, 63)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: ("list", items))
        | st.lists(inner, max_size=2).map(lambda items: ("tuple", items))
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2).map(lambda items: ("dict", items))
    ),
    max_leaves=4,
)
_CALLS = st.tuples(
    st.lists(_SHAPES, max_size=3), st.dictionaries(st.sampled_from("pq"), _SHAPES, max_size=1), _HINTS, st.integers(0, 5)
)


@st.composite
def graphs(draw: st.DrawFn, *, max_tasks: int = 12, may_raise: bool = False) -> tuple[Graph, list[Key]]:
    """
    A graph without cycles and keys wanted of it.

    Refs stand at any depth of lists, tuples, dicts and keyword arguments; some strings equal keys, and are strings.

    Parameters
    ----------
    max_tasks : int
    may_raise : bool
        Whether some tasks raise ValueError.
    """
    calls = draw(st.lists(_CALLS, min_size=1, max_size=max_tasks))
    token = tokenize(calls, may_raise)[:16]  # equal keys are equal work: another example must have other keys
    keys = [f"{'abc'[index % 3]}-{token}:{index % 3},{index}" for index in range(len(calls))]
    tasks = []
    for index, (args, kwargs, hints, dice) in enumerate(calls):
        fn = boom if may_raise and dice == 0 else digest_of
        named = {name: _filled(shape, keys, index) for name, shape in kwargs.items()}
        tasks.append(Task(keys[index], fn, tuple(_filled(shape, keys, index) for shape in args), named, hints))
    wants = draw(st.lists(st.sampled_from(keys), max_size=len(keys)))
    return Graph(draw(st.permutations(tasks))), wants


def _filled(shape: Any, keys: list[Key], before: int) -> Any:
    """The value that a shape stands for; Refs name tasks that stand before."""
    kind, inner, *number = shape
    if kind == "list":
        return [_filled(item, keys, before) for item in inner]
    if kind == "tuple":
        return tuple(_filled(item, keys, before) for item in inner)
    if kind == "dict":
        return {name: _filled(item, keys, before) for name, item in inner.items()}
    if inner == _STRING:
        return keys[number[0] % len(keys)]
    if inner == _NONE:
        return None
    return number[0] if (inner != _REF and inner % 2) or not before else Ref(keys[number[0] % before])

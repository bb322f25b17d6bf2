"""`rechunk`: the chunks of an n-dimensional array cut along other lines."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from parml_core.errors import InputError
from parml_core.graph import Ref, Task
from parml_core.typing import Key

Chunks = Sequence[Sequence[int]]


def grid_key(group: str, place: Sequence[int]) -> Key:
    """
    The key of the chunk at a place of the grid.

    Examples
    --------
    >>> grid_key("ones-3f9c", (4, 0))
    'ones-3f9c:4,0'
    """
    return f"{group}:{','.join(map(str, place))}"


def rechunk(group: str, source: str, old: Chunks, new: Chunks) -> list[Task]:
    """
    The chunks of an array as other chunks, each made of slices of those that it overlaps.

    A chunk is one task. On the host where they lie the old chunks are mapped, not copied, so that a task touches no more of
    them than it needs.

    Parameters
    ----------
    group : str
        Of the new chunks, whose keys are ``grid_key(group, place)``.
    source : str
        The group of the old ones.
    old, new : sequence of sequence of int
        The lengths of the chunks along each axis, of the same sum.

    Raises
    ------
    InputError
        The shapes differ.

    Examples
    --------
    >>> from parml_core.graph import Graph, evaluate
    >>> tasks = [Task(f"n-1:{i}", np.arange, (3 * i, 3 * i + 3)) for i in range(2)]
    >>> [chunk.tolist() for chunk in evaluate(Graph(tasks + rechunk("r-2", "n-1", [(3, 3)], [(4, 2)])), ["r-2:0", "r-2:1"])]
    [[0, 1, 2, 3], [4, 5]]
    """
    shapes = [tuple(map(sum, chunks)) for chunks in (old, new)]
    if shapes[0] != shapes[1]:
        raise InputError(f"expected new chunks that make the shape {shapes[0]} of the old ones, found {shapes[1]}: {new!r}")
    along = [_overlaps(before, after) for before, after in zip(old, new, strict=True)]
    tasks = []
    for place in itertools.product(*(range(len(chunks)) for chunks in new)):
        slabs = [axis[index] for axis, index in zip(along, place, strict=True)]
        tasks.append(Task(grid_key(group, place), _assembled, (_nested(source, slabs), len(new))))
    return tasks


def _overlaps(old: Sequence[int], new: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """For each new chunk along an axis the old ones that it overlaps: which, from where, to where in it."""
    starts = list(itertools.accumulate(old, initial=0))
    found = []
    for start, stop in itertools.pairwise(itertools.accumulate(new, initial=0)):
        first = min(bisect_right(starts, start) - 1, len(old) - 1)
        pieces = [(first, start - starts[first], start - starts[first])] if start == stop else []
        for index in range(first, len(old)):
            low, high = max(start, starts[index]), min(stop, starts[index + 1])
            if low < high:
                pieces.append((index, low - starts[index], high - starts[index]))
            if starts[index + 1] >= stop:
                break
        found.append(pieces)
    return found


def _nested(source: str, slabs: Sequence[list[tuple[int, int, int]]], before: tuple[tuple[int, int, int], ...] = ()) -> Any:
    """The old chunks and what to take of them, in lists as deep as there are axes, as `numpy.block` wants them."""
    if len(before) == len(slabs):
        return Ref(grid_key(source, [index for index, _, _ in before])), tuple((start, stop) for _, start, stop in before)
    return [_nested(source, slabs, (*before, slab)) for slab in slabs[len(before)]]


def _assembled(parts: Any, ndim: int) -> np.ndarray:
    """A new chunk, allocated once."""

    def sliced(part: Any, depth: int) -> Any:
        if depth < ndim:
            return [sliced(item, depth + 1) for item in part]
        chunk, bounds = part
        return chunk[tuple(slice(start, stop) for start, stop in bounds)]

    return np.block(sliced(parts, 0)) if ndim else sliced(parts, 0).copy()

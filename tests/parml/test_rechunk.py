"""Chunks cut along other lines, against numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml.rechunk import grid_key, rechunk
from parml_core.errors import InputError
from parml_core.graph import Graph, Task, evaluate


def chunked(array: np.ndarray, chunks: list[list[int]]) -> dict[tuple[int, ...], np.ndarray]:
    bounds = [list(itertools.pairwise(itertools.accumulate(axis, initial=0))) for axis in chunks]
    places = itertools.product(*(range(len(axis)) for axis in chunks))
    return {place: array[tuple(slice(*axis[i]) for axis, i in zip(bounds, place, strict=True))] for place in places}


@st.composite
def axes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The lengths of chunks along an axis, cut in two ways; some may be empty."""
    length = draw(st.integers(0, 7))
    cuts = [sorted(draw(st.lists(st.integers(0, length), max_size=4))) for _ in range(2)]
    old, new = [[high - low for low, high in itertools.pairwise([0, *cut, length])] for cut in cuts]
    return old, new


@given(st.lists(axes(), max_size=3))
def test_each_new_chunk_is_that_part_of_the_array(grid: list[tuple[list[int], list[int]]]) -> None:
    old, new = [axis[0] for axis in grid], [axis[1] for axis in grid]
    shape = tuple(map(sum, old))
    array = np.arange(np.prod(shape, dtype=int), dtype="f4").reshape(shape)
    tasks = [Task(grid_key("a-1", place), np.copy, (chunk,)) for place, chunk in chunked(array, old).items()]
    wanted = chunked(array, new)
    found = evaluate(Graph(tasks + rechunk("b-2", "a-1", old, new)), [grid_key("b-2", place) for place in wanted])
    for chunk, want in zip(found, wanted.values(), strict=True):
        np.testing.assert_array_equal(chunk, want, strict=True)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"the shape \(3,\) of the old ones, found \(4,\)"):
        rechunk("b-2", "a-1", [(1, 2)], [(2, 2)])

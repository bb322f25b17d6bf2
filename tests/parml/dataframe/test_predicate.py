"""What least and greatest values say of a condition, against all the values that they could stand for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml.dataframe.predicate import COMPARISONS, Bounds, Compare, IsIn, IsNull, Predicate, of_filters
from parml_core.errors import InputError
from tests.drawn import examples


class Groups:
    """Statistics of columns that are given value by value, texts cut to one character as some writers do."""

    def __init__(self, groups: list[list[Any]], cut: bool) -> None:
        self.groups, self.cut = groups, cut

    def __len__(self) -> int:
        return len(self.groups)

    def bounds(self, column: Any) -> Bounds:
        there = [[value for value in group if value is not None] for group in self.groups]
        known = np.array([bool(values) for values in there], bool)
        low = pd.Series([min(values) for values in there if values])
        high = pd.Series([max(values) for values in there if values])
        if self.cut:
            low, high = low.map(lambda text: text[:1]), high.map(lambda text: text[:1])
        return Bounds(known, low, high, np.array([None in group for group in self.groups], bool), known)


VALUES = st.none() | st.text("ab", min_size=1, max_size=3)


@examples(25)
@given(
    st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=2),
    st.sampled_from(list(COMPARISONS)),
    st.text("ab", min_size=1, max_size=3),
    st.lists(VALUES, max_size=3),
    st.booleans(),
)
def test_no_group_with_a_matching_row_is_left_out(
    groups: list[list[Any]], op: str, value: str, values: list[Any], cut: bool
) -> None:
    """Also where texts are cut short, for conditions, their opposites and what they make together."""
    statistics = Groups(groups, cut)
    columns = [pd.Series(group, dtype="str") for group in groups]
    compare, isin, null = Compare("x", op, value), IsIn("x", tuple(values)), IsNull("x", True)
    masks: dict[Any, list[pd.Series]] = {
        compare: [COMPARISONS[op](column, value) for column in columns],
        isin: [column.isin(values) for column in columns],
        null: [column.isna() for column in columns],
    }
    cases: list[tuple[Predicate, list[pd.Series]]] = [*masks.items()]
    cases += [(predicate.opposite(), [~mask for mask in found]) for predicate, found in masks.items()]
    for (one, ones), (other, others) in itertools.pairwise(cases[:6]):
        cases.append((one & other, [a & b for a, b in zip(ones, others, strict=True)]))
        cases.append((one | other, [a | b for a, b in zip(ones, others, strict=True)]))
    for predicate, found in cases:
        may = predicate.may_match(statistics)
        assert all(may[i] for i, mask in enumerate(found) if mask.any()), str(predicate)


def test_groups_that_cannot_match_are_found() -> None:
    """By each kind of condition."""
    statistics = Groups([["a", "b"], ["d"], [None]], cut=False)
    for predicate, expected in {
        Compare("x", "<", "b"): [True, False, False],
        Compare("x", ">=", "d"): [False, True, False],
        Compare("x", "==", "c"): [False, False, False],
        IsIn("x", ("d", None)): [False, True, True],
        IsIn("x", tuple(f"c{i}" for i in range(100))): [False, False, False],
        IsNull("x", True): [False, False, True],
        IsNull("x", False): [True, True, False],
        Compare("x", "<", 5): [True, True, True],  # pandas raises for such rows, and shall
    }.items():
        assert predicate.may_match(statistics).tolist() == expected, str(predicate)


def test_a_missing_value_is_unequal_to_every_value() -> None:
    """As in numpy: a group of one value may hold others, if it holds a null."""
    statistics = Groups([[5, 5, None], [5, 5], [None], [5, 6]], cut=False)
    assert Compare("x", "!=", 5).may_match(statistics).tolist() == [True, False, True, True]
    assert Compare("x", "==", 5).opposite().may_match(statistics).tolist() == [True, False, True, True]


@pytest.mark.parametrize("filters", [[], [[]][:0], "x > 3", [("x", "~", 3)], [("x", ">")], [["x", ">", 3]], 5])
def test_filters_of_another_form_are_an_error(filters: Any) -> None:
    """That shows the right one."""
    with pytest.raises(InputError, match="list of \\(column, op, value\\)"):
        of_filters(filters)

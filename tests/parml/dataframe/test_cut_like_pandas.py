"""Intervals and durations on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.parml.dataframe.test_moving_rows_like_pandas import assert_same, cut, tables

ENGINE = InlineEngine()
DAY = pd.Timestamp(2024, 3, 1, tz="Europe/Berlin")

CUTS: dict[str, Callable[[Any, Any], Any]] = {
    "edges": lambda f, lib: lib.cut(f.x, [-1000, -10.12345, 0, 500]),
    "left edges": lambda f, lib: lib.cut(f.n, [-1000, 0, 1000], right=False),
    "with the lowest": lambda f, lib: lib.cut(f.i, [-2, 0, 2], include_lowest=True, precision=1),
    "labels": lambda f, lib: lib.cut(f.i, [-3, 0, 3], labels=["low", "high"], ordered=False),
    "numbers of intervals": lambda f, lib: lib.cut(f.i, [-3, 0, 3], labels=False),
    "numbers of intervals and nulls": lambda f, lib: lib.cut(f.x, [-3, 0, 3], labels=False),
    "intervals": lambda f, lib: lib.cut(f.f, pd.IntervalIndex.from_breaks([-3, 0, 1])),
    "times": lambda f, lib: lib.cut(f.t, [DAY, DAY + pd.Timedelta(days=10)]),
    "how many": lambda f, lib: lib.cut(f.x, 3),
    "how many of whole numbers": lambda f, lib: lib.cut(f.i, 4, right=False, include_lowest=True),
    "how many nullable": lambda f, lib: lib.cut(f.n, 2, labels=["a", "b"]),
    "how many of times": lambda f, lib: lib.cut(f.t, 2),
    "durations": lambda f, lib: lib.to_timedelta(f.n, unit="h"),
    "durations of fractions": lambda f, lib: lib.to_timedelta(f.f, unit="s"),
    "durations of texts": lambda f, lib: lib.to_timedelta(f.i.astype("str") + " min"),
    "no durations": lambda f, lib: lib.to_timedelta(f.k, errors="coerce"),
}


@pytest.mark.parametrize("name", CUTS)
@settings(max_examples=2, deadline=None)
@given(tables(8))
def test_cut_equals_pandas(name: str, table: tuple[Any, Any]) -> None:
    """Categories, values and labels; where pandas refuses, so do we."""
    whole, bounds = table
    try:
        want = CUTS[name](whole, pd)
    except ValueError as error:  # intervals between the least and the greatest of no values
        with pytest.raises(type(error)):
            CUTS[name](cut(whole, bounds), pdf)
        return
    got = CUTS[name](cut(whole, bounds), pdf)
    assert_same(got.compute(engine=ENGINE), want)
    if isinstance(want.dtype, pd.CategoricalDtype):
        assert got.dtype == want.dtype


def test_edges_are_returned() -> None:
    """As pandas gives them."""
    whole = pd.Series([1.5, None, 8.0, 3.0])
    for bins in (3, [0, 2, 9]):
        got, edges = pdf.cut(cut(whole, [1, 1, 3]), bins, retbins=True)
        want, want_edges = pd.cut(whole, bins, retbins=True)
        assert_same(got.compute(engine=ENGINE), want)
        assert edges == pytest.approx(want_edges)
    with pytest.raises(InputError, match="use pandas"):
        pdf.cut(whole, 3)

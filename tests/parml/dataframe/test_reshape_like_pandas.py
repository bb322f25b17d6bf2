"""Tables in another shape, on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import NotSupported
from tests.parml.dataframe.test_moving_rows_like_pandas import CATEGORIES, assert_same, cut, tables

ENGINE = InlineEngine()

MELTS: dict[str, Callable[[Any], Any]] = {
    "all": lambda f: f.melt(),
    "one id": lambda f: f.melt("k"),
    "ids and values": lambda f: f.melt(["t", "c"], ["x", "i"]),
    "numbers of several dtypes": lambda f: f.melt("k", ["n", "i", "f"], var_name="which", value_name="number"),
    "nullable numbers": lambda f: f.melt("t", ["n"]),
    "truth and numbers": lambda f: f.melt(["k"], ["b", "x"]),
    "categories": lambda f: f.melt("i", "c"),
    "texts and categories": lambda f: f.melt("i", ["c", "k"]),
    "times with their zone": lambda f: f.melt("i", ["t"]),
    "own labels": lambda f: f.melt("k", ["x", "i"], ignore_index=False),
    "no values": lambda f: f.melt(["k", "i"], []),
    "then more": lambda f: f.melt("k", ["x", "f"]).groupby(["k", "variable"]).value.sum(),
    "then a column": lambda f: f.melt("k", ["x", "i"]).variable,
    "names of several levels": lambda f: two_levels(f).melt(),
    "names of one of several levels": lambda f: two_levels(f).melt("a", ["b", "c"], col_level=0),
    "doubled names": lambda f: doubled(f).melt("a"),
}


def two_levels(frame: Any) -> Any:
    columns = pd.MultiIndex.from_tuples([("a", "u"), ("b", "v"), ("c", "w")], names=["top", None])
    return renamed(frame[["i", "f", "x"]], columns)


def doubled(frame: Any) -> Any:
    return renamed(frame[["i", "f", "x"]], ["a", "b", "b"])


def renamed(frame: Any, columns: Any) -> Any:
    if isinstance(frame, pd.DataFrame):
        return frame.set_axis(columns, axis=1)
    return frame.map_partitions(pd.DataFrame.set_axis, columns, axis=1, meta=frame._meta.set_axis(columns, axis=1))


@pytest.mark.parametrize("name", MELTS)
@settings(max_examples=2, deadline=None)
@given(tables(8), st.booleans())
def test_melt_equals_pandas(name: str, table: tuple[Any, Any], counted: bool) -> None:
    """Rows, order, dtypes and labels, also of rows that were numbered."""
    whole, bounds = table
    if counted:
        whole = whole.reset_index(drop=True)
    got = MELTS[name](cut(whole, bounds, counted))
    assert_same(got.compute(engine=ENGINE), MELTS[name](whole))


PIVOTS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda f: f.pivot_table("x", "i", "k"),
    "sum of categories": lambda f: f.pivot_table("x", "k", "c", "sum"),
    "count by times": lambda f: f.pivot_table(["x", "n"], "t", "b", "count"),
    "several keys": lambda f: f.pivot_table(["x"], ["i", "b"], ["k", "c"], "max"),
    "filled": lambda f: f.pivot_table("n", "i", "b", "sum", fill_value=0),
    "nulls stay": lambda f: f.pivot_table("x", "k", "i", "first", dropna=False),
    "all categories": lambda f: f.pivot_table("x", "i", "c", "sum", observed=False),
    "no columns": lambda f: f.pivot_table(["x", "f"], "k", aggfunc="min"),
    "no index": lambda f: f.pivot_table("x", columns="k", aggfunc="sum"),
    "all values": lambda f: f[["i", "b", "x", "n"]].pivot_table(index="i", columns="b"),
    "dict": lambda f: f.pivot_table(index="i", columns="b", aggfunc={"x": "sum", "f": "max"}),
    "list": lambda f: f.pivot_table("x", "i", "b", ["sum", "median"]),
    "rows of a group together": lambda f: f.pivot_table(["x", "n"], "i", "k", "nunique"),
    "function": lambda f: f.pivot_table("x", "i", "b", lambda values: values.max() - values.min()),
    "order of rows": lambda f: f.pivot_table("x", "i", "k", "sum", sort=False),
    "known": lambda f: f.pivot_table("x", "i", "c", "sum", observed=False, dropna=False),
    "known means": lambda f: f.pivot_table(["x", "f"], ["k", "b"], "c", ["mean", "count"], observed=False, dropna=False),
}


@pytest.mark.parametrize("name", PIVOTS)
@settings(max_examples=2, deadline=None)
@given(tables(8))
def test_pivot_table_equals_pandas(name: str, table: tuple[Any, Any]) -> None:
    """Rows, columns and dtypes, whichever values occur."""
    whole, bounds = table
    if not len(whole) and name == "function":
        return  # pandas guesses what the function would have returned
    want = PIVOTS[name](whole)
    got = PIVOTS[name](cut(whole, bounds))
    if name != "known means":  # the dtype of a column of nulls alone is known with the rows
        assert list(got.columns) == list(want.columns)
    assert_same(got.compute(engine=ENGINE), want)


def test_pivot_table_tells_what_it_cannot_do() -> None:
    """And computes nothing before, where columns are known."""
    frame = cut(pd.DataFrame({"k": ["a", "b"], "c": pd.Series(["x", "y"], dtype=CATEGORIES), "x": [1, 2]}), [1])
    with pytest.raises(NotSupported, match="margins"):
        frame.pivot_table("x", "k", "c", margins=True)
    with pytest.raises(KeyError, match="found 'y'"):
        frame.pivot_table("x", "y", "c")
    broken = frame.map_partitions(lambda part: part if len(part) == 0 else 1 / 0, meta=frame._meta)
    known = pdf.pivot_table(broken, "x", "k", "c", aggfunc="sum", dropna=False, observed=False)
    assert list(known.columns) == ["z", "x", "y"]
    with pytest.raises(ZeroDivisionError):
        known.compute(engine=ENGINE)


@settings(max_examples=4, deadline=None)
@given(tables(8), st.booleans())
def test_categorize_equals_pandas(table: tuple[Any, Any], all_columns: bool) -> None:
    """Categories are the values of all partitions, in order."""
    whole, bounds = table
    columns = ["k", "f", "t", "b"] if all_columns else None
    got = cut(whole, bounds).categorize(columns)
    want = whole.astype(dict.fromkeys(columns or ["k"], "category"))
    assert list(got.dtypes) == list(want.dtypes)
    assert_same(got.compute(engine=ENGINE), want)

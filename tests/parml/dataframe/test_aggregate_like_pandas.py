"""`agg` and `transform` by name on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings

from parml_core.engine.inline import InlineEngine
from parml_core.errors import NotSupported
from tests.parml.dataframe.test_moving_rows_like_pandas import assert_same, cut, tables

ENGINE = InlineEngine()

CALLS: dict[str, Callable[[Any], Any]] = {
    "name": lambda f: f[["i", "x"]].agg("sum"),
    "name along columns": lambda f: f[["i", "x"]].agg("max", axis=1),
    "list": lambda f: f[["i", "x", "n"]].agg(["sum", "count", "mean"]),
    "list of texts": lambda f: f[["i", "k"]].agg(["count", "nunique"]),
    "list of truth": lambda f: f[["b", "i"]].agg(["any", "sum"]),
    "dict": lambda f: f.agg({"i": "sum", "x": "median", "n": "count"}),
    "dict of lists": lambda f: f.agg({"i": ["sum", "max"], "x": ["mean"]}),
    "named": lambda f: f.agg(most=("i", "max"), some=("x", "count"), least=("i", "min")),
    "list of a series": lambda f: f.x.agg(["sum", "std", "nunique"]),
    "dict of a series": lambda f: f.i.agg({"low": "min", "high": "max"}),
    "named of a series": lambda f: f.i.agg(low="min", total="sum"),
    "transform": lambda f: f[["i", "x"]].transform("cumsum"),
    "transform list": lambda f: f[["i", "x"]].transform(["abs", "cumsum"]),
    "transform dict": lambda f: f.transform({"x": "abs", "i": "cummax"}),
    "transform dict of lists": lambda f: f.transform({"x": ["abs", "shift"], "i": ["cummax"]}),
    "transform of a series": lambda f: f.x.transform(["ffill", "isna"]),
    "transform then more": lambda f: f[["i", "x"]].transform(["abs", "cumsum"])[("x", "abs")],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=2, deadline=None)
@given(tables(8))
def test_agg_and_transform_equal_pandas(name: str, table: tuple[Any, Any]) -> None:
    """Shapes, dtypes and labels."""
    whole, bounds = table
    assert_same(CALLS[name](cut(whole, bounds)).compute(engine=ENGINE), CALLS[name](whole))


def test_what_wants_all_rows_at_once_is_refused() -> None:
    """Functions, totals in transform and rows in agg: with what to do."""
    frame = cut(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), [1])
    with pytest.raises(NotSupported, match="use reduction"):
        frame.agg(lambda column: column.sum())
    with pytest.raises(NotSupported, match="use transform"):
        frame.agg(["sum", "cumsum"])
    with pytest.raises(ValueError, match="use agg"):
        frame.transform("sum")
    with pytest.raises(AttributeError):
        frame.agg(["summ"])

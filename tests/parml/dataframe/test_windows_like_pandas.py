"""Expanding windows, covariance in windows, and rows that occurred before, on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from parml_core.engine.inline import InlineEngine
from parml_core.errors import NotSupported
from tests.parml.dataframe.test_moving_rows_like_pandas import assert_same, cut, tables

ENGINE = InlineEngine()

CALLS: dict[str, Callable[[Any], Any]] = {
    **{
        f"expanding {name}": lambda f, name=name: getattr(f[["i", "x", "n", "b"]].expanding(2), name)()
        for name in ("count", "max", "mean", "min", "std", "sum", "var")
    },
    "expanding of a series": lambda f: f.n.expanding().sum(),
    "expanding variance of all": lambda f: f[["x", "i"]].expanding(0)["x"].var(ddof=0),
    "cov of series": lambda f: f.i.rolling(3).cov(f.x),
    "cov of a series": lambda f: f.x.rolling(2, min_periods=1).cov(ddof=0),
    "cov of frames": lambda f: f[["i", "x"]].rolling(3, center=True).cov(f[["x", "f"]]),
    "cov of columns": lambda f: f[["i", "x"]].rolling(2).cov(pairwise=False),
    "duplicated": lambda f: f[["k", "c", "b"]].duplicated(),
    "duplicated last": lambda f: f.duplicated(["i", "t"], keep="last"),
    "duplicated anywhere": lambda f: f.k.duplicated(keep=False),
}


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=2, deadline=None)
@given(tables(8))
def test_windows_equal_pandas(name: str, table: tuple[Any, Any]) -> None:
    """Values, labels and dtypes, wherever partitions begin."""
    whole, bounds = table
    assert_same(CALLS[name](cut(whole, bounds)).compute(engine=ENGINE), CALLS[name](whole))


def test_windows_of_infinite_values_and_of_pairs() -> None:
    """Infinite values are none but in counts; pairs of columns are refused."""
    whole = pd.Series([1.0, np.inf, 3.0, -np.inf, 2.0])
    for name in ("count", "sum", "max", "var"):
        got = getattr(cut(whole, [1, 3]).expanding(), name)()
        assert_same(got.compute(engine=ENGINE), getattr(whole.expanding(), name)())
    with pytest.raises(NotSupported, match="choose pairs"):
        cut(whole.to_frame("x"), [2]).rolling(2).cov()
    assert cut(whole, [2]).duplicated().rename("d").to_frame().assign(x=1).d.sum().compute(engine=ENGINE) == 0

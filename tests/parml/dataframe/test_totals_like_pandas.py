"""Totals on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from parml_core.engine.inline import InlineEngine
from parml_core.errors import NotSupported
from tests.drawn import examples
from tests.parml.dataframe.test_operations_like_pandas import assert_same, cut
from tests.parml.dataframe.test_rows_like_pandas import wide_tables

ENGINE = InlineEngine()
NUMBERS = ["i", "f", "j"]

TOTALS: dict[str, Callable[[Any], Any]] = {
    "sem": lambda f: f[NUMBERS].sem(),
    "sem of a series": lambda f: f.i.sem(ddof=0),
    "skew": lambda f: f[NUMBERS].skew(),
    "kurt": lambda f: f[NUMBERS].kurt(),
    "skew of a series": lambda f: f.i.skew(),
    "kurt of a series": lambda f: f.j.kurtosis(),
    "row skew": lambda f: f[NUMBERS].skew(axis=1),
    "mean nullable": lambda f: f.n.mean(),
    "sum with min_count": lambda f: f[["f", "i"]].sum(min_count=4),
    "prod with min_count": lambda f: f.f.prod(min_count=3),
    "product": lambda f: f.j.product(),
    "idxmin": lambda f: f[["i", "j"]].idxmin(),
    "idxmax": lambda f: f[["i", "j"]].idxmax(),
    "idxmax of a series": lambda f: f.f.idxmax(),
    "idxmin of times": lambda f: f.z.idxmin(),
    "row idxmax": lambda f: f[["i", "j"]].idxmax(axis=1),
    "quantile": lambda f: f.f.quantile(0.3),
    "quantiles": lambda f: f.f.quantile([0, 0.25, 0.5, 0.9, 1]),
    "quantile lower": lambda f: f.i.quantile(0.4, interpolation="lower"),
    "quantile nearest": lambda f: f.i.quantile([0.1, 0.4, 0.66], interpolation="nearest"),
    "quantile midpoint": lambda f: f.j.quantile(0.4, interpolation="midpoint"),
    "quantile nullable": lambda f: f.n.quantile(0.4),
    "quantile of times": lambda f: f.z.quantile(0.4),
    "quantile of durations": lambda f: f.d.quantile([0.4, 0.8]),
    "quantile of columns": lambda f: f[["i", "f", "j"]].quantile(0.7),
    "quantiles of columns": lambda f: f[["i", "f"]].quantile([0.1, 0.7]),
    "median": lambda f: f.i.median(),
    "median of columns": lambda f: f[["i", "f"]].median(),
    "row median": lambda f: f[["i", "f"]].median(axis=1),
    "nunique": lambda f: f.drop(columns="l").nunique(),
    "nunique with nulls": lambda f: f[["s", "f"]].nunique(dropna=False),
    "row nunique": lambda f: f[["i", "j"]].nunique(axis=1),
    "mode": lambda f: f.s.mode(),
    "mode with nulls": lambda f: f.n.mode(dropna=False),
    "mode of columns": lambda f: f[["i", "s", "c"]].mode(),
    "corr": lambda f: f[["i", "f", "j"]].corr(min_periods=3),
    "cov": lambda f: f[["i", "f", "j"]].cov(),
    "cov with ddof": lambda f: f[["i", "j"]].cov(ddof=0),
    "corr of series": lambda f: f.i.corr(f.f, min_periods=3),
    "cov of series": lambda f: f.i.cov(f.f),
    "ascending": lambda f: f.i.is_monotonic_increasing,
    "descending": lambda f: f.f.is_monotonic_decreasing,
    "ascending labels": lambda f: f.index.to_series().is_monotonic_increasing,
    "first_valid_index": lambda f: f.f.first_valid_index(),
    "last_valid_index": lambda f: f[["f", "s"]].last_valid_index(),
    "describe": lambda f: f.i.describe(),
    "describe nullable": lambda f: f.n.describe(percentiles=[0.1]),
    "describe texts": lambda f: f.s.describe(),
    "describe truth": lambda f: f.b.describe(),
    "describe columns": lambda f: f[["i", "f", "s"]].describe(),
    "describe all": lambda f: f[["i", "f", "s", "c"]].describe(include="all"),
    "size": lambda f: f.size,
    "nbytes": lambda f: f.i.nbytes,
    "dot": lambda f: f.i.dot(f.j),
    "labels": lambda f: f.index.max(),
    "number of labels": lambda f: f.index.nunique(),
    "any along rows": lambda f: f[["b", "i"]].any(axis=1),
    "max along rows": lambda f: f[["f", "i"]].max(axis=1, skipna=False),
    "value_counts of truth": lambda f: f.b.value_counts(),
    "least of ordered categories": lambda f: f.c.cat.set_categories(["z", "y", "x"], ordered=True).idxmin(),
    "ascending categories": lambda f: f.c.cat.set_categories(["z", "y", "x"]).is_monotonic_increasing,
    "median of truth": lambda f: f[["b", "i"]].median(),
    "any with nulls": lambda f: (f.n > 0).any(skipna=False),
    "all with nulls": lambda f: (f.n > 0).all(skipna=False),
    "sum of durations with nulls": lambda f: f.d.sum(skipna=False),
    "value_counts of nullable": lambda f: f.n.value_counts(dropna=False),
    "mean of narrow floats": lambda f: f[["f"]].astype("float32").mean(),
    "value_counts of times": lambda f: f.z.value_counts(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TOTALS)
@examples(4)
@given(wide_tables())
def test_total_of_random_partitions_equals_pandas(name: str, table: tuple[pd.DataFrame, list[int]]) -> None:
    """A total is that of the whole frame, whatever its partitions, empty ones among them."""
    whole, bounds = table
    try:
        want = TOTALS[name](whole)
    except ValueError as error:  # the label of the least of no values, for instance
        with pytest.raises(type(error)):
            TOTALS[name](cut(whole, bounds)).compute(engine=ENGINE)
        return
    assert_same(TOTALS[name](cut(whole, bounds)).compute(engine=ENGINE), want)


TIMES: dict[str, Callable[[Any], Any]] = {
    "mean of times": lambda f: f.z.mean(),
    "mean of times with nulls": lambda f: f.t.mean(skipna=False),
    "mean of durations": lambda f: f.d.mean(),
    "std of times": lambda f: f.t.std(),
    "std of durations": lambda f: f.d.std(ddof=0),
    "mean of columns": lambda f: f[["t", "d", "i"]].mean(),
    "mean of columns of times": lambda f: f[["t"]].mean(),
    "std of columns": lambda f: f[["d", "t"]].std(),
    "describe times": lambda f: f.z.describe(),
    "describe durations": lambda f: f.d.describe(percentiles=[0.1]),
    "describe columns": lambda f: f[["i", "t", "d", "s"]].describe(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIMES)
@examples(4)
@given(wide_tables())
def test_total_of_times_equals_pandas(name: str, table: tuple[pd.DataFrame, list[int]]) -> None:
    """But for the last digits, which pandas loses as it adds floats."""
    whole, bounds = table
    want, got = TIMES[name](whole), TIMES[name](cut(whole, bounds)).compute(engine=ENGINE)
    if isinstance(want, pd.Series | pd.DataFrame):
        assert type(got) is type(want) and got.index.equals(want.index)
        assert isinstance(want, pd.DataFrame) or (got.dtype == want.dtype and got.name == want.name)
        pairs = list(zip(np.ravel(got.astype(object)), np.ravel(want.astype(object)), strict=True))
    else:
        pairs = [(got, want)]
    for one, other in pairs:
        if pd.isna(other) or not isinstance(other, pd.Timestamp | pd.Timedelta):
            assert_same(one, other)
        else:
            assert type(one) is type(other) and abs(one - other) <= pd.Timedelta(4, unit="us")
            assert isinstance(one, pd.Timedelta) or one.tz == other.tz


@pytest.mark.parametrize("dtype", ["float64", "Int64", "m8[ns]", "string[pyarrow]"])
def test_sum_of_too_few_values_is_the_null_of_their_dtype(dtype: str) -> None:
    whole = pd.Series([None, None, None], dtype=dtype)
    assert cut(whole, [1]).sum(min_count=2).compute(engine=ENGINE) is whole.sum(min_count=2) or dtype == "float64"


def test_labels_of_several_levels_and_dtypes_that_rows_do_not_change() -> None:
    levels = pd.MultiIndex.from_tuples([("x", 1), ("x", 2), ("y", 1)])
    whole = pd.DataFrame({"a": [1, 3, 2], "n": pd.array([1, 2, None], dtype="Int64"), "s": list("xyz")}, index=levels)
    frame = cut(whole, [1])
    assert_same(frame[["a"]].idxmax().compute(engine=ENGINE), whole[["a"]].idxmax())
    assert (frame.n - frame.n.mean()).dtype == (whole.n - whole.n.mean()).dtype
    assert frame.groupby("a").s.unique().dtype == object
    with pytest.raises(NotSupported, match="several levels"):
        frame.sort_index().loc[("x", 1)]

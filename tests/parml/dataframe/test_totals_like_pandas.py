"""Totals on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def test_times_are_not_left_out_of_describe() -> None:
    """pandas describes them too."""
    frame = cut(pd.DataFrame({"i": [1, 2], "t": pd.to_datetime(["2024-01-01", "2024-01-02"])}), [1])
    with pytest.raises(NotSupported, match="found times"):
        frame.describe()

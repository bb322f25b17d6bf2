"""Bins of time on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.parml.dataframe.test_moving_rows_like_pandas import assert_same, cut, tables

ENGINE = InlineEngine()
STARTS = [pd.Timestamp(2024, 3, 30, 13, 17, tz="Europe/Berlin"), pd.Timestamp(2024, 2, 28, 23, 50), pd.Timestamp(2024, 3, 1)]


@st.composite
def timed(draw: st.DrawFn) -> tuple[pd.DataFrame, list[int], dict[str, Any]]:
    """A frame whose labels are keys that ascend, some of them equal, some far apart; where to cut it; bins."""
    frame, bounds = draw(tables(8))
    start = draw(st.sampled_from(STARTS))
    steps = draw(st.lists(st.sampled_from([0, 1, 7, 60, 600, 7000]), min_size=len(frame), max_size=len(frame)))
    times = start + pd.to_timedelta(np.cumsum(steps).astype("int64"), unit="min")
    frame.index = pd.DatetimeIndex(times, name=draw(st.sampled_from([None, "when"]))).as_unit("us")
    bins: dict[str, Any] = {"rule": draw(st.sampled_from(["90min", "7min", "5h", "D", "3D", "W", "ME", "2ME", "MS", "QE"]))}
    for side in ("closed", "label"):
        bins[side] = draw(st.sampled_from([None, "left", "right"]))
    if bins["rule"] in ("90min", "7min", "5h"):
        bins["origin"] = draw(st.sampled_from(["start_day", "start", "epoch", "end", start - pd.Timedelta(hours=3)]))
        bins["offset"] = draw(st.sampled_from([None, "4min"]))
    return frame, bounds, bins


AGGREGATIONS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda r: r[["x", "n", "i"]].sum(),
    "sum of a column": lambda r: r.i.sum(),
    "count": lambda r: r.count(),
    "mean": lambda r: r[["x", "n"]].mean(),
    "std": lambda r: r[["x", "i"]].std(),
    "min": lambda r: r[["x", "i", "t"]].min(),
    "first": lambda r: r.first(),
    "last": lambda r: r[["k", "b", "c"]].last(),
    "size": lambda r: r.size(),
    "median": lambda r: r[["x", "i"]].median(),
    "nunique": lambda r: r[["k", "i"]].nunique(),
    "prod": lambda r: r.x.prod(min_count=1),
    "quantile": lambda r: r.x.quantile(0.3),
    "ohlc": lambda r: r.x.ohlc(),
    "list": lambda r: r.x.agg(["sum", "count", "median"]),
    "dict": lambda r: r.agg({"x": "max", "i": ["sum", "size"]}),
    "function": lambda r: r.x.agg(lambda values: values.sum() + len(values)),
}


@pytest.mark.parametrize("name", AGGREGATIONS)
@settings(max_examples=2, deadline=None)
@given(timed())
def test_bins_equal_pandas(name: str, table: tuple[Any, Any, Any]) -> None:
    """Values, labels and dtypes, bins without rows among them, wherever partitions begin."""
    whole, bounds, bins = table
    if not len(whole) and name == "function":
        return  # pandas guesses what the function would have returned
    got = AGGREGATIONS[name](cut(whole, bounds).resample(**bins))
    assert_same(got.compute(engine=ENGINE), AGGREGATIONS[name](whole.resample(**bins)))


def test_bins_over_many_partitions() -> None:
    """Of a series, of a column of times, and of durations: the results are several partitions, and those between are filled."""
    rng = np.random.default_rng(0)
    minutes = np.cumsum(rng.choice([0, 1, 2, 500], 100, p=[0.3, 0.3, 0.3, 0.1]))
    times = pd.Timestamp(2024, 1, 1, tz="UTC") + pd.to_timedelta(minutes, unit="min")
    whole = pd.DataFrame({"t": times, "x": rng.normal(size=100), "i": rng.integers(0, 9, 100)})
    edges = sorted(rng.integers(0, 101, 9).tolist())
    for rule in ("3min", "D"):
        for method in ("sum", "median"):
            got = getattr(cut(whole, edges, True).resample(rule, on="t"), method)()
            assert got.npartitions > 1
            assert_same(got.compute(engine=ENGINE), getattr(whole.resample(rule, on="t"), method)())
    series = whole.set_index("t").x
    assert_same(
        cut(series, edges).resample("2h", label="right").mean().compute(engine=ENGINE),
        series.resample("2h", label="right").mean(),
    )
    beside = whole.set_index("t").assign(p=pd.period_range("2024", periods=100, freq="M"))
    assert_same(cut(beside, edges).resample("D").p.count().compute(engine=ENGINE), beside.resample("D").p.count())
    spans = whole.x.set_axis(pd.to_timedelta(minutes, unit="min"))
    assert_same(cut(spans, edges).resample("40min").sum().compute(engine=ENGINE), spans.resample("40min").sum())


def test_times_that_do_not_ascend_are_told() -> None:
    """Within a partition and between partitions; labels that are no times are pandas' error."""
    times = pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-03"])
    frame = pd.DataFrame({"x": [1, 2, 3], "t": times})
    for bounds in ([], [1]):
        with pytest.raises(InputError, match="keys that ascend"):
            cut(frame, bounds).resample("D", on="t").x.sum().compute(engine=ENGINE)
    with pytest.raises(TypeError, match="Only valid with DatetimeIndex"):
        cut(frame, [1]).resample("D")
    with pytest.raises(AttributeError, match="interpolate"):
        _ = cut(frame, [1]).resample("D", on="t").interpolate

"""Steps on rows, also those that look at rows around them, on random partitions against pandas on the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError, NotSupported
from tests.drawn import examples
from tests.parml.dataframe.test_operations_like_pandas import CATEGORIES, assert_same, cut, tables

ENGINE = InlineEngine()


@st.composite
def wide_tables(draw: st.DrawFn) -> tuple[pd.DataFrame, list[int]]:
    """As `tables`, with times of a zone, times that ascend as labels or labels that repeat, and lists."""
    frame, bounds = draw(tables())
    n = len(frame)
    frame["z"] = frame.t.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    frame["d"] = (frame.t - pd.Timestamp(2010, 1, 1)).dt.floor("s")
    frame["l"] = pd.Series([list(range(i % 3)) for i in range(n)], index=frame.index, dtype=object)
    kind = draw(st.sampled_from(["own", "times", "repeated"]))
    if kind == "times":
        steps = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
        frame.index = pd.DatetimeIndex(pd.Timestamp(2020, 1, 1) + pd.to_timedelta(np.cumsum(steps), unit="h")).as_unit("us")
    elif kind == "repeated":
        frame.index = pd.Index([i // 2 for i in range(n)], dtype="int64")
    return frame, bounds


ACROSS: dict[str, Callable[[Any], Any]] = {
    **{
        f"{name} {skipna}": lambda f, name=name, skipna=skipna: getattr(f[["i", "f", "j", "b", "n"]], name)(skipna=skipna)
        for name in ("cumsum", "cumprod", "cummin", "cummax")
        for skipna in (True, False)
    },
    "cumsum of a series": lambda f: f.f.cumsum(),
    "cumsum of truth": lambda f: f.b.cumsum(),
    "cummax of times": lambda f: f.z.cummax(),
    "cumsum of nullable truth": lambda f: (f.n > 0).cumsum(),
    "cumsum of durations": lambda f: f.d.cumsum(),
    "cumsum along columns": lambda f: f[["i", "f"]].cumsum(axis=1),
    "cumsum then column": lambda f: f[["i", "f", "j"]].cumsum()["f"],
    "shift": lambda f: f.drop(columns="l").shift(2),
    "shift back": lambda f: f.shift(-3),
    "shift of a series": lambda f: f.s.shift(1),
    "shift filled": lambda f: f.i.shift(1, fill_value=7),
    "shift nothing": lambda f: f.i.shift(0),
    "shift columns": lambda f: f[["i", "f"]].shift(1, axis=1),
    "diff": lambda f: f[["i", "f", "j", "t", "n"]].diff(),
    "diff back": lambda f: f.f.diff(-2),
    "diff of times": lambda f: f.z.diff(3),
    "pct_change": lambda f: f[["j", "f"]].pct_change(2),
    "ffill": lambda f: f.ffill(),
    "bfill": lambda f: f.bfill(),
    "ffill limit": lambda f: f[["f", "s", "n", "c"]].ffill(limit=2),
    "bfill limit": lambda f: f.s.bfill(limit=1),
    "ffill inside": lambda f: f.f.ffill(limit_area="inside"),
    "bfill outside": lambda f: f.f.bfill(limit_area="outside"),
    "ffill along columns": lambda f: f[["f", "i"]].ffill(axis=1),
    "rolling sum": lambda f: f[["i", "f"]].rolling(3).sum(),
    "rolling mean": lambda f: f.f.rolling(4, min_periods=1).mean(),
    "rolling centre": lambda f: f.i.rolling(3, center=True).max(),
    "rolling closed": lambda f: f.i.rolling(3, closed="both", min_periods=1).min(),
    "rolling std": lambda f: f.i.rolling(3).std(),
    "rolling median": lambda f: f.i.rolling(3).median(),
    "rolling quantile": lambda f: f.i.rolling(3).quantile(0.3),
    "rolling count": lambda f: f.f.rolling(3).count(),
    "rolling apply": lambda f: f.i.rolling(2).apply(np.ptp, raw=True),
    "rolling agg": lambda f: f[["i", "j"]].rolling(2).agg({"i": "sum", "j": "max"}),
    "rolling several": lambda f: f.i.rolling(2).agg(["sum", "min"]),
    "rolling var": lambda f: f.j.rolling(5, min_periods=2).var(ddof=0),
    "filter then shift": lambda f: f[f.b].i.shift(1),
}

ROWS: dict[str, Callable[[Any], Any]] = {
    "explode": lambda f: f[["i", "l"]].explode("l"),
    "explode series": lambda f: f.l.explode(),
    "explode anew": lambda f: f.l.explode(ignore_index=True),
    "reset_index": lambda f: f.reset_index(),
    "reset_index drop": lambda f: f.reset_index(drop=True),
    "reset_index of filtered": lambda f: f[f.b].reset_index(drop=True),
    "reset_index twice": lambda f: f.i.reset_index().reset_index(),
    "apply rows": lambda f: f.apply(lambda row: row["i"] + row["j"], axis=1) if len(f) else f.i + f.j,
    "add_prefix": lambda f: f.add_prefix("x_"),
    "add_suffix": lambda f: f.add_suffix("_x"),
    "add_prefix of a series": lambda f: f.i.add_prefix("x"),
    "rename labels": lambda f: f.rename_axis("label"),
    "eval": lambda f: f.eval("i * 2 + f"),
    "eval assigns": lambda f: f.eval("k = i + j"),
    "query": lambda f: f.query("i > 0 and b"),
    "query text": lambda f: f.query("s == 'a'"),
    "query labels": lambda f: f.query("index == index"),
    "iloc": lambda f: f.iloc[:, [2, 0]],
    "iloc one": lambda f: f.iloc[:, 1],
    "squeeze": lambda f: f[["i"]].squeeze(axis=1),
    "dot": lambda f: f[["i", "j"]].dot(pd.Series([1.5, 2], index=["i", "j"])),
    "combine_first": lambda f: f.f.combine_first(f.i),
    "combine_first of frames": lambda f: f[["f", "i"]].combine_first(f[["i", "j"]]),
    "combine": lambda f: f.i.combine(f.j, max),
    "case_when of all rows": lambda f: f.i.case_when([(lambda s: s > s.mean(), -1)]),
    "case_when": lambda f: f.i.case_when([(f.b, f.j), (f.i > 3, 0)]),
    "zone": lambda f: f.t.dt.tz_localize("UTC"),
    "zone's day": lambda f: f.z.dt.day_name(),
    "date": lambda f: f.t.dt.date,
    "seconds": lambda f: f.d.dt.total_seconds(),
    "components": lambda f: f.d.dt.components,
    "isocalendar": lambda f: f.t.dt.isocalendar(),
    "period": lambda f: f.t.dt.to_period("M"),
    "extract": lambda f: f.s.str.extract("([a-z])(.)?"),
    "extractall": lambda f: f.s.str.extractall("([a-z])"),
    "partition": lambda f: f.s.str.partition("b"),
    "split": lambda f: f.s.str.split("b"),
    "cat with another": lambda f: f.s.str.cat(f.s, sep="-"),
    "categories": lambda f: f.c.cat.add_categories(["w"]).cat.as_ordered(),
    "index": lambda f: f.index,
    "chosen by labels": lambda f: f[f.index.isin([1, 3])],
    "index as column": lambda f: f.assign(k=f.index),
    "index of new labels": lambda f: f.reset_index().index,
    "index as series": lambda f: f.index.to_series(),
    "labels renamed": lambda f: f.index.rename("q"),
    "where by a function of all rows": lambda f: f.i.where(lambda s: s > s.mean(), 0),
    "rows by a function": lambda f: f[lambda g: g.i > 0].j[lambda s: s > 2],
    "where frame": lambda f: f[["i", "f"]].where(f[["i", "f"]] > 0, 5),
    "replace": lambda f: f[["i", "s"]].replace({"a": "q", 3: 4}),
    "copy": lambda f: f.copy(),
    "pipe": lambda f: f.pipe(lambda g, n: g.i + n, 2),
    "align": lambda f: f[["i", "f"]].align(f[["f", "j"]])[1],
    "round": lambda f: f.round({"f": 1}),
    "isin of columns": lambda f: f.isin({"i": [1, 2], "s": ["a"]}),
    "between": lambda f: f.t.between(pd.Timestamp(2005, 1, 1), pd.Timestamp(2020, 1, 1), inclusive="left"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*ACROSS, *ROWS])
@examples(4)
@given(wide_tables())
def test_step_on_random_partitions_equals_pandas(name: str, table: tuple[pd.DataFrame, list[int]]) -> None:
    """Values, dtypes, labels and names are those of pandas on the whole, wherever it is cut."""
    whole, bounds = table
    step = (ACROSS | ROWS)[name]
    if name == "partition" and not whole.s.notna().any():
        return  # pandas has fewer columns where there is no text, which cannot be known beforehand
    try:
        want = step(whole)
    except ValueError as error:
        if whole.index.is_unique:  # a label that is in two partitions is not seen
            with pytest.raises(type(error)):
                step(cut(whole, bounds)).compute(engine=ENGINE)
        return
    got = step(cut(whole, bounds))
    if isinstance(want, pd.Index):
        pd.testing.assert_index_equal(got.compute(engine=ENGINE), want)
        return
    assert_same(got.compute(engine=ENGINE), want)
    if isinstance(want, pd.DataFrame) and want.columns.nlevels == 1:  # also where no more than a column is wanted
        assert_same(got[[want.columns[-1]]].compute(engine=ENGINE), want[[want.columns[-1]]])


def test_functions_of_pandas_equal_pandas() -> None:
    """Texts to numbers and times, and categories to columns."""
    whole = pd.DataFrame({"n": ["1", "2", "3"], "t": ["2020-01-01", None, "2021-12-31"]})
    whole["c"] = pd.Series(["x", None, "y"], dtype=CATEGORIES)
    frame = cut(whole, [0, 1])
    assert_same(pdf.to_numeric(frame.n).compute(), pd.to_numeric(whole.n))
    assert_same(pdf.to_datetime(frame.t, format="%Y-%m-%d").compute(), pd.to_datetime(whole.t, format="%Y-%m-%d"))
    assert_same(pdf.get_dummies(frame[["c"]]).compute(), pd.get_dummies(whole[["c"]]))
    with pytest.raises(InputError, match="CategoricalDtype"):
        pdf.get_dummies(frame[["n"]])


def test_random_split_has_each_row_once() -> None:
    """The parts of a split are the whole, the same for the same seed; a sample has its share of rows."""
    whole = pd.DataFrame({"a": range(1000)})
    frame = cut(whole, [0, 100, 500])
    parts = [part.compute(engine=ENGINE) for part in frame.random_split([0.7, 0.3], random_state=1)]
    assert_same(pd.concat(parts).sort_index(), whole)
    assert 600 < len(parts[0]) < 800
    assert_same(frame.random_split([0.7, 0.3], random_state=1)[0].compute(engine=ENGINE), parts[0])
    assert len(frame.sample(frac=0.5, random_state=1).compute(engine=ENGINE)) == 500
    with pytest.raises(NotSupported, match="frac"):
        frame.sample(3)


def test_windows_of_time_across_partitions_equal_pandas() -> None:
    """A window of time reaches as far back as it has to, over partitions of any length."""
    hours = pd.DatetimeIndex(pd.Timestamp(2020, 1, 1) + pd.to_timedelta(np.cumsum([0, 1, 5, 0, 2, 9, 1, 1]), unit="h"))
    whole = pd.DataFrame({"a": np.arange(8.0)}, index=hours.as_unit("us"))
    frame = cut(whole, [1, 2, 2, 3, 6])
    assert_same(frame.rolling("6h").sum().compute(engine=ENGINE), whole.rolling("6h").sum())
    assert_same(frame.a.rolling("9h", center=True).mean().compute(engine=ENGINE), whole.a.rolling("9h", center=True).mean())


def test_large_column_has_exact_quantiles_of_few_rows() -> None:
    """More values than are kept of a partition, and many equal ones, give pandas' quantiles."""
    rng = np.random.default_rng(0)
    whole = pd.Series(np.concatenate([rng.normal(size=20_000), np.zeros(5_000), rng.integers(0, 9, 5_000)]))
    shares = [0, 0.01, 0.33, 0.5, 0.77, 1]
    assert_same(cut(whole, [100, 9_000, 21_000]).quantile(shares).compute(engine=ENGINE), whole.quantile(shares))


def test_variance_far_from_zero_keeps_its_digits() -> None:
    """A large mean does not swallow small deviations."""
    whole = pd.Series(1e9 + np.random.default_rng(0).normal(size=1000))
    frame = cut(whole, [10, 400])
    for name in ("var", "skew", "kurt"):
        got, want = getattr(frame, name)().compute(engine=ENGINE), getattr(whole, name)()
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("expr", ["i > i.mean()", "i - f . max() > 0", "i > @f(i)", "`i`.cumsum() > 1", "i.abs().rank() > 1"])
def test_expressions_that_look_at_all_rows_are_refused(expr: str) -> None:
    """A partition does not have them all: what it found would be wrong."""
    frame = cut(pd.DataFrame({"i": [1, 2, 3], "f": [1.5, 0.5, 1.0]}), [1])
    with pytest.raises(NotSupported, match="each row by itself"):
        frame.query(expr)
    with pytest.raises(NotSupported, match="each row by itself"):
        frame.eval(expr)


def test_expressions_of_each_row_may_use_texts_and_variables() -> None:
    whole = pd.DataFrame({"i": [1, 2, 3], "s": ["a", "ab", "b"]})
    least = 1.5  # noqa: F841  the expressions name it
    for expr in ("s.str.contains('a') and i > @least", "i.isin([1, 3]) and s.notna()", "i.abs() > 1.5e0"):
        assert_same(cut(whole, [1]).query(expr).compute(engine=ENGINE), whole.query(expr))


def test_length_of_what_makes_other_rows() -> None:
    whole = pd.Series(["ab", "aab", "b", "aa"])
    found = cut(whole, [2]).str.extractall("(a)")
    assert len(found) == len(found.compute(engine=ENGINE)) == 5
    assert_same(found.compute(engine=ENGINE), whole.str.extractall("(a)"))


@pytest.mark.parametrize("name", ["is_unique", "is_monotonic_increasing", "sort_values", "argsort", "empty", "drop_duplicates"])
def test_what_all_labels_tell_is_not_told_by_one_partition(name: str) -> None:
    frame = cut(pd.DataFrame({"a": [1, 2]}, index=[3, 3]), [1])
    try:
        found = getattr(frame.index, name)
    except AttributeError:
        return
    found = found() if callable(found) else found
    found = found.compute(engine=ENGINE) if hasattr(found, "compute") else found
    want = getattr(pd.Index([3, 3]), name)
    np.testing.assert_array_equal(found, want() if callable(want) else want)

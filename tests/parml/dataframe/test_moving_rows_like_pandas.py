"""Every operation that moves rows between partitions, on random partitions, against pandas on the whole."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml.dataframe.memory import MemoryReader
from parml.dataframe.plan import Source
from parml_core.engine.inline import InlineEngine
from parml_core.hashing import tokenize
from tests.drawn import examples

pytestmark = pytest.mark.filterwarnings("ignore:You are merging on int and float")
ENGINE = InlineEngine()
CATEGORIES = pd.CategoricalDtype(["z", "x", "y"])
DAYS = [pd.Timestamp(2024, 3, day, tz="Europe/Berlin") for day in (1, 2, 31)]


def cut(whole: Any, bounds: list[int], counted: bool = False) -> Any:
    """A parml frame of these rows with partitions of any size, empty ones among them; `counted` ones have no labels."""
    edges = [0, *sorted(bounds), len(whole)]
    reader = (NumberedReader if counted else MemoryReader)(whole, tokenize(whole, edges))
    origin = tokenize(whole.index, edges)
    return pdf.Frame._of(Source(reader, list(itertools.pairwise(edges)), origin=origin, counted=counted))


class NumberedReader(MemoryReader):
    """Rows without labels of their own, like those of a file."""

    def argument(self, part: tuple[int, int]) -> Any:
        return super().argument(part).reset_index(drop=True)

    def narrowed(self, wanted: Any) -> NumberedReader:
        return NumberedReader(super().narrowed(wanted).data, tokenize(self.token, sorted(wanted)))


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want)
    elif isinstance(want, pd.Series):
        pd.testing.assert_series_equal(got, want)
    else:
        assert (pd.isna(got) and pd.isna(want)) or got == pytest.approx(want)


@st.composite
def tables(draw: st.DrawFn, most: int = 14) -> tuple[pd.DataFrame, list[int]]:
    """A frame with few different keys of several dtypes, nulls and doubled labels, by a seed, and where to cut it."""
    n = draw(st.integers(0, most))
    rng = random.Random(draw(st.integers(0, 2**32)))

    def column(values: list[Any], nulls: bool = True) -> list[Any]:
        return [None if nulls and rng.random() < 0.25 else rng.choice(values) for _ in range(n)]

    numbers = [*range(-1000, 1001)] if draw(st.booleans()) else [-1, 0, 7]
    frame = pd.DataFrame(
        {
            "k": pd.Series(column(["a", "bb", "Ccc"]), dtype="str"),
            "i": pd.Series(column([-2, -1, 0, 1, 2], nulls=False), dtype="int64"),
            "f": pd.Series(column([-0.0, 0.0, 1.5, -2.0]), dtype="float64"),
            "c": pd.Series(column(["x", "y"]), dtype=CATEGORIES),
            "t": pd.Series(column(DAYS), dtype="datetime64[us, Europe/Berlin]"),
            "b": pd.Series(column([False, True], nulls=False), dtype="bool"),
            "x": pd.Series(column(numbers), dtype="float64"),
            "n": pd.Series(column(numbers), dtype="Int64"),
        }
    )
    frame.index = pd.Index(column([*range(21)], nulls=False), dtype="int64", name=draw(st.sampled_from([None, "row"])))
    return frame, draw(st.lists(st.integers(0, n), min_size=1, max_size=5))


KEYS = ["k", "i", "f", "c", "t", ["k", "i"], ["t", "b", "c"]]

AGGREGATIONS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda g: g.sum(numeric_only=True),
    "mean": lambda g: g[["x", "n"]].mean(),
    "std": lambda g: g[["x", "n"]].std(),
    "var": lambda g: g.x.var(ddof=0),
    "count": lambda g: g.count(),
    "size": lambda g: g.size(),
    "min": lambda g: g[["x", "n"]].min(),
    "last": lambda g: g.last(),
    "prod": lambda g: g.x.prod(),
    "dict": lambda g: g.agg({"x": ["min", "var"], "n": "count"}),
    "dict of names": lambda g: g.agg({"x": "sum", "n": "first"}),
    "named": lambda g: g.agg(most=("x", "max"), first=("n", "first")),
    "sizes among others": lambda g: g.agg(rows=("n", "size"), total=("x", "sum")),
    "size of a nullable column": lambda g: g.n.size(),
    "list": lambda g: g.x.agg(["sum", "mean", "count"]),
    "names of a series": lambda g: g.x.agg(low="min", high="max"),
    "median": lambda g: g[["x", "n"]].median(),
    "nunique": lambda g: g[["x", "n"]].nunique(),
    "function": lambda g: g.x.agg(lambda values: values.sum() / 2),
    "apply": lambda g: g[["x", "n"]].apply(lambda part: part.x.sum()),
    "size of a column": lambda g: g.x.size(),
}
ROWS: dict[str, Callable[[Any], Any]] = {
    "cumsum": lambda g: g[["x", "n"]].cumsum(),
    "cumcount": lambda g: g.cumcount(),
    "shift": lambda g: g.shift(),
    "rank": lambda g: g.x.rank(),
    "ffill": lambda g: g.x.ffill(),
    "head": lambda g: g.head(2),
    "tail": lambda g: g.x.tail(1),
}


@pytest.mark.parametrize("name", AGGREGATIONS)
@examples(5)
@given(tables(), st.sampled_from(KEYS), st.sampled_from([None, 3]), st.booleans(), st.booleans(), st.booleans())
def test_aggregation_of_groups_equals_pandas(
    name: str, table: tuple[Any, Any], by: Any, shuffle: int | None, as_index: bool, dropna: bool, counted: bool
) -> None:
    """Values, dtypes, labels, names and order, merged in a tree or with rows moved."""
    whole, bounds = table
    if not len(whole) and name in ("function", "apply"):
        return  # pandas guesses what the function would have returned
    if not as_index and name in ("list", "names of a series", "apply", "function"):
        return
    options = {"as_index": as_index, "dropna": dropna}
    want = AGGREGATIONS[name](whole.groupby(by, **options))
    if name in ("apply", "function") and not len(want):
        return
    got = AGGREGATIONS[name](cut(whole, bounds, counted).groupby(by, shuffle=shuffle, **options))
    assert_same(got.compute(engine=ENGINE), want)


@pytest.mark.parametrize("name", ROWS)
@examples(5)
@given(tables(), st.sampled_from(KEYS), st.booleans())
def test_rows_of_groups_come_back_to_their_places(name: str, table: tuple[Any, Any], by: Any, counted: bool) -> None:
    """Rows are in pandas' order with pandas' labels, in the partitions of the frame."""
    whole, bounds = table
    if counted:
        whole = whole.reset_index(drop=True)
    got = ROWS[name](cut(whole, bounds, counted).groupby(by))
    assert got.npartitions == len(bounds) + 1
    assert_same(got.compute(engine=ENGINE), ROWS[name](whole.groupby(by)))


@examples(5)
@given(tables())
def test_transformed_column_stands_beside_the_others(table: tuple[Any, Any]) -> None:
    """A transform can be assigned to the frame that it comes from, also where labels are doubled."""
    whole, bounds = table
    if whole.k.isna().all():
        return  # pandas fails
    frame = cut(whole, bounds)
    got = frame.assign(share=frame.x / frame.groupby("k").x.transform("sum"))
    assert_same(got.compute(engine=ENGINE), whole.assign(share=whole.x / whole.groupby("k").x.transform("sum")))


@examples(6)
@given(tables(), st.booleans())
def test_groups_by_a_series_and_of_a_series_equal_pandas(table: tuple[Any, Any], counted: bool) -> None:
    """Keys may be computed; a series may be grouped; so may labels."""
    whole, bounds = table
    if counted:
        whole = whole.reset_index(drop=True)
    frame = cut(whole, bounds, counted)

    def results(f: Any) -> list[Any]:
        return [
            f.groupby(f.i % 2).x.sum(),
            f.groupby(["k", f.i > 0]).x.mean(),
            f.x.groupby(f.k).max(),
            f.x.groupby([f.k, f.i]).agg(["sum", "count"]),
            f.groupby(f.k)[["x"]].sum(),
            f.x.groupby(f.i).cumsum(),
            f.groupby(level=0).i.sum(),
            f.assign(k=f.k.where(f.k != "a")).groupby(["k", "b"], dropna=False).get_group((np.nan, True)).drop(columns="i")
            if len(f[(f.k.isna() | (f.k == "a")) & f.b])
            else f.i,
            f.groupby("c", observed=False).x.sum(),
            f.groupby(["c", "b"], observed=False).x.count(),
            f.groupby(["b", "c"], observed=False).x.sum(),
        ]

    for got, want in zip(results(frame), results(whole), strict=True):
        assert_same(got.compute(engine=ENGINE), want)


MERGES: list[dict[str, Any]] = [
    {"on": "k"},
    {"on": ["k", "i"]},
    {"on": "t"},
    {"on": "c"},
    {"left_on": "f", "right_on": "i"},
    {"left_on": "i", "right_on": "n"},
    {"on": "i", "indicator": True},
    {"on": ["k"], "suffixes": (None, "_r")},
    {"left_index": True, "right_index": True},
]


def in_some_order(frame: pd.DataFrame, labelled: bool) -> pd.DataFrame:
    """The rows sorted by all that is in them."""
    frame = frame.rename_axis("label").reset_index(drop=not labelled)
    order = frame.astype(object).fillna("-").astype(str).sort_values(list(frame.columns), kind="stable").index
    return frame.loc[order].reset_index(drop=True)


@pytest.mark.parametrize("how", ["inner", "left", "right", "outer"])
@examples(7)
@given(tables(9), tables(7), st.sampled_from(MERGES), st.sampled_from([None, False, True]))
def test_merge_equals_pandas(
    how: str, left: tuple[Any, Any], right: tuple[Any, Any], keys: Any, broadcast: bool | None
) -> None:
    """Rows beside rows of equal keys, whatever the dtypes of the keys; nulls match nulls. In pandas' order where promised."""
    (a, a_bounds), (b, b_bounds) = left, right
    b = b[["k", "i", "f", "c", "t", "n"]].assign(z=np.arange(len(b), dtype="int64"))
    if (how == "outer" and broadcast) or not len(a) or not len(b):
        return
    want = a.merge(b, how=how, **keys)
    result = cut(a, a_bounds).merge(cut(b, b_bounds), how=how, broadcast=broadcast, **keys)
    got = result.compute(engine=ENGINE)
    assert list(got.columns) == list(want.columns)
    if how == "left" and broadcast:
        assert_same(got, want)
    else:
        labelled = "left_index" in keys
        assert labelled or got.index.equals(pd.RangeIndex(len(want)))
        pd.testing.assert_frame_equal(in_some_order(got, labelled), in_some_order(want, labelled), check_dtype=len(want) > 0)
    one = result["z"].compute(engine=ENGINE)
    assert sorted(one.fillna(-1)) == sorted(want["z"].fillna(-1))


@examples(5)
@given(tables(6), tables(6))
def test_cross_merge_and_join_equal_pandas(left: tuple[Any, Any], right: tuple[Any, Any]) -> None:
    """Every pair of rows; and rows beside those whose labels are in a column, in pandas' order."""
    (a, a_bounds), (b, b_bounds) = left, right
    got = cut(a, a_bounds).merge(cut(b, b_bounds)[["k", "x"]], how="cross").compute(engine=ENGINE)
    assert_same(got, a.merge(b[["k", "x"]], how="cross"))
    got = cut(a, a_bounds)[["i", "x"]].join(b[["k", "f"]], on="i").compute(engine=ENGINE)
    assert_same(got, a[["i", "x"]].join(b[["k", "f"]], on="i"))


@examples(6)
@given(tables(), tables(8), st.sampled_from(["inner", "outer"]), st.booleans())
def test_concat_equals_pandas(one: tuple[Any, Any], two: tuple[Any, Any], join: str, ignore_index: bool) -> None:
    """Frames with other columns and dtypes one after the other, also where one has no rows."""
    (a, a_bounds), (b, b_bounds) = one, two
    b = b[["x", "k"]].assign(i=b.i.astype("float64"), z=1)
    options: dict[str, Any] = {"join": join, "ignore_index": ignore_index}
    got = pdf.concat([cut(a, a_bounds), cut(b, b_bounds)], **options)
    want = pd.concat([a, b], **options)
    assert_same(got.compute(engine=ENGINE), want)
    assert_same(got.x.compute(engine=ENGINE), want.x)
    assert_same(pdf.concat([cut(a, a_bounds)[["x"]], cut(a, a_bounds).i], axis=1).compute(engine=ENGINE), a[["x", "i"]])


@examples(10)
@given(
    tables(25),
    st.lists(st.sampled_from(list("kifctbxn")), min_size=1, max_size=4, unique=True),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.sampled_from(["first", "last"]),
    st.booleans(),
)
def test_sort_values_equals_pandas(table: tuple[Any, Any], by: list[str], up: list[bool], nulls: str, counted: bool) -> None:
    """By several columns, up and down, nulls first or last, with many ties."""
    whole, bounds = table
    if counted:
        whole = whole.reset_index(drop=True)
    frame = cut(whole, bounds, counted)
    options: dict[str, Any] = {"ascending": up[: len(by)], "na_position": nulls}
    want = whole.sort_values(by, kind="stable", **options)
    assert_same(frame.sort_values(by, **options).compute(engine=ENGINE), want)
    assert_same(frame.sort_values(by, ignore_index=True, **options).x.compute(engine=ENGINE), want.x.reset_index(drop=True))
    assert_same(
        frame.x.sort_values(ascending=up[0]).compute(engine=ENGINE), whole.x.sort_values(ascending=up[0], kind="stable")
    )
    assert_same(frame.sort_index().compute(engine=ENGINE), whole.sort_index(kind="stable"))


@examples(5)
@given(tables(20), st.sampled_from(["i", "x", "k", "t"]), st.booleans())
def test_set_index_and_loc_equal_pandas(table: tuple[Any, Any], key: str, given_divisions: bool) -> None:
    """Rows in the order of their new labels, which loc finds."""
    whole, bounds = table
    whole = whole.dropna(subset=[key])
    frame = cut(whole, [min(bound, len(whole)) for bound in bounds])
    want = whole.set_index(key).sort_index(kind="stable")
    labels = sorted(set(whole[key])) or [{"i": 1, "x": 1.0, "k": "a", "t": DAYS[0]}[key]]
    divisions = [labels[0], labels[len(labels) // 2], labels[-1]]
    got = frame.set_index(key, divisions=divisions if given_divisions else None)
    assert got.known_divisions == given_divisions
    assert_same(got.compute(engine=ENGINE), want)
    assert_same(got.b.compute(engine=ENGINE), want.b)
    for start in labels[:: max(1, len(labels) // 2)]:
        assert_same(got.loc[start:].compute(engine=ENGINE), want.loc[start:])
        assert_same(got.loc[: labels[-1]].n.compute(engine=ENGINE), want.loc[: labels[-1]].n)
        assert_same(got.loc[start:start, ["n", "b"]].compute(engine=ENGINE), want.loc[start:start, ["n", "b"]])
    assert_same(got.reset_index().compute(engine=ENGINE), want.reset_index())
    assert_same(got.repartition(divisions=divisions).compute(engine=ENGINE), want)
    assert_same(frame.set_index(key, sort=False).compute(engine=ENGINE), whole.set_index(key))


ONCE: dict[str, Callable[[Any], Any]] = {
    "rows": lambda f: f[["k", "i"]].drop_duplicates(),
    "subset": lambda f: f.drop_duplicates(subset=["t", "b"], keep="last"),
    "none of doubled": lambda f: f.drop_duplicates("i", keep=False),
    "numbered": lambda f: f.drop_duplicates("c", ignore_index=True),
    "series": lambda f: f.f.drop_duplicates(),
    "one column of": lambda f: f.drop_duplicates("k").x,
    "nlargest": lambda f: f.nlargest(3, "i"),
    "nsmallest": lambda f: f.nsmallest(4, ["i", "x"], keep="last"),
    "nlargest all": lambda f: f.i.nlargest(2, keep="all"),
    "mode": lambda f: f.k.mode(),
    "mode with nulls": lambda f: f.n.mode(dropna=False),
    "mode of categories": lambda f: f.c.mode(),
    "quantile": lambda f: f.x.quantile(0.3),
    "quantiles": lambda f: f.i.quantile([0.0, 0.25, 0.5, 1.0]),
    "quantile lower": lambda f: f.x.quantile(0.6, interpolation="lower"),
    "reset": lambda f: f[["x", "k"]].reset_index(),
    "reset and drop": lambda f: f.x.reset_index(drop=True),
}


@pytest.mark.parametrize("name", ONCE)
@examples(6)
@given(tables(20), st.booleans())
def test_rows_that_are_chosen_equal_pandas(name: str, table: tuple[Any, Any], counted: bool) -> None:
    """Duplicates, extremes and quantiles across partitions."""
    whole, bounds = table
    if name == "numbered" and not len(whole):
        return  # pandas keeps the labels of no rows
    if counted:
        whole = whole.reset_index(drop=True)
    assert_same(ONCE[name](cut(whole, bounds, counted)).compute(engine=ENGINE), ONCE[name](whole))


@examples(5)
@given(tables(20), st.sampled_from(list("kifctbn")))
def test_unique_equals_pandas(table: tuple[Any, Any], column: str) -> None:
    """In the order in which values first appear."""
    whole, bounds = table
    got = cut(whole, bounds)[column].unique().compute(engine=ENGINE)
    assert_same(pd.Series(got), pd.Series(whole[column].unique()))


@pytest.mark.parametrize("how", ["inner", "left", "right", "outer"])
def test_numbered_rows_of_one_partition_keep_their_numbers_in_a_merge(how: str) -> None:
    """A small file beside a large one, matched by labels, and rows of both move."""
    a, b = pd.DataFrame({"i": range(9)}), pd.DataFrame({"j": range(6)})
    for left, right in (([3, 5], []), ([], [2, 3])):
        got = cut(a, left, counted=True).merge(cut(b, right, True), how=how, left_index=True, right_index=True, broadcast=False)
        want = a.merge(b, how=how, left_index=True, right_index=True)
        assert_same(got.compute(engine=ENGINE).sort_index(), want)

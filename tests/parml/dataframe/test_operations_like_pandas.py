"""Every operation on random partitions against pandas on the whole."""

from __future__ import annotations

import itertools
import operator
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
from parml_core.errors import InputError, NotSupported
from parml_core.hashing import tokenize
from tests.drawn import examples

# pandas says so for chained filters, and parml asks it the same.
pytestmark = pytest.mark.filterwarnings("ignore:Boolean Series key", "ignore:Constructing a Categorical")
ENGINE = InlineEngine()
CATEGORIES = pd.CategoricalDtype(["x", "y", "z"])


def cut(whole: Any, bounds: list[int]) -> Any:
    """A parml frame of these rows with partitions of any size, empty ones among them."""
    edges = [0, *sorted(bounds), len(whole)]
    parts = list(itertools.pairwise(edges))
    reader = MemoryReader(whole, tokenize(whole, edges))
    return pdf.Frame._of(Source(reader, parts, origin=tokenize(whole.index, edges), counted=False))


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want)
    elif isinstance(want, pd.Series):
        pd.testing.assert_series_equal(got, want)
    elif isinstance(want, float | np.floating):
        assert type(got) is type(want) or np.isnan(want)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    else:
        assert (pd.isna(got) and pd.isna(want)) or got == want


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, list[int]]:
    """A frame of several dtypes with nulls, and where to cut it. Values are from a seed: drawn one by one they cost most."""
    n, most = draw(st.integers(0, 12)), draw(st.sampled_from([1000, 2]))
    rng = random.Random(draw(st.integers(0, 2**32)))

    def column(value: Callable[[], Any], nulls: bool = True) -> list[Any]:
        return [None if nulls and rng.random() < 0.25 else value() for _ in range(n)]

    def small() -> int:
        return rng.randint(-most, most)

    frame = pd.DataFrame(
        {
            "i": pd.Series(column(small, nulls=False), dtype="int64"),
            "j": pd.Series(column(lambda: rng.randint(1, 9), nulls=False), dtype="int32"),
            "f": pd.Series(column(lambda: rng.choice([rng.uniform(-1e6, 1e6), small(), 0.0, -0.0, 0.1])), dtype="float64"),
            "b": pd.Series(column(lambda: rng.random() < 0.5, nulls=False), dtype="bool"),
            "s": pd.Series(column(lambda: rng.choice(["a", "bb", "Ccc", "ü "])), dtype="str"),
            "c": pd.Series(column(lambda: rng.choice(["x", "y"])), dtype=CATEGORIES),
            "t": pd.Series(
                column(lambda: pd.Timestamp(2000, 1, 1) + pd.Timedelta(microseconds=rng.randrange(10**15))), dtype="M8[us]"
            ),
            "n": pd.Series(column(small), dtype="Int64"),
        },
    )
    frame.index = pd.Index(rng.sample(range(n), n), dtype="int64", name=draw(st.sampled_from([None, "row"])))
    return frame, draw(st.lists(st.integers(0, n), max_size=4))


def deleted(f: Any) -> Any:
    f = f.copy() if isinstance(f, pd.DataFrame) else f
    del f["s"]
    return f


def assigned(f: Any) -> Any:
    f = f.assign(k=1.5)
    f["i"] = f.f + f.i
    f["new"] = f.s.str.upper()
    return f


ROWWISE: dict[str, Callable[[Any], Any]] = {
    "column": lambda f: f["f"],
    "attribute": lambda f: f.s,
    "columns": lambda f: f[["s", "i"]],
    "filter": lambda f: f[f.f > 0],
    "filter of a filter": lambda f: f[f.i > 0][f.b],
    "filter by several": lambda f: f[(f.i > 0) & ~f.b | f.f.isna()],
    "filter of a series": lambda f: f.i[f.b],
    "arithmetic": lambda f: (f.i * 2 + f.f) / (f.j - 0.5) - 3 % f.j,
    "arithmetic of frames": lambda f: f[["i", "f"]] + f[["f", "j"]],
    "reflected": lambda f: 10 - f.i + 2**f.j // 3,
    "negative": lambda f: -f.f + abs(f.i),
    "invert": lambda f: ~f.b,
    "xor": lambda f: f.b ^ (f.i > 3),
    "compare": lambda f: f[["i", "f"]] >= 3,
    "compare series": lambda f: f.i != f.j,
    "method with axis": lambda f: f[["i", "f"]].mul(f.j, axis=0),
    "ufunc": lambda f: np.exp2(f.j),
    "assign": assigned,
    "assign function": lambda f: f.assign(two=lambda g: g.i * 2, three=lambda g: g.two + 1),
    "isin": lambda f: f.s.isin(["a", "Ccc"]),
    "fillna": lambda f: f.f.fillna(7),
    "fillna of columns": lambda f: f.fillna({"f": 0.5, "s": "none"}),
    "dropna": lambda f: f.dropna(),
    "dropna subset": lambda f: f.dropna(subset=["f", "s"]),
    "dropna all": lambda f: f[["f", "s"]].dropna(how="all"),
    "dropna thresh": lambda f: f[["f", "s", "n"]].dropna(thresh=2),
    "dropna series": lambda f: f.n.dropna(),
    "astype": lambda f: f.j.astype("float32"),
    "astype of columns": lambda f: f.astype({"i": "float64", "b": "int8"}),
    "astype category": lambda f: f.s.astype(pd.CategoricalDtype(["a", "bb"])),
    "isna": lambda f: f.isna(),
    "notna": lambda f: f.n.notna(),
    "drop": lambda f: f.drop(columns=["s", "t"]),
    "drop one": lambda f: f.drop("s", axis=1),
    "rename": lambda f: f.rename(columns={"i": "f2", "s": "i"}),
    "rename by function": lambda f: f.rename(columns=str.upper),
    "rename series": lambda f: f.i.rename("other"),
    "between": lambda f: f.i.between(-5, f.j),
    "abs": lambda f: f[["i", "f"]].abs(),
    "clip": lambda f: f.f.clip(lower=-10, upper=10),
    "round": lambda f: f.f.round(1),
    "where": lambda f: f.f.where(f.b, -1.0),
    "mask": lambda f: f.f.mask(f.b, f.i),
    "replace": lambda f: f.s.replace({"a": "A"}),
    "map dict": lambda f: f.i.map({1: 1.5, 2: 2.5}),
    "map function": lambda f: f.j.map(lambda j: j / 2),
    "to_frame": lambda f: f.i.to_frame("x"),
    "str.len": lambda f: f.s.str.len(),
    "str[0]": lambda f: f.s.str[0],
    "str.contains": lambda f: f.s.str.contains("c", case=False),
    "str.partition": lambda f: f.s.str.strip().str.replace("b", "d"),
    "dt.year": lambda f: f.t.dt.year,
    "dt.strftime": lambda f: f.t.dt.strftime("%Y-%m"),
    "dt.floor": lambda f: f.t.dt.floor("D"),
    "cat.codes": lambda f: f.c.cat.codes,
    "select_dtypes": lambda f: f.select_dtypes("number"),
    "row sum": lambda f: f[["i", "j", "f"]].sum(axis=1),
    "row mean": lambda f: f.mean(axis=1, numeric_only=True),
    "row any": lambda f: f[["i", "b"]].any(axis=1),
    "row std": lambda f: f[["i", "j", "f"]].std(axis=1),
    "del": deleted,
    "nullable": lambda f: f.n + f.i,
}


TOTALS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda f: f.i.sum(),
    "sum of filtered": lambda f: f[f.b].j.sum(),
    "sum of columns": lambda f: f[["i", "f", "b"]].sum(),
    "sum numeric": lambda f: f.sum(numeric_only=True),
    "sum without skipna": lambda f: f[["i", "f"]].sum(skipna=False),
    "prod": lambda f: f.j.prod(),
    "min": lambda f: f.i.min(),
    "min of columns": lambda f: f[["i", "f", "j"]].min(),
    "max of times": lambda f: f.t.max(),
    "max nullable": lambda f: f.n.max(),
    "count": lambda f: f.count(),
    "count of series": lambda f: f.s.count(),
    "mean": lambda f: f.f.mean(),
    "mean of ints": lambda f: f.i.mean(),
    "mean of columns": lambda f: f.mean(numeric_only=True),
    "mean without skipna": lambda f: f.f.mean(skipna=False),
    "var": lambda f: f.f.var(),
    "std": lambda f: f.i.std(),
    "std of columns": lambda f: f[["i", "f", "j"]].std(),
    "std with ddof": lambda f: f.f.std(ddof=0),
    "any": lambda f: f.b.any(),
    "all of columns": lambda f: f[["b", "i"]].all(),
    "value_counts": lambda f: f.s.value_counts(),
    "value_counts with nulls": lambda f: f.s.value_counts(dropna=False, ascending=True),
    "value_counts share": lambda f: f.j.value_counts(normalize=True),
    "nunique": lambda f: f.s.nunique(),
    "nunique with nulls": lambda f: f.s.nunique(dropna=False),
    "arithmetic of totals": lambda f: f.i.sum() * 2 + f.j.count(),
}


@pytest.mark.parametrize("name", ROWWISE)
@examples(6)
@given(tables())
def test_rowwise_operation_on_random_partitions_equals_pandas(name: str, table: tuple[pd.DataFrame, list[int]]) -> None:
    """Values, dtypes, labels and names are those of pandas on the whole frame."""
    whole, bounds = table
    operation = ROWWISE[name]
    try:
        want = operation(whole)
    except (TypeError, ValueError, AttributeError) as error:
        pytest.fail(f"pandas itself refuses {name}: {error}")
    assert_same(operation(cut(whole, bounds)).compute(engine=ENGINE), want)


class NumberedReader(MemoryReader):
    """Rows without labels of their own, like those of a file."""

    def argument(self, part: tuple[int, int]) -> Any:
        return super().argument(part).reset_index(drop=True)

    def narrowed(self, wanted: Any) -> NumberedReader:
        return NumberedReader(super().narrowed(wanted).data, tokenize(self.token, sorted(wanted)))


@pytest.mark.parametrize("name", ["column", "filter", "filter of a filter", "filter of a series", "dropna", "assign"])
@examples(5)
@given(tables())
def test_rows_without_labels_are_numbered_like_pandas(name: str, table: tuple[pd.DataFrame, list[int]]) -> None:
    """What is computed or persisted has the row numbers that pandas gives, also where rows were left out."""
    whole, bounds = table
    whole = whole.reset_index(drop=True)
    edges = [0, *sorted(bounds), len(whole)]
    source = Source(
        NumberedReader(whole, tokenize(whole)), list(itertools.pairwise(edges)), origin=tokenize(edges), counted=True
    )
    got = ROWWISE[name](pdf.DataFrame(source))
    want = ROWWISE[name](whole)
    assert_same(got.compute(engine=ENGINE), want)
    assert_same(got.persist(engine=ENGINE).compute(engine=ENGINE), want)
    assert_same(got.repartition(2).compute(engine=ENGINE), want)
    assert_same(got.head(4, engine=ENGINE), want.head(4))
    assert_same(got.tail(3, engine=ENGINE), want.tail(3))


@pytest.mark.parametrize("name", TOTALS)
@examples(6)
@given(tables())
def test_total_of_random_partitions_equals_pandas(name: str, table: tuple[pd.DataFrame, list[int]]) -> None:
    """A total is that of the whole frame, whatever its partitions, empty ones among them."""
    whole, bounds = table
    assert_same(TOTALS[name](cut(whole, bounds)).compute(engine=ENGINE), TOTALS[name](whole))


@examples(15)
@given(tables(), st.integers(1, 9), st.integers(0, 15))
def test_repartition_head_and_len_on_random_partitions_equal_pandas(
    table: tuple[pd.DataFrame, list[int]], npartitions: int, n: int
) -> None:
    """Rows and their order outlive repartitioning; head and len are those of pandas."""
    whole, bounds = table
    frame = cut(whole, bounds)
    again = frame.repartition(npartitions)
    assert again.npartitions == npartitions
    assert_same(again.compute(engine=ENGINE), whole)
    assert_same(frame[frame.b].head(n, engine=ENGINE), whole[whole.b].head(n))
    assert len(frame[frame.b]) == int(whole.b.sum())


def test_standardising_by_totals_equals_pandas() -> None:
    """Totals of columns are matched with columns, a single total with all rows."""
    whole = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [3, 5, 9]})
    frame = cut(whole, [1])
    assert_same(((frame - frame.mean()) / frame.std())[["b"]].compute(), ((whole - whole.mean()) / whole.std())[["b"]])
    assert_same((frame.a - frame.a.mean()).compute(), whole.a - whole.a.mean())
    assert frame.sum()["b"].compute() == whole.sum()["b"]


def test_rows_left_out_on_one_side_are_aligned_like_pandas() -> None:
    """A filtered column beside a whole one gives missing values, with the right row numbers."""
    whole = pd.DataFrame({"a": [1.0, -2.0, 4.0, 5.0, -6.0], "b": range(5)})
    reader = NumberedReader(whole, tokenize(whole))
    frame = pdf.DataFrame(Source(reader, [(0, 2), (2, 2), (2, 5)], origin="test", counted=True))
    assert_same((frame[frame.a > 0].b + frame.a).compute(), whole[whole.a > 0].b + whole.a)
    frame["c"] = frame[frame.a > 0].b
    whole["c"] = whole[whole.a > 0].b
    assert_same(frame[frame.b > 0].compute(), whole[whole.b > 0])


def test_duplicate_columns_are_kept_in_order() -> None:
    """Two columns of one name both survive steps and the optimiser."""
    whole = pd.DataFrame([[1, 2, 3], [4, 5, 6]], columns=["a", "b", "a"])
    frame = cut(whole, [1])
    assert_same((frame + 1).compute(), whole + 1)
    assert_same(frame["a"].compute(), whole["a"])
    assert_same(frame[["b", "a"]].compute(), whole[["b", "a"]])
    assert_same(frame.sum().compute(), whole.sum())
    assert_same(frame.drop(columns="b").compute(), whole.drop(columns="b"))
    assert_same(frame.select_dtypes("number").compute(), whole.select_dtypes("number"))
    assert_same(frame.sum(numeric_only=True).compute(), whole.sum(numeric_only=True))


class TestMistakes:
    frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3], "s": list("xyz")}), npartitions=2)

    def test_missing_column_names_the_columns(self) -> None:
        """The error comes when the step is written, is a KeyError, and lists what there is."""
        with pytest.raises(KeyError, match=r"found 'zz'; its columns are 'a', 's'"):
            self.frame["zz"]
        with pytest.raises(KeyError, match="'zz'"):
            self.frame[["a", "zz"]]
        with pytest.raises(KeyError, match="'zz'"):
            self.frame.drop(columns="zz")
        with pytest.raises(KeyError, match="'zz'"):
            self.frame.astype({"zz": int})
        with pytest.raises(AttributeError, match="'zz'"):
            _ = self.frame.zz

    def test_other_partitions_are_refused(self) -> None:
        """Rows of two frames that were cut apart are not combined by accident."""
        other = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3]}), npartitions=3)
        with pytest.raises(InputError, match="same partitions"):
            _ = self.frame.a + other.a
        with pytest.raises(InputError, match="same partitions"):
            self.frame["b"] = other.a
        with pytest.raises(InputError, match="same partitions"):
            self.frame[other.a > 1]

    def test_same_index_and_cuts_can_be_combined(self) -> None:
        """Two frames with equal labels and equal cuts have the same partitions."""
        x = pd.DataFrame({"a": [1, 2, 3]})
        y = pd.Series([4, 5, 6])
        assert (pdf.from_pandas(x, 2).a + pdf.from_pandas(y, 2)).compute().tolist() == [5, 7, 9]

    def test_plain_rows_are_refused(self) -> None:
        """Rows of pandas and numpy objects cannot be matched with partitions."""
        for other in (pd.Series([1, 2, 3]), np.arange(3), [1, 2, 3]):
            with pytest.raises(InputError, match="partitions"):
                operator.add(self.frame.a, other)
            with pytest.raises(InputError, match="partitions"):
                self.frame.assign(b=other)

    def test_mistake_of_dtype_shows_at_once(self) -> None:
        """What pandas refuses on the empty frame is refused before anything runs."""
        with pytest.raises(TypeError):
            _ = self.frame.s - 1
        with pytest.raises(AttributeError):
            _ = self.frame.a.str
        with pytest.raises(TypeError, match="numeric_only"):
            self.frame.mean()
        with pytest.raises(TypeError, match="real numbers"):
            cut(pd.Series([1j, 2]), [1]).mean()
        with pytest.raises(InputError, match="truth values"):
            self.frame[self.frame.a]

    def test_what_looks_at_other_rows_is_refused(self) -> None:
        """A method that would give other results by partition is not supported, and says so."""
        with pytest.raises(NotSupported, match="limit"):
            self.frame.a.fillna(1, limit=1)
        with pytest.raises(NotSupported, match="inplace"):
            self.frame.fillna(1, inplace=True)
        with pytest.raises(NotSupported, match="expand"):
            self.frame.s.str.split("-", expand=True)
        with pytest.raises(NotSupported, match="merges rows"):
            self.frame.s.str.cat()

    def test_what_each_partition_would_see_in_part_is_refused(self) -> None:
        """Values of another series, rows of a pandas object, and texts of times that depend on all times."""
        plain = pd.Series([7, 8], index=[0, 5])
        with pytest.raises(NotSupported, match="isin"):
            self.frame.a.isin(self.frame.a)
        for wrong in (
            lambda: self.frame.a.combine_first(plain),
            lambda: self.frame.a.where(self.frame.a > 1, plain),
            lambda: self.frame.a.fillna(plain),
            lambda: self.frame.isin(plain),
            lambda: self.frame.fillna(plain.to_frame("a")),
        ):
            with pytest.raises(InputError, match="cannot be matched with partitions"):
                wrong()
        for partly in (
            lambda: self.frame.index.isin(self.frame.a),
            lambda: self.frame.a.apply("cumsum"),
            lambda: self.frame.a.apply(np.mean, by_row=False),
        ):
            with pytest.raises(NotSupported):
                partly()
        with pytest.raises(InputError, match=r"str\.cat"):
            self.frame.s.str.cat(plain.astype(str))
        times = cut(pd.DataFrame({"t": pd.to_datetime(["2024-01-01 00:00", "2024-01-01 05:00"])}), [1])
        for step in (lambda: times.t.astype(str), lambda: times.astype({"t": "string"}), lambda: times.astype(str)):
            with pytest.raises(NotSupported, match="strftime"):
                step()

    def test_truth_of_a_frame_is_refused(self) -> None:
        """A frame in an `if` is a mistake."""
        with pytest.raises(TypeError, match="truth of a Series"):
            bool(self.frame.a > 1)

    def test_category_without_categories_is_refused(self) -> None:
        """Partitions would have different categories."""
        with pytest.raises(InputError, match="CategoricalDtype"):
            self.frame.s.astype("category")


class TestMapPartitions:
    whole = pd.DataFrame({"a": [1, 2, 3, 4], "s": list("wxyz")}, index=[3, 1, 4, 5])
    frame = pdf.from_pandas(whole, npartitions=3)

    def test_frame_result_equals_pandas(self) -> None:
        """What the function returns for each partition, in order, with its labels."""
        got = self.frame.map_partitions(lambda part, factor, by: part.assign(b=part.a * factor * by), 2, by=self.frame.a)
        assert_same(got.compute(), self.whole.assign(b=self.whole.a * 2 * self.whole.a))

    def test_array_result_becomes_an_aligned_series(self) -> None:
        """An array gets the labels of the rows it was made from, so that it can be assigned."""
        frame = self.frame.assign(p=self.frame.map_partitions(lambda part: part.a.to_numpy() / 2))
        assert_same(frame.compute(), self.whole.assign(p=self.whole.a / 2))

    def test_function_may_change_its_partition(self) -> None:
        """What the engine keeps, and what other steps use, stays as it is; so it does when a result is changed."""

        def changing(part: pd.DataFrame, other: pd.Series) -> pd.DataFrame:
            part["a"] = 0
            other.iloc[:] = 0
            return part

        for npartitions in (1, 3):
            kept = self.frame.repartition(npartitions).persist(engine=ENGINE)
            assert kept.map_partitions(changing, kept.a).a.sum().compute(engine=ENGINE) == 0
            got = kept.compute(engine=ENGINE)
            got["a"] = 0
            assert_same(kept.compute(engine=ENGINE), self.whole)

    def test_meta_is_used_where_the_function_cannot_be_tried(self) -> None:
        """A function that needs real rows says how, and works with meta."""

        def picky(part: pd.DataFrame) -> pd.Series:
            assert len(part) == 0 or part.s.iloc[0] in "wxyz"
            return part.a + 0.5

        with pytest.raises(InputError, match="meta="):
            self.frame.map_partitions(picky)
        got = self.frame.map_partitions(picky, meta=("half", "float64"))
        assert got.dtype == "float64"
        assert_same(got.compute(), (self.whole.a + 0.5).rename("half"))

    def test_other_columns_than_declared_are_an_error(self) -> None:
        """A partition with other columns is not passed on."""
        with pytest.raises(InputError, match=r"found \['a', 's'\]"):
            self.frame.map_partitions(lambda part: part, meta={"q": "int64"}).compute()

    def test_exception_of_the_function_reaches_the_caller(self) -> None:
        """With its own type."""

        def failing(part: pd.DataFrame) -> pd.DataFrame:
            raise ZeroDivisionError("no")

        with pytest.raises(ZeroDivisionError, match="no"):
            self.frame.map_partitions(failing, meta=self.whole).compute()

"""Where rows go: hashes, shuffles that are not needed, columns that do not move, and mistakes."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml.dataframe.keys import Keys, Order, Quantiles, hash_rows, sample
from parml.dataframe.lower import optimise, topological
from parml.dataframe.plan import Source
from parml.dataframe.plan_across import numbered
from parml.dataframe.plan_shuffle import Shuffle
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError, NotSupported

ENGINE = InlineEngine()
RNG = np.random.default_rng(7)
WHOLE = pd.DataFrame(
    {"a": RNG.integers(0, 9, 60), "b": RNG.integers(0, 4, 60), "x": RNG.integers(0, 99, 60) / 4, "y": 1, "z": 2}
)


def frame(npartitions: int = 4) -> Any:
    return pdf.from_pandas(WHOLE, npartitions=npartitions)


def nodes(result: Any, kind: type) -> list[Any]:
    return [node for node in topological(optimise([numbered(result._node)])) if isinstance(node, kind)]


SAME_VALUES: dict[str, list[Any]] = {
    "numbers": [
        pd.Series([1, 0, -2], dtype="int32"),
        pd.Series([1, 0, -2], dtype="int64"),
        pd.Series([1.0, -0.0, -2.0], dtype="float32"),
        pd.Series([1, 0, -2], dtype="Int16"),
        pd.Series([1, 0, -2], dtype="int64[pyarrow]"),
        pd.Series([1, 0.0, -2], dtype=object),
        pd.Series([Decimal(1), False, -2], dtype=object),
        pd.Series([1, 0, -2], dtype=pd.CategoricalDtype([-2, 0, 1])),
    ],
    "texts": [
        pd.Series(["a", "ü", ""], dtype="str"),
        pd.Series(["a", "ü", ""], dtype=object),
        pd.Series(["a", "ü", ""], dtype="string[pyarrow]"),
        pd.Series(["a", "ü", ""], dtype=pd.CategoricalDtype(["q", "", "ü", "a"])),
        pd.Series(["a", "ü", ""], dtype=pd.CategoricalDtype(["a", "ü", ""])),
    ],
    "times": [
        pd.Series([datetime.datetime(2024, 1, day) for day in (1, 2, 3)], dtype="M8[ns]"),
        pd.Series([datetime.datetime(2024, 1, day) for day in (1, 2, 3)], dtype="M8[s]"),
        pd.Series([pd.Timestamp(2024, 1, day) for day in (1, 2, 3)], dtype=object),
    ],
    "nulls": [
        pd.Series([None] * 3, dtype=dtype)
        for dtype in ("float64", "str", object, "Int64", "M8[us]", "m8[ns]", "category", "boolean")
    ],
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_equal_keys_of_different_dtypes_have_equal_hashes(name: str) -> None:
    """Otherwise a merge would miss matches."""
    hashes = [hash_rows(series.to_frame()) for series in SAME_VALUES[name]]
    for other in hashes[1:]:
        assert other.tolist() == hashes[0].tolist()
    assert name == "nulls" or len(set(hashes[0])) == 3


def test_hashes_do_not_depend_on_the_process_and_spread() -> None:
    """Two workers send equal keys to one place; and targets are about equally full, also for keys with a pattern."""
    program = (
        "import pandas as pd; from parml.dataframe.keys import hash_rows; "
        "print(hash_rows(pd.DataFrame({'a': ['x', None, 'y'], 'b': [1, 2, 3]})).tolist())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "3", "PYTHONPATH": str(Path(pdf.__file__).parents[2])}
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True).stdout
    assert shown.strip() == str(hash_rows(pd.DataFrame({"a": ["x", None, "y"], "b": [1, 2, 3]})).tolist())
    for keys in (pd.Series(range(0, 64_000, 64)), pd.Series(range(1000)).map("id{:09}".format)):
        counts = np.bincount(hash_rows(keys.to_frame()).astype("uint64") % np.uint64(8), minlength=8)
        assert counts.min() > 80


def test_bounds_cut_sorted_rows_into_parts_of_about_equal_length() -> None:
    """Also where partitions differ in length, and one has none."""
    order = Order(Keys(("a",)))
    parts = [pd.DataFrame({"a": RNG.normal(place, 1, n)}) for place, n in enumerate((5000, 100, 0, 20_000))]
    bounds = Quantiles(order, 8)([sample(order, 256, part) for part in parts])
    counts = np.bincount(order.targets(pd.concat(parts), bounds), minlength=8)
    assert counts.sum() == 25_100
    assert counts.min() > 25_100 / 8 / 2
    assert counts.max() < 25_100 / 8 * 2


class TestRowsThatAreTogether:
    def test_group_by_after_a_merge_on_the_same_keys_moves_nothing(self) -> None:
        """Two shuffles for the merge, none for what comes after it."""
        other = pdf.from_pandas(WHOLE[["a", "b"]].drop_duplicates().assign(w=5), npartitions=3)
        merged = frame().merge(other, on=["a", "b"], broadcast=False)
        assert len(nodes(merged, Shuffle)) == 2
        want = WHOLE.merge(WHOLE[["a", "b"]].drop_duplicates().assign(w=5), on=["a", "b"])
        for by in (["a", "b"], ["b", "x", "a"]):
            grouped = merged[merged.x > 3].rename(columns={"y": "v"}).groupby(by).v.sum()
            assert len(nodes(grouped, Shuffle)) == 2
            pd.testing.assert_series_equal(
                grouped.compute(engine=ENGINE), want[want.x > 3].rename(columns={"y": "v"}).groupby(by).v.sum()
            )

    def test_merge_of_a_merged_frame_moves_only_the_other(self) -> None:
        """The second merge on the same key shuffles one side."""
        small = WHOLE.groupby("a", as_index=False).x.max()
        merged = frame().merge(pdf.from_pandas(small, 2), on="a", suffixes=("", "_1"), broadcast=False)
        again = merged.merge(pdf.from_pandas(small, 3), on="a", suffixes=("", "_2"), broadcast=False)
        assert len(nodes(again, Shuffle)) == 3
        want = WHOLE.merge(small, on="a", suffixes=("", "_1")).merge(small, on="a", suffixes=("", "_2"))
        columns = list(want.columns)
        pd.testing.assert_frame_equal(
            again.compute(engine=ENGINE).sort_values(columns, ignore_index=True), want.sort_values(columns, ignore_index=True)
        )

    def test_duplicates_are_found_where_they_are(self) -> None:
        """Rows that are together by a key are compared without moving."""
        other = pdf.from_pandas(pd.DataFrame({"a": range(9), "w": 1}), npartitions=2)
        once = frame().merge(other, on="a", broadcast=False).drop_duplicates(["a", "b"])
        assert len(nodes(once, Shuffle)) == 2
        got = once.compute(engine=ENGINE)[["a", "b", "x"]].sort_values(["a", "b"], ignore_index=True)
        want = WHOLE.drop_duplicates(["a", "b"])[["a", "b", "x"]].sort_values(["a", "b"], ignore_index=True)
        pd.testing.assert_frame_equal(got, want)

    def test_changed_keys_move_again(self) -> None:
        """A key that was assigned anew is not where its hash says; nor are keys beside rows without a match."""
        small = pd.DataFrame({"q": [1, 2, 77], "w": [5, 6, 7]})
        merged = frame().merge(pdf.from_pandas(small, 2), left_on="a", right_on="q", how="left", broadcast=False)
        want = WHOLE.merge(small, left_on="a", right_on="q", how="left")
        changed, want_changed = merged.assign(a=merged.b), want.assign(a=want.b)
        got = changed.groupby("a").x.sum()
        pd.testing.assert_series_equal(got.compute(engine=ENGINE), want_changed.groupby("a").x.sum())
        got = merged.groupby("q", dropna=False).x.median()
        pd.testing.assert_series_equal(got.compute(engine=ENGINE), want.groupby("q", dropna=False).x.median())

    def test_group_by_of_sorted_rows_moves_nothing(self) -> None:
        """Rows that were sorted by the key are together and in order."""
        grouped = frame().sort_values("a").groupby("a").x.median()
        assert len(nodes(grouped, Shuffle)) == 1
        pd.testing.assert_series_equal(grouped.compute(engine=ENGINE), WHOLE.groupby("a").x.median())


LARGE = pd.DataFrame(
    {
        "a": RNG.integers(0, 5000, 20_000),
        "s": pd.Series(RNG.zipf(1.3, 20_000) % 900).map("s{}".format),
        "f": np.where(RNG.random(20_000) < 0.1, np.nan, RNG.normal(size=20_000)),
    }
)
ON_MANY_ROWS: dict[str, Any] = {
    "sort by several": lambda f: f.sort_values(["s", "f"], ascending=[False, True], na_position="first"),
    "sort skewed": lambda f: f.sort_values("s"),
    "group by two": lambda f: f.groupby(["s", "a"]).f.agg(["sum", "count", "std"]),
    "group by text": lambda f: f.groupby("s").f.median(),
    "transform": lambda f: f.groupby("s").f.transform("mean"),
    "set_index": lambda f: f.set_index("a").f,
    "drop_duplicates": lambda f: f.drop_duplicates(["s", "a"]),
    "quantile": lambda f: f.f.quantile([0.01, 0.5, 0.99]),
    "merge": lambda f: f.merge(f.drop_duplicates("a")[["a", "f"]], on="a").sort_values(["a", "s", "f_x"], ignore_index=True),
}


@pytest.mark.parametrize("name", ON_MANY_ROWS)
def test_more_rows_than_are_sampled_equal_pandas(name: str) -> None:
    """Skewed keys, many groups, more partitions than are merged at once; bounds come from samples."""
    got = ON_MANY_ROWS[name](pdf.from_pandas(LARGE, 20)).compute(engine=ENGINE)
    want = ON_MANY_ROWS[name](_Stable(LARGE) if "sort" in name or name == "merge" else LARGE)
    want = want.sort_index(kind="stable") if name == "set_index" else want
    (pd.testing.assert_frame_equal if want.ndim > 1 else pd.testing.assert_series_equal)(got, want)


class _Stable(pd.DataFrame):
    """A frame that sorts as parml promises."""

    @property
    def _constructor(self) -> Any:
        return _Stable

    def sort_values(self, by: Any, **kwargs: Any) -> Any:
        return pd.DataFrame(self).sort_values(by, kind="stable", **kwargs)


PRUNED: dict[str, tuple[Any, str]] = {
    "groupby": (lambda f: f.groupby("a").x.sum(), "ax"),
    "groupby shuffled": (lambda f: f.groupby(["a", "b"], shuffle=True)[["x"]].mean(), "abx"),
    "groupby median": (lambda f: f.groupby("a").x.median(), "ax"),
    "groupby cumsum": (lambda f: f.groupby("a").x.cumsum(), "ax"),
    "sort": (lambda f: f.sort_values(["b", "a"])["x"], "abx"),
    "set_index": (lambda f: f.set_index("a").x, "ax"),
    "merge": (lambda f: f.merge(f[["a", "y"]], on="a", suffixes=("", "_r"), broadcast=False)[["x"]], "ax"),
    "drop_duplicates": (lambda f: f.drop_duplicates("b").x, "bx"),
    "concat": (lambda f: pdf.concat([f, f]).z, "z"),
    "nlargest": (lambda f: f[["a", "x"]].nlargest(3, "x"), "ax"),
}


@pytest.mark.parametrize("name", PRUNED)
def test_only_needed_columns_move(name: str) -> None:
    """What is not asked for is not read."""
    step, columns = PRUNED[name]
    result = step(frame())
    assert {"".join(node.meta.columns) for node in nodes(result, Source) if hasattr(node.meta, "columns")} <= {columns, "a"}
    assert len(result.compute(engine=ENGINE)) > 0


def test_loc_looks_only_at_partitions_that_can_hold_the_labels() -> None:
    """Where divisions are known."""
    indexed = frame().set_index("a", divisions=[0, 2, 4, 6, 8])
    assert [indexed.loc[label].npartitions for label in (1, 2, 8)] == [1, 1, 1]
    assert indexed.loc[5:5].npartitions == 1
    assert indexed.loc[3:].npartitions == 3
    want = WHOLE.set_index("a").sort_index(kind="stable")
    for label in range(9):
        pd.testing.assert_frame_equal(indexed.loc[label].compute(engine=ENGINE), want.loc[label:label])


def test_loc_after_labels_were_changed_looks_at_no_old_divisions() -> None:
    """And takes texts for times, as pandas does."""
    days = pd.date_range("2024-01-01", periods=4)
    whole = pd.DataFrame({"t": days, "i": range(4)})
    indexed = pdf.from_pandas(whole, 2).set_index("t", divisions=[days[0], days[2], days[3]])
    pd.testing.assert_frame_equal(
        indexed.loc["2024-01-03":].compute(engine=ENGINE), whole.set_index("t").loc["2024-01-03":], check_freq=False
    )
    for changed in (indexed.shift(freq="2D"), indexed.tz_localize("UTC")):
        with pytest.raises(NotSupported, match="unknown order"):
            changed.loc[days[2] :]


def test_labels_have_the_dtype_of_their_column() -> None:
    """Also where a partition has numbers that follow each other."""
    whole = pd.DataFrame({"j": pd.Series([5, 3, 9, 9, 1], dtype="int32"), "x": range(5)})
    got = pdf.from_pandas(whole, 3).set_index("j")
    pd.testing.assert_frame_equal(got.compute(engine=ENGINE), whole.set_index("j").sort_index(kind="stable"))


def test_mistakes_are_told() -> None:
    """What is not supported says what to do instead."""
    with pytest.raises(NotSupported, match="get_group"):
        list(frame().groupby("a"))
    with pytest.raises(KeyError, match="'nope'"):
        frame().groupby("nope")
    with pytest.raises(KeyError, match="nope"):
        frame().sort_values("nope")
    with pytest.raises(KeyError, match="nope"):
        frame().merge(frame(), on="nope")
    with pytest.raises(pd.errors.MergeError, match="unique"):
        frame().merge(frame(), on="a", validate="one_to_one").compute(engine=ENGINE)
    with pytest.raises(ValueError, match="merge on"):
        frame().merge(frame().assign(a="text"), on="a")
    with pytest.raises(NotSupported, match="sort_index"):
        frame().sort_values("x").loc[3:4]
    with pytest.raises(InputError, match="made-up rows"):
        frame().groupby("a").apply(lambda part: part.nope)
    with pytest.raises(ZeroDivisionError, match="mine"):
        frame().groupby("a").apply(_failing, meta=("r", "float64")).compute(engine=ENGINE)


def _failing(part: Any) -> Any:
    raise ZeroDivisionError("mine")

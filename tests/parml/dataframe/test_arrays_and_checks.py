"""Arrays of Dask, categories that occur, medians in one pass, and what `assert_eq` sees."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml.dataframe.divisions import Divided
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.parml.dataframe.test_operations_like_pandas import cut

ENGINE = InlineEngine()
WHOLE = pd.DataFrame({"x": [1, 2, 3, 4, 5], "y": [0.5, 1, 2, 3, 4]}, index=list("abcde"))


def test_values_are_an_array_of_dask_with_the_frames_tasks() -> None:
    """Of frames, series and labels, of rows that were moved and filtered; lengths where they are known."""
    frame = cut(WHOLE, [2, 2, 3])
    array = frame.values
    assert isinstance(array, da.Array) and array.shape == (5, 2) and array.dtype == float
    np.testing.assert_array_equal(array.compute(scheduler="sync"), WHOLE.values)
    moved = frame[frame.x > 2].sort_values("y", ascending=False)
    want = WHOLE[WHOLE.x > 2].sort_values("y", ascending=False).values
    np.testing.assert_array_equal((moved.to_dask_array() * 2).compute(scheduler="sync"), want * 2)
    assert np.isnan(moved.values.shape[0]) and moved.to_dask_array(lengths=True).shape == (3, 2)
    np.testing.assert_array_equal(frame.x.to_dask_array([2, 0, 1, 2]).compute(scheduler="sync"), WHOLE.x.values)
    np.testing.assert_array_equal(frame.index.values.compute(scheduler="sync"), WHOLE.index.values)
    mixed = frame.assign(s="q").values
    np.testing.assert_array_equal(mixed.compute(scheduler="sync"), WHOLE.assign(s="q").values)
    with pytest.raises(InputError, match="4 partitions, found 1"):
        frame.to_dask_array([5])
    with pytest.raises(InputError, match="not persisted"):
        frame.persist(engine=ENGINE).to_dask_array()


def test_frames_of_arrays_of_dask_equal_pandas() -> None:
    """Rows are numbered over all chunks."""
    array = da.arange(12, chunks=5).reshape(6, 2)
    got = pdf.from_dask_array(array, columns=["a", "b"]).compute(engine=ENGINE)
    pd.testing.assert_frame_equal(got, pd.DataFrame(array.compute(), columns=["a", "b"]))
    series = pdf.from_dask_array(cut(WHOLE, [2]).y.values, columns="y")
    pd.testing.assert_series_equal(series.compute(engine=ENGINE), WHOLE.y.reset_index(drop=True))
    with pytest.raises(InputError, match="found ndarray"):
        pdf.from_dask_array(np.arange(3))


def test_categories_that_do_not_occur_are_removed_like_pandas() -> None:
    """In every partition the same; their order stays."""
    whole = pd.Series(["a", None, "b", "a"], dtype=pd.CategoricalDtype(["d", "b", "c", "a"], ordered=True))
    series = cut(whole, [1, 2])
    assert series.cat.known and series.cat.as_known() is series.cat._series
    got = series.cat.remove_unused_categories(engine=ENGINE)
    pd.testing.assert_series_equal(got.compute(engine=ENGINE), whole.cat.remove_unused_categories())
    pdf.assert_eq(got, whole.cat.remove_unused_categories(), engine=ENGINE)


def test_median_in_one_pass_is_near_the_median() -> None:
    """Exact of few values, and within a 512th of the ranks of many."""
    whole = pd.DataFrame({"x": np.random.default_rng(0).normal(size=20_001), "t": pd.date_range("2020", periods=20_001)})
    few, many = cut(whole.iloc[:300], [10, 200]), cut(whole, [5_000, 12_000])
    assert few.x.median_approximate().compute(engine=ENGINE) == whole.x[:300].median()
    ranked = np.sort(whole.x)
    found = np.searchsorted(ranked, many.x.median_approximate().compute(engine=ENGINE))
    assert abs(found - 10_000) <= 20_001 / 512
    got = few.median_approximate().compute(engine=ENGINE)
    pd.testing.assert_series_equal(got, whole.iloc[:300].median())
    assert "between" not in many.x.median_approximate().explain()
    assert np.isnan(cut(whole.iloc[:0], []).x.median_approximate().compute(engine=ENGINE))


def test_assert_eq_sees_what_differs() -> None:
    """Values, order of labels, dtypes of partitions that are not as said, and divisions."""
    frame = cut(WHOLE, [2, 3])
    assert pdf.assert_eq(frame, WHOLE.iloc[::-1], engine=ENGINE)
    assert pdf.assert_eq(frame.x.sum(), 15, engine=ENGINE) and pdf.assert_eq(frame.index, WHOLE.index, engine=ENGINE)
    assert pdf.assert_eq(frame, WHOLE.reset_index(drop=True).iloc[::-1], check_index=False, engine=ENGINE)
    assert pdf.assert_eq(frame.x, WHOLE.x.rename("z"), check_names=False, engine=ENGINE)
    wrong = frame.x.map_partitions(lambda part: part * 0.5, meta=("x", "int64"))
    unlike = {
        "values": (frame, WHOLE.assign(x=[1, 2, 3, 4, 6])),
        "order": (frame, WHOLE.iloc[::-1], {"sort_results": False}),
        "dtypes": (frame, WHOLE.astype({"x": "int32"})),
        "dtypes of partitions": (wrong, WHOLE.x * 0.5),
        "names": (frame.x, WHOLE.x.rename("z")),
        "kinds": (frame, WHOLE.x),
        "totals": (frame.x.sum(), 16),
        "divisions": (pdf.Frame._of(Divided(frame._node, ("a", "b", "d", "e"), True)), WHOLE),
    }
    for a, b, *more in unlike.values():
        with pytest.raises(AssertionError):
            pdf.assert_eq(a, b, engine=ENGINE, **(more[0] if more else {}))

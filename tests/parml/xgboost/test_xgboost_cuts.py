"""The cuts that ranks share: those that xgboost makes of all rows, from whatever columns, weights and partitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_matrix

import parml.xgboost as px
from parml.data import PartitionedArray
from parml.xgboost.cuts import Cuts, find_cuts, values_with
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from tests.drawn import examples

_rng = np.random.default_rng(7)
ROWS = 3000
TABLE = pd.DataFrame(
    {
        "normal": _rng.normal(size=ROWS),
        "below zero": -_rng.random(ROWS) - 3,
        "large": _rng.exponential(1e6, ROWS),
        "few": _rng.integers(-3, 4, ROWS),
        "many": _rng.integers(0, 1000, ROWS),
        "flag": _rng.random(ROWS) > 0.5,
        "constant": 2.5,
        "constant below zero": -5.0,
        "zero": 0.0,
        "nothing": np.nan,
        "category": pd.Categorical.from_codes(_rng.integers(-1, 5, ROWS), list("qxyzuvw")),
    }
)
TABLE.loc[_rng.random(ROWS) < 0.2, "normal"] = np.nan
NUMBERS = TABLE.drop(columns="category").astype("f4")


def cuts_of(matrix: xgb.DMatrix) -> list[np.ndarray]:
    starts, cuts = matrix.get_quantile_cut()
    return np.split(cuts, starts[1:-1].astype(int))


def check_same(found: xgb.DMatrix, expected: xgb.DMatrix) -> None:
    for ours, theirs in zip(cuts_of(found), cuts_of(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("max_bin", [2, 16, 256])
@pytest.mark.parametrize("kind", ["pandas", "numpy", "scipy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cuts_found_by_columns_are_those_of_all_rows(kind: str, weighted: bool, max_bin: int) -> None:
    """In four partitions, their columns dealt out to three tasks; and another matrix that refers to them has the same."""
    whole = {"pandas": TABLE, "numpy": NUMBERS.to_numpy(), "scipy": csr_matrix(np.nan_to_num(NUMBERS))}[kind]
    fields = {"weight": _rng.random(ROWS)} if weighted else {}
    plain = xgb.QuantileDMatrix(whole, max_bin=max_bin, enable_categorical=True, **fields)
    with ThreadsEngine(3) as engine:
        data = px.DMatrix(engine, chunked(engine, whole), np.zeros(ROWS), enable_categorical=True, **fields)
        found = find_cuts(data, data.spec(max_bin))
    reference = found.reference()
    check_same(reference, plain)
    part = whole[:100]
    check_same(xgb.QuantileDMatrix(part, max_bin=max_bin, enable_categorical=True, ref=reference), plain)


def chunked(engine: Any, whole: Any) -> Any:
    return PartitionedArray.of(engine.scatter([whole[a:b] for a, b in ((0, 10), (10, 10), (10, 2000), (2000, ROWS))]))


def test_cuts_heed_what_stands_for_missing_values() -> None:
    """A number that means missing is no value to be cut at."""
    rows = np.where(_rng.random((500, 2)) < 0.3, -999, _rng.normal(size=(500, 2)))
    with InlineEngine() as engine:
        data = px.DMatrix(engine, rows, np.zeros(500), missing=-999)
        found = find_cuts(data, data.spec(256))
    check_same(found.reference(), xgb.QuantileDMatrix(rows, missing=-999))


@examples(150)
@given(
    hnp.arrays("f4", st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0, 1, -1, np.nan])),
    st.integers(2, 40),
)
def test_values_have_the_cuts_that_they_are_made_of(column: np.ndarray, max_bin: int) -> None:
    """
    Of any column: the cuts between values are the same, and those outside within rounding.

    What lies outside of all values by 1e-5 is told with too few digits to know the value, where that is small.
    """
    plain = xgb.QuantileDMatrix(column[:, None], max_bin=max_bin)
    (expected,) = cuts_of(plain)
    (found,) = cuts_of(Cuts((values_with(expected, max_bin),), ("q",), max_bin).reference())
    np.testing.assert_array_equal(found[1:-1], expected[1:-1])
    np.testing.assert_allclose(found[[0, -1]], expected[[0, -1]], rtol=1e-6, atol=1e-11)

"""`merge_asof` on random partitions against pandas on the whole."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.parml.dataframe.test_moving_rows_like_pandas import assert_same, cut, tables

ENGINE = InlineEngine()

CASES: list[dict[str, Any]] = [
    {"on": "i"},
    {"on": "i", "by": "k"},
    {"on": "i", "by": ["k", "b"], "allow_exact_matches": False},
    {"on": "i", "tolerance": 1},
    {"on": "t", "by": "c", "tolerance": pd.Timedelta(days=1)},
    {"left_on": "x", "right_on": "f", "suffixes": ("_a", "_b")},
    {"left_on": "i", "right_on": "i", "left_by": "k", "right_by": "k"},
    {"left_index": True, "right_index": True, "by": "b"},
    {"left_on": "i", "right_index": True},
    {"left_index": True, "right_on": "i"},
]


def ascending(frame: pd.DataFrame, on: str | None) -> pd.DataFrame:
    """The rows with a key, in its order."""
    if on is None:
        return frame.sort_index(kind="stable")
    return frame.dropna(subset=[on]).sort_values(on, kind="stable")


@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=3, deadline=None)
@given(tables(8), tables(8), st.sampled_from(["backward", "forward", "nearest"]), st.booleans())
def test_merge_asof_equals_pandas(case: dict[str, Any], one: Any, two: Any, direction: str, counted: bool) -> None:
    """Rows, order and labels, also where equal keys lie in several partitions, and where partitions have no rows."""
    left = ascending(one[0], None if case.get("left_index") else case.get("on", case.get("left_on")))
    right = ascending(two[0], None if case.get("right_index") else case.get("on", case.get("right_on")))
    left, right = left[["k", "i", "t", "c", "b", "x"]], right[["k", "i", "t", "c", "b", "f"]]
    counted = counted and not case.get("left_index")
    if counted:
        left = left.reset_index(drop=True)
    want = pd.merge_asof(left, right, direction=direction, **case)
    frames = [cut(left, [min(b, len(left)) for b in one[1]], counted), cut(right, [min(b, len(right)) for b in two[1]])]
    got = pdf.merge_asof(*frames, direction=direction, **case)
    assert_same(got.compute(engine=ENGINE), want)


def test_right_frame_of_pandas_moves_no_row_and_disorder_is_told() -> None:
    """Also where each partition by itself ascends."""
    left, right = pd.DataFrame({"t": [1, 4, 7, 9], "x": range(4)}), pd.DataFrame({"t": [2, 7], "y": [20, 70]})
    got = pdf.merge_asof(cut(left, [1, 3]), right, on="t")
    assert "shuffle" not in got.explain() and "sort" not in got.explain()
    assert_same(got.compute(engine=ENGINE), pd.merge_asof(left, right, on="t"))
    mixed = left.iloc[[2, 3, 0, 1]]
    for frames in ((cut(mixed, [2]), right), (cut(left, [2]), cut(mixed[["t"]], [2])), (cut(mixed, []), right)):
        with pytest.raises(InputError, match="keys that ascend in merge_asof"):
            pdf.merge_asof(*frames, on="t").compute(engine=ENGINE)
    with pytest.raises(pd.errors.MergeError):
        pdf.merge_asof(cut(left, [1]), right.astype({"t": float}), on="t")

"""Aggregations of a user's own against pandas' of the same meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.parml.dataframe.test_operations_like_pandas import cut

ENGINE = InlineEngine()
WHOLE = pd.DataFrame(
    {
        "k": ["b", "a", None, "b", "c", "a", "b", "a"],
        "g": pd.Categorical(["x", "y", "x", None, "x", "y", "x", "x"], categories=["z", "y", "x"]),
        "x": [1, 2, 3, 4, 5, 6, 7, 8],
        "f": [0.5, None, 2, 3, None, 5, 6, 7],
    }
)
MEAN = pdf.Aggregation(
    "own mean", lambda s: (s.count(), s.sum()), lambda count, total: (count.sum(), total.sum()), lambda n, total: total / n
)
SPREAD = pdf.Aggregation("spread", lambda s: (s.max(), s.min()), lambda top, low: (top.max(), low.min()), lambda a, b: a - b)
TOTAL = pdf.Aggregation("total", lambda s: s.sum(), lambda parts: parts.sum())
DISTINCT = pdf.Aggregation(  # as Dask's documentation writes it
    "distinct",
    lambda s: s.apply(lambda values: list(set(values))),
    lambda parts: parts.obj.groupby(level=list(range(parts.obj.index.nlevels))).sum(),
    lambda lists: lists.map(lambda values: len(set(values))),
)


def spread(values: Any) -> Any:
    return values.max() - values.min()


USES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "series": (lambda f: f.groupby("k").f.agg(MEAN), lambda f: f.groupby("k").f.mean()),
    "frame": (lambda f: f.groupby("k")[["x", "f"]].agg(TOTAL), lambda f: f.groupby("k")[["x", "f"]].sum()),
    "several keys": (
        lambda f: f.groupby(["k", "g"]).x.agg(SPREAD),
        lambda f: f.groupby(["k", "g"], observed=True).x.agg(spread),
    ),
    "list of a series": (
        lambda f: f.groupby("k").x.agg(["sum", SPREAD, "std"]),
        lambda f: f.groupby("k").x.agg(["sum", spread, "std"]),
    ),
    "list of a frame": (
        lambda f: f.groupby("k")[["x", "f"]].agg([SPREAD, "mean", "size"]),
        lambda f: f.groupby("k")[["x", "f"]].agg([spread, "mean", "size"]),
    ),
    "dict": (
        lambda f: f.groupby("k").agg({"f": [SPREAD], "x": ["max", TOTAL]}),
        lambda f: f.groupby("k").agg({"f": [spread], "x": ["max", "sum"]}).rename(columns={"sum": "total"}),
    ),
    "names of columns": (
        lambda f: f.groupby("k").agg(a=("f", MEAN), b=("x", "count")),
        lambda f: f.groupby("k").agg(a=("f", "mean"), b=("x", "count")),
    ),
    "keys as columns": (
        lambda f: f.groupby(["k"], as_index=False, dropna=False).agg({"x": TOTAL}),
        lambda f: f.groupby(["k"], as_index=False, dropna=False).agg({"x": "sum"}),
    ),
    "groups without rows": (
        lambda f: f.groupby("g", observed=False).x.agg(["size", TOTAL]),
        lambda f: f.groupby("g", observed=False).x.agg(["size", "sum"]).rename(columns={"sum": "total"}),
    ),
    "not sorted": (lambda f: f.groupby("k", sort=False).x.agg(TOTAL), lambda f: f.groupby("k", sort=False).x.sum()),
    "distinct values": (lambda f: f.groupby("k").x.agg(DISTINCT), lambda f: f.groupby("k").x.nunique()),
    "a series by another": (lambda f: f.x.groupby(f.k).agg(MEAN), lambda f: f.x.groupby(f.k).mean()),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("bounds", [[], [2, 2, 5], list(range(8))])
def test_own_aggregation_equals_that_of_pandas(name: str, bounds: list[int]) -> None:
    """Values, dtypes, labels, names and order, whatever the partitions."""
    ours, theirs = USES[name]
    want = theirs(WHOLE)
    got = ours(cut(WHOLE, bounds))
    computed = got.compute(engine=ENGINE)
    check = pd.testing.assert_series_equal if isinstance(want, pd.Series) else pd.testing.assert_frame_equal
    check(computed, want)
    assert computed.iloc[:0].equals(got._meta) and list(getattr(got._meta, "columns", [])) == list(getattr(want, "columns", []))


def test_own_aggregation_of_no_rows_and_bad_ones() -> None:
    """No groups; and what is no aggregation is told apart."""
    none = cut(WHOLE.iloc[:0], []).groupby("k").x.agg(TOTAL).compute(engine=ENGINE)
    assert len(none) == 0 and none.dtype == np.int64
    grouped = cut(WHOLE, [3]).groupby("k").x
    with pytest.raises(InputError, match="found 'median'"):
        grouped.agg([TOTAL, "median"])
    with pytest.raises(InputError, match=r"found tuple; see finalize"):
        grouped.agg(pdf.Aggregation("two", lambda s: (s.max(), s.min()), lambda a, b: (a.max(), b.min())))
    with pytest.raises(KeyError, match="nope"):
        cut(WHOLE, [3]).groupby("k").agg({"nope": TOTAL})

"""Labels by themselves against pandas; divisions and shuffles against Dask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError, NotSupported
from tests.parml.dataframe.test_operations_like_pandas import cut

ENGINE = InlineEngine()
LABELS: dict[str, list[Any]] = {
    "numbers": [3, 1, 1, 2, 5, 3, 0],
    "floats": [1.0, np.nan, 2.0, 2.0, 3.0, np.nan, 4.0],
    "texts": list("abcabca"),
    "truth": [True, False, True, True, True, True, True],
    "times": list(pd.date_range("2020", periods=7, freq="D")),
    "none": [],
}
METHODS: dict[str, Callable[[Any], Any]] = {
    **{
        name: (lambda labels, name=name: getattr(labels, name)())
        for name in ("all", "any", "copy", "diff", "drop_duplicates", "dropna", "unique", "memory_usage")
    },
    "ascending": lambda labels: labels.is_monotonic_increasing,
    "descending": lambda labels: labels.is_monotonic_decreasing,
    "nbytes": lambda labels: labels.nbytes,
    "copy under a name": lambda labels: labels.copy(name="z"),
    "diff from behind": lambda labels: labels.diff(-2),
    "last of each": lambda labels: labels.drop_duplicates(keep="last"),
    "those that occur once": lambda labels: labels.drop_duplicates(keep=False),
    "shift": lambda labels: labels.shift(2, freq="h"),
    "replace": lambda labels: labels.replace({1: 9}),
    "replace texts": lambda labels: labels.replace("a", "zz"),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", METHODS)
def test_method_of_labels_equals_pandas(kind: str, name: str) -> None:
    """Or is refused with pandas' own error; whatever the partitions, empty ones among them."""
    labels = pd.Index(LABELS[kind], name="n")
    whole = pd.DataFrame({"x": range(len(labels))}, index=labels)
    try:
        want = METHODS[name](pd.Index(LABELS[kind], name="n"))  # an index that was not asked before keeps no hash table
    except (TypeError, ValueError, NotImplementedError) as error:
        with pytest.raises(type(error)):
            METHODS[name](cut(whole, [2, 2, 5][: len(labels)]).index).compute(engine=ENGINE)
        return
    got = METHODS[name](cut(whole, [2, 2, 5] if len(labels) else []).index).compute(engine=ENGINE)
    if isinstance(want, pd.Index):
        pd.testing.assert_index_equal(got, want, check_freq=False)
    else:
        assert got == want


def test_labels_by_the_values_beside_them_equal_pandas() -> None:
    """In pandas' order of the groups."""
    whole = pd.Series([2.0, 1.0, np.nan, 2.0, 0.5], index=list("abcda"))
    series = cut(whole, [2, 2, 4])
    got, want = series.index.groupby(series).compute(engine=ENGINE), whole.index.groupby(whole)
    assert list(got) == list(want)
    for key, labels in want.items():
        pd.testing.assert_index_equal(got[key], labels)
    with pytest.raises(InputError, match="found list"):
        series.index.groupby([1, 2, 3, 4, 5])
    with pytest.raises(NotSupported, match="one level"):
        cut(whole.to_frame().set_index([whole.index, whole]), [2]).index.unique()


WHOLE = pd.DataFrame({"x": [5, 2, 1, 3, 2, 1, 5, 9], "k": list("abcabcbb")})


def test_divisions_are_those_of_dask() -> None:
    """As far as they are known without looking at rows, and when they are computed."""
    ours, theirs = pdf.from_pandas(WHOLE, npartitions=4), dd.from_pandas(WHOLE, npartitions=4)
    assert ours.divisions == ours.x.divisions == ours[ours.x > 2].divisions == theirs.divisions
    assert ours.set_index("x", divisions=[1, 3, 9]).divisions == (1, 3, 9)
    assert ours.reset_index(drop=True).divisions == (None,) * 5 and not ours.set_index("x").known_divisions
    cleared = ours.clear_divisions()
    assert cleared.divisions == theirs.clear_divisions().divisions
    assert cleared.compute_current_divisions(engine=ENGINE) == theirs.clear_divisions().compute_current_divisions()
    found = cleared.compute_current_divisions(set_divisions=True, engine=ENGINE)
    assert found.divisions == theirs.divisions and "partitions 1" in found.loc[2:3].explain()
    pd.testing.assert_frame_equal(found.loc[2:3].compute(engine=ENGINE), WHOLE.loc[2:3])
    pd.testing.assert_frame_equal(cleared.loc[2:3].compute(engine=ENGINE), WHOLE.loc[2:3])
    by_column = pdf.from_pandas(WHOLE.sort_values("k", kind="stable"), npartitions=1)
    assert by_column.compute_current_divisions("k", engine=ENGINE) == ("a", "c")
    for bad, message in ((ours, "begin after"), (cut(WHOLE, [0]), "no.* in partition 0")):
        with pytest.raises(ValueError, match=message):
            bad.compute_current_divisions("x", engine=ENGINE)
    unsorted = pdf.from_pandas(WHOLE.set_index("x").iloc[:3], npartitions=1)
    with pytest.raises(ValueError, match="ascend"):
        unsorted.compute_current_divisions(set_divisions=True, engine=ENGINE)
    doubled = pdf.from_pandas(WHOLE.set_index(pd.Index([0, 1, 1, 1, 1, 2, 3, 4])), npartitions=4)
    assert not doubled.known_divisions  # the rows of label 1 are in two partitions


@pytest.mark.parametrize("on", ["k", ["k", "x"], "series", None])
@pytest.mark.parametrize("n", [1, 3])
def test_shuffle_brings_equal_keys_together(on: Any, n: int) -> None:
    """No row is lost, and no key is in two partitions."""
    whole = WHOLE.set_index(pd.Index(WHOLE.x, name="label"))
    frame = pdf.from_pandas(whole, npartitions=3)
    moved = frame.shuffle(frame.k if on == "series" else on, npartitions=n, on_index=on is None)
    parts = list(moved.partitions)
    assert len(parts) == n
    of_part: Callable[[Any], set[Any]] = {
        "None": lambda part: set(part.index),
        "['k', 'x']": lambda part: set(zip(part.k, part.x, strict=True)),
    }.get(str(on), lambda part: set(part.k))
    keys = list(map(of_part, parts))
    assert sum(map(len, keys)) == len(set().union(*keys))
    pd.testing.assert_frame_equal(pd.concat(parts).sort_values(["x", "k"]), whole.sort_values(["x", "k"]))


def test_shuffle_of_a_series_and_of_numbered_rows() -> None:
    """A series by its values; with ignore_index rows are numbered."""
    series = pdf.from_pandas(WHOLE, npartitions=3).k
    moved = series.shuffle("k")
    assert sum(part.nunique() for part in moved.partitions) == 3
    pd.testing.assert_series_equal(moved.compute(engine=ENGINE).sort_index(), WHOLE.k)
    numbered = pdf.from_pandas(WHOLE, npartitions=3).shuffle("k", ignore_index=True)
    assert numbered.compute(engine=ENGINE).index.tolist() == list(range(8))
    again = pdf.from_pandas(WHOLE, npartitions=3).shuffle("k").groupby("k").x.nunique()
    assert again.explain().count("shuffle by") == 1
    for wrong in ({}, {"on": "k", "on_index": True}):
        with pytest.raises(TypeError, match="expected keys in on="):
            series.shuffle(**wrong)
    with pytest.raises(KeyError, match="'nope'"):
        series.shuffle("nope")


def test_an_optimised_frame_is_the_same_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """It can be combined with what it was made of, and is shown."""
    frame = cut(WHOLE, [3, 3])
    best = frame[frame.x > 2].optimize()
    pd.testing.assert_frame_equal(best.compute(engine=ENGINE), WHOLE[WHOLE.x > 2])
    pd.testing.assert_frame_equal(best.assign(y=frame.x + 1).compute(engine=ENGINE), WHOLE[WHOLE.x > 2].assign(y=WHOLE.x + 1))
    best.x.pprint()
    assert capsys.readouterr().out.startswith("column 'x'\n  filter\n")


@pytest.mark.parametrize("name", ["shift", "zone"])
def test_steps_that_change_labels_change_divisions(name: str) -> None:
    """What was known of the labels before does not hold of the new ones: no row is looked for where it is not."""
    steps: dict[str, Callable[[Any], Any]] = {
        "shift": lambda frame: frame.shift(5, freq="D"),
        "zone": lambda frame: frame.tz_localize("UTC").tz_convert("Asia/Tokyo"),
    }
    whole = pd.DataFrame({"t": pd.date_range("2020", periods=8), "x": range(8)})
    first, last = whole.t.iloc[[0, -1]]
    frame = steps[name](pdf.from_pandas(whole, npartitions=3).set_index("t", divisions=[first, whole.t[3], last]))
    want = steps[name](whole.set_index("t"))
    assert not frame.known_divisions
    with pytest.raises(NotSupported, match="unknown order"):
        frame.loc[want.index[0] : want.index[1]]
    found = frame.compute_current_divisions(set_divisions=True, engine=ENGINE)
    got = found.loc[want.index[0] : want.index[1]].compute(engine=ENGINE)
    pd.testing.assert_frame_equal(got, want.iloc[:2], check_freq=False)


def test_what_is_known_of_rows_is_known_when_they_are_kept() -> None:
    """Labels are found in persisted frames, in the partitions that can hold them; equal keys are together still."""
    frame = pdf.from_pandas(WHOLE, npartitions=3)
    kept = frame.set_index("x", divisions=[1, 3, 9]).persist(engine=ENGINE)
    assert kept.divisions == (1, 3, 9) and "partitions 1" in kept.loc[5:].explain()
    want = WHOLE.set_index("x").sort_index(kind="stable")
    pd.testing.assert_frame_equal(kept.loc[2:5].compute(engine=ENGINE), want.loc[2:5])
    pd.testing.assert_frame_equal(frame.set_index("x").persist(engine=ENGINE).loc[2:5].compute(engine=ENGINE), want.loc[2:5])
    assert frame.persist(engine=ENGINE).divisions == frame.divisions
    together = frame.shuffle("k").persist(engine=ENGINE).groupby("k").x.nunique()
    assert "shuffle by" not in together.explain()
    pd.testing.assert_series_equal(together.compute(engine=ENGINE), WHOLE.groupby("k").x.nunique())
    with pytest.raises(NotSupported, match="unknown order"):
        frame.sort_values("k").persist(engine=ENGINE).loc[2:5]

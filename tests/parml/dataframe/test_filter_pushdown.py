"""Conditions that go down to Parquet files: which row groups and bytes are read, and that no row is lost."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml.dataframe.lower import optimise, topological
from parml.dataframe.plan import Source
from parml.dataframe.plan_across import numbered
from parml_core.engine.inline import InlineEngine
from tests.drawn import examples

pytestmark = pytest.mark.filterwarnings("ignore:Boolean Series key")
ENGINE = InlineEngine()


def groups_left(*results: pdf.Frame) -> list[int]:
    """How many row groups each reader of the optimised plan reads."""
    best = optimise([numbered(result._node) for result in results])
    sources = [node for node in topological(best) if isinstance(node, Source) and node.name == "read_parquet"]
    return [sum(map(len, source.parts)) for source in sources]


# ---------------------------------------------------------------------------------------------- random files and conditions

MOMENT = datetime.datetime(2020, 1, 1)
DAYS = st.integers(-3, 3).map(lambda day: MOMENT + datetime.timedelta(days=day, microseconds=day % 2))
VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i": (pa.int64(), st.integers(-4, 4) | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1])),
    "n": (pa.int32(), st.none() | st.integers(-4, 4)),
    "f": (pa.float64(), st.none() | st.sampled_from([-1.5, -0.0, 0.0, 2.0, math.inf, -math.inf, math.nan])),
    "s": (pa.string(), st.none() | st.text("abü\U0001f600", max_size=3)),
    "d": (pa.dictionary(pa.int32(), pa.string()), st.none() | st.sampled_from(["a", "b", "ba"])),
    "b": (pa.bool_(), st.booleans()),
    "t": (pa.timestamp("us"), st.none() | DAYS),
    "z": (pa.timestamp("us", "Europe/Berlin"), st.none() | DAYS),
    "q": (pa.decimal128(9, 2), st.none() | st.integers(-3, 3).map(lambda n: decimal.Decimal(n) / 4)),
}
COMPARED = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
}


def constant(name: str) -> st.SearchStrategy[Any]:
    values = VALUES[name][1].filter(lambda value: value is not None)
    if name == "z":
        return values.map(lambda value: pd.Timestamp(value, tz="UTC"))
    return values | st.just(2.0**53) | st.just(0.5) if name in ("i", "n") else values


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> Callable[[Any], Any]:
    """A function of a frame that gives a mask."""
    kind = draw(st.sampled_from(["compare", "compare", "isin", "null", "flag", *(["and", "or", "not"] if depth else [])]))
    if kind in ("and", "or"):
        one, other = draw(conditions(depth - 1)), draw(conditions(depth - 1))
        return (lambda f: one(f) & other(f)) if kind == "and" else (lambda f: one(f) | other(f))
    if kind == "not":
        inner = draw(conditions(depth - 1))
        return lambda f: ~inner(f)
    if kind == "flag":
        return lambda f: f.b
    if kind == "null":
        name, method = draw(st.sampled_from(list(VALUES))), draw(st.sampled_from(["isna", "notna"]))
        return lambda f: getattr(f[name], method)()
    if kind == "isin":
        name = draw(st.sampled_from(["i", "n", "f", "s", "d", "b"]))
        values = draw(st.lists(constant(name), max_size=3)) + draw(st.sampled_from([[], [None]]))
        return lambda f: f[name].isin(values)
    name = draw(st.sampled_from([name for name in VALUES if name != "q"]))
    op, value = OPERATORS[draw(COMPARED)], draw(constant(name))
    return lambda f: op(f[name], value)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(0, 12))
    columns = {
        name: pa.array(sorted(draw(st.lists(values, min_size=n, max_size=n)), key=repr) if draw(st.booleans()) else
                       draw(st.lists(values, min_size=n, max_size=n)), kind)
        for name, (kind, values) in VALUES.items()
    }  # fmt: skip
    return pa.table({"row": pa.array(range(n), pa.int64()), **columns})


def read_whole(*paths: Path) -> pd.DataFrame:
    """By pandas, without dictionaries."""
    whole = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    return whole.astype({"d": "str"})


@examples(30)
@given(tables(), conditions(), st.integers(1, 4), st.sampled_from([1, "1MiB"]), st.booleans(), st.booleans())
def test_filtered_rows_equal_those_that_pandas_filters(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, condition: Any, size: int, blocksize: Any, stats: bool, cut: bool
) -> None:
    """Values, dtypes and labels, for any row groups, with and without statistics, of one file or two."""
    folder = tmp_path_factory.mktemp("parquet")
    half = len(table) // 2 if cut else 0
    for name, part in {"1": table[:half], "2": table[half:]}.items():
        pq.write_table(part, folder / f"{name}.parquet", row_group_size=size, write_statistics=stats)
    whole = read_whole(folder / "1.parquet", folder / "2.parquet")
    if not stats and len(whole):  # whether something is missing is not known then: dtypes that have room for it
        whole = whole.astype({"i": "float64", "b": object})
    frame = pdf.read_parquet(folder, blocksize=blocksize)
    try:
        want = whole[condition(whole)]
    except (TypeError, KeyError):  # nulls among truth values of object dtype; the same of parml's rows, or of none
        return
    got = frame[condition(frame)].compute(engine=ENGINE)
    assert got.row.tolist() == want.row.tolist()
    assert got.index.tolist() == want.index.tolist()
    for name in ("i", "s", "b", "t", "z"):
        pd.testing.assert_series_equal(got[name], want[name], check_dtype=len(whole) > 0)


@examples(15)
@given(tables(), st.data(), st.integers(1, 4))
def test_filters_argument_gives_the_rows_of_pandas(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, data: st.DataObject, size: int
) -> None:
    """``filters=`` means what it means to pandas: all of a list, any of the lists, and nothing compares with a null."""
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    pq.write_table(table, path, row_group_size=size)

    def term() -> tuple[str, str, Any]:
        name = data.draw(st.sampled_from(["row", "n", "f", "s", "b", "t"]))
        values = (
            st.integers(0, 9) if name == "row" else constant(name).filter(lambda v: not isinstance(v, float) or name == "f")
        )
        if data.draw(st.booleans()) and name in ("row", "s"):
            return name, data.draw(st.sampled_from(["in", "not in"])), data.draw(st.lists(values, min_size=1, max_size=3))
        return name, data.draw(COMPARED), data.draw(values)

    filters = [[term() for _ in range(data.draw(st.integers(1, 2)))] for _ in range(data.draw(st.integers(1, 2)))]
    want = pd.read_parquet(path, filters=filters)
    frame = pdf.read_parquet(path, filters=filters, blocksize=1)
    got = frame.compute(engine=ENGINE)
    assert got.row.tolist() == want.row.tolist()
    assert got.index.equals(want.index)
    assert len(frame) == len(want)
    pd.testing.assert_series_equal(frame[frame.row > 3].s.compute(engine=ENGINE), want[want.row > 3].s)


# ------------------------------------------------------------------------------------------------------ what is left out


@pytest.fixture
def sorted_file(tmp_path: Path) -> Path:
    """100 rows in 10 row groups, each with other values; 30 columns."""
    columns: dict[str, Any] = {f"c{place:02}": np.arange(100) + place for place in range(26)}
    columns["day"] = pd.date_range("2020-01-01", periods=100)
    columns["name"] = [f"n{row:03}" for row in range(100)]
    columns["price"] = [decimal.Decimal(row) / 2 for row in range(100)]
    columns["maybe"] = [None if row < 50 else float(row) for row in range(100)]
    pd.DataFrame(columns).to_parquet(tmp_path / "x.parquet", row_group_size=10)
    return tmp_path / "x.parquet"


def filtered_by(column: str, frame: Any) -> Any:
    return frame[frame[column] > 89]


LEFT: dict[str, tuple[Callable[[Any], Any], int]] = {
    "greater": (lambda f: f[f.c00 > 79], 2),
    "greater or equal": (lambda f: f[f.c00 >= 79], 3),
    "equal": (lambda f: f[f.c00 == 55], 1),
    "equal to a float": (lambda f: f[f.c00 == 55.5], 1),
    "between": (lambda f: f[f.c00.between(15, 25)], 2),
    "no value": (lambda f: f[f.c00 > 1000], 0),
    "and": (lambda f: f[(f.c00 > 20) & (f.c01 < 40)], 2),
    "or": (lambda f: f[(f.c00 < 10) | (f.c01 > 91)], 2),
    "and with what is not known": (lambda f: f[(f.c00 > 89) & f.name.str.startswith("n")], 1),
    "or with what is not known": (lambda f: f[(f.c00 > 89) | f.name.str.startswith("n")], 10),
    "not": (lambda f: f[~(f.c00 > 9)], 1),
    "isin": (lambda f: f[f.c00.isin([5, 95])], 2),
    "isin many": (lambda f: f[f.c00.isin(list(range(0, 15)) + list(range(1000, 1090)))], 10),
    "dates": (lambda f: f[f.day < "2020-01-05"], 1),
    "timestamps": (lambda f: f[f.day == pd.Timestamp("2020-03-01")], 1),
    "texts": (lambda f: f[f.name >= "n095"], 1),
    "decimals": (lambda f: f[f.price < 3], 1),
    "nulls of floats are not counted": (lambda f: f[f.maybe.isna()], 10),
    "not null": (lambda f: f[f.maybe.notna()], 5),
    "row groups of nulls": (lambda f: f[f.maybe < 55], 1),
    "filter of a filter": (lambda f: f[f.c00 > 50][f.c01 < 61], 1),
    "through projection, rename and assign": (
        lambda f: filtered_by("z", f[["c00", "c02"]].rename(columns={"c00": "z"}).assign(c05=1)), 1),
    "an assigned column is another": (lambda f: filtered_by("c00", f.assign(c00=f.c00 * 2)), 10),
    "elementwise steps between": (lambda f: (f[["c00", "c01"]] * 2)[f.c00 > 89], 1),
    "a total needs all rows": (lambda f: f[f.c00 > f.c00.mean()], 10),
    "sum after filter": (lambda f: f[f.c00 > 89].c01.sum(), 1),
    "filtered column": (lambda f: f.c01[f.c00 > 89], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_row_groups_that_cannot_match_are_left_out(name: str, sorted_file: Path) -> None:
    """As many as can be told by the statistics, and the rows and labels are those of pandas."""
    step, left = LEFT[name]
    frame = pdf.read_parquet(sorted_file, blocksize=20_000)
    assert 1 < frame.npartitions < 10
    result = step(frame)
    assert groups_left(result) == [left]
    got, want = result.compute(engine=ENGINE), step(pd.read_parquet(sorted_file))
    if isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want)
    elif isinstance(want, pd.Series):
        pd.testing.assert_series_equal(got, want)
    else:
        assert got == want


def test_rows_that_another_result_needs_are_read(sorted_file: Path) -> None:
    """Computed together, frames are read once, with the rows of both; a result that is not filtered needs all."""
    frame = pdf.read_parquet(sorted_file)
    low, high = frame[frame.c00 < 10].c03, frame[frame.c00 >= 95].c03
    assert groups_left(low, high) == [2]
    assert groups_left(low, frame.c03.sum()) == [10]
    assert groups_left(low, low.sum(), frame.shape[0]) == [1]
    got = pdf.compute(low, high, frame.c03.sum(), engine=ENGINE)
    assert [got[0].sum(), got[1].tolist(), got[2]] == [75, [98, 99, 100, 101, 102], 5250]


def test_explain_shows_the_condition_and_what_it_leaves(sorted_file: Path) -> None:
    """In the line of the reader."""
    frame = pdf.read_parquet(sorted_file)
    last = frame[(frame.c00 > 79) & (frame.name != "n090")].c01.explain().splitlines()
    expected = (
        "read_parquet columns 'c00', 'c01', 'name' in 1 partitions where (c00 > 79 and name != 'n090'): 2 of 10 row groups"
    )
    assert [line for line in last if expected in line]
    filtered = pdf.read_parquet(sorted_file, filters=[("c00", ">", 79)])
    assert "with filters [('c00', '>', 79)]" in filtered.explain()


def test_another_frame_of_the_same_partitions_is_not_filtered_by_statistics() -> None:
    """Two sources with equal labels: rows left out of one would be missing beside the other."""
    one = pdf.from_pandas(pd.DataFrame({"x": range(10)}), npartitions=2)
    other = pdf.from_pandas(pd.DataFrame({"x": range(10, 0, -1)}), npartitions=2)
    assert one[other.x > 5].x.compute(engine=ENGINE).tolist() == [0, 1, 2, 3, 4]


def test_rows_that_are_matched_by_labels_are_counted_when_they_are() -> None:
    """Labels that occur twice make more rows than either side has."""
    whole = pd.DataFrame({"x": [1, 2, 3, 4]}, index=[0, 0, 1, 1])
    frame = pdf.from_pandas(whole, npartitions=1)
    for step in (lambda f: f.x + f[f.x > 1].x, lambda f: f[f.x > 1].x + f.x, lambda f: f.x + f.x):
        assert len(step(frame)) == len(step(whole))


def test_wrong_and_missing_statistics_lose_nothing(tmp_path: Path) -> None:
    """Not-a-number in floats, texts too long for statistics, row groups of nulls alone, and none written."""
    table = pa.table(
        {
            "f": [math.nan, 1.0, math.nan, math.nan, 5.0, 6.0],
            "s": ["x" * 9000, "y" * 9000, None, None, "x" * 9000 + "z", "a"],
            "i": pa.array([1, 2, None, None, 5, 6], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2, write_statistics=["f", "s"])
    frame, whole = pdf.read_parquet(tmp_path, blocksize=1), pd.read_parquet(tmp_path / "x.parquet")
    for step in (
        lambda f: f[f.f != 1.0], lambda f: f[f.f.isna()], lambda f: f[~(f.f < 3)], lambda f: f[f.s > "x" * 9000],
        lambda f: f[f.s == "y" * 9000], lambda f: f[f.i == 2], lambda f: f[f.i.isna()], lambda f: f[f.s.isin(["a", None])],
    ):  # fmt: skip
        pd.testing.assert_frame_equal(step(frame).compute(engine=ENGINE), step(whole))


def test_len_and_head_read_little(sorted_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of rows is in the footers; the first rows are in the first partition."""
    frame = pdf.read_parquet(sorted_file, blocksize=1)
    read: list[Any] = []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, numbers, **kwargs: read.append(numbers) or original(self, numbers, **kwargs),
    )
    assert len(frame) == len(frame[["c00"]] + 1) == 100
    assert frame.shape[0].compute(engine=ENGINE) == 100
    assert len(frame.partitions[2:4]) == 20
    assert not read
    assert len(frame.head(3, engine=ENGINE)) == 3
    assert read == [[0]]
    assert len(frame[frame.c00 > 95]) == 4
    assert read == [[0], [9]]


# --------------------------------------------------------------------------------------------------------- counted bytes


class CountedFileSystem(MemoryFileSystem):
    """Files in memory that note which of their bytes are read."""

    protocol = "counted"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    ranges: list[tuple[int, int]] = []

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        opened = super()._open(path, mode, **kwargs)
        return opened if mode != "rb" else CountedFile(opened)


class CountedFile:
    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data: bytes = self._file.read(size)
        CountedFileSystem.ranges.append((start, start + len(data)))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> CountedFile:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def counted() -> Iterator[list[tuple[int, int]]]:
    fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
    CountedFileSystem.store.clear()
    CountedFileSystem.ranges.clear()
    yield CountedFileSystem.ranges
    CountedFileSystem.store.clear()


def test_two_of_thirty_columns_with_a_filter_read_only_their_chunks_that_can_match(counted: list[tuple[int, int]]) -> None:
    """Counted bytes: the chunks of two columns in 2 of 10 row groups, and the footer."""
    rng = np.random.default_rng(0)
    whole = pd.DataFrame({f"c{place:02}": rng.random(100_000) for place in range(30)})
    whole["c07"] = np.arange(100_000)
    with fsspec.open("counted://x.parquet", "wb") as file:
        whole.to_parquet(file, row_group_size=10_000)
    with fsspec.open("counted://x.parquet") as file:
        footer, size = pq.read_metadata(file), file.seek(0, 2)
    chunks: dict[tuple[int, str], tuple[int, int]] = {}
    for number in range(10):
        for place in range(30):
            column = footer.row_group(number).column(place)
            begin = column.dictionary_page_offset or column.data_page_offset
            chunks[number, column.path_in_schema] = (begin, begin + column.total_compressed_size)
    frame = pdf.read_parquet("counted://x.parquet")
    counted.clear()
    got = frame[frame.c07 >= 85_000].c21.sum().compute(engine=ENGINE)
    assert got == pytest.approx(whole.c21[85_000:].sum())
    allowed = [chunks[number, name] for number in (8, 9) for name in ("c07", "c21")]
    footer_start = size - (64 << 10)  # where pyarrow looks for it
    outside = [
        (start, stop)
        for start, stop in counted
        if start < footer_start and not any(begin <= start and stop <= end for begin, end in allowed)
    ]
    assert not outside
    data = sum(stop - start for start, stop in counted if start < footer_start)
    assert 0 < data <= sum(end - begin for begin, end in allowed) < size / 50


# -------------------------------------------------------------------------------------------------------- partitioned data


def test_directories_of_keys_are_columns_and_choose_files(tmp_path: Path) -> None:
    """As pandas reads them; a condition on a key leaves out whole files, also in filters=."""
    whole = pd.DataFrame({"x": range(12), "year": [2013, 2014, 2015] * 4, "k": ["a b", "c/d", "é", "e"] * 3})
    whole.to_parquet(tmp_path, partition_cols=["year", "k"])
    want = pd.read_parquet(tmp_path)
    frame = pdf.read_parquet(tmp_path, blocksize=1)
    got = frame.compute(engine=ENGINE)
    assert got.dtypes.astype(str).tolist() == want.dtypes.astype(str).tolist()
    for name in ("year", "k"):
        assert sorted(got[name].cat.categories) == sorted(want[name].cat.categories)
        assert got[name].astype(object).fillna("-").tolist() == want[name].astype(object).fillna("-").tolist()
    assert got.x.tolist() == want.x.tolist()
    late = frame[(frame.year == 2014) & (frame.x > 2)]
    assert groups_left(late) == [3]
    assert late.x.compute(engine=ENGINE).tolist() == want[(want.year == 2014) & (want.x > 2)].x.tolist()
    assert frame[frame.k == "c/d"].x.compute(engine=ENGINE).tolist() == want[want.k == "c/d"].x.tolist()
    asked = [("year", ">", 2013), ("k", "in", ["a b", "e"])]
    filtered = pdf.read_parquet(tmp_path, filters=asked, blocksize=1)
    assert groups_left(filtered) == [4]
    assert filtered.x.compute(engine=ENGINE).tolist() == pd.read_parquet(tmp_path, filters=asked).x.tolist()
    assert pdf.read_parquet(tmp_path, columns=["year"]).year.compute(engine=ENGINE).tolist() == want.year.tolist()


def test_keys_without_a_value_are_null(tmp_path: Path) -> None:
    """As pandas writes them; pyarrow refuses to join such files."""
    pd.DataFrame({"x": range(6), "k": ["a", None, "b"] * 2}).to_parquet(tmp_path, partition_cols=["k"])
    frame = pdf.read_parquet(tmp_path, blocksize=1)
    assert frame[frame.k.isna()].x.compute(engine=ENGINE).tolist() == [1, 4]
    assert groups_left(frame[frame.k.isna()]) == [1]
    assert sorted(frame[frame.k.notna()].x.compute(engine=ENGINE)) == [0, 2, 3, 5]


def test_small_row_groups_of_several_files_are_one_partition(tmp_path: Path) -> None:
    """Up to a size; the rows are numbered over all of them."""
    for name in "abc":
        pd.DataFrame({"x": range(4)}).to_parquet(tmp_path / f"{name}.parquet", row_group_size=2)
    frame = pdf.read_parquet(tmp_path)
    assert frame.npartitions == 1
    pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), pd.DataFrame({"x": list(range(4)) * 3}))
    assert frame[frame.x > 2].compute(engine=ENGINE).index.tolist() == [3, 7, 11]
    assert pdf.read_parquet(tmp_path, blocksize=1).npartitions == 6

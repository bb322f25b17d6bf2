"""read_parquet against pandas on the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml.dataframe.io import parquet as parquet_module
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.drawn import examples

ENGINE = InlineEngine()
ROWS = st.tuples(st.none() | st.integers(-9, 9), st.none() | st.sampled_from(["a", "b"]), st.none() | st.booleans())


@examples(25)
@given(st.lists(ROWS, max_size=20), st.integers(1, 7))
def test_row_groups_of_any_size_equal_pandas(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]], size: int
) -> None:
    """Values and dtypes, with missing values in some row groups only, and none at all."""
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    table = pyarrow.table(
        {
            "i": pyarrow.array([row[0] for row in rows], pyarrow.int64()),
            "s": pyarrow.array([row[1] for row in rows], pyarrow.string()),
            "b": pyarrow.array([row[2] for row in rows], pyarrow.bool_()),
        }
    )
    pyarrow.parquet.write_table(table, path, row_group_size=size)
    want = pd.read_parquet(path)
    frame = pdf.read_parquet(path, blocksize=1)
    got = frame.compute(engine=ENGINE)
    pd.testing.assert_frame_equal(got, want)
    assert frame.npartitions == max(1, -(-len(rows) // size))
    assert all(part.dtypes.equals(want.dtypes) for part in frame.partitions)


def test_files_with_an_index_times_and_nullable_numbers_equal_pandas(tmp_path: Path) -> None:
    """What pandas writes comes back with its index and dtypes."""
    whole = pd.DataFrame(
        {
            "t": pd.date_range("2020-01-01", periods=10, tz="UTC"),
            "n": pd.array([1, None] * 5, dtype="Int64"),
            "f": np.arange(10.0),
        },
        index=pd.Index(list("abcdefghij"), name="key"),
    )
    whole[:6].to_parquet(tmp_path / "1.parquet", row_group_size=4)
    whole[6:].to_parquet(tmp_path / "2.parquet", row_group_size=4)
    frame = pdf.read_parquet(tmp_path)
    pd.testing.assert_frame_equal(frame.compute(), whole, check_freq=False)
    pd.testing.assert_series_equal(frame[frame.f > 2].n.compute(), whole[whole.f > 2].n)


def test_numbered_rows_of_several_files_go_on(tmp_path: Path) -> None:
    """Like pandas.concat with ignore_index."""
    for name in "ab":
        pd.DataFrame({"x": range(5)}).to_parquet(tmp_path / f"{name}.parquet", row_group_size=2)
    frame = pdf.read_parquet(str(tmp_path / "*.parquet"), blocksize=1)
    assert frame.npartitions == 6
    assert frame.compute().index.equals(pd.RangeIndex(10))
    assert frame[frame.x == 4].compute().index.tolist() == [4, 9]


def test_only_needed_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader asks the file for no others."""
    pd.DataFrame({name: range(4) for name in "abcdef"}).to_parquet(tmp_path / "x.parquet")
    asked: list[list[str]] = []
    original = parquet_module.pyarrow.parquet.ParquetFile.read_row_groups

    def noted(self: Any, numbers: list[int], columns: list[str], **kwargs: Any) -> Any:
        asked.append(columns)
        return original(self, numbers, columns=columns, **kwargs)

    monkeypatch.setattr(parquet_module.pyarrow.parquet.ParquetFile, "read_row_groups", noted)
    frame = pdf.read_parquet(tmp_path)
    assert frame[frame.e > 1].b.sum().compute(engine=ENGINE) == 5
    assert asked == [["b", "e"]]
    assert pdf.read_parquet(tmp_path, columns=["f", "a"]).compute(engine=ENGINE).columns.tolist() == ["f", "a"]


def test_dictionary_columns_become_plain(tmp_path: Path) -> None:
    """Row groups have different dictionaries, partitions must not."""
    pd.DataFrame({"c": pd.Categorical(list("aabbcc"))}).to_parquet(tmp_path / "x.parquet", row_group_size=2)
    frame = pdf.read_parquet(tmp_path)
    assert frame.dtypes["c"] == "str"
    assert frame.c.compute().tolist() == list("aabbcc")


def test_bad_input_names_the_files(tmp_path: Path) -> None:
    """Other columns, other types, no Parquet, no file, no such column."""
    pd.DataFrame({"a": [1], "b": [2]}).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame({"a": [1.5], "b": [2]}).to_parquet(tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"column 'a'.*1\.parquet \(int64\).*found double in .*2\.parquet"):
        pdf.read_parquet(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"1\.parquet.*2\.parquet none named 'b'"):
        pdf.read_parquet(tmp_path)
    (tmp_path / "2.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"2\.parquet"):
        pdf.read_parquet(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        pdf.read_parquet(tmp_path / "nothing-*.parquet")
    with pytest.raises(KeyError, match="'z'; they have 'a', 'b'"):
        pdf.read_parquet(tmp_path / "1.parquet", columns=["z"])

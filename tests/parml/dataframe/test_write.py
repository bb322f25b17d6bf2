"""Written files against pandas, and what a write that was killed leaves."""

from __future__ import annotations

import decimal
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import parml.dataframe as pdf
from parml.dataframe.io.files import MOVING
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

ENGINE = InlineEngine()
WHOLE = pd.DataFrame(
    {
        "i": range(9),
        "f": [0.5, None] * 4 + [2.5],
        "s": ["a", 'q"uo,te', None, "ü\n"] * 2 + ["z"],
        "b": [True, False, True] * 3,
        "n": pd.array([1, None, 3] * 3, dtype="Int64"),
        "c": pd.Categorical(list("xyz") * 3),
        "t": pd.date_range("2020-01-01", periods=9, freq="h", tz="Europe/Berlin"),
        "d": [decimal.Decimal("1.25"), None, decimal.Decimal("-3")] * 3,
    },
    index=pd.Index(range(10, 19), name="row"),
)


def frame(npartitions: int = 3) -> Any:
    return pdf.from_pandas(WHOLE, npartitions=npartitions)


def visible(folder: Path) -> list[str]:
    """What a reader of the directory sees."""
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


class TestText:
    @pytest.mark.parametrize("options", [{}, {"index": False}, {"sep": ";", "na_rep": "-", "header": False}])
    def test_csv_has_the_bytes_that_pandas_writes(self, tmp_path: Path, options: dict[str, Any]) -> None:
        """One file of all partitions."""
        assert frame().to_csv(tmp_path / "x.csv", engine=ENGINE, **options) == [str(tmp_path / "x.csv")]
        assert (tmp_path / "x.csv").read_text() == WHOLE.to_csv(**options)
        assert os.listdir(tmp_path) == ["x.csv"]

    def test_a_series_has_the_bytes_that_pandas_writes(self, tmp_path: Path) -> None:
        """Under its name, or none."""
        for series in (WHOLE.s, WHOLE.f.rename(None)):
            pdf.from_pandas(series, npartitions=2).to_csv(tmp_path / "x.csv", engine=ENGINE)
            assert (tmp_path / "x.csv").read_text() == series.to_csv()

    def test_rows_of_files_are_numbered_as_pandas_does(self, tmp_path: Path) -> None:
        """All of them, or those that a filter leaves; in one file or several."""
        (tmp_path / "in.csv").write_text("x\n" + "\n".join(map(str, range(100))) + "\n")
        read, whole = pdf.read_csv(tmp_path / "in.csv", blocksize=50), pd.read_csv(tmp_path / "in.csv")
        assert read.npartitions > 3
        read.to_csv(tmp_path / "all.csv", engine=ENGINE)
        read[read.x > 40].to_csv(tmp_path / "some.csv", engine=ENGINE)
        assert (tmp_path / "all.csv").read_text() == whole.to_csv()
        assert (tmp_path / "some.csv").read_text() == whole[whole.x > 40].to_csv()
        paths = read.to_csv(tmp_path / "part-*.csv", engine=ENGINE, index=False)
        assert len(paths) == read.npartitions
        pd.testing.assert_frame_equal(pd.concat(map(pd.read_csv, paths), ignore_index=True), whole)
        pd.testing.assert_frame_equal(pdf.read_csv(tmp_path / "part-*.csv").compute(engine=ENGINE), whole)

    @pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
    def test_compressed_by_the_name(self, tmp_path: Path, ending: str) -> None:
        """Written and read back, by pandas too; a compressed file is one partition."""
        path = tmp_path / f"x.csv.{ending}"
        frame().to_csv(path, engine=ENGINE, index=False)
        pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(pd.io.common.StringIO(WHOLE.to_csv(index=False))))
        read = pdf.read_csv(path)
        assert read.npartitions == 1
        pd.testing.assert_frame_equal(read.compute(engine=ENGINE), pd.read_csv(path))

    def test_json_lines_equal_those_of_pandas(self, tmp_path: Path) -> None:
        """Partitions without rows among them."""
        late = frame()[frame().i > 5].drop(columns="d")
        late.to_json(tmp_path / "x.json", engine=ENGINE, date_format="iso")
        want = WHOLE[WHOLE.i > 5].drop(columns="d").to_json(orient="records", lines=True, date_format="iso")
        assert (tmp_path / "x.json").read_text() == want

    def test_a_file_that_is_there_is_kept_until_the_new_one_is_complete(self, tmp_path: Path) -> None:
        """A partition that fails leaves the old one."""
        path = tmp_path / "x.csv"
        path.write_text("old")

        def fails(part: pd.DataFrame) -> pd.DataFrame:
            if 5 in part.i.to_numpy():
                raise RuntimeError("broken row")
            return part

        with pytest.raises(RuntimeError, match="broken row"):
            frame().map_partitions(fails, meta=WHOLE.iloc[:0]).to_csv(path, engine=ENGINE)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["x.csv"]
        frame().to_csv(path, engine=ENGINE)
        assert path.read_text() == WHOLE.to_csv()


class TestArrow:
    def test_parquet_comes_back_by_pandas_and_by_parml(self, tmp_path: Path) -> None:
        """Values, dtypes and labels; files in the order of the partitions."""
        paths = frame().to_parquet(tmp_path, engine=ENGINE)
        assert [str(tmp_path / name) for name in visible(tmp_path)] == paths
        assert len(paths) == 3
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), WHOLE)
        got = pdf.read_parquet(tmp_path).compute(engine=ENGINE)
        pd.testing.assert_frame_equal(got, WHOLE.astype({"c": "str"}))

    def test_columns_without_values_in_some_partitions_get_the_type_of_the_others(self, tmp_path: Path) -> None:
        """Objects tell their type by their values alone; partitions without any fit in."""
        whole = pd.DataFrame({"o": pd.Series([None, None, b"x", None], dtype=object), "x": range(4)})
        parted = pdf.from_pandas(whole, npartitions=4)
        parted.to_parquet(tmp_path / "p", engine=ENGINE)
        kinds = {pq.read_schema(path).field("o").type for path in (tmp_path / "p").glob("*.parquet")}
        assert kinds == {pa.binary()}
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p"), whole, check_index_type=False)
        parted.to_feather(tmp_path / "x.arrow", engine=ENGINE)
        pd.testing.assert_frame_equal(pd.read_feather(tmp_path / "x.arrow"), whole, check_index_type=False)

    def test_columns_of_several_types_are_an_error_that_names_them(self, tmp_path: Path) -> None:
        """In one partition, or in two; and nothing is there afterwards."""
        mixed = pdf.from_pandas(pd.DataFrame({"o": pd.Series([1, "a"], dtype=object)}), npartitions=1)
        with pytest.raises(InputError, match=r"one type each.*column o.*astype"):
            mixed.to_parquet(tmp_path / "p", engine=ENGINE)
        mixed = pdf.from_pandas(pd.DataFrame({"o": pd.Series([1, "a"], dtype=object)}), npartitions=2)
        with pytest.raises(InputError, match=r"'o', found int64 in partition 0 and (large_)?string in partition 1"):
            mixed.to_parquet(tmp_path / "p", engine=ENGINE)
        assert visible(tmp_path) == []

    def test_rows_go_to_directories_by_key(self, tmp_path: Path) -> None:
        """As pandas reads them; of each key only the files that have it."""
        whole = pd.DataFrame({"x": range(12), "k": ["a b", "c/d", "e"] * 4, "y": [1, 2] * 6})
        pdf.from_pandas(whole, npartitions=3).to_parquet(tmp_path, partition_on=["k", "y"], index=False, engine=ENGINE)
        got = pd.read_parquet(tmp_path).astype({"k": "str", "y": "int64"}).sort_values("x", ignore_index=True)
        pd.testing.assert_frame_equal(got[["x", "k", "y"]], whole)
        read = pdf.read_parquet(tmp_path)
        assert sorted(read[(read.k == "c/d") & (read.y == 2)].x.compute(engine=ENGINE)) == [1, 7]

    def test_append_overwrite_and_neither(self, tmp_path: Path) -> None:
        """Rows follow those that are there, or replace them; without being asked for, it is an error."""
        one, other = pdf.from_pandas(WHOLE[:5], npartitions=2), pdf.from_pandas(WHOLE[5:], npartitions=2)
        one.to_parquet(tmp_path, engine=ENGINE)
        with pytest.raises(InputError, match="found 2; pass overwrite=True to replace them"):
            other.to_parquet(tmp_path, engine=ENGINE)
        schema = {"d": pa.decimal128(3, 2)}  # of objects each write tells the type, and this one has fewer digits
        one.to_parquet(tmp_path, overwrite=True, schema=schema, engine=ENGINE)
        other.to_parquet(tmp_path, append=True, schema=schema, engine=ENGINE)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), WHOLE)
        other.to_parquet(tmp_path, append=True, schema=schema, engine=ENGINE)
        assert len(pdf.read_parquet(tmp_path)) == 13
        other.to_parquet(tmp_path, overwrite=True, compression="zstd", engine=ENGINE)
        assert len(visible(tmp_path)) == 2
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), WHOLE[5:])
        with pytest.raises(InputError, match=r"columns of part-.*found in the frame none named 's'"):
            other.drop(columns="s").to_parquet(tmp_path, append=True, engine=ENGINE)
        with pytest.raises(InputError, match=r"'f' to have the type.*\(double\).*found float"):
            other.astype({"f": "float32"}).to_parquet(tmp_path, append=True, engine=ENGINE)
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"expected a directory.*found the file"):
            other.to_parquet(tmp_path / "file")
        with pytest.raises(InputError, match="found both"):
            other.to_parquet(tmp_path, overwrite=True, append=True)
        with pytest.raises(KeyError, match="found 'zz'"):
            other.to_parquet(tmp_path, partition_cols="zz")

    def test_overwriting_what_is_read(self, tmp_path: Path) -> None:
        """The old files are there until all new ones are."""
        frame().to_parquet(tmp_path, engine=ENGINE)
        read = pdf.read_parquet(tmp_path, blocksize=1)
        read[read.i > 3].to_parquet(tmp_path, overwrite=True, engine=ENGINE)
        assert pd.read_parquet(tmp_path).i.tolist() == [4, 5, 6, 7, 8]

    def test_a_url_and_a_write_to_be_computed_later(self) -> None:
        """By fsspec, here in memory; a lazy write does nothing before."""
        files = fsspec.filesystem("memory")
        lazy = frame().to_parquet("memory://parml-write/p", compute=False)
        assert not files.exists("/parml-write/p")
        assert len(lazy.compute(engine=ENGINE)) == 3
        read = pdf.read_parquet("memory://parml-write/p")
        assert read[read.i > 6].s.compute(engine=ENGINE).tolist() == ["ü\n", "z"]
        frame().to_csv("memory://parml-write/x.csv", engine=ENGINE, index=False)
        assert pdf.read_csv("memory://parml-write/*.csv").i.compute(engine=ENGINE).tolist() == list(range(9))
        assert not [name for name in files.find("/parml-write") if ".parml-" in name]
        files.rm("/parml-write", recursive=True)

    def test_a_directory_in_which_files_are_being_moved_is_not_read(self, tmp_path: Path) -> None:
        """It may have old and new ones."""
        frame().to_parquet(tmp_path, engine=ENGINE)
        (tmp_path / MOVING).write_text("token")
        with pytest.raises(InputError, match="has not ended"):
            pdf.read_parquet(tmp_path)


KILLED = """
import os, signal, sys
import numpy as np, pandas as pd
import parml.dataframe as pdf
from parml.dataframe.io import staging
from parml_core.engine.inline import InlineEngine

folder, where = sys.argv[1:]
frame = pdf.from_pandas(pd.DataFrame({"x": np.arange(4000), "y": np.arange(4000) / 2}), npartitions=4)
count = 0

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "half a file":
    original = staging.LocalFiles.write
    def write(self, path, write):
        global count
        count += path.endswith(".parquet")
        def half(file):
            write(file)
            file.flush()
            if count == 3 and path.endswith(".parquet"):
                os.truncate(file.name, os.path.getsize(file.name) // 2)
                die()
        return original(self, path, half)
    staging.LocalFiles.write = write
elif where == "moving":
    original = staging.LocalFiles.move
    def move(self, old, new):
        global count
        count += 1
        die() if count == 3 else original(self, old, new)
    staging.LocalFiles.move = move
frame.to_parquet(folder, engine=InlineEngine())
"""


@pytest.mark.parametrize("where", ["half a file", "moving"])
def test_a_killed_write_is_completed_by_running_it_again(tmp_path: Path, where: str) -> None:
    """A process really killed: no half file is seen, whole ones are not written again, and the rows are right."""
    folder = tmp_path / "p"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), where], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    for name in visible(folder):
        assert name == MOVING or pq.read_metadata(folder / name).num_rows == 1000
    assert [name for name in visible(folder) if name != MOVING] == [] or where == "moving"
    if where == "moving":
        with pytest.raises(InputError, match="has not ended"):
            pdf.read_parquet(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*")}
    assert len(before) == (2 if where == "half a file" else 4)
    whole = pd.DataFrame({"x": np.arange(4000), "y": np.arange(4000) / 2})
    pdf.from_pandas(whole, npartitions=4).to_parquet(folder, engine=ENGINE)
    pd.testing.assert_frame_equal(pd.read_parquet(folder), whole, check_index_type=False)
    assert len(visible(folder)) == len(os.listdir(folder)) == 4
    if where == "half a file":
        kept = {path.name: time for path, time in before.items()}
        assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept

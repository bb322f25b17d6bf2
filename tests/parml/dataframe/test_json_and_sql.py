"""JSON lines and SQL against pandas on the same data."""

from __future__ import annotations

import gzip
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

ENGINE = InlineEngine()


class TestJson:
    ROWS = pd.DataFrame(
        {
            "i": range(50),
            "f": [0.5, None] * 25,
            "s": ["a", "ü\n", None, '"', "e"] * 10,
            "b": [True, False] * 25,
            "when": ["2020-01-01"] * 50,
        }
    )

    @pytest.mark.parametrize("blocksize", [50, 700, "1MiB"])
    def test_blocks_of_any_size_equal_pandas(self, tmp_path: Path, blocksize: int | str) -> None:
        """Values, dtypes and numbers of rows; columns chosen and rows filtered."""
        path = tmp_path / "x.json"
        self.ROWS.to_json(path, orient="records", lines=True)
        want, frame = pd.read_json(path, lines=True), pdf.read_json(path, blocksize=blocksize)
        assert (frame.npartitions > 3) == (blocksize != "1MiB")
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)
        pd.testing.assert_series_equal(frame[frame.i > 9].s.compute(engine=ENGINE), want[want.i > 9].s)
        assert all(part.dtypes.equals(want.dtypes) for part in frame.partitions)

    def test_missing_keys_compressed_files_and_patterns(self, tmp_path: Path) -> None:
        """Keys that a line has not are null, whatever file they are missing in."""
        with gzip.open(tmp_path / "1.json.gz", "wt") as file:
            file.write('{"a": 1, "b": "x"}\n{"a": 2}\n')
        (tmp_path / "2.json").write_text('{"b": "y"}\n')
        (tmp_path / "3.json").write_text("")
        frame = pdf.read_json(str(tmp_path / "*.json*"))
        assert frame.npartitions == 3
        got = frame.compute(engine=ENGINE)
        pd.testing.assert_frame_equal(
            got, pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": pd.Series(["x", None, "y"], dtype="str")})
        )

    def test_what_does_not_fit_the_learned_dtypes_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No value is changed and no column dropped in silence."""
        monkeypatch.setattr("parml.dataframe.io.json.SAMPLED_BYTES", 1)
        start = '{"a": 1}\n' * 3000
        for last, found in {
            '{"a": 1.5}': "int64 in column 'a'",
            '{"a": "x"}': "int64 in column 'a'",
            '{"z": 1}': r"also \['z'\]",
        }.items():
            (tmp_path / "x.json").write_text(start + last + "\n")
            with pytest.raises(InputError, match=found):
                pdf.read_json(tmp_path, blocksize=20_000).compute(engine=ENGINE)
        (tmp_path / "x.json").write_text(start + '{"a": 1.5}\n')
        assert pdf.read_json(tmp_path, dtype={"a": "float64"}).a.max().compute(engine=ENGINE) == 1.5
        (tmp_path / "x.json").write_text('{"a": 1}\n{"a": \n')
        with pytest.raises(InputError, match=r"one JSON object in each line of .*x\.json"):
            pdf.read_json(tmp_path)


sqlalchemy = pytest.importorskip("sqlalchemy")


class TestSql:
    ROWS = pd.DataFrame(
        {
            "x": np.arange(30) * 1.5,
            "n": [None] * 20 + list(range(10)),
            "s": ["a", None, "ccc"] * 10,
            "when": pd.date_range("2020-01-01", periods=30),
        },
        index=pd.Index(np.arange(30) * 7 % 31, name="id"),
    )

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        url = f"sqlite:///{tmp_path / 'x.db'}"
        self.ROWS.to_sql("rows", sqlalchemy.create_engine(url))
        return url

    @pytest.mark.parametrize("npartitions", [1, 2, 7])
    def test_ranges_of_a_key_equal_pandas(self, url: str, npartitions: int) -> None:
        """A table or a query, with nulls that the first rows do not show or only they have."""
        for sql in ("rows", "SELECT * FROM rows WHERE x > 3"):
            want = pd.read_sql(sql, sqlalchemy.create_engine(url), index_col="id")
            frame = pdf.read_sql(sql, url, "id", npartitions=npartitions)
            assert frame.npartitions == npartitions
            got = frame.compute(engine=ENGINE)
            pd.testing.assert_frame_equal(got.sort_index(), want.sort_index())
            assert frame[frame.x > 9].x.sum().compute(engine=ENGINE) == want[want.x > 9].x.sum()
        assert pickle.loads(pickle.dumps(frame)).x.count().compute(engine=ENGINE) == len(want)

    def test_keys_that_are_null_or_texts(self, tmp_path: Path) -> None:
        """Rows without a key are there; texts need divisions."""
        url = f"sqlite:///{tmp_path / 'x.db'}"
        whole = pd.DataFrame({"k": ["b", None, "z", "a", "m"], "j": [5, None, 1, 9, 3], "x": range(5)})
        whole.to_sql("t", sqlalchemy.create_engine(url), index=False)
        assert sorted(pdf.read_sql("t", url, "j", npartitions=3).x.compute(engine=ENGINE)) == list(range(5))
        with pytest.raises(InputError, match="found 'a'; pass divisions="):
            pdf.read_sql("t", url, "k", npartitions=2)
        frame = pdf.read_sql("t", url, "k", divisions=["a", "c", "n", "z"], columns=["x"])
        assert [len(part) for part in frame.partitions] == [3, 1, 1]
        with pytest.raises(InputError, match="its columns are 'k', 'j', 'x'"):
            pdf.read_sql("t", url, "id")
        with pytest.raises(InputError, match="found 'nothing'"):
            pdf.read_sql("nothing", url, "id")

    def test_written_tables_equal_those_of_pandas(self, url: str, tmp_path: Path) -> None:
        """Each partition once; and the table alone is left."""
        engine = sqlalchemy.create_engine(url)
        parted = pdf.from_pandas(self.ROWS, npartitions=4)
        assert parted.to_sql("copy", url, engine=ENGINE) == 30
        pd.testing.assert_frame_equal(pd.read_sql("copy", engine), pd.read_sql("rows", engine))
        with pytest.raises(ValueError, match="already exists"):
            parted.to_sql("copy", url, engine=ENGINE)
        parted.to_sql("copy", engine, if_exists="append", engine=ENGINE)
        assert len(pd.read_sql("copy", engine)) == 60
        parted.to_sql("copy", url, if_exists="replace", index=False, engine=ENGINE)
        assert pd.read_sql("copy", engine).columns.tolist() == list(self.ROWS.columns)
        assert sorted(sqlalchemy.inspect(engine).get_table_names()) == ["copy", "rows"]

    def test_a_killed_write_is_completed_by_running_it_again(self, tmp_path: Path) -> None:
        """A process really killed in the third partition; no row is there twice."""
        url = f"sqlite:///{tmp_path / 'x.db'}"
        code = (
            "import os, signal, sys, pandas as pd, parml.dataframe as pdf\n"
            "from parml.dataframe.io import sql\n"
            "from parml_core.engine.inline import InlineEngine\n"
            "put = sql.SqlTable._put\n"
            "def die(self, frame, *args):\n"
            "    put(self, frame, *args)\n"
            "    if len(frame) and frame.x.iloc[0] == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
            "sql.SqlTable._put = die\n"
            "pdf.from_pandas(pd.DataFrame({'x': range(40)}), npartitions=4).to_sql('t', sys.argv[1], engine=InlineEngine())\n"
        )
        ended = subprocess.run([sys.executable, "-c", code, url], timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL
        engine = sqlalchemy.create_engine(url)
        assert pd.read_sql("t", engine).x.tolist() == list(range(20))
        assert pdf.from_pandas(pd.DataFrame({"x": range(40)}), npartitions=4).to_sql("t", url, engine=ENGINE) == 40
        assert pd.read_sql("t", engine).x.tolist() == list(range(40))
        assert sqlalchemy.inspect(engine).get_table_names() == ["t"]


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    """By another user, in another process."""
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    os.chmod(tmp_path / "x.parquet", 0)
    code = (
        "import os, sys, parml.dataframe as pdf\n"
        "if os.getuid() == 0: os.seteuid(65534)\n"
        "try: pdf.read_parquet(sys.argv[1])\n"
        "except PermissionError as error: print(error)\n"
    )
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        os.chmod(folder, 0o755)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.parquet")], timeout=60, capture_output=True, text=True, check=True
    )
    assert "expected a file that may be read at" in ended.stdout
    assert "change its permissions" in ended.stdout

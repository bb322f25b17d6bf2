"""CSV files that are compressed, without a header, or reached by a URL, against pandas on the same files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

ENGINE = InlineEngine()
TEXT = "x,k,f\n" + "".join(f'{row},"a,{row % 3}",{row / 4}\n' for row in range(200))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip"])
@pytest.mark.parametrize("sampled", [1 << 24, 64])
def test_compressed_files_equal_pandas(tmp_path: Path, ending: str, sampled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one partition, also where its types are learned from the first rows alone."""
    monkeypatch.setattr("parml.dataframe.io.csv.SAMPLED_BYTES", sampled)
    monkeypatch.setattr("parml.dataframe.io.csv._SMALLEST_SAMPLE", 64)
    path = tmp_path / f"x.csv{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.csv", TEXT)
    else:
        path.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[ending].compress(TEXT.encode()))
    frame, want = pdf.read_csv(path, blocksize=100), pd.read_csv(path)
    assert frame.npartitions == 1
    pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)
    pd.testing.assert_series_equal(frame[frame.x > 9].k.compute(engine=ENGINE), want[want.x > 9].k)
    (tmp_path / "y.csv").write_text(TEXT)
    both = pdf.read_csv([path, tmp_path / "y.csv"])
    pd.testing.assert_frame_equal(both.compute(engine=ENGINE), pd.concat([want, want], ignore_index=True))


OPTIONS: dict[str, dict[str, Any]] = {
    "no header": {"header": None, "skiprows": 1},
    "names": {"names": ["a", "b", "c"], "skiprows": 1},
    "names in place of the header": {"names": ["a", "b", "c"], "header": 0},
    "names that are no texts": {"names": [1, "b", 2.5], "skiprows": 1},
    "lines left out": {"skiprows": 3},
    "numbers as names": {"header": None, "skiprows": 1, "usecols": [0, 2]},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("blocksize", [500, "1MiB"])
def test_headers_and_names_equal_pandas(tmp_path: Path, name: str, blocksize: Any) -> None:
    """As arguments of pandas, for one file and for two."""
    (tmp_path / "1.csv").write_text(TEXT)
    (tmp_path / "2.csv").write_text(TEXT)
    want = pd.concat([pd.read_csv(tmp_path / f"{i}.csv", **OPTIONS[name]) for i in (1, 2)], ignore_index=True)
    got = pdf.read_csv(tmp_path, blocksize=blocksize, **OPTIONS[name]).compute(engine=ENGINE)
    pd.testing.assert_frame_equal(got, want)


def test_decimal_commas_equal_pandas(tmp_path: Path) -> None:
    """With another separator."""
    (tmp_path / "x.csv").write_text("a;b\n1,5;2\n-3,25;4\n")
    got = pdf.read_csv(tmp_path, sep=";", decimal=",").compute(engine=ENGINE)
    pd.testing.assert_frame_equal(got, pd.read_csv(tmp_path / "x.csv", sep=";", decimal=","))


def test_urls_are_read_by_fsspec(tmp_path: Path) -> None:
    """One, a pattern, a directory; cut into blocks, compressed or not; file:// is a plain path."""
    files = fsspec.filesystem("memory")
    files.pipe("/parml-csv/1.csv", TEXT.encode())
    files.pipe("/parml-csv/2.csv", TEXT.encode())
    files.pipe("/parml-csv/3.csv.gz", gzip.compress(TEXT.encode()))
    (tmp_path / "x.csv").write_text(TEXT)
    want = pd.read_csv(tmp_path / "x.csv")
    for path, count in {"1.csv": 1, "*.csv": 2, "": 2, "*": 3, "3.csv.gz": 1}.items():
        frame = pdf.read_csv(f"memory://parml-csv/{path}", blocksize=1000)
        assert frame.npartitions >= count
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), pd.concat([want] * count, ignore_index=True))
    pd.testing.assert_frame_equal(pdf.read_csv(f"file://{tmp_path}/x.csv").compute(engine=ENGINE), want)
    with pytest.raises(FileNotFoundError, match="memory://parml-csv/nothing"):
        pdf.read_csv("memory://parml-csv/nothing.csv")
    with pytest.raises(InputError, match="URL that fsspec can open, found nowhere://x"):
        pdf.read_csv("nowhere://x/y.csv")
    files.rm("/parml-csv", recursive=True)


def test_unusable_options_say_what_is_expected(tmp_path: Path) -> None:
    """By name and value."""
    (tmp_path / "x.csv").write_text(TEXT)
    for options, message in [
        ({"header": 3}, "header to be 0, None or 'infer', found 3"),
        ({"skiprows": -1}, "skiprows to be a number of lines"),
        ({"skiprows": 1000}, "more lines than skiprows="),
        ({"names": ["a"]}, "expected 3 different names"),
        ({"compression": "rar"}, "compression to be 'infer'"),
        ({"decimal": ""}, "decimal to be one ASCII character"),
    ]:
        with pytest.raises(InputError, match=message):
            pdf.read_csv(tmp_path, **options)

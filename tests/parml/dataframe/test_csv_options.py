"""Options of read_csv over blocks of bytes against pandas on the whole; rows left out while a block is read; fixed widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parml.dataframe as pdf
from parml.dataframe.io import csv_reader
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError, NotSupported

ENGINE = InlineEngine()
N = 40
PLAIN = "x,k,f\n" + "".join(f'{i},"a,{i % 3}",{i / 4}\n' for i in range(N))
BROKEN = "x,k\n" + "".join(f'{i},"a\n{i % 3}"\n\n' for i in range(N))
MARKED = "x,k,f,m\n" + "".join(f'"{i * 1234:,}","a,{i % 3}","{i * 250:,.2f}",{i}\n' for i in range(N))
GERMAN = "x;y\n" + "".join(f"{i}.234,5;{i}\n;b\n" for i in range(N))
NOTED = '# head "quoted\nk,x # names\n# more\n' + "".join(
    f'"a#{i % 3}",{i}' + ('# tail, "with\n' if i % 2 else "\n") + ("#whole\n" if i % 5 == 0 else "") for i in range(N)
)
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "labels by name": (PLAIN, {"index_col": "x"}),
    "labels by place": (PLAIN, {"index_col": 1}),
    "labels of two levels": (PLAIN, {"index_col": ["k", "x"]}),
    "no labels": (PLAIN, {"index_col": False}),
    "labels among chosen columns": (PLAIN, {"usecols": ["k", "f"], "index_col": 0}),
    "labels without a header": (PLAIN, {"header": None, "skiprows": 1, "index_col": 0}),
    "first rows": (PLAIN, {"nrows": 7}),
    "no rows": (PLAIN, {"nrows": 0}),
    "more rows than there are": (PLAIN, {"nrows": 999}),
    "first rows with line ends inside": (BROKEN, {"nrows": 7}),
    "first rows with comments": (NOTED, {"nrows": 9, "comment": "#"}),
    "comments": (NOTED, {"comment": "#"}),
    "comments after lines left out": (NOTED, {"comment": "#", "skiprows": 1}),
    "thousands": (MARKED, {"thousands": ","}),
    "thousands in given dtypes": (MARKED, {"thousands": ",", "dtype": {"x": "float32", "m": "Int64"}}),
    "thousands and decimals": (GERMAN, {"sep": ";", "thousands": ".", "decimal": ","}),
    "truth values": ("x,k\nyes,1\nno,2\nno,3\n", {"true_values": ["yes"], "false_values": ["no"]}),
    "dates of one format": ("t,x\n31.12.2020,1\n01.01.2021,2\n", {"parse_dates": ["t"], "date_format": "%d.%m.%Y"}),
    "another name of sep": (PLAIN, {"delimiter": ","}),
    "options that change nothing": (PLAIN, {"engine": "c", "low_memory": False, "quoting": 0}),
    "names that begin like a byte order mark": ("ＡＢ,k\n1,2\n", {}),
}
ENCODED = {"latin-1": "üß", "cp1252": "€", "utf-8-sig": "ü", "gbk": "中文", "shift_jis": "ソ表"}


def check(path: Path, options: dict[str, Any]) -> None:
    want = pd.read_csv(path, **options)
    for blocksize in (90, "1MiB"):
        frame = pdf.read_csv(path, blocksize=blocksize, **options)
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)
        assert frame._meta.dtypes.equals(want.dtypes)


@pytest.mark.parametrize("name", OPTIONS)
def test_option_over_blocks_equals_pandas(tmp_path: Path, name: str) -> None:
    """Values, dtypes, labels and names; in many blocks and in one."""
    text, options = OPTIONS[name]
    (tmp_path / "x.csv").write_bytes(text.encode())
    check(tmp_path / "x.csv", options)


@pytest.mark.parametrize("encoding", ENCODED)
def test_encoding_over_blocks_equals_pandas(tmp_path: Path, encoding: str) -> None:
    """Blocks are cut at bytes, also where a letter has two of them."""
    word = ENCODED[encoding]
    text = f"x,{word}\n" + "".join(f'{i},"{word},{i}"\n' for i in range(N))
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    check(tmp_path / "x.csv", {"encoding": encoding})


def test_first_rows_of_several_files_and_tables(tmp_path: Path) -> None:
    """They go on in the next file; compressed ones too. Tabs are the default of read_table."""
    for number in range(3):
        pd.DataFrame({"x": range(5)}).to_csv(tmp_path / f"{number}.csv.gz", index=False)
    got = pdf.read_csv(tmp_path / "*.csv.gz", nrows=8)
    assert got.npartitions == 2 and got.x.compute(engine=ENGINE).tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    (tmp_path / "x.tsv").write_text(PLAIN.replace(",", "\t"))
    pd.testing.assert_frame_equal(
        pdf.read_table(tmp_path / "x.tsv", blocksize=90).compute(engine=ENGINE), pd.read_table(tmp_path / "x.tsv")
    )


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "encoding": ({"encoding": "utf-16"}, NotSupported, "one byte"),
    "unknown encoding": ({"encoding": "zz"}, NotSupported, "found 'zz'"),
    "skipfooter": ({"skipfooter": 1}, NotSupported, "without skipfooter"),
    "converters": ({"converters": {"x": int}}, NotSupported, r"Series\.map"),
    "an unknown option": ({"nope": 1}, TypeError, "'nope'"),
    "nrows": ({"nrows": -1}, InputError, "found -1"),
    "parse_dates": ({"parse_dates": True}, NotSupported, "list of columns"),
    "comments and line ends": ({"comment": "#", "newlines_in_values": True}, NotSupported, "beside comment="),
    "filters": ({"filters": [("x", "like", 1)]}, InputError, "filters="),
    "columns of filters": ({"filters": [("nope", "=", 1)]}, InputError, "'nope'"),
    "index_col": ({"index_col": "nope"}, InputError, "index_col, found 'nope'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_option_that_cannot_be_right_over_blocks_is_refused(tmp_path: Path, name: str) -> None:
    """At once, with the reason."""
    options, kind, message = REFUSED[name]
    (tmp_path / "x.csv").write_text(PLAIN)
    with pytest.raises(kind, match=message):
        pdf.read_csv(tmp_path / "x.csv", **options)


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    """Also where numbers are parsed as texts first; and a quote that a cut fell into."""
    (tmp_path / "x.csv").write_text(MARKED + '"1,2x","q",1,2\n')
    with pytest.raises(InputError, match=r"line 42, column 'x', found '1,2x'"):
        pdf.read_csv(tmp_path / "x.csv", thousands=",", dtype={"x": "int64"}).compute(engine=ENGINE)
    (tmp_path / "y.csv").write_text("x,k\n" + "1,b\n" * 6000 + '1,"a # \n"\n' + "1,b\n" * 12_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parml.dataframe.io.csv.SAMPLED_BYTES", 64)
        patch.setattr("parml.dataframe.io.csv._SMALLEST_SAMPLE", 64)
        frame = pdf.read_csv(tmp_path / "y.csv", comment="#", blocksize=25_000)
    with pytest.raises(InputError, match="a quote that is open"):
        frame.compute(engine=ENGINE)


CONDITIONS: dict[str, Any] = {
    "greater": lambda f: f.x > 30,
    "among and null": lambda f: f.k.isin(["a", "b"]) & f.f.isna(),
    "either": lambda f: (f.x < 3) | ~(f.f >= 2),
    "times": lambda f: f.t == pd.Timestamp("2020-01-05"),
    "nullable": lambda f: (f.n != 3).fillna(False),
    "nobody": lambda f: f.x > 999,
    "between": lambda f: f.x.between(5, 9),
    "truth": lambda f: f.b,
}


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("piece", [64, 1 << 20])
def test_rows_left_out_while_a_block_is_read_equal_pandas(
    tmp_path: Path, name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, dtypes and labels; whether a block is parsed in pieces, or a row is longer than a piece."""
    monkeypatch.setattr(csv_reader, "_CHUNK_BYTES", piece)
    rng = np.random.default_rng(0)
    whole = pd.DataFrame(
        {
            "x": range(60),
            "k": rng.choice(["a", "b", "long " * 30], 60),
            "f": np.where(rng.random(60) < 0.3, np.nan, rng.random(60) * 5),
            "n": np.where(rng.random(60) < 0.3, None, rng.integers(0, 5, 60)),
            "t": pd.date_range("2020", periods=60).astype("str"),
            "b": rng.random(60) < 0.5,
        }
    )
    whole.to_csv(tmp_path / "x.csv", index=False)
    options: dict[str, Any] = {"dtype": {"n": "Int64"}, "parse_dates": ["t"]}
    frame, want = pdf.read_csv(tmp_path / "x.csv", blocksize=900, **options), pd.read_csv(tmp_path / "x.csv", **options)
    mask = CONDITIONS[name]
    result = frame[mask(frame)]
    pd.testing.assert_frame_equal(result.compute(engine=ENGINE), want[mask(want)])
    total = result[["f", "x"]].sum()
    if name not in ("nullable",):
        assert "as it is read" in total.explain()
    pd.testing.assert_series_equal(total.compute(engine=ENGINE), want[mask(want)][["f", "x"]].sum())


def test_rows_that_no_filter_lets_through_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader returns only the others, of the columns that the plan needs."""
    (tmp_path / "x.csv").write_text(PLAIN)
    made: list[pd.DataFrame] = []
    load = csv_reader.CsvReader.load

    def noted(self: Any, block: Any) -> pd.DataFrame:
        made.append(load(self, block))
        return made[-1]

    monkeypatch.setattr(csv_reader.CsvReader, "load", noted)
    frame, want = pdf.read_csv(tmp_path / "x.csv", blocksize=90), pd.read_csv(tmp_path / "x.csv")
    assert frame[frame.x >= 35].f.sum().compute(engine=ENGINE) == want[want.x >= 35].f.sum()
    assert sum(map(len, made)) == 5 and all(list(part.columns) == ["x", "f"] for part in made)


FILTERS = [
    [("x", ">", 30), ("k", "in", ["a,1", "a,2"])],
    [[("x", "<=", 2)], [("k", "==", "a,0"), ("f", ">=", 8)]],
    [("f", "!=", 2.5)],
    [("k", "not in", ["a,1"])],
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_filters_choose_the_rows_that_those_of_parquet_do(tmp_path: Path, filters: Any) -> None:
    """By pandas' reading of the same rows from Parquet."""
    (tmp_path / "x.csv").write_text(PLAIN.replace(",1.5\n", ",\n"))
    whole = pd.read_csv(tmp_path / "x.csv")
    whole.to_parquet(tmp_path / "x.parquet")
    got = pdf.read_csv(tmp_path / "x.csv", blocksize=90, filters=filters).compute(engine=ENGINE)
    pd.testing.assert_frame_equal(got, pd.read_parquet(tmp_path / "x.parquet", filters=filters))


WIDTHS = "id   name          f  day       \n" + "".join(
    f"{i:>3}  {name:<8}{'' if i % 4 == 0 else i / 4:>7}  2020-01-{i % 28 + 1:02}\n{'' if i % 5 else chr(10)}"
    for i, name in zip(range(N), ["Ann", "Bo Li", "Ü", 'x,"y'] * 10, strict=True)
)
FIXED: dict[str, dict[str, Any]] = {
    "inferred": {},
    "widths": {"widths": [5, 8, 8, 12]},
    "places": {"colspecs": [(0, 4), (20, None)], "names": ["a", "b"], "header": 0},
    "no header": {"header": None, "skiprows": 1},
    "labels and first rows": {"index_col": "id", "nrows": 9},
    "dtypes": {"dtype": {"id": "float32", "name": "object"}, "parse_dates": ["day"], "usecols": ["id", "name", "day"]},
    "missing": {"na_values": ["Ann"]},
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_widths_over_blocks_equal_pandas(tmp_path: Path, name: str) -> None:
    """Values, dtypes, labels and names. (Of the first rows, pandas counts blank lines as well, though it leaves them out.)"""
    (tmp_path / "x.txt").write_text(WIDTHS.replace("\n\n", "\n") if "nrows" in FIXED[name] else WIDTHS)
    want = pd.read_fwf(tmp_path / "x.txt", **FIXED[name])
    for blocksize in (200, "1MiB"):
        frame = pdf.read_fwf(tmp_path, blocksize=blocksize, **FIXED[name])
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)
    if name == "inferred":
        got = frame[frame.id > 30].f.sum()
        assert "as it is read" in got.explain() and got.compute(engine=ENGINE) == want[want.id > 30].f.sum()
        (tmp_path / "x.txt").write_text(WIDTHS + " x1  Bo\n")
        with pytest.raises(InputError, match=r"line 50, column 'id', found 'x1'"):
            pdf.read_fwf(tmp_path, dtype={"id": "int64"}).compute(engine=ENGINE)
        with pytest.raises(InputError, match="found both"):
            pdf.read_fwf(tmp_path, colspecs=[(0, 1)], widths=[1])

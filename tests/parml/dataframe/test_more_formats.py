"""ORC, HDF5, fixed-width text and the forms of SQL, against pandas on the same files."""

from __future__ import annotations

import sys
from pathlib import Path
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
        "i": range(7),
        "f": [1.5, None] * 3 + [2.0],
        "s": ["a", None, "ü"] * 2 + ["long"],
        "b": [True, False] * 3 + [True],
        "t": pd.date_range("2020", periods=7),
    }
)


@pytest.mark.parametrize("name", ["x.orc", "x-*.orc"])
def test_orc_files_equal_pandas(tmp_path: Path, name: str) -> None:
    """Written and read back by both, by stripes, columns chosen."""
    paths = cut(WHOLE, [2, 2, 5]).to_orc(tmp_path / name, engine=ENGINE)
    want = pd.concat([pd.read_orc(path) for path in paths if len(pd.read_orc(path))], ignore_index=True)
    pd.testing.assert_frame_equal(want.astype({"t": WHOLE.t.dtype}), WHOLE)
    frame = pdf.read_orc(tmp_path)
    pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)
    pd.testing.assert_series_equal(frame[frame.i > 2].s.compute(engine=ENGINE), want[want.i > 2].s)
    by_label = pdf.read_orc(tmp_path, columns=["f"], index="s")
    pd.testing.assert_frame_equal(by_label.compute(engine=ENGINE), want.set_index("s")[["f"]])


def test_orc_by_stripes_with_nulls_and_labels(tmp_path: Path) -> None:
    """Whole numbers of which some are missing are floats in every partition."""
    whole = pd.DataFrame({"x": np.random.default_rng(0).random(40_000), "n": pd.Series([None, *range(39_999)], dtype="Int64")})
    whole.to_orc(tmp_path / "1.orc", engine_kwargs={"stripe_size": 1024, "batch_size": 1024})
    frame, want = pdf.read_orc(tmp_path / "1.orc"), pd.read_orc(tmp_path / "1.orc")
    assert frame.npartitions > 3 and len(frame) == 40_000
    pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), want)
    labelled = cut(WHOLE.set_index("s"), [3])
    with pytest.raises(InputError, match="index=True"):
        labelled.to_orc(tmp_path / "2.orc")
    labelled.i.to_orc(tmp_path / "2.orc", index=True, engine=ENGINE)
    assert pd.read_orc(tmp_path / "2.orc").columns.tolist() == ["s", "i"]
    with pytest.raises(InputError, match=r"duration.*astype"):
        cut(pd.DataFrame({"d": pd.to_timedelta([1], unit="s")}), []).to_orc(tmp_path / "3.orc")
    (tmp_path / "half.orc").write_bytes((tmp_path / "1.orc").read_bytes()[:-100])
    with pytest.raises(InputError, match="half of one"):
        pdf.read_orc(tmp_path / "half.orc")


def test_hdf_files_equal_pandas(tmp_path: Path) -> None:
    """Tables and fixed formats, frames and series, labels, columns and ranges of rows."""
    pytest.importorskip("tables")
    whole = WHOLE.set_index(pd.Index(range(10, 17), name="label"))
    cut(whole, [2, 2, 5]).to_hdf(tmp_path / "x.h5", "data", min_itemsize={"s": 10}, engine=ENGINE)
    pd.testing.assert_frame_equal(pd.read_hdf(tmp_path / "x.h5", "data"), whole, check_freq=False)
    frame = pdf.read_hdf(tmp_path / "x.h5", "data", chunksize=3)
    assert frame.npartitions == 3 and len(frame) == 7
    pd.testing.assert_frame_equal(frame.compute(), whole, check_freq=False)
    pd.testing.assert_series_equal(frame[frame.i > 2].s.compute(), whole[whole.i > 2].s)
    part = pdf.read_hdf(tmp_path / "x.h5", "data", start=2, stop=5, columns=["s"])
    pd.testing.assert_frame_equal(part.compute(), whole.iloc[2:5][["s"]])
    cut(whole, [4]).f.to_hdf(tmp_path / "f-*.h5", "f", engine=ENGINE)
    pd.testing.assert_series_equal(pdf.read_hdf(tmp_path / "f-*.h5", "f").compute(), whole.f)
    for key in "ab":
        whole.to_hdf(tmp_path / "fixed.h5", key=key)
    both = pdf.read_hdf(tmp_path / "fixed.h5", "*", chunksize=4, columns=["s", "i"])
    pd.testing.assert_frame_equal(both.compute(), pd.concat([whole, whole])[["s", "i"]])
    with pytest.raises(InputError, match="mode='w'"):
        frame.to_hdf(tmp_path / "x.h5", "data", mode="a")
    with pytest.raises(KeyError, match="'nope'"):
        pdf.read_hdf(tmp_path / "x.h5", "nope")


def test_hdf_without_pytables_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed."""
    monkeypatch.setitem(sys.modules, "tables", None)
    for call in (lambda: pdf.read_hdf(tmp_path, "x"), lambda: pdf.to_hdf(cut(WHOLE, []), tmp_path / "x.h5", "x")):
        with pytest.raises(ImportError, match="pip install tables"):
            call()


def test_tables_and_queries_of_databases_equal_pandas(tmp_path: Path) -> None:
    """By name, as text and as an expression of SQLAlchemy; one is not taken for the other."""
    sa = pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'x.db'}"
    pdf.to_sql(cut(WHOLE.set_index("i"), [3]), "t", url, engine=ENGINE)
    want = pd.read_sql("t", url, index_col="i")
    pd.testing.assert_frame_equal(pdf.read_sql_table("t", url, "i", npartitions=2).compute(engine=ENGINE), want)
    table = sa.Table("t", sa.MetaData(), autoload_with=sa.create_engine(url))
    for query in ("SELECT i, s FROM t WHERE i > 2", sa.select(table.c.i, table.c.s).where(table.c.i > 2)):
        got = pdf.read_sql_query(query, url, "i", npartitions=2).compute(engine=ENGINE)
        pd.testing.assert_frame_equal(got, want[want.index > 2][["s"]])
    with pytest.raises(InputError, match="read_sql_table"):
        pdf.read_sql_query("t", url, "i")
    with pytest.raises(InputError, match="read_sql_query"):
        pdf.read_sql_table("select * from t", url, "i")


def test_functions_do_what_methods_do(tmp_path: Path) -> None:
    """Dask's form of writing and cutting."""
    frame = cut(WHOLE[["i", "s"]], [2, 5])
    pdf.to_csv(frame, tmp_path / "x.csv", index=False, engine=ENGINE)
    pdf.to_parquet(frame, tmp_path / "x.parquet", engine=ENGINE)
    pdf.to_orc(frame, tmp_path / "x.orc", engine=ENGINE)
    pdf.to_json(frame.s, tmp_path / "x.json", engine=ENGINE)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "x.csv"), WHOLE[["i", "s"]])
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), WHOLE[["i", "s"]])
    pd.testing.assert_frame_equal(pd.read_orc(tmp_path / "x.orc"), WHOLE[["i", "s"]])
    pd.testing.assert_frame_equal(pd.read_json(tmp_path / "x.json", lines=True), WHOLE[["s"]])
    np.testing.assert_array_equal(pdf.to_records(frame.i), WHOLE.i.to_frame().to_records())
    assert [len(part) for part in pdf.repartition(frame, npartitions=2).partitions] == [2, 5]
    assert [len(part) for part in pdf.repartition(WHOLE, [0, 3, 6]).partitions] == [3, 4]
    with pytest.raises(InputError, match="divisions or npartitions"):
        pdf.repartition(frame)
    with pytest.raises(InputError, match="in to_csv"):
        pdf.to_csv(WHOLE, tmp_path / "y.csv")


def test_frames_and_series_of_dicts_equal_pandas() -> None:
    """With orientations and dtypes."""
    rows: Any = {"r": [1, 2.5], "q": [3, 4.5]}
    got = pdf.DataFrame.from_dict(rows, npartitions=2, orient="index", columns=["a", "b"])
    pd.testing.assert_frame_equal(got.compute(engine=ENGINE), pd.DataFrame.from_dict(rows, orient="index", columns=["a", "b"]))
    series = pdf.Series.from_dict({"a": 1, "b": 2}, npartitions=2, dtype="int8", name="n")
    pd.testing.assert_series_equal(series.compute(engine=ENGINE), pd.Series({"a": 1, "b": 2}, dtype="int8", name="n"))
    assert series.dtypes == np.int8

"""Frames of other libraries' tables, of functions and delayed work, and Arrow IPC files, against pandas."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import dask.array
import dask.dataframe
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import parml.dataframe as pdf
from parml import delayed
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

ENGINE = InlineEngine()
WHOLE = pd.DataFrame(
    {
        "i": range(9),
        "m": [1.0, None, 3.0] * 3,
        "s": ["a", None, "c"] * 3,
        "b": [True, False, True] * 3,
        "t": pd.date_range("2020-01-01", periods=9, freq="h", tz="Europe/Berlin"),
        "d": [decimal.Decimal("1.25"), None, decimal.Decimal("-3")] * 3,
    }
)


@pytest.mark.filterwarnings("ignore:The Dataframe Interchange Protocol")
def test_arrow_comes_in_and_goes_out() -> None:
    """Tables, batches, and whatever gives a C stream, as polars' frames do."""
    table = pa.Table.from_pandas(WHOLE, preserve_index=False)
    with_dictionary = table.append_column("c", pa.array(list("xyz") * 3).dictionary_encode())

    class Stream:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return table.__arrow_c_stream__(requested_schema)

    for given in (table, table.to_batches()[0], Stream()):
        frame = pdf.from_arrow(given, npartitions=3)
        assert frame.npartitions == 3
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), WHOLE)
    pd.testing.assert_frame_equal(pdf.from_polars(Stream(), npartitions=2).compute(engine=ENGINE), WHOLE)
    assert pdf.from_arrow(with_dictionary, npartitions=2).c.compute(engine=ENGINE).tolist() == list("xyz") * 3
    views = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.uint32()), pa.array(["x", "y"], pa.string_view()))
    assert pdf.from_arrow(pa.table({"c": views}), npartitions=2).c.compute(engine=ENGINE).dropna().tolist() == ["y", "x"]
    frame = pdf.from_pandas(WHOLE, npartitions=3)
    assert frame.to_arrow(engine=ENGINE).equals(pa.Table.from_pandas(WHOLE))
    assert pa.table(frame[["i", "s"]]).to_pydict() == WHOLE[["i", "s"]].to_dict("list") | {"s": ["a", None, "c"] * 3}
    assert frame[["i"]].__dataframe__().num_rows() == 9
    with pytest.raises(InputError, match="__arrow_c_stream__, found list"):
        pdf.from_arrow([1])


def test_polars_frames_come_in() -> None:
    """Lazy ones too; texts, categories, nulls and times have the dtypes of other Arrow tables."""
    polars = pytest.importorskip("polars")
    table = pa.Table.from_pandas(WHOLE[["i", "m", "s", "b", "t"]], preserve_index=False)
    given = polars.from_arrow(table).with_columns(c=polars.col("s").cast(polars.Categorical))
    expected = WHOLE[["i", "m", "s", "b", "t"]].assign(c=WHOLE.s)
    for one in (given, given.lazy()):
        frame = pdf.from_polars(one, npartitions=3)
        assert frame.npartitions == 3
        pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), expected)


def test_dask_frames_are_computed_by_parml() -> None:
    """Rows, labels and dtypes; steps of both libraries follow each other."""
    lazy = dask.dataframe.from_pandas(WHOLE, npartitions=3)
    frame = pdf.from_dask(lazy[lazy.i > 2])
    pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), lazy[lazy.i > 2].compute())  # Dask has texts of another dtype
    pd.testing.assert_series_equal(
        pdf.from_dask(lazy.i)[pdf.from_dask(lazy.i) > 3].compute(engine=ENGINE), WHOLE.i[WHOLE.i > 3]
    )
    assert frame[frame.s == "c"].i.sum().compute(engine=ENGINE) == 5 + 8
    assert frame[frame.b].i.sum().compute(engine=ENGINE) == 3 + 5 + 6 + 8
    with pytest.raises(InputError, match="found list"):
        pdf.from_dask([1])


def test_delayed_parts_and_functions_are_partitions() -> None:
    """Learned from the first, or as meta= says; a part unlike it is an error that says how."""
    parts = [WHOLE[:4], WHOLE[4:]]
    frame = pdf.from_delayed([delayed(part) for part in parts])
    pd.testing.assert_frame_equal((frame[frame.i > 1]).compute(engine=ENGINE), WHOLE[WHOLE.i > 1])
    assert pdf.from_delayed(frame.to_delayed(), meta=WHOLE).i.sum().compute(engine=ENGINE) == 36
    mapped = pdf.from_map(lambda start, stop, step: WHOLE[start:stop:step], [0, 4], [4, 9], args=[1])
    pd.testing.assert_frame_equal(mapped.compute(engine=ENGINE), WHOLE)
    pd.testing.assert_series_equal(mapped.m.compute(engine=ENGINE), WHOLE.m)
    other = pdf.from_delayed([delayed(WHOLE[["i"]]), delayed(WHOLE[["m"]])])
    with pytest.raises(InputError, match=r"columns \['i'\], found \['m'\]"):
        other.compute(engine=ENGINE)
    other = pdf.from_map(lambda n: pd.DataFrame({"x": [n]}), [1, "a"])
    with pytest.raises(InputError, match="'x' to have dtype int64 in each partition, found str"):
        other.compute(engine=ENGINE)
    with pytest.raises(InputError, match="found int in it"):
        pdf.from_delayed([1])


def test_arrays_and_dicts() -> None:
    """Of one dimension or two, of numpy and of Dask."""
    rows = np.arange(12.0).reshape(6, 2)
    pd.testing.assert_frame_equal(pdf.from_array(rows, npartitions=2).compute(engine=ENGINE), pd.DataFrame(rows))
    pd.testing.assert_series_equal(
        pdf.from_array(rows[:, 0], columns="x").compute(engine=ENGINE), pd.Series(rows[:, 0], name="x")
    )
    lazy = pdf.from_array(dask.array.from_array(rows, chunks=(2, 1)), columns=["a", "b"])
    assert lazy.npartitions == 3
    np.testing.assert_array_equal(lazy.compute(engine=ENGINE).to_numpy(), rows)
    pd.testing.assert_frame_equal(
        pdf.from_dict({"r": [1, 2]}, orient="index", columns=["a", "b"]).compute(engine=ENGINE),
        pd.DataFrame.from_dict({"r": [1, 2]}, orient="index", columns=["a", "b"]),
    )
    with pytest.raises(InputError, match="one or two dimensions"):
        pdf.from_array(np.zeros((1, 1, 1)))


def test_feather_files_equal_pandas(tmp_path: Path) -> None:
    """By record batches, with nulls in some of them; of a column alone no other is made."""
    whole = WHOLE.assign(n=pd.array([1, 2, None] * 3, dtype="Int64"), k=pd.Categorical(list("xyz") * 3))
    whole.to_feather(tmp_path / "1.arrow", chunksize=2)
    frame = pdf.read_feather(tmp_path / "1.arrow")
    assert frame.npartitions == 5
    assert len(frame) == 9
    pd.testing.assert_frame_equal(frame.compute(engine=ENGINE), whole.astype({"k": "str"}))
    pd.testing.assert_series_equal(frame[frame.i > 3].s.compute(engine=ENGINE), whole[whole.i > 3].s)
    table = pa.table({"i": pa.array([1, 2, None, 4], pa.int64()), "b": [True, True, True, None]})
    with pa.ipc.new_file(tmp_path / "nulls.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    pd.testing.assert_frame_equal(
        pdf.read_feather(tmp_path / "nulls.arrow").compute(engine=ENGINE), pd.read_feather(tmp_path / "nulls.arrow")
    )
    assert pdf.read_feather(tmp_path / "nulls.arrow", columns=["b"]).columns.tolist() == ["b"]
    pdf.from_pandas(WHOLE.set_index("s"), npartitions=4).to_feather(tmp_path / "labels.arrow", engine=ENGINE)
    pd.testing.assert_frame_equal(pdf.read_feather(tmp_path / "labels.arrow").compute(engine=ENGINE), WHOLE.set_index("s"))
    with pytest.raises(InputError, match=r"nulls\.arrow none named"):
        pdf.read_feather([tmp_path / "1.arrow", tmp_path / "nulls.arrow"])
    (tmp_path / "half.arrow").write_bytes((tmp_path / "1.arrow").read_bytes()[:500])
    with pytest.raises(InputError, match=r"half\.arrow"):
        pdf.read_feather(tmp_path / "half.arrow")

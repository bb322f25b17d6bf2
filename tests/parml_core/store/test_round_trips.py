"""What goes through memory that processes share comes out as it was, bit by bit, of whatever type it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from parml_core.protocol.serialize import dumps, loads
from parml_core.store import shared
from parml_core.store.shared import borrow, loan_of, share, this_place
from tests.drawn import examples

pytestmark = pytest.mark.skipif(not this_place(), reason="this system has no sealed memory files")

STRUCT = np.dtype([("a", "<i2"), ("b", ">f8", (3,)), ("c", "S5"), ("d", "M8[us]")])
DTYPES = ["?", "i1", "<u4", ">i8", "f2", "<f4", ">f8", "c16", "S7", "U3", "M8[ns]", "m8[s]", "V9", STRUCT]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda array: array,
    "Fortran": np.asfortranarray,
    "transposed": np.transpose,
    "every other": lambda array: array[::2],
    "backwards": lambda array: array[::-1],
    "a part of the columns": lambda array: array[..., 1:3],
    "broadcast": lambda array: np.broadcast_to(array, (3, *array.shape)),
}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Of any bits, from none to some ten thousand bytes, and of any strides."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.sampled_from([(0, 3), (1,), (3, 4), (700,), (40, 30), (5, 40, 7), (2000, 1)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = int(np.prod(shape))
    if dtype.kind == "U":
        array = np.array([chr(c) for c in rng.integers(32, 50_000, count)], dtype).reshape(shape)
    else:
        array = np.frombuffer(bytearray(rng.bytes(count * dtype.itemsize)), dtype).reshape(shape)
        if dtype.kind == "b":
            array = (array.view("u1") % 2).astype("?")
    array = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](array)
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    n_rows = draw(st.sampled_from([0, 1, 40, 3000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    integers = rng.integers(0, 50, n_rows)
    with_gaps = [None if i % 7 == 0 else f"text {i}" for i in integers]
    columns: dict[str, Any] = {
        "float": rng.standard_normal(n_rows),
        "also float": np.where(integers % 5 == 0, np.nan, integers),
        "integer": integers,
        "nullable": pd.array([None if i % 3 == 0 else int(i) for i in integers], "Int32"),
        "object": pd.Series(with_gaps, dtype=object),
        "string": pd.array(with_gaps, "string"),
        "categorical": pd.Categorical(with_gaps, ordered=True),
        "time": pd.date_range("2020-01-01", periods=n_rows, freq="37min", tz="Europe/Vienna"),
        "duration": pd.to_timedelta(integers, unit="s"),
        "period": pd.period_range("2020-01", periods=n_rows, freq="D"),
        "arrow text": pd.array(with_gaps, "string[pyarrow]"),
        "arrow": pd.array([None if i % 3 == 0 else int(i) for i in integers], pd.ArrowDtype(pa.int16())),
        "sparse": pd.arrays.SparseArray(np.where(integers > 45, 1.0, 0.0)),
    }
    chosen = draw(st.lists(st.sampled_from(list(columns)), min_size=1, unique=True))
    frame = pd.DataFrame({name: columns[name] for name in chosen})
    index = draw(st.sampled_from(["range", "time", "two levels"]))
    if index == "time":
        frame.index = pd.date_range("2000-01-01", periods=n_rows, freq="s")
    elif index == "two levels":
        frame.index = pd.MultiIndex.from_arrays([integers, range(n_rows)], names=["a", None])
    return frame.iloc[:: draw(st.sampled_from([1, 2]))]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Also parts of others, whose bits do not begin with a byte."""
    table = pa.table(
        {
            "number": pa.array(range(2000), pa.int32()),
            "flag": pa.array([None, True, False, True] * 500),
            "text": pa.array(["", "ä", None, "longer than that"] * 500),
            "list": pa.array([[1, 2], [], None, [3]] * 500),
            "struct": pa.array([{"x": 1.5, "y": None}] * 2000),
            "words": pa.array(["a", "b", "a", None] * 500).dictionary_encode(),
        }
    )
    start = draw(st.integers(0, 2000))
    return table.slice(start, draw(st.integers(0, 2000)))


@st.composite
def sparse(draw: st.DrawFn) -> Any:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    matrix = scipy.sparse.random(*draw(st.sampled_from([(0, 3), (50, 40), (300, 200)])), density=0.05, rng=rng)
    kind = draw(st.sampled_from(["csr", "csc", "coo", "bsr", "dok", "lil"]))
    made = matrix.asformat(kind)
    return scipy.sparse.csr_array(made) if draw(st.booleans()) else made


def through_shared_memory(value: Any, *, private: bool) -> tuple[Any, Any]:
    """The value as two readers get it, the second when the first may have written to it, and the owner is gone."""
    serialized = share(dumps(value))
    loan = loan_of(serialized)
    if loan is None:  # it has no buffer of its own
        return loads(serialized.head, serialized.buffers), loads(serialized.head, serialized.buffers)
    readers = [borrow(serialized.head, loan, keep=False, private=private) for _ in range(2)]
    del serialized
    first, second = [loads(reader.head, reader.buffers) for reader in readers]
    return first, second


@pytest.fixture(autouse=True, scope="module")
def small_values_too() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "SHARED_BYTES", 1)
        yield


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@examples(150)
@given(arrays(), st.booleans())
def test_array_is_the_same(array: np.ndarray, private: bool) -> None:
    """And writable where it was, for those who get memory of their own; the others' is not changed by that."""
    first, second = through_shared_memory(array, private=private)
    assert same_bits(first, array)
    if private:
        assert first.flags.writeable or not array.flags.writeable
    if private and first.flags.writeable and first.size:
        first.flat[:] = np.zeros(1, first.dtype)[0]
    assert same_bits(second, array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_array_is_never_in_the_pickle_itself(dtype: Any, layout: str) -> None:
    """What is in the pickle has to be copied to be used."""
    array = LAYOUTS[layout](np.zeros((2000, 30), dtype))
    serialized = dumps(array)
    assert len(serialized.head) < 1000
    assert sum(memoryview(buffer).nbytes for buffer in serialized.buffers) == array.nbytes


@examples(50)
@given(frames(), st.booleans())
def test_frame_is_the_same(frame: pd.DataFrame, private: bool) -> None:
    first, second = through_shared_memory(frame, private=private)
    pd.testing.assert_frame_equal(first, frame, check_freq=False, check_exact=True)
    if private and len(first) and first.columns[0] != "sparse":
        first.iloc[0, 0] = first.iloc[-1, 0]
    pd.testing.assert_frame_equal(second, frame, check_freq=False, check_exact=True)


@examples(50)
@given(tables(), st.booleans())
def test_table_is_the_same(table: pa.Table, private: bool) -> None:
    first, second = through_shared_memory(table, private=private)
    first.validate(full=True)
    assert first.equals(table)
    assert second.schema == table.schema


@examples(50)
@given(sparse(), st.booleans())
def test_sparse_matrix_is_the_same(matrix: Any, private: bool) -> None:
    first, second = through_shared_memory(matrix, private=private)
    assert type(first) is type(matrix)
    assert first.dtype == matrix.dtype
    assert same_bits(first.toarray(), matrix.toarray())
    if private and first.format == "csr" and first.nnz:
        first.data[:] = 0.0
    assert same_bits(second.toarray(), matrix.toarray())


@examples(20)
@given(st.lists(st.one_of(st.text(), st.integers(), st.none(), st.binary(max_size=3000)), max_size=50), arrays())
def test_objects_with_arrays_among_them_are_the_same(items: list[Any], array: np.ndarray) -> None:
    objects = np.array([*items, None], dtype=object)
    (found, found_array, found_text), _ = through_shared_memory((objects, array, {"a": items}), private=True)
    assert found.dtype == object
    assert found.tolist() == objects.tolist()
    assert same_bits(found_array, array)
    assert found_text == {"a": items}


def test_boosters_are_the_same() -> None:
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    X, y = rng.random((500, 5)), rng.random(500)
    booster = xgboost.train({"max_depth": 4, "nthread": 1}, xgboost.DMatrix(X, y), 20)
    model = lightgbm.train({"num_threads": 1, "verbose": -1}, lightgbm.Dataset(X, y), 20)
    for private in (True, False):
        for found in through_shared_memory(booster, private=private):
            assert found.save_raw() == booster.save_raw()
        for found in through_shared_memory(model, private=private):
            assert found.model_to_string() == model.model_to_string()

"""Any X and y as aligned partitions: what comes in, what is refused, and in which words."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as ss
from hypothesis import given
from hypothesis import strategies as st

from parml.data import PartitionedArray, Partitions
from parml.schema import describe, schema_of
from parml.tables import as_table, concatenate, row_count, slice_rows
from parml.testing.parts import Parts
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError
from parml_core.graph import Graph, Task


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Any:
    with request.param() as engine:
        yield engine


FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [1, 0, 1, 0, 1]})
TABLES = {
    "numpy": FRAME.to_numpy(),
    "pandas": FRAME,
    "pyarrow": pa.Table.from_pandas(FRAME),
    "record batch": pa.RecordBatch.from_pandas(FRAME),
    "scipy coo": ss.coo_matrix(FRAME.to_numpy()),
    "scipy csr array": ss.csr_array(FRAME.to_numpy()),
    "list": FRAME.to_numpy().tolist(),
}


def _dense(table: Any) -> np.ndarray:
    if ss.issparse(table):
        return table.toarray()
    return np.asarray(table.to_pandas() if isinstance(table, pa.Table) else table)


@pytest.mark.parametrize("kind", TABLES)
@given(cuts=st.lists(st.integers(0, 5), max_size=3).map(sorted))
def test_slices_of_any_table_joined_again_are_the_table(kind: str, cuts: list[int]) -> None:
    """Cutting anywhere and joining gives the same values in the same order, for every library."""
    table = as_table(TABLES[kind], "X")
    edges = [0, *cuts, 5]
    parts = [slice_rows(table, a, b) for a, b in pairwise(edges)]
    assert [row_count(part) for part in parts] == [b - a for a, b in pairwise(edges)]
    np.testing.assert_array_equal(_dense(concatenate(parts)), FRAME.to_numpy())


def test_pyarrow_slice_carries_only_its_own_rows() -> None:
    """A part of a pyarrow table pickles to the size of the part, not of the whole."""
    import pickle

    table = pa.table({"a": np.arange(100_000)})
    assert len(pickle.dumps(slice_rows(table, 0, 10))) < 10_000


@pytest.mark.parametrize("value", [None, "text", 3, np.float64(1.0), object(), np.array(1.0)])
def test_as_table_refuses_what_has_no_rows(value: Any) -> None:
    """What is no table is refused by name."""
    with pytest.raises(InputError, match="expected X as"):
        as_table(value, "X")


# --- in memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES)
def test_partitions_of_a_table_in_memory_hold_all_rows_in_order(engine: Engine, kind: str) -> None:
    """What goes in as one table comes out of the partitions as the same rows."""
    rows = Partitions.start(engine, X=TABLES[kind], y=np.arange(5))
    schema = rows.schema()
    assert (sum(schema.rows), schema.width) == (5, 2)
    parts = engine.gather(rows.fields["X"])
    np.testing.assert_array_equal(_dense(concatenate(parts)), FRAME.to_numpy())
    np.testing.assert_array_equal(concatenate(engine.gather(rows.fields["y"])), np.arange(5))


def test_partitions_of_numpy_with_y_of_another_length_raises_at_once(engine: Engine) -> None:
    """Whole tables of different lengths are refused before anything is computed."""
    with pytest.raises(InputError, match="found 5 in X and 4 in y"):
        Partitions.start(engine, X=FRAME, y=np.arange(4))


def test_partitions_without_rows_raises(engine: Engine) -> None:
    """No rows at all is an error."""
    with pytest.raises(InputError, match="expected rows to work on, found none"):
        Partitions.start(engine, X=FRAME[:0], y=np.arange(0)).schema()


# --- collections -------------------------------------------------------------------------------------------------------


def test_partitions_of_collections_keep_partitions_and_skip_none(engine: Engine) -> None:
    """Each partition of a collection is one partition; a field that is None is none."""
    rows = Partitions.start(engine, X=Parts(FRAME[:2], FRAME[2:]), y=Parts([0, 1], [1, 0, 1]), weight=None)
    assert list(rows.fields) == ["X", "y"]
    assert rows.schema().rows == (2, 3)
    assert rows.schema().names == ("a", "b")


def test_partitions_y_in_memory_is_cut_like_the_collection(engine: Engine) -> None:
    """A numpy y beside a chunked X follows the lengths of its partitions."""
    rows = Partitions.start(engine, X=Parts(FRAME[:1], FRAME[1:1], FRAME[1:]), y=np.arange(5))
    assert [len(part) for part in engine.gather(rows.fields["y"])] == [1, 0, 4]
    with pytest.raises(InputError, match="found 5 in X and 6 in y"):
        Partitions.start(engine, X=Parts(FRAME[:1], FRAME[1:]), y=np.arange(6))


def test_partitions_of_different_counts_raises_at_once(engine: Engine) -> None:
    """X in two partitions and y in three cannot be told apart row by row."""
    with pytest.raises(InputError, match=r"'X': 2, 'y': 3"):
        Partitions.start(engine, X=Parts(FRAME[:2], FRAME[2:]), y=Parts([0], [1], [1, 0, 1]))


def test_schema_rows_that_differ_in_one_partition_names_it_and_both_lengths(engine: Engine) -> None:
    """The total may agree while a partition does not: that is an error too."""
    rows = Partitions.start(engine, X=Parts(FRAME[:2], FRAME[2:]), y=Parts([0, 1, 1], [0, 1]))
    with pytest.raises(InputError, match="found 2 in X and 3 in y in partition 0"):
        rows.schema()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.array([0.0, np.nan]), "1 of 2 values NaN or infinite"),
        (np.array([np.inf, -np.inf]), "2 of 2 values NaN or infinite"),
        (pd.Series([1, None], dtype="Int64"), "1 of 2 values NaN or infinite"),
        (pd.Series(["a", "b"]), "which are no numbers"),
        (np.array(["1", "2"]), "which are no numbers"),
        (pd.Series(["1", "2"], dtype=object), "which are no numbers"),
    ],
)
def test_schema_label_that_is_no_finite_number_is_refused(engine: Engine, label: Any, words: str) -> None:
    """NaN, infinite and text labels are named with their partition before training."""
    rows = Partitions.start(engine, X=Parts(FRAME[:1], FRAME[1:3]), y=Parts(np.zeros(1), label))
    with pytest.raises(InputError, match=f"{words} in partition 1|{words}.*in partition 1"):
        rows.schema()


@pytest.mark.parametrize(
    "label", [pd.Series([True, False]), pd.Series([1, 2], dtype="Int64"), pa.chunked_array([[1, 2]]), [1, 2]]
)
def test_schema_numbers_of_any_library_are_labels(label: Any) -> None:
    """Booleans, nullable and Arrow numbers are numbers."""
    assert describe(FRAME[:2], {"y": label}).label_fault == ""


def test_schema_columns_that_differ_names_partition_and_columns() -> None:
    """Another order of columns would train on nonsense, and xgboost does not notice."""
    parts = [describe(FRAME[:2], {}), describe(FRAME[["b", "a"]], {})]
    with pytest.raises(InputError, match=r"\['a', 'b'\] in partition 0 and 2 columns \['b', 'a'\] in partition 1"):
        schema_of(parts)


def test_schema_int_beside_float_is_float() -> None:
    """A block of a file whose column has no gap reads as int: no reason to refuse it."""
    schema = schema_of([describe(FRAME, {}), describe(FRAME.astype(float), {})])
    assert (schema.kinds, schema.mixed) == (("float", "float"), True)


def test_schema_number_beside_text_names_column_and_partition() -> None:
    """A dtype that cannot be reconciled is named."""
    with pytest.raises(InputError, match=r"column 'b' to have one dtype, found int in partition 0 and .* in partition 1"):
        schema_of([describe(FRAME, {}), describe(FRAME.astype({"b": str}), {})])


@pytest.mark.parametrize("as_arrow", [False, True])
def test_schema_categories_that_differ_are_refused(as_arrow: bool) -> None:
    """Equal codes for different categories would be silently wrong."""
    one = pd.DataFrame({"c": pd.Categorical(["x", "y"], categories=["x", "y"])})
    other = pd.DataFrame({"c": pd.Categorical(["x", "y"], categories=["y", "x"])})
    parts = [pa.Table.from_pandas(part) if as_arrow else part for part in (one, one, other)]
    with pytest.raises(InputError, match=r"column 'c' to have the same categories.*partitions 0 and 2"):
        schema_of([describe(part, {}) for part in parts])
    assert schema_of([describe(part, {}) for part in parts[:2]]).columns_of_kind("category") == ["c"]


def test_schema_empty_partition_may_have_other_dtypes() -> None:
    """A partition without rows tells nothing about types: it is passed over."""
    assert schema_of([describe(FRAME[:0].astype(object), {}), describe(FRAME, {})]).kinds == ("float", "int")


def test_schema_one_dimensional_x_is_refused() -> None:
    """A column is no table."""
    with pytest.raises(InputError, match="two dimensions"):
        schema_of([describe(FRAME["a"], {})])


def test_schema_unusable_columns_are_named_with_dtype() -> None:
    """Text, dates and objects are found by column."""
    frame = FRAME.assign(t=pd.Timestamp("2013-01-01"), s="x")
    unusable = schema_of([describe(frame, {})]).unusable()
    assert list(unusable) == ["t", "s"] and unusable["t"].startswith("datetime64")


def test_partitions_error_of_a_task_surfaces_with_its_type(engine: Engine) -> None:
    """What computing a partition raises is what the caller sees."""

    class Broken(Parts):
        def __init__(self) -> None:
            self.keys = ["broken-1:0"]
            self.graph = Graph([Task("broken-1:0", int, ("no number",))])

    with pytest.raises(ValueError, match="invalid literal"):
        Partitions.start(engine, X=Broken()).schema()


def test_partitioned_array_computes_in_order_and_passes_over_empty_parts(engine: Engine) -> None:
    """Its value is the arrays of its partitions in order; it persists to the same value."""
    parts = [np.ones((2, 3)), np.empty(0), np.zeros((1, 3))]
    array = PartitionedArray(Graph([Task(f"p:{i}", parts.__getitem__, (i,)) for i in range(3)]), ["p:0", "p:1", "p:2"])
    expected = np.concatenate([parts[0], parts[2]])
    np.testing.assert_array_equal(array.compute(engine), expected)
    np.testing.assert_array_equal(array.persist(engine).compute(engine), expected)
    assert (array.npartitions, row_count(array.compute(engine))) == (3, 3)

"""Tokens: equal for equal content in every process, never equal for different content."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from parml_core.hashing import tokenize

SCALE = 3


def scaled(x: float, power: int = 1) -> float:
    return even(int(x)) * SCALE**power


def even(x: int) -> Any:
    return scaled if x else True


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: int) -> None:
        self.a = a
        self.b = {2: a}


class Meta(type):
    pass


class WithMeta(metaclass=Meta):
    def method(self) -> Any:
        return super().__init__()


class Explicit:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()

    def __parml_token__(self) -> str:
        return self.name


def catalogue() -> dict[str, Any]:
    """One of everything; made anew at each call, so that nothing is equal by identity."""
    X = np.random.RandomState(0).rand(60, 3)
    y = (X[:, 0] > 0.5).astype(int)
    fitted = [
        LogisticRegression().fit(X, y),
        RandomForestClassifier(3, random_state=0).fit(X, y),
        GradientBoostingClassifier(n_estimators=2, random_state=0).fit(X, y),
        make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), LogisticRegression()).fit(X, y),
    ]
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    frame = pd.DataFrame(
        {
            "int": [1, 2, 3],
            "text": ["x", None, "z"],
            "object": [[1], {"a": 2}, 3],
            "category": pd.Categorical(["u", "v", "u"]),
            "time": pd.to_datetime(["2020", "2021", "2022"]).tz_localize("Europe/Zurich"),
            "delta": pd.to_timedelta([1, 2, 3], unit="s"),
            "period": pd.period_range("2020", periods=3, freq="M"),
            "interval": pd.interval_range(0, 3),
            "sparse": pd.arrays.SparseArray([0, 1, 0]),
            "masked": pd.array([1, None, 3], dtype="Int64"),
            "bool": pd.array([True, None, False], dtype="boolean"),
            "arrow": pd.array([1, 2, None], dtype="int64[pyarrow]"),
            "python text": pd.array(["a", "b", None], dtype=pd.StringDtype("python")),
        }
    )
    table = pa.table(
        {
            "int": [1, None],
            "text": ["x", None],
            "list": [[1], None],
            "struct": [{"a": 1}, None],
            "dictionary": pa.array(["a", "b"]).dictionary_encode(),
            "decimal": [decimal.Decimal("1.5"), None],
            "bool": [True, None],
            "time": pa.array([1, None], pa.timestamp("ns", "UTC")),
            "half": pa.array([np.float16(1), None], pa.float16()),
            "null": pa.nulls(2),
            "view": pa.array(["a", None], pa.string_view()),
            "date": pa.array([1, None], pa.date32()),
        }
    )
    values = [
        None, True, 1, -(10**30), 1.0, float("nan"), float("inf"), 1j, "é\udc80", "", b"x", bytearray(b"x"), ...,
        NotImplemented, [1, [2]], (1,), [], (), {}, set(), frozenset(), {"a": {1, 2}}, {"a", "b", ("d", frozenset("xyz"))},
        range(3), slice(1, 2), X, X[::2, ::-1], np.array(3), np.empty((0, 3)), np.array([1, "a", None], dtype=object),
        np.array(["2020"], "M8[D]"), np.zeros(3, dtype=[("a", "i1"), ("b", "f8")]),
        np.zeros(3, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array(["a", "bb"]), np.array([1.1], dtype="g"), np.array(["a", "b" * 40], dtype=np.dtypes.StringDType()),
        np.ones(3, "f2"), np.ones(3, ">f8"), np.ma.array([1, 2], mask=[0, 1]), np.float64(2), np.datetime64("2020"),
        np.zeros(1, dtype=[("a", "i1")])[0], np.dtype("f8"), np.dtype(("i4", (2,))), np.add, np.sum, memoryview(b"abc"),
        frame, *(frame[name] for name in frame), frame.index, frame.columns, pd.Index([1, 2, 3], name="n"),
        pd.MultiIndex.from_product([[1, 2], ["a"]], names=["x", "y"]), pd.date_range("2020", periods=3, tz="UTC"),
        pd.CategoricalIndex(["a"]), pd.Timestamp("2020", tz="UTC"), pd.NaT, pd.NA, pd.offsets.MonthEnd(2),
        table, *table.columns, table.schema, pa.scalar(1), pa.int8(),
        sparse.csr_matrix(X > 0.5), sparse.csc_array(X), sparse.coo_array(X), sparse.dia_matrix(np.eye(3)),
        sparse.lil_matrix(np.eye(3)), sparse.dok_matrix(np.eye(3)),
        scaled, even, lambda x: x + 1, functools.partial(scaled, power=2), functools.lru_cache(scaled), len, [1].append,
        str.upper, random.Random(3).random, np.random.default_rng(5).normal, Point, Colour, WithMeta, LogisticRegression,
        Colour.RED, Point(1), Slotted(1), WithMeta(), Explicit("e"), list[int],
        pathlib.PurePosixPath("/a"), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        datetime.timedelta(1), decimal.Decimal("1.5"), uuid.UUID(int=3), re.compile("a"),
        random.Random(3), np.random.default_rng(0), np.random.RandomState(0), np.random.SeedSequence(3),
        collections.deque([1]), collections.defaultdict(list, a=[1]), collections.OrderedDict(a=1), collections.Counter("aab"),
        LogisticRegression(), LogisticRegression(C=2), *fitted, cyclic,
    ]  # fmt: skip
    return {f"{number} {type(value).__name__}": value for number, value in enumerate(values)}


def test_token_of_equal_content_is_equal_in_every_process() -> None:
    """Two other processes with other hash seeds, and everything made twice in each."""

    def tokens_under(seed: str) -> Any:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-W", "ignore", __file__], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    first = tokens_under("0")
    assert [name for name, (one, two) in first.items() if one != two] == []
    assert tokens_under("1") == first


def test_token_of_different_content_is_different() -> None:
    """No two things of the catalogue share a token."""
    names = collections.defaultdict(list)
    for name, value in catalogue().items():
        names[tokenize(value)].append(name)
    assert [same for same in names.values() if len(same) > 1] == []


@pytest.mark.parametrize(
    "make",
    [object, threading.Lock, lambda: (i for i in ())],
    ids=["object", "lock", "generator"],
)
def test_token_of_what_has_no_content_is_unique(make: Callable[[], Any]) -> None:
    """Even for the same object, and inside of others: twice the work rather than wrong work."""
    value = make()
    assert tokenize(value) != tokenize(value)
    assert tokenize({"a": [value]}) != tokenize({"a": [value]})


def test_token_is_32_hexadecimal_digits() -> None:
    """Also of nothing."""
    assert re.fullmatch("[0-9a-f]{32}", tokenize())
    assert tokenize() != tokenize(()) != tokenize(((),))


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(a=_PLAIN, b=_PLAIN)
def test_token_of_plain_values_is_equal_exactly_where_their_text_is(a: Any, b: Any) -> None:
    """repr tells builtins apart (with the order of dicts)."""
    assert (tokenize(a) == tokenize(b)) == (repr(a) == repr(b))
    assert tokenize(a) == tokenize(eval(repr(a), {"nan": float("nan"), "inf": float("inf")}))


@given(parts=st.lists(st.text(), max_size=4), cut=st.integers(0, 4))
def test_token_depends_on_where_values_end(parts: list[str], cut: int) -> None:
    """("ab", "c") is not ("a", "bc"), side by side and inside a list."""
    other = ["".join(parts[:cut]), *parts[cut:]]
    assert (tokenize(*parts) == tokenize(*other)) == (parts == other)
    assert (tokenize(parts) == tokenize(other)) == (parts == other)


def test_token_of_a_dict_depends_on_its_order_and_that_of_a_set_does_not() -> None:
    """The order of a dict is visible to whoever gets it."""
    assert tokenize({"a": 1, "b": 2}) != tokenize({"b": 2, "a": 1})
    assert tokenize({3, 1, 2}) == tokenize({2, 3, 1})


def test_token_of_an_object_ignores_the_order_of_its_attributes() -> None:
    """Which depends on how it came to be."""
    one, two = Point(1, ["a"]), Point.__new__(Point)
    two.tags, two.x = ["a"], 1
    assert tokenize(one) == tokenize(two) != tokenize(Point(1, ["b"]))


@given(
    array=numpy_st.arrays(
        numpy_st.integer_dtypes()
        | numpy_st.floating_dtypes(sizes=(32, 64))
        | numpy_st.datetime64_dtypes()
        | numpy_st.unicode_string_dtypes(),
        numpy_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_token_of_an_array_ignores_its_layout(array: Any) -> None:
    """C order, Fortran order, strides and offsets of equal content are equal; shape and dtype count."""
    token = tokenize(array)
    assert tokenize(np.asfortranarray(array)) == token or array.ndim == 0
    assert tokenize(np.repeat(array, 2, axis=-1)[..., ::2]) == token if array.ndim else True
    assert tokenize(array[::-1][::-1]) == token if array.ndim else True
    assert tokenize(array[np.newaxis]) != token
    if array.size and array.dtype.kind in "iu":
        changed = array.copy()
        changed.flat[-1] ^= 1
        assert tokenize(changed) != token


def test_token_of_a_structured_array_ignores_the_gaps_between_fields() -> None:
    """What stands in them is no content."""
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    dirty = np.frombuffer(b"\x01" + b"\xff" * 7 + np.float64(2).tobytes(), dtype)
    clean = np.array([(1, 2.0)], dtype)
    assert tokenize(dirty) == tokenize(clean)
    assert dirty.tobytes() != clean.tobytes()


def test_token_of_a_large_array_needs_no_copy() -> None:
    """Neither for a contiguous one, nor (whole) for one that is not."""
    import tracemalloc

    array = np.ones((2000, 4000))
    tracemalloc.start()
    tokenize(array)
    tokenize(array.T)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes // 4


def test_token_of_a_masked_column_ignores_what_lies_under_the_mask() -> None:
    """For pandas and for Arrow."""
    one, two = (pd.arrays.IntegerArray(np.array([1, hidden]), np.array([False, True])) for hidden in (5, 6))
    assert tokenize(one) == tokenize(two)
    valid = pa.py_buffer(b"\x01")
    arrows = [pa.Array.from_buffers(pa.int64(), 2, [valid, pa.py_buffer(np.array([1, hidden]))]) for hidden in (5, 6)]
    assert arrows[0].equals(arrows[1])
    assert tokenize(arrows[0]) == tokenize(arrows[1]) != tokenize(pa.array([1, 5]))


@pytest.mark.parametrize("values", [["a", "bb", None, ""], [1, None, 3, 4], [True, None, False, True], [1.5, 2.0, None, 0.0]])
def test_token_of_an_arrow_column_ignores_chunks_and_slices(values: list[Any]) -> None:
    """Equal columns are equal however their memory is cut."""
    whole = pa.chunked_array([values])
    kind = whole.type
    cut = pa.chunked_array([pa.array([*values[:2], values[0]], kind)[:2], pa.array([values[0], *values[2:]], kind)[1:]])
    assert whole.equals(cut)
    assert tokenize(whole) == tokenize(cut)
    assert tokenize(whole) != tokenize(pa.chunked_array([values[::-1]]))


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.rename(columns={"a": "c"}),
        lambda frame: frame[["b", "a"]],
        lambda frame: frame.set_index(pd.Index([5, 6, 7])),
        lambda frame: frame.astype({"a": "int32"}),
        lambda frame: frame.assign(b=["x", "y", "w"]),
        lambda frame: frame.assign(b=frame["b"].astype("category")),
    ],
    ids=["name", "order", "index", "dtype", "value", "category"],
)
def test_token_of_a_frame_sees_every_change(change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """And a copy is no change."""
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    assert tokenize(frame) == tokenize(frame.copy())
    assert tokenize(frame) != tokenize(change(frame))


def make_closure(value: Any) -> Callable[[], Any]:
    return lambda: value


def test_token_of_a_closure_is_its_code_and_what_it_closes_over() -> None:
    """Defaults, closure, nested code, and globals that the code names."""
    assert tokenize(make_closure(1)) == tokenize(make_closure(1)) != tokenize(make_closure(2))
    assert tokenize(lambda x, y=1: x) != tokenize(lambda x, y=2: x)
    assert tokenize(lambda: [lambda: 1]) != tokenize(lambda: [lambda: 2])
    source = "lambda x: x * FACTOR"
    assert tokenize(eval(source, {"FACTOR": 2})) == tokenize(eval(source, {"FACTOR": 2, "other": 1}))
    assert tokenize(eval(source, {"FACTOR": 2})) != tokenize(eval(source, {"FACTOR": 3}))


def test_token_of_local_classes_is_their_content() -> None:
    """Two classes of one name with other methods differ."""

    def make(n: int) -> type:
        class Local:
            def method(self) -> int:
                return n

        return Local

    assert tokenize(make(1)) == tokenize(make(1)) != tokenize(make(2))
    assert tokenize(make(1)()) == tokenize(make(1)()) != tokenize(make(2)())


def test_token_of_estimators_is_parameters_and_fitted_state() -> None:
    """A clone is equal, a fit is a change, and refitting on the same data is none."""
    X, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2
    model = make_pipeline(StandardScaler(), LogisticRegression())
    assert tokenize(clone(model)) == tokenize(model) != tokenize(clone(model).set_params(logisticregression__C=3))
    assert tokenize(clone(model).fit(X, y)) == tokenize(clone(model).fit(X, y)) != tokenize(model)


def test_token_of_generators_is_their_state() -> None:
    """Drawing a number changes it."""
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    assert tokenize(one) == tokenize(two)
    two.random()
    assert tokenize(one) != tokenize(two)


def test_token_method_of_a_class_decides() -> None:
    """With the class, so that another class with the same token differs; its errors are the user's."""

    class Other(Explicit):
        pass

    class Broken:
        def __parml_token__(self) -> str:
            raise RuntimeError("no token today")

    assert tokenize(Explicit("a")) == tokenize(Explicit("a")) != tokenize(Explicit("b"))
    assert tokenize(Explicit("a")) != tokenize(Other("a"))
    with pytest.raises(RuntimeError, match="no token today"):
        tokenize(Broken())


def test_token_of_very_deep_value_is_unique_and_no_error() -> None:
    """Deeper than Python recurses."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert tokenize(value) != tokenize(value)


def test_token_of_shared_parts_takes_no_exponential_time() -> None:
    """A value that holds the same part twice at each of 60 levels."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    assert tokenize(value) == tokenize(value)


def test_import_of_hashing_loads_no_array_library() -> None:
    """Names of types suffice."""
    code = "import sys, parml_core.hashing, parml_core.sizeof; print(*{'numpy', 'pandas', 'pyarrow', 'scipy'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "\n"


if __name__ == "__main__":
    again = catalogue()
    print(json.dumps({name: [tokenize(value), tokenize(again[name])] for name, value in catalogue().items()}))

"""Values, functions and exceptions survive the way to another process, or say why not."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import subprocess
import sys
import threading
import traceback
import types
import weakref
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import parml_core
from parml_core.errors import GangError, SerializationError
from parml_core.graph import Ref
from parml_core.protocol.messages import Failure
from parml_core.protocol.serialize import (
    RemoteError,
    dumps,
    dumps_call,
    dumps_function,
    exception_of,
    failure_of,
    loads,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)
arrays = hnp.arrays(
    st.sampled_from(["f8", "i4", "?", "c8", "M8[s]", "S3", "U2"]), hnp.array_shapes(min_side=0, max_side=40), fill=st.nothing()
)


def round_trip(value):
    pickled = dumps(value)
    return loads(pickled.head, [bytearray(buffer) for buffer in pickled.buffers])


# --- values ------------------------------------------------------------------------------------------------------------


@given(plain)
def test_dumps_any_plain_value_comes_back_equal(value):
    """What plain Python values are equal to does not change by a round trip."""
    assert round_trip(value) == value


@given(arrays, st.booleans())
def test_dumps_any_array_comes_back_equal_in_dtype_shape_and_order(array, fortran):
    """Arrays of any dtype, shape and memory order come back the same, sliced ones too."""
    array = np.asfortranarray(array) if fortran else array
    for view in (array, array[::2], array.T):
        back = round_trip(view)
        assert back.dtype == view.dtype
        np.testing.assert_array_equal(back, view)


def test_dumps_dataframes_come_back_equal():
    """A frame with strings, categories, dates and missing values comes back the same."""
    frame = pd.DataFrame(
        {
            "number": np.arange(1000.0),
            "text": ["a", None] * 500,
            "category": pd.Categorical(["x", "y"] * 500),
            "when": pd.date_range("2013", periods=1000, freq="h"),
        }
    )
    pd.testing.assert_frame_equal(round_trip(frame), frame)


def test_dumps_large_arrays_are_not_copied():
    """The buffers beside the head are the arrays' own memory, and loads uses the memory that it is given."""
    array = np.arange(100_000)
    pickled = dumps({"a": array})
    assert len(pickled.head) < 1000
    assert np.shares_memory(np.frombuffer(pickled.buffers[0], array.dtype), array)
    assert pickled.nbytes == len(pickled.head) + array.nbytes
    memory = bytearray(pickled.buffers[0])
    assert np.shares_memory(loads(pickled.head, [memory])["a"], np.frombuffer(memory, "u1"))


def test_loads_from_read_only_memory_gives_read_only_arrays():
    """Who gets an array in shared memory cannot write into it; who gets his own can."""
    pickled = dumps(np.arange(1000))
    data = bytes(pickled.buffers[0])
    assert not loads(pickled.head, [data]).flags.writeable
    assert loads(pickled.head, [bytearray(data)]).flags.writeable


def test_dumps_many_arrays_keeps_heads_and_buffer_counts_small():
    """A value of very many arrays stays within what one frame may hold, and a large head travels as a buffer."""
    arrays_ = [np.full(200, i) for i in range(10_000)]
    pickled = dumps(arrays_)
    assert len(pickled.buffers) <= 5000
    assert pickled.head == b""
    back = round_trip(arrays_)
    assert all((a == b).all() for a, b in zip(back, arrays_, strict=True))
    assert round_trip(b"x" * 1_000_000) == b"x" * 1_000_000


def test_dumps_class_of_main_loads_in_a_process_without_it(tmp_path):
    """An object whose class another process cannot import travels with its class."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from parml_core.protocol.serialize import dumps, dumps_call, dumps_function\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def norm(self): return factor * self.x\n"
        "factor = 3\n"
        "def norm(p): return p.norm()\n"
        "def main():\n"
        "    sys.stdout.write('\\n'.join(d.hex() for d in "
        "(dumps(Point(2)).head, dumps_call((Point(2),), {}), dumps_function(norm)[1])))\n"
        "main()\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(parml_core.__file__).parents[1])}
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=True, env=env)
    value, call, norm = (loads(bytes.fromhex(line)) for line in out.stdout.split())
    (args, kwargs) = call
    assert value.norm() == norm(args[0]) == 6
    assert kwargs == {}


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: {"a": [1, lock]}, "['a'][1]"),
        (lambda lock: lambda: lock, "<lock>"),
        (lambda lock: functools.partial(print, lock), ".args[0]"),
        (lambda lock: types.SimpleNamespace(inner=types.SimpleNamespace(lock=lock)), ".inner.lock"),
    ],
)
def test_dumps_unpicklable_part_is_named_with_its_path(make, path):
    """The error names the part that cannot be pickled, its type, where it is, and what to do."""
    value = make(threading.Lock())
    for attempt in (dumps, dumps_function, lambda v: dumps_call((v,), {})):
        with pytest.raises(SerializationError, match=r"_thread\.lock") as caught:
            attempt(value)
        assert path in str(caught.value)
        assert "make it inside the task" in str(caught.value)


def test_dumps_object_that_raises_in_reduce_and_repr_gives_a_serialization_error():
    """Whatever a user's class does, the error is one that can be read."""

    class Bad:
        def __reduce__(self):
            raise ValueError("no way")

        def __repr__(self):
            raise ValueError("no repr")

    with pytest.raises(SerializationError, match=r"Bad.*whose repr raises ValueError.*no way"):
        dumps([Bad()])


def test_dumps_nesting_too_deep_gives_a_serialization_error():
    """A recursion that pickle cannot follow ends in an error and not in a crash."""
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(SerializationError, match="recursion"):
        dumps(nested)
    while nested:  # the interpreter's own clean-up is recursive
        nested = nested.pop()


def test_loads_pickle_of_a_missing_module_says_what_is_missing():
    """A module that only the sender has is named."""
    with pytest.raises(SerializationError, match=r"no_such_module.*install"):
        loads(b"cno_such_module\nthing\n.")


# --- calls and functions -----------------------------------------------------------------------------------------------


@given(st.lists(plain | st.text().map(Ref), max_size=4), st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_dumps_call_arguments_and_refs_come_back_equal(args, kwargs):
    """Arguments come back equal, a Ref as a Ref."""
    back_args, back_kwargs = loads(dumps_call(tuple(args), kwargs))
    assert back_args == tuple(args)
    assert back_kwargs == kwargs
    assert [type(a) for a in back_args] == [type(a) for a in args]


def test_dumps_call_with_refs_is_compact():
    """A Ref costs its key and a few bytes, since millions of them travel."""
    one = dumps_call((Ref("a" * 10),), {})
    many = dumps_call(tuple(Ref(f"key-{i:06}") for i in range(100)), {})
    assert len(one) < 100
    assert len(many) < 100 * 24


def test_dumps_function_is_pickled_once_and_forgotten_with_the_function():
    """The same function object is not pickled again, and the cache keeps no function alive."""
    from parml_core.protocol import serialize

    value = 5

    def fn(x):
        return x + value

    first = dumps_function(fn)
    assert dumps_function(fn) is first
    assert loads(first[1])(1) == 6
    reference, address = weakref.ref(fn), id(fn)
    assert address in serialize._functions
    del fn
    gc.collect()
    assert reference() is None
    assert address not in serialize._functions


def test_dumps_function_recursive_closure_is_freed():
    """A function that refers to itself is not kept by the cache either."""

    def make():
        def countdown(n):
            return countdown(n - 1) if n else 0

        return countdown

    fn = make()
    assert loads(dumps_function(fn)[1])(3) == 0
    reference = weakref.ref(fn)
    del fn
    gc.collect()
    assert reference() is None


def test_dumps_function_notices_rebound_names():
    """A function passed by value goes with what its names mean now, also those that it uses through another function."""
    scope: dict = {"__name__": "__main__"}
    exec("def helper(x): return x + shift\ndef fn(x): return helper(x)\nshift = 1", scope)
    before = dumps_function(scope["fn"])
    assert loads(before[1])(1) == 2
    scope["shift"] = 10
    after = dumps_function(scope["fn"])
    assert loads(after[1])(1) == 11
    assert before[0] != after[0]


def test_dumps_function_of_a_module_registered_by_value_goes_by_value():
    """Who tells cloudpickle to pass a module by value is heeded."""
    module = types.ModuleType("only_here")
    exec("def double(x): return 2 * x", vars(module))
    sys.modules["only_here"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        _, data = dumps_function(module.double)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["only_here"]
    assert loads(data)(4) == 8


def test_dumps_function_callable_object_goes_with_its_present_state():
    """An object that is called may change between two calls: it is pickled each time."""

    class Adder:
        shift = 0

        def __call__(self, x):
            return x + self.shift

    adder = Adder()
    dumps_function(adder)
    adder.shift = 5
    assert loads(dumps_function(adder)[1])(1) == 6


def test_dumps_function_equal_functions_of_a_module_have_one_id():
    """The id is that of the bytes: the receiver keeps one copy."""
    name, data = dumps_function(np.mean)
    assert dumps_function(np.mean)[0] == name
    assert loads(data) is np.mean
    assert dumps_function(np.sum)[0] != name


# --- failures ----------------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class RaisesInStr(Exception):
    def __str__(self):
        raise RuntimeError("in str")

    __repr__ = __str__


class RaisesExitInStr(Exception):
    def __str__(self):
        raise SystemExit(1)

    __repr__ = __str__


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("I stay here")


class FailsToUnpickle(Exception):
    def __reduce__(self):
        return FailsToUnpickle._load, ()

    @staticmethod
    def _load():
        raise ImportError("not here")


class LoadsAsAnother(Exception):
    def __reduce__(self):
        return ValueError, ("another",)


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


HOSTILE = [
    ValueError("plain"),
    KeyError("a"),
    OSError(2, "no such file", "/x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    TwoArguments(7, "seven"),
    RaisesInStr(),
    RaisesExitInStr(),
    Unpicklable("why"),
    FailsToUnpickle("why"),
    LoadsAsAnother("why"),
    ValueError(threading.Lock()),
    ValueError("x" * 5_000_000),
    ValueError(np.zeros(1_000_000)),
    ValueError("\ud800 lone surrogate"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    ExceptionGroup("several", [ValueError(1), TypeError(2)]),
    type("Local", (Exception,), {})("local class"),
]


@pytest.mark.parametrize("exc", HOSTILE, ids=lambda exc: type(exc).__name__)
def test_failure_of_any_exception_is_bounded_and_comes_back_with_its_type(exc):
    """Whatever an exception does, its failure can be made, sent and raised again, in the type that it had."""
    failure = failure_of(raised(exc), key="sum-1:0", worker="work-01")
    assert failure.kind == "raised"
    assert len(failure.text.encode()) <= 70_000
    assert len(failure.traceback.encode()) <= 64 * 1024
    assert len(failure.pickled) <= 1024 * 1024
    assert "raised" in failure.traceback or "showing this exception raises" in failure.traceback
    assert type(exc).__name__ in failure.text

    import msgspec

    failure = msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=Failure)
    back = exception_of(failure)
    if type(exc).__name__ in ("RaisesInStr", "RaisesExitInStr"):
        assert type(back) is RemoteError  # its text could not be shown
    else:
        assert type(back).__name__ == type(exc).__name__
        assert "raised in task sum-1:0 on worker work-01" in back.__notes__
    shown = "".join(traceback.format_exception(back))
    assert "Traceback (most recent call last)" in shown or "showing this exception raises" in shown


def test_exception_of_shows_the_traceback_of_the_task():
    """The printed traceback holds the line of the user's code that raised, and the note."""

    def user_code():
        raise TwoArguments(7, "seven")

    try:
        user_code()
    except TwoArguments as caught:
        failure = failure_of(caught, key="k", worker="w")
    back = exception_of(failure)
    assert isinstance(back, TwoArguments)
    assert back.code == 7
    shown = "".join(traceback.format_exception(back))
    assert "in user_code" in shown
    assert "raised in task k on worker w" in shown


def test_exception_of_twice_gives_two_objects_with_one_note_each():
    """Two waiters of a failed task do not share an exception object, and notes do not pile up."""
    failure = failure_of(raised(ValueError("x")), key="k", worker="w")
    first, second = exception_of(failure), exception_of(failure)
    assert first is not second
    assert first.__notes__ == second.__notes__ == ["raised in task k on worker w"]
    again = exception_of(failure_of(raised(first), key="k", worker="w"))
    assert again.__notes__ == ["raised in task k on worker w"]


def test_exception_of_parml_errors_by_kind():
    """A failure that a kernel states by the name of an error becomes that error."""
    back = exception_of(Failure("GangError", "rank 1 was lost", key="k", worker="w"))
    assert type(back) is GangError
    assert str(back) == "rank 1 was lost"
    own = failure_of(raised(GangError("rank 2")), key="k", worker="w")
    assert own.kind == "GangError"
    assert str(exception_of(own)) == "rank 2"


@given(st.text(), st.text(), st.binary(max_size=50))
def test_exception_of_any_failure_is_an_exception(kind, text, pickled):
    """Nothing that a failure may hold keeps it from being raised."""
    back = exception_of(Failure(kind, text, text, b"\x80\x05N." if not pickled else pickled[:1], "k", "w"))
    assert isinstance(back, BaseException)


def test_failure_of_exception_whose_class_cannot_be_rebuilt_is_a_remote_error():
    """The type's name and the text survive where nothing else does."""
    failure = failure_of(raised(RaisesInStr()), key="k", worker="w")
    back = exception_of(failure)
    assert isinstance(back, RuntimeError)
    assert "RaisesInStr" in str(back)


def test_failure_of_endless_recursion_is_bounded():
    """The traceback of a RecursionError fits, and both its ends are there."""

    def endless(n):
        return endless(n + 1)

    try:
        endless(0)
    except RecursionError as caught:
        failure = failure_of(caught, key="k", worker="w")
    assert len(failure.traceback) <= 64 * 1024
    assert failure.traceback.startswith("Traceback")
    assert isinstance(exception_of(failure), RecursionError)


def test_serialized_values_pickle_with_protocol_5():
    """The head is what the standard library's pickle reads, so other tools can."""
    pickled = dumps([1, np.arange(1000)])
    assert pickle.loads(pickled.head, buffers=pickled.buffers)[0] == 1

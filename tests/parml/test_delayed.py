"""Delayed: ordinary-looking Python that runs later."""

from __future__ import annotations

import operator
import pickle
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml.dataframe as pdf
from parml import compute, delayed, persist
from parml.delayed import Delayed
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from parml_core.graph import evaluate

COUNTED: list[Any] = []


def counted(value: Any) -> Any:
    COUNTED.append(value)
    return value


def test_nested_arguments_become_their_values() -> None:
    """Delayed in lists, tuples and dicts, at any depth, and as keywords."""
    one, two = delayed(int)("1"), delayed(int)("2")
    got = delayed(lambda *args, **kwargs: (args, kwargs))([one, (two, {"k": one})], "x", last=two)
    assert got.compute() == (([1, (2, {"k": 1})], "x"), {"last": 2})


def test_delayed_value_holds_delayed_parts() -> None:
    """A list of Delayed is a Delayed of the list."""
    assert delayed([delayed(abs)(-1), 2]).compute() == [1, 2]
    assert delayed({"a": delayed(abs)(-1)})["a"].compute() == 1
    assert delayed(5).compute() == 5
    again = delayed(5)
    assert delayed(again) is again


BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
    operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift,
]  # fmt: skip


@pytest.mark.parametrize("fn", BINARY, ids=lambda fn: fn.__name__)
@given(left=st.integers(0, 20), right=st.integers(1, 5))
def test_operator_equals_that_of_the_values(fn: Any, left: int, right: int) -> None:
    """Delayed on the left, on the right, and on both sides."""
    engine, want = InlineEngine(), fn(left, right)
    assert fn(delayed(left), right).compute(engine=engine) == want
    assert fn(left, delayed(right)).compute(engine=engine) == want
    assert fn(delayed(left), delayed(right)).compute(engine=engine) == want


def test_unary_operators_indexing_attributes_and_methods() -> None:
    """What the value would answer."""
    assert (-delayed(3)).compute() == -3
    assert (~delayed(3)).compute() == ~3
    assert abs(delayed(-3)).compute() == 3
    assert delayed([1, 2, 3])[1:].compute() == [2, 3]
    assert delayed(3 + 4j).imag.compute() == 4
    assert delayed("a-b").split("-").compute() == ["a", "b"]
    assert delayed("a-b").replace("a", delayed("c")).compute() == "c-b"
    assert delayed([operator.add])[0](1, delayed(2)).compute() == 3


def test_nout_allows_unpacking() -> None:
    """As many parts as were announced."""
    quotient, rest = delayed(divmod, nout=2)(7, 2)
    assert compute(quotient, rest) == (3, 1)
    assert len(delayed(divmod, nout=2)(7, 2)) == 2
    with pytest.raises(TypeError, match="nout="):
        list(delayed(divmod)(7, 2))
    with pytest.raises(InputError, match="nout"):
        delayed(divmod, nout=-1)


def test_truth_of_a_delayed_is_refused_with_advice() -> None:
    """`if delayed:` would always be taken."""
    with pytest.raises(TypeError, match=r"compute\(\)"):
        bool(delayed(0))
    with pytest.raises(TypeError, match="cannot be changed"):
        delayed([1])[0] = 2


def test_pure_calls_are_done_once_and_others_each_time() -> None:
    """Equal pure calls have equal keys."""
    COUNTED.clear()
    pure, impure = delayed(counted, pure=True), delayed(counted)
    assert pure(1).key == pure(1).key != pure(2).key
    assert compute([pure("p"), pure("p"), impure("i"), impure("i")], engine=InlineEngine()) == (["p", "p", "i", "i"],)
    assert sorted(COUNTED) == ["i", "i", "p"]


def test_name_is_what_diagnostics_show() -> None:
    """The group of the key."""
    assert delayed(abs, name="load")(1).key.startswith("load-")
    assert delayed(abs)(1).key.startswith("abs-")
    assert delayed(lambda: 1)().key.startswith("lambda-")


def test_decorator_keeps_name_and_serves_methods() -> None:
    """A decorated function looks like itself; a decorated method gets its self."""

    class Adder:
        base = 10

        @delayed
        def add(self, x: int) -> int:
            """Add."""
            return self.base + x

    assert Adder().add(1).compute() == 11
    assert Adder.add.__name__ == "add"
    assert Adder.add.__doc__ == "Add."


def test_long_chain_is_built_and_computed() -> None:
    """No recursion over the chain, and no copy of the graph at each link."""
    value = delayed(0)
    for _ in range(5000):
        value = value + 1
    assert value.compute(engine=InlineEngine()) == 5000


def test_graph_equals_evaluate() -> None:
    """The graph of a Delayed means what evaluate says."""
    value = delayed(max)(delayed(int)("3"), delayed(int)("4")) * 2
    assert evaluate(value.__parml_graph__(), value.__parml_keys__()) == [value.compute()] == [8]


def test_persisted_delayed_is_not_computed_again() -> None:
    """What follows uses the future."""
    COUNTED.clear()
    (kept,) = persist(delayed(counted)("once"))
    assert (kept + "!").compute() == "once!"
    assert (kept + "?").compute() == "once?"
    assert delayed(counted)("other").persist().compute() == "other"
    assert COUNTED == ["once", "other"]


def test_collections_as_arguments_become_their_values() -> None:
    """A frame reaches the function as pandas, and its partitions go both ways."""
    whole = pd.DataFrame({"a": [1, 2, 3, 4]})
    frame = pdf.from_pandas(whole, npartitions=2)
    got = delayed(lambda data, total: (type(data), int(data.a.sum()), int(total)))(frame[frame.a > 1], frame.a.sum())
    assert got.compute() == (pd.DataFrame, 9, 10)
    pd.testing.assert_frame_equal(delayed(frame).compute(), whole)
    assert [len(part) for part in compute(*frame.to_delayed())] == [2, 2]


def test_exception_keeps_its_type() -> None:
    """What the function raises is raised by compute."""
    with pytest.raises(ZeroDivisionError):
        (delayed(1) / 0).compute()


def test_delayed_travels() -> None:
    """A Delayed can be pickled with its graph."""
    value = delayed(abs)(delayed(int)("-3"))
    again = pickle.loads(pickle.dumps(value))
    assert isinstance(again, Delayed)
    assert again.compute() == 3

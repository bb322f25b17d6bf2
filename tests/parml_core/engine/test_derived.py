"""What follows from the verbs, and the helpers around futures."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator

import pytest

from parml_core.engine.derived import as_completed, map_tasks
from parml_core.engine.futures import Gate, futures_to_refs, name_of, wait_for
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import WaitTimeout
from parml_core.graph import Hints, Ref
from parml_core.typing import group_of

BOUND_S = 20.0


@pytest.fixture
def engine() -> Iterator[ThreadsEngine]:
    with ThreadsEngine(2) as engine:
        yield engine


def test_as_completed_mixes_engines_and_yields_each_future_once(engine: ThreadsEngine) -> None:
    """In the order in which they end."""
    go_on = threading.Event()
    slow = engine.submit(go_on.wait, BOUND_S)
    done = InlineEngine().submit(int, "3")
    ended = as_completed([slow, done, slow], timeout_s=BOUND_S)
    assert next(ended) is done
    go_on.set()
    assert list(ended) == [slow]


def test_as_completed_timeout_raises_and_forgets_its_callbacks(engine: ThreadsEngine) -> None:
    """It says how many are missing; the tasks go on."""
    go_on = threading.Event()
    slow = engine.submit(go_on.wait, BOUND_S)
    with pytest.raises(WaitTimeout, match="1 more"):
        list(as_completed([slow, InlineEngine().submit(int)], timeout_s=0.01))
    assert not engine._anchored
    go_on.set()
    assert slow.result(BOUND_S) is True


def test_as_completed_inside_tasks_gives_the_slot_back() -> None:
    """One slot suffices for a task that waits for its own tasks."""

    def outer() -> list[int]:
        return sorted(future.result() for future in as_completed([engine.submit(int, i) for i in range(3)], timeout_s=BOUND_S))

    with ThreadsEngine(1) as engine:
        assert engine.submit(outer).result(BOUND_S) == [0, 1, 2]


def test_map_tasks_keys_share_one_group_named_after_the_function(engine: ThreadsEngine) -> None:
    """Two maps never share keys, and hints reach all tasks."""
    one, two = map_tasks(engine, abs, [-1, -2]), map_tasks(engine, abs, [-1, -2], hints=Hints(priority=1))
    assert {group_of(future.key) for future in [*one, *two]} == {"abs"}
    assert len({future.key for future in [*one, *two]}) == 4
    assert map_tasks(engine, abs, []) == []


def test_wait_for_repeated_timeouts_leave_no_callbacks_behind(engine: ThreadsEngine) -> None:
    """Polling costs nothing that stays."""
    go_on = threading.Event()
    slow = engine.submit(go_on.wait, BOUND_S)
    for _ in range(5):
        assert wait_for([slow], timeout_s=0) == ([], [slow])
    assert not engine._anchored
    go_on.set()
    assert wait_for([slow, slow], timeout_s=BOUND_S) == ([slow, slow], [])


def test_wait_for_unknown_condition_raises(engine: ThreadsEngine) -> None:
    """With the words that it knows."""
    with pytest.raises(ValueError, match="'first_error', found 'last'"):
        wait_for([], until="last")  # type: ignore[arg-type]


def test_futures_to_refs_replaces_futures_and_copies_nothing_else() -> None:
    """Containers without futures stay themselves."""
    future = InlineEngine().submit(int)
    plain = [1, (2, {"a": 3})]
    args, kwargs, found = futures_to_refs((plain, [future, {"x": (future,)}]), {"k": future, "p": plain})
    ref = Ref(future.key)
    assert args == (plain, [ref, {"x": (ref,)}])
    assert args[0] is plain and kwargs["p"] is plain
    assert kwargs["k"] == ref and found == {future.key: future}


def test_name_of_odd_callables_is_readable() -> None:
    """Partials, objects, lambdas: what a person would say, and no ':' that would end a group."""

    class Scaler:
        def __call__(self) -> None: ...

    odd = Scaler()
    odd.__name__ = "a:b"  # type: ignore[attr-defined]
    assert [name_of(fn) for fn in (functools.partial(functools.partial(max)), Scaler(), odd, lambda: 0)] == [
        "max",
        "Scaler",
        "a.b",
        "lambda",
    ]


def test_gate_lets_all_pass_once_it_is_open() -> None:
    """Before, a wait ends with its time; opening twice is no error."""
    gate = Gate()
    start = time.monotonic()
    assert gate.wait(0.01) is False
    assert time.monotonic() - start >= 0.01
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(gate.wait(BOUND_S))) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.open()
    gate.open()
    for thread in threads:
        thread.join(BOUND_S)
    assert passed == [True] * 5
    assert gate.wait(0) is True

"""What the engine of threads does beyond EngineSuite: order, memory, forks, its end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from parml_core.engine.inline import InlineEngine
from parml_core.engine.registry import current_engine, explicit_engine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import ClusterError, GangError, MissingKeyError, SerializationError, TaskCancelled
from parml_core.graph import Graph, Hints, Ref, Task

BOUND_S = 20.0


class Value:
    """Something whose end can be watched."""


class Held:
    """A task that runs until it is told to go on."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, *args: Any) -> str:
        self.started.set()
        assert self.go_on.wait(BOUND_S)
        return "held"


@pytest.fixture
def engine() -> Iterator[ThreadsEngine]:
    with ThreadsEngine(1) as engine:
        yield engine


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.go_on.set()


def gone(reference: weakref.ref[Any]) -> bool:
    """Whether an object ends within the bound: its last user may be a thread that is about to let go of it."""
    end = time.monotonic() + BOUND_S
    while reference() is not None and time.monotonic() < end:
        gc.collect()
    return reference() is None


def test_ready_tasks_start_by_priority_and_then_in_submission_order(engine: ThreadsEngine, held: Held) -> None:
    """One slot makes the order visible."""
    ran: list[str] = []
    first = engine.submit(held)
    assert held.started.wait(BOUND_S)
    futures = [
        engine.submit(ran.append, f"{priority} {number}", hints=Hints(priority=priority))
        for number in range(3)
        for priority in (0, 5, -5)
    ]
    held.go_on.set()
    engine.gather([first, *futures])
    assert ran == [f"{priority} {number}" for priority in (5, 0, -5) for number in range(3)]


def test_graph_tasks_start_in_the_order_that_saves_memory(engine: ThreadsEngine) -> None:
    """Each source is used up before the next one is made."""
    ran: list[str] = []
    tasks = [Task(f"source:{i}", ran.append, (f"source {i}",)) for i in range(4)]
    tasks += [Task(f"use:{i}", lambda _, i=i: ran.append(f"use {i}"), (Ref(f"source:{i}"),)) for i in range(4)]
    engine.gather(engine.submit_graph(Graph(tasks), [f"use:{i}" for i in range(4)]))
    assert ran == [f"{what} {i}" for i in range(4) for what in ("source", "use")]


def test_result_that_nobody_holds_is_dropped(engine: ThreadsEngine) -> None:
    """Without release, without garbage collection."""
    future = engine.submit(Value)
    reference = weakref.ref(future.result(BOUND_S))
    assert reference() is not None
    del future
    assert gone(reference)


def test_result_lives_as_long_as_a_pending_task_needs_it(engine: ThreadsEngine, held: Held) -> None:
    """And no longer."""
    source = engine.submit(Value)
    reference = weakref.ref(source.result(BOUND_S))
    holding = engine.submit(held)
    user = engine.submit(lambda value: type(value).__name__, source)
    del source
    assert held.started.wait(BOUND_S)
    gc.collect()
    assert reference() is not None
    held.go_on.set()
    assert user.result(BOUND_S) == "Value"
    assert gone(reference)
    assert holding.result() == "held"


def test_intermediate_result_is_dropped_while_the_graph_runs(engine: ThreadsEngine) -> None:
    """A chain holds two results at a time, not all."""
    values: list[weakref.ref[Value]] = []
    alive: list[int] = []

    def link(before: Value | None) -> Value:
        value = Value()
        values.append(weakref.ref(value))
        alive.append(sum(reference() is not None for reference in values))
        return value

    tasks = [Task(f"link:{i}", link, (Ref(f"link:{i - 1}") if i else None,)) for i in range(30)]
    engine.submit_graph(Graph(tasks), ["link:29"])[0].result(BOUND_S)
    assert max(alive) <= 3


def test_released_future_gives_up_its_result(engine: ThreadsEngine) -> None:
    """And says so when it is asked for it."""
    future = engine.submit(Value)
    reference = weakref.ref(future.result(BOUND_S))
    future.release()
    assert gone(reference)
    with pytest.raises(TaskCancelled, match="released"):
        future.result()


def test_pending_work_that_nobody_holds_never_runs(engine: ThreadsEngine, held: Held) -> None:
    """An interrupted computation leaves nothing behind that runs on."""
    ran: list[int] = []
    holding = engine.submit(held)
    future = engine.submit(ran.append, 1)
    kept = engine.submit(ran.append, 2)
    del future
    held.go_on.set()
    engine.gather([holding, kept])
    assert ran == [2]


def test_callback_keeps_a_task_whose_future_is_not_held(engine: ThreadsEngine, held: Held) -> None:
    """Whoever asked to be told is told."""
    told = threading.Event()
    holding = engine.submit(held)
    engine.submit(int, "3").add_done_callback(lambda future: told.set())
    gc.collect()
    held.go_on.set()
    assert told.wait(BOUND_S)
    assert holding.result() == "held"


def test_deep_pending_graph_is_dropped_without_recursion(engine: ThreadsEngine, held: Held) -> None:
    """A hundred thousand tasks that wait for each other go at once when nobody wants the last."""
    holding = engine.submit(held)
    tasks = [Task(f"deep:{i}", abs, (Ref(f"deep:{i - 1}") if i else -1,)) for i in range(100_000)]
    (last,) = engine.submit_graph(Graph(tasks), ["deep:99999"])
    del last
    held.go_on.set()
    assert holding.result(BOUND_S) == "held"


def test_erred_key_is_computed_again_when_it_is_asked_for_again(engine: ThreadsEngine) -> None:
    """Though a future of the failure is still held: a second try must not give the first one's error."""
    attempts = iter([ValueError("first"), None])

    def attempt() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "second"

    graph = Graph([Task("again-1", attempt)])
    (failed,) = engine.submit_graph(graph, ["again-1"])
    assert isinstance(failed.exception(BOUND_S), ValueError)
    assert engine.submit_graph(graph, ["again-1"])[0].result(BOUND_S) == "second"


def test_hint_threads_counts_slots() -> None:
    """A task of two threads runs alone on two slots; one of none runs beside it."""
    running: list[str] = []
    beside: list[set[str]] = []
    lock = threading.Lock()

    def work(name: str) -> None:
        with lock:
            running.append(name)
            beside.append(set(running))
        with lock:
            running.remove(name)

    with ThreadsEngine(2) as engine:
        names = [f"wide {i}" if i % 2 else f"narrow {i}" for i in range(200)]
        engine.gather([engine.submit(work, name, hints=Hints(threads=2 if "wide" in name else 1)) for name in names])
        held = Held()
        wide = engine.submit(held, hints=Hints(threads=2))
        assert held.started.wait(BOUND_S)
        assert engine.submit(int, "3", hints=Hints(threads=0)).result(BOUND_S) == 3
        held.go_on.set()
        wide.result(BOUND_S)
    assert all(len(names) == 1 for names in beside if any("wide" in name for name in names))


def test_no_more_tasks_run_at_once_than_there_are_slots() -> None:
    """Also after tasks have waited for others."""
    now, most, lock = [0], [0], threading.Lock()

    def count() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.001)  # work that leaves the interpreter lock
        with lock:
            now[0] -= 1

    def nested(engine: ThreadsEngine) -> None:
        engine.submit(int).result(BOUND_S)

    with ThreadsEngine(3) as engine:
        engine.gather([engine.submit(nested, engine) for _ in range(30)])
        engine.gather([engine.submit(count) for _ in range(60)])
    assert most[0] == 3


def test_future_of_another_engine_is_waited_for_without_a_slot(held: Held) -> None:
    """In arguments and in graphs; its error is passed on."""
    with ThreadsEngine(1) as one, ThreadsEngine(1) as other:
        pending = one.submit(held)
        future = other.submit(lambda text: text + "!", pending)
        assert other.submit(int, "1").result(BOUND_S) == 1
        held.go_on.set()
        assert future.result(BOUND_S) == "held!"
        bad = one.submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            other.submit_graph(Graph([Task("b", abs, (Ref("bad"),))], {"bad": bad}), ["b"])[0].result(BOUND_S)
        assert InlineEngine().submit(len, pending).result() == 4


def test_submit_ref_without_its_future_raises_at_once(engine: ThreadsEngine) -> None:
    """It could never run."""
    with pytest.raises(MissingKeyError, match="pass the future"):
        engine.submit(abs, Ref("x"))


def test_future_does_not_pickle(engine: ThreadsEngine) -> None:
    """It lives in this process, and says what to do instead."""
    import pickle

    with pytest.raises(SerializationError, match="pass its result"):
        pickle.dumps(engine.submit(int))


def test_callback_that_raises_is_logged(engine: ThreadsEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Never swallowed."""

    def complain(future: Any) -> None:
        raise RuntimeError("what the callback says")

    future = engine.submit(int)
    future.result(BOUND_S)
    with caplog.at_level(logging.ERROR, "parml"):
        future.add_done_callback(complain)
    assert "what the callback says" in caplog.text
    assert future.key in caplog.text


def test_interrupt_while_waiting_reaches_the_caller(engine: ThreadsEngine, held: Held) -> None:
    """Ctrl-C ends the wait and not the task."""
    future = engine.submit(held)
    assert held.started.wait(BOUND_S)
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        future.result(BOUND_S)
    held.go_on.set()
    assert future.result(BOUND_S) == "held"


def test_close_cancels_pending_tasks_and_ends_the_threads(held: Held) -> None:
    """Whoever waits learns of it; a task that runs is left to end."""
    engine = ThreadsEngine(1)
    running, pending = engine.submit(held), engine.submit(int)
    dependant = engine.submit(abs, pending)
    assert held.started.wait(BOUND_S)
    raised: list[BaseException | None] = []
    waiter = threading.Thread(target=lambda: raised.append(dependant.exception(BOUND_S)))
    waiter.start()
    threads = list(engine._threads)
    engine.close(timeout_s=0)
    waiter.join(BOUND_S)
    assert isinstance(raised[0], TaskCancelled)
    for future in (running, pending, dependant):
        with pytest.raises(TaskCancelled):
            future.result(BOUND_S)
    held.go_on.set()
    for thread in threads:
        thread.join(BOUND_S)
        assert not thread.is_alive()
    with pytest.raises(ClusterError, match="closed"):
        engine.submit(int)


def test_engine_that_is_forgotten_ends_its_threads() -> None:
    """close is polite, not necessary."""
    engine = ThreadsEngine(2)
    engine.gather([engine.submit(int) for _ in range(10)])
    threads = list(engine._threads)
    assert threads
    del engine
    gc.collect()
    for thread in threads:
        thread.join(BOUND_S)
        assert not thread.is_alive()


def test_forked_child_works_with_the_engine_and_does_not_wait_for_the_parents_tasks(engine: ThreadsEngine, held: Held) -> None:
    """The threads are not there any more: the child gets new ones, and what was pending is cancelled for it."""
    finished, pending = engine.submit(int, "7"), engine.submit(held)
    assert finished.result(BOUND_S) == 7
    assert held.started.wait(BOUND_S)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(BOUND_S))
            text = f"{engine.submit(abs, finished).result(BOUND_S)} {type(pending.exception(BOUND_S)).__name__}"
            text += f" {engine.gather([engine.submit(int, '5') for _ in range(3)])}"
            os.write(writing, text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "7 TaskCancelled [5, 5, 5]"
    os.waitpid(child, 0)
    held.go_on.set()
    assert pending.result(BOUND_S) == "held"


def test_gang_larger_than_the_pool_runs_all_ranks_together(engine: ThreadsEngine) -> None:
    """All start: they meet at a barrier, and their nested tasks find a slot."""
    barrier = threading.Barrier(5)

    def rank(number: int) -> int:
        barrier.wait(BOUND_S)
        return int(current_engine().submit(abs, -number).result(BOUND_S))

    assert engine.gather(engine.gang(rank, [(i,) for i in range(5)])) == [0, 1, 2, 3, 4]


def test_gang_whose_input_erred_raises_that_error(engine: ThreadsEngine) -> None:
    """As any task would."""
    bad = engine.submit(int, "x")
    for future in engine.gang(abs, [(1,), (bad,)]):
        with pytest.raises(ValueError, match="invalid literal"):
            future.result(BOUND_S)


def test_gang_ranks_raise_the_cause_with_their_error(engine: ThreadsEngine) -> None:
    """GangError names the rank and carries what it raised."""
    futures = engine.gang(int, [("3",), ("x",)])
    error = futures[0].exception(BOUND_S)
    assert isinstance(error, GangError)
    assert "rank 1" in str(error) and isinstance(error.__cause__, ValueError)
    assert isinstance(futures[1].exception(BOUND_S), ValueError)


def test_task_sees_its_engine_as_the_explicit_one(engine: ThreadsEngine) -> None:
    """Work that a task submits goes to the engine that runs it."""
    assert engine.submit(explicit_engine).result(BOUND_S) is engine


def test_many_threads_use_one_engine_at_once() -> None:
    """Submitting, waiting, cancelling and dropping futures from several threads at the same time leaves nothing stuck."""
    failures: list[BaseException] = []

    def use(seed: int) -> None:
        try:
            for i in range(200):
                futures = [engine.submit(pow, seed, 2) for _ in range(3)]
                chained = engine.submit(lambda *values: sum(values), *futures)
                engine.cancel([engine.submit(int)])
                del futures
                if i % 3:
                    assert chained.result(BOUND_S) == 3 * seed * seed
        except BaseException as error:
            failures.append(error)

    with ThreadsEngine(3) as engine:
        users = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
        for user in users:
            user.start()
        for user in users:
            user.join(BOUND_S)
        assert not failures
        assert not any(user.is_alive() for user in users)
        assert engine.submit(int, "1").result(BOUND_S) == 1
    assert engine._free == 3 and not engine._running and not engine._anchored

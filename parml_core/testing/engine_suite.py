"""
What every engine must do. To check an engine, derive from `EngineSuite` and give the fixture `engine`:

::

    class TestMyEngine(EngineSuite):
        unsupported = {"test_gang_ranks_run_at_the_same_time": "one thread only"}

        @pytest.fixture(scope="class")
        @classmethod
        def engine(cls):
            with MyEngine() as engine:
                yield engine

A test named in `unsupported` must fail: when the engine learns to do it, the entry has to go. The functions that tasks run
stand in this module, so that processes can import them; what they must tell the test goes through files or a socket.
"""

from __future__ import annotations

import asyncio
import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings

from parml_core.engine.base import Engine, Future
from parml_core.engine.derived import as_completed, map_tasks
from parml_core.engine.registry import current_engine, use
from parml_core.errors import CycleError, GangError, MissingKeyError, TaskCancelled, WaitTimeout
from parml_core.graph import Graph, Hints, Ref, Task, evaluate
from parml_core.testing.strategies import graphs

__all__ = ["EngineSuite", "Latch"]

BOUND_S = 30.0
"""How long anything may take; only a defect makes a test wait that long."""

_RANDOM = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Latch:
    """Tasks that call `hold` say so here, in whichever process they run, and go on when they are released."""

    def __enter__(self) -> Latch:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._server.settimeout(BOUND_S)
        self.port: int = self._server.getsockname()[1]
        self._held: dict[str, socket.socket] = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self._held):
            self.release(name)
        self._server.close()

    def await_held(self, count: int) -> list[str]:
        """Wait until `count` more tasks hold; their names."""
        names = []
        for _ in range(count):
            connection, _ = self._server.accept()
            connection.settimeout(BOUND_S)
            names.append(connection.makefile().readline().strip())
            self._held[names[-1]] = connection
        return names

    def release(self, name: str) -> None:
        self._held.pop(name).close()


def hold(port: int, name: str) -> str:
    """Tell the latch that this runs, wait until it says go on, return the name."""
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as connection:
        connection.sendall(f"{name}\n".encode())
        connection.recv(1)
    return name


def hold_blocked(port: int, name: str) -> str:
    with current_engine().blocked():
        return hold(port, name)


def hold_unless_zero(rank: int, port: int) -> int:
    if rank == 0:
        raise LookupError("rank 0 has had enough")
    hold(port, str(rank))
    return rank


def increment(value: int) -> int:
    return value + 1


def add(*values: int) -> int:
    return sum(values)


def total(values: Any) -> int:
    return sum(values.values() if isinstance(values, dict) else values)


def shout(text: str) -> str:
    return text.upper()


def nested_total(value: dict[str, Any]) -> int:
    return int(sum(value["list"]) + value["tuple"][0][0] + value["plain"])


def describe(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def divide(a: float, b: float) -> float:
    return a / b


def count_call(path: str, value: int = 0) -> int:
    """Leave a line in a file; return how many there are."""
    with open(path, "a") as file:
        file.write(".\n")
    return value


def fail_at_first(path: str, times: int) -> str:
    count_call(path)
    if len(Path(path).read_text().split()) <= times:
        raise ConnectionResetError(f"try again, at most {times} times")
    return "well"


class UnpicklableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("this exception does not travel")


def raise_unpicklable() -> None:
    raise UnpicklableError("the original text")


def raise_exit() -> None:
    raise SystemExit(3)


def fibonacci(n: int) -> int:
    """Recursive through the engine, waiting inside of tasks; far more tasks wait than there are slots."""
    if n < 2:
        return n
    engine = current_engine()
    parts = [engine.submit(fibonacci, n - 1), engine.submit(fibonacci, n - 2)]
    return parts[0].result(BOUND_S) + parts[1].result(BOUND_S)


def gather_in_task(n: int) -> int:
    engine = current_engine()
    return sum(engine.gather(map_tasks(engine, increment, range(n))))


def name_of_current_engine() -> str:
    return current_engine().name


def rank_sum(rank: int, size: int, extra: list[int]) -> tuple[int, int]:
    return rank, size + sum(extra)


def slots_of(engine: Engine) -> int:
    return sum(worker.nthreads for worker in engine.workers())


def fill(engine: Engine, latch: Latch) -> list[Future[str]]:
    """Tasks that hold every slot of the engine."""
    held = [engine.submit(hold, latch.port, f"filler {number}") for number in range(slots_of(engine))]
    latch.await_held(len(held))
    return held


class EngineSuite:
    """Behaviour that all engines share."""

    unsupported: ClassVar[dict[str, str]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        raise NotImplementedError("derive from EngineSuite and give the fixture `engine`")

    @pytest.fixture(autouse=True)
    def _expected_failure(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        reason = self.unsupported.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
            monkeypatch.setitem(globals(), "BOUND_S", 0.3)  # what never comes need not be awaited for long

    # --- submit ---

    def test_submit_function_with_arguments_returns_its_result(self, engine: Engine) -> None:
        """Positional and keyword arguments reach the function."""
        assert engine.submit(describe, 1, "a", key=[2]).result(BOUND_S) == ((1, "a"), {"key": [2]})

    def test_submit_futures_as_arguments_become_results(self, engine: Engine) -> None:
        """A future stands for its result, whether it has ended or not."""
        one = engine.submit(increment, 0)
        assert engine.submit(add, one, engine.submit(increment, one), 10).result(BOUND_S) == 13

    def test_submit_futures_inside_containers_become_results(self, engine: Engine) -> None:
        """Futures are found inside lists, tuples and dict values, at any depth."""
        one, two = engine.submit(increment, 0), engine.submit(increment, 1)
        future = engine.submit(nested_total, value={"list": [one, 5, two], "tuple": ((two,),), "plain": 100})
        assert future.result(BOUND_S) == 110

    def test_submit_string_equal_to_a_key_stays_a_string(self, engine: Engine) -> None:
        """Only a Ref or Future is a reference."""
        future = engine.submit(increment, 0)
        assert engine.submit(shout, future.key).result(BOUND_S) == future.key.upper()

    def test_submit_same_call_twice_gives_two_tasks(self, engine: Engine, tmp_path: Path) -> None:
        """A call may have effects, so it is made as often as it is asked for."""
        path = str(tmp_path / "calls")
        engine.gather([engine.submit(count_call, path), engine.submit(count_call, path)])
        assert len(Path(path).read_text().split()) == 2

    def test_submit_large_value_comes_back_equal(self, engine: Engine) -> None:
        """Megabytes travel both ways unharmed."""
        value = bytes(range(256)) * 20_000
        args, _ = engine.submit(describe, value).result(BOUND_S)
        assert args[0] == value

    def test_submit_pending_argument_does_not_block(self, engine: Engine) -> None:
        """submit returns while what it needs is still held up."""
        with Latch() as latch:
            slow = engine.submit(hold, latch.port, "slow")
            future = engine.submit(shout, slow)
            latch.await_held(1)
            assert future.status == "pending"
            latch.release("slow")
            assert future.result(BOUND_S) == "SLOW"

    # --- graphs ---

    @_RANDOM
    @given(case=graphs())
    def test_graph_random_equals_evaluate(self, engine: Engine, case: Any) -> None:
        """The meaning of a graph is what `evaluate` says."""
        graph, wants = case
        assert engine.gather(engine.submit_graph(graph, wants)) == evaluate(graph, wants)

    @_RANDOM
    @given(case=graphs(may_raise=True))
    def test_graph_random_with_errors_fails_exactly_where_evaluate_fails(self, engine: Engine, case: Any) -> None:
        """A wanted key has evaluate's result, or raises where evaluate raises."""
        graph, wants = case
        for key, future in zip(wants, engine.submit_graph(graph, wants), strict=True):
            try:
                expected = evaluate(graph, [key])[0]
            except ValueError:
                with pytest.raises(ValueError, match="boom"):
                    future.result(BOUND_S)
            else:
                assert future.result(BOUND_S) == expected

    def test_graph_wants_keep_their_order_and_repeat(self, engine: Engine) -> None:
        """One future for each wanted key, in that order."""
        graph = Graph([Task("wants-1:0", int, ("1",)), Task("wants-1:1", increment, (Ref("wants-1:0"),))])
        futures = engine.submit_graph(graph, ["wants-1:1", "wants-1:0", "wants-1:1"])
        assert engine.gather(futures) == [2, 1, 2]
        assert [future.key for future in futures] == ["wants-1:1", "wants-1:0", "wants-1:1"]

    def test_graph_without_wants_runs_nothing(self, engine: Engine, tmp_path: Path) -> None:
        """What nobody wants is not computed."""
        path = tmp_path / "calls"
        assert engine.submit_graph(Graph([Task("unwanted-1", count_call, (str(path),))]), []) == []
        engine.submit(increment, 0).result(BOUND_S)
        assert not path.exists()

    def test_graph_with_futures_uses_their_results(self, engine: Engine) -> None:
        """Tasks refer to futures of the graph by key, and a future may be wanted itself."""
        future = engine.submit(increment, 9)
        graph = Graph([Task("uses-future-1", add, (Ref(future.key), 5))], {future.key: future})
        assert engine.gather(engine.submit_graph(graph, ["uses-future-1", future.key])) == [15, 10]

    def test_graph_missing_key_raises_at_once(self, engine: Engine) -> None:
        """The caller of submit_graph learns of it, and by name."""
        with pytest.raises(MissingKeyError, match="nowhere"):
            engine.submit_graph(Graph([Task("lost-1", increment, (Ref("nowhere"),))]), ["lost-1"])
        with pytest.raises(MissingKeyError, match="never-named"):
            engine.submit_graph(Graph(), ["never-named"])

    def test_graph_cycle_raises_at_once(self, engine: Engine) -> None:
        """The error shows the cycle."""
        graph = Graph([Task("ring-a", increment, (Ref("ring-b"),)), Task("ring-b", increment, (Ref("ring-a"),))])
        with pytest.raises(CycleError, match=r"ring-a.*ring-b"):
            engine.submit_graph(graph, ["ring-a"])

    def test_graph_fan_out_and_in_of_thousands_is_right(self, engine: Engine) -> None:
        """One source, 2000 tasks on it, one that needs all of these."""
        branches = [Task(f"branch-1:{i}", add, (Ref("source-1"), i)) for i in range(2000)]
        end = Task("join-1", total, ([Ref(branch.key) for branch in branches],))
        graph = Graph([Task("source-1", increment, (0,)), *branches, end])
        assert engine.submit_graph(graph, ["join-1"])[0].result(BOUND_S) == sum(range(1, 2001))

    def test_graph_chain_of_ten_thousand_does_not_recurse(self, engine: Engine) -> None:
        """Depth is no limit."""
        links = [Task(f"link-1:{i}", increment, (Ref(f"link-1:{i - 1}") if i else 0,)) for i in range(10_000)]
        assert engine.submit_graph(Graph(links), ["link-1:9999"])[0].result(BOUND_S) == 10_000

    def test_graph_shared_dependency_runs_once(self, engine: Engine, tmp_path: Path) -> None:
        """However many tasks refer to a key."""
        path = str(tmp_path / "calls")
        users = [Task(f"user-1:{i}", add, (Ref("shared-1"), i)) for i in range(5)]
        graph = Graph([Task("shared-1", count_call, (path, 10)), *users])
        assert engine.gather(engine.submit_graph(graph, [user.key for user in users])) == [10, 11, 12, 13, 14]
        assert len(Path(path).read_text().split()) == 1

    def test_graph_key_that_is_held_is_not_computed_again(self, engine: Engine, tmp_path: Path) -> None:
        """Equal keys are equal work, over several graphs too."""
        path = str(tmp_path / "calls")
        graph = Graph([Task("held-1", count_call, (path, 1)), Task("on-held-1", increment, (Ref("held-1"),))])
        held = engine.submit_graph(graph, ["held-1"])
        again = engine.submit_graph(graph, ["on-held-1", "held-1"])
        assert engine.gather([*again, *held]) == [2, 1, 1]
        assert len(Path(path).read_text().split()) == 1

    # --- errors ---

    def test_error_keeps_type_text_and_place(self, engine: Engine) -> None:
        """The user's exception comes as it was raised, and says in which task."""
        future = engine.submit(divide, 1, 0)
        with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
            future.result(BOUND_S)
        assert any(future.key in note for note in caught.value.__notes__)
        assert future.status == "erred"

    def test_error_reaches_dependants_and_names_its_cause(self, engine: Engine) -> None:
        """All that needs an erred task fails with the same error, which names the first."""
        cause = engine.submit(divide, 1, 0)
        middle = engine.submit(increment, cause)
        last = engine.submit(total, [middle])
        with pytest.raises(ZeroDivisionError) as caught:
            last.result(BOUND_S)
        assert any(cause.key in note for note in caught.value.__notes__)
        assert middle.status == "erred"

    def test_error_of_one_task_leaves_others_alone(self, engine: Engine) -> None:
        """Independent tasks of the same graph have results."""
        graph = Graph([Task("bad-1", divide, (1, 0)), Task("good-1", divide, (1, 2))])
        bad, good = engine.submit_graph(graph, ["bad-1", "good-1"])
        assert good.result(BOUND_S) == 0.5
        assert isinstance(bad.exception(BOUND_S), ZeroDivisionError)

    def test_error_is_told_by_exception_and_none_otherwise(self, engine: Engine) -> None:
        """`exception` waits and returns."""
        assert isinstance(engine.submit(divide, 1, 0).exception(BOUND_S), ZeroDivisionError)
        assert engine.submit(divide, 1, 1).exception(BOUND_S) is None

    def test_error_raised_twice_does_not_grow(self, engine: Engine) -> None:
        """Asking again gives the same traceback, not a longer one."""

        def depth_of(error: BaseException) -> int:
            trace, depth = error.__traceback__, 0
            while trace is not None:
                trace, depth = trace.tb_next, depth + 1
            return depth

        future, depths = engine.submit(divide, 1, 0), []
        for _ in range(3):
            with pytest.raises(ZeroDivisionError) as caught:
                future.result(BOUND_S)
            depths.append(depth_of(caught.value))
        assert len(set(depths)) == 1

    def test_error_that_does_not_pickle_still_tells_its_text(self, engine: Engine) -> None:
        """Where it cannot travel, its words do."""
        error = engine.submit(raise_unpicklable).exception(BOUND_S)
        assert "the original text" in str(error)

    def test_error_system_exit_ends_the_task_and_not_the_engine(self, engine: Engine) -> None:
        """Whatever a task raises belongs to its future."""
        with pytest.raises(SystemExit):
            engine.submit(raise_exit).result(BOUND_S)
        assert engine.submit(increment, 1).result(BOUND_S) == 2

    def test_retries_until_it_works(self, engine: Engine, tmp_path: Path) -> None:
        """A task is tried as often as its hints allow, and no more."""
        hints = Hints(retries=2)
        assert engine.submit(fail_at_first, str(tmp_path / "a"), 2, hints=hints).result(BOUND_S) == "well"
        with pytest.raises(ConnectionResetError):
            engine.submit(fail_at_first, str(tmp_path / "b"), 3, hints=hints).result(BOUND_S)
        assert len((tmp_path / "b").read_text().split()) == 3

    # --- values, waiting ---

    def test_scatter_gives_finished_futures_that_serve_as_arguments(self, engine: Engine) -> None:
        """Values come back equal, and tasks get them."""
        futures = engine.scatter([[1, 2], {"a": 3}], replicas=0)
        assert engine.gather(futures) == [[1, 2], {"a": 3}]
        assert engine.submit(total, futures[0]).result(BOUND_S) == 3
        assert [future.status for future in futures] == ["finished", "finished"]

    def test_gather_keeps_order_and_raises_the_first_error(self, engine: Engine) -> None:
        """First in the order of the futures, not in time."""
        assert engine.gather([]) == []
        assert engine.gather([engine.submit(increment, i) for i in range(20)]) == list(range(1, 21))
        futures: list[Future[Any]] = [engine.submit(increment, 1), engine.submit(divide, 1, 0), engine.submit(shout, 5)]  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            engine.gather(futures)

    def test_wait_all_returns_all_in_order(self, engine: Engine) -> None:
        """Erred futures are done too."""
        futures = [engine.submit(divide, 1, i) for i in range(3)]
        done, pending = engine.wait(futures, timeout_s=BOUND_S)
        assert (done, pending) == (futures, [])

    def test_wait_first_returns_while_others_are_pending(self, engine: Engine) -> None:
        """One that ends is enough; a timeout is no error."""
        with Latch() as latch:
            slow = engine.submit(hold, latch.port, "slow", hints=Hints(threads=0))
            latch.await_held(1)
            assert engine.wait([slow], timeout_s=0.01) == ([], [slow])
            quick = engine.submit(increment, 0)
            done, pending = engine.wait([slow, quick], until="first", timeout_s=BOUND_S)
            assert (done, pending) == ([quick], [slow])

    def test_wait_first_error_returns_at_the_error(self, engine: Engine) -> None:
        """A result does not end the wait, an error does."""
        with Latch() as latch:
            slow = engine.submit(hold, latch.port, "slow", hints=Hints(threads=0))
            latch.await_held(1)
            good = engine.submit(increment, 0)
            bad = engine.submit(divide, good, 0)
            done, pending = engine.wait([slow, good, bad], until="first_error", timeout_s=BOUND_S)
            assert (done, pending) == ([good, bad], [slow])

    def test_result_timeout_raises_and_the_task_goes_on(self, engine: Engine) -> None:
        """WaitTimeout is a TimeoutError, and says nothing about the task."""
        with Latch() as latch:
            future = engine.submit(hold, latch.port, "slow")
            latch.await_held(1)
            with pytest.raises(WaitTimeout):
                future.result(0.01)
            with pytest.raises(TimeoutError):
                future.exception(0)
            latch.release("slow")
            assert future.result(BOUND_S) == "slow"

    def test_callback_is_called_once_with_the_future(self, engine: Engine) -> None:
        """Before the end or after it; a callback that raises harms nobody."""
        calls: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

        def complain(future: Future[Any]) -> None:
            raise RuntimeError("a callback that raises")

        future = engine.submit(increment, 0)
        future.add_done_callback(complain)
        future.add_done_callback(calls.put)
        assert calls.get(timeout=BOUND_S) is future
        assert future.result(BOUND_S) == 1
        future.add_done_callback(calls.put)
        assert calls.get(timeout=BOUND_S) is future
        done, _ = engine.wait([engine.submit(increment, future)], timeout_s=BOUND_S)
        assert done[0].result() == 2
        assert calls.empty()

    def test_await_gives_results_and_errors(self, engine: Engine) -> None:
        """The same futures serve asynchronous code."""

        async def main() -> list[Any]:
            futures = [engine.submit(increment, i) for i in range(10)]
            values: list[Any] = list(await asyncio.gather(*(_awaited(future) for future in futures)))
            with pytest.raises(ZeroDivisionError):
                await engine.submit(divide, 1, 0)
            return [*values, await futures[0]]

        assert asyncio.run(asyncio.wait_for(main(), BOUND_S)) == [*range(1, 11), 1]

    def test_as_completed_yields_in_order_of_completion(self, engine: Engine) -> None:
        """Whoever is released first comes first."""
        with Latch() as latch:
            with use(engine):
                futures = {name: engine.submit(hold, latch.port, name, hints=Hints(threads=0)) for name in ("a", "b", "c")}
                assert sorted(latch.await_held(3)) == ["a", "b", "c"]
                ended = as_completed(futures.values(), timeout_s=BOUND_S)
                for name in ("b", "c", "a"):
                    latch.release(name)
                    assert next(ended).result() == name
            assert list(ended) == []

    def test_map_tasks_runs_one_task_for_each_item(self, engine: Engine) -> None:
        """Items that are futures become results."""
        two = engine.submit(increment, 1)
        futures = map_tasks(engine, pow, [two, 3, 4, 5], [2, two, 2])
        assert engine.gather(futures) == [4, 9, 16]

    # --- cancel, release ---

    def test_cancel_pending_task_takes_its_dependants_along(self, engine: Engine, tmp_path: Path) -> None:
        """They raise TaskCancelled and never run; what is not cancelled does."""
        path = tmp_path / "calls"
        with Latch() as latch:
            held = fill(engine, latch)
            waiting = engine.submit(count_call, str(path))
            dependant = engine.submit(increment, waiting)
            other = engine.submit(increment, 1)
            engine.cancel([waiting])
            with pytest.raises(TaskCancelled):
                waiting.result(BOUND_S)
            with pytest.raises(TaskCancelled):
                dependant.result(BOUND_S)
            assert waiting.cancelled() and dependant.cancelled()
            for number in range(len(held)):
                latch.release(f"filler {number}")
            assert other.result(BOUND_S) == 2
        assert not path.exists()

    def test_cancel_running_task_drops_its_result(self, engine: Engine) -> None:
        """Its future ends at once; the engine goes on."""
        with Latch() as latch:
            future = engine.submit(hold, latch.port, "running")
            latch.await_held(1)
            engine.cancel([future])
            with pytest.raises(TaskCancelled):
                future.result(BOUND_S)
        assert engine.submit(increment, 1).result(BOUND_S) == 2

    def test_release_of_one_future_leaves_another_of_the_same_key(self, engine: Engine) -> None:
        """Each future is a claim of its own."""
        graph = Graph([Task("claimed-1", increment, (1,))])
        first, second = engine.submit_graph(graph, ["claimed-1", "claimed-1"])
        assert first.result(BOUND_S) == 2
        first.release()
        del first
        assert engine.submit(increment, second).result(BOUND_S) == 3

    # --- workers, nesting ---

    def test_workers_are_sorted_and_have_threads(self, engine: Engine) -> None:
        """Ids are unique."""
        workers = engine.workers()
        assert workers == sorted(workers, key=lambda worker: worker.name)
        assert all(worker.nthreads >= 1 for worker in workers)
        assert len({worker.id for worker in workers}) == len(workers) > 0

    def test_locate_tells_who_holds_a_result(self, engine: Engine) -> None:
        """A worker's id where there is a result, nothing where there is none."""
        good, bad = engine.submit(increment, 1), engine.submit(divide, 1, 0)
        engine.wait([good, bad], timeout_s=BOUND_S)
        holders, nobody = engine.locate([good, bad])
        assert holders and set(holders) <= {worker.id for worker in engine.workers()}
        assert nobody == ()

    def test_nested_tasks_deeper_than_the_slots_end(self, engine: Engine) -> None:
        """Tasks that wait for tasks give their slots back."""
        with use(engine):
            assert engine.submit(fibonacci, 9).result(BOUND_S) == 34

    def test_nested_gather_in_every_slot_ends(self, engine: Engine) -> None:
        """Also where all slots wait at the same time."""
        outer = map_tasks(engine, gather_in_task, [3] * 2 * slots_of(engine))
        assert engine.gather(outer) == [6] * len(outer)

    def test_nested_code_sees_its_own_engine(self, engine: Engine) -> None:
        """Inside a task, work goes to the cluster that runs it."""
        assert engine.submit(name_of_current_engine).result(BOUND_S) == engine.name

    def test_blocked_inside_tasks_frees_their_slots(self, engine: Engine) -> None:
        """As many tasks as there are slots only wait, and another one runs."""
        with Latch() as latch:
            waiting = [engine.submit(hold_blocked, latch.port, f"waits {i}") for i in range(slots_of(engine))]
            names = latch.await_held(len(waiting))
            assert engine.submit(increment, 1).result(BOUND_S) == 2
            assert [future.status for future in waiting] == ["pending"] * len(waiting)
            for name in names:
                latch.release(name)
            assert engine.gather(waiting) == sorted(names)

    def test_blocked_outside_of_tasks_does_nothing(self, engine: Engine) -> None:
        """And may be nested."""
        with engine.blocked(), engine.blocked():
            assert engine.submit(increment, 1).result(BOUND_S) == 2

    # --- gangs ---

    def test_gang_of_one_rank_returns_its_result(self, engine: Engine) -> None:
        """Futures among the arguments reach the rank as results."""
        extra = engine.scatter([[1, 2]])[0]
        (future,) = engine.gang(rank_sum, [(0, 10, extra)], timeout_s=BOUND_S)
        assert future.result(BOUND_S) == (0, 13)

    def test_gang_ranks_run_at_the_same_time(self, engine: Engine) -> None:
        """All have started before any ends, in the places they were given."""
        where = [[engine.workers()[0].id], [engine.workers()[-1].id]]
        with Latch() as latch:
            futures = engine.gang(hold, [(latch.port, "rank 0"), (latch.port, "rank 1")], where=where, timeout_s=BOUND_S)
            assert sorted(latch.await_held(2)) == ["rank 0", "rank 1"]
            latch.release("rank 0")
            latch.release("rank 1")
            assert engine.gather(futures) == ["rank 0", "rank 1"]

    def test_gang_rank_that_raises_ends_all(self, engine: Engine) -> None:
        """Its future has its error; the others raise GangError that names it, though they were in the middle of something."""
        with Latch() as latch:
            futures = engine.gang(hold_unless_zero, [(0, latch.port), (1, latch.port)], timeout_s=BOUND_S)
            with pytest.raises(LookupError, match="had enough"):
                futures[0].result(BOUND_S)
            with pytest.raises(GangError, match="rank 0"):
                futures[1].result(BOUND_S)
        assert engine.submit(increment, 1).result(BOUND_S) == 2

    def test_gang_without_room_raises_after_its_timeout(self, engine: Engine) -> None:
        """All start or none: while every slot is taken, none does."""
        with Latch() as latch:
            held = fill(engine, latch)
            futures = engine.gang(rank_sum, [(0, 1, []), (1, 1, [])], timeout_s=0.2)
            for future in futures:
                with pytest.raises(GangError):
                    future.result(BOUND_S)
            for number in range(len(held)):
                latch.release(f"filler {number}")
            assert engine.gather(held) == [f"filler {number}" for number in range(len(held))]


async def _awaited(future: Future[Any]) -> Any:
    return await future

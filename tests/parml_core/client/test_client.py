"""Client: what it adds to the ten verbs, whose meaning the conformance suite tests."""

from __future__ import annotations

import asyncio
import gc
import operator
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.engine import registry
from parml_core.errors import (
    AddressError,
    AuthenticationError,
    ClusterError,
    MissingKeyError,
    NotSupported,
    SchedulerLost,
    SerializationError,
    WaitTimeout,
)
from parml_core.graph import Graph, Hints, Ref, Task


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether a condition comes true in time; asked again and again, for what has no event."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True


def nested_sum(n: int) -> int:
    """A task that submits tasks and waits for them."""
    engine = registry.current_engine()
    return sum(engine.gather([engine.submit(operator.mul, i, 2) for i in range(n)]))


def nest(depth: int) -> int:
    engine = registry.current_engine()
    return 1 if depth == 0 else 1 + sum(engine.gather([engine.submit(nest, depth - 1) for _ in range(2)]))


class CountsPickles:
    """Tells by files in a folder how often it was unpickled, and where."""

    def __init__(self, folder: str, payload: np.ndarray) -> None:
        self.folder = folder
        self.payload = payload

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        open(os.path.join(self.folder, f"{os.getpid()}-{time.monotonic_ns()}"), "w").close()


def payload_sum(i: int, held: CountsPickles) -> float:
    return i + float(held.payload.sum())


def write_into(array: np.ndarray) -> None:
    array[0] = 1


def add_column(frame: pd.DataFrame) -> int:
    frame["b"] = 1
    return frame.shape[1]


def signal_and_wait(started: str, release: str) -> str:
    open(started, "w").close()
    while not os.path.exists(release):
        threading.Event().wait(0.01)
    return "done"


@pytest.fixture
def client(cluster_client: Client) -> Client:
    return cluster_client


def test_map_of_ten_thousand_gives_what_the_builtin_map_gives(client: Client) -> None:
    """Tasks of microseconds travel by hundreds, and none is lost or doubled on the way."""
    futures = client.map(operator.neg, range(10_000))
    assert client.gather(futures) == [-i for i in range(10_000)]


def test_map_zips_iterables_to_the_shortest_and_repeats_keywords(client: Client) -> None:
    """As with the builtin map; keyword arguments are the same for each call."""
    assert client.gather(client.map(int, ["10", "11", "12"], base=2 + 0 * 1)[:2]) == [2, 3]
    assert client.gather(client.map(pow, [2, 3], [3, 2, 9])) == [8, 9]


def test_submit_twice_runs_twice(client: Client) -> None:
    """submit promises no purity: two calls of an impure function give two results."""
    first, second = client.submit(time.perf_counter_ns), client.submit(time.perf_counter_ns)
    assert first.result() != second.result()


def test_large_argument_of_many_tasks_reaches_each_worker_once(client: Client, tmp_path: Any) -> None:
    """A large argument travels once to each worker that needs it, not once with each task."""
    held = CountsPickles(str(tmp_path), np.ones(200_000))
    results = client.gather(client.map(payload_sum, range(40), held=held))
    assert results == [i + 200_000.0 for i in range(40)]
    pids = [name.split("-")[0] for name in os.listdir(tmp_path)]
    assert 1 <= len(pids) == len(set(pids)) <= 2


def test_large_argument_of_a_released_future_reaches_the_task_that_another_needs(client: Client) -> None:
    """A future may be released as soon as another task has been given it, large arguments and all."""
    total = client.submit(np.sum, np.ones(400_000))
    twice = client.submit(operator.mul, total, 2)
    del total
    gc.collect()
    assert twice.result(timeout_s=20) == 800_000.0


def test_array_argument_is_read_only_in_tasks(client: Client) -> None:
    """Tasks share arrays, so a write raises instead of changing what others see."""
    array = np.zeros(100_000)
    with pytest.raises(ValueError, match="read-only"):
        client.submit(write_into, client.submit(np.zeros, 10)).result()
    with pytest.raises(ValueError, match="read-only"):
        client.submit(write_into, array).result()
    assert array[0] == 0


def test_frame_that_a_task_changes_stays_as_it_was_for_others(client: Client) -> None:
    """Each task has a pandas object of its own, which shares the data until it writes."""
    frame = client.submit(pd.DataFrame, {"a": [1, 2]})
    assert client.submit(add_column, frame).result() == 2
    assert client.submit(add_column, frame).result() == 2
    assert list(frame.result().columns) == ["a"]


def test_result_arrays_are_the_callers_own(client: Client) -> None:
    """What gather returns may be written to."""
    array = client.submit(np.zeros, 100_000).result()
    array[0] = 1
    assert array[0] == 1


def mapped_from(array: np.ndarray) -> str:
    """What file the memory of an array is mapped from."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for span, *_, name in (line.split(maxsplit=5) for line in maps):
            first, end = (int(number, 16) for number in span.split("-"))
            if first <= address < end:
                return name.strip()
    return ""


@pytest.mark.parametrize("make", [np.ones, lambda n: pd.DataFrame({"a": np.ones(n), "b": 1.0})])
def test_large_result_lies_where_others_can_map_it_before_anybody_asks_for_it(client: Client, make: Any) -> None:
    worker, _ = client.workers()
    where = Hints(where=(worker.id,))
    future = client.submit(make, 500_000, hints=where)
    client.wait([future])
    assert "memfd" in client.submit(lambda value: mapped_from(np.asarray(value)), future, hints=where).result()
    np.testing.assert_equal(client.submit(np.asarray, future, hints=where).result(), np.asarray(make(500_000)))


def test_many_small_numbers_are_known_with_the_news_of_them(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    future = client.submit(list, range(150))
    client.wait([future])
    monkeypatch.setattr(client.link.fetcher, "fetch", lambda *_: pytest.fail("it was fetched from its worker"))
    assert future.result() == list(range(150))


def test_lambda_and_closure_run_on_workers(client: Client) -> None:
    """Functions that workers cannot import travel by value."""
    offset = 40
    assert client.submit(lambda x: x + offset, 2).result() == 42


def test_task_that_submits_tasks_ends_with_one_thread_a_worker(client: Client) -> None:
    """A task that waits for tasks gives its slot back, at any depth, so the cluster never waits for itself."""
    assert client.gather(client.map(nested_sum, [10] * 6), timeout_s=60) == [90] * 6
    assert client.submit(nest, 4).result(timeout_s=60) == 2**5 - 1


def test_run_calls_once_on_each_worker_even_when_all_slots_are_taken(client: Client, tmp_path: Any) -> None:
    """run answers at once, whatever else the workers do."""
    release = tmp_path / "release"
    busy = [client.submit(signal_and_wait, str(tmp_path / f"started{i}"), str(release)) for i in range(2)]
    assert eventually(lambda: all((tmp_path / f"started{i}").exists() for i in range(2)))
    pids = client.run(os.getpid)
    assert len(set(pids.values())) == len(pids) == 2
    release.touch()
    assert client.gather(busy, timeout_s=20) == ["done", "done"]


def test_hint_where_by_name_runs_there(client: Client) -> None:
    """A task that is tied to a worker runs nowhere else."""
    pids = client.run(os.getpid)
    for name, pid in pids.items():
        futures = [client.submit(os.getpid, hints=Hints(where=(name,))) for _ in range(8)]
        assert set(client.gather(futures)) == {pid}


def test_released_futures_leave_nothing_on_the_cluster(client: Client) -> None:
    """When the last future is gone, so are tasks, values and functions."""
    futures = client.map(np.ones, [100_000] * 8)
    totals = [client.submit(np.sum, future) for future in futures]
    assert client.gather(totals) == [100_000.0] * 8
    del futures, totals
    gc.collect()
    assert eventually(lambda: not any(client.state()["tasks"].values()))
    assert eventually(lambda: all(worker["held"] == 0 for worker in client.state()["workers"]))


def test_unpicklable_function_and_argument_raise_at_the_call_and_the_next_call_works(client: Client) -> None:
    """The error names the part that cannot be pickled, on the caller's side."""
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        client.submit(lambda: lock)
    with pytest.raises(SerializationError, match="lock"):
        client.submit(id, [1, lock])
    assert client.submit(abs, -1).result() == 1


def test_result_that_cannot_be_pickled_raises_at_result_and_serves_as_an_input(client: Client) -> None:
    """A value that cannot leave its worker is an error where it has to, with a name; the cluster goes on."""
    future = client.submit(lambda: (i for i in range(3)))
    with pytest.raises(SerializationError, match="generator"):
        future.result(timeout_s=20)
    assert client.submit(abs, -1).result() == 1


class StaysHere:
    def __reduce__(self) -> Any:
        raise TypeError("it stays here")

    def __deepcopy__(self, memo: Any) -> StaysHere:
        return self


def frame_that_stays() -> pd.DataFrame:
    frame = pd.DataFrame({"a": np.ones(500_000)})
    frame.attrs["stays"] = StaysHere()
    return frame


def test_large_table_that_cannot_be_pickled_serves_as_an_input_too(client: Client) -> None:
    future = client.submit(frame_that_stays)
    assert client.submit(len, future).result() == 500_000
    with pytest.raises(SerializationError):
        future.result()


def test_exception_keeps_type_attributes_and_traceback(client: Client) -> None:
    """The caller sees what was raised, where, and in which task."""

    def fail() -> None:
        raise FileNotFoundError(2, "no such thing", "data.csv")

    with pytest.raises(FileNotFoundError) as caught:
        client.submit(fail).result()
    assert caught.value.filename == "data.csv"
    assert "in fail" in str(caught.value.__cause__)
    assert any("worker-" in note for note in caught.value.__notes__)


def test_missing_key_and_cycle_raise_before_anything_runs(client: Client) -> None:
    """A graph that cannot be evaluated is refused at once."""
    with pytest.raises(MissingKeyError, match="'nowhere'"):
        client.submit_graph(Graph([Task("a", abs, (Ref("nowhere"),))]), ["a"])
    assert client.submit(abs, -1).result() == 1


def test_graph_too_large_for_a_message_is_refused_and_the_next_call_works(client: Client) -> None:
    """What could not be sent is an error of the caller, at once, with what to do."""
    graph = Graph([Task(f"big:{i}", len, ([b"x" * 60_000],)) for i in range(1200)])
    with pytest.raises(NotSupported, match="1200 tasks"):
        client.submit_graph(graph, list(graph))
    assert client.submit(abs, -1).result() == 1


def test_future_of_another_client_is_refused_with_advice(client: Client, cluster: LocalCluster) -> None:
    """A future means nothing to another client, and the error says what to do."""
    with Client(cluster, set_default=False) as other:
        foreign = other.submit(abs, -1)
        with pytest.raises(ValueError, match=r"take its result\(\) first"):
            client.submit(abs, foreign)
        assert foreign.result() == 1


def test_client_that_leaves_takes_its_tasks_along(client: Client, cluster: LocalCluster) -> None:
    """What only a client that is gone wanted is not kept."""
    gc.collect()  # tracebacks of errors that tests before expected may hold futures
    other = Client(cluster, set_default=False)
    futures = other.map(np.ones, [1000] * 20)
    other.wait(futures)
    assert client.state()["tasks"]["memory"] >= 20
    other.close()
    assert eventually(lambda: client.state()["tasks"]["memory"] == 0)
    with pytest.raises(SchedulerLost):
        futures[0].result(timeout_s=5)


def test_wait_and_result_that_take_too_long_say_so_and_the_task_goes_on(client: Client, tmp_path: Any) -> None:
    """A timeout is the caller's; the task is not touched."""
    future = client.submit(signal_and_wait, str(tmp_path / "started"), str(tmp_path / "release"))
    with pytest.raises(WaitTimeout, match="1 of 1 tasks"):
        future.result(timeout_s=0.05)
    assert client.wait([future], timeout_s=0.05) == ([], [future])
    (tmp_path / "release").touch()
    assert future.result(timeout_s=20) == "done"


def test_futures_can_be_awaited(client: Client) -> None:
    """One client serves synchronous and asynchronous code."""

    async def use() -> list[int]:
        async with asyncio.timeout(20):
            return await asyncio.gather(*client.map(operator.neg, range(50)))

    assert asyncio.run(use()) == [-i for i in range(50)]


def test_done_callback_may_take_the_result(client: Client) -> None:
    """Callbacks run where they may wait, not on the connection's own thread."""
    seen: list[int] = []
    ended = threading.Event()

    def callback(future: Any) -> None:
        seen.append(future.result())
        ended.set()

    client.submit(abs, -5).add_done_callback(callback)
    assert ended.wait(10)
    assert seen == [5]


def test_client_in_a_forked_child_says_what_to_do(client: Client) -> None:
    """A fork shares the socket but not the loop: using the client there is an error, not a hang."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            client.submit(abs, -1)
            os.write(writer, b"no error")
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert b"make another Client" in answer.read()
    os.waitpid(pid, 0)
    assert client.submit(abs, -1).result() == 1


def test_address_without_secret_and_wrong_secret_are_refused_fast(cluster: LocalCluster) -> None:
    """Whoever does not know the secret gets an error that says what is missing, in under a second."""
    with pytest.raises(AddressError, match="PARML_SECRET"):
        Client(cluster.scheduler_address, set_default=False)
    started = time.monotonic()
    with pytest.raises(AuthenticationError):
        Client(cluster.scheduler_address, secret=b"x" * 32, set_default=False)
    assert time.monotonic() - started < 1


def test_scheduler_file_connects(cluster: LocalCluster) -> None:
    """The file that the scheduler wrote is all that another process needs."""
    with Client(cluster.scheduler_file, set_default=False) as other:
        assert other.submit(abs, -1).result() == 1


def test_address_where_nobody_listens_is_an_error_that_names_it() -> None:
    """No scheduler there: the address is in the error, and it does not take long."""
    with pytest.raises((AddressError, ClusterError), match=r"127\.0\.0\.1:9"):
        Client("tcp://127.0.0.1:9", secret=b"x" * 32, timeout_s=1, set_default=False)


@pytest.fixture
def own_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster:
        yield cluster


def test_scheduler_killed_raises_for_everybody_who_waits(own_cluster: LocalCluster) -> None:
    """Nobody waits for a scheduler that is gone."""
    client = Client(own_cluster, set_default=False)
    future = client.submit(time.sleep, 60)
    os.kill(own_cluster.scheduler_pid, 9)
    with pytest.raises(SchedulerLost):
        future.result(timeout_s=10)
    with pytest.raises(SchedulerLost):
        client.submit(abs, -1)
    client.close()


def test_client_without_arguments_starts_a_cluster_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`with Client() as c:` is all it takes, and nothing stays behind."""
    monkeypatch.setenv("PARML_DASHBOARD__PORT", "0")
    with Client() as client:
        assert client.cluster is not None
        pids = [*client.cluster.worker_pids().values(), client.cluster.scheduler_pid]
        file = client.cluster.scheduler_file
        assert registry.current_engine() is client
        assert client.submit(abs, -1).result() == 1
    assert registry.explicit_engine() is None
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert not os.path.exists(file)

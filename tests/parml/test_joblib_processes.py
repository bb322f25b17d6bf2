"""What programs expect of joblib's processes: forks, managers, initializers, and calls that were given up."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from joblib import Parallel, delayed, parallel_config

from parml_core.client import Client, LocalCluster

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

BOUND_S = 30.0


def square(x: int) -> int:
    return x * x


def squares(n_jobs: int = 2) -> list[int]:
    import parml  # noqa: F401  registers the backend

    return Parallel(n_jobs=n_jobs, backend="parml")(delayed(square)(i) for i in range(20))


SQUARES = [i * i for i in range(20)]


# --- no Client -----------------------------------------------------------------------------------------------------------

ALONE = """
import os
import joblib, psutil, sklearn.datasets, sklearn.ensemble
import parml
from parml_core.client import Client, LocalCluster

X, y = sklearn.datasets.make_classification(500, random_state=0)
forest = sklearn.ensemble.RandomForestClassifier(10, n_jobs=-1, random_state=0)
expected = forest.fit(X, y).predict(X).tolist()

def where(**how):
    return set(joblib.Parallel(n_jobs=2, **how)(joblib.delayed(os.getpid)() for _ in range(4)))

with joblib.parallel_config("parml"):
    assert forest.fit(X, y).predict(X).tolist() == expected
    assert joblib.effective_n_jobs(-1) == max(joblib.cpu_count(), 2)
    assert where(prefer="threads") == {os.getpid()}
    assert not psutil.Process().children()
    assert os.getpid() not in where()
    assert where(prefer="threads") == {os.getpid()}
    assert os.getpid() not in where(prefer="threads", initializer=int)
with joblib.parallel_config("parml", inner_max_num_threads=1):
    assert os.getpid() not in where(prefer="threads")
with LocalCluster(2, 1, dashboard_port=None) as cluster, Client(cluster), joblib.parallel_config("parml"):
    assert where(prefer="threads") <= set(cluster.worker_pids().values())
print("as expected")
"""


def test_call_that_prefers_threads_starts_no_cluster_and_uses_one_that_was_made() -> None:
    """A program without a Client: forests run on its own threads, other calls on processes, and on a Client all of them."""
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=2 * BOUND_S, check=False)
    assert (ran.returncode, ran.stdout) == (0, "as expected\n"), ran.stderr


# --- forks ---------------------------------------------------------------------------------------------------------------


def test_call_nested_in_joblibs_forked_processes_does_not_use_the_parents_client(cluster_client: Any) -> None:
    """A pool of forks has copies of the Client, which work in none of them: the inner calls find another engine."""
    assert Parallel(n_jobs=2, backend="multiprocessing")(delayed(squares)() for _ in range(2)) == [SQUARES] * 2
    assert squares() == SQUARES  # and the parent's still works


def test_call_in_a_fork_starts_a_cluster_of_its_own(cluster_client: Any) -> None:
    """The parent's is not its own, and ends neither with it nor by it."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(squares) == SQUARES
    assert squares() == SQUARES


def squares_of_a_fork() -> tuple[bool, list[int]]:
    """What a process says that is forked here, inside a task: whether it is another, and what it gets for its own calls."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with Parallel(n_jobs=2, backend="threading") as threads:  # makes the call a nested one
                results = threads([delayed(squares)()])[0]
            os.write(writer, repr(results).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return pid != os.getpid(), eval(said or "[]")


def test_call_in_a_fork_of_a_task_does_not_use_the_workers_client(cluster_client: Any) -> None:
    """A task may fork, and what it forks may use joblib: it is no task, and has no cluster."""
    assert cluster_client.submit(squares_of_a_fork).result() == (True, SQUARES)


# --- managers ------------------------------------------------------------------------------------------------------------


def put(shared: Any, i: int) -> None:
    shared[i] = os.getpid()


def test_tasks_of_a_local_cluster_use_a_manager_of_the_caller() -> None:
    """They know the caller's key to its managers, as joblib's own processes do: lists, locks and queues work in them."""
    with multiprocessing.Manager() as manager, LocalCluster(n_workers=1, dashboard_port=None) as cluster:
        shared = manager.dict()
        with Client(cluster, set_default=False) as client, parallel_config("parml", client=client):
            Parallel(n_jobs=2)(delayed(put)(shared, i) for i in range(4))
            assert dict(shared) == dict.fromkeys(range(4), cluster.worker_pids()["worker-0"])


# --- initializers --------------------------------------------------------------------------------------------------------


def note(shared: Any, name: str) -> None:
    shared.append((os.getpid(), name))
    sys.__dict__["_noted_by_test"] = name


def noted(barrier: Any) -> tuple[int, str]:
    if barrier is not None:
        barrier.wait(30)
    return os.getpid(), sys.__dict__["_noted_by_test"]


def test_initializer_is_called_before_the_tasks_once_in_each_worker() -> None:
    """A second call with the same finds it done; with another each worker calls that; and the first anew after that."""
    with multiprocessing.Manager() as manager, LocalCluster(n_workers=2, threads_per_worker=2, dashboard_port=None) as cluster:
        called, barrier = manager.list(), manager.Barrier(4)
        with Client(cluster, set_default=False) as client:
            seen = []
            for name in ("a", "a", "b", "a"):
                with parallel_config("parml", client=client, initializer=note, initargs=(called, name)):
                    found = Parallel(n_jobs=4, batch_size=1)(delayed(noted)(barrier) for _ in range(4))
                assert {which for _, which in found} == {name}
                seen += [(pid, name) for pid in dict(found)]
            expected = [(pid, name) for pid in cluster.worker_pids().values() for name in ("a", "b", "a")]
            assert sorted(called) == sorted(expected)
            assert set(seen) == set(expected)


def test_initializer_of_a_parallel_goes_before_that_of_the_configuration(cluster_client: Any) -> None:
    """As with loky, what the call itself says holds."""
    with parallel_config("parml", initializer=note, initargs=([], "configured")):
        assert {name for _, name in Parallel(n_jobs=2)(delayed(noted)(None) for _ in range(4))} == {"configured"}
        parallel = Parallel(n_jobs=2, initializer=note, initargs=([], "own"))
        assert {name for _, name in parallel(delayed(noted)(None) for _ in range(4))} == {"own"}


def fail() -> None:
    raise LookupError("no licence here")


def test_initializer_that_fails_raises_its_error_and_the_next_call_works(cluster_client: Any) -> None:
    """The caller sees what went wrong; loky would only tell that a worker died."""
    for _ in range(2):
        with pytest.raises(LookupError, match="no licence here"):
            Parallel(n_jobs=2, backend="parml", initializer=fail)(delayed(square)(i) for i in range(20))
    assert squares() == SQUARES


# --- calls that were given up --------------------------------------------------------------------------------------------


def hold(shared: Any, i: int, go: Any) -> None:
    shared[i] = "begun"
    go.wait(BOUND_S)
    shared[i] = "ended"


def n_task_threads(_: int = 0) -> int:
    return sum(thread.name.startswith("parml-task-") for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> bool:
    deadline, pause = time.monotonic() + BOUND_S, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


@pytest.mark.filterwarnings("ignore:.*tasks.*:UserWarning")
@pytest.mark.parametrize("how", ["timeout", "closed generator"])
def test_call_after_one_that_was_given_up_does_not_wait_for_its_tasks(how: str) -> None:
    """Tasks that still run have lost their slots to what comes next; when they end, their threads end too."""
    with multiprocessing.Manager() as manager, LocalCluster(n_workers=1, threads_per_worker=2, dashboard_port=None) as cluster:
        held, go = manager.dict(), manager.Event()
        with Client(cluster) as client, parallel_config("parml"):
            assert squares() == SQUARES  # the workers are ready
            calls = [delayed(hold)(held, i, go) for i in range(2)]
            if how == "timeout":
                with pytest.raises(multiprocessing.TimeoutError):
                    Parallel(n_jobs=2, timeout=1.0)(calls)
            else:
                results = Parallel(n_jobs=2, return_as="generator")(calls)
                assert until(lambda: len(held) == 2)
                results.close()
            assert squares() == SQUARES
            assert dict(held) == {0: "begun", 1: "begun"}
            go.set()
            assert until(lambda: dict(held) == {0: "ended", 1: "ended"})
            assert until(lambda: client.submit(n_task_threads).result() == 2)

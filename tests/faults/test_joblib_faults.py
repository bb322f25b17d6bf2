"""joblib calls while workers die, and the local cluster that serves a process without a Client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from joblib import Parallel, delayed, parallel_config

import parml  # noqa: F401  registers the backend
from parml_core.errors import ClusterError, WorkerKilled

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def own_cluster() -> Iterator[Any]:
    """A cluster of two workers for one test, which may harm it."""
    from parml_core.client import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster:
        yield cluster


@pytest.fixture
def client(own_cluster: Any) -> Iterator[Any]:
    from parml_core.client import Client

    with Client(own_cluster) as client:
        yield client


def die_once(i: int, folder: Path) -> int:
    if i == 5:
        try:
            (folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return i * i
        os.kill(os.getpid(), signal.SIGKILL)
    return i * i


def die(i: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_the_call_ends_with_the_right_results(client: Any, tmp_path: Path) -> None:
    """A batch whose worker died runs again on another, and nobody notices."""
    with parallel_config("parml", client=client):
        found = Parallel(batch_size=1)(delayed(die_once)(i, tmp_path) for i in range(40))
    assert found == [i * i for i in range(40)]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_task_that_kills_every_worker_surfaces_as_worker_killed(client: Any) -> None:
    """A call never waits for ever: what takes down worker after worker is an error, and the next call works."""
    with parallel_config("parml", client=client):
        with pytest.raises(WorkerKilled):
            Parallel(n_jobs=2)(delayed(die)(i) for i in range(2))
        assert Parallel(n_jobs=2)(delayed(abs)(i) for i in range(40)) == list(range(40))


def test_lost_scheduler_surfaces_as_cluster_error(client: Any, own_cluster: Any, tmp_path: Path) -> None:
    """A call whose cluster is gone raises."""

    def kill_scheduler(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    with parallel_config("parml", client=client), pytest.raises(ClusterError):
        Parallel(n_jobs=2)(delayed(kill_scheduler)(own_cluster.scheduler_pid) for _ in range(2))


def run_script(text: str) -> list[Any]:
    """Run a program of its own; the JSON lines it prints."""
    script = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert script.returncode == 0, script.stderr
    return [json.loads(line) for line in script.stdout.splitlines()]


def test_embedded_cluster_serves_all_calls_and_ends_with_the_process() -> None:
    """Without a Client a cluster starts at the first call, serves the next, is nobody's default, and leaves no process."""
    first, second, engine = run_script(
        """
        import json, os, parml
        from joblib import Parallel, delayed
        from parml_core.engine.registry import explicit_engine
        for _ in range(2):
            print(json.dumps(sorted(set(Parallel(n_jobs=2, backend="parml")(delayed(os.getpid)() for _ in range(40))))))
        print(json.dumps(repr(explicit_engine())))
        """
    )
    assert first
    assert set(second) <= set(first) or len(set(first) | set(second)) <= (os.cpu_count() or 1)
    assert engine == "None"
    assert not any(psutil.pid_exists(pid) for pid in {*first, *second})


def test_embedded_cluster_survives_a_fork_of_its_process() -> None:
    """A forked child that ends leaves the parent's cluster alone, and may start its own."""
    (before,), (child,), (after,) = run_script(
        """
        import json, os, sys, parml
        from joblib import Parallel, delayed
        def pids():
            return sorted(set(Parallel(n_jobs=2, backend="parml")(delayed(os.getppid)() for _ in range(10))))
        print(json.dumps(pids()), flush=True)
        if os.fork() == 0:
            print(json.dumps(pids()), flush=True)
            sys.exit()
        os.wait()
        print(json.dumps(pids()), flush=True)
        """
    )
    assert before == after != child


def test_embedded_cluster_that_died_is_replaced() -> None:
    """The call after the loss of the whole cluster starts another."""
    first, second = run_script(
        """
        import json, os, signal, parml, psutil
        from joblib import Parallel, delayed
        def pids():
            return sorted(set(Parallel(n_jobs=2, backend="parml")(delayed(os.getpid)() for _ in range(40))))
        print(json.dumps(pids()), flush=True)
        dead = psutil.Process().children(recursive=True)
        for process in dead:
            process.kill()
        psutil.wait_procs(dead, timeout=10)
        print(json.dumps(pids()), flush=True)
        """
    )
    assert first
    assert not set(first) & set(second)


def test_program_with_its_functions_in_main_runs() -> None:
    """Functions, closures and global arrays of a script reach the workers."""
    (found,) = run_script(
        """
        import json, numpy as np, parml
        from joblib import Parallel, delayed
        table = np.arange(50_000.0)
        def look(i):
            return float(table[i]) + offset
        offset = 1
        print(json.dumps(Parallel(n_jobs=2, backend="parml")(delayed(look)(i) for i in range(30))))
        """
    )
    assert found == [i + 1.0 for i in range(30)]

"""What a lost worker costs: exactly what it had, and never the answer. And what is left of a program that is interrupted."""

from __future__ import annotations

import contextlib
import gc
import math
import operator
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.errors import SchedulerLost, WaitTimeout, WorkerKilled
from parml_core.graph import Graph, Hints, Ref, Task
from tests.drawn import often
from tests.faults.marks import MARK, marked

BOUND_S = 20.0
ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], what: str, bound_s: float = BOUND_S) -> None:
    """Wait for something that no event tells of."""
    pause = threading.Event()
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {bound_s} s"
        pause.wait(0.005)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- what tasks do -----------------------------------------------------------------------------------------------------


def note(folder: Path, name: Any) -> None:
    """Leave a trace that survives the process."""
    (folder / f"{name}@{os.getpid()}-{time.monotonic_ns()}").touch()


def square(folder: Path, x: int, pause_s: float = 0.005) -> int:
    note(folder, x)
    threading.Event().wait(pause_s)
    return x * x


def total(folder: Path, name: Any, *arrays: np.ndarray) -> float:
    note(folder, name)
    return float(sum(array.sum() for array in arrays))


def add(folder: Path, name: Any, numbers: list[int]) -> int:
    note(folder, name)
    threading.Event().wait(0.003)
    return sum(numbers)


def hold_until(folder: Path, name: Any, release: Path) -> int:
    note(folder, name)
    while not release.exists():
        threading.Event().wait(0.005)
    return os.getpid()


def die(folder: Path) -> None:
    note(folder, "die")
    os.kill(os.getpid(), signal.SIGKILL)


def square_or_die(folder: Path, x: int, bad: int) -> int:
    return die(folder) if x == bad else square(folder, x)  # type: ignore[return-value]


def square_or_eat(folder: Path, x: int, bad: int, nbytes: int) -> int:
    if x == bad:
        note(folder, "eat")
        food = bytearray(nbytes)
        food[::4096] = b"x" * len(food[::4096])
        threading.Event().wait(60)
    return square(folder, x)


class SlowToSend:
    """A large result that takes as long to pickle as the test wants."""

    def __init__(self, folder: Path, x: int) -> None:
        self.folder = folder
        self.x = x
        self.payload = os.urandom(2_000_000)

    def __getstate__(self) -> dict[str, Any]:
        note(self.folder, f"sending{self.x}")
        while not (self.folder / "go").exists():
            threading.Event().wait(0.005)
        return self.__dict__


# --- the scene ---------------------------------------------------------------------------------------------------------


class Scene:
    """A cluster of two workers, a client, a folder that tasks write to, and the workers that were killed so far."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.cluster = LocalCluster(2, 1, dashboard_port=None, **options)
        self.client = Client(self.cluster)
        self.killed: list[int] = []
        self.family = [psutil.Process(self.cluster.scheduler_pid).ppid(), self.cluster.scheduler_pid]
        self.family += self.cluster.worker_pids().values()

    def close(self) -> None:
        with contextlib.suppress(SchedulerLost):
            self.client.close()
        self.family += self.cluster.worker_pids().values()
        self.cluster.close()
        until(lambda: all(map(gone, self.family)), "all processes to end")
        assert not Path(self.cluster.scheduler_file).exists()

    def runs(self) -> dict[str, list[int]]:
        """By task: the pids of its runs."""
        runs: dict[str, list[int]] = {}
        for path in self.folder.iterdir():
            name, at, rest = path.name.partition("@")
            if at:
                runs.setdefault(name, []).append(int(rest.partition("-")[0]))
        return runs

    def ran_on(self, pid: int) -> int:
        return sum(pids.count(pid) for pids in self.runs().values())

    def kill(self, name: str) -> None:
        """kill -9 of the worker of this name; waits for nothing."""
        pid = self.cluster.worker_pids()[name]
        self.killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    def back(self, name: str) -> int:
        """The pid of the worker of this name, once it has come back and registered."""
        until(lambda: self.cluster.worker_pids().get(name) not in (None, *self.killed), f"{name} to be restarted")
        pid = self.cluster.worker_pids()[name]
        until(lambda: any(worker.pid == pid for worker in self.client.workers()), f"{name} to register")
        return pid

    def runs_elsewhere(self) -> dict[str, int]:
        """How often each task ran on workers that were not killed."""
        return {name: sum(pid not in self.killed for pid in pids) for name, pids in self.runs().items()}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


# --- killed workers ----------------------------------------------------------------------------------------------------


def test_worker_killed_during_map_costs_only_what_it_had(scene: Scene) -> None:
    """The answer is right, a task runs twice only where its first run was on the dead worker, and the worker comes back."""
    futures = scene.client.map(square, [scene.folder] * 300, range(300))
    victim = scene.cluster.worker_pids()["worker-0"]
    until(lambda: scene.ran_on(victim) >= 20, "the worker to have done something")
    scene.kill("worker-0")
    assert scene.client.gather(futures, timeout_s=BOUND_S) == [x * x for x in range(300)]
    until(lambda: set(scene.runs_elsewhere().values()) == {1}, "each lost result to be made again, and nothing twice")
    assert set(scene.runs()) == set(map(str, range(300)))
    scene.back("worker-0")


def test_workers_killed_one_after_the_other_cost_only_what_they_had(scene: Scene) -> None:
    """The second one dies while it makes again what the first one lost."""
    futures = scene.client.map(square, [scene.folder] * 300, range(300))
    until(lambda: len(scene.runs()) >= 60, "something to be done")
    scene.kill("worker-0")
    scene.back("worker-0")
    scene.kill("worker-1")
    scene.back("worker-1")
    scene.kill("worker-0")
    assert scene.client.gather(futures, timeout_s=BOUND_S) == [x * x for x in range(300)]
    until(lambda: set(scene.runs_elsewhere().values()) == {1}, "each lost result to be made again, and nothing twice")
    scene.back("worker-0")


def test_all_workers_killed_at_once_lose_arguments_that_the_client_sends_again(scene: Scene) -> None:
    """Large arguments lie on workers; when the last of them dies, the client still has them."""
    shared, own = np.arange(50_000.0), [np.full(20_000, float(x)) for x in range(20)]
    (scattered,) = scene.client.scatter([np.ones(30_000)])
    futures = [scene.client.submit(total, scene.folder, x, shared, own[x], scattered) for x in range(20)]
    expected = [shared.sum() + own[x].sum() + 30_000 for x in range(20)]
    assert scene.client.gather(futures, timeout_s=BOUND_S) == expected
    for name in ("worker-0", "worker-1"):
        scene.kill(name)
    assert scene.client.gather(futures, timeout_s=BOUND_S) == expected
    assert scene.client.submit(total, scene.folder, "more", scattered).result(BOUND_S) == 30_000
    until(lambda: all(n == 1 for n in scene.runs_elsewhere().values()), "each lost result to be made again, once")


def test_argument_that_is_changed_after_the_call_does_not_change_the_answer(scene: Scene) -> None:
    """A task gets what its argument was when it was submitted, also when it has to be sent a second time."""
    (scattered,) = scene.client.scatter([array := np.ones(100_000)])
    future = scene.client.submit(total, scene.folder, "a", array)
    array[:] = 5
    assert future.result(BOUND_S) == 100_000
    for name in ("worker-0", "worker-1"):
        scene.kill(name)
    assert future.result(BOUND_S) == 100_000
    assert scene.client.submit(total, scene.folder, "b", scattered).result(BOUND_S) == 100_000


def test_worker_killed_during_a_graph_costs_only_what_it_had(scene: Scene) -> None:
    """Intermediate results that were dropped are made again where, and only where, something lost needs them."""
    n = 64

    def task(name: str, *inputs: Any) -> Task:
        return Task(name, add, (scene.folder, name, list(inputs)))

    leaves = [task(f"leaf-{i}", i) for i in range(n)]
    nodes = [task(f"node-{i}", *(Ref(f"leaf-{(i + k) % n}") for k in range(3))) for i in range(n)]
    graph = Graph([*leaves, *nodes, task("sum", *(Ref(f"node-{i}") for i in range(n)))])
    futures = scene.client.submit_graph(graph, ["sum", "node-3", "leaf-9"])
    victim = scene.cluster.worker_pids()["worker-1"]
    until(lambda: scene.ran_on(victim) >= 30, "the worker to have done something")
    scene.kill("worker-1")
    assert scene.client.gather(futures, timeout_s=BOUND_S) == [3 * sum(range(n)), 3 + 4 + 5, 9]
    runs = scene.runs()
    lost = {name for name, pids in runs.items() if victim in pids}
    for name, n_runs in scene.runs_elsewhere().items():
        kind, _, i = name.partition("-")
        needing = {"sum", *(f"node-{(int(i) - k) % n}" for k in range(3) if kind == "leaf")}
        assert n_runs <= 1 or lost & needing, f"{name} ran {n_runs} times without need"


def test_worker_killed_while_it_sends_results_makes_no_difference(scene: Scene) -> None:
    """The client that reads from it gets the results from whoever makes them again."""
    futures = scene.client.map(SlowToSend, [scene.folder] * 8, range(8))
    scene.client.wait(futures, timeout_s=BOUND_S)
    found: list[SlowToSend] = []
    gathering = threading.Thread(target=lambda: found.extend(scene.client.gather(futures, timeout_s=BOUND_S)), daemon=True)
    gathering.start()
    victim = scene.cluster.worker_pids()["worker-0"]
    until(lambda: scene.ran_on(victim), "the worker to be sending")
    scene.kill("worker-0")
    (scene.folder / "go").touch()
    gathering.join(BOUND_S)
    assert [result.x for result in found] == list(range(8))


def test_worker_killed_with_finished_results_serves_who_asks_and_who_needs_them(scene: Scene) -> None:
    """A future that was finished gives its result, and tasks that are submitted on it run, although its worker is gone."""
    futures = scene.client.map(square, [scene.folder] * 10, range(10))
    scene.client.wait(futures, timeout_s=BOUND_S)
    for name in ("worker-0", "worker-1"):
        scene.kill(name)
    doubled = [scene.client.submit(operator.mul, future, 2) for future in futures]
    assert futures[7].result(BOUND_S) == 49
    assert scene.client.gather(doubled, timeout_s=BOUND_S) == [2 * x * x for x in range(10)]


# --- stopped workers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """With a scheduler and a client that lose patience with silent workers after 2 s."""
    monkeypatch.setenv("PARML_SCHEDULER__WORKER_TIMEOUT_S", "2")
    monkeypatch.setenv("PARML_WORKER__HEARTBEAT_S", "0.2")
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.mark.parametrize("asked", ["by the client", "by a task", "to keep an argument"])
def test_worker_that_falls_silent_is_not_waited_for(impatient: Scene, asked: str) -> None:
    """Its connections stay open for ever; whoever waits for it there goes elsewhere."""
    client, folder = impatient.client, impatient.folder
    arrays = client.map(np.full, [40_000] * 8, [float(x) for x in range(8)])
    sums = [client.submit(total, folder, f"sum{i}", *arrays) for i in range(2)]
    assert client.gather(sums, timeout_s=BOUND_S) == [28 * 40_000.0] * 2  # all connections are open now
    arrays = client.map(np.full, [40_000] * 8, [float(x) for x in range(8)])
    client.wait(arrays, timeout_s=BOUND_S)
    os.kill(impatient.cluster.worker_pids()["worker-0"], signal.SIGSTOP)
    if asked == "by the client":
        assert [float(a[0]) for a in client.gather(arrays, timeout_s=BOUND_S)] == list(range(8))
    elif asked == "by a task":
        assert client.submit(total, folder, "late", *arrays).result(BOUND_S) == 28 * 40_000.0
    else:
        late = [client.submit(total, folder, f"late{x}", np.full(40_000, float(x))) for x in range(4)]
        assert client.gather(late, timeout_s=BOUND_S) == [x * 40_000.0 for x in range(4)]


def test_small_result_is_here_with_the_news_of_it_whatever_becomes_of_its_worker(impatient: Scene) -> None:
    """What `wait` has found finished is read without the worker; a large one is made again elsewhere."""
    client = impatient.client
    small, large = client.submit(math.factorial, 20), client.submit(np.ones, 100_000)
    client.wait([small, large], timeout_s=BOUND_S)
    pids = impatient.cluster.worker_pids().values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert small.result(timeout_s=1.0) == math.factorial(20)
    with pytest.raises(WaitTimeout):
        large.result(timeout_s=0.1)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert large.result(BOUND_S).sum() == 100_000


def test_worker_that_falls_silent_is_not_waited_for_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that waits for an input from a silent worker gets it from the one that has made it again."""
    monkeypatch.setenv("PARML_SCHEDULER__WORKER_TIMEOUT_S", "2")
    monkeypatch.setenv("PARML_WORKER__HEARTBEAT_S", "0.2")
    with LocalCluster(3, 1, dashboard_port=None) as cluster, Client(cluster) as client:
        maker, reader, heir = sorted(client.workers(), key=lambda worker: worker.name)
        first = client.submit(np.ones, 1000, hints=Hints(where=(maker.name,)))
        assert client.submit(np.sum, first, hints=Hints(where=(reader.name,))).result(BOUND_S) == 1000
        array = client.submit(np.ones, 100_000, hints=Hints(where=(maker.name, heir.name)))
        client.wait([array], timeout_s=BOUND_S)
        (holder,) = client.locate([array])[0]
        silent = maker if holder == maker.id else heir
        os.kill(cluster.worker_pids()[silent.name], signal.SIGSTOP)
        assert client.submit(np.sum, array, hints=Hints(where=(reader.name,))).result(BOUND_S) == 100_000


def test_worker_that_wakes_up_after_its_loss_changes_nothing(impatient: Scene) -> None:
    """Its work has moved; what it reports on waking is not believed, and it leaves."""
    client = impatient.client
    go = impatient.folder / "go"
    future = client.submit(hold_until, impatient.folder, "held", go)
    until(lambda: impatient.runs().get("held"), "the task to run")
    (stopped,) = impatient.runs()["held"]
    os.kill(stopped, signal.SIGSTOP)
    go.touch()
    assert future.result(BOUND_S) not in (stopped, os.getpid())
    finished = client.state()["counters"]["finished"]
    os.kill(stopped, signal.SIGCONT)
    until(lambda: gone(stopped), "the worker that was lost to leave")
    assert future.result(BOUND_S) != stopped
    counters = client.state()["counters"]
    assert (counters["finished"], counters["erred"], counters["lost_workers"]) == (finished, 0, 1)
    until(lambda: len(client.workers()) == 2, "a worker to take its place")
    numbers = client.map(square, [impatient.folder] * 20, range(20))
    assert client.gather(numbers, timeout_s=BOUND_S) == [x * x for x in range(20)]


# --- tasks that take workers down --------------------------------------------------------------------------------------


def test_task_that_kills_its_worker_is_named_and_its_siblings_are_right(scene: Scene) -> None:
    """The error says which task and which workers; the rest of the map and of the cluster goes on."""
    futures = scene.client.map(square_or_die, [scene.folder] * 40, range(40), bad=17)
    bad = futures.pop(17)
    with pytest.raises(WorkerKilled) as caught:
        bad.result(BOUND_S)
    assert bad.key in str(caught.value) and "worker-" in str(caught.value)
    assert scene.client.gather(futures, timeout_s=BOUND_S) == [x * x for x in range(40) if x != 17]
    assert 3 <= len(scene.runs()["die"]) <= 4  # the first may die among others, which blames nobody
    assert scene.client.submit(abs, -1).result(BOUND_S) == 1


def test_many_tasks_that_kill_their_workers_leave_a_cluster_that_works(tmp_path: Path) -> None:
    """However many workers die at the hand of tasks, the next task finds one."""
    with LocalCluster(1, 1, dashboard_port=None) as cluster, Client(cluster) as client:
        for bad in [client.submit(die, tmp_path) for _ in range(4)]:
            with pytest.raises(WorkerKilled):
                bad.result(BOUND_S)
        assert client.submit(abs, -1).result(BOUND_S) == 1


def test_task_over_the_memory_limit_is_ended_and_its_siblings_are_right(tmp_path: Path) -> None:
    """It is the one that is given up; what ran beside it is not."""
    scene = Scene(tmp_path, memory_limit="400MiB")
    with contextlib.closing(scene):
        futures = scene.client.map(square_or_eat, [tmp_path] * 20, range(20), bad=4, nbytes=600 * 2**20)
        hungry = futures.pop(4)
        with pytest.raises(WorkerKilled) as caught:
            hungry.result(BOUND_S)
        assert hungry.key in str(caught.value) and "memory" in str(caught.value)
        assert scene.client.gather(futures, timeout_s=BOUND_S) == [x * x for x in range(20) if x != 4]


# --- programs that end -------------------------------------------------------------------------------------------------


PROGRAM = """
import signal, sys, time
from parml_core.client import Client
from parml_core.engine import derived
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait(x):
    if x == 0:
        print("runs", flush=True)
    time.sleep(60)

def program(client):
    futures = client.map(wait, range(4))
    {rest}

if __name__ == "__main__":
    {start}
"""


def start_program(folder: Path, rest: str, start: str) -> subprocess.Popen[str]:
    """A program of a user in a terminal of its own, whose temporary files are in the folder."""
    (folder / "tmp").mkdir()
    program = folder / "program.py"
    program.write_text(PROGRAM.format(rest=rest, start=start))
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PARML_DASHBOARD__PORT": "0", "PYTHONPATH": str(ROOT)}
    environment[MARK] = str(folder)
    return subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


WITH = "with Client() as client: program(client)"
BARE = "program(Client())"


@pytest.mark.parametrize(
    ("rest", "start"),
    [
        ("client.gather(futures)", WITH),
        ("client.gather(futures)", BARE),
        ("client.wait(futures)", BARE),
        ("list(derived.as_completed(futures))", WITH),
    ],
    ids=["gather-with", "gather", "wait", "as_completed-with"],
)
def test_ctrl_c_while_waiting_ends_the_program_and_its_cluster(tmp_path: Path, rest: str, start: str) -> None:
    """Ctrl-C at a terminal reaches the whole group: the program ends within 3 s with its traceback, and leaves nothing."""
    with start_program(tmp_path, rest, start) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "runs\n"
        began = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        _, error = program.communicate(timeout=BOUND_S)
        assert time.monotonic() - began < 3
    assert program.returncode == -signal.SIGINT and error.endswith("\nKeyboardInterrupt\n") and "parml:" not in error
    until(lambda: not marked(tmp_path), "all processes to end", 2)
    assert os.listdir(tmp_path / "tmp") == []


def test_program_that_is_killed_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    """kill -9: nobody is left to clean up but the cluster itself."""
    with start_program(tmp_path, "client.gather(futures)", WITH) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "runs\n"
        assert len(marked(tmp_path)) >= 4
        program.kill()
        until(lambda: marked(tmp_path) in ([], [program.pid]), "all processes to end", 5)
    assert os.listdir(tmp_path / "tmp") == []


def test_nanny_killed_is_told_to_who_waits_and_who_asks(scene: Scene) -> None:
    """Workers and scheduler die with it within 2 s, and every later call says what happened."""
    future = scene.client.submit(hold_until, scene.folder, "held", scene.folder / "go")
    until(lambda: scene.runs().get("held"), "the task to run")
    os.kill(scene.family[0], signal.SIGKILL)
    until(lambda: all(map(gone, scene.family)), "all processes to end", 2)
    with pytest.raises(SchedulerLost, match=r"scheduler at tcp://127\.0\.0\.1:\d+ was lost"):
        future.result(BOUND_S)
    for ask in (lambda: scene.client.submit(abs, -1), scene.client.workers, lambda: scene.client.scatter([1])):
        with pytest.raises(SchedulerLost, match="was lost"):
            ask()


# --- many times --------------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_clients_one_after_the_other_leak_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors, threads, children and files are no more after the last cluster than after the first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PARML_DASHBOARD__PORT", "0")
    me = psutil.Process()

    def cycle() -> None:
        with Client() as client:
            assert client.gather(client.map(np.sum, [np.ones(20_000)] * 2)) == [20_000, 20_000]

    def count() -> tuple[int, int, int, list[str]]:
        gc.collect()
        return me.num_fds(), me.num_threads(), len(me.children()), os.listdir(tmp_path)

    cycle()
    before = count()
    for _ in range(often(5)):
        cycle()
    after = count()  # less, where what an earlier test left warm has been given back meanwhile
    assert all(now <= then for now, then in zip(after[:3], before[:3], strict=True)), (before, after)
    assert before[3] == after[3] == []

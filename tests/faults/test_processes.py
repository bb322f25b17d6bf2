"""Real processes, really killed, stopped or starved: the right answer or a clear error, in bounded time, and nothing left."""

from __future__ import annotations

import contextlib
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

import psutil
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.errors import GangError, SchedulerLost, WorkerKilled
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
        pause.wait(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def nanny_of(cluster: LocalCluster) -> int:
    return psutil.Process(cluster.scheduler_pid).ppid()


class Scene:
    """A cluster of two workers, a client, and a folder that tasks write to."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.cluster = LocalCluster(2, 1, dashboard_port=None, settings=settings)
        self.client = Client(self.cluster)
        self.nanny_pid = nanny_of(self.cluster)
        self.family = [self.nanny_pid, self.cluster.scheduler_pid, *self.cluster.worker_pids().values()]

    def close(self) -> None:
        with contextlib.suppress(SchedulerLost):
            self.client.close()
        self.family += self.cluster.worker_pids().values()
        self.cluster.close()
        until(lambda: all(map(gone, self.family)), "all processes to end")

    def runs(self) -> dict[str, int]:
        """How often each task ran."""
        names = [path.name.partition("@")[0] for path in self.folder.iterdir()]
        return {name: names.count(name) for name in names}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.fixture
def watchful(tmp_path: Path) -> Iterator[Scene]:
    """With a scheduler that loses patience with silent workers after 2 s."""
    scene = Scene(tmp_path, **{"scheduler.worker_timeout_s": 2.0, "worker.heartbeat_s": 0.2})
    yield scene
    scene.close()


# --- what tasks do -----------------------------------------------------------------------------------------------------


def note(folder: Path, name: Any) -> None:
    """Leave a trace that survives the process."""
    (folder / f"{name}@{os.getpid()}-{time.monotonic_ns()}").touch()


def square(folder: Path, x: int, pause_s: float = 0.0) -> int:
    note(folder, x)
    threading.Event().wait(pause_s)
    return x * x


def end_by(folder: Path, number: int) -> None:
    note(folder, "end")
    os.kill(os.getpid(), number)
    threading.Event().wait(60)


def leave(folder: Path, code: int) -> None:
    note(folder, "leave")
    os._exit(code)


def eat(folder: Path, nbytes: int) -> None:
    note(folder, "eat")
    food = bytearray(nbytes)
    food[::4096] = b"x" * len(food[::4096])
    threading.Event().wait(60)


def wait_in_rank(folder: Path, rank: int) -> None:
    note(folder, f"rank{rank}")
    threading.Event().wait(60)


def trace_of(scene: Scene, name: str) -> int:
    """The pid of a process that has left this trace."""
    until(lambda: list(scene.folder.glob(f"{name}@*")), f"{name} to run")
    return int(next(scene.folder.glob(f"{name}@*")).name.partition("@")[2].partition("-")[0])


# --- workers -----------------------------------------------------------------------------------------------------------


def test_worker_killed_while_executing_gives_the_right_answer(scene: Scene) -> None:
    """Only what was lost runs again, the worker comes back, and the cluster goes on."""
    futures = scene.client.map(square, [scene.folder] * 40, range(40), [0.05] * 40)
    scene.client.wait(futures[:6], timeout_s=BOUND_S)
    name, victim = next(iter(scene.cluster.worker_pids().items()))
    os.kill(victim, signal.SIGKILL)
    assert [f.result(BOUND_S) for f in futures] == [x * x for x in range(40)]
    assert sum(scene.runs().values()) < 80
    until(lambda: scene.cluster.worker_pids().get(name, victim) != victim, "the worker to come back")
    until(lambda: len(scene.client.workers()) == 2, "the worker to register")


def test_worker_killed_while_idle_loses_results_that_are_computed_again(scene: Scene) -> None:
    """Results that lay on it are made again when they are asked for."""
    futures = scene.client.map(square, [scene.folder] * 8, range(8))
    scene.client.wait(futures, timeout_s=BOUND_S)
    os.kill(next(iter(scene.cluster.worker_pids().values())), signal.SIGKILL)
    assert scene.client.gather(futures) == [x * x for x in range(8)]
    assert sum(scene.runs().values()) < 16


@pytest.mark.parametrize(
    ("task", "argument"), [(end_by, int(signal.SIGSEGV)), (end_by, int(signal.SIGKILL)), (leave, 1), (leave, 0)]
)
def test_task_that_kills_its_worker_is_given_up(scene: Scene, task: Callable[..., Any], argument: int) -> None:
    """After three deaths it is erred by its name, and others go on."""
    poison = scene.client.submit(task, scene.folder, argument)
    with pytest.raises(WorkerKilled, match="worker-"):
        poison.result(BOUND_S)
    assert sum(scene.runs().values()) == 3
    assert scene.client.submit(square, scene.folder, 3).result(BOUND_S) == 9


def test_worker_over_its_memory_is_restarted_and_its_task_blamed(tmp_path: Path) -> None:
    """A task that eats memory does not take the machine along."""
    with LocalCluster(1, memory_limit="300MiB", dashboard_port=None) as cluster, Client(cluster) as client:
        hungry = client.submit(eat, tmp_path, 400 * 2**20)
        with pytest.raises(WorkerKilled):
            hungry.result(BOUND_S)
        assert client.submit(square, tmp_path, 3).result(BOUND_S) == 9


def test_worker_stopped_for_a_while_loses_nothing(watchful: Scene) -> None:
    """Shorter than the timeout: no loss, no work done twice."""
    futures = watchful.client.map(square, [watchful.folder] * 10, range(10), [0.02] * 10)
    victim = next(iter(watchful.cluster.worker_pids().values()))
    os.kill(victim, signal.SIGSTOP)
    threading.Event().wait(1.0)
    os.kill(victim, signal.SIGCONT)
    assert [f.result(BOUND_S) for f in futures] == [x * x for x in range(10)]
    assert set(watchful.runs().values()) == {1}
    assert victim in watchful.cluster.worker_pids().values()


def test_worker_stopped_for_ever_is_declared_lost(watchful: Scene) -> None:
    """Its work moves; when it wakes up it is somebody whom nobody knows, and ends."""
    victim = next(iter(watchful.cluster.worker_pids().values()))
    os.kill(victim, signal.SIGSTOP)
    futures = watchful.client.map(square, [watchful.folder] * 10, range(10))
    assert [f.result(BOUND_S) for f in futures] == [x * x for x in range(10)]
    assert len(watchful.client.workers()) == 1
    os.kill(victim, signal.SIGCONT)
    until(lambda: gone(victim), "the worker that was lost to end")


# --- scheduler, nanny, client ------------------------------------------------------------------------------------------


def test_scheduler_killed_is_told_to_the_client_and_ends_the_workers(scene: Scene) -> None:
    """The client hears of it within 2 s, workers end within 10 s, the port is free."""
    future = scene.client.submit(square, scene.folder, 3, 60.0)
    trace_of(scene, "3")
    start = time.monotonic()
    os.kill(scene.cluster.scheduler_pid, signal.SIGKILL)
    with pytest.raises(SchedulerLost):
        future.result(BOUND_S)
    assert time.monotonic() - start < 2
    until(lambda: not scene.cluster.worker_pids(), "the workers to end", 10)


def test_scheduler_stopped_for_a_while_resumes(watchful: Scene) -> None:
    """A scheduler that wakes up after its own timeout does not take everybody for lost."""
    os.kill(watchful.cluster.scheduler_pid, signal.SIGSTOP)
    futures = watchful.client.map(square, [watchful.folder] * 10, range(10))
    threading.Event().wait(4.0)
    os.kill(watchful.cluster.scheduler_pid, signal.SIGCONT)
    assert [f.result(BOUND_S) for f in futures] == [x * x for x in range(10)]
    assert len(watchful.client.workers()) == 2


def test_nanny_killed_ends_everything_within_two_seconds(scene: Scene) -> None:
    """No orphan; the client is told."""
    future = scene.client.submit(square, scene.folder, 3, 60.0)
    trace_of(scene, "3")
    os.kill(scene.nanny_pid, signal.SIGKILL)
    until(lambda: all(map(gone, scene.family)), "all processes to end", 2.0)
    with pytest.raises(SchedulerLost):
        future.result(BOUND_S)


@pytest.mark.parametrize("busy", [False, True])
def test_client_killed_takes_its_cluster_along(tmp_path: Path, busy: bool) -> None:
    """kill -9 of the user's program, idle or with tasks under way, leaves no process and no port."""
    program = f"""
import os, sys, time, psutil
from parml_core.client import Client, LocalCluster
cluster = LocalCluster(2, dashboard_port=None)
client = Client(cluster)
if {busy}:
    futures = client.map(time.sleep, [60, 60, 60])
print(psutil.Process(cluster.scheduler_pid).ppid(), cluster.scheduler_pid, *cluster.worker_pids().values(), flush=True)
time.sleep(3600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as user:
        assert user.stdout is not None
        family = [int(pid) for pid in user.stdout.readline().split()]
        user.kill()
    assert len(family) == 4
    until(lambda: all(map(gone, family)), "all processes to end", 5)


def test_ctrl_c_during_start_leaves_nothing(tmp_path: Path) -> None:
    """At whatever moment: exit within 3 s, no process, no file."""
    program = (
        "import sys; print('!', flush=True); from parml_core.client import LocalCluster; LocalCluster(2, dashboard_port=None)"
    )
    for delay_s in (0.02, 0.1, 0.15, 0.2, 0.25, 0.3):
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path), MARK: str(tmp_path)},
        ) as user:
            assert user.stdout is not None and user.stdout.read(1) == b"!"
            threading.Event().wait(delay_s)
            user.send_signal(signal.SIGINT)
            start = time.monotonic()
            user.wait(BOUND_S)
            assert time.monotonic() - start < 3
        until(lambda: not marked(tmp_path), "all processes to end", 5)
        assert os.listdir(tmp_path) == []


def test_stderr_that_nobody_reads_does_not_stop_the_nanny(tmp_path: Path) -> None:
    """A full pipe would block whoever writes to it: the nanny drops lines instead, and goes on restarting workers."""
    program = """
import os, signal, sys, time
from parml_core.client import LocalCluster
import fcntl
fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 4096)
cluster = LocalCluster(1, dashboard_port=None)
os.set_blocking(2, False)
try:
    while True: os.write(2, b"x" * 512)
except BlockingIOError: pass
os.set_blocking(2, True)
for _ in range(3):
    pid = cluster.worker_pids()["worker-0"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while cluster.worker_pids().get("worker-0", pid) == pid and time.monotonic() < deadline: time.sleep(0.01)
    assert cluster.worker_pids()["worker-0"] != pid
cluster.close()
print("done", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"done\n"


# --- ranks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_rank_killed_ends_its_gang_with_a_clear_error(scene: Scene, number: signal.Signals) -> None:
    """All ranks end, the error names the lost one and its worker, no process is left, and the next gang works."""
    futures = scene.client.gang(wait_in_rank, [(scene.folder, 0), (scene.folder, 1)])
    ranks = [trace_of(scene, "rank0"), trace_of(scene, "rank1")]
    start = time.monotonic()
    os.kill(ranks[1], number)
    for future in futures:
        with pytest.raises(GangError, match="worker-"):
            future.result(BOUND_S)
    assert time.monotonic() - start < 5
    until(lambda: all(map(gone, ranks)), "all ranks to end")
    again = scene.client.gang(square, [(scene.folder, 2), (scene.folder, 3)])
    assert [f.result(BOUND_S) for f in again] == [4, 9]


def test_rank_stopped_ends_its_gang_after_its_silence(tmp_path: Path) -> None:
    """SIGSTOP is noticed by silence: 2 s here, 10 s by default."""
    scene = Scene(tmp_path, **{"worker.rank_timeout_s": 2.0})
    with contextlib.closing(scene):
        futures = scene.client.gang(wait_in_rank, [(scene.folder, 0), (scene.folder, 1)])
        ranks = [trace_of(scene, "rank0"), trace_of(scene, "rank1")]
        os.kill(ranks[0], signal.SIGSTOP)
        for future in futures:
            with pytest.raises(GangError, match="silent"):
                future.result(BOUND_S)
        until(lambda: all(map(gone, ranks)), "all ranks to end")


def test_worker_of_a_rank_killed_ends_the_rank(scene: Scene) -> None:
    """A rank does not outlive its worker, and its gang is told."""
    futures = scene.client.gang(wait_in_rank, [(scene.folder, 0), (scene.folder, 1)])
    ranks = [trace_of(scene, "rank0"), trace_of(scene, "rank1")]
    os.kill(next(iter(scene.cluster.worker_pids().values())), signal.SIGKILL)
    for future in futures:
        with pytest.raises(GangError, match="worker-"):
            future.result(BOUND_S)
    until(lambda: all(map(gone, ranks)), "all ranks to end")


# --- many times --------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_clusters_one_after_the_other_leak_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors, threads, children, files and shared memory are as many as before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    me = psutil.Process()

    def cycle() -> None:
        with LocalCluster(1, dashboard_port=None) as cluster, Client(cluster) as client:
            assert client.submit(abs, -1).result(BOUND_S) == 1

    def count() -> tuple[int, int, list[str]]:
        return me.num_threads(), len(me.children()), os.listdir(tmp_path)

    for _ in range(3):
        cycle()
    before, fds = count(), me.num_fds()
    for _ in range(often(20)):
        cycle()
    assert count() == before and abs(me.num_fds() - fds) <= 2

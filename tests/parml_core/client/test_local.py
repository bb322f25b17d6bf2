"""LocalCluster with real processes: how it starts, what it tells, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parml_core.client.client import Client
from parml_core.client.local import LocalCluster
from parml_core.comm import Credentials, connect, my_versions
from parml_core.deploy.scheduler_file import read_scheduler_file
from parml_core.errors import ClusterError, ConfigError
from parml_core.protocol.messages import AskState, Hello, StateIs, ToClient, decoder_of, encoder
from parml_core.runtime import machine

BOUND_S = 15.0
ROOT = Path(__file__).resolve().parents[3]


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


def family_of(cluster: LocalCluster) -> list[int]:
    return [cluster.scheduler_pid, psutil.Process(cluster.scheduler_pid).ppid(), *cluster.worker_pids().values()]


def state_of(cluster: LocalCluster) -> dict[str, Any]:
    """What the scheduler says of itself."""

    async def ask() -> dict[str, Any]:
        hello = Hello("client", f"test-{os.getpid()}", my_versions())
        comm = await connect(cluster.scheduler_address, credentials=Credentials(cluster.secret), hello=hello)
        comm.write(encoder.encode([AskState(1)]))
        while True:
            for message in decoder_of(ToClient).decode((await comm.read())[0]):
                if isinstance(message, StateIs):
                    await comm.close()
                    return message.state

    return asyncio.run(asyncio.wait_for(ask(), BOUND_S))


@pytest.fixture
def folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clusters put their files during this test, and nobody else."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    cluster = LocalCluster(2, dashboard_port=None)
    yield cluster
    family = [] if cluster.closed else family_of(cluster)
    cluster.close()
    assert all(map(gone, family))


def test_local_cluster_starts_registered_workers(cluster: LocalCluster) -> None:
    """When the constructor returns, the scheduler knows all workers."""
    workers = state_of(cluster)["workers"]
    assert sorted(w["name"] for w in workers) == sorted(cluster.worker_pids()) == ["worker-0", "worker-1"]
    assert all(w["memory_limit_bytes"] == machine.memory_bytes() // 2 for w in workers)


def test_local_cluster_options_reach_the_workers() -> None:
    """Names, threads and limits are those that were asked for."""
    with LocalCluster(1, 3, memory_limit="1GiB", dashboard_port=None, name="alice", resources={"GPU": 1}) as cluster:
        (worker,) = state_of(cluster)["workers"]
        assert (worker["name"], worker["nthreads"], worker["memory_limit_bytes"]) == ("alice-0", 3, 2**30)


def test_local_cluster_close_leaves_no_process_port_or_file(cluster: LocalCluster) -> None:
    """Everything that it made is gone, within 5 s; a second close does nothing."""
    family, file = family_of(cluster), Path(cluster.scheduler_file)
    port = int(cluster.scheduler_address.rpartition(":")[2])
    start = time.monotonic()
    cluster.close()
    assert time.monotonic() - start < 5
    cluster.close()
    assert all(map(gone, family)) and not file.exists() and cluster.worker_pids() == {}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_local_cluster_ten_cycles_leak_nothing(folder_of_files: Path) -> None:
    """Descriptors, threads, children and files are as many as before."""
    me = psutil.Process()

    def count() -> tuple[int, int, int, int]:
        return me.num_fds(), me.num_threads(), len(me.children()), len(os.listdir(folder_of_files))

    LocalCluster(1, dashboard_port=None).close()
    before = count()
    for _ in range(10):
        LocalCluster(1, dashboard_port=None).close()
    assert count() == before


def test_local_cluster_closes_although_all_its_processes_are_stopped(cluster: LocalCluster) -> None:
    """SIGKILL ends what SIGTERM cannot."""
    family = family_of(cluster)
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    cluster.close()
    assert time.monotonic() - start < 5
    until(lambda: all(map(gone, family)), "all processes to end")


def test_local_cluster_that_nobody_holds_is_closed() -> None:
    """Garbage collection closes it."""
    cluster = LocalCluster(1, dashboard_port=None)
    family = family_of(cluster)
    del cluster
    gc.collect()
    assert all(map(gone, family))


def test_local_cluster_scheduler_file_is_for_its_owner_alone(cluster: LocalCluster) -> None:
    """It holds the secret: mode 0600, where nobody else may look; and it says what is needed to connect."""
    path = Path(cluster.scheduler_file)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o500
    found = read_scheduler_file(path)
    assert (found.address, found.secret) == (cluster.scheduler_address, cluster.secret)
    assert set(json.loads(path.read_text())) == {"address", "secret", "dashboard", "versions"}


def test_local_cluster_shows_its_secret_nowhere(cluster: LocalCluster) -> None:
    """Not in its repr, and not in the arguments or environment of its processes."""
    secret = cluster.secret.hex()
    shown = repr(cluster)
    for pid in family_of(cluster):
        shown += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    assert secret not in shown and repr(cluster.secret)[2:-1] not in shown


def test_local_cluster_listens_on_loopback_alone() -> None:
    """No port of any of its processes is reachable from outside, the dashboard's included."""
    with LocalCluster(2, dashboard_port=0) as cluster:
        listening = [
            c.laddr.ip for pid in family_of(cluster) for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"
        ]
        assert cluster.dashboard_url is not None and cluster.dashboard_url.startswith("http://127.0.0.1:")
        assert len(listening) == 4 and set(listening) == {"127.0.0.1"}


def test_local_cluster_with_dashboard_port_in_use_takes_another_and_warns() -> None:
    """Two clusters on one machine are nothing unusual."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.warns(UserWarning, match=f"port {port} is in use"), LocalCluster(1, dashboard_port=port) as cluster:
            assert cluster.dashboard_url is not None and f":{port}/" not in cluster.dashboard_url


def test_local_cluster_with_free_dashboard_port_does_not_warn() -> None:
    """The warning is for what is unusual."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with LocalCluster(0, dashboard_port=port) as cluster:
            assert cluster.dashboard_url is not None and f":{port}/" in cluster.dashboard_url


def test_local_cluster_with_settings_that_do_not_exist_starts_nothing() -> None:
    """A wrong argument is told before there is a process."""
    before = len(psutil.Process().children())
    with pytest.raises(ConfigError, match="heartbeat"):
        LocalCluster(1, settings={"worker.hartbeat_s": 1})
    with pytest.raises(ConfigError, match="such as '2GiB'"):
        LocalCluster(1, memory_limit="much")
    assert len(psutil.Process().children()) == before


def test_local_cluster_whose_workers_cannot_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder_of_files: Path
) -> None:
    """The scheduler dies before the workers start: the error has the worker's own reason, and is told once."""
    start = LocalCluster._start

    def start_and_kill(self: LocalCluster, *args: Any) -> None:
        start(self, *args)
        os.kill(self.scheduler_pid, signal.SIGKILL)
        until(lambda: gone(self.scheduler_pid), "the scheduler to die")

    monkeypatch.setattr(LocalCluster, "_start", start_and_kill)
    me = psutil.Process()
    before = me.num_fds(), len(me.children()), os.listdir(folder_of_files)
    with pytest.raises(ClusterError, match=r"worker 'worker-0' to start, found: .*127\.0\.0\.1:\d+"):
        LocalCluster(1, dashboard_port=None, settings={"comm.connect_timeout_s": 1})
    assert (me.num_fds(), len(me.children()), os.listdir(folder_of_files)) == before
    assert "Traceback" not in capfd.readouterr().err


def test_local_cluster_worker_killed_comes_back_under_its_name(cluster: LocalCluster) -> None:
    """worker_pids tells the new pid, and the scheduler knows the new incarnation."""
    old = cluster.worker_pids()["worker-0"]
    os.kill(old, signal.SIGKILL)
    until(lambda: cluster.worker_pids().get("worker-0", old) != old, "another pid")
    until(lambda: len(state_of(cluster)["workers"]) == 2, "two registered workers")
    assert gone(old)


def test_local_cluster_in_a_forked_child_is_the_parents(cluster: LocalCluster) -> None:
    """close and exit in a forked child leave the cluster as it is."""
    forked = os.fork()
    if forked == 0:
        cluster.close()
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0
    assert len(state_of(cluster)["workers"]) == 2


PROGRAM = """
import os, signal, sys, time
from parml_core.client.local import LocalCluster
import psutil
cluster = LocalCluster(2, dashboard_port=None)
nanny = psutil.Process(cluster.scheduler_pid).ppid()
print(nanny, cluster.scheduler_pid, *cluster.worker_pids().values(), flush=True)
{rest}
"""


def run_program(rest: str) -> tuple[subprocess.Popen[str], list[int]]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(rest=rest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert program.stdout is not None
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 4, program.communicate()[1]
    return program, pids


@pytest.mark.parametrize("rest", ["", "sys.exit(3)", "raise ValueError('on purpose')", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_local_cluster_ends_with_its_program(rest: str) -> None:
    """However the program ends, without having closed."""
    program, family = run_program(rest)
    program.communicate(timeout=BOUND_S)
    until(lambda: all(map(gone, family)), "all processes to end")


def test_local_cluster_survives_ctrl_c_until_the_program_closes_it() -> None:
    """Ctrl-C goes to all processes of a terminal; the program alone decides what ends."""
    program, family = run_program(
        """
try:
    print('asleep', flush=True)
    time.sleep(3600)
except KeyboardInterrupt:
    print([psutil.pid_exists(p) for p in [cluster.scheduler_pid, *cluster.worker_pids().values()]], flush=True)
    raise
"""
    )
    assert program.stdout is not None and program.stdout.readline() == "asleep\n"
    os.killpg(program.pid, signal.SIGINT)
    for pid in family:
        os.kill(pid, signal.SIGINT)
    start = time.monotonic()
    out, err = program.communicate(timeout=BOUND_S)
    assert time.monotonic() - start < 3
    assert out.strip() == "[True, True, True]" and err.count("Traceback") == 1
    until(lambda: all(map(gone, family)), "all processes to end")


@pytest.mark.parametrize(
    ("cores", "asked", "expected"),
    [
        (1, (None, None), (1, 1)),
        (4, (None, None), (4, 1)),
        (8, (None, None), (4, 2)),
        (16, (None, None), (4, 4)),
        (64, (None, None), (8, 8)),
        (7, (None, None), (7, 1)),
        (8, (2, None), (2, 4)),
        (8, (None, 4), (2, 4)),
        (2, (8, None), (8, 1)),
        (8, (0, None), (0, 8)),
        (8, (3, 5), (3, 5)),
    ],
)
def test_machine_shape_fills_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, asked: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    """What is left open is chosen so that threads times workers come near the cores."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert machine.shape(*asked) == expected


def test_machine_cores_follow_the_affinity() -> None:
    """A process that may use one core counts one."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from parml_core.runtime import machine; print(machine.cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == "1"


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        ({"cpu.max": "max 100000", "memory.max": "max"}, 8, None),
        ({"cpu.max": "250000 100000", "memory.max": "1073741824"}, 3, 2**30),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "9223372036854771712"}, 8, None),
        ({"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "2097152"}, 1, 2**21),
    ],
)
def test_machine_respects_cgroups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cpus: int, memory: int | None
) -> None:
    """A container's share counts, not the machine that it runs on; both versions of cgroups."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "_cgroup_folders", lambda controller: [tmp_path])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine.cores() == cpus
    assert machine.memory_bytes() == (memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def test_local_cluster_starts_beside_files_with_the_names_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the current directory is nothing that a cluster imports."""
    for name in ("selectors", "parml_core", "asyncio"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    with LocalCluster(1, 1, dashboard_port=None) as cluster, Client(cluster) as client:
        assert client.submit(abs, -1).result(20) == 1

"""The nanny with real processes: what it forks, what it restarts, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from parml_core.errors import ClusterError, ConfigError
from parml_core.runtime.nanny_protocol import Spawn
from parml_core.runtime.supervisor import Supervisor

BOUND_S = 10.0


@pytest.fixture(autouse=True)
def targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def supervisor(targets: None) -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    family = [supervisor.nanny_pid, *supervisor.pids.values()]
    supervisor.close()
    assert all(map(gone, family))


def until(condition: Callable[[], bool], what: str, bound_s: float = BOUND_S) -> None:
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {bound_s} s"
        select.select([], [], [], 0.005)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def spawn(supervisor: Supervisor, function: str, payload: bytes = b"", name: str = "", **policy: object) -> tuple[int, int]:
    """(pid, read end of the pipe that the process writes to)."""
    read, write = os.pipe()
    pid = supervisor.spawn(Spawn(0, name or function, f"nanny_targets:{function}", payload, **policy), [write])
    return pid, read


def read_all(fd: int, bound_s: float = BOUND_S) -> bytes:
    with os.fdopen(fd, "rb") as file:
        assert select.select([file], [], [], bound_s)[0], "expected the process to say something"
        return file.read()


def test_nanny_spawn_gives_the_child_what_is_its_own_and_nothing_else(supervisor: Supervisor) -> None:
    """A child has the root's directory and modules, its descriptors, and none of the nanny's or of its siblings."""
    spawn(supervisor, "wait", name="sibling")
    pid, read = spawn(supervisor, "tell", b"hello", threads=3)
    story = json.loads(read_all(read))
    assert story["pid"] == pid and story["payload"] == "hello" and story["omp"] == "3"
    assert story["cwd"] == os.getcwd() and story["path"] == sys.path
    assert story["pythonpath"] == os.environ.get("PYTHONPATH")
    assert story["fds"] == sorted([0, 1, 2, *story["mine"]])
    assert story["sigint_ignored"] and story["sigterm_default"]
    assert story["group"] == pid


def test_nanny_spawn_never_shows_the_payload_in_argv_or_environment(supervisor: Supervisor) -> None:
    """The payload holds the cluster's secret: other users of the machine must not see it."""
    _, read = spawn(supervisor, "tell", b"the-secret")
    story = json.loads(read_all(read))
    nanny = psutil.Process(supervisor.nanny_pid)
    shown = story["argv_and_environment"] + " ".join(nanny.cmdline()) + str(nanny.environ())
    assert "the-secret" not in shown
    assert "the-secret" not in repr(Spawn(0, "a", "b:c", b"the-secret"))


def test_nanny_spawn_of_two_children_gives_them_different_random_numbers(supervisor: Supervisor) -> None:
    """Forked generators would else repeat each other, those of random and of numpy."""
    stories = [json.loads(read_all(spawn(supervisor, "tell", name=f"t{i}", preload=["numpy"])[1])) for i in range(2)]
    assert stories[0]["random"] != stories[1]["random"]
    assert stories[0]["numpy_random"] != stories[1]["numpy_random"]


def test_nanny_stays_single_threaded_with_numerical_libraries_loaded(supervisor: Supervisor) -> None:
    """Forking is safe only from one thread; jemalloc's in pyarrow guards itself."""
    _, read = spawn(supervisor, "tell", preload=["numpy", "pandas", "pyarrow", "xgboost"])
    read_all(read)
    threads = psutil.Process(supervisor.nanny_pid).threads()
    names = [Path(f"/proc/{supervisor.nanny_pid}/task/{thread.id}/comm").read_text().strip() for thread in threads]
    assert [name for name in names if name != "jemalloc_bg_thd"] == ["python"]


@pytest.mark.parametrize(
    ("target", "preload", "text"),
    [
        ("no_such_module:f", [], "no_such_module"),
        ("nanny_targets:no_such_function", [], "no_such_function"),
        ("nanny_targets:tell", ["no_such_library"], "no_such_library"),
    ],
)
def test_nanny_spawn_of_what_cannot_be_imported_says_so(
    supervisor: Supervisor, target: str, preload: list[str], text: str
) -> None:
    """The error names the module or function, and the nanny lives."""
    with pytest.raises(ClusterError, match=text):
        supervisor.spawn(Spawn(0, "x", target, preload=preload))
    read_all(spawn(supervisor, "tell")[1])


def test_nanny_spawn_with_module_that_exits_on_import_leaves_the_nanny_alive(supervisor: Supervisor, tmp_path: Path) -> None:
    """sys.exit at import is the module's fault, not the end of the host."""
    sys.path.insert(0, str(tmp_path))
    try:
        (tmp_path / "module_that_exits.py").write_text("raise SystemExit(3)")
        other = Supervisor()
    finally:
        sys.path.remove(str(tmp_path))
    with contextlib.closing(other):
        with pytest.raises(ClusterError, match=r"module_that_exits.*SystemExit"):
            other.spawn(Spawn(0, "x", "module_that_exits:f"))
        read_all(spawn(other, "tell")[1])


def test_nanny_spawn_of_a_name_in_use_is_refused(supervisor: Supervisor) -> None:
    """Names tell processes apart."""
    spawn(supervisor, "wait")
    with pytest.raises(ClusterError, match="runs already"):
        spawn(supervisor, "wait")


def test_nanny_spawn_of_a_payload_beyond_a_packet_is_refused_here(supervisor: Supervisor) -> None:
    """It would else fail in the kernel; what is large goes over channels."""
    with pytest.raises(ConfigError, match="131072"):
        supervisor.spawn(Spawn(0, "x", "nanny_targets:tell", bytes(200_000)))


@pytest.mark.parametrize(("code", "text"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV")])
def test_nanny_child_that_ends_badly_is_reported(supervisor: Supervisor, code: int, text: str) -> None:
    """How a process ended is told in words."""
    spawn(supervisor, "exit_with", str(code).encode())
    assert supervisor.wait("exit_with") == text


def test_nanny_child_that_is_done_is_not_restarted(supervisor: Supervisor) -> None:
    """A clean exit is meant."""
    spawn(supervisor, "exit_with", b"0", restart=True)
    assert supervisor.wait("exit_with") == ""
    assert supervisor.pids == {}


def test_nanny_child_that_vanishes_with_exit_code_zero_is_restarted(supervisor: Supervisor) -> None:
    """os._exit(0) in user code is no clean exit."""
    spawn(supervisor, "vanish", restart=True)
    assert "exit code 0" in supervisor.wait("vanish")


def test_nanny_child_that_is_killed_is_restarted_under_its_name(supervisor: Supervisor) -> None:
    """A worker that dies is replaced."""
    first, _ = spawn(supervisor, "wait", restart=True)
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.pids.get("wait", first) != first, "a new incarnation")
    assert gone(first)


def test_nanny_child_that_dies_again_and_again_is_given_up(supervisor: Supervisor) -> None:
    """Restarts are bounded: five within 30 s."""
    spawn(supervisor, "exit_with", b"7", restart=True)
    text = supervisor.wait("exit_with")
    assert "died 6 times" in text and "exit code 7" in text
    assert supervisor.pids == {}


def test_nanny_child_over_its_memory_is_killed_and_restarted(capfd: pytest.CaptureFixture[str]) -> None:
    """Before the kernel's OOM killer chooses somebody else."""
    with contextlib.closing(Supervisor()) as supervisor:
        first, _ = spawn(supervisor, "eat", str(200 * 2**20).encode(), restart=True, memory_bytes=100 * 2**20)
        until(lambda: supervisor.pids.get("eat", first) != first, "a new incarnation")
    assert re.search(r"memory: it used [12]\d\d MiB of its 100 MiB; restarted", capfd.readouterr().err)


def test_nanny_child_within_its_memory_lives(supervisor: Supervisor) -> None:
    """The limit is the child's own, and what it shares with the nanny does not count."""
    first, _ = spawn(supervisor, "eat", str(20 * 2**20).encode(), memory_bytes=100 * 2**20)
    big, _ = spawn(supervisor, "eat", str(200 * 2**20).encode(), name="big", memory_bytes=100 * 2**20)
    until(lambda: gone(big) and "big" not in supervisor.pids, "the larger one to be killed")
    assert supervisor.pids == {"eat": first}


def test_nanny_close_ends_a_child_that_ignores_sigterm(supervisor: Supervisor) -> None:
    """SIGTERM first, SIGKILL within 2 s."""
    pid, read = spawn(supervisor, "refuse_to_end")
    assert os.read(read, 1) == b"!"
    start = time.monotonic()
    supervisor.close()
    assert time.monotonic() - start < 4
    assert gone(pid)


def test_nanny_close_ends_a_child_that_is_stopped(supervisor: Supervisor) -> None:
    """A process that was stopped cannot keep a cluster open."""
    pid, _ = spawn(supervisor, "wait")
    os.kill(pid, signal.SIGSTOP)
    supervisor.close()
    assert gone(pid)


def test_nanny_close_when_the_nanny_is_stopped_ends_everything(supervisor: Supervisor) -> None:
    """The last resort: SIGKILL for the nanny, and the kernel kills its children."""
    pid, _ = spawn(supervisor, "wait")
    os.kill(supervisor.nanny_pid, signal.SIGSTOP)
    supervisor.close(timeout_s=0.5)
    until(lambda: gone(pid), "the child to die with the nanny")


def test_nanny_killed_takes_its_children_along(supervisor: Supervisor) -> None:
    """No orphan, however the nanny ends."""
    pids = [spawn(supervisor, "wait", name=f"w{i}", restart=True)[0] for i in range(3)]
    os.kill(supervisor.nanny_pid, signal.SIGKILL)
    until(lambda: all(map(gone, pids)), "all children to die", 2.0)
    with pytest.raises(ClusterError, match="nanny"):
        supervisor.wait("w0")
    with pytest.raises(ClusterError, match="nanny"):
        spawn(supervisor, "wait")


def test_nanny_child_that_dies_takes_its_programs_along(supervisor: Supervisor) -> None:
    """What a task started goes with its worker."""
    pid, read = spawn(supervisor, "have_a_child")
    program = int(os.read(read, 20))
    assert psutil.pid_exists(program)
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(program), "the program to be killed")


def test_nanny_sigterm_ends_everything_in_order(supervisor: Supervisor) -> None:
    """An operator may end a nanny as any other process."""
    pid, _ = spawn(supervisor, "wait", restart=True)
    os.kill(supervisor.nanny_pid, signal.SIGTERM)
    until(lambda: gone(pid) and gone(supervisor.nanny_pid), "everything to end")


def test_nanny_restart_storm_does_not_leak_descriptors(supervisor: Supervisor) -> None:
    """Each child's link is closed when it ends."""
    read_all(spawn(supervisor, "tell", name="warm")[1])
    supervisor.wait("warm")
    before = psutil.Process(supervisor.nanny_pid).num_fds()
    for i in range(30):
        read_all(spawn(supervisor, "tell", name=f"t{i}")[1])
        supervisor.wait(f"t{i}")
    assert psutil.Process(supervisor.nanny_pid).num_fds() == before


def test_nanny_parent_killed_leaves_nothing(tmp_path: Path) -> None:
    """kill -9 of the user's program, even while a process that it forked holds copies of its sockets."""
    program = """
import os, sys, time
from parml_core.runtime.nanny_protocol import Spawn
from parml_core.runtime.supervisor import Supervisor
s = Supervisor()
pid = s.spawn(Spawn(0, "wait", "nanny_targets:wait", restart=True))
child = os.fork()
if child == 0:
    time.sleep(3600)
print(s.nanny_pid, pid, child, flush=True)
time.sleep(3600)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(Path(__file__).parent)])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        nanny, child, forked = map(int, parent.stdout.readline().split())
        parent.kill()
    try:
        until(lambda: gone(nanny) and gone(child), "nanny and child to end")
    finally:
        os.kill(forked, signal.SIGKILL)


def test_nanny_supervisor_in_a_forked_child_closes_nothing(supervisor: Supervisor) -> None:
    """A program may fork while it has a cluster; the cluster stays the parent's."""
    spawn(supervisor, "wait")
    forked = os.fork()
    if forked == 0:
        supervisor.close()
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0
    read_all(spawn(supervisor, "tell")[1])
    assert "wait" in supervisor.pids


def test_nanny_twenty_cycles_leave_descriptors_and_threads_as_they_were() -> None:
    """Opening and closing leaks nothing here."""
    me = psutil.Process()
    Supervisor().close()
    before = me.num_fds(), me.num_threads(), len(me.children())
    for _ in range(20):
        Supervisor().close()
    assert (me.num_fds(), me.num_threads(), len(me.children())) == before


def test_foreseen_module_is_imported_when_nothing_else_is_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all processes to come; one that cannot be imported harms nobody."""
    (tmp_path / "needed_later.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('once ')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    supervisor = Supervisor()
    try:
        supervisor.foresee(["no_such_module", "needed_later"])
        until((tmp_path / "imported").exists, "the module to be imported")
        _, read = spawn(supervisor, "tell")
        os.close(read)
        assert (tmp_path / "imported").read_text() == "once "
    finally:
        supervisor.close()

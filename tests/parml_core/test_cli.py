"""The command line as its users see it: real processes, their output, exit codes and signals."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parml_core import cli

BOUND_S = 15.0
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


class Terminal:
    """Runs commands as a user of this machine would, with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PARML_", "XDG_"))}
        self.environment.update(HOME=str(home), PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
        self.default_file = home / ".cache" / "parml" / "scheduler.json"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-m", "parml_core.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment,
        )
        self.started.append(program)
        return program

    def run(self, *arguments: str) -> tuple[int, str, str]:
        program = self.start(*arguments)
        out, err = program.communicate(timeout=BOUND_S)
        return program.returncode, out, err

    def start_scheduler(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """A running scheduler and what it printed."""
        program = self.start("scheduler", "--port", "0", "--dashboard-port", "0", *arguments)
        return program, read_to(program, "Connect with")

    def start_worker(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        program = self.start("worker", *arguments)
        return program, read_to(program, "works for")


def read_to(program: subprocess.Popen[str], mark: str) -> str:
    """The program's output up to the line with `mark`."""
    assert program.stdout is not None and program.stderr is not None
    text = ""
    while mark not in text:
        line = program.stdout.readline()
        assert line, f"expected {mark!r}, found {text!r} and {program.stderr.read()!r}"
        text += line
    return text


def end(program: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str, float]:
    """(exit code, stderr, seconds) after a signal."""
    start = time.monotonic()
    program.send_signal(number)
    _, err = program.communicate(timeout=BOUND_S)
    return program.returncode, err, time.monotonic() - start


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    for program in terminal.started:
        if program.poll() is None:
            program.kill()
        program.communicate(timeout=BOUND_S)


def test_cli_scheduler_prints_address_dashboard_file_and_the_next_command(terminal: Terminal) -> None:
    """What a user needs next stands on the screen; the secret does not."""
    program, text = terminal.start_scheduler()
    path = terminal.default_file
    assert re.search(r"tcp://127\.0\.0\.1:\d+", text) and re.search(r"http://127\.0\.0\.1:\d+/status", text)
    assert f"parml worker {path} --name work-01" in text and f"Client('{path}')" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().split('"secret"')[1].split('"')[1]
    assert len(secret) == 64 and secret not in text
    assert end(program)[0] == 130


def test_cli_printed_worker_command_works(terminal: Terminal) -> None:
    """The line that the scheduler prints can be pasted."""
    _, text = terminal.start_scheduler()
    command = next(line for line in text.splitlines() if line.startswith("Start workers with")).split("parml ")[1]
    _, said = terminal.start_worker(*command.split()[1:])
    assert "work-01" in said


def test_cli_info_shows_workers_by_name(terminal: Terminal) -> None:
    """A table of workers and tasks, from the default file, from a path and from an address."""
    _, text = terminal.start_scheduler()
    terminal.start_worker("--name", "work-01", "--nthreads", "3", "--memory-limit", "2GiB", "--resources", "GPU=1")
    address = re.search(r"tcp://\S+", text)
    assert address is not None
    for where in ((), (str(terminal.default_file),), (address[0],), (address[0].removeprefix("tcp://"),)):
        code, out, err = terminal.run("info", *where)
        assert code == 0 and not err
        assert re.search(r"work-01 +3 +0 +0 +0 .* 2,048 MiB", out) and "TASKS   none" in out


def test_cli_scheduler_file_variable_is_honoured(terminal: Terminal, tmp_path: Path) -> None:
    """By the scheduler that writes it, and by worker and info."""
    terminal.environment["PARML_SCHEDULER_FILE"] = str(tmp_path / "here" / "s.json")
    terminal.start_scheduler()
    assert (tmp_path / "here" / "s.json").is_file() and not terminal.default_file.exists()
    terminal.start_worker("--name", "w")
    assert " 2 " not in terminal.run("info")[2]


def test_cli_secret_variable_serves_with_an_address(terminal: Terminal, tmp_path: Path) -> None:
    """Without a shared file: address and PARML_SECRET, at both ends."""
    terminal.environment["PARML_SECRET"] = "ab" * 32
    _, text = terminal.start_scheduler("--scheduler-file", str(tmp_path / "elsewhere.json"))
    address = re.search(r"tcp://\S+", text)
    assert address is not None
    terminal.start_worker(address[0])
    terminal.environment["PARML_SECRET"] = "cd" * 32
    code, _, err = terminal.run("info", address[0])
    assert code == 1 and "secret" in err and err.count("\n") == 1
    del terminal.environment["PARML_SECRET"]
    code, _, err = terminal.run("info", address[0])
    assert code == 1 and "PARML_SECRET" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_cli_signals_end_scheduler_and_worker_quickly_and_quietly(terminal: Terminal, number: int, code: int) -> None:
    """Within 3 s, with the right code, no traceback, and nothing left."""
    scheduler, _ = terminal.start_scheduler()
    worker, _ = terminal.start_worker()
    family = [child.pid for program in (worker, scheduler) for child in psutil.Process(program.pid).children(recursive=True)]
    assert len(family) == 4
    for program in (worker, scheduler):
        found, err, took = end(program, number)
        assert (found, err) == (code, "") and took < 3
    assert all(map(gone, family)) and not terminal.default_file.exists()


def test_cli_second_ctrl_c_does_not_interrupt_the_end(terminal: Terminal) -> None:
    """Impatience leaves no process behind."""
    worker_of, _ = terminal.start_scheduler()
    family = [child.pid for child in psutil.Process(worker_of.pid).children(recursive=True)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)  # so that the end takes a while
    worker_of.send_signal(signal.SIGINT)
    until(lambda: worker_of.poll() is not None or _ignores_sigint(worker_of.pid), "the first Ctrl-C to be heard")
    found, err, _ = end(worker_of)
    assert (found, err) == (130, "")
    until(lambda: all(map(gone, family)), "all processes to end")


def _ignores_sigint(pid: int) -> bool:
    with contextlib.suppress(OSError):
        ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        return ignored is not None and bool(int(ignored[1], 16) >> (signal.SIGINT - 1) & 1)
    return True


def test_cli_killed_leaves_nothing(terminal: Terminal) -> None:
    """kill -9 of the command ends the processes that it stands for."""
    scheduler, _ = terminal.start_scheduler()
    worker, _ = terminal.start_worker()
    family = [child.pid for program in (worker, scheduler) for child in psutil.Process(program.pid).children(recursive=True)]
    for program in (worker, scheduler):
        program.kill()
    until(lambda: all(map(gone, family)), "all processes to end")


def test_cli_worker_whose_scheduler_closes_ends_cleanly(terminal: Terminal) -> None:
    """A worker does not outlive its cluster, and that is no error."""
    scheduler, _ = terminal.start_scheduler()
    worker, _ = terminal.start_worker()
    end(scheduler)
    _, err = worker.communicate(timeout=BOUND_S)
    assert (worker.returncode, err) == (0, "")


def test_cli_worker_killed_is_restarted(terminal: Terminal) -> None:
    """The command stands for the worker, whatever happens to one process."""
    terminal.start_scheduler()
    worker, _ = terminal.start_worker("--name", "work-01")
    nanny = psutil.Process(worker.pid).children()[0]
    (old,) = nanny.children()
    os.kill(old.pid, signal.SIGKILL)
    until(lambda: [p.pid for p in nanny.children() if p.pid != old.pid], "a new process")
    until(lambda: "work-01" in terminal.run("info")[1], "the new worker to register")
    assert worker.poll() is None


def test_cli_scheduler_killed_is_an_error_in_one_line(terminal: Terminal) -> None:
    """The command says how it ended; the nanny says so too."""
    scheduler, _ = terminal.start_scheduler()
    nanny = psutil.Process(scheduler.pid).children()[0]
    os.kill(nanny.children()[0].pid, signal.SIGKILL)
    _, err = scheduler.communicate(timeout=BOUND_S)
    assert scheduler.returncode == 1 and "scheduler has ended: killed by SIGKILL" in err and "Traceback" not in err
    assert not terminal.default_file.exists()


def test_cli_scheduler_with_port_in_use_says_which(terminal: Terminal) -> None:
    """One line, exit code 1, nothing left."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, out, err = terminal.run("scheduler", "--port", str(port), "--dashboard-port", "0")
    assert code == 1 and not out and str(port) in err and err.count("\n") == 1
    assert not terminal.default_file.exists()


def test_cli_scheduler_file_in_a_place_that_cannot_be_written_says_so(terminal: Terminal, tmp_path: Path) -> None:
    """The place is named, and the scheduler does not stay behind."""
    (tmp_path / "file").touch()
    code, _, err = terminal.run(
        "scheduler", "--port", "0", "--dashboard-port", "0", "--scheduler-file", str(tmp_path / "file" / "s.json")
    )
    assert code == 1 and str(tmp_path / "file") in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "COMMAND"),
        (("nonsense",), 2, "nonsense"),
        (("scheduler", "--port", "70000"), 2, "70000"),
        (("scheduler", "--host", "no.such.host.invalid"), 2, "no.such.host.invalid"),
        (("scheduler", "--host", "192.0.2.1"), 2, "--allow-insecure"),
        (("scheduler", "--host", "0.0.0.0"), 2, "by which others reach"),
        (("worker", "--nthreads", "0"), 2, "'0'"),
        (("worker", "--resources", "GPU"), 2, "NAME=AMOUNT"),
        (("worker",), 1, "scheduler.json"),
        (("info", "/no/such/file"), 1, "/no/such/file"),
        (("info", "tcp://127.0.0.1:1"), 1, "PARML_SECRET"),
    ],
)
def test_cli_wrong_usage_is_told(terminal: Terminal, arguments: tuple[str, ...], code: int, text: str) -> None:
    """Code 2 and the usage for what can be seen from the command alone, 1 and one line for the rest."""
    found, out, err = terminal.run(*arguments)
    assert found == code and text in err and not out and "Traceback" not in err
    assert code == 2 or err.count("\n") == 1


def test_cli_worker_with_memory_limit_that_is_none_says_so(terminal: Terminal) -> None:
    """Before anything starts."""
    terminal.start_scheduler()
    code, _, err = terminal.run("worker", "--memory-limit", "much")
    assert code == 1 and "'much'" in err and err.count("\n") == 1


def test_cli_worker_with_scheduler_that_is_gone_says_so_once(terminal: Terminal) -> None:
    """The worker's own reason in one line, and no restart."""
    terminal.environment["PARML_SECRET"] = "ab" * 32
    terminal.environment["PARML_COMM__CONNECT_TIMEOUT_S"] = "1"
    code, _, err = terminal.run("worker", "tcp://127.0.0.1:1")
    assert code == 1 and "127.0.0.1:1" in err and err.count("\n") == 1


def test_cli_wrong_file_is_told_without_its_content(terminal: Terminal, tmp_path: Path) -> None:
    """A file that is no scheduler file may hold another secret."""
    (tmp_path / "x.json").write_text('{"password": "hunter2"}')
    code, _, err = terminal.run("info", str(tmp_path / "x.json"))
    assert code == 1 and "x.json" in err and "hunter2" not in err


def test_cli_version_and_help_do_not_load_the_cluster() -> None:
    """They answer at once."""
    program = (
        "import sys; from parml_core import cli\n"
        "try: cli.main([sys.argv[1]])\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'tornado' not in sys.modules and 'numpy' not in sys.modules"
    )
    for option in ("--version", "--help"):
        out = subprocess.check_output([sys.executable, "-c", program, option], cwd=ROOT, text=True)
        assert "parml" in out


def test_cli_table_shows_no_control_characters() -> None:
    """Names come from other machines: they must not steer a terminal."""
    worker = dict.fromkeys(("nthreads", "executing", "assigned", "held", "memory_bytes", "memory_limit_bytes"), 1)
    worker |= {"name": "\x1b[31mred\n", "cpu_percent": 1.0, "last_seen_s": 0.1}  # type: ignore[dict-item]
    groups = [{"name": "a\x07", "memory": 1, "mean_s": 0.1}]
    lines = cli._shown({"workers": [worker], "tasks": {"memory": 1}, "groups": groups})
    assert all(line.isprintable() for line in lines) and any("?[31mred?" in line for line in lines)

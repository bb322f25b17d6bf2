"""
Hosts on one machine: network namespaces, each with a cable into a bridge, on which a cluster is started with the command line.

To the processes on it a namespace is a machine of its own: it has its own addresses, ports and loopback, and reaches the
others only through its cable, which a test can cut.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from parml_core.client import Client

BOUND_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
_NET_ADMIN, _SYS_ADMIN = 12, 21  # bits of a process's capabilities
_SUBNETS = 512  # of 198.18.0.0/15, which is set apart for tests of networks
_END_ALL = """
read -r forever
for host in $HOSTS; do
    ip netns pids "$host" | xargs -r kill -9
    ip link del "$host"
    ip netns del "$host"
done
ip link del "$BRIDGE"
"""


def what_is_missing() -> str:
    """Why this process cannot make hosts; empty: it can."""
    status = Path("/proc/self/status")
    found = re.search(r"CapEff:\s*([0-9a-f]+)", status.read_text()) if status.exists() else None
    capabilities = int(found[1], 16) if found else 0
    if not (capabilities >> _NET_ADMIN & 1 and capabilities >> _SYS_ADMIN & 1):
        return "needs the rights to make network namespaces (CAP_NET_ADMIN and CAP_SYS_ADMIN, as root has them)"
    if not shutil.which("ip"):
        return "needs the command ip (Debian: iproute2)"
    probe = f"parml-probe-{os.getpid()}"
    try:
        _ip(f"netns add {probe}", f"-n {probe} link add type bridge", f"-n {probe} link add type veth")
    except AssertionError as error:
        return f"needs network namespaces, bridges and cables (veth) in the kernel ({error})"
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return ""


class Connection(NamedTuple):
    """One line of ``ss``: addresses without their ports."""

    pid: int
    state: str
    local: str
    peer: str


class Network:
    """
    A bridge at this process's end, and hosts on it. `close` it; when this process is killed, all ends as well.

    Parameters
    ----------
    n : int

    Attributes
    ----------
    address : str
        Of this process on the bridge.
    hosts : list of Host
    """

    def __init__(self, n: int) -> None:
        self._lock, subnet = _a_subnet_of_ones_own()
        self.prefix = f"198.{18 + subnet // 256}.{subnet % 256}."
        self.address = f"{self.prefix}1"
        self.bridge = f"parml{subnet}"
        names = [f"{self.bridge}-{i}" for i in range(n)]
        self._end_all = subprocess.Popen(
            ["sh", "-c", _END_ALL],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOSTS": " ".join(names), "BRIDGE": self.bridge},
            start_new_session=True,
        )
        try:
            _ip(
                f"link add {self.bridge} type bridge",
                f"addr add {self.address}/24 dev {self.bridge}",
                f"link set {self.bridge} up",
            )
            self.hosts = [Host(name, self.bridge, f"{self.prefix}{10 + i}") for i, name in enumerate(names)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._end_all.communicate(b"\n", timeout=BOUND_S)
        self._lock.close()


class Host:
    """A namespace with loopback, and a cable named like itself at the bridge's end."""

    def __init__(self, name: str, bridge: str, address: str) -> None:
        self.name = name
        self.address = address
        _ip(
            f"netns add {name}",
            f"link add {name} type veth peer name eth0 netns {name}",
            f"link set {name} master {bridge} up",
            f"-n {name} link set lo up",
            f"-n {name} link set eth0 up",
            f"-n {name} addr add {address}/24 dev eth0",
        )

    def add_other_network(self, address: str) -> None:
        """Another interface, which all that this host knows no way to is sent to, and which leads nowhere."""
        _ip(
            f"-n {self.name} link add other type veth peer name nowhere",
            f"-n {self.name} addr add {address} dev other",
            f"-n {self.name} link set nowhere up",
            f"-n {self.name} link set other up",
            f"-n {self.name} route add default dev other",
        )

    def cut_cable(self) -> None:
        _ip(f"link set {self.name} down")

    def mend_cable(self) -> None:
        _ip(f"link set {self.name} up")

    def limit_cable(self, bytes_per_s: int) -> None:
        """From now on no more than that leaves this host, but for a first burst of 64 KiB; 0: as fast as it can."""
        if bytes_per_s:
            _tc(f"-n {self.name} qdisc replace dev eth0 root tbf rate {8 * bytes_per_s}bit burst 64kb latency 200ms")
        else:
            _tc(f"-n {self.name} qdisc del dev eth0 root")

    def sent_bytes(self) -> int:
        """All that has left this host, as the bridge has counted it."""
        return int(Path(f"/sys/class/net/{self.name}/statistics/rx_bytes").read_text())

    def connections(self) -> list[Connection]:
        """All TCP sockets that processes have open here."""
        lines = subprocess.check_output(["ip", "netns", "exec", self.name, "ss", "-Htanp"], text=True).splitlines()
        return [connection for line in lines for connection in _parsed(line)]

    def run(self, program: Path, *args: str) -> subprocess.CompletedProcess[str]:
        """A Python program on this host, up to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, sys.executable, str(program), *args],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * BOUND_S,
            check=False,
        )

    def processes(self) -> list[int]:
        return [int(pid) for pid in subprocess.check_output(["ip", "netns", "pids", self.name], text=True).split()]


def _a_subnet_of_ones_own() -> tuple[socket.socket, int]:
    """A number that no other process on this machine has, for as long as the socket is open."""
    for i in range(_SUBNETS):
        lock, subnet = socket.socket(socket.AF_UNIX), (os.getpid() + i) % _SUBNETS
        try:
            lock.bind(f"\0parml-tests-subnet-{subnet}")
        except OSError:
            lock.close()
        else:
            return lock, subnet
    raise AssertionError(f"expected one of {_SUBNETS} networks to be free, found none")


def _ip(*lines: str) -> None:
    for line in lines:
        _run("ip", line)


def _tc(line: str) -> None:
    _run("tc", line)


def _run(command: str, line: str) -> None:
    done = subprocess.run([command, *line.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} {line}: {done.stderr}"


def _parsed(line: str) -> list[Connection]:
    state, _, _, local, peer, *users = line.split()
    ends = (local.rpartition(":")[0], peer.rpartition(":")[0])
    return [Connection(int(pid), state, *ends) for pid in re.findall(r"pid=(\d+)", " ".join(users))]


class Cluster:
    """
    A scheduler on one host and workers on others, each typed into a terminal of its own, and a client in this process.

    Parameters
    ----------
    folder : Path
    scheduler_host : Host
    workers : sequence of (Host, str, int)
        Each with its name and its number of threads.
    settings : mapping, optional
        As in the environment: ``PARML_SCHEDULER__WORKER_TIMEOUT_S``.
    """

    def __init__(
        self,
        folder: Path,
        scheduler_host: Host,
        workers: Sequence[tuple[Host, str, int]],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(settings or {})}
        self._terminals: list[tuple[Host, subprocess.Popen[bytes]]] = []
        self.file = folder / "scheduler.json"
        with ExitStack() as stack:
            stack.callback(self._end)
            said = self._type(scheduler_host, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
            while not (line := said.readline()).startswith(b"Connect"):
                assert line, self.log()
            self.client = stack.enter_context(Client(self.file, set_default=False))
            self._workers = list(workers)
            for worker in workers:
                self._type_worker(*worker)
            self.client.wait_for_workers(len(workers), timeout_s=BOUND_S)
            self._stack = stack.pop_all()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def workers_of(self, host: Host) -> list[str]:
        """Ids of the workers there, in the order of their names."""
        workers = sorted(self.client.workers(), key=lambda worker: worker.name)
        return [worker.id for worker in workers if worker.host == host.address]

    def restart(self, host: Host) -> None:
        """End the workers there, and type their lines again."""
        self._close_terminals_of(host)
        for worker in self._workers:
            if worker[0] is host:
                self._type_worker(*worker)
        self.client.wait_for_workers(len(self._workers), timeout_s=BOUND_S)

    @contextmanager
    def joined_by(self, workers: Sequence[tuple[Host, str, int]]) -> Iterator[None]:
        """More workers, which join one after the other, and leave at the end; all others of their hosts do too."""
        before = len(self._workers)
        try:
            for i, worker in enumerate(workers, 1):
                self._type_worker(*worker)
                self.client.wait_for_workers(before + i, timeout_s=BOUND_S)
            yield
        finally:
            for host in {worker[0] for worker in workers}:
                self._close_terminals_of(host)

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def _type_worker(self, host: Host, name: str, nthreads: int) -> None:
        self._type(host, "worker", str(self.file), "--name", name, "--nthreads", str(nthreads), "--memory-limit", "0")

    def _type(self, host: Host, *command: str) -> BinaryIO:
        """Start a command in a terminal on a host: what it prints, while its errors go to the log."""
        line = ["ip", "netns", "exec", host.name, sys.executable, "-m", "parml_core.cli", *command]
        with (self._folder / "log").open("a") as log:
            terminal = subprocess.Popen(
                [*line, "--host", host.address, "--allow-insecure"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._terminals.append((host, terminal))
        assert terminal.stdout is not None
        return cast(BinaryIO, terminal.stdout)

    def _close_terminals_of(self, host: Host) -> None:
        for terminal in [terminal for of, terminal in self._terminals if of is host]:
            _close(terminal)

    def _end(self) -> None:
        """Ctrl-C in every terminal, the scheduler's last. What has gone wrong is shown where a test fails."""
        for _, terminal in reversed(self._terminals):
            _close(terminal)
        print(self.log())


def _close(terminal: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, and the end of what does not hear it."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(terminal.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            terminal.communicate(timeout=BOUND_S)
            return

"""A worker whose connection to the scheduler is torn: it joins anew while the scheduler is there, and ends when it is gone."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from parml_core.client import Client, LocalCluster
from parml_core.deploy.scheduler_file import SchedulerFile, write_scheduler_file

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 30.0
RESET = struct.pack("ii", 1, 0)  # a socket that is closed so tells its peer at once that all is lost


class Relay:
    """Stands between workers and the scheduler, and can tear what goes through it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._to = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def tear(self) -> None:
        """End all connections from the middle."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.tear()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            try:
                theirs = socket.create_connection(self._to)
            except OSError:
                ours.close()
                continue
            self._pairs.append((ours, theirs))
            threading.Thread(target=self._pass, args=(ours, theirs), daemon=True).start()

    @staticmethod
    def _pass(ours: socket.socket, theirs: socket.socket) -> None:
        other = {ours: theirs, theirs: ours}
        with ours, theirs, suppress(OSError):
            while True:
                for end in select.select([ours, theirs], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    other[end].sendall(data)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=0, dashboard_port=None) as cluster:
        yield cluster


@pytest.fixture
def relay(cluster: LocalCluster) -> Iterator[Relay]:
    relay = Relay(cluster.scheduler_address)
    yield relay
    relay.close()


@pytest.fixture
def worker(cluster: LocalCluster, relay: Relay, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Typed into a terminal, with a file that leads it through the relay."""
    write_scheduler_file(tmp_path / "s.json", SchedulerFile(relay.address, cluster.secret))
    command = [sys.executable, "-m", "parml_core.cli", "worker", str(tmp_path / "s.json"), "--name", "w", "--nthreads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True) as worker:
        yield worker
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        assert worker.stderr is not None
        print(worker.stderr.read())


def another_worker(client: Client, than: str) -> str:
    deadline = time.monotonic() + BOUND_S
    while not (ids := [worker.id for worker in client.workers() if worker.id != than]):
        assert time.monotonic() < deadline, "expected the worker to come back"
        threading.Event().wait(0.02)
    return ids[0]


def test_worker_with_a_torn_connection_joins_anew(cluster: LocalCluster, relay: Relay, worker: subprocess.Popen[str]) -> None:
    """As another incarnation: what the first one held is computed again, and what is asked meanwhile waits for it."""
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout_s=BOUND_S)
        (first,) = [w.id for w in client.workers()]
        held = client.submit(pow, 2, 10)
        assert held.result(BOUND_S) == 1024
        for _ in range(2):
            relay.tear()
            first = another_worker(client, than=first)
            assert client.submit(abs, held).result(BOUND_S) == 1024
    assert worker.poll() is None


def test_worker_whose_scheduler_is_gone_ends(cluster: LocalCluster, relay: Relay, worker: subprocess.Popen[str]) -> None:
    """It does not wait for one that will not come back: nobody listens there any more."""
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout_s=BOUND_S)
    relay.close()
    os.kill(cluster.scheduler_pid, signal.SIGKILL)
    assert worker.wait(BOUND_S) == 0

"""What happens in the processes of a training, told to the test that runs it, which may hold or end them at any stage."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

seen: set[int] = set()
"""The processes that have reported in this test."""


def still_alive(pids: Iterable[int], timeout_s: float) -> list[psutil.Process]:
    """Those of these processes that have not ended when the time is over."""
    processes = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):  # it may end between any question and the next
            processes.append(psutil.Process(pid))
    return psutil.wait_procs(processes, timeout=timeout_s)[1]


def report(port: int, rank: int, stage: str) -> None:
    """Tell the observer what this process is about to do, and wait until it may."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.settimeout(None)
        connection.sendall(f"{rank} {os.getpid()} {stage}\n".encode())
        connection.recv(1)


class Observer:
    """The test's side: all that was reported, and what to do at one stage, the first time."""

    def __init__(self, stage: str, rank: int, act: Callable[[int], None]) -> None:
        self.reports: list[tuple[int, int, str]] = []
        self.acted_s = 0.0
        self.acted_on = 0  # the process
        self._at = stage, rank
        self._act = act
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._held:
            connection.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            line = connection.makefile().readline()
            if not line.endswith("\n"):
                continue  # its process was killed meanwhile
            rank, pid, stage = line.split()
            self.reports.append((int(rank), int(pid), stage))
            seen.add(int(pid))
            # While they load, ranks have no number yet: the first to load stands for each.
            if not self.acted_s and self._at[0] == stage and (stage == "load" or self._at[1] == int(rank)):
                self.acted_s = time.monotonic()
                self.acted_on = int(pid)
                self._held.append(connection)  # not to be closed: the process is to be lost as it is
                self._act(int(pid))
            else:
                with suppress(OSError):
                    connection.sendall(b"\1")
                connection.close()

    def rounds_of(self, rank: int) -> list[int]:
        return [int(stage) for of, _, stage in self.reports if of == rank and stage.isdigit()]

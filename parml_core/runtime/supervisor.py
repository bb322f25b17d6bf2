"""The nanny as the process sees it that starts one: LocalCluster in a user's program, or the command line."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from parml_core.errors import ClusterError, ConnectionLost
from parml_core.runtime.nanny_protocol import GRACE_S, Event, Exited, Foresee, GaveUp, Spawn, Spawned, launch
from parml_core.runtime.specs import Ready, parse_ready

_living: weakref.WeakSet[Supervisor] = weakref.WeakSet()


class Supervisor:
    """
    A nanny of this process, to start and end processes with. Synchronous; a daemon thread hears what the nanny tells.

    Parameters
    ----------
    preload : sequence of str
        Modules that the nanny imports at once.

    Attributes
    ----------
    pids : dict of str to int
        The processes that live, by name. A snapshot: the thread makes a new one at each change.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self.pids: dict[str, int] = {}
        self._pid = os.getpid()
        self._answers: dict[int, Future[int]] = {}
        self._ends: dict[str, Future[str]] = {}
        self._restarting: set[str] = set()
        self._lock = threading.Lock()
        self._requests = 0
        self._closed = False
        self._process, self._packets = launch(preload)
        self._thread = threading.Thread(target=self._listen, name="parml-nanny-events", daemon=True)
        self._thread.start()
        _living.add(self)

    @property
    def nanny_pid(self) -> int:
        return self._process.pid

    def spawn(self, spawn: Spawn, fds: Sequence[int] = (), *, timeout_s: float = 30.0) -> int:
        """
        The pid of a new process. Its descriptors are closed here.

        Raises
        ------
        ClusterError
            The name is in use, or the nanny could not start it, or is gone.
        """
        if spawn.name in self.pids:
            raise ClusterError(f"expected a name of its own for a process, found that one named {spawn.name!r} runs already")
        answer: Future[int] = Future()
        with self._lock:
            self._requests += 1
            spawn.request = self._requests
            self._answers[spawn.request] = answer
            self._ends[spawn.name] = Future()
            if spawn.restart:
                self._restarting.add(spawn.name)
            self._packets.send(spawn, fds)
            while not self._packets.flush():
                select.select([], [self._packets], [], timeout_s)
            if self._closed:
                self._fail_waiters()
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            raise ClusterError(f"expected the nanny to start {spawn.name} within {timeout_s:g} s, found no answer") from None

    def foresee(self, modules: Sequence[str]) -> None:
        """Have the nanny import what processes to come will need, when it has nothing else to do."""
        with self._lock:
            if modules and not self._closed:
                self._packets.send(Foresee(list(modules)))

    def wait(self, name: str) -> str:
        """
        Wait until the process of this name has ended for good: ``""`` where it was meant to, otherwise how it ended.

        Raises
        ------
        ClusterError
            The nanny is gone.
        """
        return self._ends[name].result()

    def close(self, timeout_s: float = 2 * GRACE_S) -> None:
        """End all processes and the nanny, by force where they do not end in time. In a forked child: nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
        self._packets.shut()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children die with it
            self._process.wait()
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)
        self._packets.close()
        self.pids = {}

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._packets.fileno(), select.POLLIN)
        with contextlib.suppress(ConnectionLost):
            while poll.poll():
                for event, _ in self._packets.receive():
                    self._hear(event)
        with self._lock:
            self._closed = True
            self._fail_waiters()

    def _hear(self, event: Event) -> None:
        if isinstance(event, GaveUp):
            self._ends[event.name].set_result(event.text)
        elif isinstance(event, Exited):
            self.pids = {name: pid for name, pid in self.pids.items() if pid != event.pid}
            if event.expected or event.name not in self._restarting:
                self._ends[event.name].set_result("" if event.expected else event.text)
        else:
            with self._lock:
                answer = self._answers.pop(event.request, None)
            if isinstance(event, Spawned):
                self.pids = {**self.pids, event.name: event.pid}
                if answer is not None:
                    answer.set_result(event.pid)
            elif answer is not None:
                answer.set_exception(ClusterError(f"{event.name} cannot be started: {event.text}"))

    def _fail_waiters(self) -> None:
        waiters: list[Future[Any]] = [*self._answers.values(), *self._ends.values()]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(ClusterError("the nanny of this cluster has ended; start another cluster"))
        self._answers.clear()


class ReadyPipe:
    """
    A pipe on which a process says that it works.

    Give `write` to the process when it is spawned (which closes it here), then `wait`.
    """

    def __init__(self) -> None:
        self._read, self.write = os.pipe()

    def wait(self, what: str, *, deadline: float) -> Ready:
        """
        What the process says.

        Parameters
        ----------
        what : str
            The process, for the error.
        deadline : float
            By ``time.monotonic()``.

        Raises
        ------
        ClusterError
            It said that it cannot work, ended without a word, or said nothing in time.
        """
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ClusterError(f"expected {what} to be ready in time, found it still starting; is the machine overloaded?")
            piece = os.read(self._read, 65536)
            if not piece:
                raise ClusterError(f"expected {what} to start, found that it ended at once; stderr may say why")
            line += piece
        ready = parse_ready(line)
        if ready.error:
            raise ClusterError(f"expected {what} to start, found: {ready.error}")
        return ready

    def close(self) -> None:
        os.close(self._read)


def _forget_in_child() -> None:
    """A process that the user forks holds copies of the sockets: close them, so that they do not outlive this process."""
    for supervisor in list(_living):
        supervisor._packets.close()


os.register_at_fork(after_in_child=_forget_in_child)

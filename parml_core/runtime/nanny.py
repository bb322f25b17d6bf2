"""
The nanny: one process for each host that forks all others of a cluster there, and looks after them.

It has the modules imported that its children need, so a child starts in about 10 ms. Forking is safe because it has one
thread, always: it waits in a selector, and child exits reach it as a signal that wakes the selector. It knows nothing of
what it runs: a `Spawn` names a function. Whoever holds the other end of its control socket is its root; when that end
closes, all children end, and so does the nanny. Children die with the nanny by the kernel's hand (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import signal
import socket
import sys
import time
import warnings
from collections import deque
from collections.abc import Sequence
from multiprocessing.process import current_process
from typing import Any

from parml_core.errors import ConnectionLost
from parml_core.runtime.forking import CLEAN_EXIT, CannotStart, be, how_it_ended, import_once, log, own_memory_of, resolve
from parml_core.runtime.nanny_protocol import (
    GRACE_S,
    Event,
    Exited,
    Foresee,
    GaveUp,
    Kill,
    NotSpawned,
    Packets,
    Request,
    Setup,
    Spawn,
    Spawned,
    Works,
    close_all,
)

TICK_S = 0.5
IDLE_S = 2.0  # after so long without anything to do it imports what it foresees, deaf meanwhile; short-lived clusters never do
MAX_DEATHS, DEATHS_WITHIN_S = 5, 30.0
MEMORY_SHARE = 0.95
_OWN_SIGNALS = (signal.SIGCHLD, signal.SIGTERM)


class _Peer:
    """One who may ask for processes."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.packets = Packets(sock, Request)
        self.name = name
        self.gone = False


class _Child:
    """A living process."""

    def __init__(self, pid: int, spawn: Spawn, owner: _Peer, link: _Peer, deaths: deque[float]) -> None:
        self.pid = pid
        self.spawn = spawn
        self.owner = owner
        self.link = link
        self.deaths = deaths  # when former incarnations died
        self.reason = ""  # why the nanny killed it
        self.told_to_end = False


class Nanny:
    """
    The supervisor; `run` returns when everything has ended.

    Parameters
    ----------
    control : socket.socket
        Its socket to the root.
    """

    def __init__(self, control: socket.socket) -> None:
        self._pid = os.getpid()
        self._parent_pid = os.getppid()
        self._children: dict[int, _Child] = {}
        self._peers: list[_Peer] = []
        self._kill_at: float | None = None  # set: everything is ending, and at this time it is killed
        self._terminated = False
        self._foreseen: deque[str] = deque()  # modules to import
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._signalled = socket.socketpair()
        for end in (self._wakeup, self._signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the root, which closes its cluster in order
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
        self._root = self._add_peer(control, "root")

    def run(self) -> None:
        """Serve until the root is gone and all children have ended."""
        next_tick = last_event = time.monotonic()
        while self._kill_at is None or self._children:
            self._watch_for_room()
            events = self._selector.select(max(0.0, next_tick - time.monotonic()))
            if events:
                last_event = time.monotonic()
            for key, mask in events:
                if key.data is None:
                    self._drain_wakeup()
                else:
                    self._serve(key.data, mask)
            self._reap()
            if self._terminated:
                self._end_all()
            if time.monotonic() >= next_tick:
                self._tick()
                if self._foreseen and time.monotonic() - last_event >= IDLE_S and self._kill_at is None:
                    self._import_what_can_be(self._foreseen.popleft())
                next_tick = time.monotonic() + TICK_S

    # --- peers ---------------------------------------------------------------------------------------------------------

    def _add_peer(self, sock: socket.socket, name: str) -> _Peer:
        peer = _Peer(sock, name)
        self._peers.append(peer)
        self._selector.register(peer.packets, selectors.EVENT_READ, peer)
        return peer

    def _drop_peer(self, peer: _Peer) -> None:
        """The peer is gone: what it asked for ends."""
        if peer.gone:
            return
        peer.gone = True
        self._peers.remove(peer)
        self._selector.unregister(peer.packets)
        peer.packets.close()
        if peer is self._root:
            self._end_all()
        else:
            for child in list(self._children.values()):
                if child.owner is peer:
                    self._kill(child, f"{peer.name} is gone")

    def _watch_for_room(self) -> None:
        for peer in self._peers:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.packets.unsent else 0)
            self._selector.modify(peer.packets, wanted, peer)

    def _serve(self, peer: _Peer, mask: int) -> None:
        if peer.gone:
            return
        if mask & selectors.EVENT_WRITE:
            peer.packets.flush()
        try:
            for message, fds in peer.packets.receive():
                self._handle(peer, message, fds)
        except ConnectionLost:
            self._drop_peer(peer)

    def _handle(self, peer: _Peer, message: Request, fds: list[int]) -> None:
        if isinstance(message, Spawn):
            self._answer_spawn(peer, message, fds)
            return
        close_all(fds)
        if isinstance(message, Kill):
            child = self._children.get(message.pid)
            if child is not None and child.owner is peer:
                self._kill(child, "")
        elif isinstance(message, Foresee):
            self._foreseen.extend(message.modules)
        elif isinstance(message, Works):
            for child in self._children.values():
                if child.link is peer:
                    child.deaths.clear()
        elif peer is self._root:
            self._set_up(message)

    def _set_up(self, setup: Setup) -> None:
        self._parent_pid = setup.parent_pid
        sys.path[:] = setup.path
        current_process().authkey = setup.authkey
        if setup.pythonpath is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = setup.pythonpath
        for module in setup.preload:
            self._import_what_can_be(module)

    @staticmethod
    def _import_what_can_be(module: str) -> None:
        try:
            import_once(module)
        except CannotStart as error:  # whoever needs it will be told
            log.warning("%s", error)

    def _tell(self, peer: _Peer, event: Event) -> None:
        if not peer.gone:
            peer.packets.send(event)

    # --- processes -----------------------------------------------------------------------------------------------------

    def _answer_spawn(self, peer: _Peer, spawn: Spawn, fds: list[int]) -> None:
        try:
            if self._kill_at is not None:
                raise CannotStart("the nanny is closing")
            for module in (*spawn.preload, *(["threadpoolctl"] if spawn.threads != 1 else [])):
                import_once(module)
            child = self._fork(peer, spawn, fds, deque(maxlen=MAX_DEATHS + 1))
        except (CannotStart, OSError) as error:
            self._tell(peer, NotSpawned(spawn.request, spawn.name, str(error)))
        else:
            self._tell(peer, Spawned(spawn.request, spawn.name, child.pid))
        finally:
            close_all(fds)

    def _fork(self, owner: _Peer, spawn: Spawn, fds: Sequence[int], deaths: deque[float]) -> _Child:
        target = resolve(spawn.target)
        ours, theirs = Packets.pair()
        # A signal between fork and the child's own handlers would run the nanny's handlers in the child, and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _OWN_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                be(spawn, target, theirs, list(fds), nanny_pid=self._pid, let_go=self._let_go)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _OWN_SIGNALS)
        theirs.close()
        with contextlib.suppress(OSError):  # here and in the child: whoever comes first
            os.setpgid(pid, pid)
        child = _Child(pid, spawn, owner, self._add_peer(ours, spawn.name), deaths)
        self._children[pid] = child
        return child

    def _let_go(self) -> None:
        """In a child: close the nanny's descriptors (a copy of the selector closes without effect on it), reset signals."""
        signal.set_wakeup_fd(-1)
        for number in _OWN_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OWN_SIGNALS)
        self._selector.close()
        self._wakeup.close()
        self._signalled.close()
        for peer in self._peers:
            peer.packets.close()
        self._peers.clear()
        self._children.clear()

    def _kill(self, child: _Child, reason: str) -> None:
        if reason:
            child.reason = reason
        else:
            child.told_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Take note of every child that has ended."""
        while self._children:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(found.si_pid, signal.SIGKILL)  # what it started goes with it; its id is free only after the next line
            _, status = os.waitpid(found.si_pid, 0)
            child = self._children.pop(found.si_pid, None)
            if child is not None:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        text = how_it_ended(code) + (f": {child.reason}" if child.reason else "")
        expected = code == CLEAN_EXIT or child.told_to_end or self._kill_at is not None
        self._drop_peer(child.link)
        self._tell(child.owner, Exited(child.spawn.name, child.pid, text, expected))
        if expected or child.owner.gone:
            return
        if not child.spawn.restart:
            log.warning("%s (pid %d) has ended: %s", child.spawn.name, child.pid, text)
            return
        self._restart(child, text)

    def _restart(self, dead: _Child, text: str) -> None:
        now = time.monotonic()
        dead.deaths.append(now)
        name = dead.spawn.name
        try:
            if len(dead.deaths) > MAX_DEATHS and now - dead.deaths[0] <= DEATHS_WITHIN_S:
                span = f"{len(dead.deaths)} times within {now - dead.deaths[0]:.0f} s"
                raise CannotStart(f"it died {span}, the last time {text}")
            child = self._fork(dead.owner, dead.spawn, (), dead.deaths)
        except (CannotStart, OSError) as error:
            log.error("%s is not restarted any more: %s", name, error)
            self._tell(dead.owner, GaveUp(name, str(error)))
        else:
            log.warning("%s (pid %d) has ended: %s; restarted as pid %d", name, dead.pid, text, child.pid)
            self._tell(dead.owner, Spawned(0, name, child.pid))

    # --- time and signals ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._kill_at is None and os.getppid() != self._parent_pid:  # the socket may live on in a process the root forked
            self._end_all()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for child in self._children.values():
                self._kill(child, "")
        for child in self._children.values():
            limit = child.spawn.memory_bytes
            if limit and not child.reason and not child.told_to_end:
                used = own_memory_of(child.pid)
                if used > MEMORY_SHARE * limit:
                    self._kill(child, f"memory: it used {used / 2**20:.0f} MiB of its {limit / 2**20:.0f} MiB")

    def _end_all(self) -> None:
        if self._kill_at is not None:
            return
        self._kill_at = time.monotonic() + GRACE_S
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)

    def _on_sigterm(self, *_: Any) -> None:
        self._terminated = True

    def _drain_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass


# --- as a program -----------------------------------------------------------------------------------------------------


class _StderrHandler(logging.Handler):
    """Writes lines to stderr, or drops them where that would block: nobody may read the pipe that it is."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            if select.select([], [2], [], 0)[1]:
                os.write(2, f"parml: {record.getMessage()}\n".encode()[:4096])


def main() -> None:
    """``python -m parml_core.runtime.nanny FD``: FD is the inherited control socket."""
    log.addHandler(_StderrHandler())
    log.propagate = False
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # by jemalloc's
    Nanny(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()

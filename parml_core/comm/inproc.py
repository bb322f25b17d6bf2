"""Frames between two event loops (or two parts of one) of the same process, passed uncopied."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from parml_core.comm.base import Comm, Credentials, Limits, Listener, OnComm
from parml_core.comm.handshake import Refusals, agree, check_proof
from parml_core.errors import AddressError, ClusterError, ConnectionLost, ProtocolError
from parml_core.protocol.frames import Frame, check, nbytes_of
from parml_core.protocol.messages import Hello
from parml_core.typing import Buffer

__all__ = ["InprocComm", "InprocListener", "connect", "listen"]

log = logging.getLogger(__name__)

_BURST = 64  # frames in a row that need no waiting, before other work of the loop gets its turn
_listeners: dict[str, InprocListener] = {}
_lock = threading.Lock()


class InprocComm(Comm):
    """
    One end of a connection within a process; made by `connect` and `listen`.

    The two ends may live on the loops of two threads. Each attribute is written by one thread only (the inbox is a deque,
    whose ends are safe), and a frame or an end is always put where the other looks before the other is woken.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: Hello, local: str, remote: str, limits: Limits) -> None:
        self.peer = peer
        self.local_address = local
        self.peer_address = remote
        self.other: InprocComm = self
        self._loop = loop
        self._limits = limits
        self._inbox: deque[tuple[Frame, int]] = deque()
        self._sent_bytes = 0
        self._taken_bytes = 0
        self._ended = False
        self._waiting: asyncio.Future[None] | None = None  # of the reader
        self._draining: asyncio.Future[None] | None = None
        self._burst = 0

    async def read(self) -> Frame:
        try:
            while True:
                if self._ended:
                    raise self._lost()
                other_ended = self.other._ended  # looked at before the inbox: what was sent before the end is still read
                if self._inbox:
                    break
                if other_ended:
                    raise self._lost()
                self._waiting = self._loop.create_future()
                if not (self._inbox or self.other._ended):
                    await self._waiting
                self._waiting = None
            self._burst += 1
            if self._burst == _BURST:
                self._burst = 0
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.abort()
            raise
        frame, nbytes = self._inbox.popleft()
        self._taken_bytes += nbytes
        self.other._wake_writer()
        try:
            check(nbytes_of(frame[0]), [view.nbytes for view in frame[1]], self._limits)
        except ProtocolError:
            self.abort()
            raise
        return frame

    def write(self, header: Buffer, buffers: Sequence[Buffer] = ()) -> None:
        if self._ended or self.other._ended:
            raise self._lost()
        lengths = [nbytes_of(buffer) for buffer in buffers]
        check(len(header), lengths, self._limits)
        nbytes = len(header) + sum(lengths)
        # Read-only: the memory is still the sender's.
        views = [memoryview(buffer).toreadonly() for buffer in buffers]
        self._sent_bytes += nbytes
        self.other._inbox.append(((header, [v.cast("B") if v.nbytes else memoryview(b"") for v in views]), nbytes))
        self.other._wake_reader()

    async def drain(self, below_bytes: int = 16 * 1024 * 1024) -> None:
        while True:
            if self._ended or self.other._ended:
                raise self._lost()
            if self.pending_bytes < max(below_bytes, 1):
                return
            self._draining = self._loop.create_future()
            if self.pending_bytes >= max(below_bytes, 1) and not self.other._ended:
                await self._draining
            self._draining = None

    async def close(self) -> None:
        self._end()

    def abort(self) -> None:
        if not self._ended:
            self.other._inbox.clear()
            self._end()

    def _end(self) -> None:
        self._ended = True
        for end in (self, self.other):
            end._wake_reader()
            end._wake_writer()

    @property
    def closed(self) -> bool:
        return self._ended or (self.other._ended and not self._inbox)

    @property
    def pending_bytes(self) -> int:
        return 0 if self.other._ended else self._sent_bytes - self.other._taken_bytes

    def _wake_reader(self) -> None:
        if self._waiting is not None:
            self._wake(self._waiting)

    def _wake_writer(self) -> None:
        if self._draining is not None:
            self._wake(self._draining)

    def _wake(self, future: asyncio.Future[None]) -> None:
        if asyncio._get_running_loop() is self._loop:
            _set(future)
        else:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_set, future)

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self.peer.role} {self.peer.id} at {self.peer_address} has ended")


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# --- connecting and listening ------------------------------------------------------------------------------------------


async def connect(where: str, *, credentials: Credentials, hello: Hello, limits: Limits) -> InprocComm:
    """
    Connect to the listener of that name.

    Raises
    ------
    AddressError, AuthenticationError, VersionMismatch
    """
    listener = _listeners.get(where)
    if listener is None:
        raise AddressError(
            f"expected a listener named {where!r} in this process, found {sorted(_listeners) or 'none'}; "
            "use tcp:// to reach another process"
        )
    loop = asyncio.get_running_loop()
    mine = f"{listener.address}#{secrets.token_hex(4)}"
    ours = InprocComm(loop, listener.hello, mine, listener.address, limits)
    theirs = InprocComm(listener.loop, hello, listener.address, mine, listener.limits)
    ours.other, theirs.other = theirs, ours
    try:
        check_proof(credentials, listener.credentials)
        agree(hello, listener.hello)
    except ClusterError as exc:
        listener.refusals.tell(listener.address, mine, exc)
        raise
    try:
        listener.loop.call_soon_threadsafe(listener.accept, theirs)
    except RuntimeError:
        raise AddressError(f"expected the listener {where!r} to be running, found that its event loop is closed") from None
    return ours


def listens(where: str) -> bool:
    """Whether there is a listener of that name."""
    return where in _listeners


async def listen(
    where: str,
    on_comm: OnComm,
    *,
    credentials: Credentials,
    hello: Hello,
    limits: Limits,
) -> InprocListener:
    """
    Listen under a name; an empty one means a fresh one.

    Raises
    ------
    AddressError
    """
    name = where or secrets.token_hex(8)
    listener = InprocListener(name, on_comm, credentials, hello, limits)
    with _lock:
        if name in _listeners:
            raise AddressError(
                f"expected a name that no listener of this process has, found {name!r}; use inproc:// for a fresh one"
            )
        _listeners[name] = listener
    return listener


class InprocListener(Listener):
    """Accepts connections of this process; made by `listen`."""

    def __init__(self, name: str, on_comm: OnComm, credentials: Credentials, hello: Hello, limits: Limits) -> None:
        self.address = f"inproc://{name}"
        self.loop = asyncio.get_running_loop()
        self.credentials = credentials
        self.hello = hello
        self.limits = limits
        self.refusals = Refusals()
        self._name = name
        self._on_comm = on_comm
        self._tasks: set[asyncio.Task[Any]] = set()

    async def stop(self) -> None:
        with _lock:
            if _listeners.get(self._name) is self:
                del _listeners[self._name]

    def accept(self, comm: InprocComm) -> None:
        if _listeners.get(self._name) is not self:
            comm.abort()
            return
        task = self.loop.create_task(self._serve(comm))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, comm: InprocComm) -> None:
        try:
            await self._on_comm(comm)
        except Exception:
            log.exception("%s ends the connection to %s", self.address, comm)
            comm.abort()
        except BaseException:
            comm.abort()
            raise

"""The nanny as a worker sees it, inside the worker's event loop: start ranks, end them, hear how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

from parml_core.errors import ClusterError, ConnectionLost
from parml_core.runtime.nanny_protocol import Event, Exited, Kill, NotSpawned, Packets, Spawn, Spawned, Works, launch
from parml_core.runtime.specs import RankSpec

RANK_TARGET = "parml_core.runtime.rank:main"


class NannyLink:
    """
    The link of this process to its nanny.

    Make one with `attach` where a nanny forked this process, with `start_own` elsewhere. When the link closes, the nanny
    ends what was spawned over it.

    Attributes
    ----------
    lost : asyncio.Future
        Done when the nanny is gone: a process that a nanny started should end then.
    """

    def __init__(self, packets: Packets, process: subprocess.Popen[bytes] | None = None) -> None:
        self._packets = packets
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._requests = 0
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._ended: dict[int, asyncio.Future[Exited]] = {}
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(packets.fileno(), self._receive)

    @classmethod
    async def attach(cls, nanny_fd: int) -> NannyLink:
        """The link to the nanny that forked this process, over the descriptor that it gave."""
        return cls(Packets(socket.socket(fileno=nanny_fd), Event))

    @classmethod
    async def start_own(cls) -> NannyLink:
        """Start a nanny for this process alone. It ends when the link is closed, or this process ends."""
        process, packets = launch([RANK_TARGET.partition(":")[0]])
        return cls(packets, process)

    async def spawn(self, spawn: Spawn, fds: Sequence[int] = ()) -> int:
        """
        The pid of a new process. Its descriptors are closed here.

        Raises
        ------
        ClusterError
            The nanny could not start it; the text says why.
        ConnectionLost
            The nanny is gone.
        """
        if self.lost.done():
            for fd in fds:
                os.close(fd)
            raise ConnectionLost(f"{spawn.name} cannot be started: the nanny of this worker is gone")
        self._requests += 1
        spawn.request = self._requests
        answer = self._answers[spawn.request] = self._loop.create_future()
        self._send(spawn, fds)
        try:
            return await answer
        except asyncio.CancelledError:
            answer.cancel()  # stays where it is: when the process comes it is killed
            raise

    async def spawn_rank(self, spec: RankSpec) -> tuple[int, socket.socket]:
        """Start a process for a rank: its pid, and the channel on which it waits for its spec."""
        ours, theirs = socket.socketpair()
        name = f"{spec.key}#{spec.attempt} on {spec.worker}"
        try:
            pid = await self.spawn(Spawn(0, name, RANK_TARGET, preload=spec.preload, threads=spec.threads), [theirs.detach()])
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return pid, ours

    def works(self) -> None:
        """Say that this process does what it was forked for."""
        self._send(Works())

    def kill(self, pid: int) -> None:
        """End a process that was spawned over this link; `ended` tells when it has gone."""
        ended = self._ended.get(pid)
        if ended is not None and not ended.done():
            self._send(Kill(pid))

    async def ended(self, pid: int) -> Exited:
        """
        Wait until a process that was spawned over this link is gone; a second call for the same pid returns at once.

        Raises
        ------
        ConnectionLost
            The nanny is gone, and the process with it.
        """
        ended = self._ended.get(pid)
        if ended is None:
            raise ClusterError(f"expected the pid of a process spawned over this link, found {pid}")
        return await asyncio.shield(ended)

    def forget(self, pid: int) -> None:
        """Nobody will ask how this process ended."""
        self._ended.pop(pid, None)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Close the link; what was spawned over it ends. A nanny of one's own is waited for."""
        self._lose("the link to the nanny is closed")
        if self._process is not None:
            process, self._process = self._process, None
            await self._loop.run_in_executor(None, _wait_or_kill, process, timeout_s)

    # --- the socket ----------------------------------------------------------------------------------------------------

    def _send(self, message: Spawn | Kill | Works, fds: Sequence[int] = ()) -> None:
        self._packets.send(message, fds)
        if self._packets.unsent:
            self._loop.add_writer(self._packets.fileno(), self._flush)

    def _flush(self) -> None:
        if self._packets.flush():
            self._loop.remove_writer(self._packets.fileno())

    def _receive(self) -> None:
        try:
            for event, _ in self._packets.receive():
                self._hear(event)
        except ConnectionLost:
            self._lose("the nanny of this worker is gone")

    def _hear(self, event: Event) -> None:
        if isinstance(event, Exited):
            ended = self._ended.get(event.pid)
            if ended is not None and not ended.done():
                ended.set_result(event)
        elif isinstance(event, (Spawned, NotSpawned)):
            answer = self._answers.pop(event.request, None)
            if answer is None or answer.cancelled():
                if isinstance(event, Spawned):
                    self._send(Kill(event.pid))
            elif isinstance(event, Spawned):
                self._ended[event.pid] = self._loop.create_future()
                answer.set_result(event.pid)
            else:
                answer.set_exception(ClusterError(f"{event.name} cannot be started: {event.text}"))

    def _lose(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        self._loop.remove_reader(self._packets.fileno())
        self._loop.remove_writer(self._packets.fileno())
        self._packets.shut()
        self._packets.close()
        waiters: list[asyncio.Future[Any]] = [*self._answers.values(), *self._ended.values()]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(ConnectionLost(why))
                waiting.exception()  # read: nobody may be waiting for it
        self._answers.clear()


def _wait_or_kill(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    process.kill()
    process.wait()

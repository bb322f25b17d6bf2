"""A scheduler process: the shell around `SchedulerKernel`, which moves messages between sockets and the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
from time import monotonic
from typing import Any

from parml_core.comm import listen
from parml_core.comm.base import Comm, Credentials, my_versions
from parml_core.config import Settings
from parml_core.errors import ParmlError
from parml_core.kernel.events import ClientJoined, PeerLost, Tick, WorkerJoined
from parml_core.kernel.records import SchedulerPolicy
from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.protocol.messages import Free, FromClient, FromWorker, Hello, Leave, decoder_of
from parml_core.runtime.http import HttpServer
from parml_core.runtime.peer import Conversation, limits_of
from parml_core.runtime.specs import Ready, SchedulerSpec, tell_ready
from parml_core.typing import PeerId

log = logging.getLogger("parml.scheduler")

_decoders = {"client": decoder_of(FromClient), "worker": decoder_of(FromWorker)}

TICK_S = 0.2


class Scheduler:
    """
    One scheduler. `start` it; it serves until `close`.

    Parameters
    ----------
    spec : SchedulerSpec
    """

    def __init__(self, spec: SchedulerSpec) -> None:
        self.spec = spec
        self.settings = Settings.from_dict(spec.settings)
        policy = self.settings.scheduler
        self.kernel = SchedulerKernel(
            SchedulerPolicy(
                allowed_failures=policy.allowed_failures,
                worker_timeout_s=policy.worker_timeout_s,
                gang_start_timeout_s=policy.gang_start_timeout_s,
                prefetch_s=policy.prefetch_s,
            )
        )
        self.id = f"scheduler-{secrets.token_hex(4)}"
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._peers: dict[PeerId, Conversation] = {}
        self._http: HttpServer | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises AddressError."""
        spec = self.spec
        self._listener = await listen(
            f"tcp://{spec.host}:{spec.port}",
            self._serve_peer,
            credentials=Credentials(spec.secret),
            hello=Hello("scheduler", self.id, my_versions()),
            timeout_s=self.settings.comm.handshake_timeout_s,
            limits=limits_of(self.settings),
            allow_insecure=spec.allow_insecure,
        )
        self.address = self._listener.address
        if spec.dashboard_port is not None:
            self._http = await HttpServer.start(self.kernel.snapshot, port=spec.dashboard_port)
        self._ticker = asyncio.ensure_future(self._tick())

    @property
    def dashboard_url(self) -> str | None:
        return None if self._http is None else self._http.url

    def stop(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)

    async def close(self, reason: str) -> None:
        """Send the workers away, and stop listening."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self._listener.stop()
        if self._http is not None:
            await self._http.stop()
        self._say({id: [Leave(reason)] for id in self.kernel.workers})
        peers = list(self._peers.values())
        for peer in peers:
            peer.flush()
        await asyncio.gather(*(peer.comm.close() for peer in peers))

    async def _serve_peer(self, comm: Comm) -> None:
        hello = comm.peer
        decoder = _decoders.get(hello.role)
        if decoder is None or hello.id in self._peers or (hello.role == "worker" and hello.worker is None):
            log.warning("refused a peer that says it is %s %s", hello.role, hello.id)
            comm.abort()
            return
        peer = self._peers[hello.id] = Conversation(comm, decoder)
        joined = WorkerJoined(hello.worker, hello.address, tuple(hello.holds)) if hello.worker else ClientJoined()
        why = "the connection was closed"
        try:
            self._handle(hello.id, [joined])
            while True:
                self._handle(hello.id, await peer.receive())
        except ParmlError as error:
            why = str(error)
        except Exception as error:
            log.exception("the scheduler could not handle what %s %s said; its connection is closed", hello.role, hello.id)
            why = repr(error)
        finally:
            self._peers.pop(hello.id, None)
            comm.abort()
            self._handle(hello.id, [PeerLost(why)])

    def _handle(self, sender: PeerId, events: list[Any]) -> None:
        self._say(self.kernel.handle(sender, events, monotonic()))
        if self.kernel.disconnect:
            for id in self.kernel.disconnect:
                peer = self._peers.pop(id, None)
                if peer is not None:
                    peer.flush()
                    asyncio.get_running_loop().create_task(peer.comm.close())
            self.kernel.disconnect.clear()

    def _say(self, outbox: dict[PeerId, list[Any]]) -> None:
        for id, messages in outbox.items():
            peer = self._peers.get(id)
            if peer is not None:
                peer.say(messages)
                if any(
                    type(message) is not Free for message in messages
                ):  # nobody waits for that: the end of this turn will do
                    peer.flush()  # the kernel has put together what belongs together

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._handle("", [Tick()])


async def _serve(spec: SchedulerSpec) -> None:
    scheduler = Scheduler(spec)
    try:
        await scheduler.start()
    except (ParmlError, OSError) as error:
        tell_ready(spec.ready_fd, Ready(error=str(error)))
        raise
    tell_ready(spec.ready_fd, Ready(scheduler.address, scheduler.dashboard_url, scheduler.id, os.getpid()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, scheduler.stop, f"it was told to end by {number.name}")
    reason = await scheduler.ended
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2.0):
            await scheduler.close(reason)


def main(spec: SchedulerSpec) -> None:
    """Be a scheduler until told to end."""
    gc.set_threshold(200_000, 20, 100)  # records of tasks refer to each other, and live long
    asyncio.run(_serve(spec))

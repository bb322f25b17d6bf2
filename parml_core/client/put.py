"""Putting values on workers from a client: what tasks refer to is there before they are submitted."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
from typing import TYPE_CHECKING, Any

from parml_core.errors import ParmlError
from parml_core.kernel.client import Held
from parml_core.protocol import messages as m
from parml_core.protocol.serialize import Serialized, dumps
from parml_core.store.shared import share
from parml_core.typing import Address, Key

if TYPE_CHECKING:
    from parml_core.client.link import Link

log = logging.getLogger("parml.client")


def snapshot(value: Any, *, local: bool) -> Serialized:
    """
    A value as it is now: what its owner later writes into its arrays reaches no task, also when it has to be sent again.

    `local`: workers may be on this host. Then a large value is copied to where they can map it, which is its only copy. Else
    memory that nobody can write to is not copied.
    """
    taken = dumps(value)
    if local and (shared := share(taken)) is not taken:
        return shared
    return Serialized(taken.head, [b if memoryview(b).readonly else bytes(b) for b in taken.buffers])


class Put:
    """Values to be put on workers before anything that was said later is sent."""

    __slots__ = ("done", "records", "replicas", "values")

    def __init__(self, records: list[Held], values: list[Serialized], replicas: int) -> None:
        self.records = records
        self.values = values
        self.replicas = replicas
        self.done: concurrent.futures.Future[None] = concurrent.futures.Future()


class Putter:
    """Places values on workers. Lives on the link's loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._next_worker = itertools.count()

    async def put(self, put: Put) -> None:
        """Place values, and tell the scheduler where they are; nothing is raised."""
        try:
            placed = await self._place(put)
        except ParmlError as error:
            self._failed(put, error)
            return
        want = max(record.want for record in put.records)
        for record in put.records:
            record.want = want
        # Of a value that was released meanwhile the scheduler hears too: tasks that wait behind it may need it, and the release
        # waits behind them.
        self._link.say([m.Scattered(placed, want)])
        put.done.set_result(None)

    async def _place(self, put: Put) -> list[m.Holding]:
        """Put the values on workers in turn; a worker that is lost meanwhile is passed over."""
        keys = [record.key for record in put.records]
        holders: list[list[Address]] = [[] for _ in keys]
        while True:
            addresses = await self._addresses_of_workers()
            n_replicas = min(put.replicas or len(addresses), len(addresses))
            start = next(self._next_worker)
            batches: dict[Address, list[int]] = {}
            for i in range(len(keys)):
                for j in range(n_replicas):
                    batches.setdefault(addresses[(start + i + j) % len(addresses)], []).append(i)
            outcomes = await asyncio.gather(
                *(
                    self._put_on(address, [keys[i] for i in batch], [put.values[i] for i in batch])
                    for address, batch in batches.items()
                )
            )
            for (address, batch), ok in zip(batches.items(), outcomes, strict=True):
                for i in batch:
                    if ok:
                        holders[i].append(address)
            if all(holders):
                return [m.Holding(key, v.nbytes, tuple(h)) for key, v, h in zip(keys, put.values, holders, strict=True)]
            await asyncio.sleep(0.2)  # a worker was lost; the scheduler will know it soon

    async def _put_on(self, address: Address, keys: list[Key], values: list[Serialized]) -> bool:
        try:
            await (await self._link.data.to(address)).put(keys, values)
        except (ParmlError, OSError) as error:
            log.info("could not put values on %s: %s", address, error)
            return False
        return True

    async def _addresses_of_workers(self) -> list[Address]:
        """At least one: waits until a worker is there."""
        warned = False
        while True:
            answer = await self._link.ask_async(m.AskWorkers)
            if answer.addresses:
                return answer.addresses
            if not warned:
                log.warning("no worker has joined the scheduler at %s yet; waiting for one", self._link.address)
                warned = True
            await asyncio.sleep(0.2)

    def _failed(self, put: Put, error: ParmlError) -> None:
        failure = m.Failure(type(error).__name__, str(error))
        with self._link.lock:
            for record in put.records:
                record.status, record.failure = "erred", failure
        put.done.set_exception(error)
        self._link.tell(put.records)

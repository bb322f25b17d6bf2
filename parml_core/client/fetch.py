"""Bringing results from the workers that hold them: many to a request, as soon as they are ready and somebody waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parml_core.errors import ParmlError
from parml_core.kernel.client import Held
from parml_core.protocol import messages as m
from parml_core.protocol.serialize import Serialized
from parml_core.typing import Address, Key

if TYPE_CHECKING:
    from parml_core.client.link import Link

Fetched = Serialized | m.Failure

FETCH_KEYS = 500


class Collector:
    """
    Brings the results of some keys here. Make one with `Link.collect`.

    It is over when every key has a value or has failed; or when one has failed and all before it have ended.

    Attributes
    ----------
    future : concurrent.futures.Future
        Done when it is over.
    """

    def __init__(self, link: Link, records: Sequence[Held]) -> None:
        self._link = link
        self._records = list(dict.fromkeys(records))
        self.got: dict[Held, Fetched] = {}
        self.over = False
        self.future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._first_failed: int | None = None

    @property
    def n_wanted(self) -> int:
        return len(self._records)

    @property
    def n_missing(self) -> int:
        return len(self._records) - len(self.got)

    def start(self) -> None:
        if not self._records:
            self._end()
        for record in self._records:
            if self.over:
                return
            self.await_(record)

    def take_known(self) -> bool:
        """Take what came with the news of the tasks' ends, if that is all there is to have: it needs no loop. Any thread."""
        if not self._records:
            self._end()
        known: list[tuple[Held, Fetched]] = []
        with self._link.lock:
            for record in self._records:
                if record.failure is not None:
                    known.append((record, record.failure))
                elif record.status == "finished" and record.small:
                    known.append((record, Serialized(record.small, [])))
                else:
                    return False
        for record, fetched in known:
            self.have(record, fetched)
        return True

    def await_(self, record: Held) -> None:
        """Fetch the result of this record, now or when it is ready."""
        if self.over or self._link.watch(record, self.await_):
            return
        if record.status == "finished":
            if record.small:  # it came with the news
                self.have(record, Serialized(record.small, []))
            else:
                self._link.fetcher.fetch(record, self)
        else:
            assert record.failure is not None
            self.have(record, record.failure)

    def have(self, record: Held, fetched: Fetched) -> None:
        if self.over:
            return
        self.got[record] = fetched
        if isinstance(fetched, m.Failure):
            position = self._records.index(record)
            if self._first_failed is None or position < self._first_failed:
                self._first_failed = position
        if len(self.got) == len(self._records) or (
            self._first_failed is not None and all(r in self.got for r in self._records[: self._first_failed])
        ):
            self._end()

    def _end(self) -> None:
        self.over = True
        if not self.future.done():
            self.future.set_result(None)

    def abandon(self) -> None:
        """Nobody waits any more. Any thread."""
        self.over = True
        for record in self._records:
            if record.shell:
                self._link.unwatch(record, self.await_)


class Fetcher:
    """
    One request to a worker at a time; what is asked for meanwhile goes into the next one. Lives on the link's loop.

    Parameters
    ----------
    link : Link
    give_up_s : float
        How long a worker may be out of reach that the scheduler still believes to be there.
    """

    def __init__(self, link: Link, give_up_s: float) -> None:
        self._link = link
        self._give_up_s = give_up_s
        self._to_fetch: dict[Address, list[tuple[Held, Collector]]] = {}
        self._fetching: set[Address] = set()

    def fetch(self, record: Held, collector: Collector) -> None:
        """Read a result from the worker that holds it, with others that are asked for at the same time."""
        waiting = self._to_fetch.setdefault(record.holder, [])
        waiting.append((record, collector))
        if len(waiting) == 1 and record.holder not in self._fetching:
            self._fetching.add(record.holder)
            self._link.loop.call_soon(self._start_fetching, record.holder)

    def _start_fetching(self, holder: Address) -> None:
        self._link.spawn(self._fetch_from(holder))

    async def _fetch_from(self, holder: Address) -> None:
        try:
            while waiting := self._to_fetch.pop(holder, None):
                for start in range(0, len(waiting), FETCH_KEYS):
                    await self._fetch_batch(holder, waiting[start : start + FETCH_KEYS])
        finally:
            self._fetching.discard(holder)

    async def _fetch_batch(self, holder: Address, batch: list[tuple[Held, Collector]]) -> None:
        keys = list(dict.fromkeys(record.key for record, _ in batch))
        try:
            link = await self._link.data.to(holder)
            answer, values = await link.borrow(keys, keep=False, private=True)
        except (ParmlError, OSError) as error:
            for record, collector in batch:
                self._link.spawn(self._fetch_elsewhere(record, collector, holder, str(error)))
            return
        by_key = dict(zip(keys, values, strict=True))
        absent: dict[Key, None] = {}
        for record, collector in batch:
            value = by_key[record.key]
            if value is not None:
                collector.have(record, value)
            elif record.key in answer.failures:
                collector.have(record, answer.failures[record.key])
            else:
                absent[record.key] = None
                with self._link.lock:
                    if record.status == "finished" and record.holder == holder:
                        record.status = "pending"
                collector.await_(record)
        if absent and self._link.lost is None:
            self._link.say([m.Absent(list(absent), holder)])

    async def _fetch_elsewhere(self, record: Held, collector: Collector, holder: Address, why: str) -> None:
        """
        The holder cannot be reached. It may be lost, which the scheduler will find out; or another one has the value.

        Gives up when the scheduler has had time to notice, and still names this holder alone.
        """
        deadline_s = self._link.loop.time() + self._give_up_s
        while not collector.over and record.status == "finished" and record.holder == holder:
            if self._link.loop.time() > deadline_s:
                text = f"the result of {record.key!r} is on the worker at {holder}, which this client cannot reach: {why}"
                collector.have(record, m.Failure("ClusterError", text, key=record.key))
                return
            try:
                answer = await self._link.ask_async(lambda request: m.AskHolders(request, [record.key]))
            except ParmlError:
                break
            others = [address for address in answer.holders[0] if address != holder]
            with self._link.lock:
                if others and record.status == "finished" and record.holder == holder:
                    record.holder = others[0]
            await asyncio.sleep(0.1)
            if not others:
                with contextlib.suppress(ParmlError, OSError):  # TimeoutError is one
                    async with asyncio.timeout(0.5):  # it may be silent, and another holder be named meanwhile
                        await self._link.data.to(holder)
                    break
        collector.await_(record)

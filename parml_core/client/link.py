"""
A client's connection to its cluster: an event loop on a thread of its own, and what other threads may ask of it.

Threads put messages into one outbox, and the loop is woken once for all that is put meanwhile.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from parml_core.client.fetch import Collector, Fetcher
from parml_core.client.put import Put, Putter, snapshot
from parml_core.comm import connect
from parml_core.comm.base import Credentials, my_versions
from parml_core.config import Settings
from parml_core.errors import NotSupported, ParmlError, SchedulerLost, WaitTimeout
from parml_core.kernel.client import ClientKernel, Held
from parml_core.protocol import messages as m
from parml_core.runtime.peer import Conversation, DataLinks, limits_of
from parml_core.store.pool import IDLE_S, pool
from parml_core.store.shared import this_place
from parml_core.typing import Address, Key

log = logging.getLogger("parml.client")

T = TypeVar("T")
Watcher = Callable[[Held], None]

_to_client = m.decoder_of(m.ToClient)

SUBMIT_TASKS = 5000
SUBMIT_BYTES = 4 * 1024 * 1024
_LOOPBACK = ("tcp://127.", "tcp://[::1]", "tcp://localhost")
RELEASE_PAUSE_S = 0.002
"""That futures are gone is told with whatever is said next, at the latest after this time."""


class Link:
    """
    Parameters
    ----------
    address : str
        Of the scheduler.
    credentials : Credentials
    settings : Settings
    timeout_s : float
        For the connection.

    Raises
    ------
    AddressError, AuthenticationError, VersionMismatch, ConnectionLost
    """

    def __init__(self, address: Address, credentials: Credentials, settings: Settings, timeout_s: float) -> None:
        self.id = f"client-{secrets.token_hex(6)}"
        self.address = address
        self.local = this_place() != "" and address.startswith(_LOOPBACK)  # there may be workers that can map what is put
        self.lock = threading.RLock()
        self.kernel = ClientKernel()
        self.lost: m.Failure | None = None
        self._credentials = credentials
        self._settings = settings
        self._outbox: deque[Any] = deque()
        self._submit_bytes = 0
        self._released: deque[Held] = deque()
        self._to_start: deque[Collector] = deque()
        self._awake = False
        self._releasing = False
        self._putting = False
        self._n_requests = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._callback_thread: threading.Thread | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="parml-client", daemon=True)
        self._thread.start()
        try:
            self.call(self._connect(timeout_s))
        except BaseException:
            self._stop_loop()
            raise

    # --- any thread ----------------------------------------------------------------------------------------------------

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine on the loop, and wait for it."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(
                "expected this call from another thread than the client's own loop; callbacks must not wait there"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise WaitTimeout(
                f"expected an answer of the scheduler at {self.address} within {timeout_s} s, found none"
            ) from None
        except BaseException:
            future.cancel()
            raise

    def check_open(self) -> None:
        if self.lost is not None:
            raise SchedulerLost(self.lost.text)

    def submit(self, functions: dict[str, bytes], specs: Sequence[m.TaskSpec], wants: Iterable[Key]) -> list[Held]:
        """Send tasks; records of the wanted keys, each of which is then to be released once."""
        nbytes = sum([len(spec.key) + len(spec.args) + 48 * (2 + len(spec.deps)) for spec in specs])
        limit = self._settings.comm.max_header_bytes
        if nbytes + sum(map(len, functions.values())) > limit:
            raise NotSupported(
                f"expected a graph of at most {limit >> 20} MiB, found {len(specs)} tasks of about {nbytes >> 20} MiB; "
                "submit it in parts, use larger partitions, or raise comm.max_header_bytes everywhere"
            )
        with self.lock:
            self.check_open()
            self._take_released()
            message = self._outbox[-1] if self._outbox else None
            if type(message) is not m.Submit or len(message.tasks) > SUBMIT_TASKS or self._submit_bytes > SUBMIT_BYTES:
                message = m.Submit({}, [], [], self.kernel.begin())
                self._outbox.append(message)
                self._submit_bytes = 0
            message.functions.update(functions)
            message.tasks.extend(specs)
            self._submit_bytes += nbytes
            records = []
            for key in wants:
                record, fresh = self.kernel.hold(key)
                if fresh:
                    message.wants.append(key)
                records.append(record)
        self._wake()
        return records

    def submit_gang(
        self,
        gang: str,
        functions: dict[str, bytes],
        specs: list[m.TaskSpec],
        where: list[list[str]],
        timeout_s: float,
        preload: tuple[str, ...],
    ) -> list[Held]:
        with self.lock:
            self.check_open()
            self._take_released()
            want = self.kernel.begin()
            self._outbox.append(m.SubmitGang(gang, functions, specs, where, timeout_s, want, preload))
            records = [self.kernel.hold(spec.key)[0] for spec in specs]
        self._wake()
        return records

    def put(self, values: Sequence[Any], replicas: int = 1) -> Put:
        """Begin to put values on workers. What is sent later may refer to them."""
        taken = [snapshot(value, local=self.local) for value in values]
        with self.lock:
            self.check_open()
            self.kernel.begin()
            records = []
            for value in taken:
                record, _ = self.kernel.hold(f"scatter-{secrets.token_hex(16)}")
                record.value = value
                records.append(record)
            put = Put(records, taken, replicas)
            self._outbox.append(put)
        self._wake()
        return put

    def cancel(self, keys: list[Key]) -> None:
        with self.lock:
            self.check_open()
            changed = self.kernel.cancel(keys)
            self._outbox.append(m.Cancel(keys))
        self.loop.call_soon_threadsafe(self.tell, changed)
        self._wake()

    def release(self, record: Held) -> None:
        """A Future is gone. Called from finalisers too, so it takes no lock."""
        self._released.append(record)
        if not self._releasing:
            self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                self.loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # the loop is closed
                self._end_turns()

    def watch(self, record: Held, watcher: Watcher) -> bool:
        """Call `watcher(record)` on the loop once it ends. False: it has ended already, and nothing will be called."""
        with self.lock:
            if record.status != "pending":
                return False
            if record.shell is None:
                record.shell = []
            record.shell.append(watcher)
            return True

    def unwatch(self, record: Held, watcher: Watcher) -> None:
        with self.lock, contextlib.suppress(ValueError):
            if record.shell is not None:
                record.shell.remove(watcher)

    def collect(self, records: Sequence[Held]) -> Collector:
        """Begin to fetch results."""
        collector = Collector(self, records)
        if not collector.take_known():
            self._to_start.append(collector)
            self._wake()
        return collector

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run a user's callback on the thread that is there for callbacks, where it may wait."""
        with self.lock:
            if self._callback_thread is None:
                self._callback_thread = threading.Thread(target=self._run_callbacks, name="parml-callbacks", daemon=True)
                self._callback_thread.start()
        self._callbacks.put(callback)

    def _run_callbacks(self) -> None:
        while (callback := self._callbacks.get()) is not None:
            try:
                callback()
            except Exception:
                log.exception("a callback of a future failed")
            callback = None  # while waiting for the next one, the future of this one is not kept

    def ask(self, make: Callable[[int], Any], timeout_s: float = 30.0) -> Any:
        """Ask the scheduler something: ``make(request)`` is the message."""
        return self.call(self.ask_async(make), timeout_s)

    def close(self) -> None:
        """Say good-bye and end the thread."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            with contextlib.suppress(ParmlError, concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                self.call(self._close(), 3.0)
            self._stop_loop()
        self._callbacks.put(None)

    # --- the loop's thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        if pending:
            self.loop.run_until_complete(asyncio.wait(pending, timeout=2.0))
        self.loop.close()
        self._end_turns()

    def _stop_loop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)

    async def _connect(self, timeout_s: float) -> None:
        hello = m.Hello("client", self.id, my_versions())
        limits = limits_of(self._settings)
        comm = await connect(self.address, credentials=self._credentials, hello=hello, timeout_s=timeout_s, limits=limits)
        self._scheduler = Conversation(comm, _to_client)
        self.data = DataLinks(self._credentials, self.id, self._settings)
        self.fetcher = Fetcher(self, 2 * self._settings.scheduler.worker_timeout_s)
        self._putter = Putter(self)
        self.spawn(self._listen())
        self._trim_pool()

    def _trim_pool(self) -> None:
        pool.trim()
        self.loop.call_later(IDLE_S / 2, self._trim_pool)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the client's loop met an error of its own", exc_info=task.exception())
            self._lose(f"the client met an error of its own: {task.exception()!r}")

    async def _close(self) -> None:
        self._lose("this client was closed")
        self._scheduler.say([m.ClientBye()])
        self._scheduler.flush()
        await self._scheduler.comm.close()
        await self.data.close()
        pool.trim(0.0)

    async def _listen(self) -> None:
        try:
            while True:
                self._hear(await self._scheduler.receive())
        except ParmlError as error:
            self._lose(f"the connection to the scheduler at {self.address} was lost: {error}")

    def _lose(self, text: str) -> None:
        """Nothing will come any more: everybody who waits learns why."""
        with self.lock:
            if self.lost is None:
                self.lost = m.Failure("SchedulerLost", text)
            changed = self.kernel.fail_all(self.lost)
            outbox, self._outbox = self._outbox, deque()
        for item in outbox:
            if type(item) is Put and not item.done.done():
                item.done.set_exception(SchedulerLost(text))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(SchedulerLost(text))
        self.tell(changed)

    def _hear(self, events: list[Any]) -> None:
        with self.lock:
            changed = self.kernel.handle(events)
        self.tell(changed)
        for event in events:
            request = getattr(event, "request", None)
            if request is not None:
                answer = self._answers.pop(request, None)
                if answer is not None and not answer.done():
                    answer.set_result(event)
            elif type(event) is m.NeedValues:
                self._put_again(event.keys)

    def tell(self, changed: list[Held]) -> None:
        for record in changed:
            if record.shell and record.status != "pending":
                watchers, record.shell = record.shell, None
                for watcher in watchers:
                    watcher(record)

    def say(self, messages: Sequence[Any]) -> None:
        """Tell the scheduler, at the end of this turn of the loop."""
        self._scheduler.say(messages)

    async def ask_async(self, make: Callable[[int], Any]) -> Any:
        self.check_open()
        request = next(self._n_requests)
        answer = self._answers[request] = self.loop.create_future()
        try:
            self._flush()
            self._scheduler.say([make(request)])
            self._scheduler.flush()
            return await answer
        finally:
            self._answers.pop(request, None)

    def _turn(self) -> None:
        """Do what other threads have asked for since they woke the loop."""
        self._awake = False
        if self._outbox:
            self._flush()
        elif self._released and not self._releasing:
            self._releasing = True
            self.loop.call_later(RELEASE_PAUSE_S, self._release)
        while self._to_start:
            self._to_start.popleft().start()

    def _end_turns(self) -> None:
        """The loop is closed, and all that was held has failed: who still asks is told so. Any thread."""
        self._awake = False
        with contextlib.suppress(IndexError):  # another thread does the same
            while True:
                self._to_start.popleft().start()

    def _release(self) -> None:
        self._releasing = False
        self._flush()

    def _flush(self) -> None:
        """Send what was put into the outbox, up to values that have to be put on workers first."""
        with self.lock:
            self._take_released()
        while not self._putting:
            with self.lock:
                item = self._outbox.popleft() if self._outbox else None
            if item is None:
                break
            if type(item) is Put:
                self._putting = True
                self._scheduler.flush()
                self.spawn(self._put(item))
            else:
                self._scheduler.say([item])
        self._scheduler.flush()

    async def _put(self, put: Put) -> None:
        """What was said after these values waits until they are placed."""
        try:
            await self._putter.put(put)
        finally:
            self._putting = False
            self._flush()

    def _take_released(self) -> None:
        """Tell of the futures that are gone, before anything that is said from now on. The caller has the lock."""
        keys = []
        while self._released:
            record = self._released.popleft()
            if self.kernel.release(record):
                record.value = None
                keys.append(record.key)
        if keys and self.lost is None:
            self._outbox.append(m.Release(keys))

    def _put_again(self, keys: Sequence[Key]) -> None:
        """The workers that held scattered values were lost: put the values on others."""
        with self.lock:
            records = [r for r in map(self.kernel.held.get, keys) if r is not None]
            if records:
                want = max(record.want for record in records)
                put = Put(records, [record.value for record in records], 1)
                for record in records:
                    record.want = want
                self._outbox.appendleft(put)
        self._wake()

"""
A worker process: the shell around `WorkerKernel`.

It carries out the kernel's effects with an executor, a store, links to peers and rank processes, and tells the kernel how
they ended. Everything but the tasks themselves runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from parml_core.comm import connect, listen, listens
from parml_core.comm.base import Comm, Credentials, my_versions
from parml_core.config import Settings
from parml_core.engine.base import Engine, WorkerInfo
from parml_core.errors import ClusterError, ParmlError
from parml_core.kernel import effects as fx
from parml_core.kernel import events as ev
from parml_core.kernel.worker import WorkerKernel, WorkerPolicy
from parml_core.protocol.messages import (
    Assignment,
    Failure,
    Heartbeat,
    Hello,
    ToWorker,
    WorkerBye,
    decoder_of,
)
from parml_core.protocol.serialize import Serialized, failure_of
from parml_core.runtime.data import DataServer
from parml_core.runtime.executor import Executor, Job, Outcome
from parml_core.runtime.machine import allow_open_files, memory_bytes
from parml_core.runtime.memory import MemoryWatch, give_back_freed, keep_freed
from parml_core.runtime.nanny_link import NannyLink
from parml_core.runtime.peer import Conversation, DataLinks, limits_of
from parml_core.runtime.rank import RankNotStarted, RankProcess
from parml_core.runtime.specs import RankSpec, Ready, WorkerSpec, tell_ready
from parml_core.store.disk import Disk
from parml_core.store.memory import SPILLED_BYTES, MemoryStore
from parml_core.store.pool import IDLE_S, pool
from parml_core.typing import Key

log = logging.getLogger("parml.worker")

_to_worker = decoder_of(ToWorker)

_MUCH_BYTES = 1 << 20  # that came into the store: the memory is looked at before more is started
_FETCHING_SHARE = 1 / 8  # of the memory limit, for inputs on their way
_WARM_SHARE = 1 / 8  # of the memory limit, for what was freed and waits for another use
RANK_START_TIMEOUT_S = 60.0


class Worker:
    """
    One worker. `start` it, then wait for `ended`.

    Parameters
    ----------
    spec : WorkerSpec
    nanny_fd : int
        Link to the nanny that forked this process; -1: none, one is started when a rank needs it.
    engine : Engine, optional
        Serves what tasks themselves submit.
    """

    def __init__(self, spec: WorkerSpec, nanny_fd: int = -1, engine: Engine | None = None) -> None:
        self.spec = spec
        self._engine = engine
        self.settings = Settings.from_dict(spec.settings)
        self.id = f"{spec.name}-{secrets.token_hex(4)}"
        self.store = MemoryStore()
        self.ended: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        self._nanny_fd = nanny_fd
        self._nanny: NannyLink | None = None
        self._nanny_lock = asyncio.Lock()
        self._credentials = Credentials(spec.secret)
        self._ranks: dict[tuple[Key, int], asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._memory: MemoryWatch | None = None  # without a limit there is nothing to watch
        self._process = psutil.Process()
        self._ran = False  # a task, since garbage was last collected
        self._freed_s: float | None = None  # when memory was last freed that malloc may keep
        self._effects: dict[type, Callable[[Any], None]] = {
            fx.Send: self._do_send,
            fx.Execute: self._do_execute,
            fx.ExecuteRank: self._do_execute_rank,
            fx.KillRank: self._do_kill_rank,
            fx.Skip: self._do_skip,
            fx.TakeBack: self._do_take_back,
            fx.Fetch: self._do_fetch,
            fx.Drop: self._do_drop,
            fx.DefineFunctions: self._do_define_functions,
            fx.DropFunctions: self._do_drop_functions,
            fx.Stop: self._do_stop,
        }

    async def start(self) -> None:
        """Listen, register with the scheduler, begin to work. Raises ConnectionLost, AuthenticationError, VersionMismatch."""
        spec, settings = self.spec, self.settings
        if spec.memory_bytes:
            pool.limit_bytes = min(pool.limit_bytes, int(spec.memory_bytes * _WARM_SHARE))
        if self._nanny_fd >= 0:
            self._nanny = await NannyLink.attach(self._nanny_fd)
            self._nanny.lost.add_done_callback(lambda _: self.stop("its nanny is gone"))
        hello = Hello("data", self.id, my_versions())
        self._listener = await listen(
            f"tcp://{spec.host}:0",
            self._serve_data,
            credentials=self._credentials,
            hello=hello,
            timeout_s=settings.comm.handshake_timeout_s,
            limits=limits_of(settings),
            allow_insecure=spec.allow_insecure,
        )
        self.address = self._listener.address
        self._links = DataLinks(self._credentials, self.id, self.settings, self.address)
        policy = WorkerPolicy()
        if spec.memory_bytes:
            policy = WorkerPolicy(fetching_bytes=min(policy.fetching_bytes, int(spec.memory_bytes * _FETCHING_SHARE)))
        self.kernel = WorkerKernel(spec.nthreads, self.address, policy)
        self._data = DataServer(
            spec.name,
            self.store,
            self.kernel.values,
            handle=lambda event: self._handle([event]),
            look_after=self._look_after,
            has_lent=self._has_lent,
            disk_for=self._disk_for,
        )
        self._executor = Executor(
            spec.nthreads,
            spec.name,
            self._on_outcomes,
            self._on_blocked,
            self._on_unreadable,
            lambda nbytes: self._memory is None or self._memory.has_room(nbytes),
            self._engine,
        )
        info = WorkerInfo(self.id, spec.name, spec.host, spec.nthreads, spec.memory_bytes, spec.resources, os.getpid())
        hello = Hello("worker", self.id, my_versions(), worker=info, address=self.address)
        comm = await connect(
            spec.scheduler,
            credentials=self._credentials,
            hello=hello,
            timeout_s=settings.comm.connect_timeout_s,
            limits=limits_of(settings),
        )
        if self._nanny is not None:
            self._nanny.works()
        self._scheduler = Conversation(comm, _to_worker)
        self._spawn(self._listen_to_scheduler())
        self._spawn(self._send_heartbeats())
        if spec.memory_bytes:
            where = spec.spill_directory, spec.name
            self._memory = MemoryWatch(
                spec.memory_bytes, settings.worker, self.store, *where, lambda told: self._handle([told])
            )
            self._spawn(self._memory.run())

    def stop(self, reason: str, *, rejoin: bool = False) -> None:
        """End; `ended` tells why, and whether this worker should be started again."""
        if not self.ended.done():
            self.ended.set_result((reason, rejoin))

    async def close(self, reason: str) -> None:
        """Say good-bye and let go of everything."""
        self._scheduler.say([WorkerBye(reason)])
        self._scheduler.flush()
        for task in [*self._ranks.values(), *self._background]:
            task.cancel()
        self._executor.close()
        if self._memory is not None:
            self._memory.close()
        await self._listener.stop()
        await self._links.close()
        await self._scheduler.comm.close()
        if self._nanny is not None:
            await self._nanny.close()

    # --- the kernel ----------------------------------------------------------------------------------------------------

    def _handle(self, events: Sequence[Any]) -> None:
        for effect in self.kernel.handle(events):
            self._effects[type(effect)](effect)
        self._scheduler.flush()

    async def _listen_to_scheduler(self) -> None:
        try:
            while True:
                self._handle(await self._scheduler.receive())
        except ParmlError as error:
            # A scheduler that is still there took this worker for lost, or will: what it holds is computed anew elsewhere.
            rejoin = await listens(self.spec.scheduler, within_s=self.settings.worker.reconnect_s)
            self.stop(f"the connection to the scheduler was lost: {error}", rejoin=rejoin)

    async def _send_heartbeats(self) -> None:
        self._process.cpu_percent()
        while True:
            memory_bytes, cpu_percent = self._process.memory_info().rss, self._process.cpu_percent()
            executing = self.kernel.executing()
            self._scheduler.say([Heartbeat(executing, memory_bytes, cpu_percent)])
            if self._ran and not executing:  # what tasks left in cycles may hold futures, and with them results elsewhere
                self._ran = False
                gc.collect()
            pool.trim()
            if self._freed_s is not None and not executing and time.monotonic() - self._freed_s > IDLE_S:
                self._freed_s = None
                give_back_freed()
            await asyncio.sleep(self.settings.worker.heartbeat_s)

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.ensure_future(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background_ended)
        return task

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("worker %s ends because of an error of its own", self.spec.name, exc_info=task.exception())
            self.stop(f"an error of its own: {task.exception()!r}", rejoin=True)

    # --- effects -------------------------------------------------------------------------------------------------------

    def _do_send(self, effect: fx.Send) -> None:
        self._scheduler.say([effect.message])

    def _do_execute(self, effect: fx.Execute) -> None:
        entry_of = self.store.entry
        for assignment in effect.tasks:
            entries = {}
            for input in assignment.inputs:
                entry = entry_of(input.key)
                assert entry is not None, f"{input.key} is not in the store"
                entries[input.key] = entry
            self._executor.submit(Job(assignment, entries))

    def _do_skip(self, effect: fx.Skip) -> None:
        for key, attempt in effect.attempts:
            self._executor.skip(key, attempt)

    def _do_take_back(self, effect: fx.TakeBack) -> None:
        taken = [(key, attempt) for key, attempt in effect.attempts if self._executor.take_back(key, attempt)]
        if taken:
            asyncio.get_running_loop().call_soon(self._handle, [ev.TakenBack(taken)])

    def _do_drop(self, effect: fx.Drop) -> None:
        self.store.drop(effect.keys)
        self._freed_s = time.monotonic()

    def _do_define_functions(self, effect: fx.DefineFunctions) -> None:
        self._executor.functions.update(effect.functions)

    def _do_drop_functions(self, effect: fx.DropFunctions) -> None:
        for fn in effect.fns:
            self._executor.forget_function(fn)

    def _do_stop(self, effect: fx.Stop) -> None:
        self.stop(effect.reason, rejoin=effect.rejoin)

    # --- tasks ---------------------------------------------------------------------------------------------------------

    def _on_outcomes(self, outcomes: list[Outcome]) -> None:
        self._ran, self._freed_s = True, time.monotonic()
        events = []
        stored_bytes = 0
        for key, attempt, entry, nbytes, duration_s, failure, small in outcomes:
            if self.kernel.accepts(key, attempt):
                if failure is None:
                    self.store.keep(key, entry, nbytes)
                    stored_bytes += nbytes
                events.append(ev.RunEnded(key, attempt, nbytes, duration_s, failure, small))
        self._look_after(stored_bytes)
        if events:
            self._handle(events)

    def _look_after(self, stored_bytes: int) -> None:
        """So many bytes came into the store: if these are many, see what that means before more is started."""
        if stored_bytes > _MUCH_BYTES and self._memory is not None:
            self._memory.look()

    def _on_blocked(self, count: int) -> None:
        self._handle([ev.SlotsBlocked(count)])

    def _on_unreadable(self, key: Key, attempt: int, lost: tuple[Key, ...]) -> None:
        self._handle([ev.InputsUnreadable(key, attempt, lost)])

    # --- ranks ---------------------------------------------------------------------------------------------------------

    def _do_execute_rank(self, effect: fx.ExecuteRank) -> None:
        assignment = effect.task
        task = self._ranks[assignment.key, assignment.attempt] = self._spawn(self._run_rank(assignment))
        task.add_done_callback(lambda _: self._ranks.pop((assignment.key, assignment.attempt), None))

    def _do_kill_rank(self, effect: fx.KillRank) -> None:
        task = self._ranks.get((effect.key, effect.attempt))
        if task is not None:
            task.cancel()  # which kills the process

    async def _run_rank(self, assignment: Assignment) -> None:
        key, attempt = assignment.key, assignment.attempt
        started = time.perf_counter()
        spec = RankSpec(
            key=key,
            attempt=attempt,
            fn=self._executor.functions[assignment.fn],
            args=assignment.args,
            inputs=list(assignment.inputs),
            secret=self.spec.secret,
            threads=assignment.threads,
            gang=assignment.gang,
            worker=self.spec.name,
            preload=list(assignment.preload),
        )
        outcome: Serialized | Failure
        try:
            async with self._nanny_lock:
                if self._nanny is None:
                    self._nanny = await NannyLink.start_own()
            rank = await RankProcess.start(
                self._nanny, spec, timeout_s=RANK_START_TIMEOUT_S, silence_s=self.settings.worker.rank_timeout_s
            )
            self._handle([ev.RankStarted(key, attempt)])
            outcome = await rank.wait()
        except RankNotStarted as error:
            outcome = error.failure
        except ParmlError as error:
            outcome = failure_of(error, key=key, worker=self.spec.name)
        duration_s = time.perf_counter() - started
        if not self.kernel.accepts(key, attempt):
            return
        if isinstance(outcome, Failure):
            self._handle([ev.RunEnded(key, attempt, 0, duration_s, outcome)])
        else:
            self.store.put_serialized(key, outcome)
            self._look_after(outcome.nbytes)
            self._handle([ev.RunEnded(key, attempt, outcome.nbytes, duration_s)])

    # --- the data plane ------------------------------------------------------------------------------------------------

    def _do_fetch(self, effect: fx.Fetch) -> None:
        self._spawn(self._fetch(effect))

    async def _fetch(self, effect: fx.Fetch) -> None:
        try:
            link = await self._links.to(effect.peer)
            answer, values = await link.borrow(effect.keys, keep=True, patient=effect.patient)
        except (ParmlError, OSError) as error:
            log.info("worker %s could not fetch from %s: %s", self.spec.name, effect.peer, error)
            self._handle([ev.FetchFailed(effect.peer, effect.keys)])
            return
        if answer.elsewhere:
            self._handle([ev.Redirected(effect.peer, effect.keys[0], answer.elsewhere)])
            return
        here, absent = [], []
        for key, value in zip(effect.keys, values, strict=True):
            if value is not None:
                self.store.put_serialized(key, value)
                here.append((key, value.nbytes))
            elif key not in answer.failures and key not in answer.later:
                absent.append(key)
        self._look_after(sum(nbytes for _, nbytes in here))
        self._handle([ev.Fetched(effect.peer, tuple(here), tuple(absent), answer.failures, tuple(answer.later))])
        link.took(answer.shared, self.kernel.values.__contains__)

    async def _serve_data(self, comm: Comm) -> None:
        await self._data.serve(comm)

    def _disk_for(self, nbytes: int) -> Disk | None:
        """Where a value of this size is moved to rather than to be lent from memory."""
        return None if self._memory is None or nbytes < SPILLED_BYTES else self._memory.disk_to_lend_from()

    def _has_lent(self, nbytes: int) -> None:
        self._freed_s = time.monotonic()
        self._look_after(nbytes)  # it moved into a segment, and malloc may keep what it freed


async def _serve(spec: WorkerSpec, nanny_fd: int, engine: Engine | None) -> None:
    worker = Worker(spec, nanny_fd, engine)
    try:
        await worker.start()
    except (ParmlError, OSError) as error:
        tell_ready(spec.ready_fd, Ready(error=f"worker {spec.name!r} could not start: {error}"))
        raise
    tell_ready(spec.ready_fd, Ready(worker.address, None, worker.id, os.getpid()))
    reason, rejoin = await worker.ended
    log.info("worker %s ends: %s", spec.name, reason)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2.0):
            await worker.close(reason)
    if rejoin:
        raise ClusterError(f"worker {spec.name!r} has to start again: {reason}")


def main(spec: WorkerSpec, nanny_fd: int = -1, engine: Engine | None = None) -> None:
    """
    Be a worker until told to end, or until the scheduler or the nanny is gone; `engine` serves what tasks submit.

    Raises
    ------
    ClusterError
        The worker should be started again: the scheduler took it for lost, or it met an error of its own.
    """
    gc.set_threshold(50_000, 20, 50)  # every task leaves a few records behind; cycles among them are rare
    allow_open_files()  # each value in shared memory is one
    keep_freed(int((spec.memory_bytes or memory_bytes()) * _WARM_SHARE))
    asyncio.run(_serve(spec, nanny_fd, engine))

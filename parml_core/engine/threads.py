"""
The engine of threads in this process: for work that leaves the interpreter lock (numpy, pandas, Arrow, trees), without copies.

A slot is the right to use one processor. A task takes as many as its hints say, gives them back while it waits, and takes them
again when it goes on, at once, even if others have started meanwhile: so nested work never deadlocks, and the number of running
tasks is exceeded for a moment at most. What tasks submit goes before what was there, so depth comes before breadth.
"""

from __future__ import annotations

import atexit
import heapq
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from parml_core.engine.base import Future
from parml_core.engine.context import inside_task
from parml_core.engine.futures import unique_key
from parml_core.engine.gangs import GangOfThreads
from parml_core.engine.local import (
    CANCELLED,
    ERRED,
    FINISHED,
    READY,
    RUNNING,
    WAITING,
    LocalEngine,
    LocalFuture,
    Run,
    is_callback,
    log,
    raised_in,
)
from parml_core.engine.slots import Blocked, here
from parml_core.errors import ClusterError, GangError, TaskCancelled
from parml_core.graph import Task
from parml_core.graph.task import run as call
from parml_core.typing import Key, WorkerId

T = TypeVar("T")
Callbacks = list[Callable[[], None]]

__all__ = ["ThreadsEngine"]


_engines: weakref.WeakSet[ThreadsEngine] = weakref.WeakSet()


class ThreadsEngine(LocalEngine):
    """
    Run tasks on threads of this process.

    Threads start when they are needed, and end with the engine. A task that runs cannot be ended from outside: a cancelled one
    is left to end unheard, and so are the other ranks of a gang whose one rank raised.

    Parameters
    ----------
    nthreads : int, optional
        How many tasks run at the same time. Default: the processors that this process may use.

    Examples
    --------
    >>> with ThreadsEngine(2) as engine:
    ...     engine.gather([engine.submit(pow, 2, i) for i in range(4)])
    [1, 2, 4, 8]
    """

    name = "threads"

    def __init__(self, nthreads: int | None = None) -> None:
        if nthreads is None:
            nthreads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if nthreads < 1:
            raise ValueError(f"expected nthreads to be 1 or more, found {nthreads}")
        super().__init__(nthreads)
        self._serial = 0
        self._closed = False
        self._parked: list[threading.Lock] = []
        self._start_afresh()
        weakref.finalize(self, _unpark, self._parked).atexit = False
        _engines.add(self)

    def _start_afresh(self) -> None:
        """An engine without threads and work: a new one, or one that a fork took into a process without its threads."""
        self._lock = threading.Lock()
        self._ready: list[tuple[tuple[int, int, int], weakref.ref[Run]]] = []
        self._slotless: list[weakref.ref[Run]] = []
        self._free = self.nthreads
        self._parked.clear()
        self._coming = 0  # threads on their way to look for a task
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._running: set[Run] = set()
        self._runs = weakref.WeakValueDictionary()
        self._anchored: set[Run] = set()  # runs with callbacks: these must be called though nobody else may hold the run
        self._first_serial = self._serial

    # --- runs: from launch to end. Methods named _..._locked are called with the lock held ---

    def _launch(
        self,
        tasks: Sequence[Task],
        wants: Sequence[Key],
        sources: dict[Key, Run],
        positions: Mapping[Key, int] | None = None,
    ) -> list[Run]:
        depth = 0 if here.run is None else 1 - here.run.rank[1]
        with self._lock:
            if self._closed:
                raise ClusterError(f"expected an open engine, found {self!r} closed; make a new one")
            if positions is not None:
                tasks = self._not_known(tasks, wants, sources)
            runs: dict[Key, Run] = {}
            for place, task in enumerate(tasks):
                run = runs[task.key] = Run.of_task(task)
                hints = task.hints
                run.slots = min(hints.threads, self.nthreads)
                run.rank = -hints.priority, -depth, self._serial + (positions[task.key] if positions else place)
                if positions is not None:
                    self._runs[task.key] = run
                if task.deps:
                    self._link_locked(run, [runs.get(dep) or sources[dep] for dep in task.deps])
                else:
                    self._push_locked(run)
            self._serial += max(len(tasks), len(positions or ()))
            self._wake_locked()
        return [runs.get(key) or sources[key] for key in wants]

    def _link_locked(self, run: Run, inputs: list[Run]) -> None:
        me = weakref.ref(run)
        for source in inputs:
            self._settle_stale(source)
            if source.error is not None:
                run.clear()
                run.fail_like(source)
                return
            run.inputs[source.key] = source
            if source.state < FINISHED:
                run.waiting += 1
                if source.users is None:
                    source.users = []
                source.users.append(me)
        if not run.waiting:
            self._push_locked(run)

    def _push_locked(self, run: Run) -> None:
        run.state = READY
        if run.slots:
            heapq.heappush(self._ready, (run.rank, weakref.ref(run)))
        else:
            self._slotless.append(weakref.ref(run))

    def _pop_locked(self) -> Run | None:
        """The next run to perform, now running, or None."""
        while self._slotless:
            run = self._slotless.pop()()
            if run is not None and run.state == READY:
                run.state = RUNNING
                self._running.add(run)
                return run
        while self._ready:
            run = self._ready[0][1]()
            if run is not None and run.state == READY:
                if run.slots > self._free:
                    return None
                heapq.heappop(self._ready)
                self._free -= run.slots
                run.state = RUNNING
                self._running.add(run)
                return run
            heapq.heappop(self._ready)  # cancelled, or nobody needs it any more
        return None

    def _end_locked(self, run: Run, callbacks: Callbacks, dropped: list[object]) -> None:
        """`run` has ended: its users become ready, or end as it did. Gathers what to do once the lock is free."""
        ended = [run]
        while ended:
            run = ended.pop()
            if run not in self._running:  # otherwise its thread may be about to read what to call
                dropped.append(run.clear())
            if run.callbacks:
                callbacks += run.callbacks
                run.callbacks = None
                self._anchored.discard(run)
            users, run.users = run.users, None
            for reference in users or ():
                user = reference()
                if user is None or user.state != WAITING:
                    continue
                if run.error is not None:
                    user.fail_like(run)
                    ended.append(user)
                else:
                    user.waiting -= 1
                    if not user.waiting:
                        self._push_locked(user)

    def _end_from_outside(self, runs: Iterable[Run], error_of: Callable[[Run], BaseException], state: int) -> None:
        callbacks: Callbacks = []
        dropped: list[object] = []
        with self._lock:
            for run in runs:
                if run.state < FINISHED:
                    run.fail(error_of(run), state)
                    self._end_locked(run, callbacks, dropped)
        for callback in callbacks:
            callback()

    def _source(self, future: Future[Any]) -> Run:
        """A run that fetches the result of another engine's future, as soon as that has one."""
        run = Run(future.key)
        run.fn, run.slots, run.waiting, run.rank = future.result, 0, 1, (0, 0, self._serial)
        me = weakref.ref(run)

        def ready(_: Future[Any]) -> None:
            run = me()
            with self._lock:
                if run is not None and run.state == WAITING:
                    self._push_locked(run)
                    self._wake_locked()

        future.add_done_callback(ready)
        return run

    # --- threads ---

    def _wake_locked(self) -> None:
        """See to it that as many threads look for a task as there are tasks that could start."""
        while self._coming < len(self._slotless) + min(len(self._ready), max(self._free, 0)):
            self._coming += 1
            if self._parked:
                self._parked.pop().release()
            else:
                parking = threading.Lock()
                parking.acquire()
                thread = threading.Thread(target=_serve, args=(weakref.ref(self), parking), name="parml-thread", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more threads: those that are there do the work
                    self._coming -= 1
                    log.warning("%r could not start a thread beside its %d", self, len(self._threads))
                    if not self._threads:
                        raise
                    return
                self._threads.add(thread)

    def _arrive(self, parking: threading.Lock) -> bool:
        """Perform tasks until there are none that could start. Whether to park then, or to end."""
        with self._lock:
            self._coming -= 1
            run = self._pop_locked()
        while True:
            while run is not None:
                run = self._perform(run)
            with self._lock:
                run = self._pop_locked()
                if run is None:
                    if self._closed or len(self._parked) >= self.nthreads:
                        return False
                    self._parked.append(parking)
                    return True

    def _perform(self, run: Run) -> Run | None:
        """Call the task, say what became of it, and take the next."""
        here.run = run
        value, error = None, None
        try:
            if run.inputs:
                results = {key: source.value for key, source in run.inputs.items()}
                value = call(run.fn, run.args, run.kwargs, tuple(results), results)
                del results
            else:
                value = run.fn(*run.args, **run.kwargs)
        except BaseException as caught:
            error = raised_in(run.key, self.name, caught)
        finally:
            here.run = None
        callbacks: Callbacks = []
        dropped: list[object] = []
        following = None
        with self._lock:
            self._free += run.slots
            self._running.discard(run)
            if run.state == RUNNING:  # it was not cancelled meanwhile
                if error is None:
                    run.state, run.value = FINISHED, value
                    self._end_locked(run, callbacks, dropped)
                elif run.retries and isinstance(error, Exception):
                    run.retries -= 1
                    self._push_locked(run)
                else:
                    run.fail(error)
                    self._end_locked(run, callbacks, dropped)
            else:
                dropped.append(run.clear())
            if not callbacks:
                following = self._pop_locked()
            self._wake_locked()
        for callback in callbacks:
            callback()
        return following

    # --- what futures ask ---

    def _when_ended(self, run: Run, callback: Callable[[], None]) -> None:
        with self._lock:
            self._settle_stale(run)
            if run.state < FINISHED:
                if run.callbacks is None:
                    run.callbacks = []
                    self._anchored.add(run)
                run.callbacks.append(callback)
                return
        callback()

    def _forget_callback(self, run: Run, callback: Callable[..., None]) -> None:
        with self._lock:
            if run.callbacks is not None:
                run.callbacks = [entry for entry in run.callbacks if not is_callback(entry, callback)] or None
                if run.callbacks is None:
                    self._anchored.discard(run)

    def _settle_stale(self, run: Run) -> None:
        """What was pending when this process was forked, or when the engine was closed, never ends: it is cancelled."""
        if run.state < FINISHED and run.rank[2] < self._first_serial:
            run.fail(_cancellation(run, "was left behind by a fork or by the end of its engine"), CANCELLED)

    # --- verbs ---

    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        runs = [future._run for future in futures if isinstance(future, LocalFuture) and future._engine is self]
        self._end_from_outside(runs, lambda run: _cancellation(run, "was cancelled"), CANCELLED)

    def gang(
        self,
        fn: Callable[..., T],
        args_by_rank: Sequence[tuple[Any, ...]],
        *,
        where: Sequence[Sequence[WorkerId]] | None = None,
        timeout_s: float | None = None,
    ) -> list[Future[T]]:
        """
        As `Engine.gang`, on threads of their own; `where` has no meaning with one worker.

        Threads cannot be killed: when one rank raises, the futures of all end at once, but the other ranks run on unheard.
        """
        gang = GangOfThreads(unique_key(fn), fn, len(args_by_rank), self._as_task)
        graph, ranks = gang.graph_of(args_by_rank)
        if timeout_s is not None:
            text = f"expected {gang.size} ranks of {gang.key} to start within {timeout_s} s, found no room; wait or use fewer"
            timer = threading.Timer(timeout_s, self._expire, (gang.leader, text))
            timer.daemon = True
            gang.on_start = timer.cancel
            timer.start()
        return self.submit_graph(graph, ranks)

    def _as_task(self, fn: Callable[..., T], *args: Any) -> T:
        """Call `fn` in a thread that is none of the pool's, like a task of this engine with one slot."""
        here.engine, here.run = self, Run("rank")
        with inside_task(self):
            return fn(*args)

    def _expire(self, key: Key, text: str) -> None:
        run = self._runs.get(key)
        if run is not None and run.state < RUNNING:
            self._end_from_outside([run], lambda _: GangError(text), ERRED)

    def blocked(self) -> AbstractContextManager[None]:
        return Blocked(self, self._give_slots)

    def _give_slots(self, count: int) -> None:
        with self._lock:
            self._free += count
            self._wake_locked()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the engine: cancel what is pending, and wait for at most `timeout_s` until running tasks have ended."""
        with self._lock:
            self._closed = True
            self._first_serial = self._serial
            ready = [run for _, reference in self._ready if (run := reference()) is not None]
            pending = [*self._running, *ready, *self._anchored]
            self._coming += len(self._parked)
            _unpark(self._parked)
        self._end_from_outside(pending, lambda run: _cancellation(run, "was pending when its engine was closed"), CANCELLED)
        end = time.monotonic() + timeout_s
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))


def _serve(reference: weakref.ref[ThreadsEngine], parking: threading.Lock) -> None:
    """The life of a pool's thread. While it is parked it does not hold the engine, so that this can be forgotten."""
    goes_on = True
    while goes_on:
        engine = reference()
        if engine is None:
            return
        here.engine = engine
        with inside_task(engine):
            goes_on = engine._arrive(parking)
        here.engine = None
        del engine
        if goes_on:
            parking.acquire()


def _unpark(parked: list[threading.Lock]) -> None:
    while parked:
        parked.pop().release()


def _cancellation(run: Run, why: str) -> TaskCancelled:
    return TaskCancelled(f"expected a result of {run.key}, found that it {why}; submit it again")


def _after_fork() -> None:
    here.forget()
    for engine in list(_engines):
        engine._start_afresh()


def _at_exit() -> None:
    for engine in list(_engines):
        engine.close()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

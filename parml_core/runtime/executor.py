"""
The threads that run tasks.

Jobs go in by one queue; outcomes come out in batches, on the event loop's thread, which is woken once for each batch. A task
that only waits for others (`blocked`) gives its place to another thread, and so does one whose result nobody wants any more:
a thread cannot be ended from outside, and who gave up a call does not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

from parml_core.engine.base import Engine
from parml_core.engine.context import inside_task
from parml_core.errors import SerializationError
from parml_core.graph.task import run
from parml_core.protocol.messages import Assignment, Failure
from parml_core.protocol.serialize import MAYBE_SMALL_BYTES, dumps_small, failure_of, loads
from parml_core.sizeof import sizeof
from parml_core.store.disk import Unreadable
from parml_core.store.memory import Entry, is_bulk
from parml_core.typing import Key

log = logging.getLogger(__name__)

LENT_AT_ONCE_BYTES = 1024 * 1024
"""
A result of this size that a client holds is put where other processes can map it before anybody hears of it: sooner or later
most are looked at from elsewhere, and then nobody waits for a copy.
"""


class Job:
    """A task that can run: its inputs are at hand."""

    __slots__ = ("assignment", "entries")

    def __init__(self, assignment: Assignment, entries: Mapping[Key, Entry]) -> None:
        self.assignment = assignment
        self.entries = entries


class Outcome(NamedTuple):
    """How a job ended: with a value, or with a failure."""

    key: Key
    attempt: int
    entry: Entry
    nbytes: int
    duration_s: float
    failure: Failure | None
    small: bytes


class _Current(threading.local):
    """What this thread runs."""

    executor: Executor | None = None
    job: Job | None = None


_current = _Current()


def _forget_in_child() -> None:
    """What a task forks is no task: its executor stays behind."""
    _current.executor = _current.job = None


os.register_at_fork(after_in_child=_forget_in_child)


def current_job() -> Job | None:
    """The job that the calling thread runs, if it is a thread of an Executor."""
    return _current.job


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """While in this context the calling task only waits: another may run in its place. Outside of tasks: nothing."""
    executor, job = _current.executor, _current.job
    threads = 0 if job is None else job.assignment.threads
    if executor is None or not threads:  # outside of tasks, or in one that takes no slot
        yield
        return
    executor.change_blocked(+threads)
    try:
        yield
    finally:
        executor.change_blocked(-threads)


class Executor:
    """
    Parameters
    ----------
    nthreads : int
    worker : str
        Name of the worker, for error messages.
    on_outcomes : callable
        Gets a list of Outcome, on the loop's thread.
    on_blocked : callable
        Gets how many threads more belong to tasks that only wait (negative: fewer), on the loop's thread.
    on_unreadable : callable
        Gets a task that did not start, its attempt, and those of its inputs that could not be read, on the loop's thread.
    has_room : callable
        Whether so many bytes more are no trouble, asked on a task's thread.
    engine : Engine, optional
        Serves what the tasks themselves submit.

    Attributes
    ----------
    functions : dict of id to bytes
        Pickled functions; a task unpickles its own at first use.
    """

    def __init__(
        self,
        nthreads: int,
        worker: str,
        on_outcomes: Callable[[list[Outcome]], None],
        on_blocked: Callable[[int], None],
        on_unreadable: Callable[[Key, int, tuple[Key, ...]], None],
        has_room: Callable[[int], bool],
        engine: Engine | None = None,
    ) -> None:
        self._nthreads = nthreads
        self._worker = worker
        self._on_outcomes = on_outcomes
        self._on_blocked = on_blocked
        self._on_unreadable = on_unreadable
        self._has_room = has_room
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._unclaimed: dict[tuple[Key, int], Job] = {}  # whoever pops a job has it: a thread to run it, or `take_back`
        self._running: dict[tuple[Key, int], Job] = {}  # whoever pops a job ends it: its thread, or `skip`
        self._outcomes: deque[Outcome] = deque()
        self._collecting = False
        self._lock = threading.Lock()  # guards the two counts
        self._n_blocked = 0
        self._n_threads = 0
        self._n_started = 0
        self.functions: dict[str, bytes] = {}
        self._loaded: dict[str, Callable[..., Any]] = {}
        for _ in range(nthreads):
            self._add_thread()

    # --- on the loop's thread ------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        assignment = job.assignment
        self._unclaimed[assignment.key, assignment.attempt] = job
        if assignment.threads == 0:
            threading.Thread(target=self._run_alone, args=(job,), name="parml-task-extra", daemon=True).start()
        else:
            self._jobs.put(job)

    def take_back(self, key: Key, attempt: int) -> bool:
        """Whether this job has not started; then it never will."""
        return self._unclaimed.pop((key, attempt), None) is not None

    def skip(self, key: Key, attempt: int) -> None:
        """Nobody wants this job's result: it never starts, or where it runs already, another thread takes its place."""
        if not self.take_back(key, attempt) and (job := self._running.pop((key, attempt), None)) is not None:
            self._make_room(job.assignment.threads)

    def forget_function(self, fn: str) -> None:
        self.functions.pop(fn, None)
        self._loaded.pop(fn, None)

    def close(self) -> None:
        """Start nothing more. Threads end when what they run ends; they do not keep the process alive."""
        with self._lock:
            n_threads = self._n_threads
        for _ in range(n_threads):
            self._jobs.put(None)

    def _collect(self) -> None:
        self._collecting = False
        outcomes = []
        while self._outcomes:
            outcomes.append(self._outcomes.popleft())
        self._on_outcomes(outcomes)

    # --- on the tasks' threads -----------------------------------------------------------------------------------------

    def change_blocked(self, count: int) -> None:
        """So many threads more (negative: fewer) belong to tasks that only wait."""
        self._make_room(count)
        self._loop.call_soon_threadsafe(self._on_blocked, count)

    def _make_room(self, count: int) -> None:
        with self._lock:
            self._n_blocked += count
            n_missing = self._nthreads + self._n_blocked - self._n_threads
        for _ in range(n_missing):
            self._add_thread()

    def _add_thread(self) -> None:
        with self._lock:
            self._n_threads += 1
            self._n_started += 1
            name = f"parml-task-{self._n_started}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _surplus(self) -> bool:
        """Whether this thread may end, because the task in whose place it ran goes on."""
        with self._lock:
            if self._n_threads <= self._nthreads + self._n_blocked:
                return False
            self._n_threads -= 1
            return True

    def _context(self) -> contextlib.AbstractContextManager[None]:
        _current.executor = self
        return contextlib.nullcontext() if self._engine is None else inside_task(self._engine)

    def _work(self) -> None:
        with self._context():
            self._work_on()

    def _work_on(self) -> None:
        get = self._jobs.get
        while (job := get()) is not None:
            self._run(job)
            job = None  # while waiting for the next one, nothing of this one is kept
            if self._n_threads > self._nthreads and self._surplus():
                return

    def _run_alone(self, job: Job) -> None:
        with self._context():
            self._run(job)

    def _run(self, job: Job) -> None:
        key, attempt, fn_id = job.assignment.key, job.assignment.attempt, job.assignment.fn
        self._running[key, attempt] = job
        if self._unclaimed.pop((key, attempt), None) is None:
            self._leave(job)
            return  # it was taken back
        _current.job = job
        value, entry, nbytes, failure, small = None, Entry(), 0, None, b""
        started = perf_counter()
        try:
            fn = self._loaded.get(fn_id)
            if fn is None:
                fn = self._loaded[fn_id] = loads(self.functions[fn_id])
            args, kwargs = loads(job.assignment.args)
            if job.entries:
                try:
                    results = {name: entry.value() for name, entry in job.entries.items()}
                except Unreadable:
                    self._report_unreadable(job)
                    return
                value = run(fn, args, kwargs, tuple(results), results)
            else:
                value = fn(*args, **kwargs)
            nbytes, entry = sizeof(value), Entry(value)
            if job.assignment.wanted and nbytes <= MAYBE_SMALL_BYTES:
                small = dumps_small(value)
            elif job.assignment.wanted and nbytes >= LENT_AT_ONCE_BYTES and is_bulk(value) and self._has_room(nbytes):
                value = None  # the entry has it, and lets go of it
                with contextlib.suppress(SerializationError):  # then it serves tasks here, and who asks from elsewhere is told
                    entry.to_segment()
            duration_s = perf_counter() - started
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the task's failures like any other
            duration_s = perf_counter() - started
            failure = failure_of(error, key=key, worker=self._worker)
            error.__traceback__ = None  # its frames hold the inputs
        self._leave(job)
        self._report(Outcome(key, attempt, entry, nbytes, duration_s, failure, small))

    def _leave(self, job: Job) -> None:
        """This thread is done with a job; one that was skipped while it ran needs no room beside another's any more."""
        _current.job = None
        if self._running.pop((job.assignment.key, job.assignment.attempt), None) is None:
            self._make_room(-job.assignment.threads)

    def _report_unreadable(self, job: Job) -> None:
        self._leave(job)
        lost = []
        for name, entry in job.entries.items():
            try:
                entry.value()
            except Unreadable as why:
                log.warning("the value of %s has to be made again, since it was damaged on disk: %s", name, why)
                lost.append(name)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
            self._loop.call_soon_threadsafe(self._on_unreadable, job.assignment.key, job.assignment.attempt, tuple(lost))

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if not self._collecting:
            self._collecting = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends
                self._loop.call_soon_threadsafe(self._collect)

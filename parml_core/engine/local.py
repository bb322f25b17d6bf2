"""What the two engines of this process share: the record of a task's run, its Future, and the verbs that need no pool."""

from __future__ import annotations

import abc
import functools
import logging
import os
import socket
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from parml_core.engine.base import Engine, Future, Status, WorkerInfo
from parml_core.engine.context import waiting
from parml_core.engine.futures import Gate, futures_to_refs, unique_key, wait_for
from parml_core.errors import MissingKeyError, SerializationError, TaskCancelled, WaitTimeout
from parml_core.graph import Graph, Hints, Task
from parml_core.graph.task import NO_HINTS
from parml_core.typing import Key, WorkerId

T = TypeVar("T")

log = logging.getLogger("parml")

WAITING, READY, RUNNING, FINISHED, ERRED, CANCELLED = range(6)
_STATUS: tuple[Status, ...] = ("pending", "pending", "pending", "finished", "erred", "cancelled")


def _nothing() -> None:
    """The function of a run that has none to call: it has ended."""


class Run:
    """
    One task and what became of it.

    Who needs a run holds it: its futures, the runs that wait for its result, the thread that runs it. There is no count of
    needs beside Python's own: when nobody holds a run any more, its result is gone, or it never runs.
    """

    __slots__ = (
        "__weakref__", "args", "callbacks", "error", "fn", "inputs", "key", "kwargs", "rank", "retries", "slots", "state",
        "trace", "users", "value", "waiting",
    )  # fmt: skip

    def __init__(self, key: Key) -> None:
        self.key = key
        self.fn: Callable[..., Any] = _nothing
        self.args: tuple[Any, ...] = ()
        self.kwargs: Mapping[str, Any] = {}
        self.inputs: dict[Key, Run] = {}
        self.users: list[weakref.ref[Run]] | None = None
        self.callbacks: list[Callable[[], None]] | None = None
        self.state = WAITING
        self.waiting = 0
        self.retries = 0
        self.slots = 1
        self.rank: tuple[int, int, int] = (0, 0, 0)
        self.value: Any = None
        self.error: BaseException | None = None
        self.trace: Any = None

    @classmethod
    def of_task(cls, task: Task) -> Run:
        run = cls(task.key)
        run.fn, run.args, run.kwargs, run.retries = task.fn, task.args, task.kwargs, task.hints.retries
        return run

    @classmethod
    def of_value(cls, key: Key, value: Any) -> Run:
        run = cls(key)
        run.state, run.value = FINISHED, value
        return run

    @classmethod
    def of_error(cls, key: Key, error: BaseException, state: int = ERRED) -> Run:
        run = cls(key)
        run.fail(error, state)
        return run

    def fail(self, error: BaseException, state: int = ERRED) -> None:
        self.state, self.error, self.trace = state, error, error.__traceback__

    def fail_like(self, cause: Run) -> None:
        self.state, self.error, self.trace = cause.state, cause.error, cause.trace

    def clear(self) -> tuple[object, ...]:
        """Let go of what only a run to come needs; the caller drops it where any destructor may run."""
        dropped = self.fn, self.args, self.kwargs, self.inputs
        self.fn, self.args, self.kwargs, self.inputs = _nothing, (), {}, {}
        return dropped


def is_callback(entry: Callable[[], None], callback: Callable[..., None]) -> bool:
    """Whether `entry` is `callback`, or calls it with its future."""
    return entry == callback or (isinstance(entry, functools.partial) and entry.args[0] == callback)


def raised_in(key: Key, worker: str, error: BaseException) -> BaseException:
    """What a task raised, with a note that names the task, and without the engine's own frame."""
    note = f"task {key} on worker {worker}"
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    try:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    except Exception:  # a class that does not let itself be annotated
        log.debug("no note on %s", type(error).__name__)
    return error


class LocalFuture(Future[T]):
    """A Future of this process."""

    __slots__ = ("_engine", "_run", "key")

    def __init__(self, engine: LocalEngine, run: Run) -> None:
        self.key = run.key
        self._engine = engine
        self._run = run

    @property
    def status(self) -> Status:
        return _STATUS[self._run.state]

    def result(self, timeout_s: float | None = None) -> T:
        run = self._run
        if run.state < FINISHED:
            self._engine._wait_for_end(run, timeout_s)
        if run.error is None:
            value: T = run.value
            return value
        try:
            raise run.error.with_traceback(run.trace)
        finally:
            del self, run  # the traceback holds this frame, and must not hold the exception through it

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        if self._run.state < FINISHED:
            self._engine._wait_for_end(self._run, timeout_s)
        return self._run.error

    def add_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        self._engine._when_ended(self._run, functools.partial(_call_back, callback, self))

    def remove_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        self._engine._forget_callback(self._run, callback)

    def release(self) -> None:
        text = f"expected a future that is held, found {self.key} released; keep the future or submit again"
        self._run = Run.of_error(self.key, TaskCancelled(text), CANCELLED)

    def __await__(self) -> Generator[Any, None, T]:
        if self._run.state < FINISHED:
            yield from _awaken_on_end(self)
        return self.result()

    def __reduce__(self) -> Any:
        raise SerializationError(
            f"expected values that another process can use, found {self!r}, which lives in this one; "
            "pass its result, or submit to a Client"
        )


def _call_back(callback: Callable[[Any], None], future: LocalFuture[Any]) -> None:
    try:
        callback(future)
    except Exception:
        log.exception("a done callback of %s raised", future.key)


def _awaken_on_end(future: LocalFuture[Any]) -> Iterator[Any]:
    """Let the running event loop go on with other work until the task has ended."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    ended = loop.create_future()

    def set_ended() -> None:
        if not ended.done():
            ended.set_result(None)

    def on_end(_: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(set_ended)

    future.add_done_callback(on_end)
    try:
        yield from ended
    finally:
        future.remove_done_callback(on_end)


class LocalEngine(Engine):
    """The verbs as far as they are the same with and without a pool."""

    def __init__(self, nthreads: int) -> None:
        self.nthreads = nthreads
        self._runs: weakref.WeakValueDictionary[Key, Run] = weakref.WeakValueDictionary()

    # --- what the two engines do each in its own way ---

    @abc.abstractmethod
    def _launch(
        self,
        tasks: Sequence[Task],
        wants: Sequence[Key],
        sources: dict[Key, Run],
        positions: Mapping[Key, int] | None = None,
    ) -> list[Run]:
        """
        The runs of `wants`. `tasks` stand in topological order; all they refer to is among them or in `sources`.

        `positions`: in which order to run. None means one task with a key of its own, which no other work can share.
        """

    @abc.abstractmethod
    def _source(self, future: Future[Any]) -> Run:
        """A run that gets what a future of another engine gets."""

    def _wait_for_end(self, run: Run, timeout_s: float | None) -> None:
        """Wait until `run` has ended. Raises WaitTimeout."""
        gate = Gate()
        self._when_ended(run, gate.open)
        try:
            with waiting():
                gate.wait(timeout_s)
        finally:
            if not gate.is_open:
                self._forget_callback(run, gate.open)
        if not gate.is_open:
            raise WaitTimeout(f"expected {run.key} to end within {timeout_s} s, found it pending; wait longer or cancel it")

    @abc.abstractmethod
    def _when_ended(self, run: Run, callback: Callable[[], None]) -> None: ...

    @abc.abstractmethod
    def _forget_callback(self, run: Run, callback: Callable[..., None]) -> None: ...

    # --- verbs ---

    def submit(self, fn: Callable[..., T], /, *args: Any, hints: Hints = NO_HINTS, **kwargs: Any) -> Future[T]:
        args, named, futures = futures_to_refs(args, kwargs)
        task = Task(unique_key(fn), fn, args, named, hints)
        for dep in task.deps:
            if dep not in futures:
                raise MissingKeyError(f"expected a future named {dep!r}, found a Ref to it alone; pass the future in its place")
        return LocalFuture(self, self._launch((task,), (task.key,), self._sources(futures))[0])

    def submit_graph(self, graph: Graph, wants: Iterable[Key]) -> list[Future[Any]]:
        from parml_core.graph.order import order
        from parml_core.graph.passes import cull

        wants = list(wants)
        graph = cull(graph, wants)
        tasks = list(graph.values())
        positions = order(graph) if any(task.deps for task in tasks) else {}
        runs = self._launch(tasks, wants, self._sources(graph.futures), positions)
        return [LocalFuture(self, run) for run in runs]

    def _not_known(self, tasks: Sequence[Task], wants: Sequence[Key], sources: dict[Key, Run]) -> list[Task]:
        """Those of `tasks` that must run; the runs that serve in the place of others are added to `sources`."""
        if not self._runs:
            return list(tasks)
        needed = set(wants)
        unknown = []
        for task in reversed(tasks):
            if task.key not in needed:
                continue
            run = self._runs.get(task.key)
            if run is not None and run.state <= FINISHED:
                sources[task.key] = run
            else:
                unknown.append(task)
                needed.update(task.deps)
        unknown.reverse()
        return unknown

    def _sources(self, futures: Mapping[Key, Future[Any]]) -> dict[Key, Run]:
        return {
            key: future._run if isinstance(future, LocalFuture) and future._engine is self else self._source(future)
            for key, future in futures.items()
        }

    def scatter(self, values: Sequence[Any], *, replicas: int = 1) -> list[Future[Any]]:
        return [LocalFuture(self, Run.of_value(unique_key(type(value)), value)) for value in values]

    def gather(self, futures: Sequence[Future[T]]) -> list[T]:
        wait_for(futures)
        return [future.result() for future in futures]

    def wait(
        self,
        futures: Iterable[Future[Any]],
        *,
        until: Literal["all", "first", "first_error"] = "all",
        timeout_s: float | None = None,
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        return wait_for(futures, until=until, timeout_s=timeout_s)

    def workers(self) -> list[WorkerInfo]:
        return [WorkerInfo(self.name, self.name, socket.gethostname(), self.nthreads, pid=os.getpid())]

    def locate(self, futures: Sequence[Future[Any]]) -> list[tuple[WorkerId, ...]]:
        return [(self.name,) if future.status == "finished" else () for future in futures]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.nthreads} threads>"

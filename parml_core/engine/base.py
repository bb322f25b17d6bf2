"""
The ten verbs that an engine has, and the Future they speak of.

Whoever builds work for an engine (collections, the joblib backend, the trainers, the search) sees only this page.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Literal, TypeVar

import msgspec

from parml_core.graph import Graph, Hints
from parml_core.graph.task import NO_HINTS
from parml_core.typing import Key, WorkerId

T = TypeVar("T")

Status = Literal["pending", "finished", "erred", "cancelled"]


class WorkerInfo(msgspec.Struct, frozen=True):
    """
    What an engine tells about one of its workers.

    Parameters
    ----------
    id : str
        One incarnation of a worker.
    name : str
        What its operator called it; a restarted worker keeps its name and gets a new id.
    host : str
        Workers with equal host share a machine.
    nthreads : int
    memory_bytes : int
        The memory limit; 0: none.
    resources : dict of str to float
    pid : int
    """

    id: WorkerId
    name: str
    host: str
    nthreads: int
    memory_bytes: int = 0
    resources: dict[str, float] = {}
    pid: int = 0


class Future(abc.ABC, Generic[T]):
    """
    The result of a task, now or later.

    A Future serves synchronous code (`result`) and asynchronous code (``await future``). While somebody holds the Future,
    the engine keeps the result; when it is garbage-collected or released, the engine may forget it.
    """

    key: Key

    @property
    @abc.abstractmethod
    def status(self) -> Status:
        """``"pending"``, ``"finished"``, ``"erred"`` or ``"cancelled"``."""

    @abc.abstractmethod
    def result(self, timeout_s: float | None = None) -> T:
        """
        Wait for the result.

        Raises
        ------
        WaitTimeout
            `timeout_s` has passed; the task goes on.
        TaskCancelled
            The task was cancelled.
        BaseException
            What the task raised, with its type and traceback.
        """

    @abc.abstractmethod
    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        """Wait for the end of the task; what it raised, or None."""

    @abc.abstractmethod
    def add_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        """Call `callback(self)` once when the task has ended (at once where it has), on any thread; it must not block."""

    def remove_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        """Take back a callback that was not called yet. An engine that cannot do so calls it all the same."""

    @abc.abstractmethod
    def release(self) -> None:
        """Say that the result is not needed any more."""

    @abc.abstractmethod
    def __await__(self) -> Generator[Any, None, T]: ...

    def done(self) -> bool:
        """Whether the task has ended: finished, erred or cancelled."""
        return self.status != "pending"

    def cancelled(self) -> bool:
        return self.status == "cancelled"

    def __repr__(self) -> str:
        return f"<Future {self.key} {self.status}>"


class Engine(abc.ABC):
    """
    Where tasks run: this thread, a pool of threads, parml's cluster, or another system's.

    Futures may stand among the arguments of `submit` and in a Graph's `futures`; they are then replaced by their results.
    An engine that cannot do a verb raises `NotSupported`.
    """

    name: str = "engine"

    @abc.abstractmethod
    def submit(self, fn: Callable[..., T], /, *args: Any, hints: Hints = NO_HINTS, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)``. Never blocks. Futures in args (also in lists, tuples and dicts) become their results."""

    @abc.abstractmethod
    def submit_graph(self, graph: Graph, wants: Iterable[Key]) -> list[Future[Any]]:
        """
        Run what the wanted keys of `graph` need; one Future for each wanted key. Never blocks.

        Equal keys are equal work: a key that this engine already has or is computing is not computed again.

        Raises
        ------
        MissingKeyError, CycleError
            At once, before anything runs.
        """

    @abc.abstractmethod
    def scatter(self, values: Sequence[Any], *, replicas: int = 1) -> list[Future[Any]]:
        """Put values where tasks can use them; one finished Future for each. `replicas`: on how many workers, 0 meaning all."""

    @abc.abstractmethod
    def gather(self, futures: Sequence[Future[T]]) -> list[T]:
        """Wait for all; their results in order. Raises what the first failed task (in order of `futures`) raised."""

    @abc.abstractmethod
    def wait(
        self,
        futures: Iterable[Future[Any]],
        *,
        until: Literal["all", "first", "first_error"] = "all",
        timeout_s: float | None = None,
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        """Wait; (done, pending), each in the given order. A timeout is not an error here: the lists tell."""

    @abc.abstractmethod
    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel tasks and what only they need. A task that already runs is left to end, and its result is dropped."""

    @abc.abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The workers at this moment, sorted by name."""

    @abc.abstractmethod
    def locate(self, futures: Sequence[Future[Any]]) -> list[tuple[WorkerId, ...]]:
        """For each future the workers that hold its result; empty while it has none."""

    @abc.abstractmethod
    def gang(
        self,
        fn: Callable[..., T],
        args_by_rank: Sequence[tuple[Any, ...]],
        *,
        where: Sequence[Sequence[WorkerId]] | None = None,
        timeout_s: float | None = None,
    ) -> list[Future[T]]:
        """
        Run ``fn(*args_by_rank[rank])`` for all ranks at the same time: all start or none; when one dies or raises, all end.

        Each rank runs in a process of its own where the engine has processes, so that one that hangs in compiled code can
        be killed. Futures among the arguments reach the rank as their results.

        Parameters
        ----------
        fn : callable
        args_by_rank : sequence of tuple
            One tuple of arguments for each rank.
        where : sequence of sequence of worker ids, optional
            For each rank the workers whose threads it takes for itself; it runs beside the first. Default: the engine
            spreads the ranks, one thread each.
        timeout_s : float, optional
            How long to wait for all ranks to start. Then the futures raise `GangError`.

        Returns
        -------
        list of Future
            One for each rank. When rank r raised, its future raises that; the others raise `GangError` naming r. When rank
            r was lost (killed, stopped, its worker gone), all raise `GangError` that names r and its worker.
        """

    @abc.abstractmethod
    def blocked(self) -> AbstractContextManager[None]:
        """Inside a task: while in this context the task only waits, and its slot is free for others. Elsewhere: nothing."""

    def close(self) -> None:
        """End the engine. Futures that are pending are cancelled."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


__all__ = ["Engine", "Future", "Status", "WorkerInfo"]

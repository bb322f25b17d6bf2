"""A gang on threads: ranks that start together, and end together as far as their futures can tell."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from parml_core.engine.futures import Gate, futures_to_refs
from parml_core.errors import GangError
from parml_core.graph import Graph, Hints, Ref, Task
from parml_core.typing import Key

__all__ = ["GangOfThreads"]


class GangOfThreads:
    """
    Parameters
    ----------
    key : str
        Names the gang in errors.
    fn : callable
        What every rank runs.
    size : int
    as_task : callable
        ``as_task(fn, *args)`` calls `fn` as a task of the engine.
    """

    def __init__(self, key: str, fn: Callable[..., Any], size: int, as_task: Callable[..., Any]) -> None:
        self.key = key
        self.fn = fn
        self.size = size
        self.as_task = as_task
        self.on_start: Callable[[], None] | None = None
        self._go = Gate()
        self._over = Gate()
        self._ended = itertools.count(1)
        self._failing = threading.Lock()
        self._failure: tuple[int, BaseException] | None = None
        self._results: list[Any] = [None] * size

    @property
    def leader(self) -> Key:
        """The task that takes the slots of all ranks and starts them."""
        return f"{self.key}:all"

    def graph_of(self, args_by_rank: Sequence[tuple[Any, ...]]) -> tuple[Graph, list[Key]]:
        """The gang as ordinary tasks: the leader, and for each rank one that picks its outcome; the keys of these."""
        args, _, futures = futures_to_refs(tuple(map(tuple, args_by_rank)), {})
        leader = Task(self.leader, self.run, args, hints=Hints(threads=self.size))
        pick = Hints(threads=0)
        ranks = [Task(f"{self.key}:{r}", self.outcome, (r, Ref(leader.key)), hints=pick) for r in range(self.size)]
        return Graph([leader, *ranks], futures), [rank.key for rank in ranks]

    def run(self, *args_by_rank: tuple[Any, ...]) -> None:
        """Start all ranks or none; return when all have a result, or one has raised."""
        if self.on_start is not None:
            self.on_start()
        for rank, args in enumerate(args_by_rank):
            thread = threading.Thread(target=self._run_rank, args=(rank, args), name=f"parml-{self.key}:{rank}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no more threads
                self._fail(
                    rank, GangError(f"expected {self.size} ranks of {self.key} to start, found rank {rank} failing: {error}")
                )
                break
        self._go.open()
        self._over.wait()

    def outcome(self, rank: int, over: None = None) -> Any:
        """The result of a rank, once `run` has returned."""
        if self._failure is None:
            return self._results[rank]
        failed, error = self._failure
        if failed == rank:
            raise error
        raise GangError(
            f"expected all {self.size} ranks of {self.key} to end well, found that rank {failed} raised "
            f"{type(error).__name__}; its future has the error"
        ) from error

    def _run_rank(self, rank: int, args: tuple[Any, ...]) -> None:
        self._go.wait()
        if self._failure is not None:
            return
        try:
            self._results[rank] = self.as_task(self.fn, *args)
        except BaseException as error:
            self._fail(rank, error)
        else:
            if next(self._ended) == self.size:
                self._over.open()

    def _fail(self, rank: int, error: BaseException) -> None:
        with self._failing:
            if self._failure is None:
                self._failure = rank, error
        self._over.open()

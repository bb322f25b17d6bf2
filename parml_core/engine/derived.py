"""What follows from the ten verbs, written once for all engines."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from parml_core.engine.base import Engine, Future
from parml_core.engine.context import waiting
from parml_core.engine.futures import futures_to_refs, name_of
from parml_core.errors import WaitTimeout
from parml_core.graph import Graph, Hints, Task
from parml_core.graph.task import NO_HINTS

T = TypeVar("T")

__all__ = ["as_completed", "map_tasks"]


def map_tasks(engine: Engine, fn: Callable[..., T], *iterables: Iterable[Any], hints: Hints = NO_HINTS) -> list[Future[T]]:
    """
    One task for each item of the iterables (as many as the shortest has), all submitted at once.

    Parameters
    ----------
    engine : Engine
    fn : callable
    *iterables : iterable
        Items may be, or hold, Futures.
    hints : Hints

    Returns
    -------
    list of Future

    Examples
    --------
    >>> from parml_core.engine.inline import InlineEngine
    >>> [future.result() for future in map_tasks(InlineEngine(), pow, [1, 2, 3], [2, 2, 2])]
    [1, 4, 9]
    """
    prefix = f"{name_of(fn)}-{uuid.uuid4().hex[:16]}"
    tasks: list[Task] = []
    futures: dict[str, Future[Any]] = {}
    for index, items in enumerate(zip(*iterables, strict=False)):
        args, _, found = futures_to_refs(items, {})
        if found:
            futures.update(found)
        tasks.append(Task(f"{prefix}:{index}", fn, args, hints=hints))
    return engine.submit_graph(Graph(tasks, futures), [task.key for task in tasks])


def as_completed(futures: Iterable[Future[T]], timeout_s: float | None = None) -> Iterator[Future[T]]:
    """
    The futures, in the order in which they end; they may be of any engines.

    Parameters
    ----------
    futures : iterable of Future
        One that stands there twice comes once.
    timeout_s : float, optional
        For all of them, from this call on.

    Raises
    ------
    WaitTimeout
        From the iterator, when the time has passed.

    Examples
    --------
    >>> from parml_core.engine.threads import ThreadsEngine
    >>> with ThreadsEngine(2) as engine:
    ...     sorted(future.result() for future in as_completed([engine.submit(abs, -1), engine.submit(abs, -2)]))
    [1, 2]
    """
    pending = {id(future): future for future in futures}
    ended: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
    end = None if timeout_s is None else time.monotonic() + timeout_s
    for future in list(pending.values()):
        future.add_done_callback(ended.put)
    return _yield_ended(pending, ended, end, timeout_s)


def _yield_ended(
    pending: dict[int, Future[T]], ended: queue.SimpleQueue[Future[T]], end: float | None, timeout_s: float | None
) -> Iterator[Future[T]]:
    try:
        while pending:
            try:
                future = ended.get_nowait()
            except queue.Empty:
                try:
                    with waiting():
                        future = ended.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
                except queue.Empty:
                    text = f"expected {len(pending)} more futures to end within {timeout_s} s, found them pending; wait longer"
                    raise WaitTimeout(text) from None
            del pending[id(future)]
            yield future
            del future  # so that its result can go as soon as the caller lets go of it
    finally:
        for future in pending.values():
            future.remove_done_callback(ended.put)

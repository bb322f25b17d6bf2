"""Which engine serves the code that runs here: the one that it chose, and the one whose task it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from parml_core.engine.base import Engine

__all__ = ["chosen", "inside_task", "use", "waiting"]

_chosen: ContextVar[Engine | None] = ContextVar("parml_engine", default=None)
_running: ContextVar[Engine | None] = ContextVar("parml_task_of", default=None)


def chosen() -> Engine | None:
    """The engine of the innermost `use` (inside a task: the task's own engine), or None."""
    return _chosen.get()


@contextmanager
def use(engine: Engine) -> Iterator[Engine]:
    """
    Let `engine` serve what runs in this context and names no engine.

    Examples
    --------
    >>> from parml_core.engine.inline import InlineEngine
    >>> from parml_core.engine.registry import current_engine
    >>> with use(InlineEngine()) as engine:
    ...     current_engine() is engine
    True
    """
    token = _chosen.set(engine)
    try:
        yield engine
    finally:
        _chosen.reset(token)


@contextmanager
def inside_task(engine: Engine) -> Iterator[None]:
    """For engines, around the tasks they run: the task's own work goes to `engine`, and its waits are told to it."""
    before = _chosen.set(engine), _running.set(engine)
    try:
        yield
    finally:
        _chosen.reset(before[0])
        _running.reset(before[1])


def forget(kind: type[Engine]) -> None:
    """Here engines of a kind neither serve any more, nor are told that this code waits: it is not their task."""
    for variable in (_chosen, _running):
        if isinstance(variable.get(), kind):
            variable.set(None)


def waiting() -> AbstractContextManager[None]:
    """For futures of any engine, around each wait: where a task waits, its slot is free meanwhile."""
    engine = _running.get()
    return nullcontext() if engine is None else engine.blocked()

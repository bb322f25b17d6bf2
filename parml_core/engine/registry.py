"""The engine that serves where none is named."""

from __future__ import annotations

import threading
from typing import Any

from parml_core.engine import context
from parml_core.engine.base import Engine
from parml_core.engine.context import use
from parml_core.engine.threads import ThreadsEngine

__all__ = ["current_engine", "explicit_engine", "foresee", "foreseen", "forget", "resolve", "set_default", "use"]

_default: Engine | None = None
_of_process: ThreadsEngine | None = None
_making = threading.Lock()
_foreseen: dict[str, bool] = {}


def set_default(engine: Engine | None) -> None:
    """Let `engine` serve all of this process where no `use` says otherwise; None takes that back."""
    global _default
    _default = engine


def forget(kind: type[Engine]) -> None:
    """Let no engine of a kind serve this code, whoever chose it. For a forked process, which has copies of its parent's."""
    if isinstance(_default, kind):
        set_default(None)
    context.forget(kind)


def explicit_engine() -> Engine | None:
    """The engine that somebody chose: by `use`, by making a Client, by running this code as its task. None: nobody did."""
    engine = context.chosen() or _default
    return None if engine is _of_process else engine


def current_engine() -> Engine:
    """
    The engine to use: the one that was chosen, otherwise threads of this process.

    Examples
    --------
    >>> current_engine().submit(abs, -3).result()
    3
    """
    global _of_process
    chosen = context.chosen() or _default
    if chosen is not None:
        return chosen
    with _making:
        if _of_process is None:
            _of_process = ThreadsEngine()
        return _of_process


def foresee(module: str, *, everywhere: bool = False) -> None:
    """
    Whoever uses this process will need `module` on a cluster that it starts, which imports it before it is waited for.

    A trainer calls it when it is imported itself: the processes of ranks need it, and a cluster imports it when it has time, so
    that the first training does not wait for its library. What every process needs (`everywhere`), and is light, a cluster
    imports once, before it starts any.
    """
    _foreseen[module] = everywhere


def foreseen(*, everywhere: bool = False) -> list[str]:
    """
    The modules that `foresee` was told.

    Examples
    --------
    >>> foresee("json")
    >>> "json" in foreseen(), "json" in foreseen(everywhere=True)
    (True, False)
    """
    return [module for module, needed_everywhere in _foreseen.items() if needed_everywhere is everywhere]


def resolve(engine: Any) -> Engine:
    """
    `engine` itself, or where it is None the current one.

    Raises
    ------
    TypeError
        It is something else.
    """
    if engine is None:
        return current_engine()
    if not isinstance(engine, Engine):
        raise TypeError(
            f"expected an engine (a parml Client, ThreadsEngine(), InlineEngine(), or None for the current one), "
            f"found {type(engine).__name__}: {engine!r:.80}"
        )
    return engine

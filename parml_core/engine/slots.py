"""What a thread does for an engine, and how it says that it only waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from parml_core.engine.local import Run

__all__ = ["Blocked", "here"]


class _Here(threading.local):
    engine: Any = None
    run: Run | None = None
    blocked = 0

    def forget(self) -> None:
        self.engine, self.run, self.blocked = None, None, 0


here = _Here()
"""The engine that this thread serves, the task that it runs, and how many waits it is in."""


class Blocked:
    """
    Gives the slots of this thread's task back while it is entered; of several inside each other, the outermost counts.

    Parameters
    ----------
    engine : Engine
        Elsewhere than in one of its tasks nothing happens.
    give : callable
        Called with the number of slots that are free now, negative where they are taken again.
    """

    __slots__ = ("_give", "_run")

    def __init__(self, engine: Any, give: Callable[[int], None]) -> None:
        self._run = here.run if here.engine is engine else None
        self._give = give

    def __enter__(self) -> None:
        if self._run is not None:
            here.blocked += 1
            if here.blocked == 1:
                self._give(self._run.slots)

    def __exit__(self, *exc: object) -> None:
        if self._run is not None:
            here.blocked -= 1
            if here.blocked == 0:
                self._give(-self._run.slots)

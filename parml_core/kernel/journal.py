"""The story of a key: every change of state, with its time and attempt."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from parml_core.kernel.transitions import State
from parml_core.typing import Key


class Line(NamedTuple):
    """One change of state."""

    now: float
    key: Key
    attempt: int
    old: State
    new: State


class Journal:
    """
    The last changes of state.

    Parameters
    ----------
    n_lines_max : int
        Older lines are dropped.

    Examples
    --------
    >>> journal = Journal()
    >>> journal.note(0.5, "x", 1, "queued", "running")
    >>> journal.story("x")
    [Line(now=0.5, key='x', attempt=1, old='queued', new='running')]
    """

    def __init__(self, n_lines_max: int = 100_000) -> None:
        self.lines: deque[Line] = deque(maxlen=n_lines_max)

    def note(self, now: float, key: Key, attempt: int, old: State, new: State) -> None:
        self.lines.append(Line(now, key, attempt, old, new))

    def story(self, key: Key) -> list[Line]:
        """What happened to a key, oldest first."""
        return [line for line in self.lines if line.key == key]

"""What the attempts at one training share: the last checkpoint, and how many ranks with how many threads began it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from parml.boosting.checkpoints import Checkpoints
from parml.boosting.progress import Listener
from parml.boosting.ranks import Rank
from parml_core.engine.base import Engine


@contextmanager
def checkpoints_kept(engine: Engine, *, wanted: bool, listener: Listener | None = None) -> Iterator[Checkpoints | None]:
    """The place where checkpoints are kept while in this context; None where nothing could outlive a rank or is to be heard."""
    workers = engine.workers()
    apart = any(worker.pid != os.getpid() for worker in workers)
    if not (wanted and apart) and listener is None:
        yield None
        return
    with Checkpoints((worker.host for worker in workers), listener) as kept:
        yield kept


class Team:
    """
    The ranks of a training through its attempts: never more than began it, each with the threads that it had then.

    Other numbers of either would add up other rounding errors, and make another model.

    Examples
    --------
    >>> team = Team()
    >>> team.threads_of([Rank("a", ("w1",), 2), Rank("b", ("w2",), 2)], lambda rank: rank.threads)
    [2, 2]
    >>> team.threads_of([Rank("a", ("w3",), 4), Rank("b", ("w4",), 4)], lambda rank: rank.threads)
    [2, 2]
    >>> team.size
    2
    """

    def __init__(self) -> None:
        self._threads: list[int] = []

    @property
    def size(self) -> int | None:
        """How many ranks there may be; None before the first attempt."""
        return len(self._threads) or None

    def threads_of(self, plan: Sequence[Rank], ask: Callable[[Rank], int]) -> list[int]:
        """The threads of each rank, in the first attempt those that `ask` tells; warns where a rank is missing since then."""
        if not self._threads:
            self._threads = [ask(rank) for rank in plan]
        if len(plan) < len(self._threads):
            warnings.warn(
                f"training goes on on {len(plan)} instead of {len(self._threads)} ranks, since no worker came in the place of "
                "a lost one: the model may differ from that of all ranks within rounding",
                stacklevel=2,
            )
        return self._threads[: len(plan)]

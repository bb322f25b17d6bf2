"""How several ranks meet and how they part: xgboost's tracker in the caller, its collective in each rank."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from xgboost import collective
from xgboost.core import XGBoostError
from xgboost.tracker import RabitTracker

from parml.boosting.rendezvous import address_towards
from parml_core.errors import GangError

MEETING_TIMEOUT_S = 600  # ranks join once they have read their inputs, which may take one longer than another
OPERATION_TIMEOUT_S = 120  # a rank that is lost is noticed by the gang long before
VERDICT_TIMEOUT_S = 20.0

Meeting = dict[str, Any]
"""What a rank needs to find the others: arguments of `xgboost.collective.init`."""


@contextmanager
def tracker(n_ranks: int, hosts: Iterable[str]) -> Iterator[Meeting | None]:
    """A tracker while the ranks train; None for a single rank, which needs no network at all."""
    if n_ranks == 1:
        yield None
        return
    # Ranks are sorted by the name that each gives itself: rank r of the gang is rank r of the collective.
    meeting = RabitTracker(n_ranks, address_towards(hosts), sortby="task", timeout=MEETING_TIMEOUT_S)
    meeting.start()
    waiter = threading.Thread(target=_wait_for, args=(meeting,), name="xgboost-tracker", daemon=True)
    waiter.start()
    try:
        yield {**meeting.worker_args(), "dmlc_timeout": OPERATION_TIMEOUT_S, "dmlc_retry": 3}
    finally:
        with suppress(XGBoostError):  # where ranks were lost it complains that they never said good-bye
            meeting.free()
        waiter.join(timeout=5)


def _wait_for(meeting: RabitTracker) -> None:
    with suppress(XGBoostError, AttributeError):  # AttributeError: freed before this thread began
        meeting.wait_for()


@contextmanager
def joined(rank: int, meeting: Meeting | None) -> Iterator[None]:
    """Be `rank` of the collective while in this context."""
    if meeting is None:
        yield
        return
    try:
        collective.init(**meeting, dmlc_task_id=f"[parml]:{rank:06d}")
        yield
        collective.finalize()  # not after an error: parting waits for the others, which may be gone
    except XGBoostError as error:
        if not is_network_failure(error):
            raise
        # Some other rank is gone, and the gang is about to say which and to end this one. The error from here would only hide
        # that one.
        threading.Event().wait(VERDICT_TIMEOUT_S)
        text = str(error).partition("\nStack trace:")[0]
        raise GangError(f"rank {rank} cannot reach the others: {text}") from error


def is_network_failure(error: XGBoostError) -> bool:
    """Whether xgboost failed because it could not talk to another rank."""
    return "src/collective/" in str(error)

"""Run the ranks of a training as one gang, again when some are lost: all results, or an error, and nothing left running."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from parml.boosting.ranks import Rank
from parml_core.engine.base import Engine, Future
from parml_core.errors import DataLost, GangError

T = TypeVar("T")

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0  # how long the siblings of a rank that failed may take to say how they ended
LOOK_S = 2.0  # between two looks whether the workers of a gang that has not ended are still there
RETURN_TIMEOUT_S = 6.0  # how long to wait for workers in the place of killed ones: a nanny needs less than two seconds
SAME_LOSS_S = 8.0  # in which all workers of a machine that fell silent are noticed; less than a rank may be silent
SILENT_RETURN_TIMEOUT_S = 1.0  # and of those that fell silent, which were waited for long enough

log = logging.getLogger("parml.boosting")


class _NeverBegan(GangError):
    """Workers of a gang were gone before its ranks had started."""


def run_gang(engine: Engine, fn: Callable[..., T], args_by_rank: Sequence[tuple[Any, ...]], ranks: Sequence[Rank]) -> list[T]:
    """
    Run ``fn(*args_by_rank[r])`` for all ranks together.

    Raises
    ------
    BaseException
        What a rank's own code raised.
    GangError
        A rank was lost, or they could not all start.
    """
    futures = engine.gang(fn, args_by_rank, where=[rank.workers for rank in ranks], timeout_s=START_TIMEOUT_S)
    try:
        _wait_for(engine, futures, {worker for rank in ranks for worker in rank.workers})
        if all(future.status == "finished" for future in futures):
            return engine.gather(futures)
        raise _first_cause(engine, futures)
    except DataLost as error:  # a worker was lost with the result of a rank, or with its inputs
        raise GangError(str(error)) from error
    except BaseException:  # an interrupt from the keyboard ends the ranks as well
        engine.cancel(futures)
        raise


def _wait_for(engine: Engine, futures: Sequence[Future[Any]], workers: set[str]) -> None:
    """Until all have ended or one has failed. A gang that waits for workers which are gone would wait in vain."""
    missing: set[str] = set()
    while True:
        _, pending = engine.wait(futures, until="first_error", timeout_s=LOOK_S)
        if not pending or any(future.done() and future.status != "finished" for future in futures):
            return
        before, missing = missing, workers - {worker.id for worker in engine.workers()}
        if missing & before:
            raise _NeverBegan(f"expected the workers {sorted(workers)} to train on, found that {sorted(missing)} are gone")


def wait_for_inputs(engine: Engine, futures: Sequence[Future[Any]]) -> None:
    """Until all have ended; a GangError when nobody is left who could compute them."""
    alone = False
    while engine.wait(futures, timeout_s=LOOK_S)[1]:
        before, alone = alone, not engine.workers()
        if before and alone:
            raise GangError("expected workers that hold the data to train on, found none; start workers")


def _first_cause(engine: Engine, futures: Sequence[Future[Any]]) -> BaseException:
    """A rank that raised has raised its own exception, and the others a GangError about it; of a lost rank all tell alike."""
    ended, _ = engine.wait(futures, timeout_s=END_TIMEOUT_S)
    raised = [error for error in (future.exception() for future in ended) if error is not None]
    return next((error for error in raised if not isinstance(error, GangError | DataLost)), raised[0])


def with_restarts(engine: Engine, run: Callable[[], T], *, n_places: Callable[[], int], max_restarts: int) -> T:
    """
    ``run()``, again after each loss of a rank, at most `max_restarts` times.

    Parameters
    ----------
    engine : Engine
    run : callable
        Plans, runs a gang and returns what it gave. Its GangErrors are losses; whatever else it raises ends the training.
    n_places : callable
        How many ranks there can be now. After a loss others are waited for, for a while, to take the place of the lost.
    max_restarts : int

    Raises
    ------
    GangError
        A rank was lost once more than that.
    """
    wanted = n_places()
    restarts, counted_s = 0, -SAME_LOSS_S
    while True:
        try:
            return run()
        except GangError as error:
            silent = "silent" in str(error)
            # Of a machine that is gone one worker was noticed a moment before the others: that is one loss.
            if not (silent or isinstance(error, _NeverBegan)) or time.monotonic() - counted_s >= SAME_LOSS_S:
                if restarts == max_restarts:
                    raise _for_good(error, max_restarts) from error
                restarts, counted_s = restarts + 1, time.monotonic()
            log.warning("restart %d of at most %d: %s", restarts, max_restarts, error)
        _wait_until(engine, lambda: n_places() >= wanted, SILENT_RETURN_TIMEOUT_S if silent else RETURN_TIMEOUT_S)


def _for_good(error: GangError, max_restarts: int) -> GangError:
    again = f", after {max_restarts} restarts" if max_restarts else ""
    allow = "" if max_restarts else ", or allow max_restarts"
    return GangError(
        f"{error}; the training has ended on all ranks{again} and its rounds are gone: call train again{allow} (the cluster "
        "goes on), and if a worker was killed look at its memory limit first"
    )


def _wait_until(engine: Engine, enough: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    with engine.blocked():
        while not enough() and time.monotonic() < end:
            time.sleep(0.1)

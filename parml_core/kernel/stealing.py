"""
Tasks that were sent ahead of need come back when others are idle.

What a worker has not been sent is shared out by `placement` without any protocol. What it was sent and has not started is
asked for with `Recall`; the worker answers which of them it gives back, and only then are they run elsewhere: no task is
ever in two queues.
"""

from __future__ import annotations

from collections.abc import Iterable

from parml_core.kernel.placement import Placement, threads_of
from parml_core.kernel.records import TaskRecord, WorkerRecord

WORTHWHILE_S = 0.05
"""A worker with less work than this ahead of it is left alone."""


def recall_for_idle(workers: Iterable[WorkerRecord], placement: Placement, now: float) -> list[tuple[WorkerRecord, TaskRecord]]:
    """
    Which runs to ask back from which workers: the last of those sent ahead, one for each idle slot.

    A worker that has ended nothing for a while has more work than its tasks were expected to be.

    Workers that a gang or a suspect waits for are asked for all that they have not started.
    """
    asked: list[tuple[WorkerRecord, TaskRecord]] = []
    n_idle, loaded = 0, []
    for worker in workers:
        idle = worker.slots - worker.busy
        if worker.reserved_by is not None or placement.drains(worker):
            asked += [(worker, task) for task in _sent_ahead(worker)]
        elif worker.pressure:
            continue  # it gives back by itself what it has not started, and gets no other
        elif idle > 0:
            n_idle += idle
        elif idle < 0 and max(worker.load_s, now - worker.progress_s) > WORTHWHILE_S:
            loaded.append(worker)
    if not n_idle:
        return asked
    loaded.sort(key=lambda w: (-w.load_s, w.index))
    for worker in loaded:
        for task in _sent_ahead(worker):
            if n_idle <= 0:
                return asked
            asked.append((worker, task))
            n_idle -= 1
    return asked


def _sent_ahead(worker: WorkerRecord) -> list[TaskRecord]:
    """Runs beyond the slots of a worker, last sent first, that were not asked back already and are not tied to it."""
    ahead, excess = [], worker.busy - max(worker.slots, 0)
    for task in reversed(worker.running):
        if excess <= 0:
            break
        hints = task.spec.hints if task.spec else None
        tied = hints is not None and (hints.where or hints.resources or not hints.threads)
        if not tied and not task.suspect and task not in worker.recalled:
            ahead.append(task)
            excess -= threads_of(task, worker)
    return ahead

"""Why tasks have no result, where that is not their own doing: the texts that users see."""

from __future__ import annotations

from collections.abc import Iterable

from parml_core.kernel.records import TaskRecord, WorkerRecord
from parml_core.protocol.messages import Failure
from parml_core.typing import Address


def unknown(task: TaskRecord) -> Failure:
    """A key that no task and no value has."""
    text = (
        f"expected {task.key!r} to be a task or a value of this cluster, found none of that name; it was released, "
        "or made by another client that has left: submit it again"
    )
    return Failure("MissingKeyError", text, key=task.key)


def data_lost(task: TaskRecord) -> Failure:
    """The holders of a scattered value are gone, and the clients that had it."""
    text = (
        f"the scattered value {task.key!r} was lost with the workers that held it, and the client that scattered it has "
        "released it or left; scatter it again"
    )
    return Failure("DataLost", text, key=task.key)


def rank_lost(task: TaskRecord) -> Failure:
    """The result of a rank is gone."""
    text = f"the result of rank {task.key!r} is gone, and a gang is not run again by itself: call it again"
    return Failure("DataLost", text, key=task.key)


def killed(task: TaskRecord, reason: str) -> Failure:
    """A task took down too many workers."""
    text = (
        f"task {task.key!r} was running on {len(task.failures)} workers, one after another, when they died: "
        f"{', '.join(task.failures)} (the last: {reason}); it is not tried again. "
        "Look for a crash in compiled code or for more memory used than the worker has"
    )
    return Failure("WorkerKilled", text, key=task.key, worker=task.failures[-1])


def unreachable(task: TaskRecord, worker: WorkerRecord, addresses: list[Address]) -> Failure:
    """A task could not get its inputs for too long."""
    peers = ", ".join(dict.fromkeys(addresses))
    text = (
        f"task {task.key!r} could not fetch its inputs: worker {worker.info.name!r} did not reach {peers}, "
        f"{task.unreachable} times in a row; see to it that every worker can connect to every other one"
    )
    return Failure("ClusterError", text, key=task.key, worker=worker.info.name)


def unplaceable(task: TaskRecord, workers: Iterable[WorkerRecord], waited_s: float) -> Failure:
    """No worker came that may run a task."""
    hints = task.spec.hints if task.spec else None
    wanted = []
    if hints is not None and hints.where:
        wanted.append(f"where={hints.where}")
    if hints is not None and hints.resources:
        wanted.append(f"resources={hints.resources}")
    here = ", ".join(sorted(w.info.name for w in workers))
    text = f"expected a worker for task {task.key!r} with {' and '.join(wanted)}, found for {waited_s:.0f} s only: {here}"
    return Failure("ClusterError", text, key=task.key)

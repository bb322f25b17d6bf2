"""
Gangs: ranks that all start at the same time, and that end together when one is lost.

A gang waits until the inputs of all its ranks are in memory. Then, one gang after another in order of submission, it
reserves the workers it needs: they are sent nothing more until the gang has started. When the threads it needs are free
on all of them, all ranks are sent at once. Only one gang at a time reserves, so two gangs never wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parml_core.kernel.records import ClientRecord, GangRecord, TaskRecord, WorkerRecord
from parml_core.kernel.transitions import UNFINISHED
from parml_core.protocol.messages import Failure, SubmitGang

if TYPE_CHECKING:
    from parml_core.kernel.scheduler import SchedulerKernel

Claims = list[list[tuple[WorkerRecord, int]]]


class Gangs:
    """The gangs of a scheduler, and the line of those that have not started."""

    def __init__(self, kernel: SchedulerKernel) -> None:
        self.kernel = kernel
        self.gangs: dict[str, GangRecord] = {}
        self.line: dict[GangRecord, None] = {}
        self.reserving: GangRecord | None = None

    def add(self, client: ClientRecord, event: SubmitGang, ranks: list[TaskRecord]) -> None:
        kernel = self.kernel
        timeout_s = event.timeout_s or kernel.policy.gang_start_timeout_s
        gang = self.gangs[event.gang] = GangRecord(event.gang, ranks, event.where, timeout_s)
        gang.preload = event.preload
        self._join_line(gang)
        for task in ranks:
            task.gang = gang
            task.wanted_by[client] = None
            client.wants[task] = event.want
        for task in ranks:
            kernel.start(task)

    def snapshot(self) -> list[dict[str, Any]]:
        return [{"id": gang.id, "ranks": len(gang.tasks), "state": gang.state} for gang in self.gangs.values()]

    # --- starting ------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Start what can start; give up on what has waited too long."""
        if not self.line and self.reserving is None:
            return
        for gang in list(self.line):
            if gang.state == "waiting" and self.kernel.now > gang.deadline_s:
                self._end(gang, Failure("GangError", self._why_not_started(gang), key=gang.tasks[0].key))
        first: GangRecord | None = None  # that cannot start just now: what it waits for is kept from those behind it
        reserved: dict[WorkerRecord, int] = {}
        for gang in list(self.line):
            if self.kernel.now < gang.not_before_s or any(task.waiting_on for task in gang.tasks):
                continue
            claims = self._claims(gang)
            if claims is None:
                if first is None and self._claims(gang, others=False) is not None:
                    first = gang
                    break  # it waits for gangs that run, and would wait for ever if those behind it took their place
                continue
            needed = _threads_needed(claims)
            if not any(worker in reserved for worker in needed) and self._start(gang, claims, needed):
                continue
            if first is None:
                first, reserved = gang, needed
        self._reserve(first, reserved)

    def _start(self, gang: GangRecord, claims: Claims, needed: dict[WorkerRecord, int]) -> bool:
        if any(worker.slots - worker.busy < threads for worker, threads in needed.items()):
            return False
        kernel = self.kernel
        del self.line[gang]
        gang.state = "running"
        gang.claims = claims
        for task, claim in zip(gang.tasks, claims, strict=True):
            host = claim[0][0]
            host.ranks[task] = None
            kernel._set_state(task, "running")
            kernel.send_run(task, host, sum(threads for _, threads in claim), gang)
        for worker, threads in needed.items():
            worker.claimed += threads
            if worker.slots <= 0:
                kernel.placement.queue_elsewhere(worker, kernel.now)
        return True

    def _reserve(self, gang: GangRecord | None, needed: dict[WorkerRecord, int]) -> None:
        """Keep these workers, and no others, free of new tasks."""
        if gang is None and self.reserving is None:
            return
        self.reserving = gang
        for worker in self.kernel.workers.values():
            if worker in needed:
                worker.reserved_by = gang
            elif worker.reserved_by is not None:
                worker.reserved_by = None
                self.kernel.placement.maybe_room[worker] = None

    def _claims(self, gang: GangRecord, *, others: bool = True) -> Claims | None:
        """
        For each rank the workers and threads it takes, the first being where it runs; None: they are not here.

        Threads that ranks of other gangs use are not to be had, unless `others` is false.
        """
        workers = self.kernel.workers
        if any(gang.where):
            named = {w.info.name: w for w in workers.values()}
            found = [[workers.get(id) or named.get(id) for id in ids] for ids in gang.where]
            whole = [[(worker, worker.info.nthreads) for worker in claim if worker is not None] for claim in found]
            complete = sum(map(len, whole)) == sum(map(len, found)) == len(_threads_needed(whole))
            return whole if complete else None
        free = {w: w.info.nthreads - (w.claimed if others else 0) for w in workers.values()}
        if sum(free.values()) < len(gang.tasks):
            return None
        spread: Claims = []
        while len(spread) < len(gang.tasks):  # one thread of each worker, idle ones first, then the next one of each
            for worker in sorted(free, key=lambda w: (min(w.busy - w.slots, 0), -free[w], w.index)):
                if free[worker] > 0 and len(spread) < len(gang.tasks):
                    free[worker] -= 1
                    spread.append([(worker, 1)])
        return spread

    def _why_not_started(self, gang: GangRecord) -> str:
        n_ranks, workers = len(gang.tasks), self.kernel.workers.values()
        here = ", ".join(f"{w.info.name} ({w.slots} of {w.info.nthreads} threads free)" for w in workers) or "no worker"
        unready = [task.key for task in gang.tasks if task.waiting_on]
        if unready:
            return f"expected the inputs of {n_ranks} ranks to be ready in time; {len(unready)} wait for them: {unready[0]!r} …"
        wanted = f"the workers {gang.where}, each once," if any(gang.where) else f"{n_ranks} free threads"
        return f"expected {wanted} for a gang of {n_ranks} ranks, found {here}; add workers, use fewer ranks or wait longer"

    # --- ending --------------------------------------------------------------------------------------------------------

    def rank_ended(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """The run of a rank is over; its threads are free again."""
        worker.ranks.pop(task, None)
        gang = task.gang
        assert gang is not None
        rank = gang.tasks.index(task)
        for claimed, threads in gang.claims[rank]:
            claimed.claimed -= threads
            self.kernel.placement.maybe_room[claimed] = None
        if all(sibling.worker is None for sibling in gang.tasks):
            gang.state = "ended"

    def rank_failed(self, task: TaskRecord, failure: Failure) -> None:
        """A rank has ended without a result; its siblings end with a failure that names it."""
        gang = task.gang
        assert gang is not None
        if gang.failure is not None:
            return
        if failure.kind not in ("GangError", "TaskCancelled"):
            text = f"rank {gang.tasks.index(task)} ({task.key!r}) of this gang of {len(gang.tasks)} failed: {failure.text}"
            failure = Failure("GangError", text, key=task.key, worker=failure.worker)
        self._end(gang, failure)

    def _end(self, gang: GangRecord, failure: Failure) -> None:
        """End every rank that has no result yet."""
        gang.failure = failure
        gang.state = "ended"
        self.line.pop(gang, None)
        for task in gang.tasks:
            if task.state in UNFINISHED:
                self.kernel.fail(task, failure)

    def restart(self, gang: GangRecord, not_before_s: float) -> None:
        """A rank could not get its inputs: all ranks go back to wait."""
        kernel = self.kernel
        running = [task for task in gang.tasks if task.state == "running"]
        for task in running:
            kernel.revoke(task)
        if len(running) < len(gang.tasks):
            text = f"an input of a rank of this gang of {len(gang.tasks)} was lost while other ranks had ended; run it again"
            self._end(gang, Failure("GangError", text, key=gang.tasks[0].key))
            return
        self._join_line(gang)
        gang.not_before_s = not_before_s
        for task in running:
            if task.state == "running":
                kernel._run_again(task)

    def worker_lost(self, worker: WorkerRecord, reason: str) -> None:
        """A gang that has a rank on a lost worker, or threads there, has lost part of its machine: it ends."""
        worker.reserved_by = None
        for gang in list(self.gangs.values()):
            if gang.state != "running":
                continue
            for rank, (task, claim) in enumerate(zip(gang.tasks, gang.claims, strict=True)):
                if task.worker is not None and any(claimed is worker for claimed, _ in claim):
                    name, n_ranks = worker.info.name, len(gang.tasks)
                    text = f"rank {rank} ({task.key!r}) of a gang of {n_ranks} was lost: worker {name!r} was lost ({reason})"
                    self._end(gang, Failure("GangError", text, key=task.key, worker=name))
                    break

    # --- releasing -----------------------------------------------------------------------------------------------------

    def keeps(self, task: TaskRecord) -> bool:
        """Whether a rank that nobody needs goes on, because a sibling is needed and they need each other."""
        gang = task.gang
        assert gang is not None
        return task.state in UNFINISHED and any(sibling.wanted_by or sibling.needed_by for sibling in gang.tasks)

    def abandon(self, gang: GangRecord) -> None:
        """A rank that has not run is not needed, and no sibling either: the gang never starts."""
        if gang.state == "waiting":
            gang.state = "ended"
            self.line.pop(gang, None)

    def forget(self, task: TaskRecord) -> None:
        gang = task.gang
        assert gang is not None
        if all(sibling.key not in self.kernel.tasks for sibling in gang.tasks):
            self.gangs.pop(gang.id, None)

    def _join_line(self, gang: GangRecord) -> None:
        gang.state = "waiting"
        gang.deadline_s = self.kernel.now + gang.timeout_s
        self.line[gang] = None


def _threads_needed(claims: Claims) -> dict[WorkerRecord, int]:
    needed: dict[WorkerRecord, int] = {}
    for claim in claims:
        for worker, threads in claim:
            needed[worker] = needed.get(worker, 0) + threads
    return needed

"""
Which task goes to which worker, and when.

A ready task waits in the scheduler, in one of two kinds of queue: tasks without inputs in the common queue, tasks with
inputs in the queue of the worker where they cost least (bytes to move, against the work that already waits there). A worker
with room takes the better of the two heads; one that finds neither takes from the longest queue, if moving the inputs
costs less than the wait there. So nothing that a worker has not been sent yet needs a protocol to be stolen.

A worker that is short of memory has no room, and still gets one task at a time: what no other may run, or anything where no
other is better off. So nothing waits for a worker that waits itself.

How much is sent ahead of need follows the measured duration: about `prefetch_s` of work for each slot. Tasks of
microseconds travel hundreds to a message, tasks of seconds one ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, nlargest
from itertools import islice
from math import inf

from parml_core.kernel.records import GroupRecord, SchedulerPolicy, TaskRecord, WorkerRecord
from parml_core.typing import WorkerId

Entry = tuple[tuple[int, int, int], int, TaskRecord]

STUCK_S, STUCK_SLOTLESS_S = 2.0, 60.0
"""When for so long nothing ran but tasks that wait for others, or take no slot, a suspect may run beside one of these."""

FULL = 2
"""The pressure of a worker that can start nothing (`messages.Pressure`)."""

STEAL_FROM, STEAL_DEPTH, STEAL_BY = 4, 16, 8
"""Of so many queues, the longest, so many tasks are looked at (some are tied to their worker), and so many takers for each."""


def threads_of(task: TaskRecord, worker: WorkerRecord) -> int:
    """How many of a worker's threads a task uses there."""
    hints = task.spec.hints if task.spec else None
    return 1 if hints is None else min(hints.threads, worker.info.nthreads)


class Placement:
    """
    The queues of ready tasks.

    Parameters
    ----------
    policy : SchedulerPolicy
    workers : mapping of id to WorkerRecord
        Shared with the kernel, which owns it.
    assign : callable
        ``assign(task, worker)`` sends a queued task to a worker.
    """

    def __init__(
        self,
        policy: SchedulerPolicy,
        workers: dict[WorkerId, WorkerRecord],
        assign: Callable[[TaskRecord, WorkerRecord], None],
    ) -> None:
        self.policy = policy
        self.workers = workers
        self.assign = assign
        self.queue: list[Entry] = []
        self.suspects: dict[TaskRecord, None] = {}  # each to run alone on a worker
        self.draining: dict[WorkerRecord, TaskRecord] = {}  # workers that get nothing more until they run this suspect
        self.unplaceable: dict[TaskRecord, float] = {}  # no worker is here that may run it, since when
        self.postponed: dict[TaskRecord, float] = {}  # to be placed at this time
        self.maybe_room: dict[WorkerRecord, None] = {}  # contains every worker that has room
        self.backlogged: dict[WorkerRecord, None] = {}  # contains every worker whose queue is not empty
        self.short: dict[WorkerRecord, None] = {}  # of memory
        self.stuck_since_s = inf  # all that runs only waits for others
        self._sequence = 0

    # --- estimates -----------------------------------------------------------------------------------------------------

    def duration_s(self, group: GroupRecord) -> float:
        """What a task of this group is expected to take."""
        return group.duration_s if group.n_measured else self.policy.unknown_duration_s

    def transfer_s(self, task: TaskRecord, worker: WorkerRecord) -> float:
        """What it is expected to cost to bring the inputs of a task to a worker."""
        nbytes = n_keys = 0
        for dep in task.deps:
            if worker not in dep.holders:
                nbytes += dep.nbytes
                n_keys += 1
        return n_keys * self.policy.fetch_latency_s + nbytes / self.policy.bandwidth_bytes_per_s

    def has_room(self, worker: WorkerRecord) -> bool:
        """Whether a worker may be sent another task now."""
        if worker.pressure or worker.reserved_by is not None or (self.draining and self.drains(worker)):
            return False
        slots, busy = worker.slots, worker.busy
        if busy < slots:
            return True
        if slots <= 0 or busy >= self.policy.prefetch_max * slots:
            return False
        return busy <= slots or worker.load_s < self.policy.prefetch_s * slots

    def drains(self, worker: WorkerRecord) -> bool:
        """Whether a worker gets nothing more because a suspect runs there alone, or is about to."""
        suspect = self.draining.get(worker)
        if suspect is None:
            return False
        if suspect.worker is not worker:
            return True
        return not worker.blocked and threads_of(suspect, worker) > 0  # one that waits for others must not keep them out

    def eligible(self, task: TaskRecord) -> list[WorkerRecord]:
        """Workers that may run a task, whether or not they have room."""
        hints = task.spec.hints if task.spec else None
        workers: Iterable[WorkerRecord] = self.workers.values()
        if hints is None:
            return list(workers)
        if hints.where:
            workers = [w for w in workers if w.id in hints.where or w.info.name in hints.where]
        if hints.resources:
            needs = hints.resources
            workers = [w for w in workers if all(w.info.resources.get(name, 0) >= n for name, n in needs.items())]
        return list(workers)

    # --- putting tasks in ----------------------------------------------------------------------------------------------

    def add(self, task: TaskRecord, now: float) -> None:
        """Put a task whose state is now "queued" where it waits for a slot."""
        self._sequence += 1
        task.sequence = self._sequence
        if self.suspects or self.unplaceable or self.postponed:  # where it may have waited before
            for places in (self.suspects, self.unplaceable, self.postponed):
                places.pop(task, None)
        hints = task.spec.hints if task.spec else None
        restricted = hints is not None and bool(hints.where or hints.resources)
        if task.suspect:
            for worker in [worker for worker in self.short if self.draining.get(worker) is task]:
                self._drain_no_more(worker)  # it was given back
            if task not in self.draining.values():
                self.suspects[task] = None
        elif not task.deps and not restricted and (hints is None or hints.threads > 0):
            task.preferred = None
            heappush(self.queue, (task.priority, task.sequence, task))
        else:
            self._add_with_preference(task, now, restricted)

    def _add_with_preference(self, task: TaskRecord, now: float, restricted: bool) -> None:
        candidates: dict[WorkerRecord, None] = {}
        if restricted:
            candidates = dict.fromkeys(self.eligible(task))
        else:
            for dep in task.deps:
                candidates.update(dep.holders)
                if len(candidates) > 20:  # values that everybody holds do not speak for anybody
                    break
            for worker in self.maybe_room:  # one that is free may be worth a transfer
                if self.has_room(worker) and not task.unreachable:
                    candidates[worker] = None
                    break
        if not restricted and all(self._start_s(worker) == inf for worker in candidates):
            candidates = dict.fromkeys(self.workers.values())
        if not candidates:
            self.unplaceable[task] = now
            return
        best = min(
            candidates,
            key=lambda w: (self._start_s(w) + self.transfer_s(task, w), w.pressure, w.busy + len(w.ready), w.index),
        )
        hints = task.spec.hints if task.spec else None
        if hints is not None and hints.threads == 0 and not hints.resources:
            self.assign(task, best)
            return
        task.preferred = best
        heappush(best.ready, (task.priority, task.sequence, task))
        self.backlogged[best] = None
        if self.has_room(best):
            self.maybe_room[best] = None

    def _start_s(self, worker: WorkerRecord) -> float:
        """When a task that is queued for this worker now is expected to start."""
        slots = worker.slots
        if slots <= 0 or worker.pressure or worker.reserved_by is not None or self.drains(worker):
            return inf  # ranks of a gang have it, or a suspect, or it lacks memory, and nobody knows for how long
        wait_s = worker.load_s if worker.busy >= slots else 0.0
        if worker.ready:
            wait_s += len(worker.ready) * self.duration_s(worker.ready[0][2].group)
        return wait_s / slots

    def postpone(self, task: TaskRecord, until_s: float) -> None:
        """Place a task whose state is now "queued" later."""
        self._sequence += 1
        task.sequence = self._sequence
        self.postponed[task] = until_s
        for worker, suspect in list(self.draining.items()):
            if suspect is task:
                del self.draining[worker]
                self.maybe_room[worker] = None

    def place_postponed(self, now: float) -> None:
        for task, until_s in list(self.postponed.items()):
            if task.state != "queued":
                del self.postponed[task]
            elif now >= until_s:
                self.add(task, now)

    def worker_joined(self, worker: WorkerRecord, now: float) -> None:
        self.maybe_room[worker] = None
        waiting, self.unplaceable = self.unplaceable, {}
        for task, since in waiting.items():
            if task.state == "queued":
                self.add(task, since)

    def worker_lost(self, worker: WorkerRecord) -> None:
        """Send nothing more to a worker that is not in `workers` any more. What is queued for it has to be put elsewhere."""
        self.maybe_room.pop(worker, None)
        self.backlogged.pop(worker, None)
        self.short.pop(worker, None)
        self._drain_no_more(worker)

    def pressure_changed(self, worker: WorkerRecord, level: int, now: float) -> None:
        """A worker is more or less short of memory than before."""
        worker.pressure = level
        if level:
            self.short[worker] = None
            self._drain_no_more(worker)
        else:
            self.short.pop(worker, None)
        self.maybe_room[worker] = None
        for other in list(self.short):  # what waits there may be better off elsewhere
            self.queue_elsewhere(other, now)

    def _drain_no_more(self, worker: WorkerRecord) -> None:
        """A suspect that has not started on this worker finds another one."""
        suspect = self.draining.get(worker)
        if suspect is not None and suspect.worker is not worker:
            del self.draining[worker]
            if suspect.state == "queued":
                self.suspects[suspect] = None

    def queue_elsewhere(self, worker: WorkerRecord, now: float) -> None:
        """Find another place for what is queued for a worker that is lost, or that a gang has taken."""
        entries, worker.ready = worker.ready, []
        self.backlogged.pop(worker, None)
        for _, sequence, task in sorted(entries):
            if task.state == "queued" and task.sequence == sequence:
                self.add(task, now)

    # --- taking tasks out ----------------------------------------------------------------------------------------------

    def fill(self, now: float) -> None:
        """Send tasks to workers that have room, to the least loaded first."""
        if self.draining:
            self._run_suspects()
        if self.suspects:
            self._drain_for_suspects(now)
            self._run_suspects()
        else:
            self.stuck_since_s = inf
        if not self.queue and not self.backlogged:
            return
        parked: list[Entry] = []  # tasks that lack a resource just now
        if self.queue:
            self._fill_from_common(parked)
        if self.backlogged:
            self._fill_from_own(parked)
        self._unpark(parked)
        if self.backlogged:
            self._share()
        if self.short:
            self._feed_short()

    def _unpark(self, parked: list[Entry]) -> None:
        for entry in parked:
            preferred = entry[2].preferred
            assert preferred is not None
            heappush(preferred.ready, entry)
            self.backlogged[preferred] = None

    def _fill_from_common(self, parked: list[Entry]) -> None:
        """While tasks wait in the common queue: one for each idle worker, then more for the least loaded."""
        open_ = []
        for worker in list(self.maybe_room):
            if not worker.busy and self.has_room(worker):
                task = self._next(worker, parked)
                if task is None:
                    return
                self._give(task, worker)
            if self.has_room(worker):
                open_.append((*self._load(worker), worker.index, worker))
            else:
                self.maybe_room.pop(worker, None)
        heapify(open_)
        while open_:
            worker = heappop(open_)[3]
            task = self._next(worker, parked)
            if task is None:
                return
            if self._give(task, worker):
                heappush(open_, (*self._load(worker), worker.index, worker))

    def _fill_from_own(self, parked: list[Entry]) -> None:
        """What waits for a worker that has room goes there."""
        fewer, more = sorted((self.maybe_room, self.backlogged), key=len)
        for worker in [worker for worker in fewer if worker in more]:
            while self.has_room(worker):
                task = self._next(worker, parked)
                if task is None:
                    break
                self._give(task, worker)

    def _share(self) -> None:
        """What waits for a worker that has no room goes to others that have some, if it starts earlier there."""
        for worker in list(self.maybe_room):
            if self.has_room(worker):
                break
            del self.maybe_room[worker]
        else:
            return
        for victim in nlargest(STEAL_FROM, self.backlogged, key=lambda w: len(w.ready)):
            while (found := self._stealable(victim)) is not None:
                self._give(*found)  # its entry in the queue is void now

    def _feed_short(self) -> None:
        """Workers that are short of memory and run nothing: each gets a task, if there is no better place for it."""
        parked: list[Entry] = []
        for worker in list(self.short):
            if worker.busy > worker.blocked:
                continue
            better = any(w.pressure < worker.pressure and self._open(w) for w in self.workers.values())
            while worker.busy <= worker.blocked and self._open(worker):
                if worker.pressure >= FULL:  # the task would fail: not while others go on, which may make room
                    head = self._head(worker.ready)
                    if any(w.busy > w.blocked for w in self.workers.values()):
                        break
                    if better and (head is None or not _restricted(head[2])):
                        break
                task = self._next(worker, parked, common=not better)
                if task is None:
                    break
                self._give(task, worker)
        self._unpark(parked)

    def _open(self, worker: WorkerRecord) -> bool:
        """Whether neither a gang nor a suspect keeps tasks from a worker."""
        return worker.slots > 0 and worker.reserved_by is None and not self.drains(worker)

    def _give(self, task: TaskRecord, worker: WorkerRecord) -> bool:
        """Assign; whether the worker has still room."""
        self.assign(task, worker)
        self.maybe_room.pop(worker, None)
        if not self.has_room(worker):
            return False
        self.maybe_room[worker] = None  # behind others, which may be idle
        return True

    @staticmethod
    def _load(worker: WorkerRecord) -> tuple[float, float]:
        slots, busy = worker.slots or 1, worker.busy
        return (worker.load_s / slots if busy >= slots else 0.0), busy / slots

    def _next(self, worker: WorkerRecord, parked: list[Entry], *, common: bool = True) -> TaskRecord | None:
        """
        The best task for a worker, taken out of its queue or the common one; those that lack a resource are parked.

        Where memory is short, a task that has inputs there, which it may free, comes before one that has none.
        """
        while True:
            own, other = self._head(worker.ready), self._head(self.queue) if common else None
            if own is None:
                self.backlogged.pop(worker, None)
                if other is None:
                    return None
            first = own is not None and (other is None or own < other or (worker.pressure > 0 and _frees(own, other)))
            source = worker.ready if first else self.queue
            entry = heappop(source)
            if _resources_free(entry[2], worker):
                return entry[2]
            parked.append(entry)

    def _stealable(self, victim: WorkerRecord) -> tuple[TaskRecord, WorkerRecord] | None:
        """A task from a worker's queue, and another worker that has room, where it starts earlier."""
        if self._head(victim.ready) is None:
            self.backlogged.pop(victim, None)
            return None
        start_s = self._start_s(victim)
        for _, sequence, task in victim.ready[:STEAL_DEPTH]:
            if task.state != "queued" or task.sequence != sequence or task.unreachable:
                continue
            for thief in self.eligible(task) if _restricted(task) else islice(self.maybe_room, STEAL_BY):
                if thief is victim or not self.has_room(thief) or not _resources_free(task, thief):
                    continue
                if self._start_s(thief) + self.transfer_s(task, thief) < start_s:
                    return task, thief
        return None

    @staticmethod
    def _head(queue: list[Entry]) -> Entry | None:
        """The first entry that is still meant, or None; entries of tasks that moved on are thrown away."""
        while queue:
            entry = queue[0]
            if entry[2].state == "queued" and entry[2].sequence == entry[1]:
                return entry
            heappop(queue)
        return None

    # --- suspects ------------------------------------------------------------------------------------------------------

    def _drain_for_suspects(self, now: float) -> None:
        """For each task that may have killed a worker choose a worker that it will have for itself."""
        free = [w for w in self.workers.values() if w.slots > 0 and w.reserved_by is None and not self.drains(w)]
        if any(w.busy > w.blocked for w in self.workers.values()):
            self.stuck_since_s = inf
        self.stuck_since_s = min(self.stuck_since_s, now)
        stuck_s = now - self.stuck_since_s
        if stuck_s < STUCK_S or (stuck_s < STUCK_SLOTLESS_S and self._runs_slotless()):
            free = [w for w in free if w not in self.draining]
        # else a suspect may be what another one waits for: it runs beside it
        for task in list(self.suspects):
            if not free:
                return
            if task.state != "queued":
                del self.suspects[task]
                continue
            eligible = self.eligible(task)
            pressure = min((w.pressure for w in eligible), default=0)
            fitting = [
                w for w in free if w in eligible and w.pressure == pressure and (not w.blocked or _resources_free(task, w))
            ]
            if fitting:
                best = min(fitting, key=lambda w: (w.load_s, w.busy, w.index))
                free.remove(best)
                self.draining[best] = task
            elif not eligible:
                self.unplaceable[task] = now
            else:
                continue
            del self.suspects[task]

    def _runs_slotless(self) -> bool:
        """Whether tasks run that take no slot: they may wait for others or not, which nobody is told."""
        return any(not threads_of(task, worker) for worker in self.workers.values() for task in worker.running)

    def _run_suspects(self) -> None:
        for worker, task in list(self.draining.items()):
            if task.worker is worker:
                continue
            if task.state == "queued" and task.suspect:
                if worker.slots > 0 and worker.busy > worker.blocked:
                    continue  # until what runs there has ended, or waits for others
                if worker.slots > 0 and _resources_free(task, worker):
                    self.assign(task, worker)
                    continue
                self.suspects[task] = None  # a gang has taken the worker meanwhile, or tasks that wait keep its resources
            del self.draining[worker]
            self.maybe_room[worker] = None


def _frees(own: Entry, other: Entry) -> bool:
    """Whether one task uses results, the other none, and neither was given priority, as what a task submits is."""
    return own[0][0] == other[0][0] and bool(own[2].deps) and not other[2].deps


def _restricted(task: TaskRecord) -> bool:
    hints = task.spec.hints if task.spec else None
    return hints is not None and bool(hints.where or hints.resources)


def _resources_free(task: TaskRecord, worker: WorkerRecord) -> bool:
    hints = task.spec.hints if task.spec else None
    if hints is None or not hints.resources:
        return True
    return all(worker.resources.get(name, 0) >= amount - 1e-9 for name, amount in hints.resources.items())

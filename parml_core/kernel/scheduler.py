"""
The scheduler, without I/O: messages in, messages out.

`SchedulerKernel.handle` takes what one peer said and returns what to say to whom. It reads no clock and draws no random
number; it sees keys, sizes and opaque bytes, never a function or a value; it iterates over no set. The same events in the
same order therefore give the same messages, which is what the simulator relies on.

What keeps the answers right:

- Every run of a task has a number. A report that carries another number than that of the current run is ignored, because
  whenever the scheduler gives up on a run it has already told the worker (`Revoke`) or the worker is gone.
- A result is kept while a client holds its future or an unfinished task needs it. A task's record is kept while a dependant's
  record is, so that a lost result can be made again.
- A task whose inputs failed fails with the failure of the first cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from parml_core.kernel import reasons
from parml_core.kernel.events import ClientJoined, PeerLost, Tick, WorkerJoined
from parml_core.kernel.gangs import Gangs
from parml_core.kernel.journal import Journal
from parml_core.kernel.placement import Placement
from parml_core.kernel.records import (
    ClientRecord,
    FunctionRecord,
    GangRecord,
    GroupRecord,
    SchedulerPolicy,
    TaskRecord,
    WorkerRecord,
)
from parml_core.kernel.stealing import recall_for_idle
from parml_core.kernel.transitions import STATES, TRANSITIONS, UNFINISHED, State
from parml_core.protocol import messages as m
from parml_core.typing import Address, ClientId, Group, Key, PeerId, WorkerId, group_of

UNREACHABLE_REMAKE = 3
"""After so many runs that could not reach a holder of an input, the input is made again."""

UNREACHABLE_MAX = 12
"""After so many, about half a minute, the task has failed."""

OUTER_FAILURES = frozenset({"TaskCancelled", "MissingKeyError", "DataLost", "ClusterError"})
"""Kinds of failures that come from outside of a task: it may well succeed when it is submitted again."""

COMPUTE_BYTES = 4 * 1024 * 1024
"""A message that contains more arguments takes no further task."""

IDLE_GROUPS_MAX = 1000
"""Statistics of groups without tasks are kept as long as there are not more groups."""


class SchedulerKernel:
    """
    Tasks, workers, clients, and what happens to them.

    Parameters
    ----------
    policy : SchedulerPolicy
    journal : Journal, optional
        Notes every change of state.

    Attributes
    ----------
    disconnect : list of str
        Peers whose connection the shell has to end; the shell empties it.
    """

    def __init__(self, policy: SchedulerPolicy | None = None, journal: Journal | None = None) -> None:
        self.policy = policy or SchedulerPolicy()
        self.journal = journal
        self.tasks: dict[Key, TaskRecord] = {}
        self.groups: dict[Group, GroupRecord] = {}
        self.functions: dict[str, FunctionRecord] = {}
        self.workers: dict[WorkerId, WorkerRecord] = {}
        self.by_address: dict[Address, WorkerRecord] = {}
        self.clients: dict[ClientId, ClientRecord] = {}
        self.placement = Placement(self.policy, self.workers, self._assign)
        self.gangs = Gangs(self)
        self.counters = dict.fromkeys(("submitted", "finished", "erred", "retried", "recomputed", "lost_workers"), 0)
        self.disconnect: list[PeerId] = []
        self.now = 0.0
        self._ticked_s: float | None = None
        self._strays: dict[tuple[Key, WorkerRecord], float] = {}  # put by clients that have not said so yet
        self.idle_functions: dict[FunctionRecord, float] = {}  # no task uses these since then; oldest first
        self._outbox: dict[PeerId, list[Any]] = {}
        self._compute_bytes = 0  # at least what the last Compute message contains
        self._generation = 0
        self._n_attempts = 0  # over all tasks: a key that is forgotten and comes back must not get a number again
        self._n_joined = 0
        self._from_client: dict[type, Callable[[ClientRecord, Any], None]] = {
            m.Submit: self._on_submit,
            m.Want: self._on_want,
            m.Release: self._on_release,
            m.Cancel: self._on_cancel,
            m.Scattered: self._on_scattered,
            m.SubmitGang: self._on_submit_gang,
            m.Absent: self._on_absent,
            m.AskWorkers: self._on_ask_workers,
            m.AskHolders: self._on_ask_holders,
            m.AskState: self._on_ask_state,
            m.ClientBye: self._on_client_bye,
            PeerLost: self._on_client_lost,
        }
        self._from_worker: dict[type, Callable[[WorkerRecord, Any], None]] = {
            m.Finished: self._on_finished,
            m.Failed: self._on_failed,
            m.InputsMissing: self._on_inputs_missing,
            m.Returned: self._on_returned,
            m.Copied: self._on_copied,
            m.Started: self._on_started,
            m.Blocked: self._on_blocked,
            m.Pressure: self._on_pressure,
            m.Heartbeat: self._on_heartbeat,
            m.WorkerBye: self._on_worker_bye,
            PeerLost: self._on_worker_lost,
        }

    def handle(self, sender: PeerId, events: Iterable[Any], now: float) -> dict[PeerId, list[Any]]:
        """
        Take what a peer said, or an event about it.

        Parameters
        ----------
        sender : str
            Who said it; ``""`` for `Tick`.
        events : iterable of messages or events
        now : float
            Monotonic seconds.

        Returns
        -------
        dict of peer to list of messages
            To be sent in this order.
        """
        self.now = now
        for event in events:
            worker = self.workers.get(sender)
            if worker is not None:
                self._from_worker[type(event)](worker, event)
                continue
            client = self.clients.get(sender)
            if client is not None:
                self._from_client[type(event)](client, event)
            elif type(event) is Tick:
                self._on_tick()
            elif type(event) is WorkerJoined:
                self._on_worker_joined(event)
            elif type(event) is ClientJoined:
                self.clients[sender] = ClientRecord(sender)
            # else: something a peer said before it was lost, which changes nothing any more
        self.gangs.advance()
        self.placement.fill(now)
        outbox, self._outbox = self._outbox, {}
        return outbox

    def snapshot(self) -> dict[str, Any]:
        """What people want to see: workers, tasks by state, groups, clients, gangs, counters. O(workers + groups)."""
        totals: dict[State, int] = dict.fromkeys(STATES, 0)
        for group in self.groups.values():
            for state, n in group.counts.items():
                totals[state] += n
        return {
            "workers": [
                {
                    "id": w.id,
                    "name": w.info.name,
                    "address": w.address,
                    "host": w.info.host,
                    "nthreads": w.info.nthreads,
                    "executing": len(w.executing),
                    "assigned": len(w.running) + len(w.ranks),
                    "held": len(w.holding),
                    "memory_bytes": w.memory_bytes,
                    "memory_limit_bytes": w.info.memory_bytes,
                    "paused": bool(w.pressure),
                    "cpu_percent": w.cpu_percent,
                    "blocked": w.blocked,
                    "last_seen_s": round(self.now - w.last_seen_s, 3),
                }
                for w in self.workers.values()
            ],
            "tasks": totals,
            "groups": [{"name": g.name, **g.counts, "mean_s": g.duration_s} for g in self.groups.values()],
            "clients": list(self.clients),
            "gangs": self.gangs.snapshot(),
            "counters": dict(self.counters),
        }

    # --- saying --------------------------------------------------------------------------------------------------------

    def tell(self, peer: PeerId, message: Any) -> None:
        self._outbox.setdefault(peer, []).append(message)

    def _last(self, peer: PeerId, kind: type) -> Any:
        """The last message to this peer, if it is of this kind: more of the same goes into it."""
        outbox = self._outbox.get(peer)
        return outbox[-1] if outbox and type(outbox[-1]) is kind else None

    def _tell_ready(self, client: ClientRecord, task: TaskRecord, small: bytes = b"") -> None:
        holder, want = next(iter(task.holders)).address, client.wants[task]
        message = self._last(client.id, m.KeysReady)
        if message is None:
            self.tell(client.id, m.KeysReady([task.key], [holder], [want], [small]))
        else:
            message.keys.append(task.key)
            message.holders.append(holder)
            message.wants.append(want)
            message.small.append(small)

    def _tell_failed(self, client: ClientRecord, task: TaskRecord, failure: m.Failure) -> None:
        want = client.wants[task]
        message = self._last(client.id, m.KeysFailed)
        if message is None:
            self.tell(client.id, m.KeysFailed([task.key], [failure], [want]))
        else:
            message.keys.append(task.key)
            message.failures.append(failure)
            message.wants.append(want)

    def _tell_keys(self, peer: PeerId, kind: Any, key: Key) -> None:
        message = self._last(peer, kind)
        if message is None:
            self.tell(peer, kind([key]))
        else:
            message.keys.append(key)

    def _tell_attempt(self, worker: WorkerRecord, kind: Any, task: TaskRecord) -> None:
        message = self._last(worker.id, kind)
        if message is None:
            self.tell(worker.id, kind([(task.key, task.attempt)]))
        else:
            message.attempts.append((task.key, task.attempt))

    # --- clients -------------------------------------------------------------------------------------------------------

    def _on_submit(self, client: ClientRecord, event: m.Submit) -> None:
        self._generation += 1
        tasks = self._add_specs(event.functions, event.tasks)
        for key in event.wants:
            self._want(client, key, event.want)
        for task in tasks:
            if task.state == "released":  # no want of this message needs it
                self.start(task) if task.wanted_by or task.needed_by else self.release_unneeded(task)

    def _add_specs(self, functions: dict[str, bytes], specs: Sequence[m.TaskSpec]) -> list[TaskRecord]:
        """Make records of tasks that are not known yet; they are released until somebody needs them."""
        self.counters["submitted"] += len(specs)
        tasks, generation = self.tasks, self._generation
        records, fresh = [], []
        for spec in specs:
            task = tasks.get(spec.key)
            if task is None:
                task = tasks[spec.key] = TaskRecord(spec.key, self._group(spec.key))
                task.group.counts["released"] += 1
            elif task.spec is None and not task.owners and task.state in ("released", "erred"):
                self._begin_afresh(task)  # so far only a name, wanted or referred to by somebody
            else:
                if task.failure is not None and task.failure.kind in OUTER_FAILURES:
                    self._begin_afresh(task)
                records.append(task)
                continue
            records.append(task)
            fresh.append(task)
            task.spec = spec
            hints = spec.hints
            if hints is None:
                task.priority = (0, generation, spec.order)
            else:
                task.priority = (-hints.priority, generation, spec.order)
                task.retries_left = hints.retries
            function = self.functions.get(spec.fn)
            if function is None:
                function = self.functions[spec.fn] = FunctionRecord(spec.fn, functions[spec.fn])
            elif not function.n_tasks:
                del self.idle_functions[function]
            function.n_tasks += 1
            task.function = function
        for task in fresh:
            if task.spec is not None and task.spec.deps:  # now that all tasks of the message have records
                task.deps = tuple(self._record(key) for key in task.spec.deps)
                for dep in task.deps:
                    dep.dependants[task] = None
        return records

    def _record(self, key: Key) -> TaskRecord:
        task = self.tasks.get(key)
        if task is None:
            task = self.tasks[key] = TaskRecord(key, self._group(key))
            task.group.counts["released"] += 1
        return task

    def _group(self, key: Key) -> GroupRecord:
        name = group_of(key)
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = GroupRecord(name)
        return group

    def _on_want(self, client: ClientRecord, event: m.Want) -> None:
        for key in event.keys:
            self._want(client, key, event.want)

    def _want(self, client: ClientRecord, key: Key, want: int) -> None:
        task = self.tasks.get(key)
        if task is None:
            task = self._record(key)
        task.wanted_by[client] = None
        client.wants[task] = want
        if task.state == "memory":
            self._tell_ready(client, task)
        elif task.state == "erred":
            assert task.failure is not None
            self._tell_failed(client, task, task.failure)
        elif task.state == "released":
            self.start(task)

    def _on_release(self, client: ClientRecord, event: m.Release) -> None:
        for key in event.keys:
            task = self.tasks.get(key)
            if task is not None and client in task.wanted_by:
                self._unwant(client, task)

    def _unwant(self, client: ClientRecord, task: TaskRecord) -> None:
        del task.wanted_by[client], client.wants[task]
        self._disown(client, task)
        self.release_unneeded(task)

    def _on_cancel(self, client: ClientRecord, event: m.Cancel) -> None:
        for key in event.keys:
            task = self.tasks.get(key)
            if task is None or client not in task.wanted_by:
                continue
            failure = m.Failure("TaskCancelled", f"task {key!r} was cancelled", key=key)
            if task.state not in UNFINISHED:
                continue  # it has ended: there is nothing to cancel
            if self._wanted_by_others(client, task):
                self._tell_failed(client, task, failure)
                self._unwant(client, task)
            else:
                self.fail(task, failure)

    @staticmethod
    def _wanted_by_others(client: ClientRecord, task: TaskRecord) -> bool:
        """Whether another client holds a future of this task or of an unfinished one that needs it."""
        seen = {task.key}
        stack = [task]
        while stack:
            current = stack.pop()
            if any(other is not client for other in current.wanted_by):
                return True
            for dependant in current.dependants:
                if dependant.state in UNFINISHED and dependant.key not in seen:
                    seen.add(dependant.key)
                    stack.append(dependant)
        return False

    def _on_scattered(self, client: ClientRecord, event: m.Scattered) -> None:
        for value in event.values:
            task = self._record(value.key)
            task.wanted_by[client] = None
            client.wants[task] = event.want
            holders = [self.by_address[address] for address in value.holders if address in self.by_address]
            if task.spec is not None:  # a task makes this value: what was put is no copy that is known of
                self._want(client, task.key, event.want)
                continue
            if client not in task.owners:
                task.owners = (*task.owners, client)
            if task.state == "erred":
                self._begin_afresh(task)
            for worker in holders:
                self._hold(task, worker, value.nbytes)
            if task.state == "memory":
                self._tell_ready(client, task)
            elif holders:
                self._now_in_memory(task)
            elif task.state == "released":  # the workers died between the client's put and this message
                self.start(task)
            else:
                self._tell_keys(client.id, m.NeedValues, task.key)

    def _on_submit_gang(self, client: ClientRecord, event: m.SubmitGang) -> None:
        self._generation += 1
        taken = [spec.key for spec in event.tasks if spec.key in self.tasks and self.tasks[spec.key].spec is not None]
        if taken:
            text = f"expected keys for the ranks that no task has, found {taken[0]!r} taken; give the ranks other keys"
            keys = [spec.key for spec in event.tasks]
            failures = [m.Failure("GangError", text, key=key) for key in keys]
            self.tell(client.id, m.KeysFailed(keys, failures, [event.want] * len(keys)))
        elif event.tasks:
            self.gangs.add(client, event, self._add_specs(event.functions, event.tasks))

    def _on_absent(self, client: ClientRecord, event: m.Absent) -> None:
        worker = self.by_address.get(event.holder)
        for key in event.keys:
            task = self.tasks.get(key)
            if task is None:
                continue
            if worker is not None and worker in task.holders:
                self._drop_holder(task, worker)
            if task.state == "memory" and client in task.wanted_by:
                self._tell_ready(client, task)

    def _on_ask_workers(self, client: ClientRecord, event: m.AskWorkers) -> None:
        workers = sorted(self.workers.values(), key=lambda w: (w.info.name, w.index))
        self.tell(client.id, m.WorkersAre(event.request, [w.info for w in workers], [w.address for w in workers]))

    def _on_ask_holders(self, client: ClientRecord, event: m.AskHolders) -> None:
        addresses, ids = [], []
        for key in event.keys:
            task = self.tasks.get(key)
            holders = list(task.holders) if task is not None else []
            addresses.append([w.address for w in holders])
            ids.append([w.id for w in holders])
        self.tell(client.id, m.HoldersAre(event.request, addresses, ids))

    def _on_ask_state(self, client: ClientRecord, event: m.AskState) -> None:
        self.tell(client.id, m.StateIs(event.request, self.snapshot()))

    def _on_client_bye(self, client: ClientRecord, event: m.ClientBye) -> None:
        self._remove_client(client)

    def _on_client_lost(self, client: ClientRecord, event: PeerLost) -> None:
        self._remove_client(client)

    def _remove_client(self, client: ClientRecord) -> None:
        del self.clients[client.id]
        self._outbox.pop(client.id, None)
        wants, client.wants = list(client.wants), {}
        for task in wants:
            del task.wanted_by[client]
        for task in wants:
            self._disown(client, task)
            self.release_unneeded(task)

    def _disown(self, client: ClientRecord, task: TaskRecord) -> None:
        """A client that lets go of a scattered value cannot send it again."""
        if client not in task.owners:
            return
        task.owners = tuple([owner for owner in task.owners if owner is not client])
        if task.state == "waiting" and (task.wanted_by or task.needed_by):
            if task.owners:
                self._tell_keys(task.owners[0].id, m.NeedValues, task.key)
            else:
                self.fail(task, reasons.data_lost(task))

    # --- workers -------------------------------------------------------------------------------------------------------

    def _on_worker_joined(self, event: WorkerJoined) -> None:
        former = self.by_address.get(event.address)
        if former is not None:
            self._dismiss(former, f"its address {event.address} was taken by a worker that has just joined")
        worker = WorkerRecord(event.info, event.address, self._n_joined, self.now)
        self._n_joined += 1
        self.workers[worker.id] = worker
        self.by_address[worker.address] = worker
        for key, nbytes in event.holds:
            task = self.tasks.get(key)
            if task is not None and task.state == "memory":
                self._hold(task, worker, nbytes)
            else:
                self._tell_keys(worker.id, m.Free, key)
        self.placement.worker_joined(worker, self.now)

    def _on_worker_bye(self, worker: WorkerRecord, event: m.WorkerBye) -> None:
        self._remove_worker(worker, event.reason, blame=False)
        self.disconnect.append(worker.id)

    def _on_worker_lost(self, worker: WorkerRecord, event: PeerLost) -> None:
        self._remove_worker(worker, event.reason, blame=True)

    def _remove_worker(self, worker: WorkerRecord, reason: str, *, blame: bool) -> None:
        del self.workers[worker.id]
        del self.by_address[worker.address]
        self.counters["lost_workers"] += 1
        for function in worker.functions:
            del function.known_by[worker]
        self.gangs.worker_lost(worker, reason)
        again = self._end_runs_of_lost(worker, reason, blame=blame)
        self.placement.worker_lost(worker)
        lost = []
        for task in worker.holding:
            del task.holders[worker]
            if not task.holders:
                lost.append(task)
        worker.holding.clear()
        self._values_lost(lost)
        for task in again:
            if task.state == "running":
                self._run_again(task)
        self.placement.queue_elsewhere(worker, self.now)
        self._outbox.pop(worker.id, None)

    def _dismiss(self, worker: WorkerRecord, reason: str) -> None:
        """Give up on a worker that has not said good-bye."""
        self._remove_worker(worker, reason, blame=True)
        self.tell(worker.id, m.Leave(reason, rejoin=True))
        self.disconnect.append(worker.id)

    def _end_runs_of_lost(self, worker: WorkerRecord, reason: str, *, blame: bool) -> list[TaskRecord]:
        """
        The tasks that ran on a lost worker; those whose state is still "running" have to run again.

        A task that ran alone, or that had the worker for itself to clear up a suspicion, took the worker down; those that ran
        among others are under suspicion, and run alone next time.
        """
        ended = list(worker.running)
        culprit = ended[0] if len(ended) == 1 else self.placement.draining.get(worker)
        for task in ended:
            self._end_run(task)
        for task in ended:
            hints = task.spec.hints if task.spec else None
            if task.state != "running":
                continue  # failed with another
            if hints is not None and hints.threads == 0 and hints.where:
                text = f"worker {worker.info.name!r} was lost ({reason}) while it ran {task.key!r}, which is tied to it"
                self.fail(task, m.Failure("ClusterError", text, key=task.key, worker=worker.info.name))
            elif blame:
                task.suspect = True
                if task is culprit:
                    task.failures = (*task.failures, worker.info.name)
                    if len(task.failures) >= self.policy.allowed_failures:
                        self.fail(task, reasons.killed(task, reason))
        return ended

    def _on_finished(self, worker: WorkerRecord, event: m.Finished) -> None:
        tasks = self.tasks
        for run in event.runs:
            task = tasks.get(run.key)
            if task is None or task.attempt != run.attempt or task.worker is not worker:
                continue
            self._end_run(task)
            task.suspect = False
            task.group.measured(run.duration_s)
            self.counters["finished"] += 1
            self._hold(task, worker, run.nbytes)
            self._now_in_memory(task, run.small)

    def _on_failed(self, worker: WorkerRecord, event: m.Failed) -> None:
        task = self._current(worker, event.key, event.attempt)
        if task is None:
            return
        self._end_run(task)
        task.suspect = False  # whatever it did, the worker survived it
        if event.failure.kind == "raised" and task.retries_left > 0 and task.gang is None:
            task.retries_left -= 1
            self.counters["retried"] += 1
            self._run_again(task)
        else:
            self.fail(task, event.failure)

    def _on_inputs_missing(self, worker: WorkerRecord, event: m.InputsMissing) -> None:
        task = self._current(worker, event.key, event.attempt)
        unreachable = [address for _, address, absent in event.missing if not absent]
        remake = False
        if task is not None:
            self._end_run(task)
            if unreachable:
                task.unreachable += 1
                remake = task.unreachable >= UNREACHABLE_REMAKE
        for key, address, absent in event.missing:
            dep, holder = self.tasks.get(key), self.by_address.get(address)
            if dep is not None and holder is not None and holder in dep.holders and (absent or remake):
                self._drop_holder(dep, holder)
        if task is None or task.state != "running":
            return
        if unreachable:
            task.not_before_s = self.now + min(0.05 * 2**task.unreachable, 5.0)
            if task.unreachable >= UNREACHABLE_MAX:
                self.fail(task, reasons.unreachable(task, worker, unreachable))
                return
        if task.gang is not None:
            self.gangs.restart(task.gang, task.not_before_s)
        else:
            self._run_again(task)

    def _on_returned(self, worker: WorkerRecord, event: m.Returned) -> None:
        for key, attempt in event.attempts:
            task = self._current(worker, key, attempt)
            if task is not None:
                self._end_run(task)
                self._run_again(task)

    def _on_copied(self, worker: WorkerRecord, event: m.Copied) -> None:
        for key, nbytes in event.values:
            task = self.tasks.get(key)
            if task is not None and task.state == "memory":
                self._hold(task, worker, nbytes)
            elif event.put:
                self._strays[key, worker] = self.now
            else:  # nobody needs the value any more, or it is being made again
                self._tell_keys(worker.id, m.Free, key)

    def _on_started(self, worker: WorkerRecord, event: m.Started) -> None:
        pass  # ranks are running since they were sent; this serves observers

    def _on_blocked(self, worker: WorkerRecord, event: m.Blocked) -> None:
        worker.blocked += event.count
        self.placement.maybe_room[worker] = None

    def _on_pressure(self, worker: WorkerRecord, event: m.Pressure) -> None:
        self.placement.pressure_changed(worker, event.level, self.now)

    def _on_heartbeat(self, worker: WorkerRecord, event: m.Heartbeat) -> None:
        worker.last_seen_s = self.now
        worker.executing = event.executing
        worker.memory_bytes = event.memory_bytes
        worker.cpu_percent = event.cpu_percent

    def _current(self, worker: WorkerRecord, key: Key, attempt: int) -> TaskRecord | None:
        """The task, if this is its current run and this worker has it."""
        task = self.tasks.get(key)
        return task if task is not None and task.attempt == attempt and task.worker is worker else None

    # --- time ----------------------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        limit_s, asleep_s = self.policy.worker_timeout_s, 0.0
        if self._ticked_s is not None and self.now - self._ticked_s > self.policy.asleep_s:
            asleep_s = self.now - self._ticked_s
        self._ticked_s = self.now
        for worker in list(self.workers.values()):
            worker.last_seen_s = min(worker.last_seen_s + asleep_s, self.now)
            if self.now - worker.last_seen_s > limit_s:
                self._dismiss(worker, f"silent for more than {limit_s:g} s")
        self._drop_strays()
        for function, since in list(self.idle_functions.items()):
            if self.now - since > self.policy.function_idle_s:
                self._forget_function(function)
        self.placement.place_postponed(self.now)
        for task, since in list(self.placement.unplaceable.items()):
            if task.state != "queued":
                del self.placement.unplaceable[task]
            elif self.workers and self.now - since > self.policy.pinned_timeout_s:
                del self.placement.unplaceable[task]
                self.fail(task, reasons.unplaceable(task, self.workers.values(), self.now - since))
        for worker, task in recall_for_idle(self.workers.values(), self.placement, self.now):
            worker.recalled[task] = None
            self._tell_attempt(worker, m.Recall, task)

    def _drop_strays(self) -> None:
        """A client has put values on workers, and died before it said so: nobody will ever ask for them."""
        for (key, worker), since in list(self._strays.items()):
            task = self.tasks.get(key)
            known = task is not None and worker in task.holders
            if known or self.now - since > self.policy.stray_s or worker.id not in self.workers:
                del self._strays[key, worker]
                if not known and worker.id in self.workers:
                    self._tell_keys(worker.id, m.Free, key)

    # --- the life of a task --------------------------------------------------------------------------------------------

    def _set_state(self, task: TaskRecord, new: State) -> None:
        old = task.state
        assert (old, new) in TRANSITIONS, f"no transition {old} → {new} of {task.key}"
        counts = task.group.counts
        counts[old] -= 1
        counts[new] += 1
        task.state = new
        if self.journal is not None:
            self.journal.note(self.now, task.key, task.attempt, old, new)

    def start(self, task: TaskRecord) -> None:
        """Somebody needs this task, which is released: see to it that it gets a result, and its inputs before it."""
        stack = [task]
        while stack:
            current = stack.pop()
            if current.state != "released" or not (current.wanted_by or current.needed_by):
                continue
            if not current.deps and current.spec is not None and current.gang is None:
                self._set_state(current, "queued")
                self.placement.add(current, self.now)
                continue
            if current.spec is None:
                self._ask_for_value(current)
                continue
            if current.gang is not None and current.gang.state != "waiting":
                self.fail(current, current.gang.failure or reasons.rank_lost(current))
                continue
            self._set_state(current, "waiting")
            erred = None
            for dep in current.deps:
                dep.needed_by += 1
                if dep.failure is not None and dep.failure.kind == "TaskCancelled":
                    self._begin_afresh(dep)  # cancelled were the futures of that time, and this is a need of now
                if dep.state == "erred":
                    erred = erred or dep
                elif dep.state != "memory":
                    current.waiting_on[dep] = None
                    if dep.state == "released":
                        stack.append(dep)
            if erred is not None:
                assert erred.failure is not None
                self.fail(current, erred.failure)
            elif not current.waiting_on:
                self._inputs_ready(current)

    def _ask_for_value(self, task: TaskRecord) -> None:
        """A scattered value has no holder: its client sends it again, or it is lost for good."""
        if task.owners:
            self._set_state(task, "waiting")
            self._tell_keys(task.owners[0].id, m.NeedValues, task.key)
        elif task.nbytes:
            self.fail(task, reasons.data_lost(task))
        else:
            self.fail(task, reasons.unknown(task))

    def _inputs_ready(self, task: TaskRecord) -> None:
        if task.gang is not None:
            return  # it starts with its siblings
        self._enqueue(task)

    def _enqueue(self, task: TaskRecord) -> None:
        """All inputs are in memory."""
        self._set_state(task, "queued")
        if task.unreachable and task.not_before_s > self.now:
            self.placement.postpone(task, task.not_before_s)
        else:
            self.placement.add(task, self.now)

    def _assign(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """Send a queued task to a worker."""
        self._set_state(task, "running")
        estimate_s = self.placement.duration_s(task.group)
        if not worker.running:
            worker.progress_s = self.now
        worker.running[task] = estimate_s
        worker.load_s += estimate_s
        threads = 1
        hints = task.spec.hints if task.spec else None
        if hints is not None:
            threads = min(hints.threads, worker.info.nthreads)
            for name, amount in hints.resources.items():
                worker.resources[name] = worker.resources.get(name, 0) - amount
        worker.busy += threads
        self.send_run(task, worker, threads)

    def send_run(self, task: TaskRecord, worker: WorkerRecord, threads: int, gang: GangRecord | None = None) -> None:
        """Start the next attempt of a task on a worker."""
        spec, function = task.spec, task.function
        assert spec is not None and function is not None
        self._n_attempts += 1
        task.attempt = self._n_attempts
        task.worker = worker
        message = self._last(worker.id, m.Compute)
        if message is None or self._compute_bytes > COMPUTE_BYTES:
            message = m.Compute({}, [])
            self.tell(worker.id, message)
            self._compute_bytes = 0
        self._compute_bytes += len(spec.args)
        if worker not in function.known_by:
            function.known_by[worker] = None
            worker.functions[function] = None
            message.functions[function.id] = function.data
        inputs: tuple[m.Input, ...] = ()
        if task.deps:
            inputs = tuple(
                m.Input(dep.key, dep.nbytes, tuple(w.address for w in _few(dep.holders, worker))) for dep in task.deps
            )
        wanted = bool(task.wanted_by)
        run = m.Assignment(task.key, task.attempt, spec.fn, spec.args, inputs, task.priority, threads, wanted=wanted)
        if gang is not None:
            run = msgspec.structs.replace(run, gang=gang.id, preload=gang.preload)
        elif worker.pressure:
            run = msgspec.structs.replace(run, anyway=True)
        message.tasks.append(run)

    def _end_run(self, task: TaskRecord) -> None:
        """The current attempt is over, however it ended. The state changes next."""
        worker = task.worker
        if worker is None:
            return
        task.worker = None
        if task.gang is not None:
            self.gangs.rank_ended(task, worker)
            return
        worker.load_s -= worker.running.pop(task)
        worker.progress_s = self.now
        if not worker.running:
            worker.load_s = 0.0  # sums of floats drift
        worker.recalled.pop(task, None)
        hints = task.spec.hints if task.spec else None
        if hints is None:
            worker.busy -= 1
        else:
            worker.busy -= min(hints.threads, worker.info.nthreads)
            for name, amount in hints.resources.items():
                worker.resources[name] += amount
        self.placement.maybe_room[worker] = None

    def revoke(self, task: TaskRecord) -> None:
        """Give up on the current attempt."""
        if task.worker is not None:
            if task.worker.id in self.workers:
                self._tell_attempt(task.worker, m.Revoke, task)
            self._end_run(task)

    def _run_again(self, task: TaskRecord) -> None:
        """A running task whose attempt is over needs another one."""
        waiting_on: dict[TaskRecord, None] = {}
        for dep in task.deps:
            if dep.state == "erred":
                assert dep.failure is not None
                self.fail(task, dep.failure)
                return
            if dep.state != "memory":
                waiting_on[dep] = None
        if waiting_on or task.gang is not None:
            task.waiting_on = waiting_on
            self._set_state(task, "waiting")
            for dep in waiting_on:
                if dep.state == "released":
                    self.start(dep)
        else:
            self._enqueue(task)

    def _hold(self, task: TaskRecord, worker: WorkerRecord, nbytes: int) -> None:
        task.nbytes = nbytes
        task.holders[worker] = None
        worker.holding[task] = None

    def _now_in_memory(self, task: TaskRecord, small: bytes = b"") -> None:
        """The result of a task is there: tell who waits for it. A small one travels with the news, and is not kept here."""
        was_unfinished = task.state in UNFINISHED
        self._set_state(task, "memory")
        task.unreachable = 0
        task.failures = ()
        if task.wanted_by:
            for client in task.wanted_by:
                self._tell_ready(client, task, small)
        if task.needed_by:
            for dependant in list(task.dependants):
                if dependant.state == "waiting" and task in dependant.waiting_on:
                    del dependant.waiting_on[task]
                    if not dependant.waiting_on:
                        self._inputs_ready(dependant)
        if was_unfinished and task.deps:
            self._drop_inputs(task)
        if not task.wanted_by and not task.needed_by:
            self.release_unneeded(task)

    def _drop_inputs(self, task: TaskRecord) -> None:
        """A task that needed its inputs does not need them any more."""
        for dep in task.deps:
            dep.needed_by -= 1
            if not dep.needed_by and not dep.wanted_by:
                self.release_unneeded(dep)

    def fail(self, task: TaskRecord, failure: m.Failure) -> None:
        """A task has failed, and with it all that wait for its result."""
        stack = [task]
        while stack:
            current = stack.pop()
            old = current.state
            if old == "erred" or (current is not task and old not in ("waiting", "queued")):
                continue  # it was released when another one failed
            self.revoke(current)
            self._set_state(current, "erred")
            self.counters["erred"] += 1
            current.failure = failure
            current.waiting_on.clear()
            for client in current.wanted_by:
                self._tell_failed(client, current, failure)
            stack.extend(d for d in reversed(current.dependants) if d.state in ("waiting", "queued"))
            if old in UNFINISHED:
                self._drop_inputs(current)
            if current.gang is not None and old != "released":
                self.gangs.rank_failed(current, failure)
            self.release_unneeded(current)

    def _drop_holder(self, task: TaskRecord, worker: WorkerRecord) -> None:
        """A worker turned out not to have a value; should it have it after all, it is told to drop it."""
        del task.holders[worker], worker.holding[task]
        self._tell_keys(worker.id, m.Free, task.key)
        if not task.holders:
            self._values_lost([task])

    def _values_lost(self, tasks: Sequence[TaskRecord]) -> None:
        """The last holders of these results are gone: make again what is needed."""
        again = []
        for task in tasks:
            if task.state != "memory":
                continue  # released when another one failed
            if task.gang is not None:
                self.fail(task, reasons.rank_lost(task))
                continue
            for client in task.wanted_by:
                self.tell(client.id, m.KeysPending([task.key], [client.wants[task]]))
            for dependant in task.dependants:
                if dependant.state == "queued":
                    self._set_state(dependant, "waiting")
                if dependant.state == "waiting":
                    dependant.waiting_on[task] = None
            self._set_state(task, "released")
            again.append(task)
        self.counters["recomputed"] += len(again)
        for task in again:
            self.start(task)

    def _begin_afresh(self, task: TaskRecord) -> None:
        """What happened to a task so far counts no more."""
        if task.state == "erred":
            self._set_state(task, "released")
        task.failure = None
        task.failures = ()
        task.suspect = False
        task.unreachable = 0
        hints = task.spec.hints if task.spec else None
        task.retries_left = hints.retries if hints is not None else 0

    def release_unneeded(self, task: TaskRecord) -> None:
        """Drop what nobody needs, from this task down to its inputs; forget records that can serve no recomputation."""
        stack = [task]
        while stack:
            current = stack.pop()
            if current.wanted_by or current.needed_by or self.tasks.get(current.key) is not current:
                continue
            if current.gang is not None and self.gangs.keeps(current):
                continue
            if current.gang is not None:
                self.gangs.abandon(current.gang)
                stack.extend(t for t in current.gang.tasks if t is not current and t.state != "released" and not t.wanted_by)
            state = current.state
            if state != "released":
                self.revoke(current)
                for worker in current.holders:
                    del worker.holding[current]
                    self._tell_keys(worker.id, m.Free, current.key)
                current.holders.clear()
                current.waiting_on.clear()
                self._set_state(current, "released")
                if state in UNFINISHED:
                    for dep in current.deps:
                        dep.needed_by -= 1
                        stack.append(dep)
                elif state == "erred":
                    self._begin_afresh(current)
            if not current.dependants:
                self._forget(current)
                stack.extend(current.deps)

    def _forget(self, task: TaskRecord) -> None:
        del self.tasks[task.key]
        for dep in task.deps:
            dep.dependants.pop(task, None)
        group = task.group
        group.counts["released"] -= 1
        if len(self.groups) > IDLE_GROUPS_MAX and not any(group.counts.values()):
            del self.groups[group.name]
        if task.gang is not None:
            self.gangs.forget(task)
        function = task.function
        if function is not None:
            function.n_tasks -= 1
            if function.n_tasks == 0:
                self.idle_functions[function] = self.now
                if len(function.data) > self.policy.function_idle_bytes:
                    self._forget_function(function)

    def _forget_function(self, function: FunctionRecord) -> None:
        del self.idle_functions[function], self.functions[function.id]
        for worker in function.known_by:
            del worker.functions[function]
            self.tell(worker.id, m.ForgetFunctions([function.id]))


def _few(holders: dict[WorkerRecord, None], receiver: WorkerRecord) -> list[WorkerRecord]:
    """At most four holders, those on the receiver's host first; the receiver itself alone where it is one."""
    if receiver in holders:
        return [receiver]
    some = list(holders)
    if len(some) > 1:
        start = receiver.index % len(some)  # spreads the readers of a widely held value
        some = some[start:] + some[:start]
        some.sort(key=lambda holder: holder.info.host != receiver.info.host)
    return some[:4]

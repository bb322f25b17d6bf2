"""Scheduler and workers of a simulated cluster: the real kernels, in shells that act like the real ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from parml_core.engine.base import WorkerInfo
from parml_core.kernel import effects as fx
from parml_core.kernel import events as ev
from parml_core.kernel.invariants import check, check_worker
from parml_core.kernel.journal import Journal
from parml_core.kernel.records import SchedulerPolicy
from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.kernel.transitions import State
from parml_core.kernel.uploads import Asker, Turn, Uploads
from parml_core.kernel.worker import WorkerKernel, WorkerPolicy
from parml_core.protocol import messages as m
from parml_core.testing.sim_world import Wire, World
from parml_core.typing import Address, Key, PeerId

if TYPE_CHECKING:
    from parml_core.testing.sim_programs import Work

TICK_S = 1.0
HEARTBEAT_S = 4.0
OVERDUE_S = 0.5
UPLOAD = 20  # times as long as a message a value travels that may be asked for by many

_from_client = m.decoder_of(m.FromClient)
_from_worker = m.decoder_of(m.FromWorker)
_to_worker = m.decoder_of(m.ToWorker)


class Coverage(Journal):
    """A journal that counts which changes of state have happened, and how often a key changed its state."""

    def __init__(self) -> None:
        super().__init__(20_000)
        self.pairs: dict[tuple[State, State], int] = {}
        self.changes: dict[Key, int] = {}

    def note(self, now: float, key: Key, attempt: int, old: State, new: State) -> None:
        super().note(now, key, attempt, old, new)
        self.pairs[old, new] = self.pairs.get((old, new), 0) + 1
        self.changes[key] = self.changes.get(key, 0) + 1


class SchedulerNode:
    """The scheduler and its ends of the connections."""

    def __init__(self, world: World, policy: SchedulerPolicy) -> None:
        self.world = world
        self.journal = Coverage()
        self.kernel = SchedulerKernel(policy, self.journal)
        self.links: dict[PeerId, Wire] = {}
        self.on_lost: Callable[[PeerId], None] | None = None  # called before the kernel hears that a peer is lost
        self.unread: deque[tuple[PeerId, Any, Any]] | None = None  # what arrives while this process is stopped
        world.at(TICK_S, self._tick, clockwork=True)

    def connect(self, id: PeerId, process: str, hear: Any) -> Wire:
        """A connection of a new peer: the wire on which it sends. `hear` gets what is sent to it."""
        self.links[id] = Wire(self.world, process, f"> {id}", hear)
        decoder = _from_worker if id.startswith("w") and "/" not in id else _from_client

        def hear_it(item: Any) -> None:
            self._hear(id, decoder, item)

        return Wire(self.world, process, f"< {id}", hear_it)

    def _hear(self, id: PeerId, decoder: Any, item: Any) -> None:
        if self.unread is not None:
            self.unread.append((id, decoder, item))
        elif type(item) is bytes:
            self._handle(id, decoder.decode(item))
        elif item is not None:
            self._handle(id, [item])
        else:
            wire = self.links.pop(id, None)
            if wire is not None:
                wire.end()
            self._handle(id, [ev.PeerLost("the connection was closed")])

    def _handle(self, id: PeerId, events: Sequence[Any]) -> None:
        kernel = self.kernel
        if self.on_lost is not None and type(events[0]) is ev.PeerLost:
            self.on_lost(id)
        outbox = kernel.handle(id, events, self.world.now)
        for peer, messages in outbox.items():
            wire = self.links.get(peer)
            if wire is not None:
                wire.send(messages)
        for peer in kernel.disconnect:  # what such a peer still sends is heard, and must change nothing
            wire = self.links.pop(peer, None)
            if wire is not None:
                wire.end()
        kernel.disconnect.clear()
        if outbox or type(events[0]) is not m.Heartbeat:
            check(kernel)

    def _tick(self) -> None:
        self.world.at(TICK_S, self._tick, clockwork=True)
        if self.unread is None:
            self._handle("", [ev.Tick()])

    def stop(self) -> None:
        """The process is stopped, as by SIGSTOP."""
        if self.unread is None:
            self.unread = deque()

    def resume(self) -> None:
        unread, self.unread = self.unread, None
        if unread is not None:
            if self.world.rng.random() < 0.5:
                self._handle("", [ev.Tick()])
            for heard in unread:
                self._hear(*heard)


class Execution:
    """A job that the executor was handed, with its inputs."""

    __slots__ = ("assignment", "inputs", "skipped", "started")

    def __init__(self, assignment: m.Assignment, inputs: dict[Key, int]) -> None:
        self.assignment = assignment
        self.inputs = inputs
        self.skipped = False
        self.started = False


class WorkerNode:
    """One incarnation of a worker. `holds`: values that it brings along."""

    def __init__(
        self, world: World, scheduler: SchedulerNode, work: Work, info: WorkerInfo, address: Address, holds: dict[Key, int]
    ) -> None:
        self.world = world
        self.scheduler = scheduler
        self.work = work
        self.info = info
        self.id = info.id
        self.address = address
        self.alive = True
        self.hangs = False  # for ever
        policy = WorkerPolicy(fetching_bytes=world.rng.choice((50, 30_000, 256 << 20)))
        self.asker = Asker(address, world.rng.choice(("", "here", "there")))
        self.uploads = Uploads(world.rng.choice((0, 0, 10_000, 4 << 20)))
        self.parked: dict[tuple[Key, Asker], Callable[[Address], None]] = {}  # requests that wait for their turn
        self.kernel = WorkerKernel(info.nthreads, address, policy)
        self.store = dict(holds)
        self.kernel.values.update({key: work.nbytes(key) for key in holds})
        self.functions: dict[str, bytes] = {}
        self.queue: deque[Execution] = deque()
        self.handed: dict[tuple[Key, int], Execution] = {}
        self.ranks: dict[tuple[Key, int], m.Assignment] = {}
        self.n_running = 0
        self.n_blocked = 0
        self.nested: Any = None  # the client that this worker's tasks use
        self.ended: list[Any] = []  # called when this process ends
        self.up = scheduler.connect(self.id, self.id, self._hear)
        world.data[address] = self
        self.up.put(ev.WorkerJoined(info, address, tuple(self.kernel.values.items())))
        world.at(world.rng.random() * HEARTBEAT_S, self._heartbeat, clockwork=True)

    @property
    def works(self) -> bool:
        return self.alive and not self.hangs

    def _heartbeat(self) -> None:
        if self.alive:
            self.up.send([m.Heartbeat(self.kernel.executing(), 0, 0.0)])
            self.world.at(HEARTBEAT_S, self._heartbeat, clockwork=True)

    def end(self, *, lose: bool) -> None:
        """The process is gone; `lose`: with what it had sent last."""
        if self.alive:
            self.world.note(f"{self.id} ends")
            self.alive = False
            self.up.end(lose=lose)
            if self.world.data.get(self.address) is self:
                del self.world.data[self.address]
            for call in self.ended:
                call()
            parked, self.parked = self.parked, {}
            for give in parked.values():
                give("")

    def leave(self) -> None:
        self.up.send([m.WorkerBye("it was told to")])
        self.end(lose=False)

    def _hear(self, item: Any) -> None:
        if not self.alive:
            return
        if item is None:
            self.end(lose=False)
        else:
            self.do(_to_worker.decode(item))

    def do(self, events: Sequence[Any]) -> None:
        """Let the kernel handle events, and do what it says."""
        messages: list[Any] = []
        for effect in self.kernel.handle(events):
            if type(effect) is fx.Send:
                messages.append(effect.message)
            else:
                _EFFECTS[type(effect)](self, effect)
                if not self.alive:
                    return
        self.up.send(messages)
        check_worker(self.kernel)
        assert self.kernel.values.keys() == self.store.keys(), f"{self.id} holds {list(self.store)}, knows {self.kernel.values}"

    # --- the executor --------------------------------------------------------------------------------------------------

    def _execute(self, effect: fx.Execute) -> None:
        assert effect.tasks, "told to execute nothing"
        for assignment in effect.tasks:
            assert assignment.fn in self.functions, f"{self.id} was not sent the function of {assignment.key}"
            job = Execution(assignment, {input.key: self.store[input.key] for input in assignment.inputs})
            self.handed[assignment.key, assignment.attempt] = job
            if assignment.threads == 0:
                self._start(job)
            else:
                self.queue.append(job)
        self._start_jobs()

    def _start_jobs(self) -> None:
        while self.queue and self.n_running < self.info.nthreads + self.n_blocked:
            job = self.queue.popleft()
            if not job.skipped:
                self.n_running += 1
                self._start(job)

    def _start(self, job: Execution) -> None:
        if job.inputs and self.world.rng.random() < self.world.unreadable:
            self._cannot_read(job)
            return
        job.started = True
        self.work.started(self, job.assignment, job.inputs)
        duration_s = self.work.duration_s(job.assignment.key)
        if self.work.jobs[job.assignment.key].children:
            self.world.at(duration_s / 2, self._wait_for_children, job)
        else:
            self.world.at(duration_s, self._ended, job, duration_s)

    def _cannot_read(self, job: Execution) -> None:
        """Inputs of a job were on disk, and are not what they were."""
        key, attempt = job.assignment.key, job.assignment.attempt
        del self.handed[key, attempt]
        if job.assignment.threads:
            self.n_running -= 1
        lost = tuple(key for key in job.inputs if self.world.rng.random() < 0.7) or tuple(job.inputs)[:1]
        self.world.note(f"{self.id} cannot read {list(lost)} for {key}")
        self.world.at(0.0, lambda: self.do([ev.InputsUnreadable(key, attempt, lost)]) if self.alive else None)

    def _wait_for_children(self, job: Execution) -> None:
        """The task submits others, and waits for them: meanwhile its slot is free."""
        if not self.alive:
            return
        threads = job.assignment.threads
        self.n_blocked += threads
        self.do([ev.SlotsBlocked(threads)])
        self._start_jobs()

        def go_on() -> None:
            if self.alive:
                self.n_blocked -= threads
                self.do([ev.SlotsBlocked(-threads)])
                duration_s = self.work.duration_s(job.assignment.key)
                self.world.at(duration_s / 2, self._ended, job, duration_s)

        if self.alive:
            self.work.submit_children(self, job.assignment, go_on)

    def _ended(self, job: Execution, duration_s: float) -> None:
        if not self.alive:
            return
        key, attempt = job.assignment.key, job.assignment.attempt
        del self.handed[key, attempt]
        if job.assignment.threads:
            self.n_running -= 1
        outcome = self.work.outcome(key, job.inputs, self.info.name)
        if outcome is None:
            self.work.killed_by[self.id] = key
            self.end(lose=self.world.rng.random() < 0.5)
            return
        if self.kernel.accepts(key, attempt):
            if isinstance(outcome, m.Failure):
                self.do([ev.RunEnded(key, attempt, 0, duration_s, outcome)])
            else:
                self.store[key] = outcome
                small = self.work.small(job.assignment, outcome)
                self.do([ev.RunEnded(key, attempt, self.work.nbytes(key), duration_s, small=small)])
        self._start_jobs()

    def _skip(self, effect: fx.Skip) -> None:
        for key_attempt in effect.attempts:
            job = self.handed.get(key_attempt)
            if job is not None:
                job.skipped = True
                if not job.started:
                    del self.handed[key_attempt]

    def _take_back(self, effect: fx.TakeBack) -> None:
        taken = []
        for key_attempt in effect.attempts:
            job = self.handed.get(key_attempt)
            if job is not None and not job.started and not job.skipped:
                job.skipped = True
                del self.handed[key_attempt]
                taken.append(key_attempt)
        if taken:
            self.world.at(0.0, lambda: self.do([ev.TakenBack(taken)]) if self.alive else None)

    def _drop(self, effect: fx.Drop) -> None:
        for key in effect.keys:
            del self.store[key]

    def _define_functions(self, effect: fx.DefineFunctions) -> None:
        self.functions.update(effect.functions)

    def _drop_functions(self, effect: fx.DropFunctions) -> None:
        for fn in effect.fns:
            del self.functions[fn]

    def _stop(self, effect: fx.Stop) -> None:
        self.end(lose=False)

    # --- ranks ---------------------------------------------------------------------------------------------------------

    def _execute_rank(self, effect: fx.ExecuteRank) -> None:
        rank = effect.task
        assert rank.fn in self.functions, f"{self.id} was not sent the function of {rank.key}"
        self.ranks[rank.key, rank.attempt] = rank
        self.world.at(self.world.some_delay_s(), self._start_rank, rank)

    def _kill_rank(self, effect: fx.KillRank) -> None:
        self.ranks.pop((effect.key, effect.attempt), None)

    def _start_rank(self, rank: m.Assignment) -> None:
        if not self.alive or (rank.key, rank.attempt) not in self.ranks:
            return
        inputs: dict[Key, int] = {}
        missing: list[tuple[Key, Address, bool]] = []
        for input in rank.inputs:
            for address in input.holders:
                holder = self.world.data.get(address)
                if holder is None or (holder is not self and not self.world.reaches(self.id, holder.id)):
                    missing.append((input.key, address, False))
                elif input.key not in holder.store:
                    missing.append((input.key, address, True))
                else:
                    inputs[input.key] = holder.store[input.key]
                    break
        if len(inputs) < len(rank.inputs):
            del self.ranks[rank.key, rank.attempt]
            self.do([ev.RankInputsMissing(rank.key, rank.attempt, tuple(missing))])
            return
        self.work.started(self, rank, inputs)
        self.do([ev.RankStarted(rank.key, rank.attempt)])
        duration_s = self.work.duration_s(rank.key)
        self.world.at(duration_s, self._rank_ended, rank, inputs, duration_s)

    def _rank_ended(self, rank: m.Assignment, inputs: dict[Key, int], duration_s: float) -> None:
        key, attempt = rank.key, rank.attempt
        if not self.alive or self.ranks.pop((key, attempt), None) is None or not self.kernel.accepts(key, attempt):
            return
        outcome = self.work.outcome(key, inputs, self.info.name)
        if outcome is None:  # the rank has a process of its own
            outcome = m.Failure("GangError", f"rank {key} was lost: killed by signal 9", key=key, worker=self.info.name)
        if isinstance(outcome, m.Failure):
            self.do([ev.RunEnded(key, attempt, 0, duration_s, outcome)])
        else:
            self.store[key] = outcome
            self.do([ev.RunEnded(key, attempt, self.work.nbytes(key), duration_s)])

    # --- the data plane ------------------------------------------------------------------------------------------------

    def _fetch(self, effect: fx.Fetch) -> None:
        request_values(self.world, self.id, effect.peer, effect.keys, self._fetched, self, patient=effect.patient)

    def give_in_turn(self, key: Key, asker: Asker, give: Callable[[Address], None]) -> None:
        """Call `give` with whom to ask instead, or to give the value itself, when it is the asker's turn."""
        if self.uploads.ask(key, self.work.nbytes(key), asker, self.world.now):
            give("")
        else:
            self.parked[key, asker] = give
            self.world.at(OVERDUE_S, self._look_for_overdue)

    def take_turns(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            give = self.parked.pop((turn.key, turn.asker), None)
            if give is not None:
                give(turn.elsewhere)

    def _look_for_overdue(self) -> None:
        if self.alive:
            self.take_turns(self.uploads.overdue(self.world.now))
            if self.parked:
                self.world.at(OVERDUE_S, self._look_for_overdue)

    def forget(self, keys: tuple[Key, ...]) -> None:
        """Values are gone, by a fault of this process, that the scheduler believes to be here."""
        for key in keys:
            for here in (self.store, self.kernel.values, self.kernel.made_by):
                here.pop(key, None)

    def _fetched(self, peer: Address, keys: tuple[Key, ...], found: dict[Key, int] | None, later: tuple[Key, ...] = ()) -> None:
        if not self.alive:
            return
        if found is None:
            self.do([ev.FetchFailed(peer, keys)])
            return
        unsendable = {key: self.work.unsendable(key) for key in keys if key in found and self.work.jobs_unsendable(key)}
        here = {key: value for key, value in found.items() if key not in unsendable}
        self.store.update(here)
        absent = tuple(key for key in keys if key not in found and key not in later)
        self.do([ev.Fetched(peer, tuple((key, self.work.nbytes(key)) for key in here), absent, unsendable, later)])


_EFFECTS: dict[type, Any] = {
    fx.Execute: WorkerNode._execute,
    fx.ExecuteRank: WorkerNode._execute_rank,
    fx.KillRank: WorkerNode._kill_rank,
    fx.Skip: WorkerNode._skip,
    fx.TakeBack: WorkerNode._take_back,
    fx.Fetch: WorkerNode._fetch,
    fx.Drop: WorkerNode._drop,
    fx.DefineFunctions: WorkerNode._define_functions,
    fx.DropFunctions: WorkerNode._drop_functions,
    fx.Stop: WorkerNode._stop,
}


def request_values(
    world: World,
    process: str,
    address: Address,
    keys: tuple[Key, ...],
    answer: Any,
    asker: WorkerNode | None = None,
    *,
    patient: bool = False,
) -> None:
    """
    Ask a worker for values: ``answer(address, keys, found)``, with None where it could not be reached.

    An `asker` is told, too, which of them it shall ask for again, and, if it is `patient`, to ask another one.
    """

    def ask() -> None:
        peer = world.data.get(address)
        if peer is None or not world.reaches(process, peer.id) or world.rng.random() < world.fetch_fails:
            world.at(world.some_delay_s() + 0.05, answer, address, keys, None)
            return
        if world.rng.random() < world.fetch_absent:
            peer.forget(keys)
        if world.rng.random() < world.unreadable:
            peer.do([ev.ValuesUnreadable(keys[:1])])
        large = (
            () if asker is None else tuple(key for key in keys if peer.kernel.values.get(key, -1) >= peer.uploads.large_bytes)
        )
        if patient and large and asker is not None:
            peer.give_in_turn(keys[0], asker.asker, lambda elsewhere: give(peer, elsewhere, large, ()))
            return
        later: tuple[Key, ...] = ()
        if asker is not None:
            sizes, now = peer.kernel.values, world.now
            later = tuple(k for k in large if not peer.uploads.ask(k, sizes[k], asker.asker, now, patient=False))
        give(peer, "", tuple(key for key in large if key not in later), later)

    def give(peer: WorkerNode, elsewhere: Address, shared: tuple[Key, ...], later: tuple[Key, ...]) -> None:
        found = {key: peer.store[key] for key in keys if key in peer.store and key not in later}
        upload = UPLOAD if shared and not elsewhere else 1
        world.at(upload * world.some_delay_s(), reply, peer, found, elsewhere, shared, later)

    def reply(
        peer: WorkerNode, found: dict[Key, int], elsewhere: Address, shared: tuple[Key, ...], later: tuple[Key, ...]
    ) -> None:
        lost = not peer.alive or not world.reaches(process, peer.id)
        world.note(f"{process} fetched {'nothing' if lost else elsewhere or list(found)} from {peer.id}")
        if elsewhere and not lost:
            if asker is not None and asker.alive:
                asker.do([ev.Redirected(address, keys[0], elsewhere)])
            return
        if later and not lost:
            answer(address, keys, found, later)
        else:
            answer(address, keys, None if lost else found)
        if asker is not None and not elsewhere:
            kept = [key for key in shared if not lost and asker.alive and key in asker.kernel.values]
            world.at(world.some_delay_s(), took, peer, asker.asker, shared, kept)

    def took(peer: WorkerNode, asker: Asker, shared: tuple[Key, ...], kept: list[Key]) -> None:
        for key in shared if peer.alive else ():
            peer.take_turns(peer.uploads.ended(key, asker, world.now, kept=key in kept))

    world.at(world.some_delay_s(), ask)

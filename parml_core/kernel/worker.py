"""
The worker, without I/O: what the scheduler, the peers and the executor say goes in, effects come out.

A task that was assigned goes through at most three states: *fetching* while inputs are on their way, *ready* while it waits
for a thread, *handed* when the executor has it. The executor is handed a little more than it has threads for, as long as
tasks are short, so that a thread that finishes one finds the next without waiting for this kernel.

The worker decides nothing about the cluster: an input that no holder gives is reported (`InputsMissing`) and the task let
go of; the scheduler alone decides what then happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any

import msgspec

from parml_core.kernel import effects as fx
from parml_core.kernel import events as ev
from parml_core.protocol import messages as m
from parml_core.typing import Address, Key, host_of


class WorkerPolicy(msgspec.Struct, frozen=True):
    """
    The numbers by which a worker decides.

    Parameters
    ----------
    run_ahead_s : float
        So much measured work is handed to the executor for each thread beyond what runs.
    fetch_keys_max : int
        No request to a peer asks for more keys.
    fetching_bytes : int
        Inputs on their way come to at most so many bytes, in requests of at most a quarter of that; a larger one comes alone.
    """

    run_ahead_s: float = 0.005
    fetch_keys_max: int = 500
    fetching_bytes: int = 256 << 20


class Run:
    """One attempt of a task on this worker."""

    __slots__ = ("assignment", "missing", "state")

    def __init__(self, assignment: m.Assignment) -> None:
        self.assignment = assignment
        self.missing = 0  # inputs that are not here yet
        self.state = "fetching"  # fetching → ready → handed


class Wanted:
    """An input that is not here: who waits for it, who may have it, whom it was asked of."""

    __slots__ = ("asked", "holders", "nbytes", "patient", "runs", "tried")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.runs: dict[Run, None] = {}
        self.holders: dict[Address, None] = {}
        self.tried: dict[Address, bool] = {}  # and whether it said that it does not have it
        self.asked: Address | None = None
        self.patient = False  # many want it: it is asked for by itself, since the answer may take long


class WorkerKernel:
    """
    Parameters
    ----------
    nthreads : int
    address : str
        Of this worker's data plane.
    policy : WorkerPolicy

    Attributes
    ----------
    values : dict of key to nbytes
        What the store holds.
    """

    def __init__(self, nthreads: int, address: Address, policy: WorkerPolicy | None = None) -> None:
        self.nthreads = nthreads
        self.address = address
        self.host = host_of(address)
        self.policy = policy or WorkerPolicy()
        self.values: dict[Key, int] = {}
        self.made_by: dict[Key, int] = {}  # attempt that made a value of this store
        self.runs: dict[Key, Run] = {}
        self.ranks: dict[Key, m.Assignment] = {}
        self.ready: list[tuple[tuple[int, int, int], int, Run]] = []
        self.wanted: dict[Key, Wanted] = {}
        self.to_ask: dict[Address, dict[Key, None]] = {}  # keys to ask of a peer when its present request is answered
        self.asking: dict[Address, tuple[Key, ...]] = {}
        self.asking_bytes: dict[Address, int] = {}
        self.blocked = 0
        self.pressure = ev.MemoryPressure(False)
        self.level = 0  # as the scheduler was told, see m.Pressure
        self.handed_threads = 0
        self.handed_s = 0.0
        self.estimates: dict[Key, float] = {}  # of what is handed
        self.duration_s: dict[str, float] = {}  # moving average by function
        self._sequence = 0
        self._effects: list[Any] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Compute: self._on_compute,
            m.Free: self._on_free,
            m.ForgetFunctions: self._on_forget_functions,
            m.Revoke: self._on_revoke,
            m.Recall: self._on_recall,
            m.Leave: self._on_leave,
            ev.RunEnded: self._on_run_ended,
            ev.RankStarted: self._on_rank_started,
            ev.TakenBack: self._on_taken_back,
            ev.RankInputsMissing: self._on_rank_inputs_missing,
            ev.Fetched: self._on_fetched,
            ev.Redirected: self._on_redirected,
            ev.FetchFailed: self._on_fetch_failed,
            ev.ValuesPut: self._on_values_put,
            ev.SlotsBlocked: self._on_slots_blocked,
            ev.InputsUnreadable: self._on_inputs_unreadable,
            ev.ValuesUnreadable: self._on_values_unreadable,
            ev.MemoryPressure: self._on_memory_pressure,
        }

    def handle(self, events: Iterable[Any]) -> list[Any]:
        """Take messages of the scheduler and events of the shell; effects to be carried out in this order."""
        for event in events:
            self._handlers[type(event)](event)
        self._ask_peers()
        self._hand_over()
        effects, self._effects = self._effects, []
        return effects

    def executing(self) -> list[tuple[Key, int]]:
        """What the executor and the rank processes have, for the heartbeat."""
        handed = [(key, run.assignment.attempt) for key, run in self.runs.items() if run.state == "handed"]
        return handed + [(key, rank.attempt) for key, rank in self.ranks.items()]

    def accepts(self, key: Key, attempt: int) -> bool:
        """Whether the result of this attempt is still wanted: if not, the shell does not put it into the store."""
        run, rank = self.runs.get(key), self.ranks.get(key)
        return (run is not None and run.assignment.attempt == attempt) or (rank is not None and rank.attempt == attempt)

    # --- the scheduler -------------------------------------------------------------------------------------------------

    def _on_compute(self, event: m.Compute) -> None:
        if event.functions:
            self._effects.append(fx.DefineFunctions(event.functions))
        returned = []  # sent before the scheduler knew
        for assignment in event.tasks:
            if assignment.gang:
                self.ranks[assignment.key] = assignment
                self._effects.append(fx.ExecuteRank(assignment))
                continue
            if self.level and not assignment.anyway:
                returned.append((assignment.key, assignment.attempt))
                continue
            run = self.runs[assignment.key] = Run(assignment)
            if assignment.inputs:
                for input in assignment.inputs:
                    if input.key not in self.values and run.state != "gone":
                        run.missing += 1
                        self._want(input, run)
            if not run.missing:
                self._is_ready(run)
        if returned:
            self._send(m.Returned(returned))

    def _want(self, input: m.Input, run: Run) -> None:
        wanted = self.wanted.get(input.key)
        if wanted is None:
            wanted = self.wanted[input.key] = Wanted(input.nbytes)
        wanted.runs[run] = None
        for holder in input.holders:
            if holder == self.address:
                wanted.tried[holder] = True  # the scheduler believes what is not so any more
            else:
                wanted.holders[holder] = None
                if holder != wanted.asked:
                    wanted.tried.pop(holder, None)  # the scheduler may know better by now
        if wanted.asked is None:
            self._ask(input.key, wanted)

    def _on_free(self, event: m.Free) -> None:
        keys = [key for key in event.keys if self.values.pop(key, None) is not None]
        for key in keys:
            self.made_by.pop(key, None)
        if keys:
            self._effects.append(fx.Drop(keys))

    def _on_forget_functions(self, event: m.ForgetFunctions) -> None:
        for fn in event.fns:
            self.duration_s.pop(fn, None)
        self._effects.append(fx.DropFunctions(event.fns))

    def _on_revoke(self, event: m.Revoke) -> None:
        skip = []
        for key, attempt in event.attempts:
            rank = self.ranks.get(key)
            if rank is not None and rank.attempt == attempt:
                del self.ranks[key]
                self._effects.append(fx.KillRank(key, attempt))
            elif self.made_by.get(key) == attempt:
                self._on_free(m.Free([key]))
            else:
                run = self.runs.get(key)
                if run is not None and run.assignment.attempt == attempt:
                    if run.state == "handed":
                        skip.append((key, attempt))
                    self._let_go(run)
        if skip:
            self._effects.append(fx.Skip(skip))

    def _on_recall(self, event: m.Recall) -> None:
        returned, handed = [], []
        for key, attempt in event.attempts:
            run = self.runs.get(key)
            if run is None or run.assignment.attempt != attempt:
                continue
            if run.state == "handed":
                handed.append((key, attempt))
            else:
                self._let_go(run)
                returned.append((key, attempt))
        if returned:
            self._send(m.Returned(returned))
        if handed:
            self._effects.append(fx.TakeBack(handed))

    def _on_taken_back(self, event: ev.TakenBack) -> None:
        returned = []
        for key, attempt in event.attempts:
            run = self.runs.get(key)
            if run is not None and run.assignment.attempt == attempt:
                self._let_go(run)
                returned.append((key, attempt))
        if returned:
            self._send(m.Returned(returned))

    def _on_leave(self, event: m.Leave) -> None:
        self._effects.append(fx.Stop(event.reason, event.rejoin))

    def _let_go(self, run: Run) -> None:
        """Forget an attempt. Inputs that nobody else waits for are not asked for any more."""
        del self.runs[run.assignment.key]
        if run.state == "handed":
            self._take_back(run)
        elif run.state == "fetching":
            for input in run.assignment.inputs:
                wanted = self.wanted.get(input.key)
                if wanted is not None and wanted.runs.pop(run, 0) is None and not wanted.runs:
                    self._unwant(input.key, wanted)
        run.state = "gone"

    def _unwant(self, key: Key, wanted: Wanted) -> None:
        del self.wanted[key]
        if wanted.asked is not None:
            self.to_ask.get(wanted.asked, {}).pop(key, None)

    def _send(self, message: Any) -> None:
        self._effects.append(fx.Send(message))

    # --- inputs --------------------------------------------------------------------------------------------------------

    def _ask(self, key: Key, wanted: Wanted) -> None:
        """
        Ask a holder on this host, where there is one, and of several the one with the fewest keys asked of it; when every
        holder was tried, the runs cannot go on here.
        """
        left = [holder for holder in wanted.holders if holder not in wanted.tried]
        if left:
            self._ask_of(min(left, key=self._cost_of), key, wanted)
            return
        wanted.asked = None
        missing = [(key, holder, absent) for holder, absent in wanted.tried.items()]
        for run in list(wanted.runs):
            self._send(m.InputsMissing(run.assignment.key, run.assignment.attempt, missing))
            self._let_go(run)
        self.wanted.pop(key, None)

    def _cost_of(self, holder: Address) -> tuple[bool, int]:
        return host_of(holder) != self.host, len(self.to_ask.get(holder, ())) + len(self.asking.get(holder, ()))

    def _ask_of(self, peer: Address, key: Key, wanted: Wanted) -> None:
        wanted.asked = peer
        self.to_ask.setdefault(peer, {})[key] = None

    def _ask_peers(self) -> None:
        """One request to a peer at a time: what is asked for meanwhile goes into the next one."""
        if not self.to_ask or self.pressure.moving:
            return
        for peer, waiting in list(self.to_ask.items()):
            if peer in self.asking:
                continue
            keys, nbytes = self._take_affordable(waiting)
            if not waiting:
                del self.to_ask[peer]
            if keys:
                self.asking[peer] = keys
                self.asking_bytes[peer] = nbytes
                self._effects.append(fx.Fetch(peer, keys, self.wanted[keys[0]].patient))

    def _take_affordable(self, waiting: dict[Key, None]) -> tuple[tuple[Key, ...], int]:
        """
        Take out the first of these keys for which there is room now, at least one where nothing is on its way; and their bytes.

        One that is asked for patiently is taken alone.
        Those that nobody waits for any more go too. What lies behind is not looked at: it may be much, and this is done often.
        """
        most = self.policy.fetching_bytes
        room = most - sum(self.asking_bytes.values())
        keys: list[Key] = []
        taken: list[Key] = []
        nbytes, patient = 0, False
        for key in waiting:
            wanted = self.wanted.get(key)
            if wanted is not None:
                size = wanted.nbytes
                fits = nbytes + size <= min(room, most // 4) if keys else size <= room or not self.asking
                if not fits or len(keys) == self.policy.fetch_keys_max or (keys and (wanted.patient or patient)):
                    break
                keys.append(key)
                nbytes += size
                patient = wanted.patient
            taken.append(key)
        for key in taken:
            del waiting[key]
        return tuple(keys), nbytes

    def _answered(self, peer: Address) -> None:
        self.asking.pop(peer, None)
        self.asking_bytes.pop(peer, None)

    def _on_fetched(self, event: ev.Fetched) -> None:
        self._answered(event.peer)
        copied, unwanted = [], []
        for key, nbytes in event.values:
            if key in self.wanted:
                self._has(key, nbytes)
                copied.append((key, nbytes))
            elif key not in self.values:
                unwanted.append(key)  # its runs were revoked meanwhile
        if unwanted:
            self._effects.append(fx.Drop(unwanted))
        if copied:
            self._send(m.Copied(copied))
        for key in event.absent:
            self._try_another(key, event.peer, absent=True)
        for key in event.later:
            wanted = self.wanted.get(key)
            if wanted is not None and wanted.asked == event.peer:
                wanted.patient = True
                self._ask_of(event.peer, key, wanted)
        for key, failure in event.failures.items():
            self._cannot_be_had(key, failure)

    def _on_redirected(self, event: ev.Redirected) -> None:
        self._answered(event.peer)
        wanted = self.wanted.get(event.key)
        if wanted is None or wanted.asked != event.peer:
            return
        if event.to == self.address:  # it has what this worker does not have any more
            self._try_another(event.key, event.peer, absent=False)
            return
        wanted.holders[event.to] = None
        wanted.tried.pop(event.to, None)
        self._ask_of(event.to, event.key, wanted)

    def _on_fetch_failed(self, event: ev.FetchFailed) -> None:
        self._answered(event.peer)
        for key in event.keys:
            self._try_another(key, event.peer, absent=False)
        for key in self.to_ask.pop(event.peer, ()):  # these would fail too
            self._try_another(key, event.peer, absent=False)

    def _cannot_be_had(self, key: Key, failure: m.Failure) -> None:
        """An input exists, and cannot be sent: the runs that need it fail for the same reason."""
        wanted = self.wanted.pop(key, None)
        for run in list(wanted.runs) if wanted is not None else ():
            self._send(m.Failed(run.assignment.key, run.assignment.attempt, failure))
            self._let_go(run)

    def _try_another(self, key: Key, peer: Address, *, absent: bool) -> None:
        wanted = self.wanted.get(key)
        if wanted is not None and wanted.asked == peer:
            wanted.tried[peer] = absent
            self._ask(key, wanted)

    def _on_values_put(self, event: ev.ValuesPut) -> None:
        for key, nbytes in event.values:
            self._has(key, nbytes)
        self._send(m.Copied(list(event.values), put=True))

    def _has(self, key: Key, nbytes: int) -> None:
        """The store has a value now, however it came: runs that waited for it go on."""
        self.values[key] = nbytes
        wanted = self.wanted.get(key)
        if wanted is not None:
            self._unwant(key, wanted)
            for run in wanted.runs:
                run.missing -= 1
                if not run.missing:
                    self._is_ready(run)

    # --- running -------------------------------------------------------------------------------------------------------

    def _is_ready(self, run: Run) -> None:
        if run.assignment.threads == 0:
            batch: list[m.Assignment] = []
            self._hand(run, batch)
            if batch:
                self._effects.append(fx.Execute(batch))
            return
        run.state = "ready"
        self._sequence += 1
        heappush(self.ready, (run.assignment.priority, self._sequence, run))

    def _hand_over(self) -> None:
        """Hand the executor what it has threads for, and short tasks ahead of that."""
        if not self.ready:
            return
        batch: list[m.Assignment] = []
        slots = self.nthreads + self.blocked
        while self.ready:
            run = self.ready[0][2]
            if run.state != "ready":
                heappop(self.ready)
                continue
            if self.pressure.paused:
                if self.pressure.moving or self.handed_threads > self.blocked:  # one at a time: it may free what it uses
                    break
                if self.pressure.refusal is not None:
                    heappop(self.ready)
                    key = run.assignment.key
                    failure = msgspec.structs.replace(self.pressure.refusal, key=key)
                    self._send(m.Failed(key, run.assignment.attempt, failure))
                    self._let_go(run)
                    continue
            fits = self.handed_threads + run.assignment.threads <= slots
            if not fits and (
                run.assignment.threads > 1
                or slots <= 0
                or run.assignment.fn not in self.duration_s
                or self.handed_s >= self.policy.run_ahead_s * slots
            ):
                break
            heappop(self.ready)
            self._hand(run, batch)
        if batch:
            self._effects.append(fx.Execute(batch))

    def _hand(self, run: Run, batch: list[m.Assignment]) -> None:
        assignment = run.assignment
        gone = [(i.key, self.address, True) for i in assignment.inputs if i.key not in self.values]
        if gone:  # freed since it came, because somebody took it for lost
            self._send(m.InputsMissing(assignment.key, assignment.attempt, gone))
            self._let_go(run)
            return
        run.state = "handed"
        estimate_s = self.duration_s.get(assignment.fn, 1.0) + 5e-6
        self.estimates[assignment.key] = estimate_s
        self.handed_s += estimate_s
        self.handed_threads += assignment.threads
        batch.append(assignment)

    def _take_back(self, run: Run) -> None:
        self.handed_threads -= run.assignment.threads
        self.handed_s -= self.estimates.pop(run.assignment.key)
        if not self.estimates:
            self.handed_s = 0.0

    def _on_run_ended(self, event: ev.RunEnded) -> None:
        key, attempt = event.key, event.attempt
        run = self.runs.get(key)
        if run is None or run.assignment.attempt != attempt:
            if not self.accepts(key, attempt):
                return  # revoked while it ran
            del self.ranks[key]
        else:
            del self.runs[key]
            self._take_back(run)
            run.state = "gone"
            fn = run.assignment.fn
            known = self.duration_s.get(fn)
            self.duration_s[fn] = event.duration_s if known is None else known + (event.duration_s - known) * 0.2
        if event.failure is not None:
            self._send(m.Failed(key, attempt, event.failure))
            return
        self._has(key, event.nbytes)
        self.made_by[key] = attempt
        done = m.Done(key, attempt, event.nbytes, event.duration_s, event.small)
        last = self._effects[-1] if self._effects else None
        if type(last) is fx.Send and type(last.message) is m.Finished:
            last.message.runs.append(done)
        else:
            self._send(m.Finished([done]))

    def _on_rank_started(self, event: ev.RankStarted) -> None:
        self._send(m.Started([(event.key, event.attempt)]))

    def _on_rank_inputs_missing(self, event: ev.RankInputsMissing) -> None:
        rank = self.ranks.get(event.key)
        if rank is not None and rank.attempt == event.attempt:
            del self.ranks[event.key]
            self._send(m.InputsMissing(event.key, event.attempt, list(event.missing)))

    # --- memory --------------------------------------------------------------------------------------------------------

    def _on_memory_pressure(self, event: ev.MemoryPressure) -> None:
        self.pressure = event
        if event.moving:
            return  # what comes of it will soon be known: until then nothing starts
        level = 0 if not event.paused else 1 if event.refusal is None else 2
        if level == self.level:
            return
        self.level = level
        self._send(m.Pressure(level))
        back = [run for run in self.runs.values() if level and run.state != "handed" and not run.assignment.anyway]
        for run in back:
            self._let_go(run)
        if back:
            self._send(m.Returned([(run.assignment.key, run.assignment.attempt) for run in back]))

    def _on_inputs_unreadable(self, event: ev.InputsUnreadable) -> None:
        run = self.runs.get(event.key)
        if run is not None and run.assignment.attempt == event.attempt:
            missing = [(key, self.address, True) for key in event.lost]
            self._send(m.InputsMissing(event.key, event.attempt, missing))
            self._let_go(run)
        self._lose(event.lost)

    def _on_values_unreadable(self, event: ev.ValuesUnreadable) -> None:
        self._lose(event.keys)

    def _lose(self, keys: Iterable[Key]) -> None:
        """These values are not here any more. Runs that need them say so when their turn comes."""
        self._on_free(m.Free(list(keys)))

    def _on_slots_blocked(self, event: ev.SlotsBlocked) -> None:
        self.blocked += event.count
        self._send(m.Blocked(event.count))

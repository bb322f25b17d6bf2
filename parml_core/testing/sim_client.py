"""A client of a simulated cluster: the real kernel, in a shell that acts like the real one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from parml_core.kernel import events as ev
from parml_core.kernel.client import ClientKernel, Held
from parml_core.protocol import messages as m
from parml_core.testing.sim_nodes import SchedulerNode, request_values
from parml_core.testing.sim_world import World
from parml_core.typing import Address, Key, PeerId

if TYPE_CHECKING:
    from parml_core.testing.sim_programs import Work

RETRY_S = 0.5

_to_client = m.decoder_of(m.ToClient)


class Put:
    """
    Values to be put on workers before anything that was said later is sent.

    `again`: they were lost. Then a Release may have been sent before what is said of them now; else it always comes later.
    """

    def __init__(self, records: list[Held], replicas: int, *, again: bool) -> None:
        self.values = [(held, held.value) for held in records]
        self.again = again
        self.replicas = replicas
        self.holders: dict[Key, list[Address]] = {}
        self.n_pending = 0


class ClientNode:
    """
    One client. `process` is where it runs: its own, or that of a worker.

    What a user sees of a future is checked against what the user saw before, and against the oracle.
    """

    def __init__(self, world: World, scheduler: SchedulerNode, work: Work, id: PeerId, process: str) -> None:
        self.world = world
        self.work = work
        self.id = id
        self.process = process
        self.alive = True
        self.kernel = ClientKernel()
        self.outbox: deque[Any] = deque()
        self.putting: Put | None = None
        self.gathering: dict[Held, None] = {}  # results that the user waits for
        self.fetching: dict[Held, None] = {}
        self.results: dict[Held, int | m.Failure] = {}  # what the user has seen
        self.requests: dict[int, Callable[[Any], None]] = {}
        self.watchers: list[Callable[[], None]] = []
        self.cancelled: dict[Key, None] = {}
        self.n_requests = 0
        self.up = scheduler.connect(id, process, self._hear)
        self.up.put(ev.ClientJoined())

    # --- what a user does ----------------------------------------------------------------------------------------------

    def submit(self, functions: dict[str, bytes], specs: list[m.TaskSpec], wants: Sequence[Key]) -> list[Held]:
        want = self.kernel.begin()
        records = [self.kernel.hold(key) for key in wants]
        self.say(m.Submit(functions, specs, [held.key for held, fresh in records if fresh], want))
        return [held for held, _ in records]

    def submit_gang(
        self, gang: str, functions: dict[str, bytes], specs: list[m.TaskSpec], where: list[list[str]], timeout_s: float
    ) -> list[Held]:
        want = self.kernel.begin()
        self.say(m.SubmitGang(gang, functions, specs, where, timeout_s, want))
        return [self.kernel.hold(spec.key)[0] for spec in specs]

    def scatter(self, values: dict[Key, int], replicas: int) -> list[Held]:
        self.kernel.begin()
        records = []
        for key, value in values.items():
            held, _ = self.kernel.hold(key)
            held.value = value
            records.append(held)
        self.say(Put(records, replicas, again=False))
        return records

    def cancel(self, keys: list[Key]) -> None:
        self.cancelled.update(dict.fromkeys(keys))
        self.say(m.Cancel(keys))
        self._changed(self.kernel.cancel(keys))

    def release(self, held: Held) -> None:
        self.gathering.pop(held, None)
        if self.kernel.release(held):
            held.value = None
            self.say(m.Release([held.key]))

    def gather(self, held: Held) -> None:
        """The user waits for this result."""
        self.gathering[held] = None
        self._fetch_if_ready(held)

    def leave(self) -> None:
        self.say(m.ClientBye())
        self.end(lose=False)

    def end(self, *, lose: bool) -> None:
        """The process is gone."""
        if self.alive:
            self.world.note(f"{self.id} ends")
            self.alive = False
            self.up.end(lose=lose)

    # --- the shell -----------------------------------------------------------------------------------------------------

    def say(self, item: Any) -> None:
        if self.alive:
            self.outbox.append(item)
            self._flush()

    def _flush(self) -> None:
        while self.outbox and self.putting is None:
            item = self.outbox.popleft()
            if type(item) is Put:
                self.putting = item
                self._place()
            else:
                self.up.send([item])

    def _ask(self, make: Callable[[int], Any], answer: Callable[[Any], None]) -> None:
        self.n_requests += 1
        self.requests[self.n_requests] = answer
        self.up.send([make(self.n_requests)])

    def _hear(self, item: Any) -> None:
        if not self.alive:
            return
        if item is None:
            raise AssertionError(f"the scheduler closed the connection of {self.id}")
        messages = _to_client.decode(item)
        self._changed(self.kernel.handle(messages))
        for message in messages:
            if type(message) is m.NeedValues:
                records = [h for h in map(self.kernel.held.get, message.keys) if h is not None and h.value is not None]
                if records:
                    self.outbox.appendleft(Put(records, 1, again=True))
                    self._flush()
            elif type(message) in (m.WorkersAre, m.HoldersAre):
                self.requests.pop(message.request)(message)

    def _changed(self, records: Sequence[Held]) -> None:
        for held in records:
            if held.failure is not None:
                why_not = self.work.why_not_legitimate(held.key, held.failure)
                assert why_not is None, f"{self.id} was told of {held.key}: {held.failure}; {why_not}"
                if held.status == "cancelled" and held.failure.key not in self.cancelled:
                    raise AssertionError(f"{self.id} has not cancelled {held.failure.key}, and {held.key} is cancelled")
            if held in self.gathering:
                self._fetch_if_ready(held)
        for watcher in list(self.watchers):
            watcher()

    # --- putting values ------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        if self.alive:
            self._ask(m.AskWorkers, self._place_on)

    def _place_on(self, answer: m.WorkersAre) -> None:
        put = self.putting
        assert put is not None
        if not answer.addresses:
            self.world.at(RETRY_S, self._place)
            return
        n_workers = len(answer.addresses)
        first = self.world.rng.randrange(n_workers)
        put.holders = {held.key: [] for held, _ in put.values}
        put.n_pending = 0
        for i, (held, value) in enumerate(put.values):
            for j in range(min(put.replicas or n_workers, n_workers)):
                put.n_pending += 1
                address = answer.addresses[(first + i + j) % n_workers]
                self.world.at(self.world.some_delay_s(), self._put_on, address, held.key, value)

    def _put_on(self, address: Address, key: Key, value: int) -> None:
        worker = self.world.data.get(address)
        ok = worker is not None and self.world.reaches(self.process, worker.id)
        if worker is not None and ok:
            worker.store[key] = value
            worker.do([ev.ValuesPut(((key, self.work.nbytes(key)),))])
        self.world.at(self.world.some_delay_s() + (0.0 if ok else 0.05), self._was_put, address, key, ok)

    def _was_put(self, address: Address, key: Key, ok: bool) -> None:
        put = self.putting
        if not self.alive or put is None:
            return
        put.n_pending -= 1
        if ok:
            put.holders[key].append(address)
        if put.n_pending:
            return
        if not all(put.holders.values()):
            self.world.at(RETRY_S, self._place)
            return
        want = max(held.want for held, _ in put.values)
        gone = []
        for held, _ in put.values:
            held.want = want
            if put.again and self.kernel.held.get(held.key) is not held:
                gone.append(held.key)
        holdings = [m.Holding(key, self.work.nbytes(key), tuple(holders)) for key, holders in put.holders.items()]
        self.up.send([m.Scattered(holdings, want)])
        if gone:
            self.up.send([m.Release(gone)])
        self.putting = None
        self._flush()

    # --- fetching results ----------------------------------------------------------------------------------------------

    def _fetch_if_ready(self, held: Held) -> None:
        if not self.alive or held not in self.gathering or held in self.fetching:
            return
        if held.status == "finished" and held.small:
            self._see(held, int(held.small))
        elif held.status == "finished":
            self.fetching[held] = None
            request_values(self.world, self.process, held.holder, (held.key,), lambda *reply: self._fetched(held, *reply))
        elif held.failure is not None:
            self._see(held, held.failure)

    def _fetched(self, held: Held, holder: Address, keys: tuple[Key, ...], found: dict[Key, int] | None) -> None:
        del self.fetching[held]
        if not self.alive or held not in self.gathering:
            return
        if found is None:
            self._fetch_elsewhere(held, holder)
        elif held.key in found:
            self._see(held, self.work.unsendable(held.key) if self.work.jobs_unsendable(held.key) else found[held.key])
        else:
            if held.status == "finished" and held.holder == holder:
                held.status = "pending"
            self.up.send([m.Absent([held.key], holder)])
            self._fetch_if_ready(held)

    def _fetch_elsewhere(self, held: Held, holder: Address) -> None:
        """The holder cannot be reached: it may be lost, or another one has the value."""

        def answered(answer: m.HoldersAre) -> None:
            others = [address for address in answer.holders[0] if address != holder]
            if others and held.status == "finished" and held.holder == holder:
                held.holder = others[0]
            self.world.at(RETRY_S, self._fetch_if_ready, held)

        if held.status == "finished" and held.holder == holder:
            self._ask(lambda request: m.AskHolders(request, [held.key]), answered)
        else:
            self._fetch_if_ready(held)

    def _see(self, held: Held, result: int | m.Failure) -> None:
        """The user sees how a future ended: it may not look otherwise ever after."""
        self.gathering.pop(held, None)
        if not isinstance(result, m.Failure):
            expected = self.work.oracle(held.key)
            assert result == expected, f"{self.id} got {result} for {held.key}, expected {expected}"
        seen = self.results.get(held, result)
        assert seen == result or isinstance(result, m.Failure), f"{self.id} saw {held.key} end as {seen}, now as {result}"
        assert seen == result or not isinstance(seen, m.Failure), f"{self.id} saw {held.key} end as {seen}, now as {result}"
        if not isinstance(result, m.Failure) or result == held.failure:  # not one of fetching only
            self.results[held] = result

"""What goes wrong in a simulated cluster: processes die, are silent, come back; connections and requests fail."""

from __future__ import annotations

import msgspec

from parml_core.engine.base import WorkerInfo
from parml_core.kernel import events as ev
from parml_core.protocol.messages import Failure
from parml_core.testing.sim_client import ClientNode
from parml_core.testing.sim_nodes import SchedulerNode, WorkerNode
from parml_core.testing.sim_programs import Options, Program, Work
from parml_core.testing.sim_world import World
from parml_core.typing import Key


class Rates(msgspec.Struct, frozen=True):
    """Events per horizon, and probabilities."""

    crashes: float
    silences: float
    hangs: float
    resets: float
    cuts: float
    stalls: float
    joins: float
    leaves: float
    client_ends: float
    fetch_fails: float
    fetch_absent: float
    shortages: float
    full: float
    stays_short: bool
    unreadable: float
    rejoin: float
    same_address: bool
    keeps_values: float

    @staticmethod
    def draw(world: World) -> Rates:
        rng = world.rng

        def rate(p: float, high: float) -> float:
            return rng.random() * high if rng.random() < p else 0.0

        calm = 0.0 if rng.random() < 0.15 else 1.0
        return Rates(
            crashes=calm * rate(0.5, 6.0),
            silences=calm * rate(0.3, 4.0),
            hangs=calm * rate(0.15, 1.5),
            resets=calm * rate(0.3, 3.0),
            cuts=calm * rate(0.3, 4.0),
            stalls=calm * rate(0.2, 2.0),
            joins=rate(0.3, 4.0),
            leaves=calm * rate(0.3, 4.0),
            client_ends=calm * rate(0.3, 1.5),
            fetch_fails=calm * rate(0.3, 0.4),
            fetch_absent=calm * rate(0.3, 0.3),
            shortages=rate(0.3, 8.0),
            full=rate(0.3, 0.5),
            stays_short=rng.random() < 0.3,
            unreadable=calm * rate(0.2, 0.1),
            rejoin=rng.choice((0.0, 0.5, 1.0)),
            same_address=rng.random() < 0.5,
            keeps_values=rate(0.3, 1.0),
        )


class Cluster:
    """Workers that come and go, and clients with their programs."""

    def __init__(
        self, world: World, scheduler: SchedulerNode, work: Work, options: Options, rates: Rates, keys: list[Key]
    ) -> None:
        self.world = world
        self.scheduler = scheduler
        self.work = work
        self.options = options
        self.rates = rates
        self.calm = False
        self.workers: dict[str, WorkerNode] = {}  # the newest incarnation of each name
        self.hung: list[WorkerNode] = []
        self.n_incarnations: dict[str, int] = {}
        self.threads: dict[str, int] = {}
        self.programs: list[Program] = []
        for i in range(options.n_workers):
            self._name(f"w{i}")
            world.at(world.some_delay_s(), self._join, f"w{i}")
        for i in range(options.n_clients):
            client = ClientNode(world, scheduler, work, f"c{i}", f"c{i}")
            self.programs.append(Program(world, client, work, options, keys))
        world.fetch_fails, world.fetch_absent, world.unreadable = rates.fetch_fails, rates.fetch_absent, rates.unreadable
        work.values_were_lost = rates.fetch_absent > 0 or rates.fetch_fails > 0 or rates.unreadable > 0
        self._schedule()

    def _schedule(self) -> None:
        world, rates = self.world, self.rates
        for act, rate in (
            (self._crash, rates.crashes),
            (self._silence, rates.silences),
            (self._hang, rates.hangs),
            (self._reset, rates.resets),
            (self._cut, rates.cuts),
            (self._stall, rates.stalls),
            (self._join_more, rates.joins),
            (self._leave, rates.leaves),
            (self._end_client, rates.client_ends),
            (self._shorten, rates.shortages),
        ):
            for _ in range(int(rate + world.rng.random())):
                world.at(world.rng.random() * self.options.horizon_s, act)

    # --- workers -------------------------------------------------------------------------------------------------------

    def _name(self, name: str) -> None:
        self.threads[name] = self.world.rng.choice((1, 1, 2, 3))

    def _join(self, name: str, holds: dict[Key, int] | None = None) -> None:
        n = self.n_incarnations[name] = self.n_incarnations.get(name, 0) + 1
        id, port = f"{name}#{n}", 1 if self.rates.same_address else n
        resources = {"gpu": 1.0} if name == "w0" else {}
        info = WorkerInfo(id, name, "host", self.threads[name], 0, resources)
        worker = WorkerNode(self.world, self.scheduler, self.work, info, f"tcp://{name}:{port}", holds or {})
        self.workers[name] = worker
        worker.ended.append(lambda: self._ended(worker))

    def _ended(self, worker: WorkerNode) -> None:
        """A process has ended, however that came."""
        self.work.values_were_lost = True
        if self.calm or self.world.rng.random() < self.rates.rejoin:
            keeps = self.world.rng.random() < self.rates.keeps_values
            self.world.at(self.world.rng.random() * 2.0, self._join_if_gone, worker.info.name, worker.store if keeps else None)

    def _any_worker(self) -> WorkerNode | None:
        alive = [worker for worker in self.workers.values() if worker.works]
        return self.world.rng.choice(alive) if alive else None

    def _count(self, n_lost: int) -> None:
        """Workers are lost without being killed by a task; one that joins at the address of another takes its place, too."""
        self.work.n_lost_workers += 2 * n_lost if self.rates.same_address else n_lost
        self.work.values_were_lost = True

    def _crash(self) -> None:
        worker = self._any_worker()
        if worker is not None:
            self._count(1)
            worker.end(lose=self.world.rng.random() < 0.5)

    def _leave(self) -> None:
        worker = self._any_worker()
        if worker is not None:
            self._count(1 if self.rates.same_address else 0)  # its successor may be known before it has said good-bye
            worker.leave()

    def _join_more(self) -> None:
        name = f"w{len(self.threads)}"
        self._name(name)
        self._join(name)

    def _silence(self) -> None:
        """Nobody hears a worker for a while: for shorter or for longer than a scheduler has patience."""
        worker = self._any_worker()
        if worker is not None and worker.id not in self.world.held:
            self._count(1)
            self.world.note(f"{worker.id} is cut off")
            self.world.cut_off(worker.id)
            self.world.at(self.world.rng.choice((1.0, 10.0, 30.0)) * self.world.rng.random(), self._resume, worker)

    def _resume(self, worker: WorkerNode) -> None:
        if not worker.hangs:
            self.world.reconnect(worker.id)

    def _hang(self) -> None:
        """A worker is stopped for ever; some other process takes its name, sooner or later."""
        worker = self._any_worker()
        if worker is not None and worker.id not in self.world.held:
            self._count(1)
            self.world.note(f"{worker.id} hangs")
            self.world.cut_off(worker.id)
            worker.hangs = True
            self.hung.append(worker)
            self._ended(worker)

    def _reset(self) -> None:
        """The connection of a worker breaks; what was under way in either direction is lost."""
        worker = self._any_worker()
        if worker is not None:
            self._count(1)
            wire = self.scheduler.links.get(worker.id)
            if wire is not None:
                wire.end(lose=True)
            worker.up.end(lose=True)

    def _cut(self) -> None:
        """Two processes cannot exchange values for a while."""
        processes = [w.id for w in self.workers.values() if w.alive] + [p.client.id for p in self.programs]
        if len(processes) > 1:
            a, b = sorted(self.world.rng.sample(processes, 2))
            self.world.cuts[a, b] = None
            self.work.values_were_lost = True
            self.world.at(self.world.rng.random() * 10.0, self.world.cuts.pop, (a, b), None)

    def _shorten(self) -> None:
        """A worker is short of memory for a while: it moves values to disk, which may help or not, or is full."""
        worker, rng = self._any_worker(), self.world.rng
        if worker is None:
            return
        worker.do([ev.MemoryPressure(True, moving=True)])
        refusal = None
        if rng.random() < self.rates.full:
            self.work.disk_was_full = True
            refusal = Failure("SpillError", f"no room on the disk of {worker.id}", worker=worker.info.name)
        until_s = rng.choice((0.1, 1.0, 20.0)) * rng.random()
        if rng.random() < 0.7:
            self.world.at(until_s * rng.random(), self._press, worker, ev.MemoryPressure(True, refusal=refusal))
        self.world.at(until_s, self._press, worker, ev.MemoryPressure(False))

    def _press(self, worker: WorkerNode, pressure: ev.MemoryPressure) -> None:
        stays = self.calm and self.rates.stays_short and self.rates.shortages
        if worker.alive:
            worker.do([ev.MemoryPressure(True) if stays else pressure])

    # --- scheduler and clients -----------------------------------------------------------------------------------------

    def _stall(self) -> None:
        """The scheduler's process is stopped for a while."""
        self.scheduler.stop()
        self.world.at(self.world.rng.random() * 20.0, self.scheduler.resume)

    def _end_client(self) -> None:
        client = self.world.rng.choice(self.programs).client
        if self.world.rng.random() < 0.5:
            client.leave()
        else:
            client.end(lose=self.world.rng.random() < 0.5)

    # --- calm ----------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing goes wrong any more but what tasks do themselves; workers that were lost come back."""
        world = self.world
        self.calm = True
        world.note("calm")
        world.fetch_fails = world.fetch_absent = world.unreadable = 0.0
        world.cuts.clear()
        hung = [worker.id for worker in self.hung]
        for process in list(world.held):
            if process not in hung:
                world.reconnect(process)
        for name in [f"w{i}" for i in range(self.options.n_workers)]:
            worker = self.workers.get(name)
            if worker is not None and not worker.works:
                world.at(world.rng.random(), self._join_if_gone, name)
        for worker in list(self.workers.values()):  # for good, where it stays so: all comes to its end all the same
            self._press(worker, ev.MemoryPressure(False))

    def kill_hung(self) -> None:
        for worker in self.hung:
            worker.end(lose=True)
            self.world.reconnect(worker.id)

    def _join_if_gone(self, name: str, holds: dict[Key, int] | None = None) -> None:
        if not self.workers[name].works:
            self._join(name, holds)

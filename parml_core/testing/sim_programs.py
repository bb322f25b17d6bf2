"""What runs on a simulated cluster: tasks that behave in many ways, an oracle for their results, and what users do."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from math import exp
from random import Random
from typing import Any

import msgspec

from parml_core.graph import Graph, Hints, Ref, Task
from parml_core.graph.evaluate import evaluate
from parml_core.kernel.client import Held
from parml_core.protocol.messages import Assignment, Failure, TaskSpec
from parml_core.testing.sim_client import ClientNode
from parml_core.testing.sim_nodes import SchedulerNode, WorkerNode
from parml_core.testing.sim_world import World
from parml_core.typing import Key


def mix(key: Key, *inputs: int) -> int:
    """What a task computes: a number that depends on its name and on each of its inputs."""
    return zlib.crc32(repr((key, inputs)).encode())


class Job(msgspec.Struct, frozen=True):
    """
    A task of the simulation.

    Parameters
    ----------
    raises : int
        So many runs raise before one returns; negative: all.
    kills : bool
        Each run takes down its worker; a rank only its own process.
    unsendable : bool
        Its result cannot leave the worker that made it.
    children : tuple of str
        Tasks that it submits, and waits for.
    """

    key: Key
    deps: tuple[Key, ...]
    duration_s: float
    nbytes: int = 8
    hints: Hints | None = None
    raises: int = 0
    kills: bool = False
    unsendable: bool = False
    children: tuple[Key, ...] = ()
    gang: tuple[Key, ...] = ()


class Work:
    """All tasks and scattered values of a simulation, and what has happened to them."""

    def __init__(self, world: World, scheduler: SchedulerNode) -> None:
        self.world = world
        self.scheduler = scheduler
        self.allowed_failures = scheduler.kernel.policy.allowed_failures
        scheduler.on_lost = self._worker_lost
        self.jobs: dict[Key, Job] = {}
        self.scattered: dict[Key, int] = {}
        self.n_runs: dict[Key, int] = {}
        self.cancelled: dict[Key, None] = {}
        self.n_lost_workers = 0  # without a task being the cause
        self.killed_by: dict[str, Key] = {}  # workers that a task took down
        self.values_were_lost = False
        self.disk_was_full = False
        self._oracle: dict[Key, int] = {}

    # --- what tasks do -------------------------------------------------------------------------------------------------

    def duration_s(self, key: Key) -> float:
        return self.jobs[key].duration_s * exp(self.world.rng.gauss(0.0, 0.3))

    def nbytes(self, key: Key) -> int:
        return self.jobs[key].nbytes if key in self.jobs else 1000

    def started(self, worker: WorkerNode, run: Assignment, inputs: dict[Key, int]) -> None:
        job = self.jobs[run.key]
        record = self.scheduler.kernel.workers.get(worker.id)
        if job.gang and record is not None and record.slots <= 0 and worker.nested is None:
            assert record.busy == 0, f"{run.key} has all threads of {worker.id}, and so have {list(record.running)}"
        assert inputs.keys() == set(job.deps), f"{run.key} runs with {list(inputs)}, needs {job.deps}"
        where = job.hints.where if job.hints is not None else ()
        assert not where or worker.id in where or worker.info.name in where, (
            f"{run.key} runs on {worker.id}, is tied to {where}"
        )

    def outcome(self, key: Key, inputs: dict[Key, int], worker: str) -> int | Failure | None:
        """The result of a run; None where its process dies."""
        job = self.jobs[key]
        n_run = self.n_runs[key] = self.n_runs.get(key, 0) + 1
        if job.kills:
            return None
        if job.raises < 0 or n_run <= job.raises:
            return Failure("raised", f"ValueError: {key}", key=key, worker=worker)
        return mix(key, *(inputs[dep] for dep in job.deps))

    def _worker_lost(self, id: str) -> None:
        killer = self.scheduler.kernel.tasks.get(self.killed_by.get(id, ""))
        if id in self.killed_by and (killer is None or killer.worker is None or killer.worker.id != id):
            self.n_lost_workers += 1  # the scheduler has given up on that run, and cannot suspect it

    def small(self, run: Assignment, value: int) -> bytes:
        """The result as it travels with the news of it, if it is small."""
        sendable = run.wanted and not self.jobs_unsendable(run.key)
        return b"%d" % value if sendable and self.nbytes(run.key) < 1000 else b""

    def jobs_unsendable(self, key: Key) -> bool:
        return key in self.jobs and self.jobs[key].unsendable

    def unsendable(self, key: Key) -> Failure:
        return Failure("SerializationError", f"the result of {key} cannot be pickled", key=key)

    def submit_children(self, worker: WorkerNode, run: Assignment, go_on: Callable[[], None]) -> None:
        """A running task submits others by its worker's own client, and goes on when they have ended."""
        if worker.nested is None:
            worker.nested = ClientNode(self.world, self.scheduler, self, f"{worker.id}/c", worker.id)
            client: ClientNode = worker.nested
            worker.ended.append(lambda: client.end(lose=False))
        client = worker.nested
        specs = [
            msgspec.structs.replace(spec, hints=Hints(priority=1 - run.priority[0]))
            for spec in self.specs(self.jobs[run.key].children)
        ]
        records = client.submit(self.functions(specs), specs, [spec.key for spec in specs])

        def look() -> None:
            if look in client.watchers and all(held.status != "pending" for held in records):
                client.watchers.remove(look)
                for held in records:
                    client.release(held)
                go_on()

        client.watchers.append(look)

    # --- what is submitted ---------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        self.jobs[job.key] = job

    def closure(self, keys: Iterable[Key], cut: Iterable[Key] = ()) -> list[Key]:
        """These keys and what they need, inputs first, without the keys in `cut` and what only those need."""
        seen = dict.fromkeys(cut, True)
        order: list[Key] = []
        stack = [(key, False) for key in reversed(list(keys))]
        while stack:
            key, expanded = stack.pop()
            if expanded:
                order.append(key)
            elif key not in seen:
                seen[key] = True
                stack.append((key, True))
                job = self.jobs.get(key)
                stack.extend((dep, False) for dep in reversed(job.deps if job is not None else ()))
        return order

    def specs(self, keys: Sequence[Key]) -> list[TaskSpec]:
        jobs = [self.jobs[key] for key in keys]
        return [
            TaskSpec(job.key, f"f-{job.key.split('-')[0]}", job.key.encode(), job.deps, order, job.hints)
            for order, job in enumerate(jobs)
        ]

    @staticmethod
    def functions(specs: Sequence[TaskSpec]) -> dict[str, bytes]:
        return {spec.fn: spec.fn.encode() for spec in specs}

    # --- what may come out ---------------------------------------------------------------------------------------------

    def oracle(self, key: Key) -> int:
        """The result of a key, by the reference interpreter."""
        if key not in self._oracle:
            keys = [k for k in self.closure([key]) if k in self.jobs]
            graph = Graph(Task(k, mix, (k, *map(Ref, self.jobs[k].deps))) for k in keys)
            values = evaluate(_with(graph, self.scattered), [*keys, key], known=self.scattered)
            self._oracle.update(zip([*keys, key], values, strict=True))
        return self._oracle[key]

    def _causes(self, key: Key) -> dict[Key, None]:
        """What a key needs, and the siblings of ranks among that with what they need."""
        causes: dict[Key, None] = {}
        stack = [key]
        while stack:
            cause = stack.pop()
            if cause not in causes:
                causes[cause] = None
                job = self.jobs.get(cause)
                stack.extend((*job.deps, *job.gang) if job is not None else ())
        return causes

    def why_not_legitimate(self, key: Key, failure: Failure) -> str | None:
        """None where this key may end with this failure."""
        causes = self._causes(key)
        origin = failure.key
        if origin not in causes:
            return f"{origin} is not among what it needs"
        job = self.jobs.get(origin)
        if failure.kind == "raised":
            hints = job.hints if job is not None else None
            retries = hints.retries if hints is not None else 0
            ok = job is not None and (job.raises < 0 or job.raises > retries or (bool(job.raises) and bool(job.gang)))
        elif failure.kind == "WorkerKilled":
            ok = job is not None and (job.kills or self.n_lost_workers >= self.allowed_failures)
        elif failure.kind == "TaskCancelled":
            ok = origin in self.cancelled
        elif failure.kind == "DataLost":
            ok = self.values_were_lost and (job is None or bool(job.gang))
        elif failure.kind == "SerializationError":
            ok = job is not None and job.unsendable
        elif failure.kind == "ClusterError":
            tied = job is not None and job.hints is not None and bool(job.hints.where or job.hints.resources)
            ok = tied or (self.values_were_lost and "did not reach" in failure.text)
        elif failure.kind == "SpillError":
            ok = self.disk_was_full and job is not None and not job.gang
        elif failure.kind == "GangError":
            ok = job is not None and bool(job.gang)
        else:
            ok = False
        return None if ok else "nothing that was done explains that"


def _with(graph: Graph, known: dict[Key, int]) -> Graph:
    """The graph with names for values that are known."""
    return graph.add(Task(key, int, (value,)) for key, value in known.items() if key not in graph)


# --- swarm -------------------------------------------------------------------------------------------------------------


class Options(msgspec.Struct, frozen=True):
    """How one simulation differs from others: each feature is in use in some, with a rate of its own."""

    n_workers: int
    n_clients: int
    n_tasks: int
    n_actions: int
    duration_s: float
    horizon_s: float
    raises: float
    kills: float
    unsendable: float
    scatters: float
    hints: float
    pinned: float
    nested: float
    gangs: float
    cancels: float
    broadcasts: float = 0.0  # of the first task's result to that share of the others

    @staticmethod
    def draw(rng: Random) -> Options:
        def rate(p: float, high: float) -> float:
            return rng.random() * high if rng.random() < p else 0.0

        large = rng.random() < 0.1
        options = Options(
            n_workers=rng.choice((1, 1, 2, 2, 3, 4)),
            n_clients=rng.choice((1, 1, 2, 3)),
            n_tasks=rng.randint(40, 160) if large else rng.randint(3, 30),
            n_actions=rng.randint(2, 8),
            duration_s=rng.choice((1e-5, 1e-3, 0.03, 0.3, 2.0)),
            horizon_s=rng.choice((0.1, 1.0, 5.0, 30.0)),
            raises=rate(0.4, 0.2),
            kills=rate(0.25, 0.1),
            unsendable=rate(0.1, 0.1),
            scatters=rate(0.4, 0.5),
            hints=rate(0.5, 0.6),
            pinned=rate(0.3, 0.3),
            nested=rate(0.2, 0.2),
            gangs=rate(0.4, 0.5),
            cancels=rate(0.4, 0.4),
        )
        if rng.random() < 0.2:
            wide = {"n_workers": rng.choice((4, 8)), "n_tasks": 30, "duration_s": 0.3, "broadcasts": rng.random()}
            return msgspec.structs.replace(options, **wide)
        return options


def make_jobs(work: Work, options: Options, rng: Random) -> list[Key]:
    """A random graph of tasks; the keys that clients may ask for."""
    n_scattered = round(options.scatters * 6)
    for i in range(n_scattered):
        work.scattered[f"scattered-{i}"] = 1000 + i
    keys: list[Key] = []
    names = "abcd"[: rng.randint(1, 4)]
    scales = {name: options.duration_s * rng.choice((0.1, 1.0, 1.0, 10.0)) for name in names}
    reach, n_deps_max = rng.choice((3, 10, 1000)), rng.choice((0, 1, 2, 4, 8))
    for i in range(options.n_tasks):
        name = rng.choice(names)
        key = f"{name}-{i:x}"
        near = keys[-reach:]
        deps = rng.sample(near, min(len(near), rng.randint(0, n_deps_max)))
        if n_scattered and rng.random() < options.scatters:
            deps.append(f"scattered-{rng.randrange(n_scattered)}")
        if options.broadcasts and keys and keys[0] not in deps and rng.random() < options.broadcasts:
            deps.append(keys[0])
        children: tuple[Key, ...] = ()
        if rng.random() < options.nested:
            children = tuple(f"child-{i:x}.{j}" for j in range(rng.randint(1, 4)))
            for child in children:
                work.add(Job(child, (), scales[name]))
        raises = 0
        if rng.random() < options.raises:
            raises = rng.choice((-1, 1, 2))
        work.add(
            Job(
                key,
                tuple(deps),
                scales[name],
                nbytes=rng.choice((8, 10_000, 100_000_000)),
                hints=_hints(options, rng, retries=raises > 0),
                raises=raises,
                kills=rng.random() < options.kills,
                unsendable=rng.random() < options.unsendable,
                children=children,
            )
        )
        keys.append(key)
    return keys


def _hints(options: Options, rng: Random, *, retries: bool) -> Hints | None:
    n_retries = rng.randint(0, 3) if retries else 0
    if rng.random() >= options.hints:
        return Hints(retries=n_retries) if n_retries else None
    where: tuple[str, ...] = ()
    if rng.random() < options.pinned:
        where = tuple(rng.choice(("w0", "w0", "w1", "w0#1", "w1#1", "w2#1", "nobody")) for _ in range(rng.randint(1, 2)))
    resources = {"gpu": rng.choice((0.3, 1.0))} if rng.random() < 0.2 else {}
    return Hints(rng.randint(-1, 2), n_retries, where, rng.choice((1, 1, 0, 2, 3)), resources)


# --- users -------------------------------------------------------------------------------------------------------------


class Program:
    """What the user of one client does, at random, until `finish`."""

    def __init__(self, world: World, client: ClientNode, work: Work, options: Options, keys: list[Key]) -> None:
        self.world = world
        self.client = client
        self.work = work
        self.options = options
        self.keys = keys
        self.futures: list[Held] = []
        self.inputs: dict[Held, list[list[Held]]] = {}  # what a future keeps alive, once for each time it is held
        self.n_gangs = 0
        for _ in range(options.n_actions):
            world.at(world.rng.random() * options.horizon_s, self._act)

    def _act(self) -> None:
        rng, options = self.world.rng, self.options
        if not self.client.alive:
            return
        chance = rng.random()
        if self.futures and chance < options.cancels:
            self._cancel()
        elif self.futures and chance > 0.8:
            for held in self._some():
                self._release(held)
        elif rng.random() < options.gangs:
            self._gang()
        else:
            self._submit()
        for held in self._some():
            self.client.gather(held)

    def _some(self) -> list[Held]:
        return self.world.rng.sample(self.futures, self.world.rng.randint(0, len(self.futures)))

    def _release(self, held: Held) -> None:
        self.futures.remove(held)
        inputs = self.inputs[held].pop() if held in self.inputs else []
        self.client.release(held)
        for other in inputs:
            self.client.release(other)

    def _keep(self, futures: list[Held], inputs: Iterable[Key]) -> None:
        """A future keeps alive what its task refers to."""
        for held in futures:
            self.inputs.setdefault(held, []).append([self.client.kernel.hold(key)[0] for key in inputs])
        self.futures += futures

    def _cancel(self) -> None:
        keys = [held.key for held in self._some() if held.key in self.work.jobs]
        self.work.cancelled.update(dict.fromkeys(keys))
        self.client.cancel(keys)

    def _held(self) -> dict[Key, None]:
        """Keys that a new graph may refer to instead of computing them."""
        return {held.key: None for held in self.futures if held.status in ("pending", "finished")}

    def _submit(self) -> None:
        rng, work = self.world.rng, self.work
        wants = rng.sample(self.keys, min(len(self.keys), rng.randint(1, 6)))
        cut = [key for key in self._held() if key not in work.jobs or rng.random() < 0.7]
        wants = [key for key in wants if key not in cut]
        order = work.closure(wants, cut)
        values = {key: work.scattered[key] for key in order if key in work.scattered}
        if values:
            self._keep(self.client.scatter(values, rng.choice((0, 1, 1, 2))), ())
        specs = work.specs([key for key in order if key in work.jobs])
        self._keep(self.client.submit(work.functions(specs), specs, wants), (*values, *cut))

    def _gang(self) -> None:
        rng, work = self.world.rng, self.work
        self.n_gangs += 1
        name = f"{self.client.id}.{self.n_gangs}"
        n_ranks = rng.randint(1, 4)
        ranks = tuple(f"rank-{name}:{r}" for r in range(n_ranks))
        held = self.world.rng.sample(list(self._held()), self.world.rng.randint(0, min(3, len(self._held()))))
        for key in ranks:
            deps = tuple(rng.sample(held, min(len(held), rng.randint(0, 2))))
            raises = rng.random() < self.options.raises
            kills = rng.random() < self.options.kills
            work.add(Job(key, deps, self.options.duration_s * 3, raises=-raises, kills=kills, gang=ranks))
        where: list[list[str]] = [[]] * n_ranks
        if rng.random() < 0.4:
            where = [[rng.choice(("w0", "w1", "w2#1", "w0#1"))] for _ in ranks]
        specs = work.specs(ranks)
        timeout_s = rng.choice((0.0, 0.5, 5.0, 20.0))
        self._keep(self.client.submit_gang(f"gang-{name}", work.functions(specs), specs, where, timeout_s), held)
        if rng.random() < 0.5:
            after = Job(f"after-{name}", tuple(rng.sample(ranks, rng.randint(1, n_ranks))), self.options.duration_s)
            work.add(after)
            specs = work.specs([after.key])
            self._keep(self.client.submit(work.functions(specs), specs, [after.key]), ranks)

    # --- the end -------------------------------------------------------------------------------------------------------

    def gather_all(self) -> None:
        for held in self.futures:
            self.client.gather(held)

    def all_seen(self) -> bool:
        return not self.client.alive or not self.client.gathering

    def release_all(self) -> None:
        for held in list(self.futures):
            self._release(held)


__all__: Any = ["Job", "Options", "Program", "Work", "make_jobs", "mix"]

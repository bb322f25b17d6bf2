"""A conversation with a scheduler's kernel: who says what, and what it answers. Invariants are checked after each sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from parml_core.engine.base import WorkerInfo
from parml_core.graph import Hints
from parml_core.kernel.events import ClientJoined, PeerLost, Tick, WorkerJoined
from parml_core.kernel.invariants import check
from parml_core.kernel.journal import Journal
from parml_core.kernel.records import SchedulerPolicy
from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.protocol import messages as m

Outbox = dict[str, list[Any]]


class Dialogue:
    """
    What peers say to a scheduler, in order.

    `says` returns what the scheduler says to whom in turn. `runs` are the assignments that a worker has been sent and has not
    ended.
    """

    def __init__(self, **policy: Any) -> None:
        self.kernel = SchedulerKernel(SchedulerPolicy(**policy), Journal())
        self.now = 0.0
        self.runs: dict[str, dict[str, m.Assignment]] = {}
        self.wants: dict[str, int] = {}

    def says(self, peer: str, *messages: Any, after_s: float = 0.0) -> Outbox:
        self.now += after_s
        outbox = self.kernel.handle(peer, messages, self.now)
        check(self.kernel)
        for id, said in outbox.items():
            for message in said:
                if type(message) is m.Compute:
                    self.runs[id].update({run.key: run for run in message.tasks})
                elif type(message) is m.Revoke:
                    for key, _ in message.attempts:
                        self.runs[id].pop(key, None)
        return outbox

    def tick(self, after_s: float) -> Outbox:
        return self.says("", Tick(), after_s=after_s)

    def beats(self, *workers: str, for_s: float) -> None:
        """Time passes in which these workers are alive and nothing else happens."""
        for _ in range(round(for_s)):
            for worker in workers:
                self.says(worker, m.Heartbeat([], 0, 0.0))
            self.tick(1.0)

    # --- peers ---------------------------------------------------------------------------------------------------------

    def worker(self, name: str, nthreads: int = 1, *, id: str = "", resources: dict[str, float] | None = None) -> Outbox:
        id = id or name
        self.runs[id] = {}
        info = WorkerInfo(id, name, "host", nthreads, 0, resources or {})
        return self.says(id, WorkerJoined(info, f"tcp://{id}"))

    def loses(self, peer: str, why: str = "the connection was closed") -> Outbox:
        self.runs.pop(peer, None)
        return self.says(peer, PeerLost(why))

    def client(self, id: str) -> None:
        self.says(id, ClientJoined())

    # --- sentences -----------------------------------------------------------------------------------------------------

    def submits(self, client: str, *specs: m.TaskSpec, wants: list[str] | None = None) -> Outbox:
        if client not in self.kernel.clients:
            self.client(client)
        self.wants[client] = self.wants.get(client, 0) + 1
        keys = [spec.key for spec in specs] if wants is None else wants
        return self.says(client, m.Submit({spec.fn: b"..." for spec in specs}, list(specs), keys, self.wants[client]))

    def finishes(self, worker: str, *keys: str, nbytes: int = 8, duration_s: float = 1.0) -> Outbox:
        runs = [self.runs[worker].pop(key) for key in keys]
        return self.says(worker, m.Finished([m.Done(run.key, run.attempt, nbytes, duration_s) for run in runs]))

    def raises(self, worker: str, key: str) -> Outbox:
        run = self.runs[worker].pop(key)
        return self.says(worker, m.Failed(key, run.attempt, m.Failure("raised", "ValueError: no", key=key, worker=worker)))

    def missing(self, worker: str, key: str, *missing: tuple[str, str, bool]) -> Outbox:
        """A run did not start: of each of `missing`, (key, worker that should hold it, whether that one says it does not)."""
        run = self.runs[worker].pop(key)
        told = [(input, f"tcp://{holder}", absent) for input, holder, absent in missing]
        return self.says(worker, m.InputsMissing(key, run.attempt, told))

    # --- looking -------------------------------------------------------------------------------------------------------

    def state(self, key: str) -> str:
        task = self.kernel.tasks.get(key)
        return "unknown" if task is None else task.state

    def running(self, worker: str) -> list[str]:
        return list(self.runs[worker])


def said(outbox: Outbox, peer: str, kind: type) -> list[Any]:
    """The messages of one kind to one peer."""
    return [message for message in outbox.get(peer, []) if type(message) is kind]


def a_task(key: str, *deps: str, hints: Hints | None = None, order: int = 0) -> m.TaskSpec:
    return m.TaskSpec(key, f"f-{key.partition('-')[0]}", b"", deps, order, hints)


@pytest.fixture
def dialogue() -> Callable[..., Dialogue]:
    return Dialogue


@pytest.fixture
def task() -> Callable[..., m.TaskSpec]:
    return a_task


@pytest.fixture
def heard() -> Callable[[Outbox, str, type], list[Any]]:
    return said

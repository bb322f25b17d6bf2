"""What the scheduler's kernel costs for each task, on a cluster of any size and without a network."""

from __future__ import annotations

import gc
from collections import deque
from time import process_time
from typing import Any

from parml_core.engine.base import WorkerInfo
from parml_core.kernel.events import ClientJoined, WorkerJoined
from parml_core.kernel.records import SchedulerPolicy
from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.protocol import messages as m
from parml_core.typing import PeerId

DURATION_S = 0.001


class Bench:
    """A scheduler's kernel whose workers finish at once what they are given; only the kernel's own time is counted."""

    def __init__(self, n_workers: int) -> None:
        self.kernel = SchedulerKernel(SchedulerPolicy())
        self.kernel_s = 0.0
        self.now = 0.0
        self.n_done = 0
        self.inbox: deque[tuple[PeerId, list[Any]]] = deque()
        self._handle("client", [ClientJoined()])
        for i in range(n_workers):
            info = WorkerInfo(f"w{i}", f"w{i}", f"host{i // 8}", 1)
            self._handle(info.id, [WorkerJoined(info, f"tcp://w{i}:1")])

    def _handle(self, sender: PeerId, events: list[Any]) -> None:
        self.now += 1e-5
        started = process_time()
        outbox = self.kernel.handle(sender, events, self.now)
        self.kernel_s += process_time() - started
        for peer, messages in outbox.items():
            for message in messages:
                if type(message) is m.Compute:
                    self.inbox.append((peer, [m.Finished([m.Done(t.key, t.attempt, 1000, DURATION_S) for t in message.tasks])]))
                elif type(message) is m.KeysReady:
                    self.n_done += len(message.keys)

    def run(self, specs: list[m.TaskSpec], wants: list[str]) -> float:
        """Microseconds of the kernel for each task, from submission until its record is forgotten."""
        self.kernel_s = 0.0
        self._handle("client", [m.Submit({"fn": b"fn"}, specs, wants, 1)])
        while self.inbox:
            self._handle(*self.inbox.popleft())
        self._handle("client", [m.Release(wants)])
        assert self.n_done == len(wants), f"{self.n_done} of {len(wants)} results came"
        assert not self.kernel.tasks, f"{len(self.kernel.tasks)} tasks are left"
        return self.kernel_s / len(specs) * 1e6


def measure(n_workers: int, n_tasks: int) -> None:
    """Print microseconds for each task of three shapes of graph."""
    gc.set_threshold(200_000, 20, 100)  # as in a scheduler's process
    flat = [m.TaskSpec(f"flat-{i:x}", "fn", b"", (), i) for i in range(n_tasks)]
    chains = [
        m.TaskSpec(f"chain-{i:x}", "fn", b"", () if i % 10 == 0 else (f"chain-{i - 1:x}",), i)
        for i in range(n_tasks // 10 * 10)
    ]
    n_leaves = n_tasks // 2
    tree = [m.TaskSpec(f"tree-{i:x}", "fn", b"", (), i) for i in range(n_leaves)]
    tree += [
        m.TaskSpec(f"tree-{i:x}", "fn", b"", tuple(f"tree-{j:x}" for j in (2 * (i - n_leaves), 2 * (i - n_leaves) + 1)), i)
        for i in range(n_leaves, 2 * n_leaves - 1)
    ]
    for shape, specs, wants in (
        ("independent tasks, all results wanted", flat, [spec.key for spec in flat]),
        ("chains of 10, their ends wanted", chains, [spec.key for spec in chains[9::10]]),
        ("one binary tree, its root wanted", tree, [tree[-1].key]),
    ):
        cost_us = Bench(n_workers).run(specs, wants)
        print(f"{n_workers} workers, {len(specs)} tasks: {cost_us:6.2f} µs in the scheduler's kernel for each task ({shape})")

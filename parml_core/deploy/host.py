"""A scheduler and workers on this host, under a nanny: what LocalCluster and the command line have in common."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import msgspec

from parml_core.runtime.nanny_protocol import Spawn
from parml_core.runtime.specs import Ready, SchedulerSpec, WorkerSpec
from parml_core.runtime.supervisor import ReadyPipe, Supervisor

ENTRIES = "parml_core.client.entries"
SCHEDULER = "scheduler"
START_TIMEOUT_S = 30.0


def supervise(modules: Sequence[str] = ()) -> Supervisor:
    """A nanny that has imported what a scheduler and a worker need, and `modules`."""
    return Supervisor([ENTRIES, *modules])


def start_scheduler(supervisor: Supervisor, spec: SchedulerSpec, *, timeout_s: float = START_TIMEOUT_S) -> Ready:
    """
    Start a scheduler and wait until it listens.

    Raises
    ------
    ClusterError
        With the scheduler's own reason.
    """
    spawn = Spawn(0, SCHEDULER, f"{ENTRIES}:run_scheduler", msgspec.msgpack.encode(spec))
    with contextlib.closing(ReadyPipe()) as pipe:
        supervisor.spawn(spawn, [pipe.write], timeout_s=timeout_s)
        return pipe.wait("the scheduler", deadline=time.monotonic() + timeout_s)


def start_workers(supervisor: Supervisor, specs: Sequence[WorkerSpec], *, timeout_s: float = START_TIMEOUT_S) -> None:
    """
    Start workers, all at once, and wait until all have registered. One that dies later is restarted.

    Raises
    ------
    ClusterError
        With the worker's own reason.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        pipes = []
        for spec in specs:
            pipe = stack.enter_context(contextlib.closing(ReadyPipe()))
            pipes.append(pipe)
            payload = msgspec.msgpack.encode(spec)
            spawn = Spawn(0, spec.name, f"{ENTRIES}:run_worker", payload, memory_bytes=spec.memory_bytes, restart=True)
            supervisor.spawn(spawn, [pipe.write], timeout_s=timeout_s)
        for spec, pipe in zip(specs, pipes, strict=True):
            pipe.wait(f"worker {spec.name!r}", deadline=deadline)

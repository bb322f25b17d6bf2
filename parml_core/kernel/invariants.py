"""
What always holds between two events: the parts of a kernel's state agree with each other.

`check` and `check_worker` look at everything, in time linear in the state. Tests and the simulator call them after each event.
"""

from __future__ import annotations

from math import isclose
from typing import NoReturn

from parml_core.kernel.placement import threads_of
from parml_core.kernel.records import GangRecord, TaskRecord, WorkerRecord
from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.kernel.transitions import STATES, UNFINISHED
from parml_core.kernel.worker import WorkerKernel


def check(kernel: SchedulerKernel) -> None:
    """
    Check a scheduler's kernel between two calls of `handle`.

    Raises
    ------
    AssertionError
        What does not agree, and the story of the key where there is a journal.
    """
    n_queued = _check_tasks(kernel)
    _check_workers(kernel)
    _check_clients(kernel)
    _check_counts(kernel)
    _check_gangs(kernel)
    _check_queues(kernel, n_queued)


def _broken(kernel: SchedulerKernel, what: str, task: TaskRecord | None = None) -> NoReturn:
    story = ""
    if task is not None:
        what = f"{task.key} ({task.state}, attempt {task.attempt}): {what}"
        if kernel.journal is not None:
            story = "".join(f"\n  {line}" for line in kernel.journal.story(task.key))
    raise AssertionError(what + story)


# --- tasks -------------------------------------------------------------------------------------------------------------


def _check_tasks(kernel: SchedulerKernel) -> int:
    """Every task for itself, and with its inputs and dependants. How many are queued."""
    tasks = kernel.tasks
    n_queued = 0
    needed_by: dict[TaskRecord, int] = {}
    for key, task in tasks.items():
        if task.key != key:
            _broken(kernel, f"is known as {key}", task)
        state = task.state
        unfinished = state in UNFINISHED
        for dep in task.deps:
            if tasks.get(dep.key) is not dep or task not in dep.dependants:
                _broken(kernel, f"its input {dep.key} is not known, or does not know of it", task)
            if unfinished:
                needed_by[dep] = needed_by.get(dep, 0) + 1
                if state == "queued" and dep.state != "memory":
                    _broken(kernel, f"its input {dep.key} is {dep.state}", task)
                elif dep.state == "released" or (state == "waiting" and dep.state == "erred"):
                    _broken(kernel, f"nothing is done about its input {dep.key}, which is {dep.state}", task)
        for dependant in task.dependants:
            if tasks.get(dependant.key) is not dependant or task not in dependant.deps:
                _broken(kernel, f"its dependant {dependant.key} is not known, or does not refer to it", task)
        if (state == "memory") != bool(task.holders):
            _broken(kernel, f"is held by {list(task.holders)}", task)
        if (state == "running") != (task.worker is not None):
            _broken(kernel, f"is with worker {task.worker}", task)
        if (state == "erred") != (task.failure is not None):
            _broken(kernel, f"has the failure {task.failure}", task)
        if state == "waiting":
            missing = {dep: None for dep in task.deps if dep.state != "memory"}
            if task.waiting_on != missing or not (missing or task.gang is not None or task.owners):
                _broken(kernel, f"waits for {list(task.waiting_on)}, not in memory are {list(missing)}", task)
        elif task.waiting_on:
            _broken(kernel, f"waits for {list(task.waiting_on)}", task)
        if state == "queued":
            n_queued += 1
        if task.spec is None and (task.deps or state in ("queued", "running")):
            _broken(kernel, "is no task, and has inputs or runs", task)
        if task.owners and (task.spec is not None or any(owner not in task.wanted_by for owner in task.owners)):
            _broken(kernel, f"is owned by {[owner.id for owner in task.owners]}", task)
    _check_needs(kernel, needed_by)
    return n_queued


def _check_needs(kernel: SchedulerKernel, needed_by: dict[TaskRecord, int]) -> None:
    for task in kernel.tasks.values():
        if task.needed_by != needed_by.get(task, 0):
            _broken(kernel, f"counts {task.needed_by} unfinished dependants, has {needed_by.get(task, 0)}", task)
        needed = bool(task.wanted_by or task.needed_by)
        kept = task.gang is not None and kernel.gangs.keeps(task)
        if needed and task.state == "released":
            _broken(kernel, "is needed, and nothing is done about it", task)
        if not needed and task.state != "released" and not kept:
            _broken(kernel, "is not needed by anybody", task)
        if task.state == "released" and not task.dependants:
            _broken(kernel, "is kept for nobody", task)


# --- workers -----------------------------------------------------------------------------------------------------------


def _check_workers(kernel: SchedulerKernel) -> None:
    claimed: dict[WorkerRecord, int] = {}
    for gang in kernel.gangs.gangs.values():
        for task, claim in zip(gang.tasks, gang.claims, strict=False):
            if task.worker is not None:
                for worker, threads in claim:
                    claimed[worker] = claimed.get(worker, 0) + threads
    if any(kernel.workers.get(worker.id) is not worker for worker in claimed):
        _broken(kernel, "a rank that runs uses threads of a worker that is lost")
    n_running = n_holders = 0
    for worker_id, worker in kernel.workers.items():
        if worker.id != worker_id or kernel.by_address.get(worker.address) is not worker:
            _broken(kernel, f"worker {worker_id} is not known by its id and its address")
        n_running += len(worker.running) + len(worker.ranks)
        n_holders += len(worker.holding)
        _check_load(kernel, worker)
        if worker.claimed != claimed.get(worker, 0) or worker.claimed > worker.info.nthreads:
            _broken(kernel, f"{worker}: {worker.claimed} threads are claimed, ranks use {claimed.get(worker, 0)}")
        for function in worker.functions:
            if kernel.functions.get(function.id) is not function or worker not in function.known_by:
                _broken(kernel, f"{worker}: function {function.id} is not known, or not to be known there")
        for task in worker.holding:
            if worker not in task.holders or kernel.tasks.get(task.key) is not task:
                _broken(kernel, f"is held by {worker}, it says", task)
    if len(kernel.by_address) != len(kernel.workers):
        _broken(kernel, f"addresses {list(kernel.by_address)} for workers {list(kernel.workers)}")
    if n_running != sum(1 for task in kernel.tasks.values() if task.worker is not None):
        _broken(kernel, "tasks run on workers that do not know it")
    if n_holders != sum(len(task.holders) for task in kernel.tasks.values()):
        _broken(kernel, "tasks are held by workers that do not know it")


def _check_load(kernel: SchedulerKernel, worker: WorkerRecord) -> None:
    busy, free = 0, dict(worker.info.resources)
    for task in (*worker.running, *worker.ranks):
        if task.worker is not worker or kernel.tasks.get(task.key) is not task:
            _broken(kernel, f"runs on {task.worker}, {worker} says: here", task)
        if (task.gang is not None) != (task in worker.ranks):
            _broken(kernel, "runs as a rank and belongs to no gang, or the other way round", task)
    for task in worker.running:
        busy += threads_of(task, worker)
        hints = task.spec.hints if task.spec else None
        if hints is not None:
            for name, amount in hints.resources.items():
                free[name] = free.get(name, 0) - amount
            if hints.where and worker.id not in hints.where and worker.info.name not in hints.where:
                _broken(kernel, f"runs on {worker}, is tied to {hints.where}", task)
    if worker.busy != busy or not isclose(worker.load_s, sum(worker.running.values()), abs_tol=1e-6):
        _broken(kernel, f"{worker}: counts {worker.busy} threads and {worker.load_s} s, has {busy} and {worker.running}")
    for name, amount in free.items():
        if amount < -1e-6 or not isclose(amount, worker.resources.get(name, 0), abs_tol=1e-6):
            _broken(kernel, f"{worker}: {worker.resources.get(name)} of {name} are free, counted {amount}")
    for task in worker.recalled:
        if task not in worker.running:
            _broken(kernel, f"was asked back from {worker}, where it does not run", task)


# --- clients, groups, functions ----------------------------------------------------------------------------------------


def _check_clients(kernel: SchedulerKernel) -> None:
    n_wants = 0
    for client_id, client in kernel.clients.items():
        n_wants += len(client.wants)
        for task in client.wants:
            if client not in task.wanted_by or kernel.tasks.get(task.key) is not task:
                _broken(kernel, f"client {client_id} wants it, and it does not know", task)
    if n_wants != sum(len(task.wanted_by) for task in kernel.tasks.values()):
        _broken(kernel, "tasks are wanted by clients that do not know it")


def _check_counts(kernel: SchedulerKernel) -> None:
    counts = {name: dict.fromkeys(STATES, 0) for name in kernel.groups}
    uses = dict.fromkeys(kernel.functions, 0)
    for task in kernel.tasks.values():
        if kernel.groups.get(task.group.name) is not task.group:
            _broken(kernel, f"belongs to the group {task.group.name}, which is not known", task)
        counts[task.group.name][task.state] += 1
        if task.function is not None:
            if kernel.functions.get(task.function.id) is not task.function:
                _broken(kernel, f"uses the function {task.function.id}, which is not known", task)
            uses[task.function.id] += 1
    for name, group in kernel.groups.items():
        if group.counts != counts[name]:
            _broken(kernel, f"group {name} counts {group.counts}, has {counts[name]}")
    for id, function in kernel.functions.items():
        if function.n_tasks != uses[id] or (not uses[id]) != (function in kernel.idle_functions):
            _broken(kernel, f"function {id} counts {function.n_tasks} tasks, has {uses[id]}")
        for worker in function.known_by:
            if kernel.workers.get(worker.id) is not worker or function not in worker.functions:
                _broken(kernel, f"function {id} was sent to {worker}, which is lost or does not know it")


# --- gangs -------------------------------------------------------------------------------------------------------------


def _check_gangs(kernel: SchedulerKernel) -> None:
    gangs = kernel.gangs
    waiting = [gang for gang in gangs.gangs.values() if gang.state == "waiting"]
    if len(waiting) != len(gangs.line) or any(gang not in gangs.line for gang in waiting):
        _broken(kernel, f"gangs {[gang.id for gang in gangs.line]} are in the line, {[gang.id for gang in waiting]} wait")
    for gang in gangs.gangs.values():
        states = [task.state for task in gang.tasks]
        if gang.state == "waiting" and any(state != "waiting" for state in states):
            _broken(kernel, f"gang {gang.id} waits, its ranks are {states}")
        if gang.state != "waiting" and "waiting" in states:
            _broken(kernel, f"gang {gang.id} is {gang.state}, its ranks are {states}")
        if gang.state == "ended" and "running" in states:
            _broken(kernel, f"gang {gang.id} has ended, its ranks are {states}")
        if "running" in states and "erred" in states:
            _broken(kernel, f"ranks of gang {gang.id} go on after one was lost: {states}")
    reserving: dict[GangRecord, None] = {}
    for worker in kernel.workers.values():
        if worker.reserved_by is not None:
            reserving[worker.reserved_by] = None
    if len(reserving) > 1 or any(gang not in gangs.line for gang in reserving):
        if not gangs.line:
            _broken(kernel, "workers are reserved, and no gang waits")
        _broken(kernel, f"gangs {[gang.id for gang in reserving]} keep workers from others")


# --- queues ------------------------------------------------------------------------------------------------------------


def _check_queues(kernel: SchedulerKernel, n_queued: int) -> None:
    """Every queued task waits in one place, and no worker is idle that could run one."""
    placement = kernel.placement
    places: dict[TaskRecord, int] = {}
    for _, sequence, task in placement.queue:
        if task.state == "queued" and task.sequence == sequence:
            places[task] = places.get(task, 0) + 1
    common = bool(places)
    for worker in kernel.workers.values():
        has_room = placement.has_room(worker)
        if has_room and common:
            _broken(kernel, f"{worker} has room, and tasks wait in the common queue")
        if has_room and worker not in placement.maybe_room:
            _broken(kernel, f"{worker} has room, and placement does not know")
        backlog = False
        for _, sequence, task in worker.ready:
            if task.state == "queued" and task.sequence == sequence:
                backlog = True
                places[task] = places.get(task, 0) + 1
                if has_room and not (task.spec and task.spec.hints and task.spec.hints.resources):
                    _broken(kernel, f"waits for {worker}, which has room", task)
        if backlog and worker not in placement.backlogged:
            _broken(kernel, f"tasks wait for {worker}, and placement does not know")
    for suspects in (placement.suspects, placement.draining.values(), placement.unplaceable, placement.postponed):
        for task in suspects:
            if task.state == "queued":
                places[task] = places.get(task, 0) + 1
    _check_short(kernel, common)
    for worker in (*placement.draining, *placement.maybe_room, *placement.backlogged, *placement.short):
        if kernel.workers.get(worker.id) is not worker:
            _broken(kernel, f"placement counts on {worker}, which is lost")
    if len(places) != n_queued or any(count != 1 for count in places.values()):
        lost = [task for task in kernel.tasks.values() if task.state == "queued" and places.get(task) != 1]
        _broken(
            kernel,
            f"waits in {places.get(lost[0], 0)} places" if lost else "a task that is gone waits",
            lost[0] if lost else None,
        )


def _check_short(kernel: SchedulerKernel, common: bool) -> None:
    """A worker that is short of memory still gets a task where it runs none and nobody else can take it."""
    placement = kernel.placement
    workers = kernel.workers.values()
    if list(placement.short) != [w for w in placement.short if w.pressure] or any(
        w.pressure and w not in placement.short for w in workers
    ):
        _broken(kernel, f"{list(placement.short)} are short of memory, {[w.pressure for w in workers]} are the pressures")
    for worker in placement.short:
        open_ = worker.slots > 0 and worker.reserved_by is None and not placement.drains(worker)
        if not open_ or worker.busy > worker.blocked or (worker.pressure > 1 and any(w.busy > w.blocked for w in workers)):
            continue
        better = any(
            w.pressure < worker.pressure and w.slots > 0 and w.reserved_by is None and not placement.drains(w) for w in workers
        )
        if common and not better:
            _broken(kernel, f"{worker} is as little short of memory as any, runs nothing, and tasks wait in the common queue")
        for _, sequence, task in worker.ready:
            meant = task.state == "queued" and task.sequence == sequence
            lacks = bool(task.spec and task.spec.hints and task.spec.hints.resources)  # perhaps, what others use
            if meant and not lacks and not (worker.pressure > 1 and better):
                _broken(kernel, f"waits for {worker}, which runs nothing", task)


# --- the worker --------------------------------------------------------------------------------------------------------


def check_worker(kernel: WorkerKernel) -> None:
    """
    Check a worker's kernel between two calls of `handle`.

    Raises
    ------
    AssertionError
    """
    handed = {key: run for key, run in kernel.runs.items() if run.state == "handed"}
    threads = sum(run.assignment.threads for run in handed.values())
    assert kernel.handed_threads == threads, f"counts {kernel.handed_threads} threads of {threads} in {list(handed)}"
    assert kernel.estimates.keys() == handed.keys(), f"estimates {list(kernel.estimates)} for {list(handed)}"
    assert isclose(kernel.handed_s, sum(kernel.estimates.values()), abs_tol=1e-6), f"counts {kernel.handed_s} s handed"
    n_missing: dict[str, int] = {}
    for key, wanted in kernel.wanted.items():
        assert wanted.runs, f"nobody waits for {key}"
        assert key not in kernel.values, f"{key} is waited for, and here"
        peer = wanted.asked
        assert peer is not None, f"{key} is waited for, and asked of nobody"
        assert key in kernel.to_ask.get(peer, ()) or key in kernel.asking.get(peer, ()), f"{key} is not asked of {peer}"
        for run in wanted.runs:
            assert kernel.runs.get(run.assignment.key) is run, f"{run.assignment.key} waits for {key}, and is gone"
            n_missing[run.assignment.key] = n_missing.get(run.assignment.key, 0) + 1
    queued = {run.assignment.key for _, _, run in kernel.ready if run.state == "ready"}
    for key, run in kernel.runs.items():
        assert run.assignment.key == key and run.state != "gone", f"{key} is {run.state}"
        assert run.missing == n_missing.get(key, 0), (
            f"{key} counts {run.missing} missing inputs, waits for {n_missing.get(key, 0)}"
        )
        assert (run.state == "fetching") == (run.missing > 0), f"{key} is {run.state} and lacks {run.missing} inputs"
        assert (run.state == "ready") == (key in queued), f"{key} is {run.state}, and is it queued? {key in queued}"
    for key in kernel.made_by:
        assert key in kernel.values, f"{key} was made here, and is gone"
    assert kernel.asking.keys() == kernel.asking_bytes.keys(), f"{list(kernel.asking)}: bytes of {list(kernel.asking_bytes)}"
    on_the_way = sum(kernel.asking_bytes.values())
    assert on_the_way <= kernel.policy.fetching_bytes or len(kernel.asking) == 1, f"{on_the_way} bytes are on their way"
    for peer, keys in kernel.to_ask.items():
        assert kernel.asking or kernel.pressure.moving or not any(key in kernel.wanted for key in keys), (
            f"{list(keys)} wait to be asked of {peer}, and nothing is asked of anybody"
        )
    if kernel.level:
        kept = [run.assignment.key for run in kernel.runs.values() if run.state != "handed" and not run.assignment.anyway]
        assert not kept, f"short of memory, and {kept} were not given back"

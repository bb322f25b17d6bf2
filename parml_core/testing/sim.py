"""
A seeded cluster of the real kernels in one process: the first test of any change to a kernel.

One seed is one random world: tasks, users, faults and their rates. While things go wrong, the invariants of every kernel are
checked after each event, and what users see is compared with the reference interpreter. Then calm returns, and everything
must come to an end: every wanted result right or erred for a reason, and nothing left anywhere once it is released.

    python -m parml_core.testing.sim --seeds 2000            many worlds
    python -m parml_core.testing.sim --seed 17 --verbose     one of them, message by message
    python -m parml_core.testing.sim --workers 1000 --tasks 100000 --no-faults     what the scheduler costs for each task
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterable

import msgspec

from parml_core.kernel.records import SchedulerPolicy
from parml_core.kernel.transitions import TRANSITIONS, State
from parml_core.testing.sim_faults import Cluster, Rates
from parml_core.testing.sim_nodes import SchedulerNode
from parml_core.testing.sim_programs import Options, Work, make_jobs
from parml_core.testing.sim_scale import measure
from parml_core.testing.sim_world import World

POLICY = SchedulerPolicy(pinned_timeout_s=10.0, gang_start_timeout_s=20.0, stray_s=5.0)

CALM_S = 200.0
"""In so much simulated time after the last fault, and that of all tasks one after another, everything has come to an end."""

EVENTS_MAX = 60_000
CHANGES_MAX = 400
"""A key whose state changes more often lives in a loop."""


class Outcome(msgspec.Struct):
    """What came out of one seed; `error` is empty where all was well."""

    seed: int
    error: str
    n_events: int
    log_hash: str
    pairs: dict[str, int]


class Failed(AssertionError):
    """The world did not come to its end."""


def run_seed(seed: int, *, verbose: bool = False) -> Outcome:
    """
    Simulate one world.

    Examples
    --------
    >>> run_seed(1).error
    ''
    >>> run_seed(1).log_hash == run_seed(1).log_hash
    True
    """
    world = World(seed, 0.0, verbose=verbose)
    error = ""
    scheduler = SchedulerNode(world, POLICY)
    try:
        _live(world, scheduler)
    except Exception:
        error = traceback.format_exc()
    pairs = {f"{old} → {new}": n for (old, new), n in scheduler.journal.pairs.items()}
    return Outcome(seed, error, world.n_events, world.log_hash(), pairs)


def _live(world: World, scheduler: SchedulerNode) -> None:
    rng = world.rng
    world.delay = rng.choice((0.0001, 0.001, 0.01, 0.1))
    options, rates = Options.draw(rng), Rates.draw(world)
    world.note(f"{options} {rates}")
    work = Work(world, scheduler)
    cluster = Cluster(world, scheduler, work, options, rates, make_jobs(work, options, rng))
    while world.now < options.horizon_s:
        _step(world, scheduler)
    cluster.heal()
    for program in cluster.programs:
        program.gather_all()
    _until(world, scheduler, lambda: all(program.all_seen() for program in cluster.programs), "results", cluster)
    cluster.kill_hung()
    for program in cluster.programs:
        program.release_all()
    _until(world, scheduler, lambda: world.active == 0, "quiet", cluster)
    quiet_s = world.now + max(POLICY.stray_s, POLICY.function_idle_s) + 2.0
    _until(world, scheduler, lambda: world.active == 0 and world.now > quiet_s, "quiet", cluster)
    _check_nothing_left(scheduler, cluster)


def _step(world: World, scheduler: SchedulerNode) -> None:
    world.step()
    if world.n_events > EVENTS_MAX:
        busiest = sorted(scheduler.journal.changes.items(), key=lambda item: -item[1])[:5]
        raise Failed(f"{EVENTS_MAX} events, and no end at {world.now:.1f} s; the keys that changed most: {busiest}")


def _until(world: World, scheduler: SchedulerNode, over: object, what: str, cluster: Cluster) -> None:
    deadline_s = world.now + CALM_S + 4 * sum(job.duration_s for job in cluster.work.jobs.values())
    while not over():  # type: ignore[operator]
        _step(world, scheduler)
        if world.now > deadline_s:
            waiting = {p.client.id: [(h.key, h.status) for h in p.client.gathering] for p in cluster.programs if p.client.alive}
            tasks = [(t, list(t.waiting_on)) for t in scheduler.kernel.tasks.values() if t.state not in ("released", "memory")]
            raise Failed(f"no {what} at {world.now:.0f} s; users wait for {waiting}; unfinished: {tasks}")


def _check_nothing_left(scheduler: SchedulerNode, cluster: Cluster) -> None:
    kernel = scheduler.kernel
    busiest = max(scheduler.journal.changes.items(), key=lambda item: item[1], default=("", 0))
    assert busiest[1] <= CHANGES_MAX, f"{busiest[0]} changed its state {busiest[1]} times"
    assert not kernel.tasks, f"tasks are left: {[(t, [c.id for c in t.wanted_by]) for t in kernel.tasks.values()]}"
    assert not kernel.functions, f"functions are left: {list(kernel.functions)}"
    assert not any(any(group.counts.values()) for group in kernel.groups.values()), "groups count tasks that are gone"
    assert not kernel.gangs.gangs and not kernel.gangs.line, f"gangs are left: {list(kernel.gangs.gangs)}"
    assert not any(client.wants for client in kernel.clients.values()), "clients want what is gone"
    placement = kernel.placement
    assert not placement.suspects and not placement.draining, "suspects are left"
    assert not placement.unplaceable and not placement.postponed, "placement keeps tasks that are gone"
    for worker in kernel.workers.values():
        assert not worker.holding and not worker.running and not worker.ranks and not worker.functions, f"{worker} has work"
        assert worker.load_s == 0 and worker.busy == 0 and worker.claimed == 0 and worker.blocked == 0, f"{worker} has load"
        assert worker.reserved_by is None, f"{worker} is reserved"
        assert worker.resources == dict(worker.info.resources) or worker.info.resources, f"{worker} lacks resources"
    for node in cluster.workers.values():
        if node.works:
            assert not node.store, f"values are left on {node.id}: {list(node.store)}"
            assert not node.functions, f"functions are left on {node.id}: {list(node.functions)}"
            assert not node.kernel.runs and not node.kernel.ranks and not node.kernel.wanted, f"{node.id} has work"
            assert node.id in kernel.workers, f"{node.id} lives, and the scheduler does not know it"


# --- command line ------------------------------------------------------------------------------------------------------


def run_seeds(seeds: Iterable[int], n_jobs: int = 1) -> Iterable[Outcome]:
    """Simulate many worlds, in so many processes."""
    if n_jobs <= 1:
        yield from map(run_seed, seeds)
        return
    with multiprocessing.get_context("fork").Pool(n_jobs, initializer=gc.freeze) as pool:
        yield from pool.imap(run_seed, seeds, chunksize=8)


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 where a seed failed."""
    parser = argparse.ArgumentParser(
        prog="python -m parml_core.testing.sim", description="Simulated clusters of the real kernels."
    )
    parser.add_argument("--seeds", type=int, default=300, help="how many worlds (default: 300)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one world only")
    parser.add_argument("--verbose", action="store_true", help="print every message")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log-hash", action="store_true", help="print the hash of each world's log")
    parser.add_argument("--workers", type=int, help="measure the scheduler with so many workers (with --tasks, --no-faults)")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks of the measurement")
    parser.add_argument(
        "--no-faults", action="store_true", help="nothing goes wrong in the measurement, which is the only choice"
    )
    options = parser.parse_args(argv)
    if options.workers is not None:
        measure(options.workers, options.tasks)
        return 0
    if options.seed is not None:
        outcome = run_seed(options.seed, verbose=options.verbose)
        print(outcome.error or f"seed {outcome.seed}: well, {outcome.n_events} events, log {outcome.log_hash}")
        return 1 if outcome.error else 0
    return _swarm(options)


def _swarm(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    n_seeds = n_events = n_failed = 0
    pairs: dict[str, int] = {}
    for outcome in run_seeds(range(options.first, options.first + options.seeds), options.jobs):
        n_seeds += 1
        n_events += outcome.n_events
        for pair, n in outcome.pairs.items():
            pairs[pair] = pairs.get(pair, 0) + n
        if options.log_hash:
            print(outcome.seed, outcome.log_hash)
        if outcome.error:
            n_failed += 1
            why = outcome.error.strip().splitlines()
            last = next((line for line in reversed(why) if line and not line.startswith(" ")), "")
            print(f"seed {outcome.seed}: {last[:300]}\n    python -m parml_core.testing.sim --seed {outcome.seed}", flush=True)
    took_s = time.perf_counter() - started
    never = [f"{old} → {new}" for old, new in TRANSITIONS if f"{old} → {new}" not in pairs]
    print(
        f"{n_seeds} seeds, {n_failed} failed; {n_events} events in {took_s:.1f} s: {n_events / took_s:,.0f} events/s, "
        f"{took_s / n_seeds * 1e3:.1f} ms a seed; {len(TRANSITIONS) - len(never)} of {len(TRANSITIONS)} transitions happened"
        + (f", never: {', '.join(never)}" if never else ""),
        file=sys.stderr if options.log_hash else sys.stdout,
    )
    return 1 if n_failed else 0


__all__ = ["Failed", "Outcome", "State", "main", "run_seed", "run_seeds"]

if __name__ == "__main__":
    sys.exit(main())

"""
What a task costs beyond its own work: parml beside dask.distributed, Ray and loky, all on two processes, in one run.

Two figures for each system: 10,000 trivial tasks by map and gather (time per task), and one submit().result() on an idle
cluster. Every system starts once and idles while the others are measured; the systems take turns, round after round, each
round in another order, so that a busy minute of the machine meets them all. Medians over the rounds, and their ratios.

    python benchmarks/overhead.py [--tasks 10000] [--rounds 5] [--singles 200] [--only parml,loky] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

N_WORKERS = 2
SETTLE_S = 0.3  # what a system still has to tidy up after its turn is not to fall into the next one's


def increment(x: int) -> int:
    return x + 1


@dataclass
class Peer:
    """A running system: how it maps, and how it does a single task."""

    name: str
    version: str
    map_and_gather: Callable[[range], list[int]]
    single: Callable[[int], int]
    task_us: list[float] = field(default_factory=list)
    single_us: list[float] = field(default_factory=list)


# --- the systems -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def parml_cluster() -> Iterator[Peer]:
    from parml_core.client import Client, LocalCluster

    with (
        LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_port=None) as cluster,
        Client(cluster) as client,
    ):
        yield Peer(
            "parml",
            version("parml"),
            lambda values: client.gather(client.map(increment, values)),
            lambda value: client.submit(increment, value).result(),
        )


@contextlib.contextmanager
def parml_engine(name: str) -> Iterator[Peer]:
    from parml_core.engine.derived import map_tasks
    from parml_core.engine.inline import InlineEngine
    from parml_core.engine.threads import ThreadsEngine

    with InlineEngine() if name == "inline" else ThreadsEngine(N_WORKERS) as engine:
        yield Peer(
            f"parml, {name}",
            version("parml"),
            lambda values: engine.gather(map_tasks(engine, increment, values)),
            lambda value: engine.submit(increment, value).result(),
        )


@contextlib.contextmanager
def dask_cluster(saturation: float | None) -> Iterator[Peer]:
    """`saturation`: how many root tasks per thread the scheduler lets out at once; infinite is faster for tiny tasks."""
    import dask
    from distributed import Client, LocalCluster

    settings = {} if saturation is None else {"distributed.scheduler.worker-saturation": saturation}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Peer(
            "dask.distributed" if saturation is None else "dask, saturation off",
            version("distributed"),
            lambda values: client.gather(client.map(increment, values, pure=False)),
            lambda value: client.submit(increment, value, pure=False).result(),
        )


@contextlib.contextmanager
def ray_cluster() -> Iterator[Peer]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ray.init(num_cpus=N_WORKERS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    remote = ray.remote(increment)
    try:
        yield Peer(
            "ray",
            version("ray"),
            lambda values: ray.get([remote.remote(value) for value in values]),
            lambda value: ray.get(remote.remote(value)),
        )
    finally:
        ray.shutdown()


@contextlib.contextmanager
def loky_pool() -> Iterator[Peer]:
    """joblib's own pool, for a reference: it takes tasks in batches here, and keeps no result on a worker."""
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(max_workers=N_WORKERS) as pool:
        yield Peer(
            "loky, batched",
            version("joblib"),
            lambda values: list(pool.map(increment, values, chunksize=max(1, len(values) // (8 * N_WORKERS)))),
            lambda value: pool.submit(increment, value).result(),
        )


SYSTEMS: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
    "parml": parml_cluster,
    "dask": lambda: dask_cluster(None),
    "dask-unlimited": lambda: dask_cluster(float("inf")),
    "ray": ray_cluster,
    "loky": loky_pool,
    "threads": lambda: parml_engine("threads"),
    "inline": lambda: parml_engine("inline"),
}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "here"


# --- measuring ---------------------------------------------------------------------------------------------------------


def measure(peers: list[Peer], tasks: int, rounds: int, singles: int) -> None:
    for peer in peers:  # not counted: functions are sent, pools filled
        assert peer.map_and_gather(range(100)) == list(range(1, 101))
        peer.single(0)
    for turn in range(rounds):
        for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
            print(f"round {turn + 1} of {rounds}: {peer.name}", file=sys.stderr)
            values = range(turn * tasks, (turn + 1) * tasks)  # new values, so that no system may answer from what it holds
            peer.task_us.append(timed(lambda p=peer, v=values: check(p.map_and_gather(v), v)) / tasks)
            settle()
            first = -turn * singles
            peer.single_us += [timed(lambda p=peer, v=first - i: p.single(v)) for i in range(1, singles + 1)]
            settle()


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1000


def check(results: list[int], values: range) -> None:
    assert len(results) == len(values) and results[0] == values[0] + 1 and results[-1] == values[-1] + 1


def settle() -> None:
    gc.collect()
    time.sleep(SETTLE_S)


# --- telling -----------------------------------------------------------------------------------------------------------


def results_of(peers: list[Peer], absent: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    medians = {p.name: (statistics.median(p.task_us), statistics.median(p.single_us)) for p in peers}
    base = medians.get("parml")
    return {
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "workers": N_WORKERS,
        "tasks": options.tasks,
        "rounds": options.rounds,
        "singles": options.singles,
        "absent": absent,
        "systems": {
            p.name: {
                "version": p.version,
                "task_us": medians[p.name][0],
                "single_us": medians[p.name][1],
                "task_over_parml": base and medians[p.name][0] / base[0],
                "single_over_parml": base and medians[p.name][1] / base[1],
                "task_us_rounds": p.task_us,
            }
            for p in peers
        },
    }


def table_of(results: dict[str, Any]) -> str:
    rounds = f"medians of {results['rounds']} rounds"
    lines = [
        f"{results['tasks']:,} trivial tasks, {results['workers']} processes of one thread, {rounds}",
        f"{'':<22}{'version':<12}{'µs a task':>11}{'÷ parml':>10}{'one task, µs':>15}{'÷ parml':>10}",
    ]
    for name, row in results["systems"].items():
        ratios = [f"{row[key]:.2f}" if row[key] else "–" for key in ("task_over_parml", "single_over_parml")]
        figures = f"{row['task_us']:>11.1f}{ratios[0]:>10}{row['single_us']:>15.0f}{ratios[1]:>10}"
        lines.append(f"{name:<22}{row['version']:<12}{figures}")
    lines += [f"{name}: not measured, {why}" for name, why in results["absent"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--singles", type=int, default=200, help="single tasks in each round")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="comma-separated names (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    unknown = sorted(set(options.only.split(",")) - set(SYSTEMS))
    if unknown:
        parser.error(f"expected names among {', '.join(SYSTEMS)}, found {', '.join(unknown)}")
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as running:
        peers = []
        for name in options.only.split(","):
            try:
                peers.append(running.enter_context(SYSTEMS[name]()))
            except ImportError as error:
                absent[name] = f"{error}; `pip install parml[bench]` brings it"
        measure(peers, options.tasks, options.rounds, options.singles)
        results = results_of(peers, absent, options)
    print(table_of(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""
What it takes to move data within one host: parml beside dask.distributed and Ray, two workers of one thread, in one run.

Six cases. *scatter* of an array of 1 GiB from the client, and *gather* of it; *broadcast* of 256 MiB until a task on each
worker has looked at it; *fetch*: a task on one worker looks at 256 MiB that a task on the other has made, *again*: the next
task there does so too, *made and fetched*: the same from the start of the task that makes it, as the systems do the copying at
different ends; *arguments*: an array of 100 MiB passed to 50 tasks; *joblib*: the same to 50 calls of
joblib.Parallel, loky included. Each case runs with each system in a program of its own, which does it several times; what is
told of a program is the first time and the median of the later ones, when the memory that the system reuses is warm. Variants
take turns, round after round, each round in another order. Extra memory is what all processes occupy beyond what they did
before the first time, a page that several share counted once, while the values are there; it is looked at in a round of its
own. Beside all that stands what the machine itself can do.

    python benchmarks/transfer.py [--rounds 3] [--repeats 6] [--only parml,ray] [--cases scatter,fetch] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import mmap
import os
import socket
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from measure import Report, run_watched, say  # noqa: E402

MIB = 2**20
SETTLE_S = (
    0.6  # several looks at the memory before it counts; what a system tidies up after a turn is not to fall into the next
)
N_TASKS = 50


def look(array: np.ndarray, i: int = 0) -> float:
    return float(array[0] + array[-1]) + i


def make(mebibytes: int, value: float) -> np.ndarray:
    return np.full(mebibytes * MIB // 8, value)


# --- the systems -------------------------------------------------------------------------------------------------------


class System(NamedTuple):
    """What the cases need; a handle is whatever the system calls a value that its workers hold."""

    scatter: Callable[[np.ndarray], Any]
    gather: Callable[[Any], np.ndarray]
    broadcast: Callable[[np.ndarray], Any]
    make_on: Callable[[int, int, float], Any]  # worker, MiB, value; done when it is there
    look_on: Callable[[int, Any], float]
    pass_to_tasks: Callable[[np.ndarray], list[float]]


@contextlib.contextmanager
def on_parml(n_workers: int) -> Iterator[System]:
    from parml_core.client import Client, LocalCluster
    from parml_core.graph import Hints

    with LocalCluster(n_workers, 1, dashboard_port=None) as cluster, Client(cluster) as client:
        on = [Hints(where=(worker.id,)) for worker in client.workers()]

        def broadcast(array: np.ndarray) -> Any:
            (future,) = client.scatter([array], replicas=0)
            client.gather([client.submit(look, future, hints=hints) for hints in on])
            return future

        def make_on(worker: int, mebibytes: int, value: float) -> Any:
            future = client.submit(make, mebibytes, value, hints=on[worker])
            client.wait([future])
            return future

        yield System(
            lambda array: client.scatter([array])[0],
            lambda future: client.gather([future])[0],
            broadcast,
            make_on,
            lambda worker, future: client.submit(look, future, hints=on[worker]).result(),
            lambda array: client.gather(client.map(look, [array] * N_TASKS, range(N_TASKS))),
        )


@contextlib.contextmanager
def on_dask(n_workers: int) -> Iterator[System]:
    from distributed import Client, LocalCluster, wait

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with LocalCluster(n_workers=n_workers, processes=True, **options) as cluster, Client(cluster) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])

        def broadcast(array: np.ndarray) -> Any:
            future = client.scatter(array, broadcast=True, hash=False)
            client.gather([client.submit(look, future, workers=[w], pure=False) for w in workers])
            return future

        def make_on(worker: int, mebibytes: int, value: float) -> Any:
            future = client.submit(make, mebibytes, value, workers=[workers[worker]], pure=False)
            wait(future)
            return future

        def pass_to_tasks(array: np.ndarray) -> list[float]:
            return client.gather(client.map(look, [client.scatter(array, hash=False)] * N_TASKS, range(N_TASKS), pure=False))

        yield System(
            lambda array: client.scatter(array, hash=False),
            lambda future: future.result(),
            broadcast,
            make_on,
            lambda worker, future: client.submit(look, future, workers=[workers[worker]], pure=False).result(),
            pass_to_tasks,
        )


@contextlib.contextmanager
def on_ray(n_workers: int) -> Iterator[System]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    class Worker:
        def look(self, array: np.ndarray) -> float:
            return look(array)

        def make(self, mebibytes: int, value: float) -> np.ndarray:
            return make(mebibytes, value)

    ray.init(num_cpus=n_workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    # Tasks run in the processors that actors leave free, and they leave all.
    workers = [ray.remote(Worker).options(num_cpus=0).remote() for _ in range(n_workers)]
    task = ray.remote(look)

    def broadcast(array: np.ndarray) -> Any:
        ref = ray.put(array)
        ray.get([worker.look.remote(ref) for worker in workers])
        return ref

    def make_on(worker: int, mebibytes: int, value: float) -> Any:
        ref = workers[worker].make.remote(mebibytes, value)
        ray.wait([ref], fetch_local=False)
        return ref

    def pass_to_tasks(array: np.ndarray) -> list[float]:
        ref = ray.put(array)
        return ray.get([task.remote(ref, i) for i in range(N_TASKS)])

    try:
        yield System(
            ray.put,
            ray.get,
            broadcast,
            make_on,
            lambda worker, ref: ray.get(workers[worker].look.remote(ref)),
            pass_to_tasks,
        )
    finally:
        ray.shutdown()


SYSTEMS: dict[str, Callable[[int], AbstractContextManager[System]]] = {"parml": on_parml, "dask": on_dask, "ray": on_ray}


@contextlib.contextmanager
def joblib_on(name: str, n_workers: int) -> Iterator[None]:
    import joblib

    if name == "loky":
        with joblib.parallel_config("loky"):
            yield
        return
    if name == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    import parml  # noqa: F401  registers the backend

    with SYSTEMS[name](n_workers), joblib.parallel_config(name):
        yield


# --- the cases: each yields, time after time, the seconds it took, and again when it has let go of the values ----------

Case = Callable[[System], Iterator[dict[str, float]]]


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def scatter_and_gather(system: System) -> Iterator[dict[str, float]]:
    array = make(1024, 1.0)
    yield {}
    while True:
        array[0] += 1
        scatter_s, handle = seconds_of(lambda: system.scatter(array))
        gather_s, found = seconds_of(lambda h=handle: system.gather(h))
        assert found[0] == array[0] and found[-1] == 1.0
        yield {"scatter": scatter_s, "gather": gather_s}
        del handle, found
        yield {}


def broadcast(system: System) -> Iterator[dict[str, float]]:
    array = make(256, 1.0)
    yield {}
    while True:
        seconds, handle = seconds_of(lambda: system.broadcast(array))
        yield {"broadcast": seconds}
        del handle
        yield {}


def fetch(system: System) -> Iterator[dict[str, float]]:
    yield {}
    for i in range(1000):
        make_s, handle = seconds_of(lambda i=i: system.make_on(0, 256, float(i)))
        first_s, found = seconds_of(lambda h=handle: system.look_on(1, h))
        again_s, _ = seconds_of(lambda h=handle: system.look_on(1, h))
        assert found == 2 * i
        yield {"fetch": first_s, "again": again_s, "made and fetched": make_s + first_s}
        del handle
        yield {}


def arguments(system: System) -> Iterator[dict[str, float]]:
    array = make(100, 1.0)
    yield {}
    while True:
        seconds, found = seconds_of(lambda: system.pass_to_tasks(array))
        assert found == [2.0 + i for i in range(N_TASKS)]
        yield {"arguments": seconds}
        yield {}


def calls_of_joblib() -> Iterator[dict[str, float]]:
    import joblib

    array = make(100, 1.0)
    joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(N_TASKS))
    yield {}
    while True:
        calls = [joblib.delayed(look)(array, i) for i in range(N_TASKS)]
        seconds, found = seconds_of(lambda c=calls: joblib.Parallel(n_jobs=2)(c))
        assert found == [2.0 + i for i in range(N_TASKS)]
        yield {"joblib": seconds}
        yield {}


CASES: dict[str, Case] = {"scatter": scatter_and_gather, "broadcast": broadcast, "fetch": fetch, "arguments": arguments}


def run(name: str, case: str, repeats: int, n_workers: int) -> None:
    with contextlib.ExitStack() as running, warnings.catch_warnings(action="ignore"):
        if case == "joblib":
            running.enter_context(joblib_on(name, n_workers))
            turns = calls_of_joblib()
        else:
            system = running.enter_context(SYSTEMS[name](n_workers))
            small = make(1, 1.0)
            system.gather(system.scatter(small)), system.broadcast(small), system.pass_to_tasks(small)
            system.look_on(1, system.make_on(0, 1, 1.0))
            turns = CASES[case](system)
        next(turns)
        say(step="ready")
        time.sleep(SETTLE_S)
        say(step="work")
        found = []
        for _ in range(repeats):
            found.append(next(turns))
            if repeats == 1:  # for a look at the memory
                time.sleep(SETTLE_S)
            next(turns)
            time.sleep(SETTLE_S)
        say(step="done", seconds={part: [turn[part] for turn in found] for part in found[0]})


# --- the machine -------------------------------------------------------------------------------------------------------


def limits() -> dict[str, float]:
    """Milliseconds for 256 MiB."""
    source = make(256, 1.0)
    view, nbytes = memoryview(source).cast("B"), source.nbytes
    found = {}
    target = np.empty_like(source)
    found["copy into fresh memory"] = seconds_of(lambda: np.copyto(target, source))[0]
    found["copy into warm memory"] = median_of(lambda: np.copyto(target, source))
    fd = os.memfd_create("limits")
    os.ftruncate(fd, nbytes)
    found["write into a fresh file in memory"] = seconds_of(lambda: os.pwrite(fd, view, 0))[0]
    shared = np.frombuffer(mmap.mmap(fd, nbytes))
    np.copyto(shared, source)
    found["copy into warm shared memory"] = statistics.median(
        seconds_of(lambda: np.copyto(shared, source))[0] for _ in range(5)
    )
    found["map, look"] = statistics.median(seconds_of(lambda: look(np.frombuffer(mmap.mmap(fd, nbytes))))[0] for _ in range(5))
    os.close(fd)
    for name, pair in {"TCP over loopback": tcp_pair, "Unix socket": socket.socketpair}.items():
        found[name] = median_of(lambda p=pair: send(p(), view, target))
    return {name: seconds * 1000 for name, seconds in found.items()}


def median_of(call: Callable[[], Any]) -> float:
    return statistics.median(seconds_of(call)[0] for _ in range(5))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def send(pair: tuple[socket.socket, socket.socket], view: memoryview, target: np.ndarray) -> None:
    """One process, two threads: the interpreter is not held while the kernel copies."""
    left, right = pair
    with left, right:
        thread = threading.Thread(target=left.sendall, args=(view,))
        thread.start()
        space, done = memoryview(target).cast("B"), 0
        while done < len(space):
            done += right.recv_into(space[done : done + 4 * MIB])
        thread.join()


# --- measuring and telling ---------------------------------------------------------------------------------------------

MEMORY = {"scatter": (1024, 2), "broadcast": (256, 2), "broadcast, 8 workers": (256, 8), "fetch": (256, 2), "joblib": (100, 2)}
"""MiB of the value, and workers, of the cases whose memory is looked at."""


def start(name: str, case: str, repeats: int, n_workers: int, memory: bool) -> Report | None:
    print(f"{case}{', memory' if memory else ''}: {name}", file=sys.stderr)
    command = [sys.executable, __file__, "--variant", f"{name}/{case}/{repeats}/{n_workers}"]
    report = run_watched(command, lambda step: None, memory=memory)
    if report.returncode:
        print(f"{name} ended with {report.returncode}:\n{report.error_text[-2000:]}", file=sys.stderr)
        return None
    return report


def measure(systems: list[str], cases: list[str], rounds: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """By part and system the first time and the median of the later ones, in ms; by case and system MiB."""
    turns: dict[str, dict[str, list[list[float]]]] = {}
    memory: dict[str, dict[str, float]] = {}
    for case in cases:
        names = systems + ["loky"] * (case == "joblib")
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                report = start(name, case, repeats, 2, memory=False)
                for part, seconds in report.values["seconds"].items() if report else ():
                    turns.setdefault(part, {}).setdefault(name, []).append([1000 * s for s in seconds])
        for title, (_, n_workers) in MEMORY.items():
            for name in names if title.split(",")[0] == case else ():
                report = start(name, case, 1, n_workers, memory=True)
                if report:
                    used = report.step_bytes["work"][1] - report.step_bytes["ready"][0]
                    memory.setdefault(title, {})[name] = max(used, 0) / MIB
    times = {
        part: {
            name: {
                "first_ms": statistics.median(run[0] for run in runs),
                "ms": statistics.median(s for run in runs for s in run[1:] or run),
                "all_ms": runs,
            }
            for name, runs in of.items()
        }
        for part, of in turns.items()
    }
    return times, memory


def tell(times: dict[str, Any], memory: dict[str, Any], machine: dict[str, float]) -> None:
    for part, of in times.items():
        base = of.get("parml", {}).get("ms")
        print(f"\n{part:<18}{'ms':>10}{'÷ parml':>9}{'first, ms':>12}")
        for name, row in of.items():
            ratio = f"{row['ms'] / base:.2f}" if base else "–"
            print(f"{name:<18}{row['ms']:>10.1f}{ratio:>9}{row['first_ms']:>12.1f}")
    for title, by_name in memory.items():
        print(f"\n{title:<24}{'extra MiB':>10}{'× value':>10}")
        for name, mebibytes in by_name.items():
            print(f"{name:<24}{mebibytes:>10.0f}{mebibytes / MEMORY[title][0]:>10.2f}")
    print(f"\n{'the machine, 256 MiB':<36}{'ms':>8}")
    for name, ms in machine.items():
        print(f"{name:<36}{ms:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=6, help="times in a program (default: %(default)s)")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="systems, comma-separated (default: %(default)s)")
    parser.add_argument("--cases", default=",".join([*CASES, "joblib"]), help="comma-separated (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        name, case, repeats, n_workers = options.variant.split("/")
        run(name, case, int(repeats), int(n_workers))
        return
    systems, cases = options.only.split(","), options.cases.split(",")
    unknown = sorted({*systems, *cases} - {*SYSTEMS, *CASES, "joblib"})
    if unknown:
        names = f"systems among {', '.join(SYSTEMS)} and cases among {', '.join([*CASES, 'joblib'])}"
        parser.error(f"expected {names}, found {', '.join(unknown)}")
    machine = limits()
    times, memory = measure(systems, cases, options.rounds, options.repeats)
    tell(times, memory, machine)
    if options.json:
        options.json.write_text(json.dumps({"times": times, "memory_mib": memory, "machine_ms": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()

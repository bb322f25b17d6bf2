"""
joblib's backends beside parml's, two jobs at a time, in one run.

Five programs that use joblib: 20,000 calls that do nothing; 2,000 calls of about 2 ms in numpy; a random forest on 20,000 × 30;
scikit-learn's own grid search over 48 candidates × 5 folds on digits; a cross-validation on an array of 200 MiB. Each runs with
each backend in a process of its own, twice: *first* with all that the backend does to be there (its import, processes, their
imports), as in a script; *again* once more, warm. Memory is what all processes occupy at most beyond what the caller did before
the first, looked at in a round of its own. Variants take turns, round after round, each round in another order. Medians, and
their ratios to loky's. `parml` has no Client, `parml-client` a LocalCluster of two workers and its Client.

    python benchmarks/joblib_backends.py [--rounds 3] [--only parml,loky] [--programs calls,forest] [--json FILE]
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import joblib
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from measure import Report, run_watched, say  # noqa: E402

N_JOBS = 2
TURNS = ("first", "again")
SETTLE_S = 0.6  # several looks at the memory before it counts


# --- programs: each imports and makes what it needs, and gives what is measured ------------------------------------------


def nothing(i: int) -> int:
    return i


def sort(seed: int) -> float:
    values = np.random.default_rng(seed).random(150_000)
    return float(np.sort(values)[100])


def calls(n: int) -> Any:
    found = joblib.Parallel(n_jobs=N_JOBS)(joblib.delayed(nothing)(i) for i in range(n))
    assert found == list(range(n))


def sorts(n: int) -> Any:
    found = joblib.Parallel(n_jobs=N_JOBS)(joblib.delayed(sort)(i) for i in range(n))
    assert found[0] == sort(0)


def forest(n_trees: int) -> Any:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    X, y = make_classification(20_000, 30, n_informative=10, random_state=0)
    return lambda: RandomForestClassifier(n_trees, n_jobs=N_JOBS, random_state=0).fit(X, y)


def grid(n_values: int) -> Any:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    X, y = load_digits(return_X_y=True)
    values = {"C": np.logspace(-1, 2, n_values).tolist(), "gamma": np.logspace(-4, -2.5, 6).tolist()}
    return lambda: GridSearchCV(SVC(), values, cv=5, n_jobs=N_JOBS).fit(X, y)


def validation(mebibytes: int) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score

    rng = np.random.default_rng(0)
    X = rng.standard_normal((mebibytes * 2**20 // 8 // 100, 100))
    y = X[:, 0] + rng.standard_normal(len(X))
    return lambda: cross_val_score(Ridge(), X, y, cv=8, n_jobs=N_JOBS)


PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {
    "calls": lambda: lambda: calls(20_000),
    "sorts": lambda: lambda: sorts(2000),
    "forest": lambda: forest(100),
    "grid": lambda: grid(8),
    "validation": lambda: validation(200),
}


# --- backends ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_parml() -> Iterator[None]:
    import parml  # noqa: F401  registers the backend

    with joblib.parallel_config("parml"):
        yield


@contextlib.contextmanager
def on_client() -> Iterator[None]:
    import parml  # noqa: F401  registers the backend
    from parml_core.client import Client, LocalCluster

    with LocalCluster(N_JOBS, 1, dashboard_port=None) as cluster, Client(cluster), joblib.parallel_config("parml"):
        yield


@contextlib.contextmanager
def on_dask() -> Iterator[None]:
    from distributed import Client, LocalCluster

    options = {"n_workers": N_JOBS, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with LocalCluster(processes=True, **options) as cluster, Client(cluster), joblib.parallel_config("dask"):
        yield


@contextlib.contextmanager
def on_ray() -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=N_JOBS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    register_ray()
    try:
        with joblib.parallel_config("ray"):
            yield
    finally:
        ray.shutdown()


BACKENDS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "loky": lambda: joblib.parallel_config("loky"),
    "threading": lambda: joblib.parallel_config("threading"),
    "parml": on_parml,
    "parml-client": on_client,
    "dask": on_dask,
    "ray": on_ray,
}


def run(backend: str, program: str) -> None:
    whole = PROGRAMS[program]()
    say(step="ready")
    time.sleep(SETTLE_S)
    with warnings.catch_warnings(action="ignore"), contextlib.ExitStack() as running:
        for turn in TURNS:
            say(step=turn)
            began = time.perf_counter()
            if turn == "first":
                running.enter_context(BACKENDS[backend]())
            whole()
            say(**{turn: time.perf_counter() - began})
        say(step="done")


# --- measuring and telling ---------------------------------------------------------------------------------------------


def measure(backends: list[str], program: str, rounds: int) -> dict[str, list[Report]]:
    """Of each backend a report of every round that succeeded, and one more of a round for memory alone."""
    reports: dict[str, list[Report]] = {name: [] for name in backends}
    for turn in range(rounds + 1):
        for_memory = turn == rounds
        for name in backends[turn % len(backends) :] + backends[: turn % len(backends)]:
            print(f"{program}, {'memory' if for_memory else f'round {turn + 1} of {rounds}'}: {name}", file=sys.stderr)
            command = [sys.executable, __file__, "--variant", f"{name}/{program}"]
            report = run_watched(command, lambda step: None, memory=for_memory)
            if report.returncode:
                print(f"{name} ended with {report.returncode}:\n{report.error_text[-2000:]}", file=sys.stderr)
            else:
                reports[name].append(report)
    return reports


def row_of(reports: list[Report]) -> dict[str, dict[str, float]]:
    """Of each turn the median seconds, and MiB beyond those before the first."""
    *timed, watched = reports
    row = {}
    for turn in TURNS:
        extra = watched.step_bytes.get(turn, (0, 0))[1] - watched.step_bytes["ready"][0]
        row[turn] = {
            "seconds": statistics.median(report.values[turn] for report in timed),
            "extra_mebibytes": max(extra, 0) / 2**20,
        }
    return row


def table_of(program: str, rows: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"{program:<14}" + "".join(f"{turn + ', s':>12}{'÷ loky':>9}{'extra MiB':>12}" for turn in TURNS)]
    for name, row in rows.items():
        figures = ""
        for turn, figure in row.items():
            ratio = f"{figure['seconds'] / rows['loky'][turn]['seconds']:.2f}" if "loky" in rows else "–"
            figures += f"{figure['seconds']:>12.3f}{ratio:>9}{figure['extra_mebibytes']:>12.0f}"
        lines.append(f"{name:<14}{figures}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(BACKENDS), help="backends, comma-separated (default: %(default)s)")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        run(*options.variant.split("/"))
        return
    backends, programs = options.only.split(","), options.programs.split(",")
    unknown = sorted({*backends, *programs} - {*BACKENDS, *PROGRAMS})
    if unknown:
        parser.error(f"expected backends among {', '.join(BACKENDS)} and programs among {', '.join(PROGRAMS)}, found {unknown}")
    for package in ("parml", "parml_core"):  # as installing it does
        compileall.compile_dir(ROOT / package, quiet=1)
    told = {}
    print(f"medians of {options.rounds} rounds")
    for program in programs:
        reports = measure(backends, program, options.rounds)
        told[program] = {name: row_of(of) for name, of in reports.items() if len(of) == options.rounds + 1}
        print(f"\n{table_of(program, told[program])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

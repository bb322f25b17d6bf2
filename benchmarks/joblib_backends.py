"""
joblib's backends beside parml's, two processes of one thread each, in one run.

Five programs that use joblib: 20,000 calls that do nothing; 2,000 calls of about 2 ms in numpy; a random forest on 20,000 × 30;
scikit-learn's own grid search over 48 candidates × 5 folds on digits; a cross-validation on an array of 200 MiB. Each runs with
each backend in a process of its own: once on a little, uncounted, so that workers are up and have imported what they need,
and then as a whole. Memory is what all processes occupy at most during that beyond what they did before it, looked at in a
round of its own. Variants take turns, round after round, each round in another order. Medians, and their ratios to loky's.

    python benchmarks/joblib_backends.py [--rounds 3] [--only parml,loky] [--programs calls,forest] [--json FILE]
"""

from __future__ import annotations

import argparse
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
SETTLE_S = 0.6  # several looks at the memory before it counts


# --- programs: each gives what is run on a little, and as a whole ------------------------------------------------------


def nothing(i: int) -> int:
    return i


def sort(seed: int) -> float:
    values = np.random.default_rng(seed).random(25_000)
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


Program = tuple[Callable[[], Any], Callable[[], Any]]
PROGRAMS: dict[str, Callable[[], Program]] = {
    "calls": lambda: (lambda: calls(200), lambda: calls(20_000)),
    "sorts": lambda: (lambda: sorts(20), lambda: sorts(2000)),
    "forest": lambda: (forest(4), forest(100)),
    "grid": lambda: (grid(1), grid(8)),
    "validation": lambda: (validation(2), validation(200)),
}


# --- backends ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_parml() -> Iterator[None]:
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
    "dask": on_dask,
    "ray": on_ray,
}


def run(backend: str, program: str) -> None:
    little, whole = PROGRAMS[program]()
    with BACKENDS[backend](), warnings.catch_warnings(action="ignore"):
        little()
        say(step="ready")
        time.sleep(SETTLE_S)
        say(step="work")
        began = time.perf_counter()
        whole()
        say(seconds=time.perf_counter() - began, step="done")


# --- measuring and telling ---------------------------------------------------------------------------------------------


def measure(backends: list[str], programs: list[str], rounds: int) -> dict[str, dict[str, list[Report]]]:
    """Of each program and backend a report of every round that succeeded, and one more of a round for memory alone."""
    reports: dict[str, dict[str, list[Report]]] = {program: {name: [] for name in backends} for program in programs}
    for program in programs:
        for turn in range(rounds + 1):
            for_memory = turn == rounds
            for name in backends[turn % len(backends) :] + backends[: turn % len(backends)]:
                print(f"{program}, {'memory' if for_memory else f'round {turn + 1} of {rounds}'}: {name}", file=sys.stderr)
                command = [sys.executable, __file__, "--variant", f"{name}/{program}"]
                report = run_watched(command, lambda step: None, memory=for_memory)
                if report.returncode:
                    print(f"{name} ended with {report.returncode}:\n{report.error_text[-2000:]}", file=sys.stderr)
                else:
                    reports[program][name].append(report)
    return reports


def row_of(reports: list[Report]) -> tuple[float, float]:
    """Median seconds, and MiB beyond those before."""
    *timed, watched = reports
    extra = watched.step_bytes.get("work", (0, 0))[1] - watched.step_bytes["ready"][0]
    return statistics.median(report.values["seconds"] for report in timed), max(extra, 0) / 2**20


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
    told: dict[str, dict[str, tuple[float, float]]] = {}
    for program, of in measure(backends, programs, options.rounds).items():
        told[program] = {name: row_of(reports) for name, reports in of.items() if len(reports) == options.rounds + 1}
        base = told[program].get("loky")
        print(f"\n{program:<14}{'seconds':>10}{'÷ loky':>9}{'extra MiB':>12}   medians of {options.rounds} rounds")
        for name, (seconds, extra) in told[program].items():
            print(f"{name:<14}{seconds:>10.3f}{f'{seconds / base[0]:.2f}' if base else '–':>9}{extra:>12.0f}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

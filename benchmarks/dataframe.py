"""
Tables: parml.dataframe beside dask.dataframe, pandas and polars, two threads or two workers, in one run.

Eight cases. *csv*: one file of 1 GB is read and grouped by a text column of 2,000 values; *parquet*: the same rows in 16 files
are filtered by two columns and the mean of a third is taken. The others work on a table of 2,000,000 rows that each system
holds already, in 16 partitions: *many groups* by two columns, *few groups* by one, *small merge* with a table of 100,000
rows, *large merge* with one of as many rows, *set_index* by a random column, *value_counts* of 100,000 values. A time is from
the call to the result as an object of pandas (or polars) in the caller.

Each case runs with each system in a program of its own, which does it several times; its time is their median. Variants take
turns, round after round, each round in another order. Told are medians of the rounds and their ratios to Dask's: threads to
threads, workers to workers, pandas and polars to threads. Processor time is that of all processes of a variant; it bears a
busy machine better. Memory is what they occupy at most, and how much that is beyond what they did before the first time,
looked at in a round of its own. All must find the same.

    python benchmarks/dataframe.py [--rounds 3] [--only parml-threads,dask-threads] [--cases csv,set_index] [--json FILE]
                                   [--csv-gigabytes 1] [--rows 2000000]
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.csv

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from measure import Report, run_watched, say  # noqa: E402

N_PROCESSORS = 2
N_PARTITIONS = 16
SETTLE_S = 1.5  # several looks at the memory before it counts
CSV_ROW_BYTES = 67
N_SMALL = 100_000


# --- the data ----------------------------------------------------------------------------------------------------------


def rows(n_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cities = pd.array([f"city {i:04}" for i in range(2000)], dtype="str")
    return pd.DataFrame(
        {
            "id": rng.integers(0, N_SMALL, n_rows),
            "key": rng.permutation(n_rows),
            "city": cities.take(rng.integers(0, 2000, n_rows)),
            "shop": rng.integers(0, 500, n_rows).astype("int32"),
            "x": rng.normal(size=n_rows),
            "y": rng.normal(size=n_rows),
        }
    )


def write_parts(frame: pd.DataFrame, folder: Path, n_parts: int) -> None:
    folder.mkdir()
    ends = np.linspace(0, len(frame), n_parts + 1).astype(int)
    for part, (start, stop) in enumerate(itertools.pairwise(ends)):
        frame[start:stop].reset_index(drop=True).to_parquet(folder / f"{part:02}.parquet")


def make_data(folder: Path, n_rows: int, csv_gigabytes: float) -> None:
    """Parts of the tables that are held, and of those that are read."""
    rng = np.random.default_rng(0)
    write_parts(rows(n_rows, 1), folder / "rows", N_PARTITIONS)
    write_parts(pd.DataFrame({"id": np.arange(N_SMALL), "w": rng.normal(size=N_SMALL)}), folder / "small", 1)
    other = pd.DataFrame({"key": rng.permutation(n_rows), "z": rng.normal(size=n_rows)})
    write_parts(other, folder / "other", N_PARTITIONS)
    (folder / "parquet").mkdir()
    with open(folder / "rows.csv", "wb") as file:
        for part in range(N_PARTITIONS):
            frame = rows(int(csv_gigabytes * 1e9 / CSV_ROW_BYTES / N_PARTITIONS), 2 + part)
            frame.to_parquet(folder / "parquet" / f"{part:02}.parquet", row_group_size=1 << 17)
            options = pyarrow.csv.WriteOptions(include_header=part == 0, quoting_style="none")
            pyarrow.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), file, options)


# --- the cases ---------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """
    One operation, written for pandas and what is like it, and for polars.

    `run` takes a function that reads and the tables that are held; `polars` polars itself, the folder, and its tables.
    """

    held: tuple[str, ...]
    run: Callable[..., Any]
    polars: Callable[..., Any]
    column: str | None = None  # of the result, to compare
    in_order: bool = False


def filtered_mean(frame: Any) -> Any:
    return frame[(frame.x > 0) & (frame.shop < 250)].y.mean()


CASES: dict[str, Case] = {
    "csv": Case(
        (),
        lambda lib, folder: lib.read_csv(f"{folder}/rows.csv").groupby("city")[["x", "y"]].mean(),
        lambda pl, folder: pl.scan_csv(folder / "rows.csv").group_by("city").agg(pl.col("x", "y").mean()).collect(),
        "y",
    ),
    "parquet": Case(
        (),
        lambda lib, folder: filtered_mean(lib.read_parquet(f"{folder}/parquet")),
        lambda pl, folder: (
            pl.scan_parquet(folder / "parquet")
            .filter((pl.col("x") > 0) & (pl.col("shop") < 250))
            .select(pl.col("y").mean())
            .collect()
            .item()
        ),
    ),
    "many groups": Case(
        ("rows",),
        lambda lib, folder, rows: rows.groupby(["shop", "city"])[["x", "y"]].sum(),
        lambda pl, folder, rows: rows.group_by("shop", "city").agg(pl.col("x", "y").sum()),
        "x",
    ),
    "few groups": Case(
        ("rows",),
        lambda lib, folder, rows: rows.groupby("shop")[["x", "y"]].mean(),
        lambda pl, folder, rows: rows.group_by("shop").agg(pl.col("x", "y").mean()),
        "x",
    ),
    "small merge": Case(
        ("rows", "small"),
        lambda lib, folder, rows, small: rows.merge(small, on="id")[["x", "w"]],
        lambda pl, folder, rows, small: rows.join(small, on="id").select("x", "w"),
        "w",
    ),
    "large merge": Case(
        ("rows", "other"),
        lambda lib, folder, rows, other: rows.merge(other, on="key")[["x", "z"]],
        lambda pl, folder, rows, other: rows.join(other, on="key").select("x", "z"),
        "z",
    ),
    "set_index": Case(
        ("rows",),
        lambda lib, folder, rows: (
            rows.set_index("key")[["x", "city"]] if lib is not pd else rows.set_index("key").sort_index()[["x", "city"]]
        ),
        lambda pl, folder, rows: rows.select("key", "x", "city").sort("key"),
        "x",
        in_order=True,
    ),
    "value_counts": Case(
        ("rows",),
        lambda lib, folder, rows: rows.id.value_counts(),
        lambda pl, folder, rows: rows["id"].value_counts(sort=True),
        "count",
    ),
}


def digest(case: Case, result: Any) -> list[float]:
    """What all systems must find."""
    if case.column is None:
        return [float(result)]
    values = np.asarray(result if isinstance(result, pd.Series) else result[case.column])
    return [len(result), float(values.sum()), *([float(values @ np.arange(len(values)))] if case.in_order else [])]


# --- the systems: each yields a function that holds what a case needs and gives what is measured ------------------------

Measured = Callable[[], Any]
System = Callable[[Case, Path], AbstractContextManager[Measured]]


def chunked(lib: Any, case: Case, folder: Path) -> Measured:
    """With parml or Dask, whose names are the same."""
    held = []
    for name in case.held:
        frame = lib.from_map(pd.read_parquet, sorted((folder / name).iterdir())).persist()
        len(frame)  # waits
        held.append(frame)
    return lambda: case.run(lib, folder, *held).compute()


@contextlib.contextmanager
def parml_threads(case: Case, folder: Path) -> Iterator[Measured]:
    import parml.dataframe as pdf
    from parml_core.engine.registry import use
    from parml_core.engine.threads import ThreadsEngine

    with ThreadsEngine(N_PROCESSORS) as engine, use(engine):
        yield chunked(pdf, case, folder)


@contextlib.contextmanager
def parml_workers(case: Case, folder: Path) -> Iterator[Measured]:
    import parml.dataframe as pdf
    from parml_core.client import Client, LocalCluster

    with LocalCluster(N_PROCESSORS, 1, dashboard_port=None) as cluster, Client(cluster):
        yield chunked(pdf, case, folder)


@contextlib.contextmanager
def dask_threads(case: Case, folder: Path) -> Iterator[Measured]:
    import dask
    import dask.dataframe as dd

    with dask.config.set(scheduler="threads", num_workers=N_PROCESSORS):
        yield chunked(dd, case, folder)


@contextlib.contextmanager
def dask_workers(case: Case, folder: Path) -> Iterator[Measured]:
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    with tempfile.TemporaryDirectory() as spill:
        options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR, "local_directory": spill}
        with LocalCluster(n_workers=N_PROCESSORS, processes=True, **options) as cluster, Client(cluster):
            yield chunked(dd, case, folder)


@contextlib.contextmanager
def plain_pandas(case: Case, folder: Path) -> Iterator[Measured]:
    held = [pd.read_parquet(folder / name) for name in case.held]
    yield lambda: case.run(pd, folder, *held)


@contextlib.contextmanager
def plain_polars(case: Case, folder: Path) -> Iterator[Measured]:
    os.environ["POLARS_MAX_THREADS"] = str(N_PROCESSORS)
    import polars

    held = [polars.read_parquet(folder / name) for name in case.held]
    yield lambda: case.polars(polars, folder, *held)


SYSTEMS: dict[str, System] = {
    "parml-threads": parml_threads,
    "dask-threads": dask_threads,
    "parml-workers": parml_workers,
    "dask-workers": dask_workers,
    "pandas": plain_pandas,
    "polars": plain_polars,
}


def processor_seconds() -> float:
    """Of this process and all its descendants."""
    me = psutil.Process()
    times = [process.cpu_times() for process in [me, *me.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def run(system: str, name: str, folder: Path, repeats: int) -> None:
    case = CASES[name]
    with SYSTEMS[system](case, folder) as measured:
        say(step="ready")
        time.sleep(SETTLE_S)
        say(step="work")
        seconds, processor, found = [], [], None
        for _ in range(repeats):
            found = None  # the result of before is not to stand beside the next
            used, began = processor_seconds(), time.perf_counter()
            found = measured()
            seconds.append(time.perf_counter() - began)
            processor.append(processor_seconds() - used)
        say(seconds=statistics.median(seconds), processor=statistics.median(processor), all_s=seconds, step="done")
        say(found=digest(case, found))


# --- measuring and telling ---------------------------------------------------------------------------------------------


def measure(systems: list[str], case: str, folder: Path, options: argparse.Namespace) -> dict[str, list[Report]]:
    """Of each system a report of every round that succeeded, and one more of a round for memory alone."""
    reports: dict[str, list[Report]] = {name: [] for name in systems}
    for turn in range(options.rounds + 1):
        for_memory = turn == options.rounds
        for name in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
            print(f"{case}, {'memory' if for_memory else f'round {turn + 1} of {options.rounds}'}: {name}", file=sys.stderr)
            command = [sys.executable, __file__, "--variant", f"{name}/{case}", "--data", str(folder)]
            command += ["--repeats", str(options.repeats)]
            report = run_watched(command, lambda step: None, memory=for_memory)
            if report.returncode:
                print(f"{name} ended with {report.returncode}:\n{report.error_text[-2000:]}", file=sys.stderr)
            else:
                reports[name].append(report)
    found = {name: report.values["found"] for name, of in reports.items() for report in of}
    expected = next(iter(found.values()), None)
    for name, values in found.items():
        assert np.allclose(values, expected, rtol=1e-6, atol=1e-6), (
            f"{case}: {next(iter(found))} found {expected}, {name} {values}"
        )
    return reports


def row_of(reports: list[Report]) -> dict[str, float]:
    """Median seconds and processor seconds, MiB at most, and those beyond what there was before the first time."""
    *timed, watched = reports
    row = {of: statistics.median(report.values[of] for report in timed) for of in ("seconds", "processor")}
    unseen = float("nan"), float("nan")  # over before anybody looked
    before, peak = watched.step_bytes.get("ready", unseen)[0], watched.step_bytes.get("work", unseen)[1]
    return row | {"peak_mebibytes": peak / 2**20, "extra_mebibytes": (peak - before) / 2**20}


COLUMNS = {
    "seconds": ("s", 10, 3),
    "processor": ("processor s", 14, 3),
    "peak_mebibytes": ("peak MiB", 11, 0),
    "extra_mebibytes": ("extra MiB", 12, 0),
}


def table_of(case: str, rows: dict[str, dict[str, float]]) -> str:
    head = "".join(f"{name:>{width}}{'÷ dask':>9}" for name, width, _ in COLUMNS.values())
    lines = [f"{case:<14}{head}"]
    for name, row in rows.items():
        peer = rows.get(f"dask-{'workers' if name.endswith('workers') else 'threads'}")
        figures = ""
        for of, (_, width, digits) in COLUMNS.items():
            ratio = f"{row[of] / peer[of]:.2f}" if peer and peer[of] else "–"
            figures += f"{row[of]:>{width}.{digits}f}{ratio:>9}"
        lines.append(f"{name:<14}{figures}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="in each program (default: %(default)s)")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="systems, comma-separated (default: %(default)s)")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--csv-gigabytes", type=float, default=1.0, help="of the file that is read (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the tables that are held (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        run(*options.variant.split("/"), options.data, options.repeats)
        return
    systems, cases = options.only.split(","), options.cases.split(",")
    unknown = sorted({*systems, *cases} - {*SYSTEMS, *CASES})
    if unknown:
        parser.error(f"expected systems among {', '.join(SYSTEMS)} and cases among {', '.join(CASES)}, found {unknown}")
    for package in ("parml", "parml_core"):  # as installing it does
        compileall.compile_dir(ROOT / package, quiet=1)
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), options.rows, options.csv_gigabytes)
        print(f"medians of {options.rounds} rounds")
        for case in cases:
            reports = measure(systems, case, Path(folder), options)
            told[case] = {name: row_of(of) for name, of in reports.items() if len(of) == options.rounds + 1}
            print(f"\n{table_of(case, told[case])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

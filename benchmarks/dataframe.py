"""
Operations that move rows: parml.dataframe beside dask.dataframe, pandas and polars, on data made by numpy, in one run.

Threads with threads (two of them), two workers with two workers. Every system is given the same frames in memory; a time is
from the call to the result as a pandas object, its length alone where it is large. The best of the rounds, in seconds, and the
ratio of parml's time to dask's.

    python benchmarks/dataframe.py [--rows 2000000] [--partitions 16] [--rounds 3] [--only parml,dask] [--workers] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

N_WORKERS = 2
Operation = Callable[[Any, Any, Any], Any]


def tables(n_rows: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A large table, one of 100,000 rows, and another large one with a key that both large ones have."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "id": rng.integers(0, 100_000, n_rows),
            "key": rng.permutation(n_rows),
            "city": pd.Series(rng.integers(0, 2000, n_rows)).map("city {:04}".format),
            "shop": rng.integers(0, 500, n_rows).astype("int32"),
            "x": rng.normal(size=n_rows),
            "y": rng.normal(size=n_rows),
        }
    )
    small = pd.DataFrame({"id": np.arange(100_000), "w": rng.normal(size=100_000)})
    other = pd.DataFrame({"key": rng.permutation(n_rows), "z": rng.normal(size=n_rows)})
    return rows, small, other


OPERATIONS: dict[str, Operation] = {
    "groupby of 2 keys, many groups": lambda rows, small, other: rows.groupby(["shop", "city"])[["x", "y"]].sum(),
    "groupby of few groups": lambda rows, small, other: rows.groupby("shop")[["x", "y"]].mean(),
    "merge with 100,000 rows": lambda rows, small, other: rows.merge(small, on="id")[["x", "w"]],
    "merge of two large tables": lambda rows, small, other: rows.merge(other, on="key")[["x", "z"]],
    "set_index by a random column": lambda rows, small, other: rows.set_index("key")[["x", "city"]],
    "value_counts": lambda rows, small, other: rows.id.value_counts(),
}


@contextlib.contextmanager
def parml_system(frames: tuple[pd.DataFrame, ...], partitions: int, workers: bool) -> Iterator[Callable[[Operation], int]]:
    import parml.dataframe as pdf
    from parml import Client, LocalCluster

    given = [pdf.from_pandas(frame, partitions if len(frame) > 100_000 else 1) for frame in frames]
    with contextlib.ExitStack() as stack:
        if workers:
            stack.enter_context(Client(stack.enter_context(LocalCluster(N_WORKERS, 1, dashboard_port=None))))
            given = [frame.persist() for frame in given]
        yield lambda operation: len(operation(*given).compute())


@contextlib.contextmanager
def dask_system(frames: tuple[pd.DataFrame, ...], partitions: int, workers: bool) -> Iterator[Callable[[Operation], int]]:
    import dask
    import dask.dataframe as dd

    given = [dd.from_pandas(frame, npartitions=partitions if len(frame) > 100_000 else 1, sort=False) for frame in frames]
    with contextlib.ExitStack() as stack:
        if workers:
            from distributed import Client, LocalCluster

            cluster = LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=None)
            stack.enter_context(Client(stack.enter_context(cluster)))
            given = [frame.persist() for frame in given]
        else:
            stack.enter_context(dask.config.set(scheduler="threads", num_workers=N_WORKERS))
        yield lambda operation: len(operation(*given).compute())


@contextlib.contextmanager
def pandas_system(frames: tuple[pd.DataFrame, ...], partitions: int, workers: bool) -> Iterator[Callable[[Operation], int]]:
    yield lambda operation: len(operation(*frames))


POLARS: dict[str, Operation] = {
    "groupby of 2 keys, many groups": lambda rows, small, other: rows.group_by(["shop", "city"]).sum(),
    "groupby of few groups": lambda rows, small, other: rows.select("shop", "x", "y").group_by("shop").mean(),
    "merge with 100,000 rows": lambda rows, small, other: rows.join(small, on="id").select("x", "w"),
    "merge of two large tables": lambda rows, small, other: rows.join(other, on="key").select("x", "z"),
    "set_index by a random column": lambda rows, small, other: rows.select("key", "x", "city").sort("key"),
    "value_counts": lambda rows, small, other: rows["id"].value_counts(),
}


@contextlib.contextmanager
def polars_system(frames: tuple[pd.DataFrame, ...], partitions: int, workers: bool) -> Iterator[Callable[[Operation], int]]:
    import polars

    given = [polars.from_pandas(frame) for frame in frames]
    of = {id(operation): POLARS[name] for name, operation in OPERATIONS.items()}
    yield lambda operation: len(of[id(operation)](*given))


SYSTEMS = {"parml": parml_system, "dask": dask_system, "pandas": pandas_system, "polars": polars_system}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SYSTEMS))
    parser.add_argument("--workers", action="store_true", help="two workers, in the place of two threads")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    frames = tables(options.rows)
    best: dict[str, dict[str, float]] = {name: {} for name in OPERATIONS}
    for system in options.only.split(","):
        try:
            with SYSTEMS[system](frames, options.partitions, options.workers) as run:
                for name, operation in OPERATIONS.items():
                    for _ in range(options.rounds):
                        started = time.perf_counter()
                        run(operation)
                        took = time.perf_counter() - started
                        best[name][system] = min(took, best[name].get(system, took))
        except ImportError as error:
            print(f"{system} is left out: {error}")
    for name, times in best.items():
        shown = "  ".join(f"{system} {took:6.2f} s" for system, took in times.items())
        ratio = f"  parml/dask {times['parml'] / times['dask']:.2f}" if {"parml", "dask"} <= times.keys() else ""
        print(f"{name:<32}{shown}{ratio}")
    if options.json:
        options.json.write_text(json.dumps(best, indent=2))


if __name__ == "__main__":
    main()

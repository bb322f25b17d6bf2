"""Workers with more values than memory: the answers are right, inside the limit, whatever becomes of the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.errors import SpillError
from parml_core.graph import Hints
from parml_core.runtime.forking import own_memory_of

pytestmark = pytest.mark.slow

LIMIT = 320 << 20
PART = 16 << 20  # bytes of an array
N_PARTS = 60  # three times what two workers may have together
BOUND_S = 90.0


def make(i: int) -> np.ndarray:
    return np.full(PART // 8, float(i))


def total(part: np.ndarray) -> float:
    return float(part.sum())


class Peak:
    """The most memory that these processes had while in this context: any of them, or as `measure` says."""

    def __init__(self, pids: Callable[[], list[int]], measure: Callable[[list[int]], int] | None = None) -> None:
        self._pids = pids
        self._measure = measure or (lambda pids: max(map(own_memory_of, pids)))
        self._over = threading.Event()
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._measure(self._pids()))


def together(pids: list[int]) -> int:
    """Private memory of these processes, and each file in memory that any of them has open."""
    private, segments = 0, {}
    for pid in pids:
        with contextlib.suppress(OSError):
            _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
            private += (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:"):
                        found = os.stat(f"/proc/{pid}/fd/{fd}")
                        segments[found.st_ino] = found.st_blocks * 512
    return private + sum(segments.values())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    options: dict[str, Any] = {"memory_limit": LIMIT, "dashboard_port": None, "spill_directory": str(tmp_path)}
    with LocalCluster(2, 1, **options) as cluster:
        yield cluster


def spilled_files(cluster: LocalCluster, folder: Path) -> list[str]:
    """Paths to what the workers have on disk, which has no names."""
    found = []
    for pid in cluster.worker_pids().values():
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(path).startswith(str(folder)):
                    found.append(path)
    return found


def test_three_times_the_memory_in_values_is_computed_inside_the_limit(cluster: LocalCluster, tmp_path: Path) -> None:
    """All stay available, to ranks too, some of them on disk; no worker was restarted, and no file has a name."""
    pids = cluster.worker_pids()
    with Client(cluster) as client, Peak(lambda: list(pids.values())) as peak:
        parts = client.map(make, range(N_PARTS))
        client.wait(parts)
        for _ in range(2):
            sums = client.gather(client.map(total, parts))
            assert sums == [i * (PART // 8) for i in range(N_PARTS)]
        assert spilled_files(cluster, tmp_path) and os.listdir(tmp_path) == []
        ranks = client.gather(client.gang(sum_of_all, [tuple(parts[::2]), tuple(parts[1::2])]))
        assert ranks == [sum(range(first, N_PARTS, 2)) * (PART // 8) for first in (0, 1)]
        np.testing.assert_array_equal(client.gather([parts[0]])[0], make(0))
    assert cluster.worker_pids() == pids
    assert peak.bytes < 0.95 * LIMIT


def make_bytes(i: int) -> bytes:
    return bytes([i]) * (PART // 4)


def of_two(left: bytes, right: bytes) -> tuple[int, int]:
    return sum(left[::4096]), sum(right[::4096])


def sum_of_all(*parts: np.ndarray) -> float:
    return sum(map(total, parts))


def test_worker_fetches_more_than_it_has_memory_for(cluster: LocalCluster) -> None:
    """At once for one task, arrays that are mapped; and for many tasks, values that are copied."""
    pids = cluster.worker_pids()
    pages, n_texts = PART // 4 // 4096, 2 * N_PARTS
    with Client(cluster) as client, Peak(lambda: list(pids.values())) as peak:
        w0, w1 = sorted(worker.name for worker in client.workers())
        there, here = Hints(where=(w0,)), Hints(where=(w1,))
        parts = client.map(make, range(N_PARTS // 2), hints=there)
        assert client.submit(sum_of_all, *parts, hints=here).result(BOUND_S) == sum(range(N_PARTS // 2)) * (PART // 8)
        del parts
        texts = client.map(make_bytes, range(n_texts), hints=there)
        pairs = client.map(of_two, texts[:-1], texts[1:], hints=here)
        assert client.gather(pairs) == [(i * pages, (i + 1) * pages) for i in range(n_texts - 1)]
    assert cluster.worker_pids() == pids
    assert peak.bytes < 0.95 * LIMIT


def test_what_a_worker_has_borrowed_counts_once_its_owner_has_let_go_of_it(cluster: LocalCluster) -> None:
    """Else the readers would keep in memory together what the owners have moved to disk to make room."""
    pids = list(cluster.worker_pids().values())
    with Client(cluster) as client, Peak(lambda: pids, together) as peak:
        there, here = (Hints(where=(worker.name,)) for worker in client.workers())
        rounds = []
        for _ in range(5):
            rounds.append(client.map(make, range(12), hints=there))
            assert client.submit(sum_of_all, *rounds[-1], hints=here).result(BOUND_S) == sum(range(12)) * (PART // 8)
            client.submit(time.sleep, 0.5, hints=here).result(BOUND_S)  # so long it may take to be noticed
    assert peak.bytes < 2 * LIMIT < 5 * 12 * PART


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_files_are_made_again(cluster: LocalCluster, tmp_path: Path, damage: str) -> None:
    """Never a wrong value: what is asked for by tasks and by the client is computed once more."""
    with Client(cluster) as client:
        parts = client.map(make, range(N_PARTS))
        client.wait(parts)
        n_damaged = 0
        for path in spilled_files(cluster, tmp_path):
            with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
                if damage == "cut":
                    file.truncate(1000)
                else:
                    file.seek(PART // 2)
                    file.write(b"!")
                n_damaged += 1
        assert n_damaged
        assert client.gather(client.map(total, parts)) == [i * (PART // 8) for i in range(N_PARTS)]
        for path in spilled_files(cluster, tmp_path):  # some are let go of now, and made again
            with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
                file.truncate(1000)
        for i, part in enumerate(parts):
            assert client.gather([part])[0][-1] == i


def test_disk_that_is_full_is_an_error_with_a_name_and_the_next_work_succeeds(tmp_path: Path) -> None:
    """The workers live, and nothing is lost that can be made again."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "none", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr}")
    try:
        options: dict[str, Any] = {"memory_limit": LIMIT, "dashboard_port": None, "spill_directory": str(folder)}
        with LocalCluster(2, 1, **options) as cluster, Client(cluster) as client:
            pids = cluster.worker_pids()
            parts = client.map(make, range(N_PARTS))
            client.wait(parts)
            failed = [part for part in parts if part.exception() is not None]
            assert failed
            with pytest.raises(SpillError, match=rf"disk in {folder}, found \d+ bytes free"):
                failed[0].result(BOUND_S)
            done = [i for i, part in enumerate(parts) if part not in failed]
            assert client.gather([parts[i] for i in done[:2]])[1][0] == done[1]
            del parts, failed
            deadline = time.monotonic() + BOUND_S
            while True:
                try:
                    assert client.submit(total, np.ones(10)).result(BOUND_S) == 10.0
                    break
                except SpillError:
                    assert time.monotonic() < deadline
            assert cluster.worker_pids() == pids
            parts = client.map(make, range(N_PARTS))  # a killed worker leaves nothing on the disk
            client.wait(parts)
            assert shutil.disk_usage(folder).used
            del parts
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            while shutil.disk_usage(folder).used:
                assert time.monotonic() < deadline
    finally:
        subprocess.run(["umount", folder], check=True)

"""
Clusters that are opened and killed, at random moments, whatever of them first: nothing stays.

`make soak` runs many more cycles: ``python -m tests.faults.test_cycles 200``.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.faults.marks import MARK, marked

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 15.0
LIFE_S = 1.2  # starting takes a third of it

PROGRAM = """
print("!", flush=True)
import numpy as np
from parml_core.client import Client, LocalCluster
def rest(rank):
    import threading
    threading.Event().wait(30)
cluster = LocalCluster(2, dashboard_port=None)
with Client(cluster) as client:
    ranks = client.gang(rest, [(0,), (1,)]) if {gang} else None
    while True:
        (array,) = client.scatter([np.ones(1 << 17)])
        parts = client.map(np.multiply, [array] * 4, range(4))
        client.gather(client.map(np.add, parts, parts[1:]))
"""


def run_cycle(seed: int, folder: Path) -> None:
    """Start a program with a cluster, kill some of it at some moment in some order, and then the program if it is left."""
    rng = random.Random(seed)
    program = PROGRAM.format(gang=rng.random() < 0.5)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), MARK: str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
    ) as user:
        assert user.stdout is not None and user.stdout.read(1) == b"!"
        _pause(rng.uniform(0, LIFE_S))
        assert user.poll() is None, f"seed {seed}: the program ended by itself"
        victims = [user.pid, *(pid for pid in marked(folder) if pid != user.pid)]
        for pid in rng.sample(victims, rng.randint(1, len(victims))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if rng.random() < 0.5:
                _pause(rng.uniform(0, 0.05))
        user.kill()
    deadline = time.monotonic() + BOUND_S
    while (left := marked(folder)) or os.listdir(folder):
        if time.monotonic() > deadline:
            raise AssertionError(f"seed {seed}: expected nothing to stay, found processes {left} and {os.listdir(folder)}")
        _pause(0.02)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def named_in_memory() -> set[str]:
    """What has a name in shared memory, but for that of joblib and loky, which other tests use meanwhile."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("sem.", "joblib_", "loky"))}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_cluster_killed_at_any_moment_leaves_nothing(seed: int, tmp_path: Path) -> None:
    """No process, no file; what was in shared memory has no name and went with the processes."""
    before = named_in_memory()
    run_cycle(seed, tmp_path)
    assert named_in_memory() <= before


def main() -> None:
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    before = named_in_memory()
    for seed in range(cycles):
        with tempfile.TemporaryDirectory() as folder:
            run_cycle(1000 + seed, Path(folder))
    assert named_in_memory() <= before
    print(f"{cycles} clusters opened and killed, nothing stayed")


if __name__ == "__main__":
    main()

"""What all tests share: a cluster, the profile of hypothesis, and a guard that no test run leaves a process behind."""

from __future__ import annotations

import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import psutil
import pytest

# Threads of OpenMP and OpenBLAS that wait for the others spin, and take the processors from those they wait for: where two
# processes of tests and their clusters share two cores, that was most of the time. Read when a library is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2 ** 4 cycles

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.register_profile("soak", deadline=None, print_blob=True, max_examples=1000)  # see tests/drawn.py
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

MARK = f"PARML_TEST_RUN={uuid.uuid4().hex}"
NOT_OURS = ("resource_tracker", "loky", "semaphore_tracker")  # joblib's own, which end with this process


def pytest_addoption(parser: pytest.Parser) -> None:
    engines = "inline,threads,cluster"
    parser.addoption(
        "--engines", default=engines, help=f"engines that the suite checks, separated by commas (default: {engines})"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first, lest one of two processes that share the files waits at the end for the other."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Whatever the tests start has ended when they have: children, and orphans that know this run by their environment."""
    name, value = MARK.split("=")
    os.environ[name] = value
    yield
    embedded = sys.modules.get("parml._joblib_embedded")
    if embedded is not None:
        embedded.close_embedded()  # it would end with the interpreter, which is after the guard has looked
    _, alive = psutil.wait_procs(_processes_of_this_run(), timeout=10)
    left = [f"{p.pid} {' '.join(p.cmdline())[:200]}" for p in alive if p.is_running()]
    for process in alive:
        process.kill()
    assert not left, "the tests left these processes behind:\n" + "\n".join(left)


def _processes_of_this_run() -> list[psutil.Process]:
    me = psutil.Process()
    found = {p.pid: p for p in me.children(recursive=True)}
    for process in psutil.process_iter():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if process.pid != me.pid and MARK.encode() in file.read().split(b"\0"):
                    found[process.pid] = process
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return [p for p in found.values() if not any(word in _command(p) for word in NOT_OURS)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two workers of one thread for tests that harm none of them; a test that does starts its own."""
    from parml_core.client import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster_client(cluster: Any) -> Iterator[Any]:
    """A Client to `cluster`, the default engine while the module's tests run."""
    from parml_core.client import Client

    with Client(cluster) as client:
        yield client

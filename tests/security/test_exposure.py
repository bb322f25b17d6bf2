"""What a running cluster shows to others: its ports, its secret, and what it answers to whoever should not be there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import psutil
import pytest
import xgboost as xgb

import parml.lightgbm as pl
import parml.xgboost as px
from parml_core.client import Client, LocalCluster
from parml_core.comm import my_versions
from parml_core.errors import AuthenticationError
from parml_core.runtime.specs import WorkerSpec
from parml_core.runtime.worker import Worker

BOUND_S = 20.0
ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], what: str, bound_s: float = BOUND_S) -> None:
    """Wait for something that no event tells of."""
    pause = threading.Event()
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {bound_s} s"
        pause.wait(0.005)


def family_of(cluster: LocalCluster) -> list[psutil.Process]:
    """The nanny, and every process that descends from it: scheduler, workers, ranks."""
    nanny = psutil.Process(cluster.scheduler_pid).parent()
    assert nanny is not None
    return [nanny, *nanny.children(recursive=True)]


def listening(process: psutil.Process) -> list[str]:
    """Where somebody could reach this process: listening TCP sockets, and UDP sockets."""
    return [
        connection.laddr.ip
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or (connection.status == psutil.CONN_NONE and not connection.raddr)
    ]


@pytest.fixture
def stderr(tmp_path: Path) -> Iterator[Path]:
    """What this process and those that it starts write to stderr."""
    path, former = tmp_path / "stderr", os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    yield path
    os.dup2(former, 2)
    os.close(former)


@pytest.fixture
def client() -> Iterator[Client]:
    """As a user starts it, with its dashboard, on two workers."""
    with LocalCluster(2, 1, dashboard_port=0) as cluster, Client(cluster) as client:
        yield client


class Hold(xgb.callback.TrainingCallback):
    """Tells by a file that a rank is in the middle of a training, and stays there until another file is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if epoch == 1:
            (self.folder / f"training-{os.getpid()}").touch()
            until((self.folder / "go").exists, "the test to have looked")
        return False


def trained_by(folder: Path) -> set[int]:
    """The processes of the ranks that are in the middle of a training."""
    return {int(path.name.partition("-")[2]) for path in folder.glob("training-*")}


# --- ports -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", ["host", "worker"])
def test_everything_listens_on_loopback_while_a_model_is_trained(client: Client, tmp_path: Path, ranks: str) -> None:
    """
    Scheduler, workers, status page, nanny and this process have no socket within reach of another machine, nor has the rank.

    Where several ranks are asked for, xgboost opens one for each on all interfaces, which is its own doing (README, Security).
    """
    assert client.cluster is not None
    rng = np.random.default_rng(0)
    matrix = px.DMatrix(client, rng.normal(size=(500, 3)), rng.integers(0, 2, 500))
    before = {process.pid for process in family_of(client.cluster)}
    with ThreadPoolExecutor(1) as pool:
        options = {"callbacks": [Hold(tmp_path)], "verbose_eval": False, "ranks": ranks}
        training = pool.submit(px.train, client, {"objective": "binary:logistic"}, matrix, 4, **options)
        try:
            n_ranks = 1 if ranks == "host" else 2
            until(lambda: len(trained_by(tmp_path)) == n_ranks or training.done(), "the training to be under way")
            family = family_of(client.cluster)
            seen = {process.pid: listening(process) for process in [*family, psutil.Process()]}
        finally:
            (tmp_path / "go").touch()
        assert training.result(BOUND_S)["booster"].num_boosted_rounds() == 4
    trainers = trained_by(tmp_path)
    assert trainers <= set(seen) - before  # they were looked at too
    assert sum(map(len, seen.values())) >= 4  # scheduler, page, two workers
    assert exposed(seen) == (set() if ranks == "host" else trainers)


class BeforeMeeting:
    """A callback of LightGBM. Where it arrives first, in one rank, this rank does not join the others' network until it may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        join = lgb.Booster.set_network

        def join_later(*args: Any) -> Any:
            (self.folder / f"training-{os.getpid()}").touch()
            with contextlib.suppress(FileExistsError), (self.folder / "late").open("x"):
                until((self.folder / "go").exists, "the test to have looked")
            return join(*args)

        lgb.Booster.set_network = join_later

    def __call__(self, env: Any) -> None:
        pass


class InRound:
    """A callback of LightGBM that does what `Hold` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, env: Any) -> None:
        Hold(self.folder).after_iteration(None, env.iteration, None)


@pytest.mark.parametrize("stage", [BeforeMeeting, InRound])
def test_lightgbm_listens_on_all_interfaces_until_its_ranks_have_met(client: Client, tmp_path: Path, stage: Any) -> None:
    """
    A rank that waits for others has one port on all interfaces, which is LightGBM's own doing (README, Security).

    When all are there it is closed: then everything that listens does so on loopback.
    """
    assert client.cluster is not None
    rng = np.random.default_rng(0)
    data = pl.Dataset(client, rng.normal(size=(500, 3)), rng.normal(size=500))
    before = {process.pid for process in family_of(client.cluster)}

    def seen() -> dict[int, list[str]]:
        assert client.cluster is not None
        return {process.pid: listening(process) for process in [*family_of(client.cluster), psutil.Process()]}

    with ThreadPoolExecutor(1) as pool:
        options = {"callbacks": [stage(tmp_path)], "ranks": "worker"}
        training = pool.submit(pl.train, client, {"verbosity": -1}, data, 4, **options)
        try:
            until(lambda: len(trained_by(tmp_path)) == 2 or training.done(), "the training to be under way", 2 * BOUND_S)
            trainers = trained_by(tmp_path)
            if stage is BeforeMeeting:
                until(lambda: exposed(seen()), "the rank that is not held to listen")
            found = seen()
        finally:
            (tmp_path / "go").touch()
        assert training.result(BOUND_S)["booster"].num_trees() == 4
    assert trainers <= set(found) - before  # they were looked at too
    assert sum(map(len, found.values())) >= 4  # scheduler, page, two workers
    assert len(exposed(found)) == (1 if stage is BeforeMeeting else 0) and exposed(found) <= trainers


def exposed(seen: dict[int, list[str]]) -> set[int]:
    """The processes within reach of other machines."""
    return {pid for pid, ips in seen.items() if not all(ipaddress.ip_address(ip).is_loopback for ip in ips)}


# --- the secret --------------------------------------------------------------------------------------------------------


def forms_of(secret: bytes) -> list[bytes]:
    """The secret as somebody might have written it."""
    return [
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret)[2:-1].encode(),
        base64.b64encode(secret),
        base64.urlsafe_b64encode(secret),
        secret,
    ]


def read_of_process(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


def test_secret_is_shown_by_no_process_object_page_or_task(client: Client) -> None:
    """Not among arguments and environments, not in a repr, not on the status page, not to tasks in their environment."""
    cluster = client.cluster
    assert cluster is not None and cluster.dashboard_url is not None
    client.gather(client.map(abs, range(10)))
    shown = [read_of_process(process.pid) for process in [*family_of(cluster), psutil.Process()]]
    future = client.submit(abs, -1)
    shown += [repr(thing).encode() for thing in (client, cluster, client.link, future, client.workers(), client.state())]
    shown += [json.dumps(dict(environment)).encode() for environment in client.run(lambda: dict(os.environ)).values()]
    for page in ("status", "metrics", "health", "status.js"):
        with urllib.request.urlopen(cluster.dashboard_url.replace("status", page), timeout=BOUND_S) as answer:
            shown.append(answer.read() + str(answer.headers).encode())
    assert not [text for text in shown for form in forms_of(cluster.secret) if form in text]


CHATTY = """
import logging, os, sys, threading
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from parml_core.client import Client, LocalCluster
from parml_core.errors import AuthenticationError, WorkerKilled

def fail(x):
    raise ValueError(x)

if __name__ == "__main__":
    with LocalCluster(2, 1, dashboard_port=0) as cluster, Client(cluster) as client:
        print(cluster.secret.hex(), flush=True)
        for call in (lambda: client.submit(fail, 1).result(20), lambda: client.submit(os._exit, 1).result(20),
                     lambda: Client(cluster.scheduler_address, secret=b"x" * 32, set_default=False)):
            try:
                call()
            except (ValueError, WorkerKilled, AuthenticationError) as error:
                logging.exception("as expected")
        print("done", flush=True)
"""


def test_secret_is_in_no_log_and_in_no_file_but_its_own(tmp_path: Path) -> None:
    """Not at the finest level of logging, not in tracebacks, not in what is left when all has ended."""
    program = tmp_path / "program.py"
    program.write_text(CHATTY)
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as running:
        out, log = running.communicate(timeout=BOUND_S)
    assert running.returncode == 0 and out.endswith(b"done\n"), log.decode()
    assert log.count(b"as expected") == 3 and b"refused a connection" in log
    secret = bytes.fromhex(out.split()[0].decode())
    assert not [form for form in forms_of(secret) if form in log]
    assert not list((tmp_path / "tmp").rglob("*"))


def test_secret_lies_in_no_folder_and_its_owner_alone_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask allows others."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    former = os.umask(0)
    try:
        with LocalCluster(1, dashboard_port=None) as cluster:
            holding = [path for path in tmp_path.rglob("*") if path.is_file() and cluster.secret.hex() in path.read_text()]
            assert holding == []
            file = Path(cluster.scheduler_file)
            assert cluster.secret.hex() in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o500
    finally:
        os.umask(former)


# --- those who do not belong -------------------------------------------------------------------------------------------


def start_worker(spec: WorkerSpec) -> None:
    async def start() -> None:
        worker = Worker(spec)
        await worker.start()
        await worker.close("it was let in")

    asyncio.run(asyncio.wait_for(start(), BOUND_S))


def test_worker_with_another_secret_is_refused_at_both_ends(stderr: Path, client: Client) -> None:
    """In under a second, with one text, and the cluster does not know of it."""
    cluster = client.cluster
    assert cluster is not None
    spec = WorkerSpec(cluster.scheduler_address, b"x" * 32, "stranger", 1, 0)
    began = time.monotonic()
    with pytest.raises(AuthenticationError, match="secret of the same cluster"):
        start_worker(spec)
    assert time.monotonic() - began < 1
    until(lambda: stderr.read_text().endswith("\n"), "the scheduler to say that it refused somebody", 1)
    (line,) = stderr.read_text().splitlines()
    assert "refused a connection" in line and "secret of the same cluster" in line
    assert sorted(worker.name for worker in client.workers()) == ["worker-0", "worker-1"]
    assert client.submit(abs, -1).result(BOUND_S) == 1


def test_client_of_one_cluster_is_refused_by_the_workers_of_another(client: Client) -> None:
    """The data plane asks for the secret too, not the scheduler alone."""
    from parml_core.comm import Credentials, connect
    from parml_core.protocol.messages import Hello

    async def reach(address: str) -> None:
        await connect(address, credentials=Credentials(b"x" * 32), hello=Hello("data", "stranger", my_versions()))

    addresses = [worker["address"] for worker in client.state()["workers"]]
    assert len(addresses) == 2
    for address in addresses:
        with pytest.raises(AuthenticationError):
            asyncio.run(asyncio.wait_for(reach(address), BOUND_S))


OTHER_VERSION = """
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: "99.0" if name == "parml" else version(name)
"""


def test_worker_of_another_version_is_refused_with_both_versions(stderr: Path, client: Client, tmp_path: Path) -> None:
    """The command says in one line what differs, the scheduler says so too, and the cluster goes on."""
    cluster = client.cluster
    assert cluster is not None
    (tmp_path / "sitecustomize.py").write_text(OTHER_VERSION)
    command = [sys.executable, "-m", "parml_core.cli", "worker", cluster.scheduler_file, "--name", "from-the-future"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BOUND_S, check=False)
    mine = re.escape(my_versions()["parml"])
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    assert re.search(rf"expected equal versions .*parml (99\.0 .*parml {mine}|{mine} .*parml 99\.0) ", done.stderr)
    until(lambda: "parml 99.0" in stderr.read_text(), "the scheduler to say that it refused somebody", 1)
    assert sorted(worker.name for worker in client.workers()) == ["worker-0", "worker-1"]
    assert client.gather(client.map(abs, range(5))) == list(range(5))


def test_worker_that_comes_twice_under_one_id_is_refused(client: Client) -> None:
    """Nobody takes the place of a peer that is connected."""
    from parml_core.comm import Credentials, connect
    from parml_core.errors import ConnectionLost
    from parml_core.protocol.messages import Hello

    cluster = client.cluster
    assert cluster is not None
    twin = client.workers()[0]

    async def come() -> None:
        hello = Hello("worker", twin.id, my_versions(), worker=twin, address="tcp://127.0.0.1:1")
        comm = await connect(cluster.scheduler_address, credentials=Credentials(cluster.secret), hello=hello)
        with pytest.raises(ConnectionLost):
            await comm.read()

    asyncio.run(asyncio.wait_for(come(), BOUND_S))
    assert client.gather(client.map(abs, range(20)), timeout_s=BOUND_S) == list(range(20))
    assert len(client.workers()) == 2


def test_signals_of_a_terminal_do_not_reach_the_cluster(client: Client) -> None:
    """Its processes are in sessions and groups of their own: Ctrl-C and Ctrl-\\ of a terminal end the program alone."""
    cluster = client.cluster
    assert cluster is not None
    assert all(os.getsid(process.pid) != os.getsid(0) for process in family_of(cluster))
    assert all(os.getpgid(process.pid) != os.getpgid(0) for process in family_of(cluster))
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN

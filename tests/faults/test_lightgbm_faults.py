"""A rank that is killed or stopped in the middle of a training: never a hang, and nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm as lgb
import numpy as np
import psutil
import pytest

import parml.lightgbm as pl
from parml_core.errors import GangError

_rng = np.random.default_rng(5)
X = _rng.normal(size=(2000, 4))
Y = X[:, 0] + X[:, 1] * X[:, 2]
LIMIT_S = 15.0
PARAMS = {"verbosity": -1, "num_threads": 1}
LOSSES = [
    pytest.param(signal.SIGKILL, id="SIGKILL"),
    pytest.param(signal.SIGSTOP, id="SIGSTOP", marks=pytest.mark.slow),  # silence is what tells: ten seconds of it
]


class Announce:
    """Tells a socket of the test in which process this rank runs once a round has begun."""

    before_iteration = True
    order = 0

    def __init__(self, port: int, when: int = 3) -> None:
        self.port = port
        self.when = when

    def __call__(self, env: Any) -> None:
        if env.iteration == self.when:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(str(os.getpid()).encode())


@pytest.fixture
def client() -> Iterator[Any]:
    from parml_core.client import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
        yield client


def _pids(listener: socket.socket, n: int) -> list[int]:
    """Process of each rank, once all have begun the round."""
    pids = []
    for _ in range(n):
        connection, _ = listener.accept()
        with connection:
            pids.append(int(connection.makefile().read()))
    return pids


def _training(train_set: pl.Dataset, pool: ThreadPoolExecutor, n: int, **options: Any) -> tuple[Any, list[int]]:
    """A training, by default of more rounds than anybody waits for, and the processes of its ranks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        given = {"num_boost_round": 10**7, "max_restarts": 0, "ranks": "worker" if n == 2 else "host", **options}
        given["callbacks"] = [Announce(listener.getsockname()[1])]
        return pool.submit(pl.train, None, PARAMS, train_set, **given), _pids(listener, n)


def _gone(pids: list[int]) -> bool:
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
    return not alive


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("sent", LOSSES)
def test_rank_lost_in_training_raises_soon_names_the_worker_and_leaves_nothing(
    client: Any, sent: signal.Signals, n: int
) -> None:
    """Within 15 s a GangError names the worker, the processes of all ranks are gone, and the next training works."""
    names = [worker.name for worker in client.workers()]
    train_set = pl.Dataset(client, X, Y)
    with ThreadPoolExecutor(1) as pool:
        training, pids = _training(train_set, pool, n)
        os.kill(pids[-1], sent)
        began = time.monotonic()
        error = training.exception(timeout=60)
        seconds = time.monotonic() - began
    assert isinstance(error, GangError), error
    assert seconds < LIMIT_S
    assert f"pid {pids[-1]}" in str(error), str(error)
    assert sum(name in str(error) for name in names) == 1, str(error)
    assert _gone(pids)
    again = pl.train(client, PARAMS, train_set, 3, ranks="worker")
    assert again["booster"].num_trees() == 3


def test_worker_of_a_rank_killed_raises_soon_and_the_next_training_works(client: Any) -> None:
    """When the worker dies its rank goes with it, and the data that it held is computed or sent again for the next training."""
    train_set = pl.Dataset(client, X, Y)
    with ThreadPoolExecutor(1) as pool:
        training, pids = _training(train_set, pool, 2)
        victim = client.workers()[1]
        os.kill(victim.pid, signal.SIGKILL)
        began = time.monotonic()
        error = training.exception(timeout=60)
        assert isinstance(error, GangError), error
        assert time.monotonic() - began < LIMIT_S
        assert victim.name in str(error)
    assert _gone(pids)
    assert pl.train(client, PARAMS, train_set, 3)["booster"].num_trees() == 3


def test_rank_killed_with_restarts_ends_with_the_model_of_an_undisturbed_training(client: Any) -> None:
    """Training begins anew, and since rows, ranks and bins are the same, the model is too."""
    train_set = pl.Dataset(client, X, Y)
    undisturbed = pl.train(client, PARAMS, train_set, 600, ranks="worker")["booster"]
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        announce = Announce(listener.getsockname()[1])
        options: dict[str, Any] = {"ranks": "worker", "max_restarts": 1, "callbacks": [announce]}
        training = pool.submit(pl.train, client, PARAMS, train_set, 600, **options)
        os.kill(_pids(listener, 2)[0], signal.SIGKILL)
        assert len(_pids(listener, 2)) == 2
        booster: lgb.Booster = training.result(timeout=60)["booster"]
    assert booster.model_to_string() == undisturbed.model_to_string()


def test_training_that_is_interrupted_ends_its_ranks(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the caller ends the processes of the ranks."""
    pids: list[int] = []
    wait = client.wait

    def interrupted(futures: Any, **options: Any) -> Any:
        if options.get("until") == "first_error":
            pids.extend(_pids(listener, 2))
            raise KeyboardInterrupt
        return wait(futures, **options)

    monkeypatch.setattr(client, "wait", interrupted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        callbacks = [Announce(listener.getsockname()[1])]
        with pytest.raises(KeyboardInterrupt):
            pl.train(client, PARAMS, pl.Dataset(client, X, Y), 10**7, callbacks=callbacks, ranks="worker")
    assert _gone(pids)

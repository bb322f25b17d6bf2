"""A rank or its worker that is killed or stopped at any stage of a training: it goes on, or a clear error comes, soon."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

import parml.lightgbm as pl
from parml_core.errors import GangError, TaskCancelled
from tests.faults.observer import Observer, report, seen, still_alive

_rng = np.random.default_rng(5)
ROWS = 2001  # rank 0 of two has one row more, by which it is known
X = _rng.normal(size=(ROWS, 4))
Y = (X[:, 0] + X[:, 1] * X[:, 2] + _rng.normal(size=ROWS) > 0).astype(float)
ROUNDS = 12
EVERY = 3
LIMIT_S = 15.0
KILLED = pytest.param(signal.SIGKILL, id="SIGKILL")
STOPPED = pytest.param(signal.SIGSTOP, id="SIGSTOP", marks=pytest.mark.slow)  # silence is what tells: seconds of it


class Reports:
    """Tells the test what each rank is about to do, and waits until it may: load data, a round by its number."""

    before_iteration = True
    order = 0

    def __init__(self, port: int) -> None:
        self.port = port

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        report(self.port, 0, "load")

    def __call__(self, env: Any) -> None:
        report(self.port, int(env.model.train_set.num_data() == ROWS // 2), str(env.iteration))


class Rate(float):
    """A parameter that tells the test when the model that has it is being returned from another process."""

    port: int
    owner: int

    def __deepcopy__(self, memo: Any) -> Rate:
        return self

    def __reduce__(self) -> Any:
        if os.getpid() != self.owner:
            report(self.port, 0, "end")
        return _rate, (float(self), self.port, self.owner)


def _rate(value: float, port: int, owner: int) -> Rate:
    rate = Rate(value)
    rate.port, rate.owner = port, owner
    return rate


def _params(port: int = 0, **more: Any) -> dict[str, Any]:
    rate = _rate(0.1, port, os.getpid()) if port else 0.1
    exact = {"verbosity": -1, "deterministic": True, "force_row_wise": True}
    return {**exact, "objective": "binary", "metric": ["auc", "binary_logloss"], "learning_rate": rate, **more}


@pytest.fixture(autouse=True)
def no_rank_left() -> Iterator[None]:
    """When a test is over no process of any rank is left, however its training has ended."""
    seen.clear()
    yield
    assert not still_alive(seen, timeout_s=5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from parml_core.client import LocalCluster

    settings = {"worker": {"heartbeat_s": 0.5, "rank_timeout_s": 2.0}, "scheduler": {"worker_timeout_s": 3.0}}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None, settings=settings) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    from parml_core.client import Client

    with Client(cluster) as client:
        client.wait_for_workers(2, timeout_s=20)
        yield client


@pytest.fixture(scope="module")
def uninterrupted(cluster: Any) -> dict[str, dict[str, Any]]:
    """The result without a fault, for ranks by worker and by host."""
    from parml_core.client import Client

    with Client(cluster) as client:
        return {ranks: _train(client, None, ranks=ranks) for ranks in ("worker", "host")}


def _train(client: Any, observer: Observer | None, params: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    train_set, held = pl.Dataset(client, X, Y), pl.Dataset(client, X[:500], 1 - Y[:500])
    options = {"ranks": "worker", "checkpoint_every": EVERY, "num_boost_round": ROUNDS, **options}
    if observer is not None:
        options["callbacks"] = [Reports(observer.port), *options.get("callbacks", ())]
    params = _params(observer.port if observer is not None else 0, **(params or {}))
    try:
        return pl.train(client, params, train_set, valid_sets=[train_set, held], **options)
    finally:
        if observer is not None:
            observer.close()


def _check_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result["booster"].model_to_string() == expected["booster"].model_to_string()
    assert result["history"] == expected["history"]
    assert result["booster"].best_score == expected["booster"].best_score


def _check_repeated(observer: Observer, rank: int) -> None:
    """At most one interval is repeated, and what came before the fault is not done again."""
    rounds = observer.rounds_of(rank)
    assert set(rounds) == set(range(ROUNDS))
    assert len(rounds) - ROUNDS <= EVERY


# --- training goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [KILLED, STOPPED])
@pytest.mark.parametrize(("stage", "rank"), [("load", 0), ("0", 0), ("0", 1), ("7", 0), ("7", 1), ("end", 0)])
def test_rank_lost_at_any_stage_training_goes_on_to_the_same_model(
    client: Any, uninterrupted: Any, stage: str, rank: int, sent: signal.Signals
) -> None:
    """Whichever rank, whenever: the model and the history of the uninterrupted training, soon."""
    observer = Observer(stage, rank, lambda pid: os.kill(pid, sent))
    result = _train(client, observer)
    assert observer.acted_s and time.monotonic() - observer.acted_s < LIMIT_S
    _check_same(result, uninterrupted["worker"])
    _check_repeated(observer, 0)


@pytest.mark.parametrize("sent", [KILLED, STOPPED])
@pytest.mark.parametrize("stage", ["7", "end"])
def test_only_rank_lost_training_goes_on_to_the_same_model(
    client: Any, uninterrupted: Any, stage: str, sent: signal.Signals
) -> None:
    """One rank for the host: there is no peer that could notice."""
    observer = Observer(stage, 0, lambda pid: os.kill(pid, sent))
    _check_same(_train(client, observer, ranks="host"), uninterrupted["host"])
    assert observer.acted_s and time.monotonic() - observer.acted_s < LIMIT_S
    _check_repeated(observer, 0)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("stage", ["load", "0", "7", "end"])
def test_worker_killed_at_any_stage_training_goes_on_to_the_same_model(
    client: Any, uninterrupted: Any, stage: str, index: int
) -> None:
    """Its rank dies with it, its partitions come back, another worker takes its place, and the model is the same."""
    victim = client.workers()[index]
    observer = Observer(stage, 0, lambda pid: os.kill(victim.pid, signal.SIGKILL))
    result = _train(client, observer)
    assert observer.acted_s and time.monotonic() - observer.acted_s < LIMIT_S
    _check_same(result, uninterrupted["worker"])
    _check_repeated(observer, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "index"), [("load", 0), ("0", 1), ("7", 0), ("7", 1), ("end", 0)])
def test_worker_stopped_at_any_stage_training_goes_on_to_the_same_model(
    client: Any, uninterrupted: Any, stage: str, index: int
) -> None:
    """Nobody takes its place: the rank of the host goes on on the worker that is left, with as many threads as before."""
    victim = client.workers()[index]
    observer = Observer(stage, 0, lambda pid: os.kill(victim.pid, signal.SIGSTOP))
    try:
        result = _train(client, observer, ranks="host")
    finally:
        os.kill(victim.pid, signal.SIGKILL)
    assert observer.acted_s and time.monotonic() - observer.acted_s < LIMIT_S
    _check_same(result, uninterrupted["host"])
    _check_repeated(observer, 0)


def test_three_losses_in_one_training_end_in_the_same_model(client: Any, uninterrupted: Any) -> None:
    """Each restart goes on from where the one before has come to."""
    left = [1, 5, 9]

    def again(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        left.pop(0)
        if left:
            observer._at, observer.acted_s = (str(left[0]), 0), 0.0

    observer = Observer("1", 0, again)
    _check_same(_train(client, observer), uninterrupted["worker"])
    assert left == []


def test_early_stopping_and_a_users_model_survive_a_restart_over_ranks(client: Any) -> None:
    """The best round is remembered on all ranks, and the trees of the model to go on from are there once."""
    first = pl.train(client, _params(), pl.Dataset(client, X[:300], Y[:300]), 3)["booster"]
    options: dict[str, Any] = {"num_boost_round": 50, "init_model": first}
    stop = {"early_stopping_round": 8}
    expected = _train(client, None, stop, **options)
    observer = Observer("8", 1, lambda pid: os.kill(pid, signal.SIGKILL))  # the sixth round: three are the model's
    result = _train(client, observer, stop, **options, checkpoint_every=2)
    assert observer.acted_s
    _check_same(result, expected)
    assert 0 < result["booster"].best_iteration == expected["booster"].best_iteration < 50
    assert observer.rounds_of(0).count(6) == 1  # not from the first round


def test_classes_categories_and_weights_survive_a_restart_over_ranks(client: Any) -> None:
    """Each class has a score to start from, which is in the first trees and nowhere else once there are some."""
    frame = pd.DataFrame(X, columns=list("abcd")).assign(
        k=pd.Categorical(np.where(Y > 0, "p", np.where(X[:, 3] > 0, "q", "r")))
    )
    classes = np.digitize(X[:, 0] + X[:, 1], [-1.0, 1.5])
    params = _params() | {"objective": "multiclass", "num_class": 3, "metric": ["multi_logloss"]}

    def train(**options: Any) -> dict[str, Any]:
        data = [
            pl.Dataset(client, rows, classes[: len(rows)], weight=np.abs(X[: len(rows), 2])) for rows in (frame, frame[:400])
        ]
        return pl.train(client, params, data[0], ROUNDS, valid_sets=data, ranks="worker", checkpoint_every=EVERY, **options)

    expected = train()
    observer = Observer("7", 1, lambda pid: os.kill(pid, signal.SIGKILL))
    result = train(callbacks=[Reports(observer.port)])
    observer.close()
    assert observer.acted_s
    _check_same(result, expected)
    _check_repeated(observer, 0)


@pytest.mark.parametrize("params", [{}, {"boosting": "dart", "drop_rate": 0.5}], ids=["gbdt", "dart"])
def test_rank_lost_without_checkpoints_training_begins_again(client: Any, params: dict[str, Any]) -> None:
    """checkpoint_every=0 repeats all rounds, as does what cannot go on from its trees alone, and gives the same model."""
    every = EVERY if params else 0
    observer = Observer("7", 0, lambda pid: os.kill(pid, signal.SIGKILL))
    _check_same(_train(client, observer, params, checkpoint_every=every), _train(client, None, params))
    assert observer.rounds_of(0) == [*range(8), *range(ROUNDS)]


@pytest.mark.slow
def test_worker_stopped_for_good_training_goes_on_with_fewer_ranks() -> None:
    """Nobody takes its place: the other worker goes on from the checkpoint, says so, and ends with the same model."""
    from parml_core.client import Client, LocalCluster

    settings = {"worker": {"heartbeat_s": 0.5}, "scheduler": {"worker_timeout_s": 3.0}}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_port": None, "settings": settings}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        victim = client.workers()[1]
        observer = Observer("7", 1, lambda pid: os.kill(victim.pid, signal.SIGSTOP))
        try:
            with pytest.warns(UserWarning, match="on 1 instead of 2 ranks"):
                result = _train(client, observer, {"objective": "regression", "metric": ["l2"]})
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
        assert time.monotonic() - observer.acted_s < LIMIT_S
    plain = lgb.train({**_params(), "objective": "regression", "num_threads": 1}, lgb.Dataset(X, Y), ROUNDS)
    np.testing.assert_allclose(result["booster"].predict(X), plain.predict(X), atol=1e-6)
    _check_repeated(observer, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training goes on on 1 instead of 2 ranks")  # nobody takes the place of the frozen worker
@pytest.mark.parametrize("what", ["worker", "rank"])
def test_stopped_with_default_settings_training_goes_on_within_the_limit(what: str) -> None:
    """As it comes: no more than 15 s from the moment at which a process freezes to that at which the training has ended."""
    from parml_core.client import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
        victim = client.workers()[1]
        observer = Observer("7", 1, lambda pid: os.kill(victim.pid if what == "worker" else pid, signal.SIGSTOP))
        try:
            result = _train(client, observer)
            assert time.monotonic() - observer.acted_s < LIMIT_S
        finally:
            os.kill(victim.pid, signal.SIGKILL)
    assert result["booster"].num_trees() == ROUNDS
    _check_repeated(observer, 0)


@pytest.mark.slow
def test_worker_whose_interpreter_is_kept_for_seconds_is_not_lost_by_default() -> None:
    """Compiled code that lets nothing else run in a worker for a few seconds is not taken for its death."""
    from parml_core.client import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
        before = client.workers()
        assert client.submit(_keep_the_interpreter, 6).result(timeout_s=30) == before[0].pid
        assert client.workers() == before


def _keep_the_interpreter(seconds: int) -> int:
    ctypes.PyDLL(None).usleep(seconds * 1_000_000)  # unlike a CDLL, it does not give up the lock
    return os.getpid()


# --- or a clear error comes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [KILLED, STOPPED])
@pytest.mark.parametrize(("stage", "rank"), [("load", 0), ("0", 1), ("7", 0), ("7", 1), ("end", 0)])
def test_rank_lost_without_restarts_raises_soon_and_names_the_worker(
    client: Any, stage: str, rank: int, sent: signal.Signals
) -> None:
    """With max_restarts=0 a GangError names the worker and the process, and the next training works."""
    names = [worker.name for worker in client.workers()]
    observer = Observer(stage, rank, lambda pid: os.kill(pid, sent))
    with pytest.raises(GangError, match="or allow max_restarts") as caught:
        _train(client, observer, max_restarts=0)
    assert time.monotonic() - observer.acted_s < LIMIT_S
    assert f"pid {observer.acted_on}" in str(caught.value)
    assert sum(name in str(caught.value) for name in names) == 1, str(caught.value)
    assert _train(client, None, num_boost_round=3)["booster"].num_trees() == 3


def test_only_rank_lost_without_restarts_raises_soon(client: Any) -> None:
    """One rank for the host, without a peer: the same error."""
    observer = Observer("7", 0, lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(GangError, match="or allow max_restarts"):
        _train(client, observer, ranks="host", max_restarts=0)
    assert time.monotonic() - observer.acted_s < LIMIT_S


def test_worker_of_a_rank_killed_without_restarts_raises_soon_and_the_next_training_works(client: Any) -> None:
    """When the worker dies its rank goes with it, and the data that it held is computed or sent again for the next training."""
    victim = client.workers()[1]
    observer = Observer("7", 0, lambda pid: os.kill(victim.pid, signal.SIGKILL))
    with pytest.raises(GangError, match=victim.name):
        _train(client, observer, max_restarts=0)
    assert time.monotonic() - observer.acted_s < LIMIT_S
    assert _train(client, None, num_boost_round=3)["booster"].num_trees() == 3


@pytest.mark.slow
def test_worker_stopped_without_restarts_raises_soon_and_names_it(client: Any) -> None:
    """A frozen worker is an error in the same time."""
    victim = client.workers()[0]
    observer = Observer("7", 0, lambda pid: os.kill(victim.pid, signal.SIGSTOP))
    try:
        with pytest.raises(GangError, match=f"{victim.name!r} was lost .silent"):
            _train(client, observer, max_restarts=0)
        assert time.monotonic() - observer.acted_s < LIMIT_S
    finally:
        os.kill(victim.pid, signal.SIGKILL)


def test_rank_lost_more_often_than_restarts_raises(client: Any) -> None:
    """A round that kills its rank each time ends the training after so many restarts."""

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        observer.acted_s = 0.0

    observer = Observer("4", 0, kill)
    with pytest.raises(GangError, match="after 2 restarts"):
        _train(client, observer, max_restarts=2)
    assert observer.rounds_of(0) == [0, 1, 2, 3, 4, 3, 4, 3, 4]


def test_error_of_the_users_code_is_not_tried_again(client: Any) -> None:
    """What a callback raises is the error of the training, the first time."""

    def raises(env: Any) -> None:
        if env.iteration == 4:
            raise LookupError("mine")

    observer = Observer("none", 0, lambda pid: None)
    with pytest.raises(LookupError, match="mine"):
        _train(client, observer, callbacks=[raises])
    assert observer.rounds_of(0) == [0, 1, 2, 3, 4]


def test_training_that_is_interrupted_ends_its_ranks(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the caller ends the processes of the ranks."""
    reached = threading.Event()
    observer = Observer("4", 1, lambda pid: reached.set())
    wait = client.wait

    def interrupted(futures: Any, **options: Any) -> Any:
        if options.get("until") == "first_error":
            assert reached.wait(30)
            raise KeyboardInterrupt
        return wait(futures, **options)

    monkeypatch.setattr(client, "wait", interrupted)
    with pytest.raises((KeyboardInterrupt, TaskCancelled)) as caught:
        _train(client, observer)
    assert caught.type is KeyboardInterrupt


def test_two_trainings_at_once_of_which_one_loses_a_rank_both_end_right(client: Any, uninterrupted: Any) -> None:
    """A restart takes its turn among other trainings."""
    observers = [Observer("7", 0, lambda pid: os.kill(pid, signal.SIGKILL)), Observer("none", 0, lambda pid: None)]
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(_train, client, observer) for observer in observers]
        for result in results:
            _check_same(result.result(timeout=60), uninterrupted["worker"])

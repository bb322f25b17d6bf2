"""A rank or its worker that is killed or stopped at any stage of a training: it goes on, or a clear error comes, soon."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

import parml.xgboost as px
from parml.boosting.checkpoints import Checkpoint
from parml.data import PartitionedArray
from parml.xgboost.rank import Job
from parml.xgboost.train import _Training
from parml_core.engine.inline import InlineEngine
from parml_core.errors import ClusterError, GangError, TaskCancelled
from parml_core.graph import Graph, Hints, Task
from tests.faults.observer import Observer, report, seen, still_alive

_rng = np.random.default_rng(5)
X = _rng.normal(size=(2000, 4)).astype("f4")
Y = (X[:, 0] + X[:, 1] * X[:, 2] + _rng.normal(size=2000) > 0).astype("f4")
PARAMS = {"objective": "binary:logistic", "eval_metric": ["auc", "logloss"], "max_depth": 4}
ROUNDS = 12
EVERY = 3
LIMIT_S = 15.0
STAGES = ["load", "0", "7", "end"]
KILLED = pytest.param(signal.SIGKILL, id="SIGKILL")
STOPPED = pytest.param(signal.SIGSTOP, id="SIGSTOP", marks=pytest.mark.slow)  # silence is what tells: seconds of it


class Reports(xgb.callback.TrainingCallback):
    """Tells the test what each rank is about to do, and waits until it may: load data, a round by its number, end."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._report("load")

    def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        self._report(str(epoch))
        return False

    def after_training(self, model: Any) -> Any:
        self._report("end")
        return model

    def _report(self, stage: str) -> None:
        report(self.port, xgb.collective.get_rank(), stage)


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
        dtrain = px.DMatrix(client, X, Y)
        return {
            ranks: px.train(client, PARAMS, dtrain, ROUNDS, evals=[(dtrain, "t")], ranks=ranks, verbose_eval=False)  # type: ignore[arg-type]
            for ranks in ("worker", "host")
        }


def _train(client: Any, observer: Observer, *, external: bool = False, **options: Any) -> dict[str, Any]:
    dtrain = px.DMatrix(client, _rows(), Y, external_memory=True) if external else px.DMatrix(client, X, Y)
    options = {"ranks": "worker", "checkpoint_every": EVERY, "num_boost_round": ROUNDS, **options}
    callbacks = [Reports(observer.port)]
    try:
        return px.train(client, PARAMS, dtrain, evals=[(dtrain, "t")], callbacks=callbacks, verbose_eval=False, **options)
    finally:
        observer.close()


def _rows() -> PartitionedArray:
    tasks = [Task(f"rows-of-faults:{i}", _part, (i,)) for i in range(4)]
    return PartitionedArray(Graph(tasks), [task.key for task in tasks])


def _part(i: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2000, 4)).astype("f4")[i * 500 : i * 500 + 500]


def _check_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result["booster"].save_raw("json") == expected["booster"].save_raw("json")
    assert result["history"] == expected["history"]


def _check_repeated(observer: Observer, rank: int) -> None:
    """At most one interval is repeated, and what came before the fault is not done again."""
    rounds = observer.rounds_of(rank)
    assert set(rounds) == set(range(ROUNDS))
    assert len(rounds) - ROUNDS <= EVERY


# --- training goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [KILLED, STOPPED])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
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
@pytest.mark.parametrize("stage", STAGES)
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


def test_early_stopping_survives_a_restart(client: Any) -> None:
    """The best round, and how long ago it was, are remembered: stops at the round of the uninterrupted training."""
    held = px.DMatrix(client, X[:500], 1 - Y[:500])  # gets worse: the first round is the best one
    dtrain = px.DMatrix(client, X, Y)
    options = {"evals": [(held, "h")], "early_stopping_rounds": 8, "ranks": "worker", "verbose_eval": False}
    expected = px.train(client, PARAMS, dtrain, 50, **options)
    observer = Observer("5", 1, lambda pid: os.kill(pid, signal.SIGKILL))
    result = px.train(client, PARAMS, dtrain, 50, **options, callbacks=[Reports(observer.port)], checkpoint_every=2)
    observer.close()
    assert observer.acted_s
    _check_same(result, expected)
    assert result["booster"].best_iteration == expected["booster"].best_iteration
    assert result["booster"].num_boosted_rounds() == 9


def test_learning_rates_of_a_callback_survive_a_restart(client: Any) -> None:
    """What a callback has set goes on to hold, and a callback that cannot be pickled begins anew."""

    class Unpicklable(xgb.callback.TrainingCallback):
        lock = None

        def before_training(self, model: Any) -> Any:
            self.lock = threading.Lock()
            return model

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            with self.lock:
                return False

    def callbacks() -> list[xgb.callback.TrainingCallback]:
        return [xgb.callback.LearningRateScheduler(lambda i: 0.9 / (i + 1)), Unpicklable()]

    dtrain = px.DMatrix(client, X, Y)
    expected = px.train(client, PARAMS, dtrain, ROUNDS, callbacks=callbacks(), ranks="worker")
    observer = Observer("7", 0, lambda pid: os.kill(pid, signal.SIGKILL))
    result = px.train(
        client,
        PARAMS,
        dtrain,
        ROUNDS,
        callbacks=[*callbacks(), Reports(observer.port)],
        ranks="worker",
        checkpoint_every=3,
    )
    observer.close()
    assert observer.acted_s
    _check_same(result, expected)


def test_rank_lost_without_checkpoints_training_begins_again(client: Any, uninterrupted: Any) -> None:
    """checkpoint_every=0 repeats all rounds, and gives the same model; so does a default that had no time for a checkpoint."""
    for every in (0, None):
        observer = Observer("7", 0, lambda pid: os.kill(pid, signal.SIGKILL))
        _check_same(_train(client, observer, checkpoint_every=every), uninterrupted["worker"])
        assert observer.rounds_of(0) == [*range(8), *range(ROUNDS)]


def test_random_draws_go_on_after_a_restart(client: Any) -> None:
    """Where xgboost draws rows a restart draws others, never those of the first rounds again: as good a model."""
    params = {**PARAMS, "subsample": 0.5, "seed": 7}
    dtrain = px.DMatrix(client, X, Y)
    observer = Observer("7", 0, lambda pid: os.kill(pid, signal.SIGKILL))
    callbacks = [Reports(observer.port)]
    options = {"callbacks": callbacks, "checkpoint_every": 6, "evals": [(dtrain, "t")], "verbose_eval": False}
    result = px.train(client, params, dtrain, ROUNDS, **options)
    observer.close()
    expected = px.train(client, params, dtrain, ROUNDS, evals=[(dtrain, "t")], verbose_eval=False)
    found, wanted = (r["booster"].get_dump() for r in (result, expected))
    assert found[:6] == wanted[:6] and len(found) == ROUNDS
    assert result["history"]["t"]["auc"][-1] == pytest.approx(expected["history"]["t"]["auc"][-1], abs=0.02)
    assert '"seed":"7"' in result["booster"].save_config().replace(" ", "")


def test_worker_killed_while_the_gang_waits_for_threads_training_goes_on(client: Any, uninterrupted: Any) -> None:
    """A gang that has not started has named workers of which one is gone: it does not wait for that one in vain."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(30)
        first, second = client.workers()
        busy = client.submit(_wait_for_a_byte, listener.getsockname()[1], hints=Hints(where=(second.id,)))
        connection, _ = listener.accept()
        dtrain = px.DMatrix(client, X, Y)
        options = {"evals": [(dtrain, "t")], "ranks": "worker", "verbose_eval": False}
        training = pool.submit(px.train, client, PARAMS, dtrain, ROUNDS, **options)
        while not any(gang["state"] == "waiting" for gang in client.state()["gangs"]):
            assert not training.done()
        os.kill(first.pid, signal.SIGKILL)
        while first.id in {worker.id for worker in client.workers()}:
            assert not training.done()
        client.wait_for_workers(2, timeout_s=20)
        connection.close()
        _check_same(training.result(timeout=40), uninterrupted["worker"])
        assert busy.result(timeout_s=5) == b""


def _wait_for_a_byte(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return connection.recv(1)


@pytest.mark.slow
@pytest.mark.parametrize("external", [False, True])
def test_worker_stopped_for_good_training_goes_on_with_fewer_ranks(external: bool) -> None:
    """
    Nobody takes its place: the other worker goes on from the checkpoint, says so, and ends as one machine does.

    With external memory it begins again: it has only pages with the quantiles of one rank.
    """
    from parml_core.client import Client, LocalCluster

    settings = {"worker": {"heartbeat_s": 0.5}, "scheduler": {"worker_timeout_s": 3.0}}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_port": None, "settings": settings}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        victim = client.workers()[1]

        def stop(pid: int) -> None:
            os.kill(victim.pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGSTOP)

        observer = Observer("7", 1, stop)
        try:
            with pytest.warns(UserWarning, match="on 1 instead of 2 ranks"):
                result = _train(client, observer, external=external)
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
        assert time.monotonic() - observer.acted_s < LIMIT_S
    plain: dict[str, Any] = {}
    data = xgb.DMatrix(X, Y)
    params = {**PARAMS, "nthread": 1}
    booster = xgb.train(params, data, ROUNDS, evals=[(data, "t")], evals_result=plain, verbose_eval=False)
    assert result["booster"].num_boosted_rounds() == ROUNDS
    assert result["history"]["t"]["logloss"] == pytest.approx(plain["t"]["logloss"], rel=1e-5)
    if external:
        _check_same(result, {"booster": booster, "history": plain})
        assert observer.rounds_of(0).count(0) == 2
    else:
        _check_repeated(observer, 0)


@pytest.mark.parametrize("external", [False, True])
def test_checkpoints_are_resumed_where_the_quantiles_are_theirs(monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    """Two ranks, one, two again: trees of other quantiles are gone on from with the values, or, with none at hand, left."""
    monkeypatch.setattr("parml.xgboost.cuts.MOVED_BYTES", 0)
    with InlineEngine() as engine:
        dtrain = px.DMatrix(engine, _rows(), Y, external_memory=external)
        job = Job({}, ROUNDS, dtrain.spec(256), (), True, True, {})
        kept = SimpleNamespace(latest=None)
        training = _Training(engine, job, dtrain, (), "worker", kept, b"")  # type: ignore[arg-type]
        assert training._resume_with(job, 2) == (job, None)
        of_two = kept.latest = Checkpoint(3, b"two")
        assert training._resume_with(job, 2) == (job, of_two)
        with_one, begin = training._resume_with(job, 1)
        assert begin == (None if external else of_two) and with_one.quantised == external
        if external:
            assert training._resume_with(job, 2) == (job, of_two)  # one rank has made none of its own
            training._resume_with(job, 1)
        of_one = kept.latest = Checkpoint(6, b"one")
        with_two, begin = training._resume_with(job, 2)
        assert begin == (None if external else of_one) and with_two.quantised == external
        kept.latest = Checkpoint(9, b"several")
        again, begin = training._resume_with(job, 2)
        assert begin == kept.latest and again.quantised == external


def test_checkpoints_of_few_rows_are_resumed_by_any_number_of_ranks() -> None:
    """All split at the quantiles of all rows."""
    with InlineEngine() as engine:
        dtrain = px.DMatrix(engine, _rows(), Y)
        job = Job({}, ROUNDS, dtrain.spec(256), (), True, True, {})
        kept = SimpleNamespace(latest=None)
        training = _Training(engine, job, dtrain, (), "worker", kept, b"")  # type: ignore[arg-type]
        training._resume_with(job, 2)
        kept.latest = Checkpoint(3, b"two")
        assert training._resume_with(job, 1) == (job, kept.latest)


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
    assert result["booster"].num_boosted_rounds() == ROUNDS
    _check_repeated(observer, 0)


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
    again = px.train(client, PARAMS, px.DMatrix(client, X, Y), 3, ranks="worker")
    assert again["booster"].num_boosted_rounds() == 3


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


@pytest.mark.slow
def test_all_workers_stopped_for_good_training_raises() -> None:
    """Nobody is left and nobody comes: an error within a bound, not a training that waits for ever."""
    from parml_core.client import Client, LocalCluster

    settings = {"worker": {"heartbeat_s": 0.5}, "scheduler": {"worker_timeout_s": 3.0}}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_port": None, "settings": settings}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        workers = client.workers()

        def stop(pid: int) -> None:
            for worker in workers:
                os.kill(worker.pid, signal.SIGSTOP)

        observer = Observer("7", 0, stop)
        try:
            with pytest.raises(ClusterError, match="start workers"):
                _train(client, observer, max_restarts=1)
        finally:
            for worker in workers:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
        assert time.monotonic() - observer.acted_s < 40


def test_error_of_the_users_code_is_not_tried_again(client: Any) -> None:
    """What a callback raises is the error of the training, the first time."""

    class Raises(xgb.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if epoch == 4:
                raise LookupError("mine")
            return False

    observer = Observer("none", 0, lambda pid: None)
    dtrain = px.DMatrix(client, X, Y)
    with pytest.raises(LookupError, match="mine"):
        px.train(client, PARAMS, dtrain, ROUNDS, callbacks=[Reports(observer.port), Raises()], ranks="worker")
    observer.close()
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

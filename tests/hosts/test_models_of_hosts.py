"""Trained over two and three hosts a model is that of one machine, the same whoever joined first, and all stop together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb

import parml.lightgbm as pl
import parml.xgboost as px
from parml_core.errors import InputError
from tests.hosts.network import Cluster, Host
from tests.hosts.placed import Placed

pytestmark = pytest.mark.slow

ROWS = 3000
_rng = np.random.default_rng(3)
FINE = _rng.normal(size=(ROWS, 5))
FINE[_rng.random(ROWS) < 0.1, 1] = np.nan
X = FINE.round(1)
Z = X[:, 0] + np.abs(np.nan_to_num(X[:, 1])) + np.where(X[:, 0] > 0, X[:, 2], 0) + 0.5 * _rng.normal(size=ROWS)
ORDERS = {"shuffled": np.arange(ROWS), "sorted": np.argsort(Z)}
EDGES = (0, 10, 10, 700, 701, 1900, 2500, 2500, ROWS)
LIGHTGBM = {"verbosity": -1, "num_threads": 1}
XGBOOST = {"max_depth": 4, "nthread": 1}


@pytest.fixture(params=["two_hosts", "three_hosts"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param).client


def placed(client: Any, *values: Any, edges: tuple[int, ...] = EDGES) -> list[Placed]:
    """Partitions of unequal sizes, on all workers in turns."""
    workers = [worker.id for worker in sorted(client.workers(), key=lambda worker: worker.name)]
    return [Placed(client, value, edges, workers) for value in values]


# --- the model of one machine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_lightgbm_over_hosts_predicts_what_one_machine_does(client: Any, order: str) -> None:
    """To 1e-6, with partitions of unequal sizes, also where every host has labels of its own."""
    rows, y = FINE[ORDERS[order]], Z[ORDERS[order]]
    plain = lgb.train(LIGHTGBM, lgb.Dataset(rows, y), 20)
    booster = pl.train(client, LIGHTGBM, pl.Dataset(client, *placed(client, rows, y)), 20)["booster"]
    np.testing.assert_allclose(booster.predict(FINE), plain.predict(FINE), rtol=0, atol=1e-6)
    assert booster.num_trees() == 20


KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "rmse": (Z, {}),
    "rmse of a product": (np.nan_to_num(FINE[:, 0] * FINE[:, 1]), {"max_bin": 64}),
    "logloss": ((Z > 1).astype("f4"), {"objective": "binary:logistic"}),
    "mlogloss": (np.digitize(Z, [0, 1]), {"objective": "multi:softprob", "num_class": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_xgboost_over_hosts_predicts_what_one_machine_does(client: Any, order: str, kind: str) -> None:
    """To 1e-5, since all hosts split at the quantiles of all rows; and so is the metric of all rows."""
    y, more = KINDS[kind]
    params = {**XGBOOST, **more}
    rows, y = FINE[ORDERS[order]], y[ORDERS[order]]
    history: dict[str, Any] = {}
    data = xgb.DMatrix(rows, y)
    plain = xgb.train(params, data, 20, evals=[(data, "t")], evals_result=history, verbose_eval=False)
    dtrain = px.DMatrix(client, *placed(client, rows, y))
    result = px.train(client, params, dtrain, 20, evals=[(dtrain, "t")], verbose_eval=False)
    np.testing.assert_allclose(result["booster"].predict(data), plain.predict(data), rtol=0, atol=1e-5)
    (metric,) = history["t"]
    np.testing.assert_allclose(result["history"]["t"][metric], history["t"][metric], rtol=1e-5)


# --- the same, whoever joined first ------------------------------------------------------------------------------------


def test_models_are_the_same_bit_by_bit_whoever_joined_first(
    three_hosts: Cluster, two_hosts: Cluster, hosts: list[Host]
) -> None:
    """Other workers hold the partitions, in another order, and other processes train: the models do not know of it."""
    models = []

    def train(client: Any, edges: tuple[int, ...]) -> None:
        workers = [worker["id"] for worker in client.state()["workers"]]
        parts = [Placed(client, value, edges, workers) for value in (X, Z)]
        by_lightgbm = pl.train(client, LIGHTGBM, pl.Dataset(client, *parts), 10)["booster"]
        by_xgboost = px.train(client, XGBOOST, px.DMatrix(client, *parts), 10)["booster"]
        models.append((by_lightgbm.model_to_string(), by_xgboost.save_raw("json")))

    train(three_hosts.client, EDGES)
    train(three_hosts.client, (0, ROWS))
    with two_hosts.joined_by([(hosts[0], "a-2", 1), (hosts[0], "a-1", 1)]):
        joined = [worker["name"] for worker in two_hosts.client.state()["workers"]]
        assert sorted(joined) == ["a-1", "a-2", "b", "c"] and joined[2:] == ["a-2", "a-1"]
        train(two_hosts.client, EDGES[:4] + EDGES[-1:])
    assert models[0] == models[1] == models[2]


# --- stopping early ----------------------------------------------------------------------------------------------------

CUT = 2000
BEST = CUT + np.argsort(Z[CUT:])  # rows to evaluate on, sorted by label


class Stopped:
    """Writes down how many rounds its rank has seen. A callback of LightGBM."""

    order = 0  # before early stopping

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, env: Any) -> None:
        (self.folder / f"{os.getpid()}").write_text(str(env.iteration + 1))


class StoppedInXgboost(xgb.callback.TrainingCallback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        (self.folder / f"{xgb.collective.get_rank()}").write_text(str(epoch + 1))
        return False


def rounds_by_rank(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.iterdir()]


def test_lightgbm_stops_early_on_all_hosts_where_one_machine_does(three_hosts: Cluster, tmp_path: Path) -> None:
    """The best round and the history are those of one machine, and no rank trained longer than another."""
    client = three_hosts.client
    params = {**LIGHTGBM, "learning_rate": 0.5, "metric": ["l1", "rmse"], "early_stopping_round": 4}
    data = lgb.Dataset(X[:CUT], Z[:CUT])
    history: dict[str, Any] = {}
    held = lgb.Dataset(X[BEST], Z[BEST], reference=data)
    plain = lgb.train(params, data, 200, valid_sets=[held], callbacks=[lgb.record_evaluation(history)])
    train_set = pl.Dataset(client, *placed(client, X[:CUT], Z[:CUT], edges=(0, 100, 1700, CUT)))
    valid = pl.Dataset(client, *placed(client, X[BEST], Z[BEST], edges=(0, 0, 30, ROWS - CUT)))
    result = pl.train(client, params, train_set, 200, valid_sets=[valid], callbacks=[Stopped(tmp_path)])
    assert result["booster"].best_iteration == plain.best_iteration < 190
    assert rounds_by_rank(tmp_path) == [len(result["history"]["valid_0"]["l1"])] * 3
    np.testing.assert_allclose(result["history"]["valid_0"]["l1"], history["valid_0"]["l1"], rtol=1e-6)


def test_xgboost_stops_early_on_all_hosts_where_one_machine_does(three_hosts: Cluster, tmp_path: Path) -> None:
    """The best round is that of one machine, and no rank trained longer than another."""
    client = three_hosts.client
    params = {**XGBOOST, "eta": 0.5}
    data = xgb.DMatrix(FINE[:CUT], Z[:CUT])
    plain = xgb.train(
        params, data, 200, evals=[(xgb.DMatrix(FINE[BEST], Z[BEST]), "h")], early_stopping_rounds=4, verbose_eval=False
    )
    dtrain = px.DMatrix(client, *placed(client, FINE[:CUT], Z[:CUT], edges=(0, 100, 1700, CUT)))
    valid = px.DMatrix(client, *placed(client, FINE[BEST], Z[BEST], edges=(0, 0, 30, ROWS - CUT)))
    options = {"early_stopping_rounds": 4, "callbacks": [StoppedInXgboost(tmp_path)], "verbose_eval": False}
    result = px.train(client, params, dtrain, 200, evals=[(valid, "h")], **options)
    assert result["booster"].best_iteration == plain.best_iteration < 190
    assert rounds_by_rank(tmp_path) == [len(result["history"]["h"]["rmse"])] * 3


# --- ranking -----------------------------------------------------------------------------------------------------------

SIZES = np.array([1, 29, 13, 7, 50] * (ROWS // 100))
QID = np.repeat(np.arange(len(SIZES)), SIZES)
RELEVANCE = np.digitize(Z, [-0.5, 0.5, 1.5])


def sizes_by_rank(folder: Path) -> list[int]:
    """The sizes of the groups of all ranks, which they have written down."""
    found = [np.load(path) for path in folder.iterdir()]
    assert len(found) >= 2 and min(map(len, found)) > 0
    return sorted(np.concatenate(found).tolist())


class WriteSizes:
    """A callback of LightGBM, and a metric of xgboost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, env: Any) -> None:
        np.save(self.folder / str(os.getpid()), env.model.train_set.get_group())

    def metric(self, predicted: np.ndarray, data: xgb.DMatrix) -> tuple[str, float]:
        np.save(self.folder / str(os.getpid()), np.diff(data.get_uint_info("group_ptr").astype(int)))
        return "none", 0.0


def ndcg(scores: np.ndarray, k: int = 3) -> float:
    """The mean over all groups, as LightGBM and xgboost define it."""
    found = []
    for group in np.split(np.arange(ROWS), np.cumsum(SIZES)[:-1]):
        gains = 2.0 ** RELEVANCE[group] - 1
        discounts = 1 / np.log2(np.arange(2, 2 + min(k, len(group))))
        best = (np.sort(gains)[::-1][:k] * discounts).sum()
        found.append((gains[np.argsort(-scores[group], kind="stable")][:k] * discounts).sum() / best if best else 1.0)
    return float(np.mean(found))


def test_lightgbm_ranks_over_hosts_as_one_machine_does(client: Any, tmp_path: Path) -> None:
    """Groups that even cuts would split, and that lie in several partitions, are whole: the metric is as on one machine."""
    params = {**LIGHTGBM, "objective": "lambdarank", "metric": "ndcg", "eval_at": [3]}
    plain = lgb.train(params, lgb.Dataset(X, RELEVANCE, group=SIZES), 15)
    train_set = pl.Dataset(client, *placed(client, X, RELEVANCE), group=SIZES)
    result = pl.train(client, params, train_set, 15, valid_sets=[train_set], callbacks=[WriteSizes(tmp_path)])
    assert sizes_by_rank(tmp_path) == sorted(SIZES)
    found = ndcg(result["booster"].predict(X))
    assert found == pytest.approx(ndcg(plain.predict(X)), abs=0.01)
    assert result["history"]["training"]["ndcg@3"][-1] == pytest.approx(found, abs=0.005)


def test_xgboost_ranks_over_hosts_as_one_machine_does(client: Any, tmp_path: Path) -> None:
    """As above."""
    params = {**XGBOOST, "objective": "rank:ndcg", "eval_metric": "ndcg@3"}
    plain = xgb.train(params, xgb.DMatrix(X, RELEVANCE, qid=QID), 15)
    parts = placed(client, X, RELEVANCE, QID)
    dtrain = px.DMatrix(client, parts[0], parts[1], qid=parts[2])
    options = {"custom_metric": WriteSizes(tmp_path).metric, "verbose_eval": False}
    result = px.train(client, params, dtrain, 15, evals=[(dtrain, "t")], **options)
    assert sizes_by_rank(tmp_path) == sorted(SIZES)
    found = ndcg(result["booster"].predict(xgb.DMatrix(X)))
    assert found == pytest.approx(ndcg(plain.predict(xgb.DMatrix(X))), abs=0.01)
    assert result["history"]["t"]["ndcg@3"][-1] == pytest.approx(found, abs=0.005)


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_labels_and_groups_that_cannot_be_are_refused_before_training(three_hosts: Cluster, library: str) -> None:
    """A NaN in one partition on one host, and group sizes that do not add up: an InputError, and no gang was asked for."""
    client = three_hosts.client
    gangs = client.state()["gangs"]
    y = Z.copy()
    y[2600] = np.nan
    data: Any = {"lightgbm": pl.Dataset, "xgboost": px.DMatrix}[library]
    train: Any = {"lightgbm": pl.train, "xgboost": px.train}[library]
    with pytest.raises(InputError, match="1 of 500 values NaN or infinite in partition 7"):
        train(client, {}, data(client, *placed(client, X, y)), 2)
    for sizes in (SIZES[:-1], np.append(SIZES, 3)):
        for parts in ((X, RELEVANCE), placed(client, X, RELEVANCE)):
            with pytest.raises(InputError, match=r"group sizes that add up|as many rows in group"):
                train(client, {"objective": "lambdarank"}, data(client, *parts, group=sizes), 2)
    assert client.state()["gangs"] == gangs

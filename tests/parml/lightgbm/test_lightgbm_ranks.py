"""Training over several ranks: the model of one machine, the same every time, and errors of one rank are told as its own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as ss

import parml.lightgbm as pl
from parml_core.errors import NotSupported

ROWS = 3000
_rng = np.random.default_rng(3)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
X.loc[_rng.random(ROWS) < 0.1, "b"] = np.nan
X["rare"] = (_rng.random(ROWS) < 0.004).astype(float)
Z = (X.a + X.b.fillna(0) * X.c + 0.1 * _rng.normal(size=ROWS)).to_numpy()
PARAMS = {"verbosity": -1, "num_threads": 1}
SORTED = np.argsort(Z)


def _train(client: Any, params: dict[str, Any], *args: Any, **options: Any) -> dict[str, Any]:
    return pl.train(client, {**PARAMS, **params}, *args, **{"ranks": "worker", **options})


@pytest.mark.parametrize("order", [np.arange(ROWS), SORTED], ids=["shuffled", "sorted by label"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"objective": "huber", "max_bin": 31},
        {"bin_construct_sample_cnt": 500},
        {"feature_fraction": 0.5, "monotone_constraints": [1, 0, 0, 0, 0]},
    ],
    ids=str,
)
def test_train_over_two_ranks_predicts_what_one_machine_does(cluster_client: Any, params: dict[str, Any], order: Any) -> None:
    """Bins and the initial score are those of all rows, so it is nothing how rows are spread: equal to 1e-6."""
    rows = X.iloc[order]
    y = Z[order]
    plain = lgb.train({**PARAMS, **params}, lgb.Dataset(rows, y), 20)
    booster = _train(cluster_client, params, pl.Dataset(cluster_client, rows, y), 20)["booster"]
    np.testing.assert_allclose(booster.predict(X, raw_score=True), plain.predict(X, raw_score=True), atol=1e-6)
    assert booster.num_trees() == 20
    assert booster.dump_model()["feature_infos"] == plain.dump_model()["feature_infos"]


@pytest.mark.parametrize("objective", ["binary", "multiclass", "poisson"])
def test_train_over_two_ranks_is_as_good_as_one_machine_however_rows_are_spread(cluster_client: Any, objective: str) -> None:
    """
    Where LightGBM counts rows by Hessians the loss is that of one machine within 3 %; a class may be missing on a rank.

    Rows sorted by label, where rank 0 sees one class, make the model that shuffled rows make, to 1e-6.
    """
    y = {"binary": Z > 0.3, "multiclass": np.digitize(Z, [-0.5, 0.7]), "poisson": np.exp(Z / 2)}[objective]
    metric = {"binary": "binary_logloss", "multiclass": "multi_logloss", "poisson": "poisson"}[objective]
    params = {"objective": objective} | ({"num_class": 3} if objective == "multiclass" else {})
    history: dict[str, Any] = {}
    data = lgb.Dataset(X, y)
    lgb.train({**PARAMS, **params}, data, 20, valid_sets=[data], callbacks=[lgb.record_evaluation(history)])
    predicted = []
    for order in (np.arange(ROWS), SORTED):
        train_set = pl.Dataset(cluster_client, X.iloc[order], y[order])
        held = pl.Dataset(cluster_client, X.iloc[order], y[order])
        result = _train(cluster_client, params, train_set, 20, valid_sets=[train_set, held], valid_names=["t", "h"])
        of_training, of_held = (result["history"][name][metric] for name in "th")
        np.testing.assert_allclose(of_training, of_held, rtol=1e-9)
        assert of_held[-1] == pytest.approx(history["training"][metric][-1], rel=0.03)
        predicted.append(result["booster"].predict(X))
    np.testing.assert_allclose(*predicted, atol=1e-6)
    if objective == "binary":  # what was told in training is what the model does: the initial score is in its trees
        loss = -np.mean(np.log(np.where(y, predicted[0], 1 - predicted[0])))
        assert of_held[-1] == pytest.approx(loss, rel=1e-6)


def test_train_twice_is_the_same_model_bit_by_bit(cluster_client: Any) -> None:
    """Neither ports nor processes are in a model."""
    y = (Z > 0).astype(float)
    one, two = (
        _train(cluster_client, {"objective": "binary"}, pl.Dataset(cluster_client, X, y), 10)["booster"] for _ in range(2)
    )
    assert one.model_to_string() == two.model_to_string()


def test_train_voting_and_categories_and_weights_over_two_ranks(cluster_client: Any) -> None:
    """Voting learns as well; categories and weights are those of all rows."""
    frame = X.assign(k=pd.Categorical(np.where(Z > 0, "p", np.where(_rng.random(ROWS) < 0.5, "q", "r"))))
    weight = _rng.random(ROWS) + 0.5
    y = Z + 2 * (frame.k == "q")
    train_set = pl.Dataset(cluster_client, frame, y, weight=weight)
    booster = _train(cluster_client, {"tree_learner": "voting"}, train_set, 20)["booster"]
    plain = lgb.train(PARAMS, lgb.Dataset(frame, y, weight=weight), 20)
    assert booster.pandas_categorical == plain.pandas_categorical
    errors = [np.mean((model.predict(frame) - y) ** 2) for model in (booster, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


def test_train_sparse_rows_over_two_ranks_predicts_what_one_machine_does(cluster_client: Any) -> None:
    """Sparse partitions are binned with the bins of all rows as well."""
    rows = ss.csr_matrix(np.where(_rng.random((ROWS, 20)) < 0.1, _rng.normal(size=(ROWS, 20)), 0))
    y = np.asarray(rows.sum(axis=1)).ravel()
    plain = lgb.train(PARAMS, lgb.Dataset(rows, y), 10)
    booster = _train(cluster_client, {}, pl.Dataset(cluster_client, rows, y), 10)["booster"]
    np.testing.assert_allclose(booster.predict(rows), plain.predict(rows), atol=1e-6)


def test_train_ranking_over_two_ranks_keeps_groups_whole(cluster_client: Any) -> None:
    """Groups that even cuts would split stay whole; rank metrics of held-out groups are those that the model has."""
    sizes = np.array([1, 29, 13, 7, 50] * (ROWS // 100))
    relevance = np.clip(np.digitize(Z, [-0.5, 0.5, 1.5]), 0, 3)
    params = {"objective": "lambdarank", "metric": "ndcg", "eval_at": [3]}
    data = lgb.Dataset(X, relevance, group=sizes)
    history: dict[str, Any] = {}
    lgb.train({**PARAMS, **params}, data, 10, valid_sets=[data], callbacks=[lgb.record_evaluation(history)])
    train_set = pl.Dataset(cluster_client, X, relevance, group=sizes)
    held = pl.Dataset(cluster_client, X, relevance, group=sizes)
    result = _train(cluster_client, params, train_set, 10, valid_sets=[train_set, held], valid_names=["t", "h"])
    of_training, of_held = (result["history"][name]["ndcg@3"] for name in "th")
    np.testing.assert_allclose(of_training, of_held, atol=1e-9)  # means over ranks by groups are means over groups
    assert of_held[-1] == pytest.approx(history["training"]["ndcg@3"][-1], abs=0.01)


def test_train_early_stopping_over_ranks_is_that_of_one_machine(cluster_client: Any) -> None:
    """All ranks stop at the round where one machine does, by any metric, also with evaluation rows sorted by label."""
    cut = 2000
    rows, y = X.iloc[:cut], Z[:cut]
    order = cut + np.argsort(Z[cut:])
    params = {"learning_rate": 0.5, "metric": ["l1", "rmse"], "early_stopping_round": 4}
    history: dict[str, Any] = {}
    data = lgb.Dataset(rows, y)
    held = lgb.Dataset(X.iloc[order], Z[order], reference=data)
    record = [lgb.record_evaluation(history)]
    plain = lgb.train({**PARAMS, **params}, data, 200, valid_sets=[data, held], callbacks=record)
    train_set = pl.Dataset(cluster_client, rows, y)
    valid = pl.Dataset(cluster_client, X.iloc[order], Z[order])
    result = _train(cluster_client, params, train_set, 200, valid_sets=[train_set, valid])
    assert result["booster"].best_iteration == plain.best_iteration < 200
    for name in ("training", "valid_1"):
        for metric in ("l1", "rmse"):
            np.testing.assert_allclose(result["history"][name][metric], history[name][metric], rtol=1e-9)


def test_train_callback_that_would_stop_one_rank_alone_does_what_rank_0_does(cluster_client: Any) -> None:
    """A callback with a will of its own on each rank cannot leave the others waiting."""

    def stop(env: Any) -> None:
        rows = env.model.train_set.num_data()
        if env.iteration == (3 if rows == ROWS // 2 else 5):
            raise lgb.callback.EarlyStopException(env.iteration, [("t", "l2", 1.0, False)])

    train_set = pl.Dataset(cluster_client, X[: ROWS - 1], Z[: ROWS - 1])  # the first rank has one row more
    booster = _train(cluster_client, {}, train_set, 50, callbacks=[stop])["booster"]
    assert (booster.num_trees(), booster.best_iteration) == (4, 4)


def test_train_going_on_from_a_model_over_two_ranks_equals_one_machine(cluster_client: Any) -> None:
    """Each rank starts from what the model says of its rows."""
    first = lgb.train(PARAMS, lgb.Dataset(X[:1000], Z[:1000]), 5)
    plain = lgb.train(PARAMS, lgb.Dataset(X, Z), 10, init_model=first)
    booster = _train(cluster_client, {}, pl.Dataset(cluster_client, X, Z), 10, init_model=first)["booster"]
    assert booster.num_trees() == 15
    np.testing.assert_allclose(booster.predict(X), plain.predict(X), atol=1e-6)


def test_train_init_score_and_custom_functions_over_two_ranks_equal_one_machine(cluster_client: Any) -> None:
    """Scores of rows, objectives and metrics go to the ranks that have the rows."""
    start = _rng.normal(size=ROWS)

    def objective(predicted: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        return predicted - data.get_label(), np.ones_like(predicted)

    def metric(predicted: np.ndarray, data: lgb.Dataset) -> tuple[str, float, bool]:
        return "above", float(np.median(predicted - data.get_label())), False

    params = {**PARAMS, "objective": objective, "metric": "None", "boost_from_average": False}
    data = lgb.Dataset(X, Z, init_score=start)
    history: dict[str, Any] = {}
    held = lgb.Dataset(X[:700], Z[:700], reference=data)
    plain = lgb.train(params, data, 8, valid_sets=[held], feval=metric, callbacks=[lgb.record_evaluation(history)])
    train_set = pl.Dataset(cluster_client, X, Z, init_score=start)
    valid = pl.Dataset(cluster_client, X[:700], Z[:700])
    result = _train(cluster_client, params, train_set, 8, valid_sets=valid, feval=metric)
    np.testing.assert_allclose(result["booster"].predict(X), plain.predict(X), atol=1e-6)
    np.testing.assert_allclose(result["history"]["valid_0"]["above"], history["valid_0"]["above"], atol=1e-6)


def test_train_one_rank_per_host_equals_plain_on_the_cluster(cluster_client: Any) -> None:
    """Workers of one host make one rank with all their threads: the very model of plain lightgbm."""
    threads = sum(worker.nthreads for worker in cluster_client.workers())
    plain = lgb.train({"verbosity": -1, "num_threads": threads}, lgb.Dataset(X, Z), 5)
    booster = pl.train(cluster_client, {"verbosity": -1}, pl.Dataset(cluster_client, X, Z), 5)["booster"]
    assert booster.model_to_string() == plain.model_to_string()


def test_train_error_in_one_rank_is_the_error_of_the_training_at_once(cluster_client: Any) -> None:
    """What rank 1's objective raises is what the caller sees, not the network error that rank 0 has of it."""

    def objective(predicted: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        if data.num_data() == ROWS // 2 - 1:
            raise LookupError("only here")
        return predicted - data.get_label(), np.ones_like(predicted)

    train_set = pl.Dataset(cluster_client, X[: ROWS - 1], Z[: ROWS - 1])
    began = time.monotonic()
    with pytest.raises(LookupError, match="only here"):
        _train(cluster_client, {"objective": objective}, train_set, 5)
    assert time.monotonic() - began < 10
    assert _train(cluster_client, {}, train_set, 2)["booster"].num_trees() == 2


def test_two_trainings_at_once_both_end_right(cluster_client: Any) -> None:
    """Gangs wait for each other's workers: two trainings from two threads give what each gives alone."""
    train_set = pl.Dataset(cluster_client, X, Z)
    alone = _train(cluster_client, {}, train_set, 5)["booster"].model_to_string()
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(_train, cluster_client, {}, train_set, 5) for _ in range(2)]
        assert [result.result(timeout=60)["booster"].model_to_string() for result in results] == [alone, alone]


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"linear_tree": True}, "one machine only"),
        ({"interaction_constraints": [[0], [1, 2, 3, 4]]}, "crash or hang"),
        ({"min_child_samples": 0}, "min_data_in_leaf of at least 1"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "boost_from_average=False"),
        ({"forcedsplits_filename": "splits.json"}, "one machine only"),
    ],
)
def test_train_what_cannot_be_distributed_is_refused_with_the_reason(
    cluster_client: Any, params: dict[str, Any], match: str
) -> None:
    """What LightGBM trains on one machine only, or crashes with, is refused before any rank starts."""
    with pytest.raises(NotSupported, match=match):
        _train(cluster_client, params, pl.Dataset(cluster_client, X, Z), 2)


@pytest.mark.parametrize("params", [{"objective": "l1"}, {"monotone_constraints_method": "advanced"}])
def test_train_what_is_done_otherwise_over_ranks_warns(cluster_client: Any, params: dict[str, Any]) -> None:
    """What LightGBM does otherwise over several machines is said before it does."""
    with pytest.warns(UserWarning, match="over 2 ranks: LightGBM"):
        _train(cluster_client, params, pl.Dataset(cluster_client, X, Z), 2)

"""Cross-validation gives what xgboost.cv gives."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.model_selection import KFold

import parml.xgboost as px
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError, NotSupported

ROWS = 900
_rng = np.random.default_rng(6)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
Y = (X.a + X.b * X.c + 0.5 * _rng.normal(size=ROWS) > 0).to_numpy("f4")
QID = np.repeat(np.arange(90), 10)
BINARY = {"objective": "binary:logistic", "max_depth": 3, "eval_metric": ["logloss", "auc"]}


@pytest.fixture
def engine() -> Any:
    with InlineEngine() as engine:
        yield engine


def _absolute(predicted: np.ndarray, data: xgb.DMatrix) -> tuple[str, float]:
    return "absolute", float(np.abs(predicted - data.get_label()).mean())


def _halved(dtrain: xgb.DMatrix, dtest: xgb.DMatrix, params: dict[str, Any]) -> Any:
    return dtrain, dtest, {**params, "eta": 0.05}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "five folds": {"nfold": 5, "seed": 7},
    "stratified": {"stratified": True, "nfold": 4},
    "in order": {"shuffle": False},
    "a splitter": {"folds": KFold(3, shuffle=True, random_state=1)},
    "rows": {"folds": [(np.arange(0, 600), np.arange(600, 900)), (np.arange(300, 900), np.arange(0, 300))]},
    "metrics": {"metrics": "error"},
    "metric of the user": {"custom_metric": _absolute},
    "early stopping": {"early_stopping_rounds": 2, "num_boost_round": 80},
    "fpreproc": {"fpreproc": _halved},
    "callbacks": {"callbacks": [xgb.callback.LearningRateScheduler(lambda i: 0.9 / (i + 1))]},
    "a dict": {"as_pandas": False},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_cv_equals_plain(engine: Engine, parts: Any, name: str) -> None:
    """Number for number, from any partitions."""
    options = {"num_boost_round": 6, **OPTIONS[name]}
    threads = sum(worker.nthreads for worker in engine.workers())
    expected = xgb.cv({**BINARY, "nthread": threads}, xgb.DMatrix(X, Y), **options)
    found = px.cv(engine, BINARY, px.DMatrix(engine, parts(X, 100, 100, 500), parts(Y, 100, 100, 500)), **options)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
        assert name != "early stopping" or len(found) < 80
    else:
        assert found == expected


def test_cv_ranking_equals_plain(engine: Engine) -> None:
    """Whole groups go into a fold."""
    params = {"objective": "rank:ndcg", "eval_metric": "ndcg@3", "nthread": 1}
    expected = xgb.cv(params, xgb.DMatrix(X, Y, qid=QID), 4)
    pd.testing.assert_frame_equal(px.cv(engine, params, px.DMatrix(engine, X, Y, qid=QID), 4), expected, check_exact=True)


@pytest.mark.parametrize("ranking", [False, True])
def test_cv_over_ranks_is_that_of_all_rows(cluster_client: Any, ranking: bool) -> None:
    """Two ranks find nearly the same means, areas under curves and the user's metrics included."""
    params = {"objective": "rank:pairwise", "eval_metric": "ndcg@3"} if ranking else BINARY
    fields = {"qid": QID} if ranking else {}
    options = {"num_boost_round": 5, "custom_metric": None if ranking else _absolute}
    expected = xgb.cv(params, xgb.DMatrix(X, Y, **fields), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = px.cv(cluster_client, params, px.DMatrix(cluster_client, X, Y, **fields), ranks="worker", **options)
    assert list(found.columns) == list(expected.columns)
    np.testing.assert_allclose(found.filter(like="-mean"), expected.filter(like="-mean"), atol=0.03)


def test_cv_folds_that_a_rank_has_no_rows_of_are_one_ranks_work(cluster_client: Any) -> None:
    """Rows in order: a fold lies on one of two ranks as a whole. Exactly as in plain."""
    expected = xgb.cv({**BINARY, "nthread": 1}, xgb.DMatrix(X, Y), 4, nfold=4, shuffle=False)
    found = px.cv(cluster_client, BINARY, px.DMatrix(cluster_client, X, Y), 4, nfold=4, shuffle=False, ranks="worker")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_cv_what_cannot_be_is_refused(engine: Engine, cluster_client: Any) -> None:
    """Quantised data, more folds than rows, folds beside groups, and what has one machine only."""
    dtrain = px.DMatrix(engine, X, Y)
    with pytest.raises(InputError, match="no rows to select"):
        px.cv(engine, {}, px.QuantileDMatrix(engine, X, Y))
    with pytest.raises(InputError, match="between 2 and 900 folds"):
        px.cv(engine, {}, dtrain, nfold=901)
    with pytest.raises(InputError, match="whole query groups"):
        px.cv(engine, {}, px.DMatrix(engine, X, Y, qid=QID), stratified=True)
    with pytest.raises(NotSupported, match="ams"):
        px.cv(cluster_client, {"eval_metric": "ams@0.1"}, px.DMatrix(cluster_client, X, Y), ranks="worker")

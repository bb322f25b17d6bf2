"""Cross-validation gives what lightgbm.cv gives, from any partitions and over any number of ranks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold

import parml.dataframe as pdf
import parml.lightgbm as pl
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

ROWS = 900
_rng = np.random.default_rng(6)
X = pd.DataFrame(_rng.normal(size=(ROWS, 3)), columns=list("abc"))
X["k"] = pd.Categorical(_rng.choice(list("pqrs"), ROWS))
Z = (X.a + X.b * X.c + 0.5 * _rng.normal(size=ROWS)).to_numpy()
Y = (Z > 0).astype(float)
GROUPS = np.array([7, 3, 20, 10, 10] * (ROWS // 50))
RELEVANCE = np.clip(np.digitize(Z, [-0.5, 0.5, 1.5]), 0, 3)
QUIET = {"verbosity": -1, "deterministic": True, "force_row_wise": True}
BINARY = {**QUIET, "objective": "binary", "metric": ["auc", "binary_logloss"]}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with InlineEngine() as engine:
        yield engine


def _threads(engine: Any) -> int:
    return sum(worker.nthreads for worker in engine.workers())


def _split(value: Any, n: int, engine: Any) -> Any:
    """The same rows in so many partitions."""
    if n == 1:
        return value
    frame = value if isinstance(value, pd.DataFrame) else pd.DataFrame({"value": value})
    split = pdf.from_pandas(frame, npartitions=n)
    return split if isinstance(value, pd.DataFrame) else split["value"]


def _objective(predicted: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return predicted - data.get_label(), np.ones_like(predicted)


def _absolute(predicted: np.ndarray, data: lgb.Dataset) -> tuple[str, float, bool]:
    return "absolute", float(np.abs(predicted - data.get_label()).mean()), False


def _slowed(train_set: lgb.Dataset, test_set: lgb.Dataset, params: dict[str, Any]) -> Any:
    return train_set, test_set, {**params, "learning_rate": 0.01}


FIRST = lgb.train(BINARY, lgb.Dataset(X[:300], Y[:300]), 3)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three folds": {"nfold": 3, "seed": 7},
    "not stratified": {"stratified": False},
    "in order": {"stratified": False, "shuffle": False},
    "a splitter": {"folds": KFold(3, shuffle=True, random_state=1)},
    "rows": {"folds": [(np.arange(0, 600), np.arange(600, 900)), (np.arange(899, 299, -1), np.arange(0, 300))]},
    "metrics": {"metrics": "binary_error", "eval_train_metric": True},
    "metric of the user": {"feval": _absolute},
    "early stopping": {"num_boost_round": 200, "callbacks": [lgb.early_stopping(3, verbose=False)]},
    "fpreproc": {"fpreproc": _slowed},
    "a model to go on from": {"init_model": FIRST},
    "learning rates": {"callbacks": [lgb.reset_parameter(learning_rate=lambda i: 0.9 / (i + 1))]},
}


def _check_same(found: dict[str, Any], expected: dict[str, Any], of: Any) -> None:
    """Number for number, and the models as well."""
    mine, theirs = found.pop("cvbooster"), expected.pop("cvbooster")
    assert found == expected
    assert list(found) == list(expected)
    assert (mine.best_iteration, len(mine.boosters)) == (theirs.best_iteration, len(theirs.boosters))
    for one, other in zip(mine.boosters, theirs.boosters, strict=True):
        assert one.best_iteration == other.best_iteration
        np.testing.assert_array_equal(one.predict(of), other.predict(of))


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", OPTIONS)
def test_cv_equals_plain(engine: Engine, name: str, n: int) -> None:
    """The same folds, results and models, whatever the partitions."""
    options = {"num_boost_round": 5, "return_cvbooster": True, **OPTIONS[name]}
    expected = lgb.cv({**BINARY, "num_threads": _threads(engine)}, lgb.Dataset(X, Y), **options)
    train_set = pl.Dataset(engine, _split(X, n, engine), _split(Y, n, engine))
    found = pl.cv(engine, BINARY, train_set, **options)
    if name == "early stopping":
        assert 0 < expected["cvbooster"].best_iteration < 200
    _check_same(found, expected, X)


def test_cv_custom_objective_weights_and_early_stopping_by_parameter_equal_plain(engine: Engine) -> None:
    """What is in the parameters counts, and weights are those of the rows."""
    weight = _rng.random(ROWS)
    params = {**QUIET, "objective": _objective, "metric": "l2", "early_stopping_round": 2, "num_iterations": 300, "seed": 3}
    params |= {"num_threads": _threads(engine), "learning_rate": 0.5, "bagging_fraction": 0.5, "bagging_freq": 1}
    options = {"return_cvbooster": True, "stratified": False}
    expected = lgb.cv(params, lgb.Dataset(X, Z, weight=weight), **options)
    found = pl.cv(engine, params, pl.Dataset(engine, X, Z, weight=weight), **options)
    assert len(expected["valid l2-mean"]) < 300
    _check_same(found, expected, X)


@pytest.mark.parametrize("folds", [None, [(np.arange(450), np.arange(450, 900)), (np.arange(450, 900), np.arange(450))]])
def test_cv_ranking_equals_plain(engine: Engine, folds: Any) -> None:
    """Whole groups go into a fold."""
    params = {**QUIET, "objective": "lambdarank", "metric": "ndcg", "eval_at": [3], "num_threads": _threads(engine)}
    options = {"return_cvbooster": True, "num_boost_round": 4, "nfold": 3, "folds": folds}
    expected = lgb.cv(params, lgb.Dataset(X, RELEVANCE, group=GROUPS), **options)
    _check_same(pl.cv(engine, params, pl.Dataset(engine, X, RELEVANCE, group=GROUPS), **options), expected, X)


def test_cv_fills_the_record_of_the_caller(engine: Engine) -> None:
    """As lightgbm does."""
    expected: dict[str, Any] = {}
    found: dict[str, Any] = {}
    params = {**BINARY, "num_threads": _threads(engine)}
    lgb.cv(params, lgb.Dataset(X, Y), 4, callbacks=[lgb.record_evaluation(expected)])
    pl.cv(engine, params, pl.Dataset(engine, X, Y), 4, callbacks=[lgb.record_evaluation(found)])
    assert found == expected and found["valid"]


@pytest.mark.parametrize("name", ["plain", "three folds", "early stopping", "metrics", "learning rates"])
def test_cv_over_ranks_equals_plain(cluster_client: Any, name: str) -> None:
    """Folds are trained where there is room, each on all rows: nothing is lost, and all stop at one round."""
    options = {"num_boost_round": 5, "return_cvbooster": True, **OPTIONS[name]}
    expected = lgb.cv({**BINARY, "num_threads": 1}, lgb.Dataset(X, Y), **options)
    train_set = pl.Dataset(cluster_client, _split(X, 5, cluster_client), _split(Y, 5, cluster_client))
    _check_same(pl.cv(cluster_client, BINARY, train_set, ranks="worker", **options), expected, X)


def test_cv_that_loses_a_rank_begins_again_and_equals_plain(cluster_client: Any, tmp_path: Any) -> None:
    """A lost rank costs time, not folds."""

    def dies_once(env: Any) -> None:
        if env.iteration == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    options = {"num_boost_round": 5, "return_cvbooster": True}
    expected = lgb.cv({**BINARY, "num_threads": 1}, lgb.Dataset(X, Y), **options)
    train_set = pl.Dataset(cluster_client, X, Y)
    found = pl.cv(cluster_client, BINARY, train_set, ranks="worker", callbacks=[dies_once], **options)
    assert (tmp_path / "died").exists()
    _check_same(found, expected, X)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"nfold": 1}, "between 2 and 900 folds"),
        ({"folds": [(np.arange(10), np.arange(890, 901))]}, "numbers of rows from 0 to 899"),
        ({"folds": [(np.arange(10), [])]}, "in fold 0"),
        ({"folds": iter(())}, "at least one fold"),
        ({"num_boost_round": 0}, "at least one boosting round"),
    ],
)
def test_cv_folds_that_are_none_are_refused(engine: Engine, options: dict[str, Any], match: str) -> None:
    """Rows that are not there would crash lightgbm."""
    with pytest.raises(InputError, match=match):
        pl.cv(engine, BINARY, pl.Dataset(engine, X, Y), **options)


def test_cv_ranking_without_groups_is_refused(engine: Engine) -> None:
    """There is nothing to rank within."""
    with pytest.raises(InputError, match="expected query groups"):
        pl.cv(engine, {"objective": "lambdarank"}, pl.Dataset(engine, X, RELEVANCE))

"""Predictions are plain lightgbm's, for rows in memory and for rows in partitions."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as ss

import parml.lightgbm as pl
from parml.data import PartitionedArray
from parml.testing.parts import Parts
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

_rng = np.random.default_rng(1)
X = pd.DataFrame(_rng.normal(size=(600, 4)), columns=list("abcd")).assign(k=pd.Categorical(_rng.choice(list("pq"), 600)))
Y = np.digitize(X.a + X.b * X.c, [-0.5, 0.5])
PARTS = Parts(X[:200], X[200:200], X[200:])
QUIET = {"verbosity": -1, "num_threads": 1}


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Any:
    with request.param() as engine:
        yield engine


@pytest.fixture(scope="module", params=["binary", "multiclass"])
def booster(request: pytest.FixtureRequest) -> lgb.Booster:
    if request.param == "binary":
        return lgb.train({"objective": "binary", **QUIET}, lgb.Dataset(X, Y > 0), 8)
    return lgb.train({"objective": "multiclass", "num_class": 3, **QUIET}, lgb.Dataset(X, Y), 8)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"raw_score": True},
    {"pred_contrib": True},
    {"pred_leaf": True},
    {"num_iteration": 2},
    {"start_iteration": 2, "num_iteration": 3},
    {"pred_early_stop": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_predict_equals_plain_for_every_kind_of_rows(engine: Engine, booster: lgb.Booster, options: dict[str, Any]) -> None:
    """Direct for a table, lazy in partitions for a collection and a Dataset, the same numbers in the same order."""
    expected = booster.predict(X, **options)
    np.testing.assert_array_equal(pl.predict(engine, booster, X, **options), expected)
    lazy = pl.predict(engine, {"booster": booster}, PARTS, **options)
    assert isinstance(lazy, PartitionedArray) and lazy.npartitions == 3
    np.testing.assert_array_equal(lazy.compute(engine), expected)
    of_dataset = pl.predict(engine, booster, pl.Dataset(engine, PARTS), **options)
    np.testing.assert_array_equal(of_dataset.compute(engine), expected)


def test_predict_uses_the_best_iteration_as_plain_does(engine: Engine, booster: lgb.Booster) -> None:
    """After early stopping the rounds after the best are left out, in partitions too."""
    stopped = lgb.Booster(model_str=booster.model_to_string())
    stopped.best_iteration = 3
    np.testing.assert_array_equal(pl.predict(engine, stopped, PARTS).compute(engine), booster.predict(X, num_iteration=3))
    np.testing.assert_array_equal(pl.predict(engine, stopped, PARTS, num_iteration=-1).compute(engine), booster.predict(X))


def test_predict_sparse_rows_equals_plain(engine: Engine) -> None:
    """Sparse arrays and matrices are predicted for as they are."""
    rows = ss.random(200, 6, 0.3, format="csr", random_state=0)
    model = lgb.train(QUIET, lgb.Dataset(rows, np.asarray(rows.sum(axis=1)).ravel()), 4)
    np.testing.assert_array_equal(pl.predict(None, model, ss.csr_array(rows)), model.predict(rows))


def test_predict_with_something_else_than_a_model_says_what_to_pass() -> None:
    """An estimator is no Booster."""
    with pytest.raises(TypeError, match="booster_"):
        pl.predict(None, lgb.LGBMClassifier(), X)


def test_predict_dataset_on_another_engine_raises(engine: Engine, booster: lgb.Booster) -> None:
    """Data does not follow from one engine to another unasked."""
    with InlineEngine() as other, pytest.raises(InputError, match="made with"):
        pl.predict(other, booster, pl.Dataset(engine, X))

"""Predictions some trees at a time are LightGBM's own to the last bit, whatever the model makes of its sums."""

from __future__ import annotations

import pickle
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from parml.lightgbm.leaves import MAX_COLUMNS, Model

_rng = np.random.default_rng(3)
ROWS = 2000
X = _rng.normal(size=(ROWS, 6)).astype("f4")
X[::7, 1], X[::5, 2] = np.nan, 0
NUMBERS, CLASSES, SHARES = X[:, 0] * X[:, 3] + _rng.normal(size=ROWS), _rng.integers(0, 3, ROWS), _rng.random(ROWS)
OBJECTIVES: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "regression": ({}, NUMBERS),
    "sqrt": ({"objective": "regression", "reg_sqrt": True}, NUMBERS),
    "l1": ({}, NUMBERS),
    "quantile": ({}, NUMBERS),
    "poisson": ({}, np.abs(NUMBERS)),
    "tweedie": ({}, np.abs(NUMBERS)),
    "gamma": ({}, 1 + np.abs(NUMBERS)),
    "binary": ({"sigmoid": 2.5}, CLASSES > 0),
    "cross_entropy": ({}, SHARES),
    "cross_entropy_lambda": ({}, SHARES),
    "multiclass": ({"num_class": 3}, CLASSES),
    "multiclassova": ({"num_class": 3}, CLASSES),
    "lambdarank": ({}, CLASSES),
    "categorical": ({"objective": "binary"}, CLASSES > 0),
    "dart": ({"objective": "binary", "boosting": "dart"}, CLASSES > 0),
    "goss": ({"objective": "regression", "data_sample_strategy": "goss"}, NUMBERS),
}
OPTIONS: list[dict[str, Any]] = [{}, {"raw_score": True}, {"start_iteration": 3, "num_iteration": 23}, {"num_iteration": 10**6}]


def trained(name: str, rows: np.ndarray = X, rounds: int = 35, **more: Any) -> lgb.Booster:
    params, y = OBJECTIVES[name]
    data = rows.copy()
    if name == "categorical":
        data[:, 5] = np.abs(data[:, 5] * 10).astype(int)
    group = [100] * (ROWS // 100) if name == "lambdarank" else None
    how = {"objective": name, "verbosity": -1, "num_threads": 1, "seed": 0, **params, **more}
    return lgb.train(how, lgb.Dataset(data, y, group=group, categorical_feature=[5] if name == "categorical" else []), rounds)


class Counted(Model):
    """Counts the predictions of leaves."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.calls = 0
        whole = self.booster.predict

        def predict(*args: Any, **kwargs: Any) -> Any:
            self.calls += bool(kwargs.get("pred_leaf"))
            return whole(*args, **kwargs)

        self.booster.predict = predict  # type: ignore[method-assign]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sums_of_leaves_are_the_predictions_of_lightgbm(name: str) -> None:
    booster = trained(name)
    model = Counted(booster.model_to_string())
    for options in OPTIONS:
        for rows in (X, np.asfortranarray(X.astype(float))):
            before = model.calls
            np.testing.assert_array_equal(model.predict(rows, **options), booster.predict(rows, **options))
            assert model.calls > before, "expected this to be done by leaves"


@pytest.mark.parametrize(
    ("more", "options", "rows"),
    [
        ({"linear_tree": True}, {}, X),  # leaves have no values of their own
        ({"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}, {}, X),  # an average and no sum
        ({}, {"pred_contrib": True}, X),
        ({}, {"pred_leaf": True}, X),
        ({}, {"pred_early_stop": True}, X),
        ({}, {"num_iteration": 3}, X),
        ({}, {}, X[:100]),
        ({}, {}, np.nan_to_num(X).astype(int)),
        ({}, {}, np.tile(X, 12)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_predictions_are_left_to_lightgbm(more: dict[str, Any], options: dict[str, Any], rows: np.ndarray) -> None:
    booster = trained("regression", np.tile(X, 12) if rows.shape[1] > MAX_COLUMNS else X, **more)
    model = Counted(booster.model_to_string())
    np.testing.assert_array_equal(model.predict(rows, **options), booster.predict(rows, **options))
    assert model.calls == ("pred_leaf" in options)


def test_rows_of_another_width_get_lightgbms_own_error() -> None:
    model = Model(trained("regression").model_to_string())
    with pytest.raises(lgb.basic.LightGBMError, match="number of features"):
        model.predict(X[:, :5])


def test_model_goes_to_other_workers_as_it_is() -> None:
    model = Model(trained("binary").model_to_string())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))

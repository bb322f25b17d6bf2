"""Predictions are plain xgboost's, for rows in memory and for rows in partitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb

import parml.xgboost as px
from parml.data import PartitionedArray
from parml.testing.parts import Parts
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

_rng = np.random.default_rng(1)
X = pd.DataFrame(_rng.normal(size=(600, 4)), columns=list("abcd"))
Y = np.digitize(X.a + X.b * X.c, [-0.5, 0.5])
PARTS = Parts(X[:200], X[200:200], X[200:])


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Any:
    with request.param() as engine:
        yield engine


@pytest.fixture(scope="module", params=["binary", "multiclass"])
def booster(request: pytest.FixtureRequest) -> xgb.Booster:
    if request.param == "binary":
        return xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(X, Y > 0), 5)
    return xgb.train({"objective": "multi:softprob", "num_class": 3}, xgb.DMatrix(X, Y), 5)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"output_margin": True},
    {"pred_contribs": True},
    {"pred_contribs": True, "approx_contribs": True},
    {"pred_interactions": True},
    {"pred_leaf": True},
    {"iteration_range": (0, 2)},
    {"strict_shape": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_predict_equals_plain_for_every_kind_of_rows(engine: Engine, booster: xgb.Booster, options: dict[str, Any]) -> None:
    """Direct for a table, lazy in partitions for a collection and a DMatrix, the same numbers in the same order."""
    expected = booster.predict(xgb.DMatrix(X), **options)
    np.testing.assert_array_equal(px.predict(engine, booster, X, **options), expected)
    lazy = px.predict(engine, {"booster": booster}, PARTS, **options)
    assert isinstance(lazy, PartitionedArray) and lazy.npartitions == 3
    np.testing.assert_array_equal(lazy.compute(engine), expected)
    of_matrix = px.predict(engine, booster, px.DMatrix(engine, PARTS), **options)
    np.testing.assert_array_equal(of_matrix.compute(engine), expected)


@pytest.mark.parametrize("predict_type", ["value", "margin"])
def test_inplace_predict_equals_plain(engine: Engine, booster: xgb.Booster, predict_type: str) -> None:
    """In place too, for rows in memory and in partitions."""
    expected = booster.inplace_predict(X, predict_type=predict_type)
    np.testing.assert_array_equal(px.inplace_predict(engine, booster, X, predict_type=predict_type), expected)
    lazy = px.inplace_predict(engine, booster, PARTS, predict_type=predict_type)
    np.testing.assert_array_equal(lazy.compute(engine), expected)


def test_predict_dmatrix_with_base_margin_names_and_missing(engine: Engine) -> None:
    """What a DMatrix says of its rows holds for predictions too."""
    rows = X.to_numpy().copy()
    rows[::7, 0] = -999.0
    names, margin = ["p", "q", "r", "s"], np.linspace(-1, 1, len(X))
    plain_rows = xgb.DMatrix(rows, base_margin=margin, missing=-999.0, feature_names=names)
    booster = xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(rows, Y > 0, missing=-999.0, feature_names=names), 5)
    dmatrix = px.DMatrix(engine, rows, base_margin=margin, missing=-999.0, feature_names=names)
    np.testing.assert_array_equal(px.predict(engine, booster, dmatrix).compute(engine), booster.predict(plain_rows))


def test_predict_base_margin_beside_a_collection_says_what_to_do(engine: Engine, booster: xgb.Booster) -> None:
    """A margin in memory cannot be cut to partitions that nobody has counted."""
    with pytest.raises(InputError, match="put both into a DMatrix"):
        px.predict(engine, booster, PARTS, base_margin=np.zeros(600))


def test_predict_with_something_else_than_a_model_says_what_to_pass() -> None:
    """An estimator is no Booster."""
    with pytest.raises(TypeError, match=r"get_booster\(\)"):
        px.predict(None, xgb.XGBClassifier(), X)


def test_predict_other_columns_raise_as_in_plain(engine: Engine, booster: xgb.Booster) -> None:
    """Feature names are validated in the partitions as well."""
    swapped = px.DMatrix(engine, X[["b", "a", "c", "d"]])
    with pytest.raises(ValueError, match="feature_names mismatch"):
        px.predict(engine, booster, swapped).compute(engine)


KINDS = [
    ({"booster": "dart", "rate_drop": 0.5, "seed": 1}, Y),
    ({"booster": "gblinear", "updater": "coord_descent"}, Y),
    ({"multi_strategy": "multi_output_tree"}, np.c_[Y, X.a]),
    ({"objective": "multi:softmax", "num_class": 3}, Y),
    ({"num_parallel_tree": 3, "subsample": 0.5}, Y),
    ({"objective": "survival:aft"}, Y + 1.0),
]


@pytest.mark.parametrize(("params", "y"), KINDS, ids=lambda value: str(value)[:40] if isinstance(value, dict) else "")
@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "bool", "fortran", "gaps", "pandas"])
def test_predict_rows_in_memory_are_bit_for_bit_plain(params: dict[str, Any], y: Any, kind: str) -> None:
    """With and without a matrix of xgboost's own, which our predictions avoid where they can."""
    values = X.to_numpy()
    rows: Any = {
        "float32": values.astype("f4"),
        "float64": values,
        "int64": (values * 4).astype("i8"),
        "bool": values > 0,
        "fortran": np.asfortranarray(values),
        "gaps": np.where(values > 1.5, np.nan, values) if params.get("booster") != "gblinear" else values,
        "pandas": X.assign(a=X.a > 0, b=(X.b * 4).astype(int)),
    }[kind]
    fields = {"label_lower_bound": y, "label_upper_bound": y} if "survival:aft" in params.values() else {"label": y}
    booster = xgb.train(params, xgb.DMatrix(rows, **fields), 4)
    for options in [{}, {"output_margin": True}, {"strict_shape": True}, {"iteration_range": (1, 3)}]:
        if "iteration_range" in options and params.get("booster") == "gblinear":
            continue
        np.testing.assert_array_equal(px.predict(None, booster, rows, **options), booster.predict(xgb.DMatrix(rows), **options))


def test_predict_what_plain_refuses_is_refused() -> None:
    """Infinite values, other names and another number of columns, each with xgboost's own message."""
    booster = xgb.train({}, xgb.DMatrix(X, Y), 4)
    unnamed = xgb.train({}, xgb.DMatrix(X.to_numpy(), Y), 4)
    wrong: list[tuple[xgb.Booster, Any]] = [
        (booster, X.to_numpy()),
        (booster, X[["b", "a", "c", "d"]]),
        (unnamed, np.where(X.to_numpy() > 2, np.inf, X.to_numpy())),
        (unnamed, np.where(X.to_numpy() > 2, 1e300, X.to_numpy())),
        (unnamed, X.to_numpy()[:, :3]),
        (unnamed, np.c_[X, X]),
    ]
    for model, rows in wrong:
        found = []
        for predict in (lambda m, r: m.predict(xgb.DMatrix(r)), lambda m, r: px.predict(None, m, r)):
            try:
                found.append(predict(model, rows))
            except ValueError as error:
                found.append(str(error).split("] ")[-1].split("Stack trace")[0])
        np.testing.assert_array_equal(*found)
    assert px.predict(None, booster, X.to_numpy(), validate_features=False).shape == (len(X),)

"""One long fit gives, to the last bit, what separate shorter fits give; and only where it does is it used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn import model_selection as sk
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from parml.model_selection import GridSearchCV
from parml.model_selection.paths import path_of, shortened

MULTI = make_classification(120, 8, n_informative=5, n_classes=3, random_state=0)
BINARY = make_classification(120, 8, n_informative=5, random_state=0)
REGRESSION = make_regression(120, 8, n_informative=5, noise=4.0, random_state=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


def boosters() -> dict[str, Any]:
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    x: dict[str, Any] = {"n_jobs": 1, "random_state": 0, "max_depth": 3}
    li: dict[str, Any] = {"n_jobs": 1, "random_state": 0, "verbose": -1, "min_child_samples": 5}
    return {
        "xgb": xgboost.XGBClassifier(**x),
        "xgb-sampled": xgboost.XGBClassifier(**x, subsample=0.6, colsample_bytree=0.5, colsample_bynode=0.7, learning_rate=0.1),
        "xgb-forest": xgboost.XGBRegressor(**x, num_parallel_tree=3, subsample=0.7),
        "xgb-regression": xgboost.XGBRegressor(**x, tree_method="exact"),
        "lgbm": lightgbm.LGBMClassifier(**li),
        "lgbm-sampled": lightgbm.LGBMClassifier(**li, subsample=0.6, subsample_freq=2, colsample_bytree=0.5),
        "lgbm-regression": lightgbm.LGBMRegressor(**li, reg_lambda=1.0),
    }


BOOSTERS = ["xgb", "xgb-sampled", "xgb-forest", "xgb-regression", "lgbm", "lgbm-sampled", "lgbm-regression"]
SKLEARN: list[Any] = [
    RandomForestClassifier(random_state=0),
    RandomForestRegressor(random_state=0, max_samples=0.5, max_features=0.5),
    ExtraTreesClassifier(random_state=np.random.RandomState(3), bootstrap=True, class_weight="balanced_subsample"),
    ExtraTreesRegressor(random_state=0),
    GradientBoostingClassifier(random_state=0, max_depth=2),
    GradientBoostingClassifier(random_state=0, subsample=0.5, max_features=3),
    GradientBoostingRegressor(random_state=0, loss="huber", subsample=0.7),
    HistGradientBoostingClassifier(random_state=0, max_leaf_nodes=5, max_features=0.5),
    HistGradientBoostingRegressor(random_state=0, early_stopping=False, max_leaf_nodes=5),
    AdaBoostClassifier(random_state=0),
    AdaBoostClassifier(DecisionTreeClassifier(max_depth=None), random_state=0),
    AdaBoostRegressor(random_state=0, loss="square"),
    BaggingClassifier(random_state=0, max_features=0.5),
    BaggingRegressor(random_state=0, bootstrap=False, max_samples=0.6),
    KNeighborsClassifier(),
    KNeighborsRegressor(weights="distance", algorithm="ball_tree"),
]


def outputs(model: Any, X: Any) -> list[Any]:
    methods = ("predict", "predict_proba", "decision_function")
    return [getattr(model, method)(X) for method in methods if hasattr(model, method)]


def assert_prefixes(estimator: Any) -> None:
    for X, y in [MULTI, BINARY] if hasattr(estimator, "predict_proba") else [REGRESSION]:
        path = path_of(estimator, 80, frozenset())
        assert path is not None
        weights = None if path.parameter == "n_neighbors" else np.random.default_rng(0).uniform(0.5, 2, 80)
        params = {} if weights is None else {"sample_weight": weights}
        long = clone(estimator).set_params(**{path.parameter: 13}).fit(X[:80], y[:80], **params)
        before = outputs(long, X[80:])
        for value in (1, 5, 12, 13):
            short = clone(estimator).set_params(**{path.parameter: value}).fit(X[:80], y[:80], **params)
            with shortened(long, value):
                got = outputs(long, X[80:])
            for a, b in zip(got, outputs(short, X[80:]), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b, err_msg=f"{estimator} {value}")
        for a, b in zip(before, outputs(long, X[80:]), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", range(len(SKLEARN)), ids=[f"{i}-{type(e).__name__}" for i, e in enumerate(SKLEARN)])
def test_shortened_sklearn_model_equals_a_shorter_fit(number: int) -> None:
    """Every output of the first n members is that of a model fitted with n; afterwards the model is whole again."""
    assert_prefixes(SKLEARN[number])


@pytest.mark.parametrize("name", BOOSTERS)
def test_shortened_booster_equals_a_shorter_fit(name: str) -> None:
    """The same for XGBoost and LightGBM, with sampling of rows and columns."""
    assert_prefixes(boosters()[name].set_params(n_estimators=13))


@pytest.mark.parametrize("name", ["xgb-sampled", "xgb-regression", "lgbm-sampled", "lgbm-regression"])
def test_search_over_rounds_equals_sklearn(name: str) -> None:
    """In a pipeline and alone, with scores of the rows to train with."""
    estimator = boosters()[name]
    X, y = MULTI if hasattr(estimator, "predict_proba") else REGRESSION
    grid = {"n_estimators": [2, 9, 4], "learning_rate": [0.1, 0.5]}
    options: dict[str, Any] = {"cv": 3, "return_train_score": True}
    pipe = make_pipeline(StandardScaler(), estimator)
    prefix = pipe.steps[-1][0] + "__"
    for one, params in ((estimator, grid), (pipe, {prefix + name: values for name, values in grid.items()})):
        mine = GridSearchCV(one, params, **options).fit(X, y).cv_results_
        theirs = sk.GridSearchCV(one, params, **options).fit(X, y).cv_results_
        for key in theirs:
            if "score" in key and "time" not in key:
                np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)


def test_what_is_no_prefix_is_fitted_by_itself() -> None:
    """Early stopping, other boosters, subclasses, continued models, and what fit may be told besides."""

    class Forest(RandomForestClassifier):
        pass

    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    none: list[Any] = [
        xgboost.XGBClassifier(n_estimators=5, booster="dart"),
        xgboost.XGBClassifier(n_estimators=5, booster="gblinear"),
        xgboost.XGBClassifier(n_estimators=5, early_stopping_rounds=2),
        xgboost.XGBClassifier(n_estimators=5, process_type="update"),
        xgboost.XGBClassifier(),
        xgboost.XGBRFClassifier(n_estimators=5),
        lightgbm.LGBMClassifier(boosting_type="dart"),
        lightgbm.LGBMClassifier(boosting_type="rf"),
        lightgbm.LGBMClassifier(early_stopping_round=3),
        GradientBoostingClassifier(n_iter_no_change=3),
        HistGradientBoostingClassifier(early_stopping=True),
        RandomForestClassifier(warm_start=True),
        RandomForestClassifier(n_estimators=0),
        Forest(),
        StandardScaler(),
    ]
    assert [path_of(estimator, 80, frozenset()) for estimator in none] == [None] * len(none)
    assert path_of(HistGradientBoostingClassifier(), 20_000, frozenset()) is None
    assert path_of(RandomForestClassifier(), 80, frozenset({"eval_set"})) is None


def test_neighbours_share_a_fit_only_where_the_same_tree_is_built() -> None:
    """algorithm="auto" builds none for many neighbours."""
    few, many = (path_of(KNeighborsClassifier(n), 80, frozenset()) for n in (3, 60))
    assert few is not None and many is not None and few.kind != many.kind

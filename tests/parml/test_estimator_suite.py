"""Every estimator of parml does what EstimatorSuite says."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import xgboost as xgb
from sklearn.utils.validation import _num_samples

import parml.lightgbm as pl
import parml.xgboost as px
from parml.testing.estimator_suite import ROWS, EstimatorSuite

_WEIGHTS_OF_ZERO = "trains on weights that are all zero"
_OBJECTIVE = "fit of several classes sets the parameter objective"
_DRAWN = "draws rows by their number, not by their weight"

_XGBOOST = {"check_all_zero_sample_weights_error": _WEIGHTS_OF_ZERO}
_XGBOOST_REGRESSOR = {**_XGBOOST, "check_regressor_multioutput": "predicts float32"}
_XGBOOST_CLASSIFIER = {
    **_XGBOOST,
    "check_estimators_overwrite_params": _OBJECTIVE,
    "check_dont_overwrite_parameters": _OBJECTIVE,
    "check_classifiers_multilabel_output_format_predict": "predicts labels of several columns as float64",
}
_XGBOOST_FOREST = {
    "check_sample_weight_equivalence_on_dense_data": _DRAWN,
    "check_sample_weight_equivalence_on_sparse_data": _DRAWN,
}
_LIGHTGBM = {"check_all_zero_sample_weights_error": _WEIGHTS_OF_ZERO}


class _XGBoost(EstimatorSuite):
    params = {"n_estimators": 5, "n_jobs": 1, "random_state": 0}
    fitted = ("n_features_in_", "feature_importances_", "intercept_")


class TestXGBRegressor(_XGBoost):
    estimator, plain = px.XGBRegressor, xgb.XGBRegressor
    failures = _XGBOOST_REGRESSOR


class TestXGBRFRegressor(_XGBoost):
    estimator, plain = px.XGBRFRegressor, xgb.XGBRFRegressor
    failures = {**_XGBOOST_REGRESSOR, **_XGBOOST_FOREST}


class TestXGBClassifier(_XGBoost):
    estimator, plain = px.XGBClassifier, xgb.XGBClassifier
    failures = _XGBOOST_CLASSIFIER


class TestXGBRFClassifier(_XGBoost):
    estimator, plain = px.XGBRFClassifier, xgb.XGBRFClassifier
    failures = {**_XGBOOST_CLASSIFIER, **_XGBOOST_FOREST}


class _LightGBM(EstimatorSuite):
    params = {"n_estimators": 20, "n_jobs": 1, "random_state": 0}
    fitted = ("n_features_in_", "feature_importances_", "feature_name_", "n_estimators_", "objective_")


class TestLGBMRegressor(_LightGBM):
    estimator, plain = pl.LGBMRegressor, lgb.LGBMRegressor
    failures = _LIGHTGBM


class TestLGBMClassifier(_LightGBM):
    estimator, plain = pl.LGBMClassifier, lgb.LGBMClassifier
    failures = _LIGHTGBM


# --- rankers -----------------------------------------------------------------------------------------------------------


class _OneQuery:
    """All rows are answers to one query, which scikit-learn's checks do not know of. (XGBoost weighs queries, not rows.)"""

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(X, y, group=[_num_samples(X)])  # type: ignore[misc]


class _OneQueryOfWeights:
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(X, y, group=[_num_samples(X)], sample_weight=sample_weight)  # type: ignore[misc]


class OneQueryXGBRanker(_OneQuery, px.XGBRanker): ...


class OneQueryPlainXGBRanker(_OneQuery, xgb.XGBRanker): ...


class OneQueryLGBMRanker(_OneQueryOfWeights, pl.LGBMRanker): ...


class OneQueryPlainLGBMRanker(_OneQueryOfWeights, lgb.LGBMRanker): ...


class TestXGBRanker(_XGBoost):
    estimator, plain = px.XGBRanker, xgb.XGBRanker
    failures = {}

    def for_checks(self, estimator: Any) -> Any:
        return {px.XGBRanker: OneQueryXGBRanker, xgb.XGBRanker: OneQueryPlainXGBRanker}[estimator](**self.params)

    def fit_options(self) -> dict[str, Any]:
        return {"qid": np.repeat(np.arange(ROWS // 10), 10)}


class TestLGBMRanker(_LightGBM):
    estimator, plain = pl.LGBMRanker, lgb.LGBMRanker
    failures = _LIGHTGBM

    def for_checks(self, estimator: Any) -> Any:
        return {pl.LGBMRanker: OneQueryLGBMRanker, lgb.LGBMRanker: OneQueryPlainLGBMRanker}[estimator](**self.params)

    def fit_options(self) -> dict[str, Any]:
        return {**super().fit_options(), "group": [10] * (ROWS // 10)}

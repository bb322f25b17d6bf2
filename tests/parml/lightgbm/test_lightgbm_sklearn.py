"""What parml's estimators for LightGBM have of their own; what both libraries' have stands in boosting/ and in the suite."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV

import parml.lightgbm as pl
from parml.testing.parts import cut_evenly
from parml_core.engine.base import Engine
from parml_core.errors import InputError

ROWS = 1200
_rng = np.random.default_rng(4)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
X["k"] = pd.Categorical(_rng.choice(list("pqr"), ROWS))
Z = (X.a + X.b * X.c + (X.k == "q") + 0.2 * _rng.normal(size=ROWS)).to_numpy()
CODES = np.digitize(Z, [-0.5, 1.0])
WEIGHT = _rng.random(ROWS)
QUIET = {"verbosity": -1, "n_estimators": 8}


def _both(name: str, engine: Engine, **params: Any) -> tuple[Any, Any]:
    """lightgbm's estimator and ours, on as many threads."""
    params = {**QUIET, **params}
    return getattr(lgb, name)(n_jobs=1, **params), getattr(pl, name)(client=engine, n_jobs=1, **params)


def _trees(model: Any) -> str:
    return model.booster_.model_to_string().partition("\nparameters:")[0]


LABELS = {
    "text": np.array(["low", "high", "none"])[CODES],
    "objects": np.array(["low", "high", "none"], object)[CODES],
    "1 and 2": 1 + (CODES > 0),
    "0, 2, 4": 2 * CODES,
    "bool": CODES > 1,
    "float": CODES * 2.0,
}


@pytest.mark.parametrize("chunked", [False, True], ids=["in memory", "in partitions"])
@pytest.mark.parametrize("kind", LABELS)
def test_classifier_with_any_labels_is_that_of_lightgbm(engine: Engine, kind: str, chunked: bool) -> None:
    """Same trees, classes and predictions for text, {1, 2}, {0, 2, 4} and others, and for partitions without a class."""
    order = np.argsort(CODES, kind="stable") if chunked else np.arange(ROWS)
    rows, y = X.iloc[order], LABELS[kind][order]
    plain, ours = _both("LGBMClassifier", engine)
    plain.fit(rows, y)
    assert ours.fit(cut_evenly(rows) if chunked else rows, cut_evenly(y) if chunked else y) is ours
    assert _trees(ours) == _trees(plain)
    assert ours.classes_.tolist() == plain.classes_.tolist()
    assert ours.classes_.dtype == plain.classes_.dtype
    np.testing.assert_array_equal(ours.predict(X), plain.predict(X))
    np.testing.assert_array_equal(ours.predict_proba(X), plain.predict_proba(X))
    assert ours.score(X, LABELS[kind]) == plain.score(X, LABELS[kind])
    for name in ("n_features_in_", "n_classes_", "n_estimators_", "objective_", "best_iteration_", "feature_name_"):
        assert getattr(ours, name) == getattr(plain, name)
    np.testing.assert_array_equal(ours.feature_names_in_, plain.feature_names_in_)
    np.testing.assert_array_equal(ours.feature_importances_, plain.feature_importances_)


@pytest.mark.parametrize("bad", [[None], [np.nan]], ids=str)
def test_classifier_missing_labels_are_refused(engine: Engine, bad: list[Any]) -> None:
    """A missing label is no class."""
    y = pd.Series(LABELS["objects"], dtype=object)
    y[:1] = bad
    _, ours = _both("LGBMClassifier", engine)
    with pytest.raises((InputError, ValueError), match=r"NaN|missing|unknown"):
        ours.fit(cut_evenly(X), cut_evenly(y.to_numpy()))


def test_regressor_arguments_by_position_are_those_of_lightgbm(engine: Engine) -> None:
    """lightgbm takes X, y, sample_weight and init_score in this order."""
    plain, ours = _both("LGBMRegressor", engine)
    given = [X, Z, WEIGHT, np.linspace(-1, 1, ROWS)]
    assert _trees(ours.fit(*map(cut_evenly, given))) == _trees(plain.fit(*given))


def test_ranker_without_groups_is_refused(engine: Engine) -> None:
    """As in lightgbm, also for the data to evaluate on."""
    _, ours = _both("LGBMRanker", engine)
    with pytest.raises(ValueError, match="Should set group"):
        ours.fit(X, CODES)
    with pytest.raises(ValueError, match="eval_group cannot be None"):
        ours.fit(X, CODES, group=[ROWS], eval_set=[(X, CODES)])


def test_estimator_in_a_grid_search_and_without_a_client() -> None:
    """Without a client the current engine trains; scikit-learn's search works with it."""
    search = GridSearchCV(pl.LGBMRegressor(n_jobs=1, **QUIET), {"num_leaves": [3, 7]}, cv=2).fit(X, Z)
    expected = GridSearchCV(lgb.LGBMRegressor(n_jobs=1, **QUIET), {"num_leaves": [3, 7]}, cv=2).fit(X, Z)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_classifier_over_two_ranks_encodes_labels_once(cluster_client: Any) -> None:
    """Rank 0 sees classes 0 and 1 of text labels, rank 1 classes 1 and 2: the model knows all, and predicts as one machine."""
    order = np.argsort(CODES, kind="stable")
    rows, y = X.iloc[order], LABELS["text"][order]
    ours = pl.LGBMClassifier(client=cluster_client, ranks="worker", **QUIET).fit(rows, y)
    plain = lgb.LGBMClassifier(n_jobs=1, **QUIET).fit(rows, y)
    assert ours.classes_.tolist() == plain.classes_.tolist()
    assert ours.score(X, LABELS["text"]) == pytest.approx(plain.score(X, LABELS["text"]), abs=0.04)
    chunks = ours.predict(cut_evenly(X))
    np.testing.assert_array_equal(chunks.compute(cluster_client), ours.predict(X))

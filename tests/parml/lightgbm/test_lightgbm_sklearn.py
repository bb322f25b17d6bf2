"""parml's estimators behave like lightgbm's own, on rows in memory and in partitions."""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

import parml.lightgbm as pl
from parml.data import PartitionedArray
from parml_core.engine.base import Engine, Future
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError
from parml_core.graph import Graph, Task
from parml_core.hashing import tokenize

ROWS = 1200
_rng = np.random.default_rng(4)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
X["k"] = pd.Categorical(_rng.choice(list("pqr"), ROWS))
Z = (X.a + X.b * X.c + (X.k == "q") + 0.2 * _rng.normal(size=ROWS)).to_numpy()
CODES = np.digitize(Z, [-0.5, 1.0])
WEIGHT = _rng.random(ROWS)
GROUPS = [30, 10, 20] * (ROWS // 60)
QUIET = {"verbosity": -1, "n_estimators": 8}
pytestmark = pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")


class Chunks:
    """A collection by protocol alone."""

    def __init__(self, value: Any, n: int = 3) -> None:
        edges = [round(i * len(value) / n) for i in range(n + 1)]
        parts = [value[a:b] for a, b in pairwise(edges)] + [value[:0]]
        self.keys = [f"chunk-{tokenize(n, value)}:{i}" for i in range(len(parts))]
        self.graph = Graph([Task(key, _give, ([part],)) for key, part in zip(self.keys, parts, strict=True)])

    def __parml_graph__(self) -> Graph:
        return self.graph

    def __parml_keys__(self) -> list[str]:
        return self.keys

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        return np.concatenate(results)

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Chunks:
        kept = object.__new__(Chunks)
        kept.keys = [future.key for future in futures]
        kept.graph = Graph((), dict(zip(kept.keys, futures, strict=True)))
        return kept

    def __parml_token__(self) -> str:
        return tokenize(*self.keys)


def _give(box: list[Any]) -> Any:
    return box[0]


@pytest.fixture
def engine() -> Any:
    with InlineEngine() as engine:
        yield engine


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
    assert ours.fit(Chunks(rows) if chunked else rows, Chunks(y) if chunked else y) is ours
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


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_classifier_predictions_of_a_collection_are_lazy_and_equal(engine: Engine, method: str) -> None:
    """For a collection the same in partitions, an empty one included."""
    plain, ours = _both("LGBMClassifier", engine)
    plain.fit(X, LABELS["text"])
    ours.fit(X, LABELS["text"])
    lazy = getattr(ours, method)(Chunks(X))
    assert isinstance(lazy, PartitionedArray) and lazy.npartitions == 4
    np.testing.assert_array_equal(lazy.compute(engine), getattr(plain, method)(X))
    assert ours.score(Chunks(X), Chunks(LABELS["text"])) == plain.score(X, LABELS["text"])


@pytest.mark.parametrize("chunked", [False, True], ids=["in memory", "in partitions"])
def test_classifier_early_stopping_with_weights_is_that_of_lightgbm(engine: Engine, chunked: bool) -> None:
    """Weights, class weights, metrics, evaluation sets of labels and callbacks mean what they mean to lightgbm."""
    params = {"class_weight": {"low": 2.0, "high": 1.0, "none": 0.5}, "n_estimators": 200, "learning_rate": 0.5}
    plain, ours = _both("LGBMClassifier", engine, **params)
    y, cut = LABELS["text"], 800

    def fit(model: Any, own: bool) -> Any:
        data = [X[:cut], y[:cut], WEIGHT[:cut], X[cut:], y[cut:]]
        Xt, yt, weight, Xe, ye = [Chunks(value) for value in data] if own and chunked else data
        options = {"eval_set": [(Xt, yt), (Xe, ye)], "eval_names": ["t", "e"], "eval_metric": ["logloss", "multi_error"]}
        return model.fit(Xt, yt, sample_weight=weight, callbacks=[lgb.early_stopping(3, verbose=False)], **options)

    fit(plain, False)
    fit(ours, True)
    assert 0 < plain.best_iteration_ == ours.best_iteration_ < 200
    assert (_trees(ours), ours.best_score_) == (_trees(plain), plain.best_score_)
    assert ours.evals_result_ == {name: dict(metrics) for name, metrics in plain.evals_result_.items()}
    np.testing.assert_array_equal(ours.predict_proba(X), plain.predict_proba(X))


def test_classifier_balanced_class_weight_and_eval_weights_are_those_of_lightgbm(engine: Engine) -> None:
    """Balanced weights are counted over all partitions; weights of evaluation data are its own."""
    plain, ours = _both("LGBMClassifier", engine, class_weight="balanced")
    y = LABELS["0, 2, 4"]
    options = {"eval_set": [(X[:300], y[:300])], "eval_sample_weight": [WEIGHT[:300]], "eval_class_weight": ["balanced"]}
    plain.fit(X, y, sample_weight=WEIGHT, **options)
    ours.fit(Chunks(X), Chunks(y), sample_weight=Chunks(WEIGHT), **options)
    assert _trees(ours) == _trees(plain)
    np.testing.assert_allclose(ours.evals_result_["valid_0"]["multi_logloss"], plain.evals_result_["valid_0"]["multi_logloss"])


def test_classifier_class_in_evaluation_data_only_is_refused(engine: Engine) -> None:
    """A label that training has not seen is named, before training."""
    _, ours = _both("LGBMClassifier", engine)
    y = LABELS["text"]
    seen = y != "none"
    for Xe, ye in [(X, y), (Chunks(X), Chunks(y))]:
        with pytest.raises(InputError, match=r"\['high', 'low'\], found \['none'\]"):
            ours.fit(X[seen], y[seen], eval_set=[(Xe, ye)])


@pytest.mark.parametrize("bad", [[None], [np.nan]], ids=str)
def test_classifier_missing_labels_are_refused(engine: Engine, bad: list[Any]) -> None:
    """A missing label is no class."""
    y = pd.Series(LABELS["objects"], dtype=object)
    y[:1] = bad
    _, ours = _both("LGBMClassifier", engine)
    with pytest.raises((InputError, ValueError), match=r"NaN|missing|unknown"):
        ours.fit(Chunks(X), Chunks(y.to_numpy()))


@pytest.mark.parametrize("chunked", [False, True], ids=["in memory", "in partitions"])
def test_regressor_is_that_of_lightgbm(engine: Engine, chunked: bool) -> None:
    """Positional arguments, init score, custom objective and metric."""

    def objective(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return y_pred - y_true, np.ones_like(y_true)

    def metric(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[str, float, bool]:
        return "worst", float(np.abs(y_pred - y_true).max()), False

    plain, ours = _both("LGBMRegressor", engine, objective=objective)
    given = [X, Z, WEIGHT, np.linspace(-1, 1, ROWS)]
    plain.fit(*given, eval_set=[(X, Z)], eval_metric=["l1", metric])
    given = [Chunks(value) for value in given] if chunked else given
    ours.fit(*given, eval_set=[(given[0], given[1])], eval_metric=["l1", metric])
    assert _trees(ours) == _trees(plain)
    assert ours.evals_result_ == {name: dict(metrics) for name, metrics in plain.evals_result_.items()}
    assert ours.score(X, Z) == plain.score(X, Z)


@pytest.mark.parametrize("chunked", [False, True], ids=["in memory", "in partitions"])
def test_ranker_is_that_of_lightgbm(engine: Engine, chunked: bool) -> None:
    """Groups of training and evaluation data, and where to cut the metric."""
    plain, ours = _both("LGBMRanker", engine)
    options = {"group": GROUPS, "eval_set": [(X[:60], CODES[:60])], "eval_group": [[30, 30]], "eval_at": [2, 4]}
    plain.fit(X, CODES, **options)
    ours.fit(Chunks(X, 7) if chunked else X, CODES, **options)
    assert _trees(ours) == _trees(plain)
    assert ours.evals_result_ == {name: dict(metrics) for name, metrics in plain.evals_result_.items()}
    with pytest.raises(ValueError, match="Should set group"):
        ours.fit(X, CODES)


def test_estimator_parameters_clone_and_pickle(engine: Engine) -> None:
    """Parameters are those of lightgbm; the client is none: a clone has it, a pickle has not, and both predict."""
    ours = pl.LGBMClassifier(client=engine, ranks="worker", max_depth=3, extra_trees=True, **QUIET)
    assert ours.get_params() == lgb.LGBMClassifier(max_depth=3, extra_trees=True, **QUIET).get_params()
    assert ours.set_params(num_leaves=5, max_restarts=0).num_leaves == 5
    copy = clone(ours)
    assert (copy.client, copy.ranks, copy.max_restarts) == (engine, "worker", 0)
    assert copy.get_params() == ours.get_params()
    kept = pickle.loads(pickle.dumps(ours.fit(X, CODES)))
    assert kept.client is None
    np.testing.assert_array_equal(kept.predict(X), ours.predict(X))
    for name in ("LGBMClassifier", "LGBMRegressor", "LGBMRanker"):
        of = [inspect.signature(getattr(module, name).fit).parameters for module in (lgb, pl)]
        assert list(of[0]) == list(of[1])


def test_estimator_in_a_grid_search_and_without_a_client() -> None:
    """Without a client the current engine trains; scikit-learn's search works with it."""
    search = GridSearchCV(pl.LGBMRegressor(**QUIET), {"num_leaves": [3, 7]}, cv=2).fit(X, Z)
    expected = GridSearchCV(lgb.LGBMRegressor(**QUIET), {"num_leaves": [3, 7]}, cv=2).fit(X, Z)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_classifier_over_two_ranks_encodes_labels_once(cluster_client: Any) -> None:
    """Rank 0 sees classes 0 and 1 of text labels, rank 1 classes 1 and 2: the model knows all, and predicts as one machine."""
    order = np.argsort(CODES, kind="stable")
    rows, y = X.iloc[order], LABELS["text"][order]
    ours = pl.LGBMClassifier(client=cluster_client, ranks="worker", **QUIET).fit(rows, y)
    plain = lgb.LGBMClassifier(n_jobs=1, **QUIET).fit(rows, y)
    assert ours.classes_.tolist() == plain.classes_.tolist()
    assert ours.score(X, LABELS["text"]) == pytest.approx(plain.score(X, LABELS["text"]), abs=0.04)
    chunks = ours.predict(Chunks(X))
    np.testing.assert_array_equal(chunks.compute(cluster_client), ours.predict(X))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LGBMClassifier", "LGBMRegressor"])
def test_estimator_passes_the_checks_that_lightgbm_passes(name: str) -> None:
    """Of scikit-learn's checks for estimators ours fails none that lightgbm's own passes."""

    few = {"verbosity": -1, "n_estimators": 2, "n_jobs": 1}

    def failed(estimator: Any) -> set[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {r["check_name"] for r in check_estimator(estimator, on_fail=None, on_skip=None) if r["status"] == "failed"}

    assert failed(getattr(pl, name)(**few)) <= failed(getattr(lgb, name)(**few))

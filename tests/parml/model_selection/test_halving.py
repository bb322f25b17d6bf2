"""Successive halving gives what scikit-learn's gives, to the last bit, in all but times; each rung is one plan."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import randint
from sklearn import model_selection as sk
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from parml.model_selection import HalvingGridSearchCV, HalvingRandomSearchCV
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.graph import Graph

X, Y = make_classification(150, 8, n_informative=5, n_classes=3, random_state=0)
XR, YR = make_regression(120, 6, n_informative=4, noise=3.0, random_state=0)
GROUPS = np.arange(150) % 7
TREE = DecisionTreeClassifier(random_state=0)
TREE_GRID = {"max_depth": [1, 2, 3], "min_samples_split": [2, 5, 9], "criterion": ["gini", "entropy"]}
FOREST = RandomForestClassifier(random_state=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


def assert_same_search(mine: Any, theirs: Any) -> None:
    """All of cv_results_ but times, and every attribute of the fit."""
    keys = [key for key in theirs.cv_results_ if "_time" not in key]
    assert keys == [key for key in mine.cv_results_ if "_time" not in key]
    assert {"iter", "n_resources"} <= set(keys)
    for key in keys:
        a, b = mine.cv_results_[key], theirs.cv_results_[key]
        if key == "params":
            assert [repr(p) for p in a] == [repr(p) for p in b]
        elif key.startswith("param_"):
            assert repr(a.tolist()) == repr(b.tolist())
        else:
            assert a.dtype == b.dtype, key
            np.testing.assert_array_equal(a, b, err_msg=key)
    names = [name for name in vars(theirs) if name.endswith("_") and name != "refit_time_" and not name.startswith("_")]
    assert {"n_candidates_", "n_resources_", "n_iterations_", "n_remaining_candidates_", "best_index_"} <= set(names)
    for name in names:
        if name not in ("cv_results_", "best_estimator_", "scorer_"):
            assert repr(getattr(mine, name)) == repr(getattr(theirs, name)), name


CASES: dict[str, tuple[str, Any, Any, tuple[Any, ...], dict[str, Any]]] = {
    "samples": ("Grid", TREE, TREE_GRID, (X, Y), {}),
    "samples-factor-2": ("Grid", TREE, TREE_GRID, (X, Y), {"factor": 2, "min_resources": "smallest", "max_resources": 120}),
    "aggressive": ("Grid", TREE, TREE_GRID, (X, Y), {"aggressive_elimination": True, "max_resources": 60}),
    "no-train-score": ("Grid", TREE, TREE_GRID, (X, Y), {"return_train_score": False, "refit": False}),
    "trees": (
        "Grid", FOREST, {"max_depth": [1, 3], "min_samples_leaf": [1, 2, 4]}, (X, Y),
        {"resource": "n_estimators", "max_resources": 18},
    ),
    "boosting": (
        "Random", GradientBoostingClassifier(random_state=0), {"max_depth": [1, 2, 3], "learning_rate": [0.1, 0.5]}, (X, Y),
        {"resource": "n_estimators", "max_resources": 9, "n_candidates": 5, "scoring": "neg_log_loss"},
    ),
    "pipeline": (
        "Grid", make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
        {"standardscaler__with_mean": [True, False], "logisticregression__C": [0.01, 0.1, 1.0]}, (X, Y),
        {"resource": "logisticregression__max_iter", "max_resources": 90, "min_resources": 10},
    ),
    "random": ("Random", TREE, {"max_depth": randint(1, 9), "min_samples_split": randint(2, 20)}, (X, Y), {}),
    "random-exhaust": (
        "Random", TREE, {"max_depth": randint(1, 9)}, (X, Y), {"n_candidates": 9, "min_resources": "exhaust"}
    ),
    "regression": ("Grid", Ridge(), {"alpha": [0.01, 0.1, 1.0, 10.0]}, (XR, YR), {"scoring": "neg_mean_absolute_error"}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_halving_of_each_kind_equals_sklearn(name: str) -> None:
    """cv_results_, rungs, what is best, and its predictions are scikit-learn's."""
    kind, estimator, space, data, options = CASES[name]
    options = {"cv": 3, "random_state": 0, **options}
    mine = {"Grid": HalvingGridSearchCV, "Random": HalvingRandomSearchCV}[kind](estimator, space, **options).fit(*data)
    theirs = getattr(sk, f"Halving{kind}SearchCV")(estimator, space, **options).fit(*data)
    assert_same_search(mine, theirs)
    assert len(theirs.n_candidates_) > 1 and len(set(theirs.cv_results_["mean_test_score"])) > 1
    if options.get("refit", True):
        np.testing.assert_array_equal(mine.predict(data[0]), theirs.predict(data[0]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["inline", "cluster"])
def test_halving_on_each_engine_equals_sklearn(where: str, request: pytest.FixtureRequest) -> None:
    """The engine is of no importance to the result."""
    engine = InlineEngine() if where == "inline" else request.getfixturevalue("cluster_client")
    for name in ("samples", "trees") if where == "inline" else ("trees",):
        _, estimator, space, data, options = CASES[name]
        options = {"cv": 3, "random_state": 0, **options}
        mine = HalvingGridSearchCV(estimator, space, client=engine, **options).fit(*data)
        assert_same_search(mine, sk.HalvingGridSearchCV(estimator, space, **options).fit(*data))


def test_halving_with_groups_and_generator_equals_sklearn() -> None:
    """groups reach the splitter, and a generator is drawn from in scikit-learn's order."""
    results = []
    for kind in (HalvingGridSearchCV, sk.HalvingGridSearchCV):
        search = kind(TREE, TREE_GRID, cv=sk.GroupKFold(3), random_state=np.random.RandomState(3))
        results.append(search.fit(X, Y, groups=GROUPS))
    for key in ("mean_test_score", "split0_train_score", "iter"):
        np.testing.assert_array_equal(results[0].cv_results_[key], results[1].cv_results_[key])


class Picky(ClassifierMixin, BaseEstimator):
    """Fails for some settings; otherwise as good as its rank."""

    def __init__(self, rank: int = 0, rounds: int = 1) -> None:
        self.rank, self.rounds = rank, rounds

    def fit(self, X: Any, y: Any) -> Picky:
        if self.rank % 4 == 3:
            raise ValueError("no fit")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.roll(np.resize(self.classes_, len(X)), self.rank)


def test_halving_with_failing_candidates_equals_sklearn() -> None:
    """They get error_score, lose the rung, and warn as often."""
    searches, said = [], []
    for kind in (HalvingGridSearchCV, sk.HalvingGridSearchCV):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {"resource": "rounds", "max_resources": 9, "cv": 3, "random_state": 0}
            searches.append(kind(Picky(), {"rank": list(range(9))}, **options).fit(X, Y))
        said.append([str(w.message).splitlines()[:3] for w in caught])
    assert_same_search(*searches)
    assert said[0] == said[1] and said[0]
    with pytest.raises(ValueError, match="no fit"):
        HalvingGridSearchCV(Picky(), {"rank": [0, 3]}, error_score="raise", cv=3).fit(X, Y)
    with pytest.raises(ValueError, match="Cannot use resource=nothing"):
        HalvingGridSearchCV(Picky(), {"rank": [0, 3]}, resource="nothing", max_resources=9, cv=3).fit(X, Y)


class Watched(ThreadsEngine):
    """Counts what it gets."""

    def __init__(self) -> None:
        super().__init__(2)
        self.graphs: list[int] = []
        self.scattered: list[int] = []

    def submit_graph(self, graph: Graph, wants: Any) -> Any:
        wants = list(wants)
        self.graphs.append(len(wants))
        return super().submit_graph(graph, wants)

    def scatter(self, values: Sequence[Any], *, replicas: int = 1) -> Any:
        self.scattered.append(len(values))
        return super().scatter(values, replicas=replicas)


def test_each_rung_is_one_graph_and_data_are_sent_once() -> None:
    """Rungs of 9, 3 and 1 candidates on 3 folds; X and y go in one scatter. And clone keeps the client."""
    with Watched() as engine:
        grid = {"max_depth": [1, 2, 3], "min_samples_split": [2, 5, 9]}
        search = HalvingGridSearchCV(
            FOREST, grid, resource="n_estimators", max_resources=9, cv=3, refit=False, client=engine
        ).fit(X, Y)
        assert search.n_candidates_ == [9, 3, 1]
        assert engine.graphs == [27, 9, 3]
        assert engine.scattered == [2]
        assert clone(search).client is engine

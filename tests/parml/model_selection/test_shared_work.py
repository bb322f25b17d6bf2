"""Equal work is done once; and what is interrupted ends."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn import model_selection as sk
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline
from threadpoolctl import threadpool_info, threadpool_limits

from parml.model_selection import GridSearchCV, cross_val_predict
from parml.model_selection.fit import Surroundings
from parml.model_selection.plan import Call, plan
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.graph.order import order

X, Y = make_classification(60, 6, n_informative=4, random_state=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


class Counting(TransformerMixin, BaseEstimator):
    """Leaves a file for each fit and each transform, whichever process it is in."""

    def __init__(self, directory: str = "", factor: float = 1.0, name: str = "t") -> None:
        self.directory, self.factor, self.name = directory, factor, name

    def fit(self, X: Any, y: Any = None) -> Counting:
        Path(self.directory, f"{self.name}-fit-{uuid.uuid4()}").touch()
        return self

    def transform(self, X: Any) -> Any:
        Path(self.directory, f"{self.name}-transform-{uuid.uuid4()}").touch()
        return X * self.factor


class ThreadsOfBlas(ClassifierMixin, BaseEstimator):
    """Its score is how many threads BLAS may use while it is fitted."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any = None) -> ThreadsOfBlas:
        self.threads_ = max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return self

    def score(self, X: Any, y: Any = None) -> float:
        return float(self.threads_)


@pytest.mark.parametrize(("n_threads", "want"), [(4, max(joblib.cpu_count() // 4, 1)), (1, 7)])
def test_fits_beside_each_other_in_this_process_share_its_processors(n_threads: int, want: int) -> None:
    with ThreadsEngine(n_threads) as engine, threadpool_limits(7, "blas"):
        search = GridSearchCV(ThreadsOfBlas(), {"number": [1, 2]}, cv=2, client=engine).fit(X, Y)
        assert set(search.cv_results_["mean_test_score"]) == {want}
        assert max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas") == 7


class CountingForest(RandomForestClassifier):
    """No path: a subclass may do anything."""

    def __init__(self, n_estimators: int = 100, directory: str = "") -> None:
        super().__init__(n_estimators, random_state=0)
        self.directory = directory

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CountingForest:
        Path(self.directory, f"forest-fit-{uuid.uuid4()}").touch()
        return super().fit(X, y, sample_weight)


def count(directory: Path, start: str) -> int:
    return sum(name.startswith(start) for name in os.listdir(directory))


@pytest.fixture(params=["inline", "threads", "cluster"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "cluster":
        yield request.getfixturevalue("cluster_client")
    else:
        with InlineEngine() if request.param == "inline" else ThreadsEngine(2) as engine:
            yield engine


def pipeline(directory: Path) -> Pipeline:
    return Pipeline([("slow", Counting(str(directory))), ("clf", LogisticRegression(max_iter=20))])


def test_expensive_transformer_is_fitted_once_for_each_setting_and_fold(engine: Engine, tmp_path: Path) -> None:
    """2 settings × 12 of the model × 3 folds: 6 fits instead of 72, and one for the refit; results stay scikit-learn's."""
    grid = {"slow__factor": [1.0, 2.0], "clf__C": np.logspace(-2, 2, 12)}
    mine = GridSearchCV(pipeline(tmp_path), grid, cv=3, client=engine, refit=False).fit(X, Y)
    assert count(tmp_path, "t-fit") == 6
    assert count(tmp_path, "t-transform") == 12, "the rows to train with and those to test with, once each"
    theirs = sk.GridSearchCV(pipeline(tmp_path), grid, cv=3, refit=False).fit(X, Y)
    assert count(tmp_path, "t-fit") == 6 + 72
    np.testing.assert_array_equal(mine.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])


def test_parts_of_unions_and_column_transformers_are_fitted_once(tmp_path: Path) -> None:
    """Where one part changes, the others are not fitted again; also when nested."""
    a, b = Counting(str(tmp_path), name="a"), Counting(str(tmp_path), name="b")
    for whole in (FeatureUnion([("a", a), ("b", b)]), ColumnTransformer([("a", a, [0, 1]), ("b", b, slice(2, 5))])):
        pipe = Pipeline([("in", Pipeline([("all", whole)])), ("clf", KNeighborsClassifier())])
        before = count(tmp_path, "a-fit"), count(tmp_path, "b-fit")
        GridSearchCV(
            pipe, {"in__all__b__factor": [1.0, 2.0, 3.0], "clf__weights": ["uniform", "distance"]}, cv=2, refit=False
        ).fit(X, Y)
        assert (count(tmp_path, "a-fit") - before[0], count(tmp_path, "b-fit") - before[1]) == (2, 6)


def test_path_fits_the_longest_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four values of n_estimators, two of depth, three folds: six fits."""
    fitted: list[int] = []
    real = RandomForestClassifier.fit

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        fitted.append(self.n_estimators)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(RandomForestClassifier, "fit", fit)
    grid = {"n_estimators": [2, 7, 3, 5], "max_depth": [1, 2]}
    GridSearchCV(RandomForestClassifier(random_state=0), grid, cv=3, refit=False, client=InlineEngine()).fit(X, Y)
    assert fitted == [7] * 6


def test_subclass_of_a_path_estimator_is_fitted_for_each_value(tmp_path: Path) -> None:
    """It may override anything."""
    GridSearchCV(CountingForest(directory=str(tmp_path)), {"n_estimators": [2, 3]}, cv=2, refit=False).fit(X, Y)
    assert count(tmp_path, "forest-fit") == 4


def test_searches_on_a_cluster_equal_sklearn(cluster_client: Any) -> None:
    """In other processes, with read-only arrays; nested searches and cross_val_predict too."""
    pipe = Pipeline([("power", Power()), ("clf", RandomForestClassifier(random_state=0, n_jobs=2))])
    grid = {"clf__n_estimators": [2, 6], "power__power": [1, 2]}
    mine = GridSearchCV(pipe, grid, cv=3, client=cluster_client, return_train_score=True).fit(X, Y)
    theirs = sk.GridSearchCV(pipe, grid, cv=3, return_train_score=True).fit(X, Y)
    for key in theirs.cv_results_:
        if "score" in key and "time" not in key:
            np.testing.assert_array_equal(mine.cv_results_[key], theirs.cv_results_[key])
    inner = GridSearchCV(LogisticRegression(max_iter=20), {"C": [0.1, 1.0]}, cv=2, client=cluster_client)
    found = cross_val_predict(inner, X, Y, cv=2, client=cluster_client)
    np.testing.assert_array_equal(
        found, sk.cross_val_predict(sk.GridSearchCV(inner.estimator, inner.param_grid, cv=2), X, Y, cv=2)
    )
    assert clone(inner).client is cluster_client


class Power(TransformerMixin, BaseEstimator):
    def __init__(self, power: int = 1) -> None:
        self.power = power

    def fit(self, X: Any, y: Any = None) -> Power:
        return self

    def transform(self, X: Any) -> Any:
        return X**self.power


GATES: dict[str, Any] = {}


class Gated(ClassifierMixin, BaseEstimator):
    """Says that it runs, waits to be let go on, counts."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any) -> Gated:
        self.classes_ = np.unique(y)
        GATES["started"].append(self.number)
        GATES["running"].set()
        GATES["go"].wait(20)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.classes_[0])


class Interrupting(ThreadsEngine):
    """Its user presses Ctrl-C while it waits."""

    def submit_graph(self, *args: Any, **kwargs: Any) -> Any:
        self.futures = super().submit_graph(*args, **kwargs)
        return self.futures

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        assert GATES["running"].wait(20)
        raise KeyboardInterrupt


def test_keyboard_interrupt_cancels_what_has_not_begun() -> None:
    """No task of the search begins after it, and those that ran end."""
    GATES.update(started=[], running=threading.Event(), go=threading.Event())
    with Interrupting(1) as engine:
        with pytest.raises(KeyboardInterrupt):
            GridSearchCV(Gated(), {"number": list(range(8))}, cv=2, client=engine).fit(X, Y)
        GATES["go"].set()
        done, pending = ThreadsEngine.wait(engine, engine.futures, timeout_s=20)
        assert not pending and len(done) == 16
    assert len(GATES["started"]) == 1


def test_plan_names_equal_work_equally_and_other_work_otherwise() -> None:
    """The graph alone: 3 folds, 2 stages for each, an evaluation for each candidate and fold."""
    values = [np.zeros((6, 2)), np.zeros(6)]
    with InlineEngine() as engine:
        futures = engine.scatter(values)
        pipe = Pipeline([("slow", Counting()), ("clf", LogisticRegression())])
        folds = list(sk.KFold(3).split(values[0]))
        grid = list(sk.ParameterGrid({"slow__factor": [1.0, 2.0], "clf__C": [0.1, 1.0, 10.0]}))
        fixed = {"scorer": get_scorer("accuracy"), "fit_params": {}, "score_params": {}}
        calls = [
            Call(_fit_and_score, (clone(pipe), *values), {**fixed, "train": train, "test": test, "parameters": parameters})
            for parameters in grid
            for train, test in folds
        ]
        surroundings = Surroundings({}, ())
        made = plan(calls, list(zip(values, futures, strict=True)), surroundings, "x")
        groups = Counter(key.partition("-")[0] for key in made.graph)
        assert groups == {"fold": 3, "labels": 3, "stage": 6, "evaluate": 18}
        assert len(set(made.answers)) == 18 and made.graph.futures.keys() == {future.key for future in futures}
        assert plan(calls, list(zip(values, futures, strict=True)), surroundings, "x").wants == made.wants
        alone = plan(calls, list(zip(values, futures, strict=True)), surroundings, "x", share=False)
        assert len(alone.graph) == 18 and {at for _, at in alone.answers} == {None}


def test_fits_that_take_longest_begin_first() -> None:
    """Else a worker would begin with one of them when the others have nothing left."""
    began: list[int] = []

    class Noting(InlineEngine):
        def submit_graph(self, graph: Any, wants: Any) -> Any:
            jobs = [graph[key].args[2] for key in sorted(graph, key=order(graph).__getitem__) if key.startswith("evaluate")]
            began.extend(-1 if job.estimator.max_depth is None else job.estimator.max_depth for job in jobs)
            return super().submit_graph(graph, wants)

    grid = {"max_depth": [2, 5, None], "n_estimators": [2, 4]}
    with Noting() as engine:
        search = GridSearchCV(RandomForestClassifier(random_state=0), grid, cv=2, client=engine, refit=False).fit(X, Y)
    assert began == [-1, -1, 5, 2, 5, 2], "the last fit on a fold follows the one before it, and frees the fold"
    assert [params["max_depth"] for params in search.cv_results_["params"]] == [2, 2, 5, 5, None, None]


def _fit_and_score() -> None:
    """Bears the name of scikit-learn's; a plan calls nothing."""

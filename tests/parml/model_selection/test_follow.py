"""Searches that go on after a crash, return what is done when interrupted, and show how far they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import model_selection as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from parml.model_selection import GridSearchCV, HalvingGridSearchCV, HyperbandSearchCV, RandomizedSearchCV
from parml.model_selection.follow import Checkpoint
from parml.model_selection.plan import Call
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

X, Y = load_iris(return_X_y=True)
GRID = {"max_depth": [1, 2, 3, 4], "min_samples_leaf": [1, 5]}


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


class CountingTree(DecisionTreeClassifier):
    """Leaves a file for each fit."""

    def __init__(self, max_depth: Any = None, min_samples_leaf: Any = 1, directory: str = "") -> None:
        super().__init__(max_depth=max_depth, min_samples_leaf=min_samples_leaf, random_state=0)
        self.directory = directory

    def fit(self, X: Any, y: Any) -> CountingTree:
        Path(self.directory, f"fit-{uuid.uuid4()}").touch()
        return super().fit(X, y)


def assert_same_results(mine: Any, theirs: Any) -> None:
    for key in theirs.cv_results_:
        if "_time" not in key:
            a, b = mine.cv_results_[key], theirs.cv_results_[key]
            assert repr(list(a)) == repr(list(b)), key
    assert mine.best_params_ == theirs.best_params_ and mine.best_score_ == theirs.best_score_


def fits_in(directory: Path) -> int:
    return sum(name.startswith("fit-") for name in os.listdir(directory))


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_search_with_checkpoint_fits_nothing_twice(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The second search reads all; a wider one fits what is new; results, times too, are the same."""
    fits, saved = tmp_path / "fits", tmp_path / "saved"
    fits.mkdir()
    engine = ThreadsEngine(2) if where == "threads" else request.getfixturevalue("cluster_client")
    options = {"cv": 3, "client": engine, "checkpoint": saved, "refit": False, "return_train_score": True}
    first = GridSearchCV(CountingTree(directory=str(fits)), GRID, **options).fit(X, Y)
    assert fits_in(fits) == len(list(saved.iterdir())) == 24
    again = GridSearchCV(CountingTree(directory=str(fits)), GRID, **options).fit(X, Y)
    assert fits_in(fits) == 24
    assert_same_results(again, first)
    assert again.cv_results_["mean_fit_time"].tolist() == first.cv_results_["mean_fit_time"].tolist()
    wider = {**GRID, "max_depth": [1, 2, 3, 4, 5]}
    mine = RandomizedSearchCV(CountingTree(directory=str(fits)), wider, n_iter=10, random_state=0, **options).fit(X, Y)
    assert fits_in(fits) == 24 + 6
    theirs = sk.RandomizedSearchCV(
        CountingTree(directory=str(fits)), wider, n_iter=10, random_state=0, cv=3, refit=False, return_train_score=True
    ).fit(X, Y)
    assert_same_results(mine, theirs)


def test_other_data_folds_scorer_or_settings_are_computed_anew(tmp_path: Path) -> None:
    """Whatever changes a result changes its name."""
    fits, saved = tmp_path / "fits", tmp_path / "saved"
    fits.mkdir()
    grid = {"max_depth": [1, 2]}
    count = 0
    for data, options in [
        ((X, Y), {}),
        ((X + 1e-9, Y), {}),
        ((X, Y), {"cv": 4}),
        ((X, Y), {"scoring": "f1_macro"}),
        ((X, Y), {"scoring": ["accuracy", "f1_macro"]}),
        ((X, Y), {"return_train_score": True}),
        ((X, Y), {"error_score": 0.0}),
    ]:
        full = {"cv": 3, "refit": False, **options}
        mine = GridSearchCV(CountingTree(directory=str(fits)), grid, checkpoint=saved, **full).fit(*data)
        count += 2 * full["cv"]
        assert fits_in(fits) == count, options
        theirs = sk.GridSearchCV(CountingTree(directory=str(tmp_path)), grid, **full).fit(*data)
        for key in theirs.cv_results_:
            if key.startswith(("mean_test", "std_test", "split0", "rank")):
                np.testing.assert_array_equal(mine.cv_results_[key], theirs.cv_results_[key])


def test_damaged_file_is_computed_again(tmp_path: Path) -> None:
    """A disk may lose what was written last."""
    options = {"cv": 3, "checkpoint": tmp_path}
    pipe = Pipeline([("scale", StandardScaler()), ("tree", DecisionTreeClassifier(random_state=0))])
    first = GridSearchCV(pipe, {"tree__max_depth": [1, 2]}, **options).fit(X, Y)
    files = sorted(tmp_path.iterdir())
    files[0].write_text(files[0].read_text()[:20])
    assert_same_results(GridSearchCV(pipe, {"tree__max_depth": [1, 2]}, **options).fit(X, Y), first)
    assert json.loads(files[0].read_text())["n_test_samples"] == 50 and len(files) == 6


CRASHING = """
import os, sys
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier
from parml.model_selection import GridSearchCV
from parml.model_selection import follow
from parml_core.engine.threads import ThreadsEngine

class Dying(follow.Checkpoint):
    written = 0
    def save(self, call, result):
        super().save(call, result)
        Dying.written += 1
        if Dying.written == 10:
            os._exit(7)

import parml.model_selection.search as search
search.Checkpoint = Dying
grid = {"max_depth": [1, 2, 3, 4], "min_samples_leaf": [1, 5]}
GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=3, checkpoint=sys.argv[1], client=ThreadsEngine(2)).fit(
    *load_iris(return_X_y=True)
)
"""


def test_search_goes_on_after_the_process_has_died(tmp_path: Path) -> None:
    """Another process finds the 10 results of the one that died, adds 14, and has scikit-learn's results."""
    done = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == 7
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(before) == 10
    tree = DecisionTreeClassifier(random_state=0)
    mine = GridSearchCV(tree, GRID, cv=3, checkpoint=tmp_path).fit(X, Y)
    assert_same_results(mine, sk.GridSearchCV(tree, GRID, cv=3).fit(X, Y))
    assert len(list(tmp_path.iterdir())) == 24
    assert {path: path.stat().st_mtime_ns for path in before} == before


def single_precision(estimator: Any, X: Any, y: Any) -> Any:
    return {"score": np.float32(0.25), "depth": estimator.get_depth()}


def test_checkpoint_holds_numbers_of_numpy_and_refuses_what_no_file_can_hold(tmp_path: Path) -> None:
    """A float32 comes back as the same number."""
    options = {"cv": 2, "checkpoint": tmp_path, "scoring": single_precision, "refit": False}
    for _ in range(2):
        search = GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1]}, **options).fit(X, Y)
        assert search.cv_results_["mean_test_score"].tolist() == [0.25]
    with pytest.raises(InputError, match="checkpoint"):
        Checkpoint(tmp_path).save(Call(len, (), {}), {"test_scores": 1j})
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


# --- Ctrl-C ------------------------------------------------------------------------------------------------------------

GATES: dict[str, threading.Event] = {}


class Gated(ClassifierMixin, BaseEstimator):
    """From number 2 on it waits."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any) -> Gated:
        if self.number >= 2:
            GATES["go"].wait(20)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.classes_[self.number % 3])


class Interrupting(ThreadsEngine):
    """Its user presses Ctrl-C when the first four results are there."""

    def submit_graph(self, *args: Any, **kwargs: Any) -> Any:
        self.futures = super().submit_graph(*args, **kwargs)
        return self.futures

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        done, pending = super().wait(self.futures[:4], timeout_s=20)
        assert not pending and len(done) == 4
        raise KeyboardInterrupt


def test_interrupted_search_returns_the_candidates_that_are_done() -> None:
    """Two of six, with the results that a search over these two has; the best of them is fitted."""
    GATES["go"] = threading.Event()
    with Interrupting(2) as engine:
        search = GridSearchCV(Gated(), {"number": [0, 1, 2, 3, 4, 5]}, cv=2, client=engine)
        with pytest.warns(UserWarning, match="interrupted: 2 of 6 candidates are done"):
            search.fit(X, Y)
        GATES["go"].set()
    assert search.interrupted_ and search.cv_results_["params"] == [{"number": 0}, {"number": 1}]
    assert_same_results(search, sk.GridSearchCV(Gated(), {"number": [0, 1]}, cv=2).fit(X, Y))
    assert search.best_estimator_.number == 0 and search.predict(X[:1]).tolist() == [0]


# --- progress ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid", "halving", "hyperband"])
def test_progress_line_ends_with_all_done_and_the_best_score(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr; and results are as without."""
    pytest.importorskip("rich", reason="rich is not installed: nothing can show a line")
    tree = DecisionTreeClassifier(random_state=0)
    make = {
        "grid": lambda **more: GridSearchCV(tree, GRID, cv=3, **more),
        "halving": lambda **more: HalvingGridSearchCV(tree, GRID, cv=3, random_state=0, **more),
        "hyperband": lambda **more: HyperbandSearchCV(
            SGDClassifier(random_state=0), {"alpha": np.logspace(-4, 1, 30)}, max_iter=9, random_state=0, **more
        ),
    }[kind]
    search, silent = make(progress=True).fit(X, Y), make().fit(X, Y)
    text = re.sub(r"\s+", " ", capsys.readouterr().err)
    key = "test_score" if kind == "hyperband" else "mean_test_score"
    assert search.cv_results_[key].tolist() == silent.cv_results_[key].tolist()
    n = {"grid": 24, "hyperband": 69}.get(kind) or 3 * sum(search.n_candidates_)
    scores = search.cv_results_[key] if kind != "hyperband" else [record["score"] for record in search.history_]
    assert f"{n}/{n}" in text and f"best {max(scores):.4f}" in text

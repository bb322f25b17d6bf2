"""Searches over estimators that train on the cluster themselves, on rows in memory and in partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from sklearn import model_selection as sk
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parml.collections import compute
from parml.dataframe import from_pandas
from parml.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_predict, cross_validate, learning_curve
from parml.model_selection.chunked import ChunkedRows
from parml.testing.parts import cut, cut_evenly
from parml_core.client import Client
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError, NotSupported

xgb = pytest.importorskip("xgboost")
lgb = pytest.importorskip("lightgbm")

import parml.lightgbm as pl  # noqa: E402
import parml.xgboost as px  # noqa: E402

X, Y = make_classification(240, 6, n_informative=4, random_state=0)
WEIGHTS = np.random.default_rng(0).uniform(0.2, 2.0, len(Y))
GRID = {"n_estimators": [2, 5], "max_depth": [2, 3]}
SHUFFLED = sk.ShuffleSplit(2, random_state=0)


def ours_and_plain(library: str, n_jobs: int = 2) -> tuple[Any, Any]:
    """The second with as many threads as the cluster has, which decides how sums are rounded."""
    if library == "xgboost":
        return px.XGBClassifier(), xgb.XGBClassifier(n_jobs=n_jobs)
    return pl.LGBMClassifier(verbose=-1), lgb.LGBMClassifier(verbose=-1, n_jobs=n_jobs)


def assert_same(mine: Any, theirs: Any, rows: Any) -> None:
    """All of cv_results_ but times, what is best, what it predicts, and its score."""
    assert mine.cv_results_.keys() == theirs.cv_results_.keys()
    for name, values in theirs.cv_results_.items():
        if "_time" not in name and name != "params":
            np.testing.assert_array_equal(np.ma.getdata(mine.cv_results_[name]), np.ma.getdata(values), err_msg=name)
    assert mine.best_params_ == theirs.best_params_
    np.testing.assert_array_equal(compute(mine.predict(rows))[0], theirs.predict(X))
    assert mine.score(rows, Y) == theirs.score(X, Y)


FORMS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "in memory": lambda: (X, Y),
    "arrays": lambda: (cut_evenly(X), cut_evenly(Y)),
    "frame, labels in memory": lambda: (from_pandas(pd.DataFrame(X, columns=list("abcdef")), npartitions=3), Y),
    "dask": lambda: (da.from_array(X, chunks=(100, 6)), da.from_array(Y, chunks=100)),
}


@pytest.mark.parametrize(("library", "form"), [*(("xgboost", form) for form in FORMS), ("lightgbm", "arrays")])
def test_search_over_trainers_equals_sklearns_over_the_plain_library(cluster_client: Client, library: str, form: str) -> None:
    """Two workers train every candidate together, which is a gang that waits for none of the search's own tasks."""
    ours, plain = ours_and_plain(library)
    scoring = None if form == "in memory" else "roc_auc"
    rows, labels = FORMS[form]()
    mine = GridSearchCV(ours, GRID, cv=2, scoring=scoring, client=cluster_client).fit(rows, labels)
    theirs = sk.GridSearchCV(plain, GRID, cv=2, scoring=scoring).fit(X, Y)
    assert_same(mine, theirs, rows)


def test_labels_weights_groups_and_several_scores_reach_folds_of_partitions() -> None:
    """What belongs to each row is cut as the rows are, whether it comes in memory or in partitions."""
    scoring = {"accuracy": "accuracy", "loss": "neg_log_loss"}
    options: Any = {"cv": sk.GroupKFold(2), "scoring": scoring, "refit": "loss", "return_train_score": True}
    weights, groups = cut(WEIGHTS, 100), cut(np.arange(len(Y)) % 7, 100)
    mine = GridSearchCV(px.XGBClassifier(), GRID, client=InlineEngine(), **options)
    mine.fit(cut(X, 100), cut(Y, 100), sample_weight=weights, groups=groups)
    theirs = sk.GridSearchCV(xgb.XGBClassifier(n_jobs=1), GRID, **options)
    theirs.fit(X, Y, sample_weight=WEIGHTS, groups=np.arange(len(Y)) % 7)
    assert_same(mine, theirs, cut(X, 100))


def test_rows_in_partitions_are_not_brought_to_the_caller(cluster_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only labels, counts, models and predictions are: nothing that is as wide as the rows."""
    seen: list[Any] = []
    gather = Client.gather

    def spy(self: Client, futures: Any, **options: Any) -> Any:
        seen.extend(results := gather(self, futures, **options))
        return results

    monkeypatch.setattr(Client, "gather", spy)
    search = GridSearchCV(px.XGBClassifier(), {"n_estimators": [2, 3]}, cv=2, scoring="neg_log_loss", client=cluster_client)
    search.fit(cut_evenly(X), cut_evenly(Y))
    shapes = {np.shape(value) for value in seen if isinstance(value, np.ndarray)}
    assert shapes and all(len(shape) < 2 or shape[1] < X.shape[1] for shape in shapes)


def test_one_training_serves_a_path_and_one_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 depths × 2 folds and a refit for 8 results; candidates that wait would hold their data meanwhile."""
    running, most, fits = 0, 0, 0
    fit = px.XGBClassifier._fit

    def counted(self: Any, *args: Any) -> Any:
        nonlocal running, most, fits
        running, fits = running + 1, fits + 1
        most = max(most, running)
        try:
            return fit(self, *args)
        finally:
            running -= 1

    monkeypatch.setattr(px.XGBClassifier, "_fit", counted)
    with ThreadsEngine(2) as engine:
        GridSearchCV(px.XGBClassifier(), GRID, cv=2, client=engine).fit(X, np.array(["no", "yes"])[Y])
    assert (fits, most) == (5, 1)


def test_trainer_behind_a_pipeline_trains_from_within_tasks(cluster_client: Client) -> None:
    """Tasks of the search fill both workers and start gangs that need them: a task that waits gives its place away."""
    grid = {"xgbclassifier__max_depth": [2, 3, 4]}
    mine = GridSearchCV(make_pipeline(StandardScaler(), px.XGBClassifier(n_estimators=3)), grid, cv=2, client=cluster_client)
    theirs = sk.GridSearchCV(make_pipeline(StandardScaler(), xgb.XGBClassifier(n_estimators=3, n_jobs=2)), grid, cv=2)
    assert_same(mine.fit(X, Y), theirs.fit(X, Y), X)


def test_splitter_that_shuffles_chooses_the_rows_and_not_their_order() -> None:
    """cross_validate on partitions has the folds of scikit-learn's, sorted."""
    found = cross_validate(px.XGBClassifier(n_estimators=3), cut(X, 50), Y, cv=SHUFFLED, client=InlineEngine())
    folds = [(np.sort(train), np.sort(test)) for train, test in SHUFFLED.split(X)]
    expected = sk.cross_validate(xgb.XGBClassifier(n_estimators=3, n_jobs=1), X, Y, cv=folds)
    np.testing.assert_array_equal(found["test_score"], expected["test_score"])


def test_halving_and_learning_curve_take_parts_of_partitions() -> None:
    engine, ours, plain = InlineEngine(), px.XGBClassifier(n_estimators=3), xgb.XGBClassifier(n_estimators=3, n_jobs=1)
    options: Any = {"cv": 2, "min_resources": 60, "random_state": 0}
    search = HalvingGridSearchCV(ours, {"max_depth": [1, 2, 3]}, client=engine, **options).fit(cut(X, 50), Y)
    assert search.n_resources_ == [60, 180]
    mine = learning_curve(ours, cut(X, 50), Y, cv=2, train_sizes=[40, 120], client=engine)
    theirs = sk.learning_curve(plain, X, Y, cv=2, train_sizes=[40, 120])
    for found, expected in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_failing_candidate_on_partitions_has_error_score() -> None:
    search = GridSearchCV(px.XGBClassifier(), {"max_depth": [2, -1]}, cv=2, client=InlineEngine(), error_score=-1.0)
    with pytest.warns(sk._validation.FitFailedWarning):
        search.fit(cut(X, 50), Y)
    assert search.cv_results_["mean_test_score"][1] == -1.0 and search.best_params_ == {"max_depth": 2}


def test_what_partitions_cannot_serve_is_refused_with_what_to_do() -> None:
    rows, engine = cut(X, 50), InlineEngine()
    with pytest.raises(InputError, match=r"parml\.xgboost.*LogisticRegression.*parml\.compute\(X, y\)"):
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, client=engine).fit(rows, Y)
    with pytest.raises(InputError, match="expected an estimator that trains on partitions"):
        cross_validate(make_pipeline(StandardScaler(), px.XGBClassifier()), rows, Y, client=engine)
    with pytest.raises(NotSupported, match="_fit_and_predict"):
        cross_val_predict(px.XGBClassifier(), rows, Y, client=engine)
    with pytest.raises(InputError, match="ascending order"):
        ChunkedRows.counted(engine, rows)[np.array([3, 1])]


@pytest.mark.parametrize(
    "chosen", [np.array([3, 4, 5]), np.array([0, 0, 7, 11]), np.arange(12) % 3 == 0, np.array([], int)], ids=str
)
def test_rows_of_partitions_are_those_of_the_whole(chosen: Any) -> None:
    engine, table = InlineEngine(), pd.DataFrame({"a": range(12)})
    rows = ChunkedRows.counted(engine, cut(table, 4, 4, 9))
    assert rows.shape == (12,) and len(rows[chosen]) == len(table.iloc[chosen])
    if len(rows[chosen]):
        pd.testing.assert_frame_equal(rows[chosen].compute(engine), table.iloc[chosen])

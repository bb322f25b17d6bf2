"""Searches give what scikit-learn's give, to the last bit, in all but times."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from scipy import sparse
from sklearn import config_context
from sklearn import model_selection as sk
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, fbeta_score, make_scorer
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from parml.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from tests.drawn import examples

X, Y = make_classification(90, 8, n_informative=5, n_classes=3, random_state=0)
XB, YB = make_classification(80, 6, n_informative=4, random_state=1)
XR, YR = make_regression(80, 6, n_informative=4, noise=3.0, random_state=0)
WEIGHTS = np.random.default_rng(0).uniform(0.2, 2.0, 90)
GROUPS = np.arange(90) % 7
TABLE = pd.DataFrame({"a": XB[:, 0], "b": XB[:, 1], "c": np.where(XB[:, 2] > 0, "u", "v"), "d": np.where(YB, "x", "y")})
TABLE.loc[::9, "a"] = np.nan
TEXTS = [f"{'good fine' if label else 'bad poor'} word{i % 5} and {'more' if i % 3 else 'less'}" for i, label in enumerate(YB)]


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


def assert_same_results(mine: Any, theirs: Any) -> None:
    """All of cv_results_ but times, and what the best estimator says."""
    keys = [key for key in theirs.cv_results_ if "_time" not in key]
    assert keys == [key for key in mine.cv_results_ if "_time" not in key]
    for key in keys:
        a, b = mine.cv_results_[key], theirs.cv_results_[key]
        if key == "params":
            assert [{k: repr(v) for k, v in p.items()} for p in a] == [{k: repr(v) for k, v in p.items()} for p in b]
        elif key.startswith("param_"):
            assert a.dtype == b.dtype and repr(a.tolist()) == repr(b.tolist())
        else:
            assert a.dtype == b.dtype, key
            np.testing.assert_array_equal(a, b, err_msg=key)
    for name in ("best_index_", "best_score_", "best_params_", "n_splits_", "multimetric_", "n_features_in_"):
        assert hasattr(mine, name) == hasattr(theirs, name), name
        if hasattr(theirs, name):
            np.testing.assert_equal(repr(getattr(mine, name)), repr(getattr(theirs, name)))


def both(estimator: Any, grid: Any, data: Any, fit_params: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """The same search here and there, fitted."""
    options.setdefault("cv", 3)
    mine = GridSearchCV(estimator, grid, **options).fit(*data, **(fit_params or {}))
    theirs = sk.GridSearchCV(estimator, grid, **options).fit(*data, **(fit_params or {}))
    assert_same_results(mine, theirs)
    if hasattr(theirs, "best_estimator_") and hasattr(theirs.best_estimator_, "predict"):
        np.testing.assert_array_equal(mine.predict(data[0]), theirs.predict(data[0]))
    return mine, theirs


def multiclass(y_true: Any, y_pred: Any) -> float:
    return fbeta_score(y_true, y_pred, beta=2, average="macro")


def two_scores(estimator: Any, X: Any, y: Any) -> dict[str, float]:
    return {"right": accuracy_score(y, estimator.predict(X)), "depth": float(estimator[-1].get_depth())}


def scaler_mean(estimator: Any, X: Any, y: Any) -> float:
    assert isinstance(estimator.named_steps["scale"], StandardScaler)
    return float(estimator.named_steps["scale"].mean_[0])


def fewest_trees(results: dict[str, Any]) -> int:
    return int(np.argmin(results["param_n_estimators"]))


PIPE = Pipeline([("scale", StandardScaler()), ("pca", PCA(random_state=0)), ("clf", LogisticRegression(max_iter=50))])
PIPE_GRID = {"scale__with_mean": [True, False], "pca__n_components": [2, 4], "clf__C": [0.1, 1.0]}
UNION = Pipeline(
    [
        ("both", FeatureUnion([("pca", PCA(2, random_state=0)), ("best", SelectKBest(k=3))], transformer_weights={"pca": 2.0})),
        ("clf", KNeighborsClassifier()),
    ]
)
COLUMNS = Pipeline(
    [
        (
            "columns",
            ColumnTransformer(
                [
                    ("number", make_pipeline(SimpleImputer(), StandardScaler()), ["a", "b"]),
                    ("word", OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include=[object, "string"])),
                    ("none", StandardScaler(), []),
                ],
                remainder="passthrough",
            ),
        ),
        ("clf", DecisionTreeClassifier(random_state=0)),
    ]
)
NESTED = Pipeline(
    [
        ("first", Pipeline([("scale", MinMaxScaler()), ("skip", "passthrough"), ("pca", PCA(4, random_state=0))])),
        ("last", Pipeline([("best", SelectKBest(k=2)), ("clf", GradientBoostingClassifier(max_depth=2, random_state=0))])),
    ]
)
FOREST = RandomForestClassifier(12, random_state=0)
FOREST_GRID = {"n_estimators": [3, 8, 5], "max_depth": [2, None]}
SPLITTERS = [
    sk.KFold(4, shuffle=True, random_state=0),
    sk.ShuffleSplit(3, random_state=0),
    sk.RepeatedKFold(n_splits=2, n_repeats=2),
]

CASES: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "logistic": (LogisticRegression(max_iter=50), {"C": [0.1, 1, 10]}, (X, Y), {}),
    "train-scores": (DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4]}, (X, Y), {"return_train_score": True}),
    "multi-metric": (
        LogisticRegression(max_iter=50), {"C": [0.1, 1]}, (XB, YB),
        {"scoring": ["accuracy", "roc_auc", "f1"], "refit": "roc_auc", "return_train_score": True},
    ),
    "multi-metric-no-refit": (SVC(), {"C": [1, 5]}, (XB, YB), {"scoring": {"a": "accuracy", "b": "f1"}, "refit": False}),
    "made-scorer": (PIPE, PIPE_GRID, (X, Y), {"scoring": make_scorer(multiclass)}),
    "callable-multi": (
        make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0)), {"decisiontreeclassifier__max_depth": [1, 3]},
        (X, Y), {"scoring": two_scores, "refit": "right"},
    ),
    "callable-sees-steps": (PIPE, PIPE_GRID, (X, Y), {"scoring": scaler_mean, "return_train_score": True}),
    "refit-callable": (FOREST, FOREST_GRID, (X, Y), {"refit": fewest_trees}),
    "pipeline": (PIPE, PIPE_GRID, (X, Y), {}),
    "pipeline-train-scores": (PIPE, PIPE_GRID, (X, Y), {"return_train_score": True, "scoring": "neg_log_loss"}),
    "pipeline-steps-replaced": (
        PIPE, {"scale": [StandardScaler(), "passthrough", MinMaxScaler()], "clf__C": [0.1, 1]}, (X, Y), {}
    ),
    "pipeline-last-replaced": (
        PIPE, [{"clf": [LinearSVC(), DecisionTreeClassifier(random_state=0)]}, {"clf": [FOREST], "clf__n_estimators": [2, 5]}],
        (X, Y), {},
    ),
    "pipeline-verbose": (clone(PIPE).set_params(memory=None, verbose=True), {"clf__C": [0.1, 1]}, (X, Y), {}),
    "nested": (
        NESTED, {"first__pca__n_components": [3, 4], "last__clf__n_estimators": [2, 6], "last__best__k": [1, 2]}, (X, Y), {}
    ),
    "union": (UNION, {"both__pca__n_components": [1, 2], "both__best__k": [2, 3], "clf__n_neighbors": [1, 5]}, (X, Y), {}),
    "union-drops": (UNION, {"both__pca": ["drop", "passthrough", PCA(1)], "clf__n_neighbors": [1, 5]}, (X, Y), {}),
    "columns": (
        COLUMNS, {"columns__number__simpleimputer__strategy": ["mean", "median"], "clf__max_depth": [1, 3]}, (TABLE, YB),
        {"return_train_score": True},
    ),
    "columns-word": (
        clone(COLUMNS).set_params(columns__remainder="drop"), {"columns__word__drop": [None, "first"]}, (TABLE, YB), {}
    ),
    "columns-rest": (
        clone(COLUMNS).set_params(columns__word__sparse_output=False),
        {"columns__remainder": ["drop", StandardScaler()]}, (TABLE.drop(columns="d").assign(e=XB[:, 3]), YB), {},
    ),
    "columns-sparse": (
        clone(COLUMNS).set_params(columns__sparse_threshold=1.0), {"columns__word__min_frequency": [None, 3]}, (TABLE, YB), {}
    ),
    "target-encoder": (
        make_pipeline(TargetEncoder(random_state=0), DecisionTreeClassifier(random_state=0)),
        {"decisiontreeclassifier__max_depth": [1, 2]}, (TABLE[["c", "d"]], YB), {"return_train_score": True},
    ),
    "text": (
        make_pipeline(TfidfVectorizer(), LogisticRegression()),
        {"tfidfvectorizer__ngram_range": [(1, 1), (1, 2)], "logisticregression__C": [0.1, 1]}, (TEXTS, YB), {},
    ),
    "sparse": (
        make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=50)), {"logisticregression__C": [0.1, 1]},
        (sparse.csr_matrix(X * (X > 0)), Y), {},
    ),
    "in-place": (
        make_pipeline(StandardScaler(copy=False), PCA(3, copy=False, random_state=0), LogisticRegression(max_iter=50)),
        {"logisticregression__C": [0.1, 1], "pca__n_components": [2, 3]}, (X, Y), {"return_train_score": True, "refit": False},
    ),
    "in-place-sparse": (
        make_pipeline(StandardScaler(copy=False, with_mean=False), LinearSVC()), {"linearsvc__C": [0.1, 1]},
        (sparse.csr_array(X * (X > 0)), Y), {"refit": False},
    ),
    "forest": (FOREST, FOREST_GRID, (X, Y), {"return_train_score": True, "scoring": "neg_log_loss"}),
    "forest-cv-object": (FOREST, FOREST_GRID, (X, Y), {"cv": SPLITTERS[0]}),
    "extra-trees": (ExtraTreesRegressor(random_state=1), {"n_estimators": [2, 5], "max_features": [2, 4]}, (XR, YR), {}),
    "regression": (
        Ridge(), {"alpha": [0.1, 1], "fit_intercept": [True, False]}, (XR, YR), {"scoring": "r2", "cv": SPLITTERS[1]}
    ),
    "regression-tree": (
        DecisionTreeRegressor(random_state=0), {"max_depth": [1, 2]}, (XR, YR),
        {"scoring": ["r2", "neg_mean_absolute_error"], "refit": "r2"},
    ),
    "multi-output": (MultiOutputRegressor(Ridge()), {"estimator__alpha": [0.1, 1]}, (XR, np.c_[YR, -YR]), {}),
    "neighbours": (KNeighborsClassifier(), {"n_neighbors": [1, 4, 29, 31], "weights": ["uniform", "distance"]}, (X, Y), {}),
    "neighbours-regression": (KNeighborsRegressor(), {"n_neighbors": [1, 30, 2]}, (XR, YR), {}),
    "precomputed": (SVC(kernel="precomputed"), {"C": [0.1, 1]}, (X @ X.T, Y), {"return_train_score": True}),
    "split-list": (
        LogisticRegression(max_iter=50), {"C": [0.1, 1]}, (X, Y),
        {"cv": [(np.arange(60), np.arange(60, 90)), (np.arange(30, 90), np.arange(30))]},
    ),
    "labels": (LogisticRegression(max_iter=50), {"C": [0.1, 1]}, (XB.tolist(), ["no", "yes"] * 40), {}),
    "unsupervised": (PCA(random_state=0), {"n_components": [1, 2]}, (X,), {}),
    "duplicates": (FOREST, [{"n_estimators": [3, 3]}, {"n_estimators": [3], "max_depth": [None]}], (X, Y), {}),
    "generators": (clone(FOREST).set_params(random_state=np.random.RandomState(7)), FOREST_GRID, (X, Y), {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("paths", [True, False], ids=["paths", "no-paths"])
@pytest.mark.parametrize("name", CASES)
def test_search_of_each_kind_equals_sklearn(name: str, paths: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """cv_results_, what is best, and its predictions are scikit-learn's, whether or not one fit serves several candidates."""
    if not paths:
        monkeypatch.setattr("parml.model_selection.plan.path_of", lambda *_: None)
    estimator, grid, data, options = CASES[name]
    both(estimator, grid, data, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["columns", "nested", "forest", "in-place", "union", "text", "multi-metric"])
def test_search_on_the_inline_engine_equals_sklearn(name: str) -> None:
    """The engine is of no importance to the result."""
    estimator, grid, data, options = CASES[name]
    mine = GridSearchCV(estimator, grid, cv=3, client=InlineEngine(), **options).fit(*data)
    assert_same_results(mine, sk.GridSearchCV(estimator, grid, cv=3, **options).fit(*data))


def test_groups_and_weights_reach_splitter_fit_and_scorer() -> None:
    """groups split; sample_weight is cut with the rows, and scores too."""
    both(FOREST, FOREST_GRID, (X, Y), {"groups": GROUPS, "sample_weight": WEIGHTS}, cv=sk.GroupKFold(3))
    params = {"clf__sample_weight": WEIGHTS, "scale__sample_weight": WEIGHTS}
    both(PIPE, PIPE_GRID, (X, Y), params, return_train_score=True)


def test_metadata_routing_passes_what_was_asked_for() -> None:
    """With routing on, the scorer and the steps of a pipeline get their metadata."""
    with config_context(enable_metadata_routing=True):
        model = LogisticRegression(max_iter=50).set_fit_request(sample_weight=True)
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        both(model, {"C": [0.1, 1]}, (X, Y), {"sample_weight": WEIGHTS}, scoring=scorer)
        pipe = Pipeline([("scale", StandardScaler().set_fit_request(sample_weight=True)), ("clf", model)])
        both(pipe, {"clf__C": [0.1, 1]}, (X, Y), {"sample_weight": WEIGHTS}, scoring=scorer)
        data = {"groups": GROUPS, "sample_weight": WEIGHTS}
        both(model, {"C": [0.1, 1]}, (X, Y), data, scoring=scorer, cv=sk.GroupKFold(3))


@pytest.mark.parametrize("where", ["global", "own"])
def test_pandas_output_keeps_its_names(where: str) -> None:
    """set_output works inside the search as outside, globally or on the estimator."""
    estimator = clone(COLUMNS).set_params(columns__word__sparse_output=False)
    if where == "own":
        estimator.set_output(transform="pandas")
    with config_context(transform_output="pandas" if where == "global" else "default"):
        mine, theirs = both(estimator, {"columns__number__simpleimputer__strategy": ["mean", "median"]}, (TABLE, YB))
    names = [search.best_estimator_[-1].feature_names_in_.tolist() for search in (mine, theirs)] if where == "own" else [[], []]
    assert names[0] == names[1]


def test_randomized_search_draws_what_sklearn_draws() -> None:
    """The same candidates and results for the same random_state."""
    space = {"n_estimators": list(range(1, 12)), "max_depth": [1, 2, 3]}
    options = {"n_iter": 7, "random_state": 3, "cv": 3}
    mine, theirs = (kind(FOREST, space, **options).fit(X, Y) for kind in (RandomizedSearchCV, sk.RandomizedSearchCV))
    assert_same_results(mine, theirs)


class Picky(ClassifierMixin, BaseEstimator):
    """Fails for some settings: in fit, in predict, or never."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def fit(self, X: Any, y: Any) -> Picky:
        if self.fails == "fit":
            raise ValueError("no fit")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        if self.fails == "predict":
            raise ValueError("no predict")
        return np.full(len(X), self.classes_[0])


class PickyTransformer(TransformerMixin, BaseEstimator):
    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def fit(self, X: Any, y: Any = None) -> PickyTransformer:
        if self.fails == "fit":
            raise ValueError("no fit")
        self.n_fitted_ = len(X)
        return self

    def transform(self, X: Any) -> Any:
        if self.fails == "test" and len(X) != self.n_fitted_:
            raise ValueError("no transform")
        return X


FAILING = [
    (Picky(), {"fails": ["", "fit", "predict"]}),
    (make_pipeline(PickyTransformer(), Picky()), {"pickytransformer__fails": ["", "fit", "test"], "picky__fails": ["", "fit"]}),
    (make_pipeline(PickyTransformer(), StandardScaler(), Picky()), {"pickytransformer__fails": ["", "fit", "test"]}),
    (FOREST, {"n_estimators": [3, -1, 5]}),
    (KNeighborsClassifier(), {"n_neighbors": [3, 500, 5]}),
    (
        make_pipeline(PCA(), FOREST),
        {"randomforestclassifier__max_depth": [-2, 2], "randomforestclassifier__n_estimators": [2, 4]},
    ),
]


@pytest.mark.parametrize("scoring", [None, ["accuracy", "f1_macro"]], ids=["one", "two"])
@pytest.mark.parametrize("number", range(len(FAILING)))
def test_candidates_that_fail_get_error_score_and_the_same_warnings(number: int, scoring: Any) -> None:
    """The others live; FitFailedWarning counts the same fits."""
    estimator, grid = FAILING[number]
    searches, said = [], []
    for kind in (GridSearchCV, sk.GridSearchCV):
        options = {
            "scoring": scoring,
            "refit": "accuracy" if scoring else True,
            "error_score": -7.0,
            "return_train_score": True,
        }
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            searches.append(kind(estimator, grid, cv=3, **options).fit(X, Y))
        fit_failed = [str(w.message).splitlines()[:3] for w in caught if issubclass(w.category, FitFailedWarning)]
        said.append(fit_failed)
    assert_same_results(*searches)
    assert said[0] == said[1]


def test_error_score_raise_raises_what_the_fit_raised() -> None:
    """Also from a shared step; and an invalid parameter ends any search."""
    with pytest.raises(ValueError, match="no fit"):
        GridSearchCV(Picky(), {"fails": ["", "fit"]}, error_score="raise", cv=3).fit(X, Y)
    pipe = make_pipeline(PickyTransformer(), Picky())
    with pytest.raises(ValueError, match="no fit"):
        GridSearchCV(pipe, {"pickytransformer__fails": ["fit", ""]}, error_score="raise", cv=3).fit(X, Y)
    with pytest.raises(ValueError, match="Invalid parameter"):
        GridSearchCV(Picky(), {"failz": [1]}, cv=3).fit(X, Y)
    with pytest.raises(ValueError, match="All the 3 fits failed"):
        GridSearchCV(Picky(), {"fails": ["fit"]}, cv=3).fit(X, Y)


def test_search_is_an_estimator_that_can_be_cloned_and_nested() -> None:
    """clone keeps the client; a search inside cross_val_score equals scikit-learn's."""
    with ThreadsEngine(2) as engine:
        search = GridSearchCV(LogisticRegression(max_iter=50), {"C": [0.1, 1]}, cv=2, client=engine)
        assert clone(search).client is engine
        theirs = sk.cross_val_score(sk.GridSearchCV(search.estimator, search.param_grid, cv=2), X, Y, cv=3)
        np.testing.assert_array_equal(cross_val_score(search, X, Y, cv=3, client=engine), theirs)


class Doubler(TransformerMixin, BaseEstimator):
    """Writes into what it gets, and says so nowhere."""

    def fit(self, X: Any, y: Any = None) -> Doubler:
        X *= 2
        return self

    def transform(self, X: Any) -> Any:
        X -= 1
        return X


@pytest.mark.parametrize("data", [X, pd.DataFrame(X), sparse.csr_array(X)], ids=["array", "frame", "sparse"])
def test_estimators_that_write_into_their_data_get_copies(data: Any) -> None:
    """A shared fold stays whole for the next candidate."""
    if sparse.issparse(data):
        pipe, grid = make_pipeline(Halver(), LinearSVC()), {"linearsvc__C": [0.1, 1.0, 2.0]}
    else:
        pipe, grid = make_pipeline(Doubler(), LogisticRegression(max_iter=50)), {"logisticregression__C": [0.1, 1.0, 2.0]}
    before = data.copy()
    both(pipe, grid, (data, Y), refit=False)
    assert abs(data - before).sum().sum() == 0


class Halver(Doubler):
    def fit(self, X: Any, y: Any = None) -> Halver:
        X.data /= 2
        return self

    def transform(self, X: Any) -> Any:
        X.data /= 2
        return X


def test_data_of_the_caller_stay_as_they_are() -> None:
    """Neither a fold nor the engine's copy may be written to by an estimator that works in place."""
    estimator, grid, data, options = CASES["in-place"]
    before = data[0].copy()
    GridSearchCV(estimator, grid, cv=3, **options).fit(*data)
    np.testing.assert_array_equal(data[0], before)


@pytest.mark.parametrize("estimator", [FOREST, PIPE, LogisticRegression(max_iter=50)], ids=["forest", "pipeline", "logistic"])
def test_validation_functions_equal_sklearns(estimator: Any) -> None:
    """cross_validate, cross_val_score, cross_val_predict, learning_curve."""
    options = {"cv": SPLITTERS[0], "scoring": ["accuracy", "f1_macro"], "return_train_score": True, "return_indices": True}
    mine, theirs = cross_validate(estimator, X, Y, **options), sk.cross_validate(estimator, X, Y, **options)
    assert mine.keys() == theirs.keys()
    for key in mine:
        if "_time" not in key:
            np.testing.assert_equal(mine[key], theirs[key])
    np.testing.assert_array_equal(cross_val_score(estimator, X, Y), sk.cross_val_score(estimator, X, Y))
    for method in ("predict", "predict_proba"):
        np.testing.assert_array_equal(
            cross_val_predict(estimator, X, Y, method=method), sk.cross_val_predict(estimator, X, Y, method=method)
        )
    options = {"train_sizes": [0.5, 1.0], "cv": 3}
    np.testing.assert_equal(learning_curve(estimator, X, Y, **options), sk.learning_curve(estimator, X, Y, **options))


def test_cross_validate_returns_fitted_estimators() -> None:
    """return_estimator gives one fitted estimator for each split."""
    found = cross_validate(PIPE, X, Y, cv=3, return_estimator=True)["estimator"]
    theirs = sk.cross_validate(PIPE, X, Y, cv=3, return_estimator=True)["estimator"]
    for a, b in zip(found, theirs, strict=True):
        np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def test_validation_curve_over_a_path_equals_sklearn() -> None:
    """Train and test scores along n_estimators."""
    options = {"param_name": "n_estimators", "param_range": [2, 5, 9], "cv": 3}
    np.testing.assert_equal(validation_curve(FOREST, X, Y, **options), sk.validation_curve(FOREST, X, Y, **options))


settings_of_grid = st.fixed_dictionaries(
    {},
    optional={
        "scale": st.lists(st.sampled_from([StandardScaler(), MinMaxScaler(), "passthrough"]), min_size=1, max_size=2),
        "pca__n_components": st.lists(st.integers(1, 4), min_size=1, max_size=2),
        "pca__whiten": st.lists(st.booleans(), min_size=1, max_size=2),
        "clf__n_estimators": st.lists(st.integers(1, 6), min_size=1, max_size=2),
        "clf__max_depth": st.lists(st.sampled_from([1, 3]), min_size=1, max_size=2),
    },
)


@examples(5, suppress_health_check=[HealthCheck.too_slow])
@given(
    grids=st.lists(settings_of_grid, min_size=1, max_size=2),
    scoring=st.sampled_from([None, "neg_log_loss", "f1_macro"]),
    cv=st.integers(2, 3),
    train=st.booleans(),
)
def test_drawn_grids_equal_sklearn(grids: Any, scoring: Any, cv: int, train: bool) -> None:
    """Whatever the grid over a pipeline, scoring and splits."""
    pipe = clone(PIPE).set_params(clf=ExtraTreesClassifier(random_state=0))
    both(pipe, grids, (X, Y), scoring=scoring, cv=cv, return_train_score=train)


def with_sizes(name: str, largest: int, **others: list[Any]) -> Any:
    """Grids over values along a path, in any order and more than once, and perhaps over other settings."""
    drawn = {other: st.lists(st.sampled_from(values), min_size=1, max_size=2) for other, values in others.items()}
    path = st.lists(st.integers(1, largest), min_size=1, max_size=3)
    return st.fixed_dictionaries({name: path}, optional=drawn)


def estimators_with_grids() -> dict[str, tuple[Any, Any]]:
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    boosting = {"max_depth": [2, 3], "learning_rate": [0.1, 0.5], "subsample": [0.7, 1.0]}
    return {
        "xgboost": (
            xgboost.XGBClassifier(n_jobs=1, random_state=0, max_depth=2),
            with_sizes("n_estimators", 6, **boosting, max_bin=[8, 256], early_stopping_rounds=[None]),
        ),
        "lightgbm": (
            lightgbm.LGBMClassifier(n_jobs=1, random_state=0, verbose=-1, min_child_samples=5, subsample_freq=1),
            with_sizes("n_estimators", 6, **boosting, min_child_samples=[3, 30], class_weight=[None, "balanced"]),
        ),
        "gradient": (
            GradientBoostingClassifier(random_state=0, max_depth=2), with_sizes("n_estimators", 4, **boosting)
        ),
        "forest": (
            FOREST, with_sizes("n_estimators", 6, max_depth=[1, None], bootstrap=[True, False], warm_start=[False, True])
        ),
        "neighbours": (
            KNeighborsClassifier(),
            with_sizes("n_neighbors", 30, weights=["uniform", "distance"], algorithm=["auto", "brute", "kd_tree"]),
        ),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "gradient", "forest", "neighbours"])
def test_drawn_grids_along_a_path_equal_sklearn(name: str) -> None:
    """Each library whose models contain smaller ones: whatever else the grid changes, scoring and splits."""
    estimator, grids = estimators_with_grids()[name]

    @examples(6, suppress_health_check=[HealthCheck.too_slow])
    @given(
        grid=grids,
        scoring=st.sampled_from([None, "neg_log_loss", ["accuracy", "f1_macro"]]),
        cv=st.sampled_from([2, 3, SPLITTERS[1]]),
        train=st.booleans(),
    )
    def check(grid: Any, scoring: Any, cv: Any, train: bool) -> None:
        refit = "accuracy" if isinstance(scoring, list) else True
        both(estimator, grid, (X, Y), scoring=scoring, refit=refit, cv=cv, return_train_score=train)

    check()

"""OptunaSearchCV asks and tells a study in rounds, repeats for a seed, and has the results of a randomised search."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.stats import loguniform, norm, randint, uniform
from sklearn import model_selection as sk
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from parml.model_selection import OptunaSearchCV
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

X, Y = make_classification(120, 8, n_informative=5, n_classes=3, random_state=0)
SPACE = {"max_depth": randint(1, 9), "min_samples_split": [2, 5, 9, 17], "criterion": ["gini", "entropy"]}
TREE = DecisionTreeClassifier(random_state=0)


def test_without_optuna_fit_says_what_to_install() -> None:
    """Importing and making the search need no optuna; fit names the extra."""
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from parml.model_selection import OptunaSearchCV\n"
        "from sklearn.naive_bayes import GaussianNB\n"
        "try: OptunaSearchCV(GaussianNB(), {'var_smoothing': [1e-9]}, cv=2).fit([[0], [1], [2], [3]], [0, 1, 0, 1])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'parml[optuna]'" in done.stdout


optuna = pytest.importorskip("optuna", reason="optuna is not installed: pip install 'parml[optuna]'")


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


def plain_loop(n_trials: int, n_parallel: int, sampler: Any, cv: int = 3) -> list[tuple[dict[str, Any], float]]:
    """The same rounds with optuna and scikit-learn alone."""
    distributions = {
        "max_depth": optuna.distributions.IntDistribution(1, 8),
        "min_samples_split": optuna.distributions.CategoricalDistribution([2, 5, 9, 17]),
        "criterion": optuna.distributions.CategoricalDistribution(["gini", "entropy"]),
    }
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found = []
    for start in range(0, n_trials, n_parallel):
        trials = [study.ask(distributions) for _ in range(min(n_parallel, n_trials - start))]
        for trial in trials:
            scores = sk.cross_val_score(clone(TREE).set_params(**trial.params), X, Y, cv=cv)
            study.tell(trial, scores.mean())
            found.append((trial.params, scores.mean()))
    return found


@pytest.mark.parametrize("where", ["inline", "threads", "cluster"])
def test_search_equals_a_plain_loop_on_any_engine(where: str, request: pytest.FixtureRequest) -> None:
    """Candidates, scores and their order are those of optuna's own ask and tell in one thread."""
    engine: Any = {"inline": InlineEngine, "threads": lambda: ThreadsEngine(2)}.get(
        where, lambda: request.getfixturevalue("cluster_client")
    )()
    sampler = optuna.samplers.TPESampler(seed=7, n_startup_trials=4, constant_liar=True)
    search = OptunaSearchCV(TREE, SPACE, n_trials=14, n_parallel=4, sampler=sampler, cv=3, client=engine)
    expected = plain_loop(14, 4, optuna.samplers.TPESampler(seed=7, n_startup_trials=4, constant_liar=True))
    for _ in range(2):  # a fit leaves the sampler as it was
        search.fit(X, Y)
        assert [dict(params) for params in search.cv_results_["params"]] == [params for params, _ in expected]
        np.testing.assert_array_equal(search.cv_results_["mean_test_score"], [score for _, score in expected])
    assert search.best_score_ == max(score for _, score in expected) == search.study_.best_value
    assert [trial.number for trial in search.study_.trials] == list(range(14))
    theirs = sk.RandomizedSearchCV(TREE, SPACE, n_iter=3, cv=3).fit(X, Y)
    assert set(search.cv_results_) == set(theirs.cv_results_)
    assert search.predict(X).shape == (120,) and search.best_estimator_.get_params().items() >= search.best_params_.items()


def test_random_state_seeds_the_default_sampler() -> None:
    """The same seed, the same search; another, another."""
    drawn = []
    for seed in (1, 1, 2):
        search = OptunaSearchCV(TREE, SPACE, n_trials=6, n_parallel=3, random_state=seed, cv=2, refit=False).fit(X, Y)
        drawn.append([tuple(params.values()) for params in search.cv_results_["params"]])
    assert drawn[0] == drawn[1] != drawn[2]


def test_spaces_of_scipy_lists_of_estimators_and_optuna() -> None:
    """uniform, loguniform and randint keep their bounds; a list may hold what optuna cannot store."""
    pipe = Pipeline([("scale", StandardScaler()), ("clf", LogisticRegression(max_iter=50))])
    scalers = [StandardScaler(), MinMaxScaler()]
    space = {
        "scale": scalers,
        "clf__C": loguniform(1e-2, 1e1),
        "clf__tol": uniform(1e-4, 1e-3),
        "clf__max_iter": optuna.distributions.IntDistribution(20, 60, step=20),
        "clf__class_weight": [None, "balanced"],
    }
    search = OptunaSearchCV(pipe, space, n_trials=8, n_parallel=8, random_state=0, cv=2).fit(X, Y)
    for params in search.cv_results_["params"]:
        assert type(params["scale"]) in (StandardScaler, MinMaxScaler) and 1e-2 <= params["clf__C"] <= 1e1
        assert 1e-4 <= params["clf__tol"] <= 1.1e-3 and params["clf__max_iter"] in (20, 40, 60)
    distributions = search.study_.trials[0].distributions
    assert distributions["clf__C"] == optuna.distributions.FloatDistribution(1e-2, 1e1, log=True)
    assert {type(params["scale"]) for params in search.cv_results_["params"]} == {StandardScaler, MinMaxScaler}


class Picky(ClassifierMixin, BaseEstimator):
    """Fails for some settings."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def fit(self, X: Any, y: Any) -> Picky:
        if self.rank == 1:
            raise ValueError("no fit")
        if self.rank == 2:
            raise KeyboardInterrupt
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.classes_[0])


@pytest.mark.filterwarnings("ignore")
def test_failing_candidates_are_failed_trials_and_an_interrupt_leaves_none_under_way() -> None:
    """The others are told; a study that is shared has no trial that runs for ever."""
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"rank": 1})
    study.enqueue_trial({"rank": 0})
    search = OptunaSearchCV(Picky(), {"rank": [0, 1, 2, 3]}, n_trials=2, study=study, cv=2).fit(X, Y)
    assert [trial.state.name for trial in search.study_.trials] == ["FAIL", "COMPLETE"]
    assert np.isnan(search.cv_results_["mean_test_score"][0]) and search.study_ is study
    study.enqueue_trial({"rank": 2})
    with pytest.raises(KeyboardInterrupt):
        OptunaSearchCV(Picky(), {"rank": [0, 1, 2, 3]}, n_trials=1, study=study, cv=2, client=InlineEngine()).fit(X, Y)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "FAIL"]


def test_timeout_ends_between_rounds_and_several_scores_need_one_to_go_by() -> None:
    """At least one round is made; with several scores refit names optuna's."""
    search = OptunaSearchCV(TREE, SPACE, n_trials=1000, n_parallel=2, timeout=1e-9, cv=2, random_state=0)
    began = time.monotonic()
    assert len(search.fit(X, Y).study_.trials) == 2 and time.monotonic() - began < 30
    search = OptunaSearchCV(
        TREE, SPACE, n_trials=3, scoring=["accuracy", "f1_macro"], refit="f1_macro", cv=2, random_state=0
    ).fit(X, Y)
    assert [trial.value for trial in search.study_.trials] == search.cv_results_["mean_test_f1_macro"].tolist()


def test_wrong_arguments_are_refused() -> None:
    """With what was expected."""
    study = optuna.create_study(direction="minimize")
    for options, space, part in [
        ({"n_trials": 0}, SPACE, "n_trials"),
        ({"n_parallel": 0}, SPACE, "n_parallel"),
        ({"study": study}, SPACE, "maximizes"),
        ({"study": study, "sampler": study.sampler}, SPACE, "found both"),
        ({"scoring": ["accuracy"], "refit": False}, SPACE, "refit"),
        ({}, {"max_depth": norm(1, 2)}, "max_depth"),
        ({}, {"max_depth": loguniform(1, 2, loc=3)}, "max_depth"),
        ({}, {}, "param_distributions"),
    ]:
        with pytest.raises(InputError, match=part):
            OptunaSearchCV(TREE, space, cv=2, **options).fit(X, Y)


def test_clone_keeps_client_and_study() -> None:
    """And a search inside cross_val_score runs."""
    study = optuna.create_study(direction="maximize")
    with ThreadsEngine(2) as engine:
        search = OptunaSearchCV(TREE, SPACE, n_trials=2, study=study, cv=2, client=engine)
        twin = clone(search)
        assert twin.client is engine and twin.study is study and search.study is study
        assert sk.cross_val_score(clone(search).set_params(study=None), X, Y, cv=2).shape == (2,)

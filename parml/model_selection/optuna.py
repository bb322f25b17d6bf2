"""A search that asks optuna for candidates and tells it their scores, several at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn import model_selection as sk
from sklearn.utils import check_random_state

from parml.model_selection.search import _Planned
from parml_core.errors import InputError

__all__ = ["OptunaSearchCV"]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "expected optuna to be installed for OptunaSearchCV, found it is not; pip install 'parml[optuna]'"
        ) from error
    return optuna


class _Asked(sk.RandomizedSearchCV):
    """Candidates come from a study, in rounds: asked for together, evaluated as one plan, told in the order of numbers."""

    study_: Any

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        optuna, metric = _optuna(), self._metric()
        space = _Space(self.param_distributions)
        self.study_ = self._make_study()
        until = np.inf if self.timeout is None else time.monotonic() + self.timeout
        left = self.n_trials
        while left > 0 and (left == self.n_trials or time.monotonic() < until):
            trials = [self.study_.ask(space.distributions) for _ in range(min(left, self.n_parallel))]
            left -= len(trials)
            try:
                results = evaluate_candidates([space.values_of(trial.params) for trial in trials])
            except BaseException:
                for trial in trials:  # else they would be under way for ever in a study that others go on with
                    self.study_.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            for trial, score in zip(trials, results[f"mean_test_{metric}"][-len(trials) :], strict=True):
                if np.isfinite(score):
                    self.study_.tell(trial, float(score))
                else:
                    self.study_.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _metric(self) -> str:
        for name, value in (("n_trials", self.n_trials), ("n_parallel", self.n_parallel)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise InputError(f"expected {name} as a positive whole number, found {value!r}; give another")
        if not isinstance(self.scoring, (list, tuple, set, dict)):
            return "score"
        if not isinstance(self.refit, str):
            raise InputError(
                f"expected refit to name the score by which trials are compared, found {self.refit!r} with several; "
                "set refit to one of their names"
            )
        return self.refit

    def _make_study(self) -> Any:
        optuna = _optuna()
        if self.study is not None:
            if self.sampler is not None:
                raise InputError("expected a study or a sampler, found both; give the study its sampler")
            if self.study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
                raise InputError(
                    f"expected a study that maximizes one score, found {[d.name for d in self.study.directions]}; "
                    "make it with direction='maximize': of scikit-learn's scores the larger is the better"
                )
            return self.study
        sampler = copy.deepcopy(self.sampler)  # a fit leaves the parameters of the search as they are
        if sampler is None:
            seed = None if self.random_state is None else int(check_random_state(self.random_state).randint(2**31 - 1))
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # trials under way are taken for bad ones
        shown = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.create_study(direction="maximize", sampler=sampler)
        finally:
            optuna.logging.set_verbosity(shown)


class _Space:
    """Distributions as optuna has them, and from what it draws the values that the estimator gets."""

    def __init__(self, given: Any) -> None:
        if not isinstance(given, Mapping) or not given:
            raise InputError(f"expected param_distributions as a dict, found {given!r:.200}; give one, by name of parameter")
        self._choices: dict[str, list[Any]] = {}
        self.distributions = {name: self._distribution(name, value) for name, value in given.items()}

    def values_of(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._choices[name][value] if name in self._choices else value for name, value in drawn.items()}

    def _distribution(self, name: str, value: Any) -> Any:
        distributions = _optuna().distributions
        if isinstance(value, distributions.BaseDistribution):
            return value
        if hasattr(value, "rvs"):
            found = _from_scipy(distributions, value)
            if found is not None:
                return found
        elif not isinstance(value, (str, bytes, Mapping)) and hasattr(value, "__len__") and len(value):
            choices = [item.item() if isinstance(item, np.generic) else item for item in value]
            if all(item is None or isinstance(item, (bool, int, float, str)) for item in choices):
                return distributions.CategoricalDistribution(choices)
            self._choices[name] = choices  # optuna can store the place of an estimator or tuple, not the thing
            return distributions.CategoricalDistribution(range(len(choices)))
        raise InputError(
            f"expected {name} as a list of values, an optuna distribution, or scipy's uniform, loguniform or randint, "
            f"found {value!r:.200}; give one of these, such as optuna.distributions.FloatDistribution(low, high, log=True)"
        )


def _from_scipy(distributions: Any, frozen: Any) -> Any:
    kind = getattr(getattr(frozen, "dist", None), "name", "")
    if kind not in ("uniform", "loguniform", "reciprocal", "randint"):
        return None
    low, high = (float(edge) for edge in frozen.support())
    if kind == "randint":
        return distributions.IntDistribution(int(low), int(high))
    if kind == "uniform":
        return distributions.FloatDistribution(low, high)
    shifted = frozen.kwds.get("loc", frozen.args[2] if len(frozen.args) > 2 else 0)
    return None if shifted else distributions.FloatDistribution(low, high, log=True)


class OptunaSearchCV(_Planned, _Asked):
    """
    A search whose candidates optuna proposes from the scores of those before; needs ``pip install 'parml[optuna]'``.

    `n_parallel` candidates are under way at a time. They are asked for together, evaluated on the engine as one plan, which
    does equal work once, and told in the order of their numbers, so that the same `random_state` gives the same search on any
    engine. Results are as those of `RandomizedSearchCV`, in the order of trials. A candidate with a score that is no number
    (its fit has failed, as a rule) is a failed trial; a round in which all fits fail ends the search.

    Parameters
    ----------
    estimator, scoring, refit, cv, verbose, error_score, return_train_score
        As in scikit-learn's GridSearchCV. With several scores `refit` names the one that optuna gets.
    param_distributions : dict
        By name of parameter an optuna distribution, a list, or one of scipy's uniform, loguniform and randint.
    n_trials : int
    timeout : float, optional
        Seconds after which no new round begins.
    n_parallel : int
        Candidates of a round. More use more workers; fewer learn more from each other.
    sampler : optuna sampler, optional
        Default: TPESampler, seeded from `random_state`.
    study : optuna Study, optional
        To go on with; its direction is to maximize. Trials that it has are learnt from and do not count.
    random_state : int, RandomState or None
    n_jobs, pre_dispatch
        Accepted and not used: the engine knows how much it can do at the same time.
    client : Engine, optional
        Where to run, a Client as a rule. Default: the current engine, which is a pool of threads where none was chosen.
    progress : bool
        Whether a line (of rich) shows how much is done, and the best score so far.

    Attributes
    ----------
    study_ : optuna Study
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, ...
        As in scikit-learn.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> search = OptunaSearchCV(LogisticRegression(), {"C": loguniform(1e-3, 1e3)}, n_trials=8, random_state=0)
    >>> len(search.fit(X, y).study_.trials)
    8
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Mapping[str, Any],
        *,
        n_trials: int = 20,
        timeout: float | None = None,
        n_parallel: int = 4,
        sampler: Any = None,
        study: Any = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable[..., Any] = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        random_state: Any = None,
        error_score: float | str = np.nan,
        return_train_score: bool = False,
        client: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator, param_distributions, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose,
            pre_dispatch=pre_dispatch, random_state=random_state, error_score=error_score,
            return_train_score=return_train_score,
        )  # fmt: skip
        self.n_trials, self.timeout, self.n_parallel = n_trials, timeout, n_parallel
        self.sampler, self.study, self.client, self.progress = sampler, study, client, progress

    def __sklearn_clone__(self) -> Any:
        """A clone goes on with the same study, which may be a database."""
        twin = copy.copy(self)
        twin.study = None
        cloned = super(OptunaSearchCV, twin).__sklearn_clone__()
        cloned.study, cloned.client = self.study, self.client
        return cloned

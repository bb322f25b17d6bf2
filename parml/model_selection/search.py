"""scikit-learn's searches, with the work of all candidates planned together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from sklearn import model_selection as sk

from parml.model_selection.backend import planned
from parml.model_selection.plot import Plotted

__all__ = ["GridSearchCV", "RandomizedSearchCV"]


class OnEngine(Plotted):
    """An estimator with a `client`, which stays in this process, and which its clones have, too."""

    client: Any

    def __getstate__(self) -> Any:
        """Without the client, which is a connection of this process; a task finds the one of its worker."""
        state: Any = super().__getstate__()
        return {**state, "client": None}

    def __sklearn_clone__(self) -> Any:
        twin = copy.copy(self)
        twin.client = None
        cloned = super(OnEngine, twin).__sklearn_clone__()  # type: ignore[misc]
        cloned.client = self.client
        return cloned


class _Planned(OnEngine):
    """
    Makes a search of scikit-learn run its candidates as one graph on an engine.

    scikit-learn's `fit` makes its ``joblib.Parallel`` first, which takes the backend that is set then, and calls
    `_run_search`. There the setting is taken back, for the refit at the end is not part of the plan.
    """

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """
        Search, and fit the best estimator on all data.

        Parameters
        ----------
        X, y : array-like
        **params
            As scikit-learn takes them: for the estimator's fit, `groups` for the splitter, what metadata routing asks for.

        Returns
        -------
        self
        """
        with ExitStack() as setting:
            setting.enter_context(planned(self.client))
            self._setting = setting
            try:
                return super().fit(X, y, **params)  # type: ignore[misc]
            finally:
                vars(self).pop("_setting", None)

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        vars(self).pop("_setting").close()
        more = {} if callback_ctx is None else {"callback_ctx": callback_ctx}
        super()._run_search(evaluate_candidates, **more)  # type: ignore[misc]


class GridSearchCV(_Planned, sk.GridSearchCV):
    """
    scikit-learn's GridSearchCV, which does each piece of work once and on an engine.

    Its parameters, methods and attributes are scikit-learn's, and so are its results to the last bit; only the times in
    ``cv_results_`` are others. Candidates with equal first steps of a Pipeline, or equal parts of a ColumnTransformer or
    FeatureUnion, share their fits on each fold, and so do candidates of which one's model is the beginning of another's
    (``n_estimators`` of forests and boosting, among others). Each is told the time of the fit that served it.

    Parameters
    ----------
    estimator, param_grid, scoring, refit, cv, verbose, error_score, return_train_score
        As in scikit-learn.
    n_jobs, pre_dispatch
        Accepted and not used: the engine knows how much it can do at the same time.
    client : Engine, optional
        Where to run, a Client as a rule. Default: the current engine, which is a pool of threads where none was chosen.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 5, 25]}, cv=3).fit(X, y)
    >>> search.best_params_, float(search.best_score_.round(3))
    ({'n_neighbors': 5}, 0.98)
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable[..., Any] = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: float | str = np.nan,
        return_train_score: bool = False,
        client: Any = None,
    ) -> None:
        super().__init__(
            estimator, param_grid, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose,
            pre_dispatch=pre_dispatch, error_score=error_score, return_train_score=return_train_score,
        )  # fmt: skip
        self.client = client


class RandomizedSearchCV(_Planned, sk.RandomizedSearchCV):
    """
    scikit-learn's RandomizedSearchCV, which does each piece of work once and on an engine; see `GridSearchCV`.

    Parameters
    ----------
    estimator, param_distributions, n_iter, scoring, refit, cv, verbose, random_state, error_score, return_train_score
        As in scikit-learn.
    n_jobs, pre_dispatch
        Accepted and not used: the engine knows how much it can do at the same time.
    client : Engine, optional
        Where to run, a Client as a rule. Default: the current engine, which is a pool of threads where none was chosen.

    Examples
    --------
    >>> from scipy.stats import randint
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> search = RandomizedSearchCV(KNeighborsClassifier(), {"n_neighbors": randint(1, 40)}, n_iter=4, cv=3, random_state=0)
    >>> len(search.fit(X, y).cv_results_["params"])
    4
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        n_iter: int = 10,
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
    ) -> None:
        super().__init__(
            estimator, param_distributions, n_iter=n_iter, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv,
            verbose=verbose, pre_dispatch=pre_dispatch, random_state=random_state, error_score=error_score,
            return_train_score=return_train_score,
        )  # fmt: skip
        self.client = client

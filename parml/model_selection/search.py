"""scikit-learn's searches, with the work of all candidates planned together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from sklearn import model_selection as sk

from parml.collections import is_collection
from parml.from_dask import as_collection
from parml.model_selection.backend import planned
from parml.model_selection.chunked import Answered, laid_out
from parml.model_selection.follow import Checkpoint, Follower, Interrupted, Progress
from parml.model_selection.plot import Plotted
from parml_core.engine.registry import resolve, use

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

    estimator: Any
    best_estimator_: Any
    progress: bool

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """
        Search, and fit the best estimator on all data.

        Parameters
        ----------
        X, y : array-like or collection
            A collection as X needs an estimator that trains on partitions, such as parml.xgboost's: its rows stay where they
            are, and a fold is some of them in their order. All else, as one column, is fetched.
        **params
            As scikit-learn takes them: for the estimator's fit, `groups` for the splitter, what metadata routing asks for.

        Returns
        -------
        self
        """
        engine, estimator = resolve(self.client), self.estimator
        X, y, params = laid_out(engine, estimator, X, y, params)
        with use(engine), ExitStack() as followed, ExitStack() as setting:
            progress = followed.enter_context(Progress(type(self).__name__)) if self.progress else None
            directory, refit = getattr(self, "checkpoint", None), getattr(self, "refit", None)
            checkpoint = None if directory is None else Checkpoint(directory)
            follower = Follower(progress, checkpoint, refit if isinstance(refit, str) else None)
            setting.enter_context(planned(engine, estimator, follower))
            self._setting = setting
            try:
                return super().fit(X, y, **params)  # type: ignore[misc]
            finally:
                vars(self).pop("_setting", None)

    def score(self, X: Any, y: Any = None, **params: Any) -> float:
        """
        The score of the best estimator on these rows. Of a collection it predicts partition by partition, and fetches that.

        Returns
        -------
        float
        """
        if not (is_collection(as_collection(X)) and hasattr(self, "best_estimator_")):
            return super().score(X, y, **params)  # type: ignore[misc,no-any-return]
        engine, asked = resolve(self.client), copy.copy(self)
        asked.best_estimator_ = Answered(self.best_estimator_)
        X, y, params = laid_out(engine, self.best_estimator_, X, y, params)
        with use(engine):
            return super(_Planned, asked).score(X, y, **params)  # type: ignore[misc,no-any-return]

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        vars(self).pop("_setting").close()
        more = {} if callback_ctx is None else {"callback_ctx": callback_ctx}
        super()._run_search(evaluate_candidates, **more)  # type: ignore[misc]


class _Stoppable(_Planned):
    """One round of candidates: when it is interrupted, those that are done are its result."""

    n_splits_: int

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        self.interrupted_ = False

        def evaluate(candidates: Iterable[Any], *args: Any, **options: Any) -> Any:
            candidates, n_splits = list(candidates), self.n_splits_
            try:
                return evaluate_candidates(candidates, *args, **options)
            except Interrupted as stopped:
                groups = [range(i * n_splits, (i + 1) * n_splits) for i in range(len(candidates))]
                done = [i for i, group in enumerate(groups) if all(number in stopped.results for number in group)]
                if not done:
                    raise
                warnings.warn(
                    f"interrupted: {len(done)} of {len(candidates)} candidates are done, and the results are theirs; "
                    "interrupt again to end the refit, too",
                    stacklevel=2,
                )
                self.interrupted_ = True
                stopped.replay([stopped.results[number] for i in done for number in groups[i]])
                options.pop("callback_ctx", None)  # callbacks have heard of these candidates
                return evaluate_candidates([candidates[i] for i in done], *args, **options)

        super()._run_search(evaluate, callback_ctx=callback_ctx)


class GridSearchCV(_Stoppable, sk.GridSearchCV):
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
    checkpoint : str or path, optional
        A directory. The result of each candidate on each fold is written there when it arrives, and read instead of computed by
        a search with the same estimator, data and folds. Code counts by its name: use another directory when it has changed.
    progress : bool
        Whether a line (of rich) shows how much is done, and the best score so far.

    Attributes
    ----------
    interrupted_ : bool
        Ctrl-C ended the search early: the results are those of the candidates that were done by then.

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
        checkpoint: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator, param_grid, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose,
            pre_dispatch=pre_dispatch, error_score=error_score, return_train_score=return_train_score,
        )  # fmt: skip
        self.client, self.checkpoint, self.progress = client, checkpoint, progress


class RandomizedSearchCV(_Stoppable, sk.RandomizedSearchCV):
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
    checkpoint : str or path, optional
        A directory. The result of each candidate on each fold is written there when it arrives, and read instead of computed by
        a search with the same estimator, data and folds. Code counts by its name: use another directory when it has changed.
    progress : bool
        Whether a line (of rich) shows how much is done, and the best score so far.

    Attributes
    ----------
    interrupted_ : bool
        Ctrl-C ended the search early: the results are those of the candidates that were done by then.

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
        checkpoint: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator, param_distributions, n_iter=n_iter, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv,
            verbose=verbose, pre_dispatch=pre_dispatch, random_state=random_state, error_score=error_score,
            return_train_score=return_train_score,
        )  # fmt: skip
        self.client, self.checkpoint, self.progress = client, checkpoint, progress

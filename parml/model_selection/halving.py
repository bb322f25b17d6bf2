"""scikit-learn's successive halving, each rung of which is one plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import model_selection as sk
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - without it scikit-learn hides the two classes

from parml.model_selection.search import _Planned

__all__ = ["HalvingGridSearchCV", "HalvingRandomSearchCV"]


class HalvingGridSearchCV(_Planned, sk.HalvingGridSearchCV):
    """
    scikit-learn's HalvingGridSearchCV, which does each piece of work once and on an engine; see `GridSearchCV`.

    All candidates start on few resources, and of each rung the best ``1 / factor`` go on to the next with `factor` times as
    many. Results are scikit-learn's to the last bit, wherever `random_state` is an int. The data go to the engine once.

    Parameters
    ----------
    estimator, param_grid, factor, resource, max_resources, min_resources, aggressive_elimination, cv, scoring, refit, \
error_score, return_train_score, random_state, verbose
        As in scikit-learn. A `resource` is ``"n_samples"`` or a parameter of the estimator, such as ``"n_estimators"``.
    n_jobs
        Accepted and not used: the engine knows how much it can do at the same time.
    client : Engine, optional
        Where to run, a Client as a rule. Default: the current engine, which is a pool of threads where none was chosen.
    progress : bool
        Whether a line (of rich) shows how much is done, and the best score so far.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> forest, grid = RandomForestClassifier(random_state=0), {"max_depth": [1, 2, 3], "min_samples_split": [2, 5, 9]}
    >>> search = HalvingGridSearchCV(forest, grid, resource="n_estimators", max_resources=18, cv=3, random_state=0).fit(X, y)
    >>> search.n_candidates_, search.n_resources_
    ([9, 3, 1], [2, 6, 18])
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
        *,
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: int | str = "auto",
        min_resources: int | str = "exhaust",
        aggressive_elimination: bool = False,
        cv: Any = 5,
        scoring: Any = None,
        refit: bool | Callable[..., Any] = True,
        error_score: float | str = np.nan,
        return_train_score: bool = True,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        client: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator, param_grid, factor=factor, resource=resource, max_resources=max_resources, min_resources=min_resources,
            aggressive_elimination=aggressive_elimination, cv=cv, scoring=scoring, refit=refit, error_score=error_score,
            return_train_score=return_train_score, random_state=random_state, n_jobs=n_jobs, verbose=verbose,
        )  # fmt: skip
        self.client, self.progress = client, progress


class HalvingRandomSearchCV(_Planned, sk.HalvingRandomSearchCV):
    """
    scikit-learn's HalvingRandomSearchCV, which does each piece of work once and on an engine; see `HalvingGridSearchCV`.

    Parameters
    ----------
    estimator, param_distributions, n_candidates, factor, resource, max_resources, min_resources, aggressive_elimination, cv, \
scoring, refit, error_score, return_train_score, random_state, verbose
        As in scikit-learn.
    n_jobs
        Accepted and not used: the engine knows how much it can do at the same time.
    client : Engine, optional
        Where to run, a Client as a rule. Default: the current engine, which is a pool of threads where none was chosen.
    progress : bool
        Whether a line (of rich) shows how much is done, and the best score so far.

    Examples
    --------
    >>> from scipy.stats import randint
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> tree, space = DecisionTreeClassifier(random_state=0), {"max_depth": randint(1, 9)}
    >>> search = HalvingRandomSearchCV(tree, space, n_candidates=6, cv=3, random_state=0).fit(X, y)
    >>> search.n_candidates_, search.n_resources_
    ([6, 2], [18, 54])
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        n_candidates: int | str = "exhaust",
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: int | str = "auto",
        min_resources: int | str = "smallest",
        aggressive_elimination: bool = False,
        cv: Any = 5,
        scoring: Any = None,
        refit: bool | Callable[..., Any] = True,
        error_score: float | str = np.nan,
        return_train_score: bool = True,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        client: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator, param_distributions, n_candidates=n_candidates, factor=factor, resource=resource,
            max_resources=max_resources, min_resources=min_resources, aggressive_elimination=aggressive_elimination, cv=cv,
            scoring=scoring, refit=refit, error_score=error_score, return_train_score=return_train_score,
            random_state=random_state, n_jobs=n_jobs, verbose=verbose,
        )  # fmt: skip
        self.client, self.progress = client, progress

"""Searches over estimators with `partial_fit`, which stop training what is not worth it. The names are dask-ml's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import ParameterGrid

from parml.model_selection.adaptive import AdaptiveSearch
from parml.model_selection.schedule import Rung, decaying, hyperband
from parml_core.errors import InputError

__all__ = ["HyperbandSearchCV", "IncrementalSearchCV"]


class IncrementalSearchCV(AdaptiveSearch):
    """
    Train many models on blocks of data, and give up on those that do badly.

    Each model gets its calls of `partial_fit` one block at a time and is scored on rows that none trains with. With
    `decay_rate` ever fewer models go on; with `patience` a model stops when its score no longer improves. A model whose
    `partial_fit` or scorer raises has `error_score`, and the search goes on. The same `random_state` gives the same search,
    on any engine and whatever ends first; a model's own ``random_state=None`` is then replaced by a seed.

    Parameters
    ----------
    estimator : estimator with partial_fit
    parameters : dict or list of dict
        Lists, or distributions with ``rvs``, by name of parameter.
    n_initial_parameters : int or ``"grid"``
        How many settings are drawn, or all of the grid.
    decay_rate : float, optional
        After k calls ``n_initial_parameters / (1 + k) ** decay_rate`` models are left, at least one, which trains to the
        end. None: all train to the end.
    test_size : float or int, optional
        How much of the data is for scores. Default: as much as one block, at most a fifth.
    patience : int or False
        A model stops when none of its scores in this many calls is more than `tol` better than the first of them.
    tol : float
    fits_per_score : int
        How many calls lie between two scores of a model, where `decay_rate` does not decide.
    max_iter : int
        The most calls that a model gets.
    random_state : int, RandomState or None
    scoring : str, callable or None
        One number, larger is better. None: the estimator's ``score``.
    verbose : bool
        Whether each score is printed, after `prefix`.
    prefix : str
    error_score : float or ``"raise"``
    n_blocks : int
        Into how many blocks data in memory are cut; the default, one, makes each call a pass over all of them.
    client : Engine, optional
        Where to run, a Client as a rule. Default: the current engine, which is a pool of threads where none was chosen.
    progress : bool
        Whether a line (of rich) shows how many calls are done, and the best score so far.

    Attributes
    ----------
    cv_results_ : dict of arrays
        An item for each model: ``test_score`` (its last), ``rank_test_score``, ``model_id``, ``partial_fit_calls``,
        ``params``, ``param_…``, ``error`` (the traceback of what failed, else empty), and times.
    history_ : list of dict
        After each score: ``model_id``, ``params``, ``partial_fit_calls``, ``score``, times; model by model.
    model_history_ : dict of list of dict
        The same by model.
    best_estimator_, best_score_, best_params_, best_index_
        The model with the best last score among those that were not given up.
    metadata, metadata_ : dict
        How many models and calls of `partial_fit` the search makes, and has made.
    scorer_ : callable

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import SGDClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> space = {"alpha": np.logspace(-5, 1, 50)}
    >>> search = IncrementalSearchCV(SGDClassifier(), space, 9, decay_rate=1.0, max_iter=10, random_state=0).fit(X, y)
    >>> search.metadata_["partial_fit_calls"], bool(search.best_score_ > 0.9)
    (24, True)
    """

    def __init__(
        self,
        estimator: Any,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        n_initial_parameters: int | str = 10,
        decay_rate: float | None = None,
        test_size: float | int | None = None,
        patience: bool | int = False,
        tol: float | None = 0.001,
        fits_per_score: int = 1,
        max_iter: int = 100,
        random_state: Any = None,
        scoring: Any = None,
        verbose: bool = False,
        prefix: str = "",
        *,
        error_score: float | str = np.nan,
        n_blocks: int = 1,
        client: Any = None,
        progress: bool = False,
    ) -> None:
        self.estimator, self.parameters = estimator, parameters
        self.n_initial_parameters, self.decay_rate, self.fits_per_score = n_initial_parameters, decay_rate, fits_per_score
        self.max_iter, self.patience, self.tol, self.test_size = max_iter, patience, tol, test_size
        self.random_state, self.scoring, self.verbose, self.prefix = random_state, scoring, verbose, prefix
        self.error_score, self.n_blocks, self.client, self.progress = error_score, n_blocks, client, progress

    def _brackets(self) -> dict[int, list[Rung]]:
        n = len(ParameterGrid(self.parameters)) if self.n_initial_parameters == "grid" else self.n_initial_parameters
        for name, value in (("n_initial_parameters", n), ("max_iter", self.max_iter), ("fits_per_score", self.fits_per_score)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise InputError(f"expected {name} as a positive whole number, found {value!r}; give another")
        if self.decay_rate is not None and not self.decay_rate >= 0:
            raise InputError(f"expected decay_rate as a positive number or None, found {self.decay_rate!r}; give another")
        return {0: decaying(int(n), int(self.max_iter), rate=self.decay_rate or 0.0, fits_per_score=int(self.fits_per_score))}

    def _candidates(self, n: int, seed: int) -> Iterable[dict[str, Any]]:
        if self.n_initial_parameters == "grid":
            return ParameterGrid(self.parameters)
        return super()._candidates(n, seed)

    def _calls_of_patience(self) -> int:
        if self.patience is True:
            raise InputError("expected patience as a number of calls, found True; give an int of 2 or more")
        return super()._calls_of_patience()


class HyperbandSearchCV(AdaptiveSearch):
    """
    Hyperband: successive halving of models that train by `partial_fit`, in several brackets that halve more or less eagerly.

    The brackets, and how many models and calls each has, are those of Algorithm 1 of Li et al. (2016), as `metadata` lists
    them. The brackets train side by side. See `IncrementalSearchCV` for data, failures, reproducibility and results.

    Parameters
    ----------
    estimator : estimator with partial_fit
    parameters : dict or list of dict
        Lists, or distributions with ``rvs``, by name of parameter.
    max_iter : int
        The most calls of `partial_fit` that a model gets. About as many settings are tried, too.
    aggressiveness : int
        Of each rung one model in this many goes on, and gets this many times the calls.
    patience : bool or int
        A model stops when none of its scores in this many calls is more than `tol` better than the first of them. True:
        ``max_iter // aggressiveness`` calls, at least 2.
    tol : float
    test_size : float or int, optional
        How much of the data is for scores. Default: as much as one block, at most a fifth.
    random_state, scoring, verbose, prefix, error_score, n_blocks, client, progress
        As for `IncrementalSearchCV`.

    Attributes
    ----------
    cv_results_, history_, model_history_, best_estimator_, best_score_, best_params_, best_index_, metadata, metadata_, scorer_
        As for `IncrementalSearchCV`; ``bracket`` stands in the results besides, and a model is named ``"bracket=2-7"``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import SGDClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> space = {"alpha": np.logspace(-5, 1, 50), "average": [True, False]}
    >>> search = HyperbandSearchCV(SGDClassifier(), space, max_iter=9, random_state=0)
    >>> search.metadata["n_models"], search.metadata["partial_fit_calls"]
    (17, 69)
    >>> bool(search.fit(X, y).best_score_ > 0.9)
    True
    """

    def __init__(
        self,
        estimator: Any,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        max_iter: int = 81,
        aggressiveness: int = 3,
        patience: bool | int = False,
        tol: float | None = 0.001,
        test_size: float | int | None = None,
        random_state: Any = None,
        scoring: Any = None,
        verbose: bool = False,
        prefix: str = "",
        *,
        error_score: float | str = np.nan,
        n_blocks: int = 1,
        client: Any = None,
        progress: bool = False,
    ) -> None:
        self.estimator, self.parameters = estimator, parameters
        self.max_iter, self.aggressiveness, self.patience, self.tol = max_iter, aggressiveness, patience, tol
        self.test_size, self.random_state, self.scoring = test_size, random_state, scoring
        self.verbose, self.prefix = verbose, prefix
        self.error_score, self.n_blocks, self.client, self.progress = error_score, n_blocks, client, progress

    def _brackets(self) -> dict[int, list[Rung]]:
        for name, value, low in (("max_iter", self.max_iter, 1), ("aggressiveness", self.aggressiveness, 2)):
            if not isinstance(value, (int, np.integer)) or value < low:
                raise InputError(f"expected {name} as a whole number of at least {low}, found {value!r}; give another")
        return hyperband(int(self.max_iter), int(self.aggressiveness))

    def _calls_of_patience(self) -> int:
        if self.patience is True:
            return max(self.max_iter // self.aggressiveness, 2)
        return super()._calls_of_patience()

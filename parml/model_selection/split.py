"""The data of a fold, cut once, and how many fits may use it without seeing each other's changes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags

from parml.collections import is_collection

T = TypeVar("T")

__all__ = ["Fold", "NeedsOwnCopies", "Rows", "borrow", "cut", "n_rows", "own", "wants_to_write", "with_inputs", "without_data"]


class Fold(NamedTuple):
    """What scikit-learn gives to fit and to a scorer on one split."""

    X_train: Any
    y_train: Any
    fit_params: dict[str, Any]
    X_test: Any
    y_test: Any
    test_params: dict[str, Any]
    train_params: dict[str, Any]


def cut(
    fit_and_score: Callable[..., Any],
    like: Any,
    X: Any,
    y: Any,
    train: Any,
    test: Any,
    fit_params: dict[str, Any],
    score_params: dict[str, Any],
) -> Fold:
    """
    One split of the data, cut by scikit-learn itself: by its own function, with an estimator and a scorer that only look.

    Rows of a collection stay in its order, which a splitter that shuffles changes only there.

    Parameters
    ----------
    fit_and_score : callable
        The function that scikit-learn runs for each candidate and split.
    like : estimator
        Whose tags say how to cut (a matrix of distances is cut both ways).
    """
    estimator, scored = _Onlooker(like), []
    if is_collection(X):
        train, test = np.sort(train), np.sort(test)

    def look(estimator: Any, X: Any, y: Any = None, **params: Any) -> float:
        scored.append((X, y, params))
        return 0.0

    fit_and_score(
        estimator, X, y, scorer=look, train=train, test=test, verbose=0, parameters=None, fit_params=fit_params,
        score_params=score_params, return_train_score=True, error_score="raise",
    )  # fmt: skip
    (X_test, y_test, test_params), (_, _, train_params) = scored
    X_train, y_train, fit_params = estimator.seen
    return Fold(X_train, y_train, fit_params, X_test, y_test, test_params, train_params)


class Rows:
    """Stands for data that nobody will look at, because what is made of it is there already."""

    def __init__(self, n_rows: int) -> None:
        self.shape = (n_rows, 1)

    def __len__(self) -> int:
        return self.shape[0]


def without_data(fold: Fold) -> Fold:
    """The fold's labels and parameters, which are small."""
    return fold._replace(X_train=Rows(n_rows(fold.X_train)), X_test=Rows(n_rows(fold.X_test)))


def n_rows(X: Any) -> int:
    """Number of rows of an array, frame, sparse matrix or list."""
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


class _Onlooker(BaseEstimator):
    def __init__(self, like: Any = None) -> None:
        self.like = like

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.like)

    def fit(self, X: Any, y: Any = None, **params: Any) -> _Onlooker:
        self.seen = X, y, params
        return self


class NeedsOwnCopies(BaseException):
    """An array is read-only for who asked; no `except Exception` on the way may take it for a result."""


def with_inputs(attempt: Callable[[Callable[[Any], Any]], T]) -> T:
    """
    Try with values that others use too. If that has to write into them, try again with copies of its own.

    Parameters
    ----------
    attempt : callable
        Gets the function through which each value has to go.

    Examples
    --------
    >>> import numpy
    >>> shared = numpy.ones(3)
    >>> def double(hold):
    ...     x = hold(shared)
    ...     x *= 2
    ...     return x.sum()
    >>> float(with_inputs(double)), float(shared.sum())
    (6.0, 3.0)
    """
    try:
        return attempt(borrow)
    except NeedsOwnCopies:
        pass
    except Exception as error:
        if not wants_to_write(error):
            raise
    return attempt(own)


def wants_to_write(error: object) -> bool:
    """Whether something failed because an array is read-only."""
    text = str(error)
    return "read-only" in text or "not writ" in text


def borrow(value: Any) -> Any:
    """A shared value in a form that its user cannot change for others."""
    numpy, pandas, sparse = sys.modules.get("numpy"), sys.modules.get("pandas"), sys.modules.get("scipy.sparse")
    if value is None or isinstance(value, (str, bytes, int, float, Rows)) or is_collection(value):
        return value
    if numpy and type(value) is numpy.ndarray and value.dtype != object:
        return _read_only(value)
    if pandas and isinstance(value, (pandas.DataFrame, pandas.Series)) and int(pandas.__version__.partition(".")[0]) >= 3:
        return value.copy(deep=False)  # pandas copies when either writes
    if numpy and sparse and sparse.issparse(value) and type(value).__module__.startswith("scipy."):
        twin = copy.copy(value)
        vars(twin).update({name: _read_only(part) for name, part in vars(value).items() if type(part) is numpy.ndarray})
        return twin
    if type(value) in (list, tuple) and all(type(item) in (str, int, float, bool) for item in value):
        return value[:]
    return copy.deepcopy(value)


def own(value: Any) -> Any:
    """A copy that its user may change, with writable arrays."""
    return value if is_collection(value) else copy.deepcopy(value)


def _read_only(array: Any) -> Any:
    view = array.view()
    view.setflags(write=False)
    return view

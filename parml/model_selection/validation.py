"""scikit-learn's validation functions, with their fits on an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn import model_selection as sk

from parml.model_selection.backend import planned
from parml.model_selection.chunked import laid_out
from parml_core.engine.registry import resolve, use

__all__ = ["cross_val_predict", "cross_val_score", "cross_validate", "learning_curve", "validation_curve"]


def cross_validate(estimator: Any, X: Any, y: Any = None, *, client: Any = None, **options: Any) -> dict[str, Any]:
    """
    scikit-learn's cross_validate; the data go to the engine once. X may be a collection where a search takes one.

    Parameters
    ----------
    estimator, X, y
    client : Engine, optional
        Default: the current engine.
    **options
        As in scikit-learn; `n_jobs` and `pre_dispatch` are accepted and not used.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> cross_validate(GaussianNB(), *load_iris(return_X_y=True), cv=3)["test_score"].round(2)
    array([0.92, 0.94, 0.96])
    """
    return _run(sk.cross_validate, client, estimator, X, y, options)


def cross_val_score(estimator: Any, X: Any, y: Any = None, *, client: Any = None, **options: Any) -> Any:
    """
    scikit-learn's cross_val_score; see `cross_validate`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> cross_val_score(GaussianNB(), *load_iris(return_X_y=True), cv=3).round(2)
    array([0.92, 0.94, 0.96])
    """
    return _run(sk.cross_val_score, client, estimator, X, y, options)


def cross_val_predict(estimator: Any, X: Any, y: Any = None, *, client: Any = None, **options: Any) -> Any:
    """
    scikit-learn's cross_val_predict; see `cross_validate`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> cross_val_predict(GaussianNB(), *load_iris(return_X_y=True), cv=3).shape
    (150,)
    """
    return _run(sk.cross_val_predict, client, estimator, X, y, options)


def validation_curve(estimator: Any, X: Any, y: Any, *, client: Any = None, **options: Any) -> Any:
    """
    scikit-learn's validation_curve; values share work as the candidates of a search do.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> forest = RandomForestClassifier(random_state=0)
    >>> data = load_iris(return_X_y=True)
    >>> train, test = validation_curve(forest, *data, param_name="n_estimators", param_range=[5, 10], cv=3)
    >>> train.shape
    (2, 3)
    """
    return _run(sk.validation_curve, client, estimator, X, y, options)


def learning_curve(estimator: Any, X: Any, y: Any, *, client: Any = None, **options: Any) -> Any:
    """
    scikit-learn's learning_curve; see `cross_validate`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> data = load_iris(return_X_y=True)
    >>> sizes, train, test = learning_curve(GaussianNB(), *data, cv=3, train_sizes=[50, 100], shuffle=True)
    >>> sizes, test.shape
    (array([ 50, 100]), (2, 3))
    """
    return _run(sk.learning_curve, client, estimator, X, y, options)


def _run(function: Callable[..., Any], client: Any, estimator: Any, X: Any, y: Any, options: dict[str, Any]) -> Any:
    engine = resolve(client)
    X, y, options = laid_out(engine, estimator, X, y, options)
    with use(engine), planned(engine, estimator):
        return function(estimator, X, y, **options)

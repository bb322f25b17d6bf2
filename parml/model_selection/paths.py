"""
Estimators whose smaller models are prefixes of larger ones: one fit serves all values of one parameter.

Only what stays equal to the last bit is here (the tests compare each with separate fits): a boosted or bagged ensemble of n
members is the first n of a longer one, and the fit of a neighbours model does not depend on how many neighbours it will ask.
A model of a subclass, with early stopping, or that continues another model, is fitted by itself.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Path", "effort", "path_of", "shortened"]

_HIST_STOPS_EARLY_FROM_ROWS = 10_000  # early_stopping="auto": larger data are split, smaller are not
_DEEP = 20  # levels of a tree without a limit: what is counted is only which of two fits takes longer
_HARMLESS_LIGHTGBM = frozenset({"verbose", "verbosity", "force_row_wise", "force_col_wise", "deterministic", "max_bin", "seed"})


@dataclass(frozen=True)
class Path:
    """
    The parameter along which an estimator's models are prefixes of each other.

    Parameters
    ----------
    parameter : str
    value : int
        What the estimator has.
    kind : object
        Estimators share a fit only if this is equal, too.
    """

    parameter: str
    value: int
    kind: Any = None


def path_of(estimator: Any, n_train: int, fit_params: frozenset[str]) -> Path | None:
    """
    The path on which the estimator is, or None: it has to be fitted by itself.

    Parameters
    ----------
    estimator : estimator
    n_train : int
        Rows to be fitted.
    fit_params : frozenset of str
        Names of what goes to `fit` beside X and y.

    Examples
    --------
    >>> from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    >>> path_of(RandomForestRegressor(20), 100, frozenset()).value
    20
    >>> path_of(GradientBoostingRegressor(n_iter_no_change=3), 100, frozenset())
    """
    rule = _rule_of(estimator)
    if rule is None or not fit_params <= {"sample_weight"}:
        return None
    params = estimator.get_params(deep=False)
    if params.get("warm_start") or not rule.applies(estimator, params, n_train):
        return None
    value = params.get(rule.parameter)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        return None
    return Path(rule.parameter, int(value), rule.kind(params, n_train))


def effort(estimator: Any) -> int:
    """
    A number that is larger for fits that take longer, as far as the size of an ensemble and the depth of its trees tell.

    Examples
    --------
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> effort(RandomForestRegressor(20, max_depth=3)), effort(RandomForestRegressor(20))
    (60, 400)
    """
    params = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    effort = 1
    for name in ("n_estimators", "max_iter"):
        if isinstance(params.get(name), numbers.Integral):
            effort *= max(int(params[name]), 1)
    if "max_depth" in params:
        levels = int(params["max_depth"]) if isinstance(params["max_depth"], numbers.Integral) else 0
        effort *= levels if levels > 0 else _DEEP
    return effort


@contextmanager
def shortened(model: Any, value: int) -> Iterator[None]:
    """
    Within this context the fitted `model` predicts like one that was fitted with `value` on its path.

    Raises
    ------
    AttributeError
        This release of the library keeps its members elsewhere.

    Examples
    --------
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]
    >>> long = RandomForestRegressor(9, random_state=0).fit(X, y)
    >>> with shortened(long, 4):
    ...     short = long.predict(X)
    >>> bool((short == RandomForestRegressor(4, random_state=0).fit(X, y).predict(X)).all())
    True
    """
    rule = _rule_of(model)
    assert rule is not None
    restore = rule.shorten(model, value)
    try:
        yield
    finally:
        restore()


@dataclass(frozen=True)
class _Rule:
    parameter: str
    applies: Callable[[Any, dict[str, Any], int], bool]
    shorten: Callable[[Any, int], Callable[[], None]]
    kind: Callable[[dict[str, Any], int], Any] = lambda params, n_train: None


def _rule_of(estimator: Any) -> _Rule | None:
    kind = type(estimator)
    return _RULES.get((kind.__module__.partition(".")[0], kind.__name__))


# --- how the libraries' models are cut -----------------------------------------------------------------------------------


def _cut(*names: str, parameter: str) -> Callable[[Any, int], Callable[[], None]]:
    """Cut the fitted attributes `names` to the first members, and set the parameter, which some predict with."""

    def shorten(model: Any, value: int) -> Callable[[], None]:
        before = {name: getattr(model, name) for name in (*names, parameter)}

        def restore() -> None:
            for name, members in before.items():
                setattr(model, name, members)

        for name in names:
            setattr(model, name, before[name][:value])
        setattr(model, parameter, value)
        return restore

    return shorten


def _cut_xgboost(model: Any, value: int) -> Callable[[], None]:
    booster = model.get_booster()
    booster.set_attr(best_iteration=value - 1)  # what predict and its like stop at
    return lambda: booster.set_attr(best_iteration=None)


def _cut_lightgbm(model: Any, value: int) -> Callable[[], None]:
    booster = model.booster_
    before, booster.best_iteration = booster.best_iteration, value
    return lambda: setattr(booster, "best_iteration", before)


# --- where it is exact ---------------------------------------------------------------------------------------------------


def _always(estimator: Any, params: dict[str, Any], n_train: int) -> bool:
    return True


def _xgboost(estimator: Any, params: dict[str, Any], n_train: int) -> bool:
    return (
        params.get("booster") in (None, "gbtree")
        and params.get("early_stopping_rounds") is None
        and not params.get("callbacks")
        and params.get("multi_strategy") in (None, "one_output_per_tree")
        and not _beyond_signature(estimator, params)
    )


def _lightgbm(estimator: Any, params: dict[str, Any], n_train: int) -> bool:
    return params.get("boosting_type") == "gbdt" and _beyond_signature(estimator, params) <= _HARMLESS_LIGHTGBM


def _gradient_boosting(estimator: Any, params: dict[str, Any], n_train: int) -> bool:
    return params.get("n_iter_no_change") is None


def _hist_gradient_boosting(estimator: Any, params: dict[str, Any], n_train: int) -> bool:
    early = params.get("early_stopping")
    return early is False or (early == "auto" and n_train <= _HIST_STOPS_EARLY_FROM_ROWS)


def _neighbours_kind(params: dict[str, Any], n_train: int) -> bool:
    """algorithm="auto" fits no tree where half of the rows are asked for."""
    return params["n_neighbors"] < n_train // 2


def _beyond_signature(estimator: Any, params: dict[str, Any]) -> set[str]:
    """Settings that travel as ``**kwargs``: they may mean anything."""
    known: set[str] = set()
    for base in type(estimator).__mro__:
        known.update(inspect.signature(base).parameters)
    return {name for name, value in params.items() if name not in known and value is not None}


_FOREST = _Rule("n_estimators", _always, _cut("estimators_", parameter="n_estimators"))
_BAGGING = _Rule("n_estimators", _always, _cut("estimators_", "estimators_features_", parameter="n_estimators"))
_ADA = _Rule("n_estimators", _always, _cut("estimators_", "estimator_weights_", "estimator_errors_", parameter="n_estimators"))
_GRADIENT = _Rule("n_estimators", _gradient_boosting, _cut("estimators_", parameter="n_estimators"))
_HIST = _Rule("max_iter", _hist_gradient_boosting, _cut("_predictors", parameter="max_iter"))
_NEIGHBOURS = _Rule("n_neighbors", _always, _cut(parameter="n_neighbors"), _neighbours_kind)
_XGBOOST = _Rule("n_estimators", _xgboost, _cut_xgboost)
_LIGHTGBM = _Rule("n_estimators", _lightgbm, _cut_lightgbm)

_RULES: dict[tuple[str, str], _Rule] = {
    (library, stem + task): rule
    for library, stem, rule in [
        ("sklearn", "RandomForest", _FOREST),
        ("sklearn", "ExtraTrees", _FOREST),
        ("sklearn", "Bagging", _BAGGING),
        ("sklearn", "AdaBoost", _ADA),
        ("sklearn", "GradientBoosting", _GRADIENT),
        ("sklearn", "HistGradientBoosting", _HIST),
        ("sklearn", "KNeighbors", _NEIGHBOURS),
        ("xgboost", "XGB", _XGBOOST),
        ("lightgbm", "LGBM", _LIGHTGBM),
        ("parml", "XGB", _XGBOOST),
        ("parml", "LGBM", _LIGHTGBM),
    ]
    for task in ("Classifier", "Regressor")
}

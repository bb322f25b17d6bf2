"""
What the estimators of XGBoost and LightGBM share. Each is the library's own with `OnEngine` before it: how to train is no
parameter of the model, collections may stand where arrays do, and labels are encoded once for all partitions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import numpy as np

from parml.boosting.labels import Classes
from parml.boosting.ranks import RankPer
from parml.collections import compute, is_collection, persist
from parml.from_dask import as_collection
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError

Pair = tuple[Any, Any]
_HOW = ("ranks", "max_restarts", "checkpoint_every", "progress")


class OnEngine:
    """
    Stands before a library's estimator, whose parameters and attributes stay. How a training runs is no parameter of the model:
    the options below are given to the constructor, or set as attributes; `sklearn.base.clone` keeps them, and a pickle keeps
    all but the client.

    Attributes
    ----------
    client : Engine or None
        Where to train. None: the current engine.
    ranks, max_restarts, checkpoint_every, progress
        As for the library's `train`.
    """

    __parml_trains_on_engine__ = True  # a search trains one at a time: each takes all processors

    client: Engine | None = None
    ranks: RankPer = "host"
    max_restarts: int = 3
    checkpoint_every: int | None = None
    progress: bool = False

    def __init__(self, **params: Any) -> None:
        super().__init__(**self._with_options(params))

    def set_params(self, **params: Any) -> Any:
        """As scikit-learn's; takes the options too."""
        return super().set_params(**self._with_options(params))  # type: ignore[misc]  # of the library's estimator

    def _with_options(self, params: dict[str, Any]) -> dict[str, Any]:
        """Set the options among `params`; the others."""
        for name in ("client", *_HOW):
            if name in params:
                setattr(self, name, params.pop(name))
        return params

    def _how(self) -> dict[str, Any]:
        """The options that are arguments of `train`."""
        return {name: getattr(self, name) for name in _HOW}

    def __sklearn_clone__(self) -> Any:
        clone = super().__sklearn_clone__()  # type: ignore[misc]
        return clone.set_params(**{name: getattr(self, name) for name in ("client", *_HOW) if name in vars(self)})

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "client"}

    # --- what a library adds -------------------------------------------------------------------------------------------

    def _fit(self, engine: Engine, given: dict[str, Any]) -> Any:
        """Train with the arguments of `fit`, whose collections the engine is computing. Returns self."""
        raise NotImplementedError

    def _learn_classes(self, engine: Engine, y: Any) -> Classes | None:
        """Find and keep the classes in the labels of a classifier; None where labels are what is to be learnt."""
        return None

    def _of_partitions(self, method: str, X: Any, options: dict[str, Any]) -> Any:
        """The lazy collection of what a method gives for each partition."""
        raise NotImplementedError

    # --- what they have from here --------------------------------------------------------------------------------------

    def _with_codes(self, engine: Engine, X: Any, y: Any, evals: Iterable[Pair]) -> tuple[Any, Any, list[Pair], Classes | None]:
        """X, y and the pairs to evaluate on with numbers for labels, and the classes. A pair that is (X, y) remains so."""
        classes = self._learn_classes(engine, taken(y))
        if classes is not None:
            _refuse_fractions(classes.labels)
        encode = classes.encode if classes is not None else taken
        rows, codes = taken(X), encode(taken(y))
        pairs = [(rows if X_i is X else taken(X_i), codes if y_i is y else encode(taken(y_i))) for X_i, y_i in evals]
        return rows, codes, pairs, classes


def _refuse_fractions(labels: np.ndarray) -> None:
    fractions = labels[labels != np.floor(labels)] if labels.dtype.kind == "f" else labels[:0]
    if len(fractions):
        raise InputError(
            f"Unknown label type: continuous; expected classes, found numbers with fractions in y, {fractions[:3].tolist()} "
            "among them; use a regressor, or cut them into classes"
        )


def fit_like(fit: Callable[..., Any]) -> Callable[..., Any]:
    """The `fit` of an estimator that takes what `fit` of the library takes, and collections in the place of every array."""
    signature = inspect.signature(fit)

    @wraps(fit)
    def fit_on_engine(self: OnEngine, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        engine = resolve(self.client)
        # At once, since they may come from the same files, and labels are looked at before the rest.
        (given,) = persist(_without_dask(dict(bound.arguments), {}), engine=engine)
        return self._fit(engine, given)

    fit_on_engine.__doc__ = f"""
        Train. Takes what `{_name_of(fit)}` takes, and collections in the place of every array.

        Returns
        -------
        self
        """
    return fit_on_engine


def _without_dask(value: Any, seen: dict[int, Any]) -> Any:
    """Dask's collections in lists, tuples and dicts as parml's, of the same one the same; whatever has none is left alone."""
    if type(value) in (dict, list, tuple):
        items = list(value.values()) if type(value) is dict else value
        found = [_without_dask(item, seen) for item in items]
        if all(new is old for new, old in zip(found, items, strict=True)):
            return value
        return dict(zip(value, found, strict=True)) if type(value) is dict else type(value)(found)
    if id(value) in seen:
        return seen[id(value)]
    converted = as_collection(value)
    if converted is not value:
        seen[id(value)] = converted
    return converted


def lazily(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` of an estimator; for a collection the lazy collection of what it gives for each partition."""
    signature = inspect.signature(method)

    @wraps(method)
    def of_rows_or_partitions(self: OnEngine, X: Any, *args: Any, **kwargs: Any) -> Any:
        X = as_collection(X)
        if not is_collection(X):
            return method(self, X, *args, **kwargs)
        options = dict(signature.bind(self, X, *args, **kwargs).arguments)
        options |= options.pop("kwargs", {})
        options = {name: as_collection(value) for name, value in options.items() if name not in ("self", "X")}
        return self._of_partitions(method.__name__, X, options)

    of_rows_or_partitions.__doc__ = f"""
        As `{_name_of(method)}`: at once for rows in memory, a lazy collection with the same partitions for a collection.

        Returns
        -------
        numpy.ndarray or PartitionedArray
        """
    return of_rows_or_partitions


def scored(score: Callable[..., Any], metric: Callable[..., Any]) -> Callable[..., Any]:
    """`score` of an estimator, which is `metric` of its predictions; those for a collection are brought here."""

    @wraps(score)
    def of_rows_or_partitions(self: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        X, y, sample_weight = map(as_collection, (X, y, sample_weight))
        if not is_collection(X):
            return float(score(self, X, y, sample_weight))
        predicted, y, sample_weight = compute(self.predict(X), y, sample_weight, engine=resolve(self.client))
        return float(metric(y, predicted, sample_weight=sample_weight))

    return of_rows_or_partitions


def _name_of(method: Callable[..., Any]) -> str:
    return f"{method.__module__.partition('.')[0]}.{method.__qualname__}"


def taken(value: Any) -> Any:
    """What is neither a table nor a collection, but can be an array, as an array."""
    array_like = hasattr(value, "__array__") and not is_collection(value) and not hasattr(value, "dtype")
    return np.asarray(value) if array_like and not hasattr(value, "columns") else value

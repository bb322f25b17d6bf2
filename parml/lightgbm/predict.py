"""Predict: at once for what is in memory, partition by partition for what is on an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightgbm as lgb
import numpy as np

from parml.collections import is_collection
from parml.data import PartitionedArray
from parml.from_dask import as_collection
from parml.lightgbm.data import Dataset
from parml.lightgbm.leaves import Model
from parml.tables import library_of, row_count
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.hashing import tokenize


def predict(
    client: Engine | None,
    model: lgb.Booster | Mapping[str, Any],
    X: Any,
    *,
    start_iteration: int = 0,
    num_iteration: int | None = None,
    raw_score: bool = False,
    pred_leaf: bool = False,
    pred_contrib: bool = False,
    validate_features: bool = False,
    **params: Any,
) -> Any:
    """
    Predict with a trained model.

    Parameters
    ----------
    client : Engine or None
        Where a Dataset must be; collections are computed by whoever computes the result.
    model : Booster or result of `train`
    X : array, table, collection or parml.lightgbm.Dataset
    start_iteration, num_iteration, raw_score, pred_leaf, pred_contrib, validate_features
        As for `lightgbm.Booster.predict`; without `num_iteration` the best iteration where there is one.
    **params
        Other parameters of LightGBM's prediction.

    Returns
    -------
    numpy.ndarray or PartitionedArray
        An array for `X` in memory. For a collection and a Dataset a lazy collection with the same partitions; its
        ``compute()`` gives the array.

    Examples
    --------
    >>> import numpy as np
    >>> booster = lgb.train({"verbosity": -1}, lgb.Dataset(np.eye(40), np.arange(40)), 2)
    >>> predict(None, booster, np.eye(40)).shape
    (40,)
    """
    booster = model["booster"] if isinstance(model, Mapping) else model
    if not isinstance(booster, lgb.Booster):
        raise TypeError(
            f"expected a lightgbm.Booster or the result of parml.lightgbm.train, found {type(model).__name__}; "
            "of an estimator pass booster_"
        )
    if num_iteration is None:
        num_iteration = booster.best_iteration if start_iteration <= 0 else -1
    options = {
        "start_iteration": start_iteration,
        "num_iteration": num_iteration,
        "raw_score": raw_score,
        "pred_leaf": pred_leaf,
        "pred_contrib": pred_contrib,
        "validate_features": validate_features,
        **params,
    }
    X = as_collection(X)
    if isinstance(X, Dataset):
        if client is not None and X.engine is not client:
            raise InputError(f"expected the Dataset on {client!r}, found it on {X.engine!r}; pass the client it was made with")
        X = X.partitions.collection("X")
    elif not is_collection(X):
        return _rows(booster.predict, X, options)
    text = booster.model_to_string(num_iteration=-1)
    # The partitions are what runs in parallel: one thread each.
    return in_partitions(X, "booster", Model, (text,), _predict, {"num_threads": 1, **options})


def in_partitions(
    X: Any, name: str, load: Callable[..., Any], model: tuple[Any, ...], one: Callable[..., Any], how: Mapping[str, Any]
) -> PartitionedArray:
    """``one(load(*model), partition, how)`` for each partition of a collection; the model is sent once and not with each."""
    keys = X.__parml_keys__()
    loaded = Task(f"{name}-{tokenize(name, model)}", load, model)
    token = tokenize(one.__qualname__, loaded.key, how, keys)
    tasks = [Task(f"predict-{token}:{i}", one, (Ref(loaded.key), Ref(key), how)) for i, key in enumerate(keys)]
    graph: Graph = X.__parml_graph__()
    return PartitionedArray(graph.add([loaded, *tasks]), [task.key for task in tasks])


def _predict(model: Model, X: Any, options: Mapping[str, Any]) -> Any:
    return _rows(model.predict, X, options)


def _rows(predict: Callable[..., Any], X: Any, options: Mapping[str, Any]) -> Any:
    if not row_count(X):
        return np.empty(0)
    if library_of(X) == "scipy":
        from scipy.sparse import csr_matrix

        X = csr_matrix(X)
    return predict(X, **options)

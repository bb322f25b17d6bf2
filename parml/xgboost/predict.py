"""Predict: at once for what is in memory, partition by partition for what is on an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import cloudpickle
import numpy as np
import xgboost as xgb

from parml.collections import is_collection
from parml.data import PartitionedArray
from parml.from_dask import as_collection
from parml.tables import library_of, row_count
from parml.xgboost.data import DMatrix
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.hashing import tokenize


def predict(
    client: Engine | None,
    model: xgb.Booster | Mapping[str, Any],
    X: Any,
    *,
    missing: float = np.nan,
    base_margin: Any = None,
    output_margin: bool = False,
    pred_leaf: bool = False,
    pred_contribs: bool = False,
    approx_contribs: bool = False,
    pred_interactions: bool = False,
    validate_features: bool = True,
    iteration_range: tuple[int, int] = (0, 0),
    strict_shape: bool = False,
) -> Any:
    """
    Predict with a trained model.

    Parameters
    ----------
    client : Engine or None
        Where a px.DMatrix must be; collections are computed by whoever computes the result.
    model : Booster or result of `train`
    X : array, table, collection or parml.xgboost.DMatrix
    missing, base_margin
        For `X` that is no DMatrix; a base margin for arrays and tables in memory only.
    output_margin, pred_leaf, pred_contribs, approx_contribs, pred_interactions, validate_features
        As for `xgboost.Booster.predict`.
    iteration_range, strict_shape
        As for `xgboost.Booster.predict`.

    Returns
    -------
    numpy.ndarray or PartitionedArray
        An array for `X` in memory. For a collection and a DMatrix a lazy collection with the same partitions; its
        ``compute()`` gives the array.

    Examples
    --------
    >>> import numpy as np
    >>> booster = xgb.train({"max_depth": 2}, xgb.DMatrix(np.eye(4), np.arange(4)), 2)
    >>> predict(None, booster, np.eye(4)).shape
    (4,)
    """
    options = {
        "output_margin": output_margin,
        "pred_leaf": pred_leaf,
        "pred_contribs": pred_contribs,
        "approx_contribs": approx_contribs,
        "pred_interactions": pred_interactions,
        "validate_features": validate_features,
        "iteration_range": iteration_range,
        "strict_shape": strict_shape,
    }
    matrix: dict[str, Any] = {"missing": missing, "enable_categorical": True}
    if isinstance(X, DMatrix):
        matrix |= {"missing": X.missing, **X.features()}
    return _apply(client, _booster_of(model), X, base_margin, _predict, (matrix, options))


def inplace_predict(
    client: Engine | None,
    model: xgb.Booster | Mapping[str, Any],
    X: Any,
    *,
    iteration_range: tuple[int, int] = (0, 0),
    predict_type: str = "value",
    missing: float = np.nan,
    validate_features: bool = True,
    base_margin: Any = None,
    strict_shape: bool = False,
) -> Any:
    """
    Predict from the rows themselves, without xgboost's own matrix. See `xgboost.Booster.inplace_predict` and `predict`.

    Examples
    --------
    >>> import numpy as np
    >>> booster = xgb.train({"max_depth": 2}, xgb.DMatrix(np.eye(4), np.arange(4)), 2)
    >>> bool((inplace_predict(None, booster, np.eye(4)) == predict(None, booster, np.eye(4))).all())
    True
    """
    options = {
        "iteration_range": iteration_range,
        "predict_type": predict_type,
        "missing": X.missing if isinstance(X, DMatrix) else missing,
        "validate_features": validate_features,
        "strict_shape": strict_shape,
    }
    return _apply(client, _booster_of(model), X, base_margin, _inplace_predict, (options,))


def _booster_of(model: Any) -> xgb.Booster:
    booster = model.get("booster") if isinstance(model, Mapping) else model
    if not isinstance(booster, xgb.Booster):
        raise TypeError(
            f"expected an xgboost.Booster or the result of parml.xgboost.train, found {type(model).__name__}; "
            "of an estimator pass get_booster()"
        )
    return booster


def _apply(
    client: Engine | None, booster: xgb.Booster, X: Any, base_margin: Any, one: Any, how: tuple[dict[str, Any], ...]
) -> Any:
    """`one` for the whole of X, or for each partition of it."""
    X, base_margin = as_collection(X), as_collection(base_margin)
    if isinstance(X, DMatrix):
        if client is not None and X.engine is not client:
            raise InputError(f"expected the DMatrix on {client!r}, found it on {X.engine!r}; pass the client it was made with")
        if base_margin is not None:
            raise InputError("expected the base margin of a DMatrix in the DMatrix, found another one; put it into the DMatrix")
        data = X.partitions
        rows, margin = data.collection("X"), data.collection("base_margin") if "base_margin" in data.fields else None
        return _map_partitions(Task("", _load, (bytes(booster.save_raw("ubj")),)), rows, margin, one, how)
    if is_collection(X):
        return _map_partitions(Task("", _load, (bytes(booster.save_raw("ubj")),)), X, base_margin, one, how)
    return one(booster, X, base_margin, *how)


def by_partition(estimator: xgb.XGBModel, method: str, X: Any, base_margin: Any, options: dict[str, Any]) -> PartitionedArray:
    """What a method of an estimator gives for each partition of a collection."""
    return _map_partitions(Task("", _load_estimator, (cloudpickle.dumps(estimator),)), X, base_margin, _call, (method, options))


def _map_partitions(load: Task, X: Any, base_margin: Any, one: Any, how: tuple[Any, ...]) -> PartitionedArray:
    """``one(model, partition, margin, *how)``. One task loads the model, so that it does not travel with each partition."""
    graph, keys = X.__parml_graph__(), list(X.__parml_keys__())
    margins: list[Any] = [None] * len(keys)
    if base_margin is not None:
        if not is_collection(base_margin):
            raise InputError(
                "expected a base margin in partitions beside partitions, found one in memory; put both into a DMatrix"
            )
        graph = Graph.merge([graph, base_margin.__parml_graph__()])
        margins = [Ref(key) for key in base_margin.__parml_keys__()]
        if len(margins) != len(keys):
            raise InputError(f"expected as many partitions in base_margin as in X, found {len(margins)} and {len(keys)}")
    token = tokenize(one.__name__, load.args, how, keys, margins)
    model = Task(f"model-{tokenize(load.args)}", load.fn, load.args)
    tasks = [
        Task(f"predict-{token}:{i}", one, (Ref(model.key), Ref(key), margin, *how))
        for i, (key, margin) in enumerate(zip(keys, margins, strict=True))
    ]
    return PartitionedArray(graph.add([model, *tasks]), [task.key for task in tasks])


def _load(raw: bytes) -> xgb.Booster:
    # The partitions are what runs in parallel: one thread each.
    return xgb.Booster({"nthread": 1}, model_file=bytearray(raw))


def _load_estimator(pickled: bytes) -> xgb.XGBModel:
    estimator: xgb.XGBModel = cloudpickle.loads(pickled)
    estimator.n_jobs = 1
    estimator.get_booster().set_param({"nthread": 1})
    return estimator


def _call(estimator: xgb.XGBModel, X: Any, base_margin: Any, method: str, options: dict[str, Any]) -> Any:
    if not row_count(X):
        return np.empty(0, "f4")
    margin = {} if base_margin is None else {"base_margin": base_margin}
    return getattr(estimator, method)(X, **margin, **options)


def _predict(booster: xgb.Booster, X: Any, base_margin: Any, matrix: dict[str, Any], options: dict[str, Any]) -> Any:
    if not row_count(X):
        return np.empty(0, "f4")
    found = _predict_in_place(booster, X, base_margin, matrix, options)
    return booster.predict(xgb.DMatrix(X, base_margin=base_margin, **matrix), **options) if found is None else found


def _predict_in_place(
    booster: xgb.Booster, X: Any, base_margin: Any, matrix: dict[str, Any], options: dict[str, Any]
) -> np.ndarray | None:
    """
    The same numbers without xgboost's matrix, which takes three times the memory of the rows and as long to make as a part of
    the predictions; None where it is needed for them, or for an error that tells what is wrong.
    """
    if base_margin is not None or not np.isnan(matrix["missing"]) or any(options[name] for name in _NEED_A_MATRIX):
        return None
    if matrix.get("feature_types") or booster.num_features() != np.shape(X)[-1]:
        return None
    rows, names = _dense(X)
    names = matrix.get("feature_names") or names
    if rows is None or (options["validate_features"] and booster.feature_names not in (None, names)):
        return None
    if not _is_of_plain_trees(booster):
        return None
    how = {name: options[name] for name in ("iteration_range", "strict_shape")}
    kind = "margin" if options["output_margin"] else "value"
    found: np.ndarray = booster.inplace_predict(rows, predict_type=kind, validate_features=False, **how)
    return found


def _is_of_plain_trees(booster: xgb.Booster) -> bool:
    """gblinear cannot predict in place, and dart adds up in another order there."""
    return bool(json.loads(booster.save_config())["learner"]["gradient_booster"]["name"] == "gbtree")


_NEED_A_MATRIX = ("pred_leaf", "pred_contribs", "pred_interactions")


def _dense(X: Any) -> tuple[np.ndarray | None, list[str] | None]:
    """The rows as xgboost takes them, and the names of columns; None for what is no table of finite numbers and gaps."""
    names = None
    if library_of(X) == "pandas" and np.ndim(X) == 2:
        if not all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in X.dtypes):
            return None, None
        names = [str(name) for name in X.columns]
    elif type(X) is not np.ndarray or X.ndim != 2 or X.dtype.kind not in "biuf":
        return None, None
    with np.errstate(over="ignore"):
        rows = np.asarray(X, dtype="f4")
    step = max(1, _LOOK_ITEMS // max(1, rows.shape[1]))
    if any(np.isinf(rows[start : start + step]).any() for start in range(0, len(rows), step)):
        return None, None
    return rows, names


_LOOK_ITEMS = 1 << 20


def _inplace_predict(booster: xgb.Booster, X: Any, base_margin: Any, options: dict[str, Any]) -> Any:
    return booster.inplace_predict(X, base_margin=base_margin, **options)

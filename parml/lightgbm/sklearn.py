"""lightgbm's own estimators, trained on an engine: their parameters and attributes; data in memory or in partitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import lightgbm as lgb
import numpy as np
from lightgbm.basic import _MULTICLASS_OBJECTIVES
from lightgbm.compat import _LGBMValidateData
from lightgbm.sklearn import _EvalFunctionWrapper
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.validation import column_or_1d

from parml.boosting.estimator import OnEngine, Pair, fit_like, lazily, scored
from parml.boosting.labels import Classes, classes_of, map_rows
from parml.collections import is_collection
from parml.data import PartitionedArray
from parml.lightgbm.data import Dataset
from parml.lightgbm.params import names_of
from parml.lightgbm.predict import in_partitions
from parml.lightgbm.train import train
from parml.tables import library_of, row_count
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.hashing import tokenize

_OF_SEVERAL_CLASSES = {"logloss": "multi_logloss", "binary_logloss": "multi_logloss", "error": "multi_error"}
_OF_SEVERAL_CLASSES |= {"binary_error": "multi_error"}
_OF_TWO_CLASSES = {"logloss": "binary_logloss", "multi_logloss": "binary_logloss", "error": "binary_error"}
_OF_TWO_CLASSES |= {"multi_error": "binary_error"}


class _OnEngine(OnEngine, lgb.LGBMModel):
    """What the estimators add to lightgbm's own."""

    def _fit(self, engine: Engine, given: dict[str, Any]) -> Any:
        rows, labels, pairs, classes = self._with_codes(engine, given["X"], given["y"], _evals(given))
        X, y, sample_weight = self._validated(rows, labels, given["sample_weight"])
        if self.class_weight is not None:
            sample_weight = _product(sample_weight, _class_weights(engine, y, classes, self.class_weight))
        params = self._training_params()
        metrics = self._metrics(params, given["eval_metric"])
        features = {"feature_name": given["feature_name"], "categorical_feature": given["categorical_feature"]}
        fields = {"weight": sample_weight, "init_score": given["init_score"], "group": given.get("group")}
        train_set = Dataset(engine, X, y, **fields, **features)
        valid = []
        for i, (X_i, y_i) in enumerate(pairs):
            same = X_i is rows and y_i is labels
            valid.append(train_set if same else self._valid_set(engine, i, X_i, y_i, given))
        init_model = given["init_model"]
        result = train(
            engine,
            params,
            train_set,
            self.n_estimators,
            valid_sets=valid,
            valid_names=given["eval_names"],
            feval=metrics,
            init_model=init_model.booster_ if isinstance(init_model, lgb.LGBMModel) else init_model,
            callbacks=list(given["callbacks"] or ()),
            **self._how(),
        )
        return self._fitted(result, train_set)

    def _validated(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Arrays are looked at as scikit-learn does; tables and collections when it is known what is in them."""
        if is_collection(X) or library_of(X) in ("pandas", "pyarrow", "polars"):
            return X, y, sample_weight
        options: dict[str, Any] = {"accept_sparse": True, "ensure_all_finite": False, "ensure_min_samples": 2}
        if is_collection(y):
            X = _LGBMValidateData(self, X, reset=True, **options)
        else:
            X, y = _LGBMValidateData(self, X, y, reset=True, **options)
            y = y.astype(float) if y.dtype.kind == "O" else y
        if sample_weight is not None and not is_collection(sample_weight):
            sample_weight = np.asarray(sample_weight)
            if sample_weight.ndim == 0:
                sample_weight = np.full(row_count(X), float(sample_weight))
            if sample_weight.ndim > 1:
                raise InputError(f"expected one weight for each row in sample_weight, found the shape {sample_weight.shape}")
        return X, y, sample_weight

    def _training_params(self) -> dict[str, Any]:
        params = self._process_params(stage="fit")
        by_alias = [self._other_params[name] for name in names_of("num_threads") - {"n_jobs"} if name in self._other_params]
        asked = by_alias[0] if by_alias else self.n_jobs
        # By default, and for the negative numbers of joblib, the threads that the workers have.
        params["num_threads"] = asked if asked is not None and asked > 0 else 0
        return params

    def _metrics(self, params: dict[str, Any], eval_metric: Any) -> list[Callable[..., Any]]:
        """Put metrics that LightGBM has into the parameters; the others."""
        asked = eval_metric if isinstance(eval_metric, list) else [] if eval_metric is None else [eval_metric]
        names = [name for name in asked if isinstance(name, str)]
        own = params["metric"]
        own = [own] if isinstance(own, str) or own is None else list(own)
        params["metric"] = [name for name in [*(n for n in names if n not in own), *own] if name is not None]
        return [_EvalFunctionWrapper(metric) for metric in asked if callable(metric)]

    def _valid_set(self, engine: Engine, i: int, X: Any, y: Any, given: dict[str, Any]) -> Dataset:
        def mine(name: str) -> Any:
            values = given.get(name)
            if isinstance(values, dict):
                return values.get(i)
            return values[i] if values is not None and len(values) > i else None

        if not is_collection(X) and library_of(X) == "numpy" and X.dtype.kind == "O":
            X = X.astype(float)
        weight, class_weight = mine("eval_sample_weight"), mine("eval_class_weight")
        if class_weight is not None:
            if isinstance(class_weight, dict) and self._class_map is not None:
                class_weight = {self._class_map[label]: value for label, value in class_weight.items()}
            weight = _product(weight, _class_weights(engine, y, None, class_weight))
        return Dataset(engine, X, y, weight=weight, init_score=mine("eval_init_score"), group=mine("eval_group"))

    def _fitted(self, result: dict[str, Any], train_set: Dataset) -> Any:
        schema = train_set.schema()
        self._Booster = result["booster"]
        self._evals_result = result["history"]
        self._best_iteration = self._Booster.best_iteration
        self._best_score = self._Booster.best_score
        self._n_features = self._Booster.num_feature()
        self.n_features_in_ = schema.width
        self._fitted_with_feature_names = (train_set.feature_name or schema.names) is not None
        self.fitted_ = True
        return self

    def _of_partitions(self, method: str, X: Any, options: dict[str, Any]) -> PartitionedArray:
        assert self.booster_ is not None  # raises where there is none
        return in_partitions(
            X, "estimator", cloudpickle.loads, (cloudpickle.dumps(self),), _call, {"method": method, **options}
        )


def _call(estimator: _OnEngine, X: Any, how: dict[str, Any]) -> Any:
    if not row_count(X):
        return np.empty(0)
    options = {name: value for name, value in how.items() if name != "method"}
    # The partitions are what runs in parallel: one thread each.
    return getattr(estimator, how["method"])(X, **{"num_threads": 1, **options})


def _evals(given: dict[str, Any]) -> list[Pair]:
    """Pairs to evaluate on, in whichever form they came."""
    eval_set, eval_X, eval_y = given.get("eval_set"), given.get("eval_X"), given.get("eval_y")
    if eval_set is not None and (eval_X is not None or eval_y is not None):
        raise ValueError("Specify either 'eval_set' or 'eval_X' and 'eval_y', but not both.")
    if (eval_X is None) != (eval_y is None):
        raise ValueError("You must specify eval_X and eval_y, not just one of them.")
    several = isinstance(eval_X, tuple) and isinstance(eval_y, tuple) and len(eval_X) == len(eval_y)
    if not several and (isinstance(eval_X, tuple) or isinstance(eval_y, tuple)):
        raise ValueError("If eval_X is a tuple, eval_y must be a tuple of same length, and vice versa.")
    if several:
        pairs = list(zip(eval_X, eval_y, strict=True))  # type: ignore[arg-type]  # both are tuples
    elif eval_X is not None:
        pairs = [(eval_X, eval_y)]
    else:
        pairs = [eval_set] if isinstance(eval_set, tuple) else list(eval_set or ())
    if given.get("eval_group") is not None and len(given["eval_group"]) != len(pairs):
        raise ValueError(f"Length of eval_group ({len(given['eval_group'])}) not equal to length of eval_set ({len(pairs)})")
    return pairs


def _class_weights(engine: Engine, codes: Any, classes: Classes | None, class_weight: Any) -> Any:
    """A weight for each row, by its class; `codes` are numbers of `classes`, or without these labels themselves."""
    if classes is None:
        classes = classes_of(engine, codes)
        codes = classes.encode(codes)
    return map_rows(_pick, codes, classes.weights(class_weight))


def _pick(codes: Any, weights: np.ndarray) -> np.ndarray:
    picked: np.ndarray = weights[np.asarray(codes)]
    return picked


def _product(left: Any, right: Any) -> Any:
    """Two weights of the same rows as one; None counts nothing."""
    if left is None or right is None:
        return right if left is None else left
    if not is_collection(left) and not is_collection(right):
        return np.multiply(left, right)
    if not is_collection(left) or not is_collection(right):
        raise InputError("expected sample_weight as a collection with the partitions of y, found one of both in memory")
    keys, others = left.__parml_keys__(), right.__parml_keys__()
    if len(keys) != len(others):
        raise InputError(f"expected sample_weight in the {len(others)} partitions of y, found {len(keys)}")
    group = f"weights-{tokenize('weights', keys, others)}"
    tasks = [Task(f"{group}:{i}", np.multiply, (Ref(a), Ref(b))) for i, (a, b) in enumerate(zip(keys, others, strict=True))]
    graph = Graph.merge([left.__parml_graph__(), right.__parml_graph__()])
    return PartitionedArray(graph.add(tasks), [task.key for task in tasks])


class LGBMRegressor(_OnEngine, lgb.LGBMRegressor):
    """
    `lightgbm.LGBMRegressor`, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
        How to train; see `parml.lightgbm.train`.
    **params
        Of `lightgbm.LGBMRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(200.0).reshape(100, 2)
    >>> LGBMRegressor(n_estimators=2, verbosity=-1).fit(X, X[:, 0]).predict(X).shape
    (100,)
    """

    fit = fit_like(lgb.LGBMRegressor.fit)
    predict = lazily(lgb.LGBMRegressor.predict)
    score = scored(lgb.LGBMRegressor.score, r2_score)


class LGBMClassifier(_OnEngine, lgb.LGBMClassifier):
    """
    `lightgbm.LGBMClassifier`, trained on an engine. Labels are encoded once for all partitions.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
        How to train; see `parml.lightgbm.train`.
    **params
        Of `lightgbm.LGBMClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(200.0).reshape(100, 2)
    >>> LGBMClassifier(n_estimators=2, verbosity=-1).fit(X, ["no"] * 50 + ["yes"] * 50).classes_.tolist()
    ['no', 'yes']
    """

    fit = fit_like(lgb.LGBMClassifier.fit)
    predict = lazily(lgb.LGBMClassifier.predict)
    predict_proba = lazily(lgb.LGBMClassifier.predict_proba)
    score = scored(lgb.LGBMClassifier.score, accuracy_score)

    if hasattr(lgb.LGBMClassifier, "decision_function"):  # since lightgbm 4.7
        decision_function = lazily(lgb.LGBMClassifier.decision_function)

    def _learn_classes(self, engine: Engine, y: Any) -> Classes | None:
        if not is_collection(y):
            column_or_1d(y, warn=True)  # warns as scikit-learn does
        classes = classes_of(engine, y)
        self._le = LabelEncoder()
        self._le.classes_ = self._classes = classes.labels
        self._n_classes = len(classes.labels)
        self._class_map = {label: code for code, label in enumerate(classes.labels)}
        if self.objective is None:
            self._objective = None
        return classes

    def _metrics(self, params: dict[str, Any], eval_metric: Any) -> list[Callable[..., Any]]:
        several = self._n_classes > 2 or params["objective"] in _MULTICLASS_OBJECTIVES
        mended = _OF_SEVERAL_CLASSES if several else _OF_TWO_CLASSES
        asked: Sequence[Any] = eval_metric if isinstance(eval_metric, list) else [eval_metric]
        return super()._metrics(params, [mended.get(m, m) if isinstance(m, str) else m for m in asked if m is not None])


class LGBMRanker(_OnEngine, lgb.LGBMRanker):
    """
    `lightgbm.LGBMRanker`, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
        How to train; see `parml.lightgbm.train`.
    **params
        Of `lightgbm.LGBMRanker`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(200.0).reshape(100, 2)
    >>> LGBMRanker(n_estimators=2, verbosity=-1).fit(X, [0, 1] * 50, group=[40, 60]).predict(X).shape
    (100,)
    """

    fit = fit_like(lgb.LGBMRanker.fit)
    predict = lazily(lgb.LGBMRanker.predict)

    def _fit(self, engine: Engine, given: dict[str, Any]) -> Any:
        if given["group"] is None:
            raise ValueError("Should set group for ranking task")
        if given["eval_group"] is None and any(given.get(name) is not None for name in ("eval_set", "eval_X", "eval_y")):
            raise ValueError("eval_group cannot be None if any of eval_set, eval_X, or eval_y are provided")
        self._eval_at = given["eval_at"]
        return super()._fit(engine, given)

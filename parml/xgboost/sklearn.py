"""xgboost's own estimators, trained on an engine: their parameters, attributes and files; data in memory or in partitions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xgboost as xgb
from sklearn.metrics import accuracy_score, r2_score
from xgboost.sklearn import _objective_decorator

from parml.boosting.labels import classes_of, map_rows
from parml.boosting.ranks import RankPer
from parml.collections import compute, is_collection, persist
from parml.xgboost.data import DMatrix
from parml.xgboost.predict import by_partition
from parml.xgboost.train import train
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError, NotSupported

_OPTIONS = ("client", "ranks", "max_restarts", "checkpoint_every")
_CLASSES = "parml_classes"  # attribute of the Booster in a file


class _OnEngine(xgb.XGBModel):
    """
    What all the estimators share. How a training runs is no parameter of the model: the options below are given to the
    constructor, or set as attributes; `sklearn.base.clone` keeps them, and a pickle keeps all but the client.

    Attributes
    ----------
    client : Engine or None
        Where to train. None: the current engine.
    ranks, max_restarts, checkpoint_every
        As for `parml.xgboost.train`.
    """

    client: Engine | None = None
    ranks: RankPer = "host"
    max_restarts: int = 3
    checkpoint_every: int | None = None

    def __init__(self, **params: Any) -> None:
        for name in _OPTIONS:
            if name in params:
                setattr(self, name, params.pop(name))
        super().__init__(**params)

    def __sklearn_clone__(self) -> Any:
        clone = super().__sklearn_clone__()
        for name in _OPTIONS:
            if name in vars(self):
                setattr(clone, name, getattr(self, name))
        return clone

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "client"}

    # --- fit -----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        base_margin: Any = None,
        eval_set: Sequence[tuple[Any, Any]] | None = None,
        verbose: bool | int | None = True,
        xgb_model: Any = None,
        sample_weight_eval_set: Sequence[Any] | None = None,
        base_margin_eval_set: Sequence[Any] | None = None,
        feature_weights: Any = None,
    ) -> Any:
        """
        Train. Takes what `xgboost.XGBModel.fit` takes, and collections in the place of every array.

        Returns
        -------
        self
        """
        params = self.get_xgb_params()
        if callable(self.objective):
            params["objective"] = "reg:squarederror"
        train_fields = {"weight": sample_weight, "base_margin": base_margin}
        eval_fields = {"weight": sample_weight_eval_set, "base_margin": base_margin_eval_set}
        return self._train(params, (X, y, train_fields), (eval_set, eval_fields), verbose, xgb_model, feature_weights)

    def _train(
        self,
        params: dict[str, Any],
        data: tuple[Any, Any, dict[str, Any]],
        evals: tuple[Sequence[tuple[Any, Any]] | None, dict[str, Sequence[Any] | None]],
        verbose: bool | int | None,
        xgb_model: Any,
        feature_weights: Any,
    ) -> Any:
        with xgb.config_context(verbosity=self.verbosity):
            self._check_forest()
            engine = resolve(self.client)
            model, metric, params, feature_weights = self._configure_fit(xgb_model, params, feature_weights)
            X, y, fields = data
            dtrain = self._matrix(engine, X, y, feature_weights=feature_weights, **fields)
            result = train(
                engine,
                params,
                dtrain,
                self.get_num_boosting_rounds(),
                evals=self._eval_matrices(engine, dtrain, data, *evals),
                obj=_objective_decorator(self.objective) if callable(self.objective) else None,
                custom_metric=metric,
                early_stopping_rounds=self.early_stopping_rounds,
                verbose_eval=verbose,
                xgb_model=model,
                callbacks=self.callbacks,
                ranks=self.ranks,
                max_restarts=self.max_restarts,
                checkpoint_every=self.checkpoint_every,
            )
            self._Booster = result["booster"]
            self._set_evaluation_result(result["history"])
            return self

    def _check_forest(self) -> None:
        forest = isinstance(self, xgb.XGBRFClassifier | xgb.XGBRFRegressor)
        if forest and (self.early_stopping_rounds is not None or self.callbacks is not None):
            raise NotSupported(
                "expected a forest without early_stopping_rounds and callbacks: it has one round; leave them out"
            )

    def _matrix(self, engine: Engine, X: Any, y: Any, **fields: Any) -> DMatrix:
        fields = {name: _taken(value) for name, value in fields.items()}
        fields |= {"missing": self.missing, "feature_types": self.feature_types}
        return DMatrix(engine, _taken(X), _taken(y), enable_categorical=self.enable_categorical, **fields)

    def _eval_matrices(
        self,
        engine: Engine,
        dtrain: DMatrix,
        data: tuple[Any, Any, dict[str, Any]],
        eval_set: Sequence[tuple[Any, Any]] | None,
        fields: dict[str, Sequence[Any] | None],
    ) -> list[tuple[DMatrix, str]]:
        count = len(eval_set or ())
        for name, values in fields.items():
            if values is not None and len(values) != count:
                raise InputError(f"expected {name} for each of {count} pairs in eval_set, found {len(values)}")
        X, y, train_fields = data
        matrices = []
        for i, (X_i, y_i) in enumerate(eval_set or ()):
            mine = {name: None if values is None else values[i] for name, values in fields.items()}
            same = X_i is X and y_i is y and all(mine[name] is train_fields[name] for name in mine)
            matrices.append((dtrain if same else self._matrix(engine, X_i, y_i, **mine), f"validation_{i}"))
        return matrices

    # --- predict -------------------------------------------------------------------------------------------------------

    def predict(
        self,
        X: Any,
        *,
        output_margin: bool = False,
        validate_features: bool = True,
        base_margin: Any = None,
        iteration_range: Any = None,
    ) -> Any:
        """
        Predict: at once for rows in memory, a lazy collection with the same partitions for a collection.

        Returns
        -------
        numpy.ndarray or PartitionedArray
        """
        options = {
            "output_margin": output_margin,
            "validate_features": validate_features,
            "iteration_range": iteration_range,
        }
        return self._of("predict", X, base_margin, options)

    def apply(self, X: Any, iteration_range: Any = None) -> Any:
        """The leaf that each row comes to in each tree; lazy for a collection."""
        if is_collection(X):
            return self._lazily("apply", X, None, {"iteration_range": iteration_range})
        return super().apply(X, iteration_range)

    def _of(self, method: str, X: Any, base_margin: Any, options: dict[str, Any]) -> Any:
        if is_collection(X):
            return self._lazily(method, X, base_margin, options)
        return getattr(super(), method)(X, base_margin=base_margin, **options)

    def _lazily(self, method: str, X: Any, base_margin: Any, options: dict[str, Any]) -> Any:
        self.get_booster()  # raises where there is none
        return by_partition(self, method, X, base_margin, options)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """As scikit-learn's; of a collection the predictions and `y` are brought here."""
        if not is_collection(X):
            found: float = super().score(X, y, sample_weight)
            return found
        predicted, y, sample_weight = compute(self.predict(X), y, sample_weight, engine=resolve(self.client))
        metric = accuracy_score if isinstance(self, xgb.XGBClassifier) else r2_score
        return float(metric(y, predicted, sample_weight=sample_weight))


def _taken(value: Any) -> Any:
    """What is neither a table nor a collection, but can be an array, as an array."""
    array_like = hasattr(value, "__array__") and not is_collection(value) and not hasattr(value, "dtype")
    return np.asarray(value) if array_like and not hasattr(value, "columns") else value


class XGBRegressor(_OnEngine, xgb.XGBRegressor):
    """
    `xgboost.XGBRegressor`, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every
        How to train; see `parml.xgboost.train`.
    **params
        Of `xgboost.XGBRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> XGBRegressor(n_estimators=2).fit(X, X[:, 0]).predict(X).shape
    (10,)
    """


class XGBRFRegressor(_OnEngine, xgb.XGBRFRegressor):
    """
    `xgboost.XGBRFRegressor`, a random forest, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every
        How to train; see `parml.xgboost.train`.
    **params
        Of `xgboost.XGBRFRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> XGBRFRegressor(n_estimators=5).fit(X, X[:, 0]).get_booster().num_boosted_rounds()
    1
    """


class _Classifier(_OnEngine):
    """Labels of any kind, encoded once for all partitions."""

    _classes: Any = None

    @property
    def classes_(self) -> Any:
        """The labels, sorted."""
        return np.arange(self.n_classes_) if self._classes is None else self._classes

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        base_margin: Any = None,
        eval_set: Sequence[tuple[Any, Any]] | None = None,
        verbose: bool | int | None = True,
        xgb_model: Any = None,
        sample_weight_eval_set: Sequence[Any] | None = None,
        base_margin_eval_set: Sequence[Any] | None = None,
        feature_weights: Any = None,
    ) -> Any:
        """
        Train. Takes what `xgboost.XGBClassifier.fit` takes, labels of any kind, and collections in the place of every array.

        Returns
        -------
        self
        """
        engine = resolve(self.client)
        # At once, since X and y may come from the same files, and y is looked at before the rest.
        held_X, held_y = persist(_taken(X), _taken(y), engine=engine)
        classes, encode = _labels_of(engine, held_y)
        codes = encode(held_y)
        evals = [(held_X if X_i is X else X_i, codes if y_i is y else encode(_taken(y_i))) for X_i, y_i in eval_set or ()]
        self._classes, self.n_classes_ = classes, len(classes)
        params = self.get_xgb_params()
        if callable(self.objective):
            params["objective"] = "binary:logistic"
        if self.n_classes_ > 2:
            if params.get("objective") != "multi:softmax":
                params["objective"] = "multi:softprob"
            params["num_class"] = self.n_classes_
        train_fields = {"weight": sample_weight, "base_margin": base_margin}
        eval_fields = {"weight": sample_weight_eval_set, "base_margin": base_margin_eval_set}
        given = None if eval_set is None else evals
        self._train(params, (held_X, codes, train_fields), (given, eval_fields), verbose, xgb_model, feature_weights)
        if not callable(self.objective):
            self.objective = params["objective"]
        return self

    def predict(
        self,
        X: Any,
        *,
        output_margin: bool = False,
        validate_features: bool = True,
        base_margin: Any = None,
        iteration_range: Any = None,
    ) -> Any:
        """
        The most probable label: at once for rows in memory, a lazy collection for a collection.

        Returns
        -------
        numpy.ndarray or PartitionedArray
        """
        options = {
            "output_margin": output_margin,
            "validate_features": validate_features,
            "iteration_range": iteration_range,
        }
        found = self._of("predict", X, base_margin, options)
        if is_collection(X) or output_margin or found.ndim > 1 or self._classes is None:
            return found
        return self._classes[found]

    def predict_proba(
        self,
        X: Any,
        validate_features: bool = True,
        base_margin: Any = None,
        iteration_range: Any = None,
    ) -> Any:
        """
        The probability of each class, in the order of `classes_`; lazy for a collection.

        Returns
        -------
        numpy.ndarray or PartitionedArray
        """
        options = {"validate_features": validate_features, "iteration_range": iteration_range}
        return self._of("predict_proba", X, base_margin, options)

    def save_model(self, fname: Any) -> None:
        """As xgboost's; the labels are kept in the file too."""
        booster = self.get_booster()
        if not np.array_equal(self.classes_, np.arange(self.n_classes_)):
            booster.set_attr(**{_CLASSES: json.dumps([self.classes_.dtype.str, self.classes_.tolist()])})
        super().save_model(fname)
        booster.set_attr(**{_CLASSES: None})

    def load_model(self, fname: Any) -> None:
        """As xgboost's; the labels come from the file, if it was written by `save_model` here."""
        self._classes = None
        super().load_model(fname)
        booster = self.get_booster()
        if (kept := booster.attr(_CLASSES)) is not None:
            dtype, values = json.loads(kept)
            self._classes = np.array(values, dtype)
            booster.set_attr(**{_CLASSES: None})


def _labels_of(engine: Engine, y: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The labels, and what makes numbers of them. Several columns of 0 and 1 are numbers already."""
    (columns,) = compute(map_rows(_columns_of, y), engine=engine) if is_collection(y) else (_columns_of(y),)
    if max(columns) < 2:
        classes = classes_of(engine, y)
        return classes.labels, classes.encode
    return np.arange(2), lambda labels: labels


def _columns_of(y: Any) -> Any:
    shape = np.shape(y)
    return np.array([shape[1] if len(shape) > 1 else 1])


class XGBClassifier(_Classifier, xgb.XGBClassifier):  # type: ignore[misc]
    """
    `xgboost.XGBClassifier`, trained on an engine, with labels of any kind.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every
        How to train; see `parml.xgboost.train`.
    **params
        Of `xgboost.XGBClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> XGBClassifier(n_estimators=2).fit(X, ["no"] * 5 + ["yes"] * 5).classes_.tolist()
    ['no', 'yes']
    """


class XGBRFClassifier(_Classifier, xgb.XGBRFClassifier):  # type: ignore[misc]
    """
    `xgboost.XGBRFClassifier`, a random forest, trained on an engine, with labels of any kind.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every
        How to train; see `parml.xgboost.train`.
    **params
        Of `xgboost.XGBRFClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> XGBRFClassifier(n_estimators=5).fit(X, [1] * 5 + [2] * 5).predict(X[:1]).tolist()
    [1]
    """


class XGBRanker(_OnEngine, xgb.XGBRanker):
    """
    `xgboost.XGBRanker`, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every
        How to train; see `parml.xgboost.train`.
    **params
        Of `xgboost.XGBRanker`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> XGBRanker(n_estimators=2).fit(X, [0, 1] * 5, group=[4, 6]).predict(X).shape
    (10,)
    """

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        group: Any = None,
        qid: Any = None,
        sample_weight: Any = None,
        base_margin: Any = None,
        eval_set: Sequence[tuple[Any, Any]] | None = None,
        eval_group: Sequence[Any] | None = None,
        eval_qid: Sequence[Any] | None = None,
        verbose: bool | int | None = False,
        xgb_model: Any = None,
        sample_weight_eval_set: Sequence[Any] | None = None,
        base_margin_eval_set: Sequence[Any] | None = None,
        feature_weights: Any = None,
    ) -> Any:
        """
        Train. Takes what `xgboost.XGBRanker.fit` takes, and collections in the place of every array.

        Returns
        -------
        self
        """
        train_fields = {"weight": sample_weight, "base_margin": base_margin, "group": group, "qid": qid}
        eval_fields = {
            "weight": sample_weight_eval_set,
            "base_margin": base_margin_eval_set,
            "group": eval_group,
            "qid": eval_qid,
        }
        evals = (eval_set, eval_fields)
        return self._train(self.get_xgb_params(), (X, y, train_fields), evals, verbose, xgb_model, feature_weights)

    def _matrix(self, engine: Engine, X: Any, y: Any, *, group: Any = None, qid: Any = None, **fields: Any) -> DMatrix:
        if "qid" in getattr(X, "columns", ()):
            if qid is not None:
                raise InputError("expected qid once, found it as a column of X and as an argument; leave one of them out")
            X, qid = X.drop(columns="qid"), X["qid"]
        if group is None and qid is None:
            raise InputError("expected group or qid for a ranking task, found neither; pass one, or a column qid in X")
        return super()._matrix(engine, X, y, group=group, qid=qid, **fields)

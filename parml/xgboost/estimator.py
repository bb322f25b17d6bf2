"""What the estimators share: to train on an engine, and to predict for rows in memory or in partitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xgboost as xgb
from sklearn.metrics import accuracy_score, r2_score
from xgboost.sklearn import _objective_decorator

from parml.boosting.ranks import RankPer
from parml.collections import compute, is_collection
from parml.xgboost.data import DMatrix
from parml.xgboost.predict import by_partition
from parml.xgboost.train import train
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError, NotSupported

_OPTIONS = ("client", "ranks", "max_restarts", "checkpoint_every")


class OnEngine(xgb.XGBModel):
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
        fields = {name: taken(value) for name, value in fields.items()}
        fields |= {"missing": self.missing, "feature_types": self.feature_types}
        return DMatrix(engine, taken(X), taken(y), enable_categorical=self.enable_categorical, **fields)

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


def taken(value: Any) -> Any:
    """What is neither a table nor a collection, but can be an array, as an array."""
    array_like = hasattr(value, "__array__") and not is_collection(value) and not hasattr(value, "dtype")
    return np.asarray(value) if array_like and not hasattr(value, "columns") else value

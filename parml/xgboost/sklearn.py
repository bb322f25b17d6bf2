"""xgboost's own estimators, trained on an engine: their parameters, attributes and files; data in memory or in partitions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import wraps
from typing import Any

import numpy as np
import xgboost as xgb
from sklearn.metrics import accuracy_score, r2_score
from xgboost.sklearn import _objective_decorator

from parml.boosting.estimator import OnEngine, fit_like, lazily, scored, taken
from parml.boosting.labels import Classes, classes_of, map_rows
from parml.collections import compute, is_collection
from parml.from_dask import as_collection
from parml.xgboost.categories import CategoriesByColumn, categories_of, recoded
from parml.xgboost.data import DMatrix
from parml.xgboost.predict import by_partition
from parml.xgboost.train import train
from parml_core.engine.base import Engine
from parml_core.errors import InputError, NotSupported

_CLASSES = "parml_classes"  # attribute of the Booster in a file
_FIELDS = {  # of a matrix: the arguments of fit that give them for the rows to train on, and for those to evaluate on
    "weight": ("sample_weight", "sample_weight_eval_set"),
    "base_margin": ("base_margin", "base_margin_eval_set"),
    "group": ("group", "eval_group"),
    "qid": ("qid", "eval_qid"),
}


class _OnEngine(OnEngine, xgb.XGBModel):
    """What the estimators add to xgboost's own."""

    def _fit(self, engine: Engine, given: dict[str, Any]) -> Any:
        with xgb.config_context(verbosity=self.verbosity):
            self._check_forest()
            X, y, pairs, _ = self._with_codes(engine, given["X"], given["y"], given["eval_set"] or ())
            model, metric, params, weights = self._configure_fit(given["xgb_model"], self._params(), given["feature_weights"])
            known = categories_of(model)
            fields = {field: given.get(name) for field, (name, _) in _FIELDS.items()}
            dtrain = self._matrix(engine, X, y, known, feature_weights=weights, **fields)
            evals = []
            for i, ((X_i, y_i), mine) in enumerate(zip(pairs, _fields_of_pairs(given, len(pairs)), strict=True)):
                same = X_i is X and y_i is y and all(mine[field] is fields[field] for field in fields)
                evals.append((dtrain if same else self._matrix(engine, X_i, y_i, known, **mine), f"validation_{i}"))
            result = train(
                engine,
                params,
                dtrain,
                self.get_num_boosting_rounds(),
                evals=evals,
                obj=_objective_decorator(self.objective) if callable(self.objective) else None,
                custom_metric=metric,
                early_stopping_rounds=self.early_stopping_rounds,
                verbose_eval=given["verbose"],
                xgb_model=model,
                callbacks=self.callbacks,
                **self._how(),
            )
        self._Booster = result["booster"]
        if not callable(self.objective):
            self.objective = params["objective"]  # of several classes another than what was asked for, as in xgboost
        self._set_evaluation_result(result["history"])
        return self

    def _check_forest(self) -> None:
        forest = isinstance(self, xgb.XGBRFClassifier | xgb.XGBRFRegressor)
        if forest and (self.early_stopping_rounds is not None or self.callbacks is not None):
            raise NotSupported(
                "expected a forest without early_stopping_rounds and callbacks: it has one round; leave them out"
            )

    def _params(self) -> dict[str, Any]:
        """The parameters of the training; a function as objective is given apart from them."""
        params: dict[str, Any] = self.get_xgb_params()
        return params | {"objective": "reg:squarederror"} if callable(self.objective) else params

    def _matrix(self, engine: Engine, X: Any, y: Any, known: CategoriesByColumn, **fields: Any) -> DMatrix:
        fields = {name: taken(value) for name, value in fields.items()}
        fields |= {"missing": self.missing, "feature_types": self.feature_types}
        X = map_rows(recoded, X, known) if known else X
        return DMatrix(engine, X, y, enable_categorical=self.enable_categorical, **fields)

    apply = lazily(xgb.XGBModel.apply)

    def _of_partitions(self, method: str, X: Any, options: dict[str, Any]) -> Any:
        self.get_booster()  # raises where there is none
        return by_partition(self, method, X, options.pop("base_margin", None), options)


def _fields_of_pairs(given: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """What belongs to each pair of eval_set."""
    fields: list[dict[str, Any]] = [{} for _ in range(count)]
    for field, (_, name) in _FIELDS.items():
        values = given.get(name)
        if values is not None and len(values) != count:
            raise InputError(f"expected {name} for each of {count} pairs in eval_set, found {len(values)}")
        for i, mine in enumerate(fields):
            mine[field] = None if values is None else values[i]
    return fields


class XGBRegressor(_OnEngine, xgb.XGBRegressor):
    """
    `xgboost.XGBRegressor`, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
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

    fit = fit_like(xgb.XGBRegressor.fit)
    predict = lazily(xgb.XGBRegressor.predict)
    score = scored(xgb.XGBRegressor.score, r2_score)


class XGBRFRegressor(XGBRegressor, xgb.XGBRFRegressor):
    """
    `xgboost.XGBRFRegressor`, a random forest, trained on an engine.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
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


class XGBClassifier(_OnEngine, xgb.XGBClassifier):
    """
    `xgboost.XGBClassifier`, trained on an engine, with labels of any kind, encoded once for all partitions.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
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

    _classes: Any = None

    @property
    def classes_(self) -> Any:
        """The labels, sorted."""
        return np.arange(self.n_classes_) if self._classes is None else self._classes

    fit = fit_like(xgb.XGBClassifier.fit)
    predict_proba = lazily(xgb.XGBClassifier.predict_proba)
    score = scored(xgb.XGBClassifier.score, accuracy_score)

    @lazily
    @wraps(xgb.XGBClassifier.predict)
    def predict(self, X: Any, *, output_margin: bool = False, **options: Any) -> Any:
        """The most probable label."""
        found = super().predict(X, output_margin=output_margin, **options)
        return found if output_margin or found.ndim > 1 or self._classes is None else self._classes[found]

    def _learn_classes(self, engine: Engine, y: Any) -> Classes | None:
        (columns,) = compute(map_rows(_columns_of, y), engine=engine) if is_collection(y) else (_columns_of(y),)
        classes = classes_of(engine, y) if max(columns) < 2 else None  # several columns of 0 and 1 are numbers already
        self._classes = None if classes is None else classes.labels
        self.n_classes_ = 2 if classes is None else len(classes.labels)
        return classes

    def _params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.get_xgb_params()
        if callable(self.objective):
            params["objective"] = "binary:logistic"
        if self.n_classes_ > 2:
            if params.get("objective") != "multi:softmax":
                params["objective"] = "multi:softprob"
            params["num_class"] = self.n_classes_
        return params

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


def _columns_of(y: Any) -> Any:
    shape = np.shape(y)
    return np.array([shape[1] if len(shape) > 1 else 1])


class XGBRFClassifier(XGBClassifier, xgb.XGBRFClassifier):
    """
    `xgboost.XGBRFClassifier`, a random forest, trained on an engine, with labels of any kind.

    Parameters
    ----------
    client, ranks, max_restarts, checkpoint_every, progress
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
    client, ranks, max_restarts, checkpoint_every, progress
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

    fit = fit_like(xgb.XGBRanker.fit)
    predict = lazily(xgb.XGBRanker.predict)
    apply = lazily(xgb.XGBRanker.apply)

    def score(self, X: Any, y: Any) -> float:
        """As `xgboost.XGBRanker.score`, of rows in memory."""
        if is_collection(as_collection(X)):
            raise NotSupported(
                "expected rows in memory for the score of a ranker, found a collection; compute it, or evaluate with eval_set"
            )
        return float(super().score(X, y))

    def _matrix(
        self, engine: Engine, X: Any, y: Any, known: CategoriesByColumn, *, group: Any = None, qid: Any = None, **fields: Any
    ) -> DMatrix:
        if "qid" in getattr(X, "columns", ()):
            if qid is not None:
                raise InputError("expected qid once, found it as a column of X and as an argument; leave one of them out")
            X, qid = X.drop(columns="qid"), X["qid"]
        if group is None and qid is None:
            raise InputError("expected group or qid for a ranking task, found neither; pass one, or a column qid in X")
        return super()._matrix(engine, X, y, known, group=group, qid=qid, **fields)

"""xgboost's own estimators, trained on an engine: their parameters, attributes and files; data in memory or in partitions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xgboost as xgb

from parml.boosting.labels import classes_of, map_rows
from parml.collections import compute, is_collection, persist
from parml.xgboost.data import DMatrix
from parml.xgboost.estimator import OnEngine, taken
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError

_CLASSES = "parml_classes"  # attribute of the Booster in a file


class XGBRegressor(OnEngine, xgb.XGBRegressor):
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


class XGBRFRegressor(OnEngine, xgb.XGBRFRegressor):
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


class _Classifier(OnEngine):
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
        held_X, held_y = persist(taken(X), taken(y), engine=engine)
        classes, encode = _labels_of(engine, held_y)
        codes = encode(held_y)
        evals = [(held_X if X_i is X else X_i, codes if y_i is y else encode(taken(y_i))) for X_i, y_i in eval_set or ()]
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


class XGBRanker(OnEngine, xgb.XGBRanker):
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

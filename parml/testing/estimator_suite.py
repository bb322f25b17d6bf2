"""
What every estimator must do that stands for one of another library. To check one, derive from `EstimatorSuite`:

::

    class TestMyRegressor(EstimatorSuite):
        estimator, plain = MyRegressor, TheirRegressor
        params = {"n_estimators": 10}
        failures = {"check_regressor_multioutput": "predicts float32"}

Of scikit-learn's checks those in `failures` must fail for both: when one of them passes, the entry has to go.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils.estimator_checks import check_estimator

from parml.data import PartitionedArray
from parml.testing.parts import cut
from parml_core.engine.base import Engine
from parml_core.engine.registry import use
from parml_core.engine.threads import ThreadsEngine

__all__ = ["EstimatorSuite"]

METHODS = ("predict", "predict_proba", "decision_function", "apply", "transform")
ROWS = 300
EDGES = (70, 70, 180)  # of the partitions, of which one has no rows


class EstimatorSuite:
    """
    Tests of an estimator that is `plain`, the one of another library, on an engine.

    Attributes
    ----------
    estimator, plain : type
    params : dict
        For both, so that they are small, quiet, and do the same.
    failures : dict of str to str
        Checks of scikit-learn that fail for both, and why.
    fitted : tuple of str
        Attributes that a fit sets, and that are to be equal.
    """

    estimator: ClassVar[Any]
    plain: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    failures: ClassVar[dict[str, str]] = {}
    fitted: ClassVar[tuple[str, ...]] = ("n_features_in_",)

    # --- what a suite may say otherwise --------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    def engine(self) -> Iterator[Engine]:
        with ThreadsEngine(1) as engine:
            yield engine

    def for_checks(self, estimator: Any) -> Any:
        """What scikit-learn is to check: `estimator`, or where its fit needs more than X and y, one that knows the rest."""
        return estimator(**self.params)

    def fit_options(self) -> dict[str, Any]:
        """Arguments of fit besides X and y; those with a value for each row come in partitions with X."""
        return {"sample_weight": np.linspace(0.5, 1.5, ROWS)}

    def new(self, engine: Engine, **options: Any) -> Any:
        return self.estimator(**self.params, client=engine, **options)

    def rows(self) -> tuple[pd.DataFrame, np.ndarray]:
        """X, and y that follows from it: numbers for a regressor, otherwise 0, 1 and 2."""
        rng = np.random.default_rng(5)
        X = pd.DataFrame(rng.normal(size=(ROWS, 4)), columns=list("abcd"))
        y = (X.a + X.b * X.c + 0.2 * rng.normal(size=ROWS)).to_numpy()
        return X, y if is_regressor(self.plain()) else np.digitize(y, [-0.5, 0.7])

    # --- the tests -----------------------------------------------------------------------------------------------------

    @pytest.mark.filterwarnings("ignore")
    def test_checks_of_sklearn_fail_only_where_the_plain_estimator_does(self, engine: Engine) -> None:
        """All checks pass but those named in `failures`, which are not this estimator's fault."""
        with use(engine):
            ours = _failed(self.for_checks(self.estimator))
        assert ours.keys() == self.failures.keys(), {name: ours.get(name) for name in ours.keys() ^ self.failures.keys()}
        assert self.failures.keys() <= _failed(self.for_checks(self.plain)).keys()

    @pytest.mark.parametrize("kind", ["numpy", "pandas"])
    def test_fit_in_memory_agrees_with_the_plain_estimator(self, engine: Engine, kind: str) -> None:
        """Attributes and predictions are the same to the last bit, and of the same type."""
        X, y = self.rows()
        X = X if kind == "pandas" else X.to_numpy()
        ours, plain = self.new(engine), self.plain(**self.params)
        assert ours.fit(X, y, **self.fit_options()) is ours
        plain.fit(X, y, **self.fit_options())
        for name in self._fitted(names=kind == "pandas"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name), err_msg=name)
        for name in self._methods():
            found, expected = getattr(ours, name)(X), getattr(plain, name)(X)
            assert (type(found), found.dtype, found.shape) == (type(expected), expected.dtype, expected.shape), name
            np.testing.assert_array_equal(found, expected, err_msg=name)

    def test_fit_in_partitions_is_the_fit_in_memory(self, engine: Engine) -> None:
        """The same model; predictions for a collection are a collection with its partitions and the same values."""
        X, y = self.rows()
        options = self.fit_options()
        whole = self.new(engine).fit(X, y, **options)
        in_parts = {name: cut(value, *EDGES) if len(value) == ROWS else value for name, value in options.items()}
        ours = self.new(engine).fit(cut(X, *EDGES), cut(y, *EDGES), **in_parts)
        for name in self._fitted(names=True):
            np.testing.assert_array_equal(getattr(ours, name), getattr(whole, name), err_msg=name)
        for name in self._methods():
            lazy, expected = getattr(ours, name)(cut(X, *EDGES)), getattr(whole, name)(X)
            assert isinstance(lazy, PartitionedArray) and lazy.npartitions == len(EDGES) + 1, name
            found = lazy.compute(engine)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
            np.testing.assert_array_equal(found, expected, err_msg=name)

    def test_score_of_partitions_is_the_score_in_memory(self, engine: Engine) -> None:
        """With and without weights."""
        if not is_classifier(self.plain()) and not is_regressor(self.plain()):
            pytest.skip("no score of X and y alone")
        X, y = self.rows()
        ours = self.new(engine).fit(X, y, **self.fit_options())
        for weight in (None, np.linspace(0, 1, ROWS)):
            parts = None if weight is None else cut(weight, *EDGES)
            assert ours.score(cut(X, *EDGES), cut(y, *EDGES), parts) == ours.score(X, y, weight)

    def test_params_and_options_live_through_clone_and_pickle(self, engine: Engine) -> None:
        """The parameters are the plain ones, the client is none of them: a clone has it, a pickle has not; both predict."""
        ours = self.new(engine, ranks="worker", max_restarts=1, checkpoint_every=7)
        assert _shown(ours.get_params()) == _shown(self.plain(**self.params).get_params())
        copy = clone(ours)
        assert (copy.client, copy.ranks, copy.max_restarts, copy.checkpoint_every) == (engine, "worker", 1, 7)
        assert _shown(copy.get_params()) == _shown(ours.get_params())
        assert copy.set_params(client=None, ranks="host") is copy
        assert (copy.client, copy.ranks, ours.client, ours.ranks) == (None, "host", engine, "worker")
        X, y = self.rows()
        ours.fit(X, y, **self.fit_options())
        sent = pickle.loads(pickle.dumps(ours))
        assert (sent.client, sent.ranks, sent.max_restarts, sent.checkpoint_every) == (None, "worker", 1, 7)
        np.testing.assert_array_equal(sent.predict(X), ours.predict(X))

    def test_methods_take_what_the_plain_ones_take(self) -> None:
        """The signatures, by which scikit-learn and its users know what to pass."""
        for name in [name for name in ("fit", "score", *METHODS) if hasattr(self.plain, name)]:
            ours, theirs = (inspect.signature(getattr(side, name)).parameters for side in (self.estimator, self.plain))
            assert list(ours) == list(theirs), name

    def _fitted(self, *, names: bool) -> list[str]:
        classes = ["classes_"] if is_classifier(self.plain()) else []
        return [*self.fitted, *classes, *(["feature_names_in_"] if names else [])]

    def _methods(self) -> list[str]:
        return [name for name in METHODS if hasattr(self.plain, name)]


def _failed(estimator: Any) -> dict[str, BaseException]:
    """The checks of scikit-learn that `estimator` does not pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert len(results) > 30
    return {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}


def _shown(params: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in params.items()}  # nan is not equal to nan

"""
Transformers that are fitted already, in the places of transformers that are to be fitted.

A Pipeline, FeatureUnion or ColumnTransformer with `Ready` parts is fitted and asked as scikit-learn fits and asks it: its own
code runs, and finds that these parts take no time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

__all__ = ["Capture", "Failure", "Outcome", "Ready", "Stage", "bare", "prepared"]


class Failure(NamedTuple):
    """What a fit raised, and its traceback as text."""

    error: Exception
    text: str


class Outcome(NamedTuple):
    """A value, or what was raised instead."""

    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Stage(NamedTuple):
    """
    A transformer fitted on a fold, what `fit_transform` made of its rows to train with, and what `transform` made of each.

    The last is kept apart from the first: the two may differ (by rounding, or by design as in TargetEncoder).
    """

    fitted: Any
    out: Any
    test: Outcome
    train: Outcome | None
    fit_s: float


class Ready:
    """
    A fitted transformer whose next fit is known, and its output for inputs that are known, too.

    Parameters
    ----------
    fitted : transformer
    out : object
        What ``fit_transform`` will return.
    answers : sequence of (input, Outcome)
        What ``transform`` will return for these very objects.
    """

    def __init__(self, fitted: Any, out: Any, answers: list[tuple[Any, Outcome]]) -> None:
        self.fitted, self.out, self.answers = fitted, out, answers

    def __sklearn_clone__(self) -> Ready:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None, **params: Any) -> Ready:
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        return self.out

    def transform(self, X: Any, **params: Any) -> Any:
        for known, outcome in self.answers:
            if known is X and not params:
                return outcome.get()
        return self.fitted.transform(X, **params)

    def __getattr__(self, name: str) -> Any:
        if name in ("fitted", "out", "answers") or (name.startswith("__") and name != "__sklearn_tags__"):
            raise AttributeError(name)
        return getattr(self.fitted, name)


class Capture:
    """A transformer that keeps what its fit_transform returned, where the ColumnTransformer around it would only pass it on."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.result: tuple[Any, Any] | None = None

    def __sklearn_clone__(self) -> Capture:
        return self

    def fit(self, X: Any, y: Any = None) -> Capture:
        self.fit_transform(X, y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        fitted = clone(self.transformer)
        if hasattr(fitted, "fit_transform"):
            out = fitted.fit_transform(X, y)
        else:
            out = fitted.fit(X, y).transform(X)
        self.result = fitted, out
        return out

    def transform(self, X: Any) -> Any:
        assert self.result is not None
        return self.result[0].transform(X)

    def __getattr__(self, name: str) -> Any:
        if name in ("transformer", "result") or (name.startswith("__") and name != "__sklearn_tags__"):
            raise AttributeError(name)
        result = self.__dict__.get("result")
        return getattr(result[0] if result else self.transformer, name)


def prepared(
    estimator: Any,
    stages: Mapping[str, Stage],
    sources: Mapping[str, str | None],
    X_test: Any,
    X_train: Any,
    hold: Callable[[Any], Any],
) -> Any:
    """
    A clone of the estimator with Ready parts.

    Parameters
    ----------
    estimator : estimator
    stages : mapping of parameter name to Stage
        For each part that is fitted already.
    sources : mapping of parameter name to parameter name
        Whose output each part gets: another part's, ``""`` the estimator's own input, None unknown (some columns of it).
        In an order in which each stands after its source.
    X_test, X_train : object
        The objects with which the estimator will be asked.
    hold : callable
        Through which shared values go: `borrow` or `own`.
    """
    model = clone(estimator)
    inputs: dict[str, tuple[Any, Any]] = {"": (X_test, X_train)}
    parts: dict[str, Ready] = {}
    for name, source in sources.items():
        stage = stages[name]
        answers: list[tuple[Any, Outcome]] = []
        outputs: list[Any] = []
        for outcome, known in zip((stage.test, stage.train), inputs.get(source or "", (None, None)), strict=True):
            held = None if outcome is None else outcome._replace(value=hold(outcome.value))
            outputs.append(None if held is None else held.value)
            if held is not None and known is not None and source is not None:
                answers.append((known, held))
        inputs[name] = (outputs[0], outputs[1])
        parts[name] = Ready(stage.fitted, hold(stage.out), answers)
    return model.set_params(**parts) if parts else model


def bare(model: Any) -> Any:
    """
    The fitted model with real transformers in the places of Ready ones, as scikit-learn would have left it.

    The model itself stays as it is; the two share their fitted parts.
    """
    if isinstance(model, Ready):
        return model.fitted
    if isinstance(model, Pipeline):
        twin = copy.copy(model)
        twin.steps = [(name, bare(step)) for name, step in model.steps]
        return twin
    if isinstance(model, FeatureUnion):
        twin = copy.copy(model)
        twin.transformer_list = [(name, bare(part)) for name, part in model.transformer_list]
        return twin
    if isinstance(model, ColumnTransformer) and hasattr(model, "transformers_"):
        twin = copy.copy(model)
        twin.transformers_ = [(name, bare(part), columns) for name, part, columns in model.transformers_]
        twin.transformers = [(name, _unfitted(part), columns) for name, part, columns in model.transformers]
        return twin
    return model


def _unfitted(part: Any) -> Any:
    return clone(part.fitted) if isinstance(part, Ready) else part

"""What the tasks of a plan do: fit a transformer of a pipeline, fit and score candidates."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from parml._joblib_batch import capped_threads
from parml.collections import is_collection
from parml.joblib import ParmlBackend
from parml.model_selection import paths
from parml.model_selection.chunked import Answered
from parml.model_selection.ready import Capture, Failure, Outcome, Stage, bare, prepared
from parml.model_selection.split import Fold, NeedsOwnCopies, n_rows, own, wants_to_write, with_inputs
from parml_core.engine.base import Engine
from parml_core.engine.registry import use

__all__ = ["Job", "Member", "Surroundings", "call", "evaluate", "fit_part", "fit_stage", "last_of", "run"]


class Surroundings(NamedTuple):
    """
    scikit-learn's configuration and the warning filters of whoever started the search.

    With an engine the tasks run in the caller's thread, and what they start themselves goes there. `threads` is how many of
    them compiled libraries may use for one task; None: as they are, as in workers, where that is limited already.
    """

    config: dict[str, Any]
    filters: tuple[Any, ...]
    engine: Engine | None = None
    threads: int | None = None


class Member(NamedTuple):
    """
    One result that a job gives.

    Parameters
    ----------
    value : int or None
        Where on its path.
    options : dict
        What scikit-learn's function gets for this candidate and split.
    """

    value: int | None
    options: dict[str, Any]


class Job(NamedTuple):
    """
    A fit and what is to be scored with it.

    Parameters
    ----------
    function : callable
        scikit-learn's own, which scores, and says how errors count.
    estimator : estimator
        Where there is a path: the longest model.
    sources : dict
        Its parts that are fitted already, and whose output each gets (see `prepared`).
    scorer : callable
    sees_model : bool
        Whether the scorer is of the user and may look at more than predictions.
    parameter : str or None
        Full name of the path's parameter.
    members : tuple of Member
    """

    function: Callable[..., dict[str, Any]]
    estimator: Any
    sources: dict[str, str | None]
    scorer: Any
    sees_model: bool
    parameter: str | None
    members: tuple[Member, ...]


def run(surroundings: Surroundings, function: Callable[..., Any], *args: Any) -> Any:
    """Call as if it were in the thread of whoever started the search; what is parallel inside goes to the same engine."""
    engine = surroundings.engine
    where = nullcontext() if engine is None else use(engine)
    capped = capped_threads(surroundings.threads)
    with where, capped, config_context(**surroundings.config), warnings.catch_warnings(), _nested():
        warnings.resetwarnings()
        for action, message, category, module, lineno in surroundings.filters:
            patterns = [getattr(text, "pattern", text) or "" for text in (message, module)]
            warnings.filterwarnings(action, patterns[0], category, patterns[1], lineno, append=True)
        return function(*args)


@contextmanager
def _nested() -> Iterator[None]:
    with parallel_config(ParmlBackend(nesting_level=1), n_jobs=1):
        yield


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call of scikit-learn as it is."""
    with _nested():
        return function(*args, **kwargs)


# --- transformers --------------------------------------------------------------------------------------------------------


def fit_stage(
    step: Any,
    sources: dict[str, str | None],
    params: tuple[str, ...] | None,
    with_train: bool,
    fold: Fold,
    source: Stage | Failure | None,
    stages: Mapping[str, Stage | Failure | None],
) -> Stage | Failure:
    """
    Fit a transformer on a fold.

    Parameters
    ----------
    step : transformer
    sources : dict
        Its own parts that are fitted already (see `prepared`).
    params : tuple of str, optional
        The names of the steps that lead to its parameters of fit; None: it gets none.
    with_train : bool
        Whether the rows to train with will be predicted, too.
    source : Stage, optional
        The transformer before it; None: it gets the fold's data.
    stages : mapping of str to Stage
        Of `sources`.
    """
    done, failed = _done(stages)
    failed = source if isinstance(source, Failure) else failed
    if failed is not None:
        return failed
    X, test, train = fold.X_train, Outcome(fold.X_test), Outcome(fold.X_train)
    if isinstance(source, Stage):
        X, test, train = source.out, source.test, source.train or Outcome()

    sources = {name: before for name, before in sources.items() if name in done}

    def attempt(hold: Callable[[Any], Any]) -> Stage:
        held_test, held_train = hold(test.value), hold(train.value)
        fit_params = {name: hold(value) for name, value in _for_step(fold.fit_params, params).items()}
        began = time.perf_counter()
        model = prepared(step, done, sources, held_test, held_train, hold)
        if hasattr(model, "fit_transform"):
            out = model.fit_transform(hold(X), hold(fold.y_train), **fit_params)
        else:
            held_X = hold(X)
            out = model.fit(held_X, hold(fold.y_train), **fit_params).transform(held_X)
        fit_s = time.perf_counter() - began + sum(stage.fit_s for stage in done.values())
        answers = [
            _transform(model, outcome._replace(value=held))
            for outcome, held in ((test, held_test), *(((train, held_train),) if with_train else ()))
        ]
        return Stage(bare(model), out, answers[0], answers[1] if with_train else None, fit_s)

    try:
        return with_inputs(attempt)
    except Exception as error:
        return Failure(error, traceback.format_exc())


def _transform(model: Any, known: Outcome) -> Outcome:
    """What the fitted model makes of a known input, or raises, or would raise as its source did."""
    if known.error is not None:
        return known
    try:
        return Outcome(model.transform(known.value))
    except Exception as error:
        if wants_to_write(error):
            raise
        return Outcome(None, error)


def _done(stages: Mapping[str, Stage | Failure | None]) -> tuple[dict[str, Stage], Failure | None]:
    """The stages that are there (a part without columns is none), and the first failure."""
    failed = next((stage for stage in stages.values() if isinstance(stage, Failure)), None)
    return {name: stage for name, stage in stages.items() if isinstance(stage, Stage)}, failed


def _for_step(params: Mapping[str, Any], steps: tuple[str, ...] | None) -> dict[str, Any]:
    prefix = "__".join(steps or ()) + "__"
    return {name[len(prefix) :]: value for name, value in params.items() if steps and name.startswith(prefix)}


def fit_part(columns_transformer: Any, name: str, fold: Fold, source: Stage | Failure | None) -> Stage | Failure | None:
    """Fit one transformer of a ColumnTransformer on its columns; None: it has none."""
    if isinstance(source, Failure):
        return source
    X = fold.X_train if source is None else source.out

    def attempt(hold: Callable[[Any], Any]) -> Stage | None:
        model, capture = clone(columns_transformer), None
        parts = []
        for part_name, part, columns in model.transformers:
            if part_name == name:
                capture = Capture(part)
            parts.append((part_name, capture if part_name == name else "drop", columns))
        model.set_params(transformers=parts, remainder="drop")
        began = time.perf_counter()
        model.fit_transform(hold(X), hold(fold.y_train))
        if capture is None or capture.result is None:
            return None
        fitted, out = capture.result
        return Stage(fitted, out, Outcome(), None, time.perf_counter() - began)

    try:
        return with_inputs(attempt)
    except Exception as error:
        return Failure(error, traceback.format_exc())


# --- candidates ----------------------------------------------------------------------------------------------------------


def evaluate(job: Job, fold: Fold, stages: Mapping[str, Stage | Failure | None]) -> list[dict[str, Any]]:
    """
    Fit once and score every member.

    Returns
    -------
    list of dict
        As scikit-learn's function returns them.
    """
    try:
        return with_inputs(lambda hold: _evaluate(job, fold, stages, hold))
    except _LongestFailed:
        return [_alone(job, member, fold, stages) for member in job.members]


class _LongestFailed(Exception):
    """The fit that was to serve several: each has to be tried alone, for some may fit."""


def _alone(job: Job, member: Member, fold: Fold, stages: Mapping[str, Stage | Failure | None]) -> dict[str, Any]:
    estimator = job.estimator
    if job.parameter is not None:
        estimator = clone(estimator).set_params(**{job.parameter: member.value})
    single = job._replace(estimator=estimator, parameter=None, members=(member,))
    return with_inputs(lambda hold: _evaluate(single, fold, stages, hold))[0]


def _evaluate(
    job: Job, fold: Fold, stages: Mapping[str, Stage | Failure | None], hold: Callable[[Any], Any]
) -> list[dict[str, Any]]:
    fold = Fold(*(hold(part) if not isinstance(part, dict) else {k: hold(v) for k, v in part.items()} for part in fold))
    model, failure, fit_s = _fit(job, fold, stages, hold)
    if failure is not None and len(job.members) > 1:
        raise _LongestFailed
    asked = bare(model) if job.sees_model else model
    results = []
    for member in job.members:
        with ExitStack() as stack:
            if job.parameter is not None and len(job.members) > 1:
                try:
                    stack.enter_context(paths.shortened(last_of(model), member.value or 0))
                except AttributeError:
                    raise _LongestFailed from None
            results.append(_score(job, member, asked, failure, fold, hold))
        result = results[-1]
        if "fit_time" in result:
            result["fit_time"] = fit_s
        if failure is not None:
            result["fit_error"] = failure.text
        if "estimator" in result:
            result["estimator"] = bare(model)
    return results


def _fit(
    job: Job, fold: Fold, stages: Mapping[str, Stage | Failure | None], hold: Callable[[Any], Any]
) -> tuple[Any, Failure | None, float]:
    began = time.perf_counter()
    done, failure = _done(stages)
    if failure is not None:
        return clone(job.estimator), failure, 0.0
    before_s = sum(stage.fit_s for stage in done.values())
    sources = {name: before for name, before in job.sources.items() if name in done}
    model = prepared(job.estimator, done, sources, fold.X_test, fold.X_train, hold)
    try:
        if fold.y_train is None:
            model.fit(fold.X_train, **fold.fit_params)
        else:
            model.fit(fold.X_train, fold.y_train, **fold.fit_params)
    except Exception as error:
        if wants_to_write(error) and hold is not own:
            raise NeedsOwnCopies from error
        failure = Failure(error, traceback.format_exc())
    return model, failure, before_s + time.perf_counter() - began


def _score(
    job: Job, member: Member, model: Any, failure: Failure | None, fold: Fold, hold: Callable[[Any], Any]
) -> dict[str, Any]:
    """Let scikit-learn's function score a model that is fitted: it gets numbers of rows for data."""
    n_test, n_train = n_rows(fold.X_test), n_rows(fold.X_train)
    rows = np.arange(n_test + n_train).reshape(-1, 1)
    return job.function(
        _Done(failure),
        rows,
        None,
        train=np.arange(n_test, n_test + n_train),
        test=np.arange(n_test),
        scorer=_ScorerOf(job.scorer, model, fold, may_retry=hold is not own),
        fit_params={},
        score_params={},
        **member.options,
    )


class _Done(BaseEstimator):
    """A fit that has ended: well, or with an error."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure

    def set_params(self, **params: Any) -> _Done:
        return self

    def fit(self, X: Any, y: Any = None) -> _Done:
        if self.failure is not None:
            raise self.failure.error
        return self


class _ScorerOf:
    """Scores the model on the fold's data, whatever it is called with. It passes for a scorer of the real one's class."""

    def __init__(self, scorer: Any, model: Any, fold: Fold, may_retry: bool) -> None:
        self._real, self._model, self._fold, self._may_retry = scorer, model, fold, may_retry

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __repr__(self) -> str:
        return repr(self._real)

    def __call__(self, estimator: Any, rows: Any, *y: Any, **params: Any) -> Any:
        fold = self._fold
        if rows[0, 0] < n_rows(fold.X_test):
            X, y_true, params = fold.X_test, fold.y_test, fold.test_params
        else:
            X, y_true, params = fold.X_train, fold.y_train, fold.train_params
        model = Answered(self._model) if is_collection(X) else self._model
        try:
            scores = self._real(model, X, *(() if y_true is None else (y_true,)), **params)
        except Exception as error:
            if self._may_retry and wants_to_write(error):
                raise NeedsOwnCopies from error
            raise
        if (
            self._may_retry
            and isinstance(scores, dict)
            and any(isinstance(s, str) and wants_to_write(s) for s in scores.values())
        ):
            raise NeedsOwnCopies
        return scores


def last_of(model: Any) -> Any:
    """The estimator at the end of a Pipeline, of Pipelines in it, or the model itself."""
    while isinstance(model, Pipeline):
        model = model.steps[-1][1]
    return model

"""
Models that train side by side on an engine, a few calls of `partial_fit` at a time, the worse ones given up on the way.

A model lives on the engine as a future. A task takes it with a block of data and gives a new one, so that a lost model can be
made again and no value that others may hold is ever written to. The caller sees scores alone. Brackets go on independently as
their results arrive; but a rung is decided when all of its scores are there, and by nothing else, so that the order in which
tasks happen to end has no part in the outcome.
"""

from __future__ import annotations

import copy
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from parml.model_selection.blocks import Block, Blocks
from parml.model_selection.fit import Surroundings, run
from parml.model_selection.ready import Failure
from parml.model_selection.schedule import Rung
from parml.model_selection.split import n_rows, with_inputs
from parml_core.engine.base import Engine, Future
from parml_core.errors import ConnectionLost, TaskCancelled
from parml_core.graph import Graph, Hints, Ref, Task

__all__ = ["Bracket", "Entrant", "Patience", "Scored", "race"]


class Trained(NamedTuple):
    """A model after some calls, the seconds that each took, and why it could not go on."""

    model: Any
    fit_s: tuple[float, ...] = ()
    failure: Failure | None = None


class Scored(NamedTuple):
    """What the caller gets of a model."""

    score: float
    score_s: float
    fit_s: tuple[float, ...]
    failure: Failure | None


class Patience(NamedTuple):
    """A model stops when none of its scores of the last `calls` calls is more than `tol` better than the first of them."""

    calls: int
    tol: float


@dataclass
class Entrant:
    """
    A model on its way.

    Attributes
    ----------
    records : list of dict
        After each score.
    stopped : bool
        It has converged, or failed; it may still be the best.
    """

    id: Any
    params: dict[str, Any]
    start: Any
    future: Future[Trained] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    failure: Failure | None = None
    fit_s: tuple[float, ...] = ()

    @property
    def calls(self) -> int:
        return self.records[-1]["partial_fit_calls"] if self.records else 0

    @property
    def score(self) -> float:
        """The last; the worst of all where there is none."""
        score = self.records[-1]["score"] if self.records and self.failure is None else np.nan
        return -np.inf if np.isnan(score) else score


class Bracket:
    """
    Models that are compared with each other.

    Parameters
    ----------
    rungs : list of Rung
    entrants : list of Entrant
        In an order that decides where scores are equal.
    patience : Patience, optional
    priority : int
    """

    def __init__(
        self, rungs: Sequence[Rung], entrants: list[Entrant], patience: Patience | None = None, priority: int = 0
    ) -> None:
        self._rungs, self._patience, self.priority = list(rungs), patience, priority
        self.entrants, self.alive = entrants, list(entrants)
        self._at, self._under_way = 0, 0

    def begin(self) -> list[tuple[Entrant, int]]:
        """Which models train first, and for how many calls each."""
        return self._sent(self.alive)

    def take(self, entrant: Entrant) -> list[tuple[Entrant, int]]:
        """A model has a new record: which go on now. None does when the bracket has ended or waits for others."""
        self._under_way -= 1
        entrant.stopped = entrant.failure is not None or self._on_plateau(entrant)
        more = self._sent([entrant])
        while not more and not self._under_way and self._at + 1 < len(self._rungs):
            self._decide()
            more = self._sent(self.alive)
        return more

    @property
    def best(self) -> Entrant:
        """Of the models that nothing ended before the last rung."""
        return max(self.alive, key=lambda entrant: entrant.score)

    def _sent(self, entrants: list[Entrant]) -> list[tuple[Entrant, int]]:
        target = self._rungs[self._at].calls
        longest = target if self._patience is None else self._patience.calls
        going = [(one, min(target - one.calls, longest)) for one in entrants if not one.stopped and one.calls < target]
        self._under_way += len(going)
        return going

    def _decide(self) -> None:
        self._at += 1
        ranked = sorted(self.alive, key=lambda entrant: -entrant.score)  # stable: of equal scores the earlier model
        best = {id(entrant) for entrant in ranked[: self._rungs[self._at].n_models]}
        for entrant in self.alive:
            if id(entrant) not in best:
                entrant.future = None  # the engine may forget the model
        self.alive = [entrant for entrant in self.alive if id(entrant) in best]

    def _on_plateau(self, entrant: Entrant) -> bool:
        if self._patience is None or entrant.calls < self._patience.calls:
            return False
        first = entrant.calls - self._patience.calls
        scores = [record["score"] for record in entrant.records if record["partial_fit_calls"] >= first]
        return len(scores) > 1 and not max(scores[1:]) - scores[0] > self._patience.tol


def race(
    engine: Engine,
    brackets: Sequence[Bracket],
    data: Blocks,
    *,
    order: Callable[[int], int],
    fit_params: dict[str, Any],
    scorer: Callable[..., Any],
    surroundings: Surroundings,
    failing_score: float | str,
    heard: Callable[[Entrant], None] = lambda entrant: None,
) -> None:
    """
    Train the models of all brackets to their ends.

    Parameters
    ----------
    order : callable
        The number of the block for the n-th call, the same for all models.
    fit_params : dict
        What each call of `partial_fit` gets besides its block.
    failing_score : float or ``"raise"``
        What a model that fails has scored.
    heard : callable
        Is told of each score.
    """
    name, began = uuid.uuid4().hex[:16], time.perf_counter()
    params, score_with = engine.scatter([fit_params, scorer])
    under_way: dict[Future[Scored], tuple[Bracket, Entrant, int]] = {}
    numbers = {id(entrant): i for i, entrant in enumerate(one for bracket in brackets for one in bracket.entrants)}

    def send(bracket: Bracket, going: list[tuple[Entrant, int]]) -> None:
        tasks, wants, futures = [], [], {params.key: params, score_with.key: score_with, data.test.key: data.test}
        hints = Hints(priority=bracket.priority)
        for entrant, calls in going:
            state: Any = Trained(entrant.start)
            if entrant.future is not None:
                state, futures[entrant.future.key] = Ref(entrant.future.key), entrant.future
            number = numbers[id(entrant)]
            for call in range(entrant.calls, entrant.calls + calls):
                block = data.train[order(call)]
                futures[block.key] = block
                key = f"partial_fit-{name}:{number},{call}"
                tasks.append(Task(key, run, (surroundings, _train, state, Ref(block.key), Ref(params.key)), hints=hints))
                state = Ref(key)
            score = f"score-{name}:{number},{entrant.calls + calls}"
            what = (surroundings, _score, state, Ref(data.test.key), Ref(score_with.key))
            tasks.append(Task(score, run, what, hints=hints))
            wants += [state.key, score]
        got = iter(engine.submit_graph(Graph(tasks, futures), wants))
        for (entrant, calls), model, score_of in zip(going, got, got, strict=False):
            entrant.future = model
            under_way[score_of] = bracket, entrant, calls

    try:
        for bracket in brackets:
            send(bracket, bracket.begin())
        while under_way:
            ended, _ = engine.wait(list(under_way), until="first")
            for future in ended:
                bracket, entrant, calls = under_way.pop(future)
                _note(entrant, calls, _scored(future, failing_score), failing_score, time.perf_counter() - began)
                heard(entrant)
                going = bracket.take(entrant)
                if going:
                    send(bracket, going)
    except BaseException:
        models: list[Future[Any]] = [
            entrant.future for bracket in brackets for entrant in bracket.alive if entrant.future is not None
        ]
        models.extend(under_way)
        engine.cancel([future for future in models if not future.done()])
        raise


def _scored(future: Future[Scored], failing_score: float | str) -> Scored:
    """What the task gave. A model that brings its workers down, or cannot be sent between them, has failed by itself."""
    try:
        scored = future.result()
    except (TaskCancelled, ConnectionLost):
        raise
    except Exception as error:
        text = "".join(traceback.format_exception_only(error))
        scored = Scored(np.nan, 0.0, (), Failure(error, text))
    if scored.failure is not None and failing_score == "raise":
        raise scored.failure.error
    return scored


def _note(entrant: Entrant, calls: int, scored: Scored, failing_score: Any, elapsed_s: float) -> None:
    fit_s = scored.fit_s[len(entrant.fit_s) :]
    failed = scored.failure is not None
    entrant.fit_s, entrant.failure = scored.fit_s, scored.failure
    if failed:
        entrant.future = None
    record = {
        "model_id": entrant.id,
        "params": entrant.params,
        "partial_fit_calls": entrant.calls + (len(fit_s) if failed else calls),
        "partial_fit_time": float(np.mean(fit_s)) if fit_s else 0.0,
        "score": float(failing_score) if failed else scored.score,
        "score_time": scored.score_s,
        "elapsed_wall_time": elapsed_s,
        "error": scored.failure.text if scored.failure is not None else "",
    }
    entrant.records.append(record)


# --- tasks -------------------------------------------------------------------------------------------------------------


def _train(before: Trained, block: Block, params: dict[str, Any]) -> Trained:
    """A new model that has seen one more block."""
    if before.failure is not None:
        return before
    began = time.perf_counter()

    def attempt(hold: Callable[[Any], Any]) -> Any:
        model = copy.deepcopy(before.model)
        given = {name: hold(value) for name, value in {**params, **block.params}.items()}
        model.partial_fit(hold(block.X), *(() if block.y is None else (hold(block.y),)), **given)
        return model

    try:
        model = with_inputs(attempt) if n_rows(block.X) else before.model
    except Exception as error:
        return before._replace(model=None, failure=Failure(error, traceback.format_exc()))
    return Trained(model, (*before.fit_s, time.perf_counter() - began))


def _score(trained: Trained, test: Block, scorer: Callable[..., Any]) -> Scored:
    if trained.failure is not None:
        return Scored(np.nan, 0.0, trained.fit_s, trained.failure)
    began = time.perf_counter()

    def attempt(hold: Callable[[Any], Any]) -> float:  # of a copy, whose attributes a scorer may set
        return float(scorer(copy.copy(trained.model), hold(test.X), *(() if test.y is None else (hold(test.y),))))

    try:
        score = with_inputs(attempt)
    except Exception as error:
        return Scored(np.nan, 0.0, trained.fit_s, Failure(error, traceback.format_exc()))
    return Scored(score, time.perf_counter() - began, trained.fit_s, None)

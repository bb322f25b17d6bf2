"""
How scikit-learn's own search and validation functions come to run a plan: as a joblib backend.

Everything that such a function does before and after its one parallel call (checks, splits, scores' averages, ranks, the refit)
stays its own. The backend takes the calls, all before the first runs, plans them, and hands back what each would have returned.
So nothing of scikit-learn is imported that is private, and a release whose calls look different is still served, call by call.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib import cpu_count, parallel_config
from joblib.parallel import ParallelBackendBase
from sklearn import get_config
from sklearn.base import BaseEstimator

from parml.model_selection.chunked import ChunkedRows, trains_on_engine
from parml.model_selection.fit import Surroundings
from parml.model_selection.follow import Follower, Interrupted
from parml.model_selection.plan import Call, Plan, plan
from parml_core.engine.base import Engine, Future
from parml_core.engine.derived import as_completed
from parml_core.engine.inline import InlineEngine
from parml_core.engine.registry import resolve
from parml_core.errors import NotSupported
from parml_core.typing import Key

__all__ = ["PlanningBackend", "planned", "surroundings", "surroundings_on"]


@contextmanager
def planned(client: Any, estimator: Any, follower: Follower | None = None) -> Iterator[None]:
    """
    What is made parallel in this context is planned, and run on `client`; None: on the current engine.

    An estimator that trains on the engine itself is trained from here, one candidate after the other: each training takes all
    processors anyway, and as tasks all of them would hold their data while they wait for each other.
    """
    with parallel_config(PlanningBackend(resolve(client), follower, in_turn=trains_on_engine(estimator))):
        yield


class PlanningBackend(ParallelBackendBase):
    """
    Collects the calls of a joblib.Parallel and runs them as one graph.

    Parameters
    ----------
    engine : Engine
    follower : Follower, optional
        Who hears of each result.
    in_turn : bool
        Whether tasks run in this thread, one after the other, and the engine serves what they start.
    """

    supports_retrieve_callback = False  # joblib then asks for results one by one, after it has handed over all calls
    supports_sharedmem = True

    def __init__(
        self, engine: Engine, follower: Follower | None = None, nesting_level: int = 0, *, in_turn: bool = False
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        self._engine, self._follower = engine, follower
        self._in_turn = InlineEngine() if in_turn else None
        self._replay: list[Any] | None = None
        self._calls: list[Call] = []
        self._results: list[Any] | None = None
        self._scattered: list[tuple[Any, Future[Any]]] = []  # for the next call: the rungs of a halving have the same data

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Two: with one, joblib would make the calls itself. How many run at the same time is the engine's to say."""
        return 2

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        parallel.pre_dispatch = "all"
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def start_call(self) -> None:
        self._calls, self._results = [], None

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> range:
        first = len(self._calls)
        self._calls += [Call(function, tuple(args), dict(kwargs)) for function, args, kwargs in func.items]
        if callback is not None:
            callback(None)  # joblib counts by it what it still has to wait for; it waits in `retrieve_result` here
        return range(first, len(self._calls))

    def retrieve_result(self, out: range, timeout: float | None = None) -> list[Any]:
        if self._results is None:
            calls = [_portable(call) for call in self._calls]
            if self._replay is not None:
                self._results, self._replay = self._replay, None
            else:
                self._scattered = _scattered(self._in_turn or self._engine, _data_of(calls), self._scattered)
                self._results = self._run(calls)
            self._calls = []
        return [self._results[i] for i in out]

    def _run(self, calls: list[Call]) -> list[Any]:
        """All results; of those that the follower has already, its own."""
        results = {} if self._follower is None else self._follower.begin(calls)
        open_numbers = [i for i in range(len(calls)) if i not in results]
        hear = self._follower.hear if self._follower is not None and self._follower.wants_each else None
        try:
            if open_numbers:
                missing = [calls[i] for i in open_numbers]
                if self._in_turn is None:
                    _run(self._engine, missing, self._scattered, open_numbers, results, hear)
                else:
                    _run_in_turn(self._in_turn, self._engine, missing, self._scattered, open_numbers, results, hear)
        except KeyboardInterrupt:
            raise Interrupted(results, self._give_next) from None
        return [results[i] for i in range(len(calls))]

    def _give_next(self, results: list[Any]) -> None:
        self._replay = results

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Nothing: what runs is cancelled where it is waited for."""

    def stop_call(self) -> None:
        self._calls, self._results = [], None

    def terminate(self) -> None:
        """The end of the search: its data are not needed any more."""
        self._scattered = []


def surroundings(engine: Engine | None = None) -> Surroundings:
    """Those of the thread that calls."""
    filters = getattr(warnings, "_get_filters", lambda: warnings.filters)()  # type: ignore[attr-defined]
    return Surroundings(get_config(), tuple(filters), engine)


def surroundings_on(engine: Engine) -> Surroundings:
    """
    Those of tasks on an engine. Where they run beside each other in this process, compiled libraries get a task's share of its
    processors: they would take all of them for each.
    """
    here = [worker.nthreads for worker in engine.workers() if worker.pid == os.getpid()]
    return surroundings()._replace(threads=max(cpu_count() // sum(here), 1) if sum(here) > 1 else None)


def _scattered(engine: Engine, values: list[Any], before: list[tuple[Any, Future[Any]]]) -> list[tuple[Any, Future[Any]]]:
    """What the engine has of the values; they are sent unless these very objects were."""
    if len(values) == len(before) and all(value is old for value, (old, _) in zip(values, before, strict=True)):
        return before
    return list(zip(values, engine.scatter(values), strict=True))


def _run(
    engine: Engine,
    calls: list[Call],
    shared: list[tuple[Any, Future[Any]]],
    numbers: list[int],
    results: dict[int, Any],
    hear: Callable[[int, Any], None] | None,
) -> None:
    """Put the results of the calls into `results` under their `numbers`; when interrupted, those that are there."""
    candidates = {id(call.kwargs.get("parameters")) for call in calls}
    planned = plan(calls, shared, surroundings_on(engine), uuid.uuid4().hex, share=len(candidates) > 1)
    answers, take = _takers(planned, numbers, results, hear)
    wants = planned.wants
    futures = engine.submit_graph(planned.graph, wants)
    try:
        if hear is not None:
            for future in as_completed(futures):
                take(future.key, future.result())
            return
        done, pending = engine.wait(futures, until="first_error")
        if pending:
            for future in done:
                future.result()
        for key, result in zip(wants, engine.gather(futures), strict=True):
            take(key, result)
    except BaseException as error:
        engine.cancel([future for future in futures if not future.done()])
        if isinstance(error, KeyboardInterrupt):
            finished = [future for future in futures if future.status == "finished" and future.key in answers]
            for future, result in zip(finished, engine.gather(finished), strict=True):
                take(future.key, result)
        raise


def _run_in_turn(
    here: InlineEngine,
    engine: Engine,
    calls: list[Call],
    shared: list[tuple[Any, Future[Any]]],
    numbers: list[int],
    results: dict[int, Any],
    hear: Callable[[int, Any], None] | None,
) -> None:
    """As `_run`, task by task in this thread; what they start themselves goes to `engine`."""
    planned = plan(calls, shared, surroundings(engine), uuid.uuid4().hex)
    if any(at is None for _, at in planned.answers) and any(isinstance(value, ChunkedRows) for value, _ in shared):
        raise NotSupported(
            "expected a search, cross_validate, or a function that scores as they do, without callbacks of scikit-learn, where "
            f"X is a collection; found {getattr(calls[0].function, '__name__', calls[0].function)} with what is not; fetch X"
        )
    _, take = _takers(planned, numbers, results, hear)
    for key in planned.wants:
        take(key, here.submit_graph(planned.graph, [key])[0].result())


def _takers(
    planned: Plan, numbers: list[int], results: dict[int, Any], hear: Callable[[int, Any], None] | None
) -> tuple[dict[Key, list[tuple[int, int | None]]], Callable[[Key, Any], None]]:
    """For each task the calls that it answers and that have no result yet, and the function that takes its result for them."""
    answers: dict[Key, list[tuple[int, int | None]]] = {}
    for number, (key, at) in zip(numbers, planned.answers, strict=True):
        answers.setdefault(key, []).append((number, at))

    def take(key: Key, result: Any) -> None:
        for number, at in answers.pop(key, ()):
            results[number] = result if at is None else dict(result[at])
            if hear is not None:
                hear(number, results[number])

    return answers, take


def _data_of(calls: list[Call]) -> list[Any]:
    """X and y, if all calls have the same: they stand after the estimator."""
    first = calls[0].args[1:3] if calls else ()
    same = [value for i, value in enumerate(first, 1) if all(len(c.args) > i and c.args[i] is value for c in calls)]
    return [value for value in same if value is not None]


def _portable(call: Call) -> Call:
    """Without what only callbacks need, where there are none: the search itself, which need not travel to the workers."""
    kwargs = call.kwargs
    if kwargs.get("callback_ctx") is not None and not _has_callbacks(call.args[0], kwargs.get("caller")):
        kwargs = {**kwargs, "callback_ctx": None, "caller": None}
    return call._replace(kwargs=kwargs)


def _has_callbacks(*estimators: Any) -> bool:
    return any(
        getattr(part, "_skl_callbacks", None)
        for estimator in estimators
        if isinstance(estimator, BaseEstimator)
        for part in (estimator, *estimator.get_params(deep=True).values())
    )

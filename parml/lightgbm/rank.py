"""What one rank of a training does: build its Datasets, boost round after round, and say how far it has come."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import cloudpickle
import lightgbm as lgb
from lightgbm.basic import _InnerPredictor
from lightgbm.callback import CallbackEnv, EarlyStopException

from parml.boosting.checkpoints import Depot, Pace, Sender, pickled
from parml.boosting.exchange import Member
from parml.boosting.progress import news_of
from parml.boosting.shares import Batch, Share, batches_of
from parml.lightgbm import params as parameters
from parml.lightgbm.bins import Common
from parml.lightgbm.blocks import build
from parml.lightgbm.data import Columns
from parml.lightgbm.evaluation import SharedMetrics, StartFrom, on_every_rank
from parml.lightgbm.network import Meeting, joined
from parml.lightgbm.scores import add_trees, outputs_of

Callback = Callable[[Any], None]
History = dict[str, dict[str, list[float]]]
Result = tuple[lgb.Booster, History]


@dataclass(frozen=True, slots=True)
class Job:
    """
    What all ranks are told alike.

    Parameters
    ----------
    params, data_params : dict
        Of the training, and of the Dataset.
    rounds : int
        The last round is this one, whatever was done before a restart.
    train : Columns
    valid : tuple of (str, Columns or None, dict)
        Name, columns and parameters of data to evaluate on. None: the training data itself.
    callbacks : tuple of callable
    feval : callable or sequence of callable, optional
    init_model : Booster, optional
    checkpoint_every : int, optional
    """

    params: dict[str, Any]
    data_params: dict[str, Any]
    rounds: int
    train: Columns
    valid: tuple[tuple[str, Columns | None, dict[str, Any]], ...]
    callbacks: tuple[Callback, ...] = ()
    feval: Any = None
    init_model: lgb.Booster | None = None
    checkpoint_every: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What one rank is told: how many threads it has, where the others are, and where checkpoints go."""

    threads: int
    place: Meeting | None = None
    depot: Depot | None = None


@dataclass(frozen=True, slots=True)
class State:
    """
    What a checkpoint has: all that the next rounds depend on, beside the data.

    Parameters
    ----------
    model : str
    of_booster, of_env : dict
        Parameters that callbacks have changed.
    results : list
        Of the last evaluation.
    history : dict
    callbacks : list of bytes or None
        None: it holds what cannot be pickled, and begins anew.
    """

    model: str
    of_booster: dict[str, Any]
    of_env: dict[str, Any]
    results: list[Any]
    history: History
    callbacks: list[bytes | None]


def train_rank(
    rank: int,
    job: Job,
    task: Task,
    begin: tuple[int, bytes],
    common: Common | None,
    shares: list[Share],
    evaluated: list[list[Share]] | None,
) -> Result | None:
    """
    Build the Datasets of this rank, letting go of each partition when it is in one, and train.

    Parameters
    ----------
    rank : int
    job : Job
    task : Task
    begin : tuple of int and bytes
        How many rounds are done, and the state of the checkpoint that they left.
    common : Common, optional
        What several ranks share.
    shares : list of Share
    evaluated : list of list of Share, optional
        Of each other data to evaluate on, on the rank that does.

    Returns
    -------
    Result or None
        Rank 0 has the result.
    """
    done, pickled_state = begin
    state: State | None = cloudpickle.loads(pickled_state) if done else None
    # Once there are trees, the score that training started from is in the first of them.
    initial = common.initial if common is not None and state is None else ()
    params, objective = params_of(job, task)
    datasets = _Datasets(job, params, common, initial, state)
    data = datasets.training(batches_of(shares), shares)
    valid = datasets.valid(evaluated)
    with joined(rank, task.place, parameters.minutes(job.params)) as member, ExitStack() as stack:
        sender = stack.enter_context(Sender(task.depot)) if rank == 0 and task.depot is not None else None
        training = _Training(job, params, objective, data, valid, member, initial)
        if state is not None:
            training.resume(done, state)
        booster = training.run(sender)
    if rank != 0:
        return None
    booster.params = {**job.params}  # not where and with how many threads it was trained
    return booster, {name: {metric: list(values) for metric, values in of.items()} for name, of in training.history.items()}


train_rank.__parml_preload__ = ("parml.lightgbm",)  # type: ignore[attr-defined]  # what a rank's process should have imported


def params_of(job: Job, task: Task) -> tuple[dict[str, Any], Callable[..., Any] | None]:
    """Parameters as `lightgbm.train` passes them on, with what is this rank's, and the objective where it is the user's."""
    params = copy.deepcopy(job.params)
    objective = parameters.value_of(params, "objective")
    stop = parameters.value_of(params, "early_stopping_round")
    params = parameters.without(params, "num_threads", "objective", "num_iterations", "early_stopping_round")
    params |= {"num_threads": task.threads, "num_iterations": job.rounds}
    params["objective"] = "none" if callable(objective) else objective
    if stop is not None:
        params["early_stopping_round"] = stop
    if task.place is not None:
        several = {"tree_learner": parameters.learner(job.params), "num_machines": len(task.place.hosts)}
        params = parameters.without(params, "tree_learner", "time_out") | several
    return params, objective if callable(objective) else None


class _Datasets:
    """
    LightGBM's Datasets on this rank, each with the scores that training goes on from.

    These are of the rows themselves or of the model that the user goes on from, and after a restart those that the trees of
    the checkpoint add to them.
    """

    def __init__(
        self, job: Job, params: dict[str, Any], common: Common | None, initial: tuple[float, ...], state: State | None
    ) -> None:
        self._job = job
        self._params = job.data_params | params
        self._common = common
        self._initial = initial
        self._going_on = job.init_model is not None
        self._predictor = predictor_of(job.init_model, params)
        self._first = 0 if job.init_model is None else job.init_model.current_iteration()
        self._trees = None if state is None else lgb.Booster(model_str=state.model)
        self._of_trees = predictor_of(
            self._trees, {}
        )  # one for all Datasets, whose trees LightGBM puts before those that it adds
        self._outputs = [] if state is None else outputs_of(state.model)
        self._data: lgb.Dataset | None = None

    def training(self, batches: list[Batch], shares: list[Share]) -> lgb.Dataset:
        """The rows of this rank."""
        reference = None if self._common is None else self._common.reference(self._params)
        categories = None if self._common is None else self._common.categories
        data = build(
            batches,
            self._job.train,
            self._params,
            reference=reference,
            categories=categories,
            initial=self._initial,
            joined=self._going_on,
        )
        data._set_predictor(self._predictor)
        self._data = data
        return self._constructed(data, batches, shares)

    def valid(self, evaluated: list[list[Share]] | None) -> list[tuple[str, lgb.Dataset]]:
        """What this rank evaluates, in the order that the user gave."""
        assert self._data is not None
        valid = []
        theirs = iter(evaluated or ())
        for name, columns, params in self._job.valid:
            if columns is None:
                valid.append((name, self._data))
            elif evaluated is not None:
                shares = next(theirs)
                batches = batches_of(shares)
                data = build(
                    batches,
                    columns,
                    {**params, **self._params},
                    reference=self._data,
                    categories=self._data.pandas_categorical,
                    initial=self._initial,
                    joined=self._going_on,
                )
                data._set_predictor(self._predictor)
                valid.append((name, self._constructed(data, batches, shares)))
        return valid

    def _constructed(self, data: lgb.Dataset, batches: list[Batch], shares: list[Share]) -> lgb.Dataset:
        """Rows are let go of before they are binned, unless they are needed once more."""
        categories = data.pandas_categorical
        shares.clear()
        if self._trees is None:
            batches.clear()
        data.construct()
        if self._trees is not None:
            parts = [batch["X"] for batch in batches]
            add_trees(data, parts, categories, self._trees, self._outputs, self._first, self._params["num_threads"])
            batches.clear()
            data._predictor = self._of_trees
        return data


def predictor_of(booster: lgb.Booster | None, params: Mapping[str, Any]) -> Any:
    """What LightGBM goes on from; the booster has to outlive it."""
    return None if booster is None else _InnerPredictor.from_booster(booster, dict(booster.params, **params))


class _Training:
    """The loop of `lightgbm.train`, from the first round or from a checkpoint."""

    def __init__(
        self,
        job: Job,
        params: dict[str, Any],
        objective: Callable[..., Any] | None,
        data: lgb.Dataset,
        valid: Sequence[tuple[str, lgb.Dataset]],
        member: Member | None,
        initial: Sequence[float],
    ) -> None:
        self.history: History = {}
        self._job = job
        self._params = params
        self._objective = objective
        self._data = data
        self._valid = valid
        self._member = member
        self._own: list[Callback] = [lgb.record_evaluation(self.history)]
        if member is not None and (job.valid or job.callbacks):
            train_name = next((name for name, columns, _ in job.valid if columns is None), None)
            self._own.append(SharedMetrics(member, data, train_name))
        if any(initial):
            self._own.append(StartFrom(initial))
        self._callbacks = [*job.callbacks, *early_stopping(params)]  # of the user: their state is in a checkpoint
        self._first = 0 if job.init_model is None else job.init_model.current_iteration()
        self._done = 0
        self._results: list[Any] = []
        self._state: State | None = None

    def resume(self, done: int, state: State) -> None:
        """Go on after so many rounds."""
        self._done = done
        self._state = state
        self._results = state.results
        self.history.update(state.history)
        saved = zip(self._callbacks, state.callbacks, strict=True)
        self._callbacks = [callback if kept is None else cloudpickle.loads(kept) for callback, kept in saved]

    def run(self, sender: Sender | None) -> lgb.Booster:
        """All rounds that are left."""
        callbacks = list(dict.fromkeys([*on_every_rank(self._callbacks, self._member), *self._own]))
        callbacks.sort(key=attrgetter("order"))
        before = [callback for callback in callbacks if getattr(callback, "before_iteration", False)]
        after = [callback for callback in callbacks if not getattr(callback, "before_iteration", False)]
        booster = self._booster()
        pace = Pace(self._job.checkpoint_every)
        for i in range(self._done, self._job.rounds):
            for callback in before:
                callback(self._env(booster, i, None))
            booster.update(fobj=self._objective)
            self._results = self._evaluate(booster)
            try:
                for callback in after:
                    callback(self._env(booster, i, self._results))
            except EarlyStopException as stop:
                booster.best_iteration = stop.best_iteration + 1
                self._results = stop.best_score
                break
            if sender is not None:
                sender.tell(i + 1, lambda: news_of(self.history))
            if sender is not None and pace.due(i + 1):
                began = time.monotonic()
                sender.send(i + 1, self._pickled(booster))
                pace.made(time.monotonic() - began)
        booster.best_score = defaultdict(OrderedDict)
        for data, metric, value, *_ in self._results:
            booster.best_score[data][metric] = value
        return booster.model_from_string(booster.model_to_string()).free_dataset()

    def _booster(self) -> lgb.Booster:
        state = self._state
        params = dict(self._params)
        if state is not None and parameters.draws(params | state.of_booster):
            params |= parameters.other_seeds(params, self._done)  # else the draws of the first rounds would come again
        booster = lgb.Booster(params, self._data)
        for name, data in self._valid:
            if data is self._data:
                booster.set_train_data_name(name)
            else:
                booster.add_valid(data, name)
        booster.best_iteration = 0
        self._of_booster, self._of_env = dict(booster.params), dict(self._params)
        if state is not None:
            if state.of_booster:
                booster.reset_parameter(state.of_booster)
            self._params.update(state.of_env)
        return booster

    def _env(self, booster: lgb.Booster, i: int, results: list[Any] | None) -> CallbackEnv:
        begin = self._first
        return CallbackEnv(
            model=booster,
            params=self._params,
            iteration=begin + i,
            begin_iteration=begin,
            end_iteration=begin + self._job.rounds,
            evaluation_result_list=results,
        )

    def _evaluate(self, booster: lgb.Booster) -> list[Any]:
        of_training = booster.eval_train(self._job.feval) if any(data is self._data for _, data in self._valid) else []
        return [*of_training, *(booster.eval_valid(self._job.feval) if self._valid else [])]

    def _pickled(self, booster: lgb.Booster) -> bytes:
        state = State(
            model=booster.model_to_string(num_iteration=-1),
            of_booster=_changed(self._of_booster, booster.params),
            of_env=_changed(self._of_env, self._params),
            results=self._results,
            history={name: dict(metrics) for name, metrics in self.history.items()},
            callbacks=[pickled(callback) for callback in self._callbacks],
        )
        content: bytes = cloudpickle.dumps(state)
        return content


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if name not in before or before[name] is not value}


def early_stopping(params: Mapping[str, Any]) -> list[Callback]:
    """What stands for the parameters of early stopping."""
    rounds = params.get("early_stopping_round")
    if rounds is None or rounds <= 0:
        return []
    verbose = parameters.value_of(params, "verbosity", 1) > 0
    min_delta = params.get("early_stopping_min_delta", 0.0)
    return [lgb.early_stopping(rounds, params.get("first_metric_only", False), verbose=verbose, min_delta=min_delta)]

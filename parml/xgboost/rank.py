"""What one rank of a training does: build its matrices, boost round after round, and say how far it has come."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import cloudpickle
import xgboost as xgb
from xgboost.callback import EarlyStopping, EvaluationMonitor, TrainingCallback

from parml.boosting.checkpoints import Depot, Pace, Sender, pickled
from parml.boosting.progress import news_of
from parml.boosting.shares import Share, batches_of
from parml.xgboost.collective import Meeting, joined
from parml.xgboost.cuts import Cuts
from parml.xgboost.data import MatrixSpec
from parml.xgboost.external import disk
from parml.xgboost.metrics import Callbacks

History = dict[str, dict[str, list[float]]]
Result = tuple[xgb.Booster, History]


@dataclass(frozen=True, slots=True)
class Job:
    """
    What all ranks are told alike.

    Parameters
    ----------
    params : dict
    rounds : int
        The last round is this one, whatever was done before a restart.
    train : MatrixSpec
    evals : tuple of (str, MatrixSpec or None)
        None: the training matrix itself.
    quantised, quantised_evals : bool
    options : dict
        ``obj``, ``custom_metric``, ``maximize``, ``early_stopping_rounds``, ``verbose_eval``, ``callbacks``.
    checkpoint_every : int, optional
    cuts : Cuts, optional
        Those that all ranks bin by. None: what XGBoost makes of the ranks' own.
    """

    params: dict[str, Any]
    rounds: int
    train: MatrixSpec
    evals: tuple[tuple[str, MatrixSpec | None], ...]
    quantised: bool
    quantised_evals: bool
    options: Mapping[str, Any]
    checkpoint_every: int | None = None
    cuts: Cuts | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What one rank is told: how many threads it has, where the others are, and where checkpoints go."""

    nthread: int
    meeting: Meeting | None
    depot: Depot | None


def train_rank(
    rank: int,
    job: Job,
    task: Task,
    begin: tuple[int, bytes],
    shares: list[Share],
    eval_shares: list[list[Share]],
) -> Result | None:
    """
    Build the matrices of this rank, letting go of each partition when it is in one, and train.

    Parameters
    ----------
    rank : int
    job : Job
    task : Task
    begin : tuple of int and bytes
        How many rounds are done, and what they left: the state of a checkpoint; for none the pickled model to go on from.
    shares : list of Share
    eval_shares : list of list of Share
        For each matrix to evaluate on.

    Returns
    -------
    Result or None
        Rank 0 has the result.
    """
    reference = None if job.cuts is None else job.cuts.reference()
    with joined(rank, task.meeting), ExitStack() as stack:
        booster, history = _train(job, task, begin, shares, eval_shares, reference, sends=rank == 0, stack=stack)
    if rank != 0:
        return None
    # Whoever predicts with the model does so with the threads of their own machine.
    booster.set_param({"nthread": threads_asked(job.params) or 0})
    return booster, history


train_rank.__parml_preload__ = ("parml.xgboost",)  # type: ignore[attr-defined]  # what a rank's process should have imported


def threads_asked(params: Mapping[str, Any]) -> int:
    """The number of threads that the user wants; 0 or less: all."""
    return int(params.get("nthread") or params.get("n_jobs") or 0)


def _train(
    job: Job,
    task: Task,
    begin: tuple[int, bytes],
    shares: list[Share],
    eval_shares: list[list[Share]],
    reference: xgb.DMatrix | None,
    *,
    sends: bool,
    stack: ExitStack,
) -> Result:
    """`stack` holds what the matrices need as long as they live, which is until this returns."""
    dtrain = _matrix(job.train, shares, task.nthread, stack, quantised=job.quantised, ref=reference)
    ref, evals = dtrain if job.quantised_evals else None, []
    for (name, spec), mine in zip(job.evals, eval_shares, strict=True):
        data = _matrix(spec, mine, task.nthread, stack, quantised=job.quantised_evals, ref=ref) if spec else dtrain
        evals.append((data, name))
    sender = stack.enter_context(Sender(task.depot)) if sends and task.depot is not None else None
    return _boost(job, task.nthread, begin, dtrain, evals, sender)


def _matrix(spec: MatrixSpec, shares: list[Share], nthread: int, stack: ExitStack, **how: Any) -> xgb.DMatrix:
    """A matrix of these rows, which are let go of."""
    if not spec.external_memory:
        batches = batches_of(shares)
        shares.clear()
        return spec.build(batches, nthread, **how)
    place = stack.enter_context(disk(spec.external_memory if isinstance(spec.external_memory, str) else None))
    batches = place.store(shares, nthread)
    shares.clear()
    with place.pages() as prefix:
        return spec.build(batches, nthread, pages=prefix, **how)


def _boost(
    job: Job,
    nthread: int,
    begin: tuple[int, bytes],
    dtrain: xgb.DMatrix,
    evals: list[tuple[xgb.DMatrix, str]],
    sender: Sender | None,
) -> Result:
    """The loop of `xgboost.train`, from the first round or from a checkpoint."""
    obj = job.options.get("obj")
    matrices = list(dict.fromkeys([dtrain, *(data for data, _ in evals)]))
    callbacks = callbacks_of(job.options)
    container = Callbacks(callbacks, job.options.get("custom_metric"), job.params, output_margin=callable(obj))
    pace = Pace(job.checkpoint_every)
    done, state = begin
    if done:
        booster = _resume(container, state, matrices)
        # Rounds that draw rows or columns would draw those of the first round again.
        booster.set_param({"nthread": nthread, "seed": _seed(job.params) + done})
    else:
        params = {name: value for name, value in job.params.items() if name != "n_jobs"} | {"nthread": nthread}
        booster = container.before_training(xgb.Booster(params, matrices, model_file=cloudpickle.loads(state)))
    for i in range(done, job.rounds):
        if container.before_iteration(booster, i, dtrain, evals):
            break
        booster.update(dtrain, iteration=i, fobj=obj)
        if container.after_iteration(booster, i, dtrain, evals):
            break
        if sender is not None:
            sender.tell(i + 1, lambda: news_of(cast(History, container.history)))
        if sender is not None and pace.due(i + 1):
            began = time.monotonic()
            sender.send(i + 1, _state(container, booster))
            pace.made(time.monotonic() - began)
    booster = container.after_training(booster)
    if done:
        booster.set_param({"seed": _seed(job.params)})
    return booster.reset(), {data: dict(metrics) for data, metrics in cast(History, container.history).items()}


def _seed(params: Mapping[str, Any]) -> int:
    return int(params.get("seed") or params.get("random_state") or 0)


def callbacks_of(options: Mapping[str, Any], *, show_stdv: bool = False) -> list[TrainingCallback]:
    """The user's, and those that stand for options, in the order of `xgboost.train`."""
    callbacks = list(options.get("callbacks") or ())
    if verbose := options.get("verbose_eval"):
        callbacks.append(EvaluationMonitor(period=int(verbose), show_stdv=show_stdv))
    if rounds := options.get("early_stopping_rounds"):
        callbacks.append(EarlyStopping(rounds=rounds, maximize=options.get("maximize")))
    return callbacks


# --- the state in a checkpoint -----------------------------------------------------------------------------------------


def _state(container: Callbacks, booster: xgb.Booster) -> bytes:
    """All that the next rounds depend on. What xgboost pickles has the parameters in it that callbacks have changed."""
    callbacks = [pickled(callback) for callback in container.callbacks]
    state: bytes = cloudpickle.dumps((booster, container.history, callbacks))
    return state


def _resume(container: Callbacks, state: bytes, matrices: Sequence[xgb.DMatrix]) -> xgb.Booster:
    snapshot, container.history, callbacks = cloudpickle.loads(state)
    booster = xgb.Booster(None, matrices, model_file=snapshot)
    for i, kept in enumerate(callbacks):
        if kept is not None:
            container.callbacks[i] = cloudpickle.loads(kept)
        else:
            booster = container.callbacks[i].before_training(booster)
    return booster

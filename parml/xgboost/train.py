"""Train one model on the partitions of a DMatrix, in one process for each host."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cloudpickle
import xgboost as xgb

from parml.boosting.attempts import Team, checkpoints_kept
from parml.boosting.checkpoints import Checkpoint, Checkpoints
from parml.boosting.gang import run_gang, wait_for_inputs, with_restarts
from parml.boosting.progress import progress_line
from parml.boosting.ranks import Rank, RankPer, n_places, plan_ranks, share_out
from parml.boosting.shares import Share, share_of
from parml.xgboost.categories import CategoriesByColumn, categories_of
from parml.xgboost.collective import tracker
from parml.xgboost.cuts import can_be_found, find_cuts
from parml.xgboost.data import DMatrix, MatrixSpec
from parml.xgboost.rank import Job, Result, Task, threads_asked, train_rank
from parml_core.engine.base import Engine
from parml_core.errors import InputError, NotSupported

Model = xgb.Booster | Mapping[str, Any] | str | os.PathLike[str] | bytes | bytearray
Evals = Sequence[tuple[DMatrix, str]]
DEFAULT_MAX_BIN = 256


def train(
    client: Engine | None,
    params: Mapping[str, Any],
    dtrain: DMatrix,
    num_boost_round: int = 10,
    *,
    evals: Evals | None = None,
    obj: Callable[..., Any] | None = None,
    custom_metric: Callable[..., Any] | None = None,
    maximize: bool | None = None,
    early_stopping_rounds: int | None = None,
    verbose_eval: bool | int | None = True,
    xgb_model: Model | None = None,
    callbacks: Sequence[xgb.callback.TrainingCallback] | None = None,
    ranks: RankPer = "host",
    max_restarts: int = 3,
    checkpoint_every: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Train a booster on rows in partitions.

    On one host the trees are those that `xgboost.train` grows on the same rows with as many threads. Over several hosts each
    trains on an equal run of the rows, and xgboost joins their histograms: with ``tree_method`` hist, on up to 1 GiB of numbers
    in memory, of bins that all have in common, so that the trees are those of one machine but for the order of sums. The same
    rows on the same number of hosts give the same model, whatever the partitions and wherever they lie.

    When a rank is lost, training goes on from the last checkpoint, on the workers that are left or have joined. The model is
    the one that it would have become; except where rows or columns are drawn at random, since xgboost does not tell how far
    its generator is, or where fewer hosts are left.

    Parameters
    ----------
    client : Engine or None
        None: the engine that holds `dtrain`.
    params : mapping
        As for `xgboost.train`. ``nthread`` is the number of threads on each host; by default all that the workers there have.
    dtrain : DMatrix
    num_boost_round : int
    evals : sequence of (DMatrix, str), optional
    obj, custom_metric : callable, optional
        Called in each rank with the rows of that rank; a metric is averaged over the ranks, weighted by their rows (by the sum
        of the rows' weights where there are weights, by groups where there are groups).
    maximize, early_stopping_rounds, verbose_eval
        As for `xgboost.train`.
    xgb_model : Booster, result of `train`, path or bytes, optional
        A model to go on from. Categories may be in another order than in its training data, unlike for `xgboost.train`.
    callbacks : sequence of xgboost.callback.TrainingCallback, optional
        Sent to each rank and run there.
    ranks : {"host", "worker"}
        One training process for each host, or for each worker.
    max_restarts : int
        How often training goes on after a rank was lost.
    checkpoint_every : int, optional
        Rounds between two checkpoints, which rank 0 sends to this process; 0: none, a restart begins with the first round.
        Default: as many as take about five seconds, and more where a checkpoint takes long.
    progress : bool
        Show a line with the rounds done and the last metrics; needs rich.

    Returns
    -------
    dict
        ``"booster"``: `xgboost.Booster`; ``"history"``: metrics of each round by name of data and metric.

    Raises
    ------
    InputError
        The data cannot be trained on as given; raised before training begins.
    GangError
        A training process was lost more often than that; names it and its worker.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> dtrain = DMatrix(InlineEngine(), X, X[:, 0])
    >>> train(None, {"max_depth": 2}, dtrain, 3)["booster"].num_boosted_rounds()
    3
    """
    evals = list(evals or ())
    engine = engine_of(client, dtrain, evals)
    options = {
        "obj": obj,
        "custom_metric": custom_metric,
        "maximize": maximize,
        "early_stopping_rounds": early_stopping_rounds,
        "verbose_eval": verbose_eval,
        "callbacks": callbacks,
    }
    params = {name: value for name, value in params.items() if value is not None}
    check_trainable(dtrain, ranks)
    check_external_memory(params, dtrain, evals, xgb_model)
    job = _job_of(params, num_boost_round, dtrain, evals, options, quantise=xgb_model is None)
    wanted = max_restarts > 0 and checkpoint_every != 0
    job = replace(job, checkpoint_every=checkpoint_every if wanted else 0)
    model = _model_to_go_on_from(xgb_model)
    if dtrain.schema().columns_of_kind("category") and (known := categories_of(model)):
        job = _counting_as(known, job)
    with progress_line(job.rounds, shown=progress) as line, checkpoints_kept(engine, wanted=wanted, listener=line) as kept:
        training = _Training(engine, job, dtrain, evals, ranks, kept, cloudpickle.dumps(model))
        booster, history = with_restarts(
            engine, training.run, n_places=lambda: n_places(engine.workers(), ranks), max_restarts=max_restarts
        )
    return {"booster": booster, "history": history}


class _Training:
    """The attempts at one training."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        dtrain: DMatrix,
        evals: Evals,
        per: RankPer,
        kept: Checkpoints | None,
        model: bytes,
    ) -> None:
        self.engine = engine
        self.job = job
        self.dtrain = dtrain
        self.evals = evals
        self.per = per
        self.kept = kept
        self.model = model  # to go on from, pickled
        self.team = Team()
        self.same_cuts = job.quantised and can_be_found(dtrain)  # however many ranks there are
        self.ran_with = 0  # ranks of the attempt before, whose quantiles its trees split at; 0: trees of several attempts
        self.checkpoint: Checkpoint | None = None
        self.made_with = 0  # `ran_with` of the attempt that made the checkpoint

    def run(self) -> Result:
        """One attempt, from the last checkpoint."""
        job, plan = self.job, plan_for(self.engine, self.dtrain, self.per, at_most=self.team.size)
        refuse_what_cannot_be_distributed(job.params, len(plan))
        if self.same_cuts and job.cuts is None and len(plan) > 1:
            job = self.job = replace(job, cuts=find_cuts(self.dtrain, job.train))
        job, checkpoint = self._resume_with(job, len(plan))
        begin = checkpoint or (0, self.model)
        threads = self.team.threads_of(plan, lambda rank: threads_for(rank, job.params))
        shares = [share_of(self.dtrain.partitions, rank.pieces) for rank in plan]
        evals = self._eval_shares(len(plan))
        with tracker(len(plan), [rank.host for rank in plan]) as meeting:
            args = []
            for r in range(len(plan)):
                depot = self.kept.depot if self.kept is not None and r == 0 else None
                args.append((r, job, Task(threads[r], meeting, depot), tuple(begin), shares[r], [data[r] for data in evals]))
            return cast(Result, run_gang(self.engine, train_rank, args, plan)[0])

    def _resume_with(self, job: Job, n_ranks: int) -> tuple[Job, Checkpoint | None]:
        """The job and the checkpoint to go on from. Another number of ranks has other shares, and these other quantiles."""
        latest = self.kept.latest if self.kept is not None else None
        if latest is not self.checkpoint:
            self.checkpoint, self.made_with = latest, self.ran_with
        self.ran_with = n_ranks
        if self.checkpoint is None or self.made_with == n_ranks or self.same_cuts:
            return job, self.checkpoint
        if job.train.external_memory:  # there is nothing but quantised pages: the first round is the one to begin with
            return job, None
        # The trees that there are split where a quantised matrix of these shares has no bin.
        self.ran_with = 0
        return replace(job, quantised=False, quantised_evals=False), self.checkpoint

    def _eval_shares(self, n_ranks: int) -> list[list[list[Share]]]:
        """For each matrix to evaluate on, for each rank, the rows that it takes; none of the training matrix, which it has."""
        shares: list[list[list[Share]]] = []
        for data, _ in self.evals:
            if data is self.dtrain:
                shares.append([[] for _ in range(n_ranks)])
            else:
                pieces = share_out(n_ranks, data.schema().rows, data.group_starts())
                shares.append([share_of(data.partitions, mine) for mine in pieces])
        return shares


# --- in the caller -----------------------------------------------------------------------------------------------------


def engine_of(client: Engine | None, dtrain: DMatrix, evals: Evals) -> Engine:
    """The engine that holds all the data; errors say what is no data."""
    for data, name in [(dtrain, "train"), *evals]:
        if not isinstance(data, DMatrix):
            raise TypeError(
                f"expected the {name!r} data as a parml.xgboost.DMatrix, found {type(data).__module__}.{type(data).__name__}; "
                "make it with parml.xgboost.DMatrix(client, X, y)"
            )
    for _, name in evals:
        if not isinstance(name, str) or not name or set(name) & set("-: \t\n"):
            raise InputError(f"expected letters, digits or _ as the name of data to evaluate on, found {name!r}; rename it")
    for data, name in [(dtrain, "train"), *evals]:
        if data.engine is not (client or dtrain.engine):
            raise InputError(
                f"expected the {name!r} data on {client or dtrain.engine!r}, found it on {data.engine!r}; "
                "pass the same client to every DMatrix and to train"
            )
    return dtrain.engine


def check_trainable(dtrain: DMatrix, ranks: RankPer) -> None:
    """Whether there is something to learn; waits for the partitions."""
    if ranks not in ("host", "worker"):
        raise InputError(f"expected ranks to be 'host' or 'worker', found {ranks!r}")
    dtrain.schema()
    if not {"y", "label_lower_bound", "label_upper_bound"} & dtrain.partitions.fields.keys():
        raise InputError("expected labels to train on, found a DMatrix without y; pass DMatrix(client, X, y)")


def plan_for(engine: Engine, dtrain: DMatrix, ranks: RankPer, at_most: int | None = None) -> list[Rank]:
    """Who trains on which rows, of the workers that there are now."""
    data = dtrain.partitions
    wait_for_inputs(engine, data.inputs())
    rows, starts = dtrain.schema().rows, dtrain.group_starts()
    return plan_ranks(engine.workers(), data.holders(), rows, per=ranks, at_most=at_most, starts=starts)


def _job_of(
    params: dict[str, Any], rounds: int, dtrain: DMatrix, evals: Evals, options: dict[str, Any], *, quantise: bool
) -> Job:
    max_bin = int(params.get("max_bin") or DEFAULT_MAX_BIN)
    schema = dtrain.schema()
    specs: list[tuple[str, MatrixSpec | None]] = []
    for data, name in evals:
        if data is dtrain:
            specs.append((name, None))
            continue
        other = data.schema()
        if (other.width, other.names) != (schema.width, schema.names):
            raise InputError(
                f"expected the columns of the training data in the {name!r} data too, found "
                f"{other.names or other.width} instead of {schema.names or schema.width}; select the same ones in that order"
            )
        ours, theirs = (set(data.columns_of_kind("category")) for data in (schema, other))
        if ours != theirs:
            raise InputError(
                f"expected the category columns of the training data in the {name!r} data, found that {sorted(ours ^ theirs)} "
                "are categories in one of them only; convert them with astype"
            )
        for field, what in (("y", "labels"), ("qid", "query groups")):
            if field in dtrain.partitions.fields and field not in data.partitions.fields:
                raise InputError(f"expected {what} in the {name!r} data too, found a DMatrix without {field}; pass {field}=")
        specs.append((name, replace(data.spec(max_bin), max_bin=dtrain.max_bin or max_bin)))
    quantised = dtrain.quantised or (_grows_by_histogram(params) and quantise)
    # A category that training has not seen has no bin: quantised it would become another category.
    has_categories = bool(schema.columns_of_kind("category")) or "c" in (dtrain.feature_types or ())
    return Job(params, rounds, dtrain.spec(max_bin), tuple(specs), quantised, quantised and not has_categories, options)


def check_external_memory(params: Mapping[str, Any], dtrain: DMatrix, evals: Evals, xgb_model: Model | None) -> None:
    """A NotSupported for what cannot be trained from quantised pages on disk."""
    outside = [name for data, name in [(dtrain, "train"), *evals] if data.external_memory]
    if not outside:
        return
    where = f"with external memory (the {outside[0]!r} data)"
    device = str(params.get("device", "cpu"))
    if not _grows_by_histogram(params) or device != "cpu":
        asked = {name: params[name] for name in (*_HISTOGRAM, "device") if name in params}
        raise NotSupported(
            f"expected trees by histogram on the processor {where}, found {asked}; take tree_method hist and a booster of "
            "trees, or leave external_memory out"
        )
    if xgb_model is not None:
        raise NotSupported(
            f"expected no model to go on from {where}, found xgb_model: its trees split between the quantiles, where the pages "
            "know no values; leave external_memory or xgb_model out"
        )
    categories = dtrain.schema().columns_of_kind("category") or "c" in (dtrain.feature_types or ())
    if categories and any(data.external_memory for data, _ in evals if data is not dtrain):
        raise NotSupported(
            "expected numbers in data to evaluate on with external memory, found categories, some of which training may not "
            "have seen; leave external_memory out for the data to evaluate on"
        )


_HISTOGRAM = ("booster", "tree_method", "updater", "process_type")


def _counting_as(known: CategoriesByColumn, job: Job) -> Job:
    """The same job on rows whose categories are counted in the order of a model: xgboost takes them as they are."""
    evals = [(name, spec and replace(spec, categories=known, more_categories=True)) for name, spec in job.evals]
    return replace(job, train=replace(job.train, categories=known), evals=tuple(evals))


def _grows_by_histogram(params: Mapping[str, Any]) -> bool:
    """Whether trees come from a histogram, for which a quantised matrix serves as well as the values themselves."""
    return (
        params.get("booster", "gbtree") in ("gbtree", "dart")
        and params.get("tree_method", "auto") in ("auto", "hist")
        and not params.get("updater")
        and params.get("process_type", "default") == "default"
    )


def refuse_what_cannot_be_distributed(params: Mapping[str, Any], n_ranks: int) -> None:
    """A NotSupported for what xgboost has for one machine only, and a warning of what it does otherwise over several."""
    if n_ranks == 1:
        return
    if params.get("objective") in _MEDIANS:
        warnings.warn(
            f"objective {params['objective']!r} over {n_ranks} ranks: xgboost takes as the value of a leaf the mean of the "
            "ranks' quantiles; shuffle the rows, or use one host, for the model of one machine",
            stacklevel=4,
        )
    metrics = params.get("eval_metric", [])
    given = [(name, params.get(name)) for name in _ONE_MACHINE]
    given += [("eval_metric", metric) for metric in ([metrics] if isinstance(metrics, str) else metrics)]
    for name, value in given:
        if str(value).startswith(_ONE_MACHINE[name]):
            raise NotSupported(
                f"expected a {name} that can be trained over {n_ranks} ranks, found {value!r}, which xgboost has for one "
                "machine only; use another (hist for trees), or bring the data to one host"
            )


_MEDIANS = ("reg:absoluteerror", "reg:quantileerror")
_ONE_MACHINE: dict[str, str | tuple[str, ...]] = {
    "booster": "gblinear",
    "tree_method": "exact",
    "objective": "survival:cox",
    "eval_metric": ("ams", "cox-nloglik"),
}


def threads_for(rank: Rank, params: Mapping[str, Any]) -> int:
    """The threads that the user wants, or all that the workers of the rank have."""
    asked = threads_asked(params)
    if asked > rank.threads:
        warnings.warn(
            f"nthread={asked} is more than the {rank.threads} threads that the workers on {rank.host} have", stacklevel=3
        )
    return asked if asked > 0 else rank.threads


def _model_to_go_on_from(model: Model | None) -> xgb.Booster | bytearray | None:
    """What any process can go on from: a path may not exist elsewhere."""
    if isinstance(model, Mapping):
        booster: xgb.Booster = model["booster"]
        return booster
    if isinstance(model, str | os.PathLike):
        return bytearray(Path(model).read_bytes())
    return bytearray(model) if isinstance(model, bytes) else model

"""Train one model on the partitions of a Dataset, in one process for each host that holds some."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightgbm as lgb

from parml.boosting.attempts import Team, checkpoints_kept
from parml.boosting.checkpoints import Checkpoints
from parml.boosting.gang import run_gang, wait_for_inputs, with_restarts
from parml.boosting.progress import progress_line
from parml.boosting.ranks import Rank, RankPer, n_places, plan_ranks
from parml.boosting.shares import Share, share_of
from parml.lightgbm import params as parameters
from parml.lightgbm.bins import find_common
from parml.lightgbm.data import Dataset
from parml.lightgbm.network import meeting
from parml.lightgbm.rank import History, Job, Result, Task, train_rank
from parml.schema import Schema
from parml_core.engine.base import Engine
from parml_core.errors import InputError

Model = lgb.Booster | Mapping[str, Any] | str | os.PathLike[str]


def train(
    client: Engine | None,
    params: Mapping[str, Any],
    train_set: Dataset,
    num_boost_round: int = 100,
    *,
    valid_sets: Sequence[Dataset] | Dataset | None = None,
    valid_names: Sequence[str] | str | None = None,
    feval: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    init_model: Model | None = None,
    callbacks: Sequence[Callable[[Any], None]] | None = None,
    ranks: RankPer = "host",
    max_restarts: int = 3,
    checkpoint_every: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Train a booster on rows in partitions.

    On one host the model is the one that `lightgbm.train` makes of the same rows. Over several hosts each trains on an equal
    run of the rows with the bins and the initial score of all rows, and LightGBM joins their histograms. Of rows without
    weights and an objective like L2 the predictions are then those of one machine. With other objectives LightGBM counts the
    rows of a leaf by their Hessians there, so ``min_data_in_leaf`` holds approximately; random choices (bagging, extra
    trees, columns by node) are others.

    When a rank is lost, training goes on from the last checkpoint, on the workers that are left or have joined. The model is
    the one that it would have become; except where something is drawn at random (rows, columns, thresholds), since LightGBM
    does not tell how far its generators are, or where fewer hosts are left. What cannot go on from its trees alone (dart,
    forests, linear leaves, penalties for features that are used first) begins again with the first round.

    Parameters
    ----------
    client : Engine or None
        None: the engine that holds `train_set`.
    params : mapping
        As for `lightgbm.train`. ``num_threads`` is the number of threads on each host; by default all that the workers
        there have. ``tree_learner`` may be ``"data"`` (default) or ``"voting"`` over several hosts.
    train_set : Dataset
    num_boost_round : int
    valid_sets : sequence of Dataset, optional
        Over several hosts the first evaluates all of them, whole; `train_set` itself is evaluated by all, and its metrics
        are means over the hosts by weight.
    valid_names : sequence of str, optional
    feval : callable or sequence of callable, optional
    init_model : Booster, result of `train` or path, optional
        A model to go on from.
    callbacks : sequence of callable, optional
        Sent to each rank and run there. The dict of a ``record_evaluation`` is filled in the caller as well.
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
        ``"booster"``: `lightgbm.Booster`; ``"history"``: metrics of each round by name of data and metric.

    Raises
    ------
    InputError, NotSupported
        The data cannot be trained on as given; raised before training begins.
    GangError
        A training process was lost more often than that; names it and its worker.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> X = np.arange(200.0).reshape(100, 2)
    >>> train_set = Dataset(InlineEngine(), X, X[:, 0])
    >>> train(None, {"verbosity": -1}, train_set, 3)["booster"].num_trees()
    3
    """
    valid = _named([valid_sets] if isinstance(valid_sets, Dataset) else list(valid_sets or ()), valid_names, train_set)
    engine = engine_of(client, train_set, valid)
    parameters.check(params)
    check_trainable(train_set, ranks)
    job = _job_of(dict(params), num_boost_round, train_set, valid)
    wanted = max_restarts > 0 and checkpoint_every != 0 and parameters.resumable(train_set.params | job.params)
    job = replace(
        job,
        callbacks=tuple(callbacks or ()),
        feval=feval,
        init_model=model_to_go_on_from(init_model),
        checkpoint_every=checkpoint_every if wanted else 0,
    )
    with progress_line(job.rounds, shown=progress) as line, checkpoints_kept(engine, wanted=wanted, listener=line) as kept:
        evaluated = [data for _, data in valid if data is not train_set]
        training = _Training(engine, job, train_set, evaluated, ranks, kept)
        booster, history = with_restarts(
            engine, training.run, n_places=lambda: n_places(engine.workers(), ranks), max_restarts=max_restarts
        )
    fill_records(callbacks or (), history)
    return {"booster": booster, "history": history}


class _Training:
    """The attempts at one training."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        train_set: Dataset,
        evaluated: Sequence[Dataset],
        per: RankPer,
        kept: Checkpoints | None,
    ) -> None:
        self.engine = engine
        self.job = job
        self.train_set = train_set
        self.evaluated = evaluated
        self.per = per
        self.kept = kept
        self.team = Team()

    def run(self) -> Result:
        """One attempt, from the last checkpoint."""
        job, params = self.job, self.train_set.params | self.job.params
        plan = plan_for(self.engine, self.train_set, self.per, at_most=self.team.size)
        parameters.check_for_ranks(params, len(plan))
        begin = (self.kept.latest if self.kept is not None else None) or (0, b"")
        threads = self.team.threads_of(plan, lambda rank: threads_for(rank, params))
        common = None
        if len(plan) > 1:
            own_start = job.init_model is not None or "init_score" in self.train_set.partitions.fields
            common = find_common(self.train_set, params, own_start=own_start)
        of_first = [all_rows(data) for data in self.evaluated]
        with meeting([rank.host for rank in plan]) as place:
            args = []
            for r, rank in enumerate(plan):
                task = Task(threads[r], place, self.kept.depot if self.kept is not None and r == 0 else None)
                mine = share_of(self.train_set.partitions, rank.pieces)
                args.append((r, job, task, tuple(begin), common, mine, of_first if r == 0 else None))
            return cast(Result, run_gang(self.engine, train_rank, args, plan)[0])


# --- in the caller -----------------------------------------------------------------------------------------------------


def _named(valid: Sequence[Dataset], names: Sequence[str] | str | None, train_set: Dataset) -> list[tuple[str, Dataset]]:
    """Data to evaluate on with the names that LightGBM gives it."""
    given = [names] if isinstance(names, str) else list(names or ())
    if given and len(given) < len(valid):
        raise InputError(f"expected a name for each of {len(valid)} valid_sets, found {given}")
    named = [(given[i] if given else "training" if data is train_set else f"valid_{i}", data) for i, data in enumerate(valid)]
    if len({name for name, _ in named}) < len(named):
        raise InputError(f"expected different names for valid_sets, found {[name for name, _ in named]}; pass valid_names")
    return named


def engine_of(client: Engine | None, train_set: Dataset, valid: Sequence[tuple[str, Dataset]]) -> Engine:
    """The engine that holds all the data; errors say what is no data."""
    for name, data in [("train", train_set), *valid]:
        if not isinstance(data, Dataset):
            raise TypeError(
                f"expected the {name!r} data as a parml.lightgbm.Dataset, found {type(data).__module__}."
                f"{type(data).__name__}; make it with parml.lightgbm.Dataset(client, X, y)"
            )
    for name, data in [("train", train_set), *valid]:
        if data.engine is not (client or train_set.engine):
            raise InputError(
                f"expected the {name!r} data on {client or train_set.engine!r}, found it on {data.engine!r}; "
                "pass the same client to every Dataset and to train"
            )
    return train_set.engine


def check_trainable(train_set: Dataset, ranks: RankPer) -> None:
    """Whether there is something to learn; waits for the partitions."""
    if ranks not in ("host", "worker"):
        raise InputError(f"expected ranks to be 'host' or 'worker', found {ranks!r}")
    train_set.schema()
    if "y" not in train_set.partitions.fields:
        raise InputError("expected labels to train on, found a Dataset without y; pass Dataset(client, X, y)")


def plan_for(engine: Engine, train_set: Dataset, ranks: RankPer, at_most: int | None = None) -> list[Rank]:
    """Who trains on which rows, of the workers that there are now."""
    futures = train_set.partitions.fields["X"]
    wait_for_inputs(engine, futures)
    rows, starts = train_set.schema().rows, train_set.group_starts()
    return plan_ranks(engine.workers(), engine.locate(futures), rows, per=ranks, at_most=at_most, starts=starts)


def _job_of(params: dict[str, Any], num_boost_round: int, train_set: Dataset, valid: Sequence[tuple[str, Dataset]]) -> Job:
    schema = train_set.schema()
    for name, data in valid:
        _check_fits(name, data.schema(), schema)
        for field in ("y", "group"):
            if field in train_set.partitions.fields and field not in data.partitions.fields:
                raise InputError(f"expected {field} in the {name!r} data as in the training data, found a Dataset without it")
    described = tuple((name, None if data is train_set else data.columns(), data.params) for name, data in valid)
    return Job(params, train_set.params, rounds_of(params, num_boost_round), train_set.columns(), described)


def rounds_of(params: Mapping[str, Any], num_boost_round: int) -> int:
    """How many rounds; what is in the parameters counts."""
    rounds = int(parameters.value_of(params, "num_iterations", num_boost_round))
    if rounds <= 0:
        raise InputError(f"expected at least one boosting round, found {rounds}; pass num_boost_round")
    return rounds


def _check_fits(name: str, other: Schema, schema: Schema) -> None:
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


def all_rows(data: Dataset) -> list[Share]:
    """For a rank that takes them all."""
    rows = data.schema().rows
    return share_of(data.partitions, [(i, 0, count) for i, count in enumerate(rows) if count])


def threads_for(rank: Rank, params: Mapping[str, Any]) -> int:
    """The threads that the user wants, or all that the workers of the rank have."""
    asked = int(parameters.value_of(params, "num_threads", 0))
    if asked > rank.threads:
        warnings.warn(
            f"num_threads={asked} is more than the {rank.threads} threads that the workers on {rank.host} have", stacklevel=3
        )
    return asked if asked > 0 else rank.threads


def model_to_go_on_from(model: Model | None) -> lgb.Booster | None:
    """What any process can go on from: a path may not exist elsewhere."""
    if isinstance(model, Mapping):
        booster: lgb.Booster = model["booster"]
        return booster
    return lgb.Booster(model_file=Path(model)) if isinstance(model, str | os.PathLike) else model


def fill_records(callbacks: Sequence[Callable[[Any], None]], history: History) -> None:
    """What a record_evaluation has recorded, it has in a rank; the user looks at the dict here."""
    for callback in callbacks:
        record = getattr(callback, "eval_result", None)
        if type(callback).__module__ == "lightgbm.callback" and isinstance(record, dict):
            record.clear()
            record.update({data: {metric: list(values) for metric, values in of.items()} for data, of in history.items()})

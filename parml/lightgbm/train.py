"""Train one model on the partitions of a Dataset, in one process for each host that holds some."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightgbm as lgb

from parml.boosting.gang import run_gang, with_restarts
from parml.boosting.ranks import Rank, RankPer, places_of, plan_ranks
from parml.boosting.shares import Batch, Share, batches_of, share_of
from parml.lightgbm import params as parameters
from parml.lightgbm.bins import Common, find_common
from parml.lightgbm.blocks import build
from parml.lightgbm.data import Columns, Dataset
from parml.lightgbm.evaluation import SharedMetrics, StartFrom, on_every_rank
from parml.lightgbm.network import Meeting, joined, meeting
from parml.schema import Schema
from parml_core.engine.base import Engine
from parml_core.errors import InputError

Model = lgb.Booster | Mapping[str, Any] | str | os.PathLike[str]
History = dict[str, dict[str, list[float]]]
Result = tuple[lgb.Booster, History]


@dataclass(frozen=True, slots=True)
class _Job:
    """What all ranks are told alike. Data to evaluate on is None where it is the training data itself."""

    params: dict[str, Any]
    data_params: dict[str, Any]
    train: Columns
    valid: tuple[tuple[str, Columns | None, dict[str, Any]], ...]
    options: dict[str, Any]
    callbacks: tuple[Callable[[Any], None], ...]


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
) -> dict[str, Any]:
    """
    Train a booster on rows in partitions.

    On one host the model is the one that `lightgbm.train` makes of the same rows. Over several hosts each trains on an equal
    run of the rows with the bins and the initial score of all rows, and LightGBM joins their histograms. Of rows without
    weights and an objective like L2 the predictions are then those of one machine. With other objectives LightGBM counts the
    rows of a leaf by their Hessians there, so ``min_data_in_leaf`` holds approximately; random choices (bagging, extra
    trees, columns by node) are others.

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
        How often training begins anew after a rank was lost.

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
    engine = _engine_of(client, train_set, valid)
    parameters.check(params)
    _check_trainable(train_set, ranks)
    options = {"num_boost_round": num_boost_round, "feval": feval, "init_model": _model_to_go_on_from(init_model)}
    job = _job_of(dict(params), train_set, valid, options, callbacks or ())

    def run() -> Result:
        return _run(engine, job, train_set, [data for _, data in valid if data is not train_set], ranks)

    booster, history = with_restarts(
        engine, run, n_places=lambda: len(places_of(engine.workers(), ranks)), max_restarts=max_restarts
    )
    _fill_records(callbacks or (), history)
    return {"booster": booster, "history": history}


def _run(engine: Engine, job: _Job, train_set: Dataset, evaluated: Sequence[Dataset], ranks: RankPer) -> Result:
    """One attempt at a training."""
    plan = _plan(engine, train_set, ranks)
    params = job.data_params | job.params
    parameters.check_for_ranks(params, len(plan))
    common = None
    if len(plan) > 1:
        own_start = job.options["init_model"] is not None or "init_score" in train_set.partitions.fields
        common = find_common(train_set, params, own_start=own_start)
    of_first = [_all_rows(data) for data in evaluated]
    with meeting([rank.host for rank in plan]) as place:
        args = []
        for r, rank in enumerate(plan):
            mine = share_of(train_set.partitions, rank.pieces)
            args.append((r, job, place, common, _threads_for(rank, params), mine, of_first if r == 0 else None))
        return cast(Result, run_gang(engine, _train_rank, args, plan)[0])


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


def _engine_of(client: Engine | None, train_set: Dataset, valid: Sequence[tuple[str, Dataset]]) -> Engine:
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


def _check_trainable(train_set: Dataset, ranks: RankPer) -> None:
    """Whether there is something to learn; waits for the partitions."""
    if ranks not in ("host", "worker"):
        raise InputError(f"expected ranks to be 'host' or 'worker', found {ranks!r}")
    train_set.schema()
    if "y" not in train_set.partitions.fields:
        raise InputError("expected labels to train on, found a Dataset without y; pass Dataset(client, X, y)")


def _plan(engine: Engine, train_set: Dataset, ranks: RankPer) -> list[Rank]:
    """Who trains on which rows, of the workers that there are now."""
    futures = train_set.partitions.fields["X"]
    engine.wait(futures)
    rows, starts = train_set.schema().rows, train_set.group_starts()
    return plan_ranks(engine.workers(), engine.locate(futures), rows, per=ranks, starts=starts)


def _job_of(
    params: dict[str, Any],
    train_set: Dataset,
    valid: Sequence[tuple[str, Dataset]],
    options: dict[str, Any],
    callbacks: Sequence[Callable[[Any], None]],
) -> _Job:
    schema = train_set.schema()
    for name, data in valid:
        _check_fits(name, data.schema(), schema)
        for field in ("y", "group"):
            if field in train_set.partitions.fields and field not in data.partitions.fields:
                raise InputError(f"expected {field} in the {name!r} data as in the training data, found a Dataset without it")
    described = tuple((name, None if data is train_set else data.columns(), data.params) for name, data in valid)
    return _Job(params, train_set.params, train_set.columns(), described, options, tuple(callbacks))


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


def _all_rows(data: Dataset) -> list[Share]:
    rows = data.schema().rows
    return share_of(data.partitions, [(i, 0, count) for i, count in enumerate(rows) if count])


def _threads_for(rank: Rank, params: Mapping[str, Any]) -> int:
    asked = int(parameters.value_of(params, "num_threads", 0))
    if asked > rank.threads:
        warnings.warn(
            f"num_threads={asked} is more than the {rank.threads} threads that the workers on {rank.host} have", stacklevel=3
        )
    return asked if asked > 0 else rank.threads


def _model_to_go_on_from(model: Model | None) -> lgb.Booster | None:
    """What any process can go on from: a path may not exist elsewhere."""
    if isinstance(model, Mapping):
        booster: lgb.Booster = model["booster"]
        return booster
    return lgb.Booster(model_file=Path(model)) if isinstance(model, str | os.PathLike) else model


def _fill_records(callbacks: Sequence[Callable[[Any], None]], history: History) -> None:
    """What a record_evaluation has recorded, it has in a rank; the user looks at the dict here."""
    for callback in callbacks:
        record = getattr(callback, "eval_result", None)
        if type(callback).__module__ == "lightgbm.callback" and isinstance(record, dict):
            record.clear()
            record.update({data: {metric: list(values) for metric, values in of.items()} for data, of in history.items()})


# --- in each rank ------------------------------------------------------------------------------------------------------


def _train_rank(
    rank: int,
    job: _Job,
    place: Meeting | None,
    common: Common | None,
    threads: int,
    shares: list[Share],
    evaluated: list[list[Share]] | None,
) -> Result | None:
    """Build the Datasets of this rank, letting go of each partition when it is in one, and train. Rank 0 has the result."""
    params = parameters.without(job.params, "num_threads") | {"num_threads": threads}
    if place is not None:
        several = {"tree_learner": parameters.learner(job.params), "num_machines": len(place.hosts)}
        params = parameters.without(params, "tree_learner", "time_out") | several
    data, initial = _training_data(job, common, params, batches_of(shares), shares)
    valid, names = _valid_data(job, data, evaluated, common, initial)
    minutes = parameters.minutes(job.params)
    history: History = {}
    with joined(rank, place, minutes) as member:
        callbacks = on_every_rank(job.callbacks, member)
        if member is not None and (job.valid or len(callbacks) > 0):
            train_name = next((name for name, columns, _ in job.valid if columns is None), None)
            callbacks.append(SharedMetrics(member, data, train_name))
        if any(initial):
            callbacks.append(StartFrom(initial))
        callbacks.append(lgb.record_evaluation(history))
        booster = lgb.train(params, data, valid_sets=valid, valid_names=names, callbacks=callbacks, **job.options)
    if rank != 0:
        return None
    booster.params = {**job.params}  # not where and with how many threads it was trained
    return booster, {name: {metric: list(values) for metric, values in of.items()} for name, of in history.items()}


def _training_data(
    job: _Job, common: Common | None, params: dict[str, Any], batches: list[Batch], shares: list[Share]
) -> tuple[lgb.Dataset, tuple[float, ...]]:
    """The rows of this rank, binned, and the score that training starts from."""
    all_params = job.data_params | params
    if callable(parameters.value_of(all_params, "objective")):
        all_params = parameters.without(all_params, "objective") | {"objective": "none"}
    going_on = job.options["init_model"] is not None
    if common is None:
        data = build(batches, job.train, all_params, joined=going_on)
    else:
        data = build(
            batches,
            job.train,
            all_params,
            reference=common.reference(all_params),
            categories=common.categories,
            initial=common.initial,
            joined=going_on,
        )
    batches.clear()
    shares.clear()
    if not going_on:  # else LightGBM first computes what the other model says of the rows
        data.construct()
    return data, () if common is None else common.initial


def _valid_data(
    job: _Job, data: lgb.Dataset, evaluated: list[list[Share]] | None, common: Common | None, initial: tuple[float, ...]
) -> tuple[list[lgb.Dataset], list[str]]:
    """What this rank evaluates, in the order that the user gave."""
    valid, names = [], []
    theirs = iter(evaluated or ())
    for name, columns, params in job.valid:
        if columns is None:
            valid.append(data)
        elif evaluated is None:
            continue
        else:
            shares = next(theirs)
            joined = job.options["init_model"] is not None
            known = data.pandas_categorical
            batches = batches_of(shares)
            valid.append(build(batches, columns, params, reference=data, categories=known, initial=initial, joined=joined))
            shares.clear()
        names.append(name)
    return valid, names


_train_rank.__parml_preload__ = ("lightgbm",)  # type: ignore[attr-defined]  # what a rank's process should have imported

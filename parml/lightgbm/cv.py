"""Cross-validation in lock-step, as in `lightgbm.cv`: all folds boost round by round, dealt out to the ranks of one gang."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

import lightgbm as lgb
import numpy as np
from lightgbm.callback import CallbackEnv, EarlyStopException
from lightgbm.engine import _agg_cv_result

from parml.boosting.exchange import Member
from parml.boosting.gang import run_gang, with_restarts
from parml.boosting.ranks import RankPer, n_places
from parml.boosting.shares import Share, batches_of
from parml.lightgbm import params as parameters
from parml.lightgbm.blocks import array_of, build
from parml.lightgbm.data import Dataset
from parml.lightgbm.evaluation import make_result, on_every_rank
from parml.lightgbm.network import Meeting, meeting, met
from parml.lightgbm.rank import History, Job, Task, early_stopping, params_of, predictor_of
from parml.lightgbm.train import (
    Model,
    all_rows,
    check_trainable,
    engine_of,
    fill_records,
    model_to_go_on_from,
    plan_for,
    rounds_of,
    threads_for,
)
from parml.tables import concatenate
from parml_core.engine.base import Engine
from parml_core.errors import InputError

Fold = tuple[Any, Any]
"""Sorted numbers of the rows to train on and of those to evaluate on."""

Results = tuple[dict[str, list[float]], History, list[lgb.Booster], int]
"""Of one rank: the results by round, the same as a record_evaluation has it, the models of its folds, the best iteration."""


def cv(
    client: Engine | None,
    params: Mapping[str, Any],
    train_set: Dataset,
    num_boost_round: int = 100,
    *,
    folds: Any = None,
    nfold: int = 5,
    stratified: bool = True,
    shuffle: bool = True,
    metrics: str | Sequence[str] | None = None,
    feval: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    init_model: Model | None = None,
    fpreproc: Callable[..., Any] | None = None,
    seed: int = 0,
    callbacks: Sequence[Callable[[Any], None]] | None = None,
    eval_train_metric: bool = False,
    return_cvbooster: bool = False,
    ranks: RankPer = "host",
    max_restarts: int = 3,
) -> dict[str, Any]:
    """
    Cross-validate.

    The folds are those of `lightgbm.cv` on the same rows, and so are the results. Each rank bins all rows and trains its share
    of the folds on them, so the rows have to fit into the memory of each host.

    Parameters
    ----------
    client : Engine or None
        None: the engine that holds `train_set`.
    params, num_boost_round, folds, nfold, stratified, shuffle, metrics, feval, seed, eval_train_metric, return_cvbooster
        As for `lightgbm.cv`.
    train_set : Dataset
    init_model : Booster, result of `train` or path, optional
        A model to go on from.
    fpreproc : callable, optional
        Called in the rank that trains a fold, with its `lightgbm.Dataset` objects.
    callbacks : sequence of callable, optional
        Sent to each rank and run there, on the models of the folds of that rank and the results of all. The dict of a
        ``record_evaluation`` is filled in the caller as well.
    ranks, max_restarts
        As for `train`; a restart begins with the first round.

    Returns
    -------
    dict
        For each round mean and standard deviation of each metric over the folds; ``"cvbooster"``: `lightgbm.CVBooster`, where
        asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> X = np.arange(400.0).reshape(200, 2)
    >>> train_set = Dataset(InlineEngine(), X, X[:, 0])
    >>> sorted(cv(None, {"verbosity": -1}, train_set, 3, nfold=2, stratified=False))
    ['valid l2-mean', 'valid l2-stdv']
    """
    engine = engine_of(client, train_set, ())
    parameters.check(params)
    check_trainable(train_set, ranks)
    given = dict(params)
    if metrics is not None:
        given = parameters.without(given, "metric") | {"metric": metrics}
    job = Job(
        given,
        train_set.params,
        rounds_of(given, num_boost_round),
        train_set.columns(),
        (),
        callbacks=tuple(callbacks or ()),
        feval=feval,
        init_model=model_to_go_on_from(init_model),
    )
    numbers = _folds_of(train_set, given, folds, nfold, stratified, shuffle, seed)
    threads: list[int] = []

    def run() -> list[Results]:
        plan = plan_for(engine, train_set, ranks, at_most=len(numbers))
        if not threads:  # as many in each rank and each attempt, so that all folds round alike
            threads.append(min(threads_for(rank, train_set.params | given) for rank in plan))
        with meeting([rank.host for rank in plan]) as place:
            args = []
            for r in range(len(plan)):
                mine = dict(list(enumerate(numbers))[r :: len(plan)])
                args.append((r, job, threads[0], place, mine, all_rows(train_set), fpreproc, eval_train_metric))
            return cast(list[Results], run_gang(engine, cv_rank, args, plan))

    told = with_restarts(engine, run, n_places=lambda: n_places(engine.workers(), ranks), max_restarts=max_restarts)
    results, history, _, best_iteration = told[0]
    fill_records(callbacks or (), history)
    if not return_cvbooster:
        return results
    together = lgb.CVBooster()
    together.best_iteration = best_iteration
    together.boosters = [told[k % len(told)][2][k // len(told)] for k in range(len(numbers))]
    return {**results, "cvbooster": together}


def _folds_of(
    train_set: Dataset, params: Mapping[str, Any], folds: Any, nfold: int, stratified: bool, shuffle: bool, seed: int
) -> list[Fold]:
    """As `lightgbm.cv` makes them."""
    n = sum(train_set.schema().rows)
    starts = train_set.group_starts()
    groups = np.zeros(n, np.int32) if starts is None else np.repeat(np.arange(len(starts)), np.diff([*starts, n]))
    if folds is None and not 2 <= nfold <= n:
        raise InputError(f"expected between 2 and {n} folds, as many as there are rows, found nfold={nfold}")
    if folds is not None and not hasattr(folds, "split"):
        pairs = list(folds)
    elif folds is not None:
        pairs = list(folds.split(X=np.empty(n), y=_labels(train_set), groups=groups))
    elif parameters.is_ranking(params):
        from sklearn.model_selection import GroupKFold

        if starts is None:
            raise InputError("expected query groups for a ranking objective, found a Dataset without group; pass group=")
        pairs = list(GroupKFold(n_splits=nfold).split(X=np.empty(n), groups=groups))
    elif stratified:
        from sklearn.model_selection import StratifiedKFold

        splitter = StratifiedKFold(n_splits=nfold, shuffle=shuffle, random_state=seed)
        pairs = list(splitter.split(X=np.empty(n), y=_labels(train_set)))
    else:
        order = np.random.RandomState(seed).permutation(n) if shuffle else np.arange(n)
        tests = np.array_split(order, nfold)
        pairs = [(np.concatenate([tests[i] for i in range(nfold) if i != k]), tests[k]) for k in range(nfold)]
    found = [(np.sort(np.asarray(train)), np.sort(np.asarray(test))) for train, test in pairs]
    for k, rows in enumerate(rows for fold in found for rows in fold):
        if not len(rows) or rows[0] < 0 or rows[-1] >= n or rows.dtype.kind not in "iu":
            raise InputError(f"expected numbers of rows from 0 to {n - 1} in each fold, found {rows} in fold {k // 2}")
    if not found:
        raise InputError("expected at least one fold, found none; pass folds that are not exhausted")
    return found


def _labels(train_set: Dataset) -> Any:
    """As LightGBM keeps them."""
    labels = train_set.engine.gather(train_set.partitions.fields["y"])
    return concatenate([array_of(part).ravel() for part in labels]).astype(np.float32)


# --- in each rank ------------------------------------------------------------------------------------------------------


def cv_rank(
    rank: int,
    job: Job,
    threads: int,
    place: Meeting | None,
    folds: dict[int, Fold],
    shares: list[Share],
    fpreproc: Callable[..., Any] | None,
    eval_train_metric: bool,
) -> Results:
    """The loop of `lightgbm.cv` on some of the folds, with the results of all."""
    params, objective = params_of(job, Task(threads))
    batches = batches_of(shares)
    data = build(batches, job.train, job.data_params | params, joined=job.init_model is not None)
    batches.clear()
    shares.clear()
    data._set_predictor(predictor_of(job.init_model, params))
    data.construct()
    own = lgb.CVBooster()
    own.boosters = [_booster(data, fold, params, fpreproc, eval_train_metric) for fold in folds.values()]
    with met(rank, place) as member:
        results, history = _boost(job, params, objective, own, list(folds), member)
    for booster in own.boosters:
        booster.free_dataset()
        booster.params = {**job.params}  # not with how many threads it was trained
    return results, history, own.boosters, own.best_iteration


cv_rank.__parml_preload__ = ("parml.lightgbm",)  # type: ignore[attr-defined]


def _booster(
    data: lgb.Dataset, fold: Fold, params: dict[str, Any], fpreproc: Callable[..., Any] | None, eval_train_metric: bool
) -> lgb.Booster:
    train_set, test_set = (data.subset(rows.tolist()) for rows in fold)
    if fpreproc is not None:
        train_set, test_set, params = fpreproc(train_set, test_set, params.copy())
    booster = lgb.Booster(params, train_set)
    if eval_train_metric:
        booster.add_valid(train_set, "train")
    booster.add_valid(test_set, "valid")
    return booster


def _boost(
    job: Job,
    params: dict[str, Any],
    objective: Callable[..., Any] | None,
    own: lgb.CVBooster,
    numbers: list[int],
    member: Member | None,
) -> tuple[dict[str, list[float]], History]:
    history: History = {}
    theirs = on_every_rank([*job.callbacks, *early_stopping(params)], member)
    callbacks = sorted(dict.fromkeys([*theirs, lgb.record_evaluation(history)]), key=attrgetter("order"))
    before = [callback for callback in callbacks if getattr(callback, "before_iteration", False)]
    after = [callback for callback in callbacks if not getattr(callback, "before_iteration", False)]
    results: dict[str, list[float]] = {}
    for i in range(job.rounds):
        for callback in before:
            callback(CallbackEnv(own, params, i, 0, job.rounds, None))
        own.update(fobj=objective)  # type: ignore[call-arg]
        scores = _agg_cv_result(_of_all(own.eval_valid(job.feval), numbers, member))  # type: ignore[call-arg]
        for data, metric, mean, _, deviation in cast(list[Any], scores):
            name = metric if data == "cv_agg" else f"{data} {metric}"  # as before LightGBM 4.7
            results.setdefault(f"{name}-mean", []).append(float(mean))
            results.setdefault(f"{name}-stdv", []).append(float(deviation))
        try:
            for callback in after:
                callback(CallbackEnv(own, params, i, 0, job.rounds, scores))
        except EarlyStopException as stop:
            own.best_iteration = stop.best_iteration + 1
            for booster in own.boosters:
                booster.best_iteration = own.best_iteration
            results = {name: values[: own.best_iteration] for name, values in results.items()}
            break
    return results, {name: {metric: list(values) for metric, values in of.items()} for name, of in history.items()}


def _of_all(mine: list[list[Any]], numbers: list[int], member: Member | None) -> list[list[Any]]:
    """The results of all folds, in their order."""
    if member is None:
        return mine
    plain = [[[str(r[0]), str(r[1]), float(r[2]), bool(r[3])] for r in of_fold] for of_fold in mine]
    told = member.allgather(list(zip(numbers, plain, strict=True)))
    return [[make_result(*result) for result in of_fold] for _, of_fold in sorted(pair for pairs in told for pair in pairs)]

"""Cross-validation in lock-step, as in `xgboost.cv`: all folds boost round by round, on the ranks of one gang."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import xgboost as xgb
from xgboost.training import CVPack, _PackedBooster

from parml.boosting.gang import run_gang, with_restarts
from parml.boosting.ranks import Rank, RankPer, n_places
from parml.boosting.runs import sizes_of
from parml.boosting.shares import Share, batches_of, share_of
from parml.tables import concatenate
from parml.xgboost.collective import joined, tracker
from parml.xgboost.data import DMatrix
from parml.xgboost.metrics import Callbacks
from parml.xgboost.rank import Job, Task, callbacks_of
from parml.xgboost.train import (
    check_trainable,
    engine_of,
    plan_for,
    refuse_what_cannot_be_distributed,
    threads_for,
)
from parml_core.engine.base import Engine
from parml_core.errors import InputError

Fold = tuple[Any, Any]
"""Numbers of rows, or of query groups, to train on and to evaluate on, in the order in which xgboost gets them."""


def cv(
    client: Engine | None,
    params: Mapping[str, Any],
    dtrain: DMatrix,
    num_boost_round: int = 10,
    *,
    nfold: int = 3,
    stratified: bool = False,
    folds: Any = None,
    metrics: str | Sequence[str] = (),
    obj: Callable[..., Any] | None = None,
    maximize: bool | None = None,
    early_stopping_rounds: int | None = None,
    fpreproc: Callable[..., Any] | None = None,
    as_pandas: bool = True,
    verbose_eval: bool | int | None = None,
    show_stdv: bool = True,
    seed: int = 0,
    callbacks: Sequence[xgb.callback.TrainingCallback] | None = None,
    shuffle: bool = True,
    custom_metric: Callable[..., Any] | None = None,
    ranks: RankPer = "host",
    max_restarts: int = 3,
) -> Any:
    """
    Cross-validate.

    The folds are those of `xgboost.cv` on the same rows, and on one host so are the results. Each rank holds its rows once for
    each fold. Where a fold has no rows on some rank (folds of rows that were not shuffled, few rows) one rank does it all.

    Parameters
    ----------
    client : Engine or None
        None: the engine that holds `dtrain`.
    params, num_boost_round, nfold, stratified, folds, metrics, obj, maximize, early_stopping_rounds
        As for `xgboost.cv`.
    dtrain : DMatrix
    fpreproc : callable, optional
        Called in each rank, with its rows of each fold.
    as_pandas, verbose_eval, show_stdv, seed, callbacks, shuffle
        As for `xgboost.cv`.
    custom_metric, ranks, max_restarts
        As for `train`; a restart begins with the first round.

    Returns
    -------
    pandas.DataFrame or dict
        For each round mean and standard deviation of each metric over the folds.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> X = np.arange(40.0).reshape(20, 2)
    >>> cv(None, {"max_depth": 2}, DMatrix(InlineEngine(), X, X[:, 0]), 3, nfold=2).columns.tolist()
    ['train-rmse-mean', 'train-rmse-std', 'test-rmse-mean', 'test-rmse-std']
    """
    engine = engine_of(client, dtrain, ())
    if dtrain.quantised or dtrain.external_memory:
        raise InputError(
            "expected a DMatrix in memory to cross-validate on, found one that is quantised, which has no rows to select; use "
            "DMatrix, without external_memory"
        )
    check_trainable(dtrain, ranks)
    params = {name: value for name, value in params.items() if value is not None}
    given = params.pop("eval_metric", [])
    options = {
        "obj": obj,
        "custom_metric": custom_metric,
        "callbacks": callbacks,
        "verbose_eval": verbose_eval,
        "early_stopping_rounds": early_stopping_rounds,
        "maximize": maximize,
        "show_stdv": show_stdv,
        "fpreproc": fpreproc,
        "metrics": _listed(metrics) or _listed(given),
    }
    job = Job(params, num_boost_round, dtrain.spec(int(params.get("max_bin") or 256)), (), False, False, options)
    numbers = _folds_of(dtrain, nfold, stratified, folds, seed, shuffle)

    def run() -> dict[str, list[float]]:
        plan, mine = _plan(engine, dtrain, ranks, numbers)
        refuse_what_cannot_be_distributed({**params, "eval_metric": options["metrics"]}, len(plan))
        shares = [share_of(dtrain.partitions, rank.pieces) for rank in plan]
        with tracker(len(plan), [rank.host for rank in plan]) as meeting:
            args = [(r, job, Task(threads_for(rank, params), meeting, None), mine[r], shares[r]) for r, rank in enumerate(plan)]
            return cast(dict[str, list[float]], run_gang(engine, cv_rank, args, plan)[0])

    results = with_restarts(engine, run, n_places=lambda: n_places(engine.workers(), ranks), max_restarts=max_restarts)
    if not as_pandas:
        return results
    import pandas as pd

    return pd.DataFrame(results)


def _listed(metrics: str | Sequence[str]) -> list[str]:
    return [metrics] if isinstance(metrics, str) else list(metrics)


# --- which rows are in which fold --------------------------------------------------------------------------------------


def _folds_of(dtrain: DMatrix, nfold: int, stratified: bool, folds: Any, seed: int, shuffle: bool) -> list[Fold]:
    """As `xgboost.cv` draws them: numbers of rows, or for ranking of groups."""
    starts, n_rows = dtrain.group_starts(), sum(dtrain.schema().rows)
    if folds is not None and not hasattr(folds, "split"):
        return [(np.asarray(train), np.asarray(test)) for train, test in folds]
    if folds is not None or stratified:
        if starts is not None:
            raise InputError("expected folds of whole query groups for ranking, found folds or stratified=True; leave them out")
        if folds is None:
            from sklearn.model_selection import StratifiedKFold

            folds = StratifiedKFold(n_splits=nfold, shuffle=True, random_state=seed)
        labels = np.asarray(concatenate(dtrain.engine.gather(dtrain.partitions.fields["y"])))
        return list(folds.split(X=labels, y=labels))
    n = n_rows if starts is None else len(starts)
    if not 2 <= nfold <= n:
        raise InputError(f"expected between 2 and {n} folds, as many as there are rows or groups, found nfold={nfold}")
    order = np.random.RandomState(seed).permutation(n) if shuffle else np.arange(n)
    tests = np.array_split(order, nfold)
    return [(np.concatenate([tests[i] for i in range(nfold) if i != k]), tests[k]) for k in range(nfold)]


def _plan(engine: Engine, dtrain: DMatrix, per: RankPer, folds: Sequence[Fold]) -> tuple[list[Rank], list[list[Fold]]]:
    """The ranks, and for each its part of each fold, numbered from its own first row or group."""
    plan = plan_for(engine, dtrain, per)
    starts = dtrain.group_starts()
    rows = np.cumsum([0, *(sum(stop - start for _, start, stop in rank.pieces) for rank in plan)])
    edges = rows if starts is None else np.searchsorted(starts, rows)
    mine = [[(_between(train, *ends), _between(test, *ends)) for train, test in folds] for ends in pairwise(edges)]
    if len(plan) > 1 and not all(len(numbers) for folds in mine for fold in folds for numbers in fold):
        return plan_for(engine, dtrain, per, at_most=1), [list(folds)]
    return plan, mine


def _between(numbers: Any, start: int, stop: int) -> Any:
    return numbers[(numbers >= start) & (numbers < stop)] - start


# --- in each rank ------------------------------------------------------------------------------------------------------


def cv_rank(rank: int, job: Job, task: Task, folds: list[Fold], shares: list[Share]) -> dict[str, list[float]] | None:
    """The loop of `xgboost.cv`. Rank 0 has the results."""
    with joined(rank, task.meeting):
        batches = batches_of(shares)
        groups = sizes_of(np.concatenate([np.asarray(b["qid"]) for b in batches])) if "qid" in batches[0] else None
        data = job.train.build(batches, task.nthread, quantised=False)
        del batches
        shares.clear()
        packs = [_pack(job, task.nthread, *_slices(data, groups, *fold)) for fold in folds]
        del data
        results = _boost(job, packs)
    return results if rank == 0 else None


cv_rank.__parml_preload__ = ("parml.xgboost",)  # type: ignore[attr-defined]


def _slices(data: xgb.DMatrix, groups: Any, *fold: Any) -> list[xgb.DMatrix]:
    """Training and test data of one fold."""
    if groups is None:
        return [data.slice(rows) for rows in fold]
    ends = np.cumsum(groups)
    weights = data.get_weight()
    slices = []
    for numbers in fold:
        rows = np.concatenate([np.arange(ends[i] - groups[i], ends[i]) for i in numbers])
        part = data.slice(rows, allow_groups=True)
        part.set_group(groups[numbers])
        if weights.size:
            part.set_weight(weights[numbers])
        slices.append(part)
    return slices


def _pack(job: Job, nthread: int, dtrain: xgb.DMatrix, dtest: xgb.DMatrix) -> CVPack:
    params = {name: value for name, value in job.params.items() if name != "n_jobs"} | {"nthread": nthread}
    if job.options["fpreproc"] is not None:
        dtrain, dtest, params = job.options["fpreproc"](dtrain, dtest, params)
    return CVPack(dtrain, dtest, [*params.items(), *(("eval_metric", metric) for metric in job.options["metrics"])])


def _boost(job: Job, packs: list[CVPack]) -> dict[str, list[float]]:
    obj = job.options["obj"]
    callbacks = callbacks_of(job.options, show_stdv=job.options["show_stdv"])
    container = _FoldCallbacks(callbacks, job.options["custom_metric"], job.params, output_margin=callable(obj), is_cv=True)
    model = _PackedBooster(packs)
    container.before_training(model)
    for i in range(job.rounds):
        if container.before_iteration(model, i, packs[0].dtrain, None):
            break
        model.update(i, obj)
        if container.after_iteration(model, i, None, None):
            for values in container.results.values():
                del values[model.best_iteration + 1 :]
            break
    container.after_training(model)
    return container.results


class _FoldCallbacks(Callbacks):
    """The history has the mean and the deviation over folds."""

    results: dict[str, list[float]]

    def after_iteration(self, model: Any, epoch: int, dtrain: Any, evals: Any) -> bool:
        if epoch == 0:
            self.results = {}
        by_fold = [self.scores(fold.bst, epoch, fold.watchlist) for fold in model.cvfolds]
        for scores in zip(*by_fold, strict=True):
            data, metric, _ = scores[0]
            mean, deviation = (float(f([score for _, _, score in scores])) for f in (np.mean, np.std))
            self.results.setdefault(f"{data}-{metric}-mean", []).append(mean)
            self.results.setdefault(f"{data}-{metric}-std", []).append(deviation)
            self.record(data, metric, (mean, deviation))
        return any(callback.after_iteration(model, epoch, self.history) for callback in self.callbacks)

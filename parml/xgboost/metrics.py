"""
Metrics of all rows while each rank has some of them.

Most of xgboost's metrics are sums over rows, which it adds up over the ranks. Two kinds are not, and xgboost takes a mean of
what each rank finds among its own rows: areas under curves (on rows that are sorted by label they come out wrong by far, or
NaN), and metrics of the user. The first are computed here from the predictions of all ranks, the second weighted by rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import xgboost as xgb
from xgboost import collective
from xgboost.callback import CallbackContainer, TrainingCallback

AREAS = frozenset({"auc", "aucpr"})
_OBJECTIVE = ("objective", "num_class", "num_target", "scale_pos_weight")

Score = tuple[str, str, float]
"""Name of the data, name of the metric, value."""


class Callbacks(CallbackContainer):
    """
    xgboost's container of callbacks, with a history of metrics of all rows.

    Parameters
    ----------
    callbacks : sequence of TrainingCallback
    metric : callable, optional
        The user's.
    params : mapping
        Of the training.
    output_margin : bool
    is_cv : bool
    """

    def __init__(
        self,
        callbacks: Sequence[TrainingCallback],
        metric: Callable[..., Any] | None,
        params: Mapping[str, Any],
        *,
        output_margin: bool,
        is_cv: bool = False,
    ) -> None:
        super().__init__(callbacks, over_all_ranks(metric), output_margin=output_margin, is_cv=is_cv)
        self._areas = Areas(params)

    def after_iteration(self, model: Any, epoch: int, dtrain: xgb.DMatrix, evals: list[tuple[xgb.DMatrix, str]] | None) -> bool:
        for data, metric, score in self.scores(model, epoch, evals or []):
            self.record(data, metric, score)
        return any(callback.after_iteration(model, epoch, self.history) for callback in self.callbacks)

    def scores(self, model: xgb.Booster, epoch: int, evals: list[tuple[xgb.DMatrix, str]]) -> list[Score]:
        """What all metrics are on all data now, the same on every rank."""
        found = _parsed(model.eval_set(evals, epoch, self.metric, self._output_margin))
        if collective.get_world_size() == 1:
            return found
        matrices = {name: data for data, name in evals}
        areas: dict[tuple[str, str], float] = {}
        for name, data in matrices.items():
            wanted = [metric for of, metric, _ in found if of == name and metric in AREAS]
            if wanted and data.get_uint_info("group_ptr").size < 2:  # areas of groups are sums over groups
                areas |= {(name, metric): score for metric, score in self._areas.of(model, data, wanted)}
        return [(data, metric, areas.get((data, metric), score)) for data, metric, score in found]

    def record(self, data: str, metric: str, score: Any) -> None:
        """Add to the history."""
        metrics = self.history.setdefault(data, OrderedDict())
        cast(list[Any], metrics.setdefault(metric, [])).append(score)


def _parsed(text: str) -> list[Score]:
    """Of the line that xgboost says its metrics in: ``[3]<tab>train-auc:0.5<tab>…``."""
    found = []
    for item in text.split()[1:]:
        name, _, value = item.rpartition(":")
        data, _, metric = name.partition("-")
        found.append((data, metric, float(value)))
    return found


class Areas:
    """
    Areas under curves by xgboost itself, on the rows of all ranks.

    Parameters
    ----------
    params : mapping
        Of the training.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = {name: params[name] for name in _OBJECTIVE if params.get(name) is not None}
        self._fields: dict[int, tuple[xgb.DMatrix, dict[str, Any]]] = {}  # keeps the matrix, so that its id stays its own

    def of(self, model: xgb.Booster, data: xgb.DMatrix, metrics: Sequence[str]) -> Iterable[tuple[str, float]]:
        """Each metric's value for what `model` predicts."""
        if id(data) not in self._fields:
            fields = {"label": data.get_label(), "weight": data.get_weight()}
            self._fields[id(data)] = data, {name: _of_all_ranks(value) for name, value in fields.items() if value.size}
        _, fields = self._fields[id(data)]
        margin = _of_all_ranks(model.predict(data, output_margin=True, training=False))
        params = self._params | {"eval_metric": list(metrics), "disable_default_eval_metric": 1, "base_score": 0.5}
        # The collective belongs to this thread: in another one xgboost takes the rows for all that there are.
        with ThreadPoolExecutor(1) as alone:
            text = alone.submit(_evaluate, params, fields, margin).result()
        return [(metric, score) for _, metric, score in _parsed(text)]


def _evaluate(params: dict[str, Any], fields: dict[str, Any], margin: Any) -> str:
    data = xgb.DMatrix(np.zeros((len(margin), 1), "f4"), base_margin=margin, **fields)
    text: str = xgb.Booster(params, [data]).eval_set([(data, "all")])
    return text


def _of_all_ranks(values: Any) -> Any:
    """The rows of all ranks, in their order."""
    rank, n_ranks = collective.get_rank(), collective.get_world_size()
    counts = np.zeros(n_ranks, "i8")
    counts[rank] = len(values)
    ends = np.cumsum(collective.allreduce(counts, collective.Op.SUM))
    together = np.zeros((ends[-1], *values.shape[1:]), "f4")
    together[ends[rank] - len(values) : ends[rank]] = values
    return collective.allreduce(together, collective.Op.SUM).reshape(together.shape)


def over_all_ranks(metric: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A metric of the user as that of all ranks: the mean of what each finds, weighted by rows."""
    if metric is None or not callable(metric):
        return metric

    def weighted(predicted: Any, data: xgb.DMatrix) -> Any:
        found = metric(predicted, data)
        if collective.get_world_size() == 1:
            return found
        pairs = found if isinstance(found, list) else [found]
        weight = _weight_of(data)
        sums = collective.allreduce(np.array([*(value * weight for _, value in pairs), weight], "f8"), collective.Op.SUM)
        return [(name, value / sums[-1]) for (name, _), value in zip(pairs, sums[:-1], strict=True)]

    return weighted


def _weight_of(data: xgb.DMatrix) -> float:
    """What the metric of a rank counts: its weights; without weights its groups, or its rows."""
    weights = data.get_weight()
    if weights.size:
        return float(weights.sum())
    groups = data.get_uint_info("group_ptr").size - 1
    return float(groups if groups > 0 else data.num_row())

"""
In each rank: metrics that mean all rows, and one decision about when to stop.

Data to evaluate on is evaluated by rank 0, whole, so that any metric is exact. The training data itself is where it is: its
metrics are means over the ranks, by weight. Every rank is told the same numbers, so early stopping is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np

from parml.boosting.exchange import Member

make_result = getattr(lgb, "EvalResult", lambda *values: values)  # a plain tuple before LightGBM 4.7


class SharedMetrics:
    """A callback that puts the metrics of all ranks in the place of this rank's own, before others look at them."""

    before_iteration = False
    order = -(1 << 31)

    def __init__(self, member: Member, data: lgb.Dataset, train_name: str | None) -> None:
        self._member = member
        self._train_name = train_name
        self._weight = _weight_of(data)

    def __call__(self, env: Any) -> None:
        results = [[str(r[0]), str(r[1]), float(r[2]), bool(r[3])] for r in env.evaluation_result_list]
        of_train = [result for result in results if result[0] == self._train_name]
        others = [result for result in results if result[0] != self._train_name]
        told = self._member.allgather([self._weight, of_train, others])
        weights = [weight for weight, _, _ in told]
        combined = [_mean(weights, column) for column in zip(*(mine for _, mine, _ in told), strict=True)]
        combined += [result for _, _, theirs in told for result in theirs]
        env.evaluation_result_list[:] = [make_result(*result) for result in combined]


def _weight_of(data: lgb.Dataset) -> float:
    """What the rows of a rank count: groups of ranking one each, other rows their weight."""
    group, weight = data.get_field("group"), data.get_field("weight")
    if group is not None:
        return float(len(group) - 1)  # a field of edges
    return float(data.num_data() if weight is None else np.sum(weight, dtype=np.float64))


def _mean(weights: Sequence[float], results: Sequence[Sequence[Any]]) -> list[Any]:
    """
    One metric of all ranks from that of each.

    Examples
    --------
    >>> _mean([1.0, 3.0], [["t", "rmse", 2.0, False], ["t", "rmse", 0.0, False]])
    ['t', 'rmse', 1.0, False]
    """
    data, metric, _, maximize = results[0]
    values = np.array([result[2] for result in results])
    power = 2 if metric == "rmse" else 1
    return [data, metric, float(np.average(values**power, weights=weights) ** (1 / power)), maximize]


class StartFrom:
    """
    A callback that makes the score before the first tree part of the first trees, as LightGBM does by itself on one machine.

    Parameters
    ----------
    scores : sequence of float
        Of each class.
    """

    before_iteration = False
    order = -(1 << 31)

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = scores

    def __call__(self, env: Any) -> None:
        if env.iteration != env.begin_iteration:
            return
        trees = env.model.dump_model(num_iteration=1)["tree_info"]
        for k, score in enumerate(self._scores):
            for leaf in range(trees[k]["num_leaves"]):
                env.model.set_leaf_output(k, leaf, env.model.get_leaf_output(k, leaf) + score)


class Agreed:
    """
    A user's callback that runs on every rank, but whose wish to stop counts on rank 0 alone.

    A rank that stopped by itself would leave the others waiting for it.
    """

    before_iteration = False

    def __init__(self, callback: Callable[[Any], None], member: Member) -> None:
        self._callback = callback
        self._member = member
        self.order = getattr(callback, "order", 0)

    def __call__(self, env: Any) -> None:
        mine: list[Any] | None = None
        try:
            self._callback(env)
        except lgb.callback.EarlyStopException as stop:
            scores = [[str(r[0]), str(r[1]), float(r[2]), bool(r[3])] for r in stop.best_score]
            mine = [int(stop.best_iteration), scores]
        decided = self._member.allgather(mine)[0]
        if decided is not None:
            raise lgb.callback.EarlyStopException(decided[0], [make_result(*score) for score in decided[1]])


def on_every_rank(callbacks: Sequence[Callable[[Any], None]], member: Member | None) -> list[Callable[[Any], None]]:
    """
    Callbacks fit for several ranks.

    LightGBM's own decide by the metrics alone, which are the same everywhere; those before an iteration cannot stop it.
    """
    ordered = []
    for i, callback in enumerate(callbacks):
        if not hasattr(callback, "order"):
            callback.__dict__["order"] = i - len(callbacks)
        own = type(callback).__module__ == "lightgbm.callback" or getattr(callback, "before_iteration", False)
        ordered.append(callback if member is None or own else Agreed(callback, member))
    return ordered

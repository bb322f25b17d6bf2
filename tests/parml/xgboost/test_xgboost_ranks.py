"""Training over several ranks: the model is as good, the same every time, and errors of one rank are told as its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.metrics import log_loss, mean_absolute_error

import parml.xgboost as px
from parml_core.engine.base import Engine, Future
from parml_core.errors import NotSupported
from parml_core.graph import Graph, Hints

ROOT = Path(__file__).resolve().parents[3]
ROWS = 2000
_rng = np.random.default_rng(3)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
Y = (X.a + X.b * X.c + _rng.normal(size=ROWS) > 0).to_numpy("f4")
PARAMS = {"objective": "binary:logistic", "max_depth": 4, "eval_metric": ["logloss"]}


def _dump(booster: xgb.Booster) -> list[str]:
    return booster.get_dump(with_stats=True, dump_format="json")


def _train(client: Any, *args: Any, **options: Any) -> dict[str, Any]:
    return px.train(client, PARAMS, *args, **{"ranks": "worker", "verbose_eval": False, **options})


class Placed:
    """A collection whose partition i lies on a worker that the test has chosen."""

    def __init__(self, engine: Engine, value: Any, edges: Sequence[int], where: Sequence[int]) -> None:
        workers = engine.workers()
        self.futures = [
            engine.submit(_same, [value[a:b]], hints=Hints(where=(workers[w].id,)))
            for (a, b), w in zip(pairwise(edges), where, strict=True)
        ]

    def __parml_graph__(self) -> Graph:
        return Graph((), {future.key: future for future in self.futures})

    def __parml_keys__(self) -> list[str]:
        return [future.key for future in self.futures]

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        return results

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Placed:
        return self

    def __parml_token__(self) -> str:
        return str(self.__parml_keys__())


def _same(box: list[Any]) -> Any:
    return box[0]


LAYOUTS = {
    "all on the first": ((0, 700, 2000), (0, 0)),
    "all on the second": ((0, 700, 2000), (1, 1)),
    "crosswise": ((0, 1000, 2000), (1, 0)),
    "seven": ((0, 10, 300, 301, 900, 1100, 1500, 2000), (0, 1, 1, 0, 0, 1, 0)),
}


@pytest.mark.parametrize("matrix", [px.DMatrix, px.QuantileDMatrix])
def test_train_wherever_the_partitions_lie_gives_the_same_model(cluster_client: Any, matrix: type[px.DMatrix]) -> None:
    """Neither the partitions nor the workers that hold them change a bit of the model or of its history."""
    found = []
    for edges, where in [((0, 2000), (0,)), *LAYOUTS.values()]:
        parts = [Placed(cluster_client, value, edges, where) for value in (X, pd.Series(Y))]
        dtrain = matrix(cluster_client, *parts)
        held = px.DMatrix(cluster_client, *parts)
        result = _train(cluster_client, dtrain, 5, evals=[(dtrain, "t"), (held, "h")])
        found.append((result["booster"].save_raw("json"), result["history"]))
    assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("order", ["shuffled", "sorted by label"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_train_areas_under_curves_are_those_of_all_rows(cluster_client: Any, order: str, n_classes: int) -> None:
    """AUC is no mean of the ranks' AUCs: also with one class on each rank it is what xgboost finds on all rows at once."""
    labels = np.digitize(X.a + X.b * X.c, [0.0, 1.0][: n_classes - 1])
    rows = np.argsort(labels, kind="stable") if order.startswith("sorted") else np.arange(ROWS)
    objective = {"objective": "binary:logistic"} if n_classes == 2 else {"objective": "multi:softprob", "num_class": 3}
    params = {**objective, "eval_metric": ["auc", "mlogloss"] if n_classes == 3 else ["auc", "aucpr", "logloss"]}
    weight = np.linspace(0.5, 2, ROWS)
    dtrain = px.DMatrix(cluster_client, X.iloc[rows], labels[rows], weight=weight)
    result = px.train(cluster_client, params, dtrain, 3, evals=[(dtrain, "t")], ranks="worker", verbose_eval=False)
    plain = xgb.DMatrix(X.iloc[rows], labels[rows], weight=weight)
    booster = result["booster"]
    text = booster.eval_set([(plain, "t")], 2)
    expected = {item.split(":")[0].removeprefix("t-"): float(item.split(":")[1]) for item in text.split()[1:]}
    assert list(result["history"]["t"]) == list(expected)
    assert {name: values[-1] for name, values in result["history"]["t"].items()} == pytest.approx(expected, rel=1e-5)


def test_train_metric_of_the_user_is_weighted_over_ranks(cluster_client: Any) -> None:
    """A weighted mean is that of all rows although the ranks' weights differ."""

    def metric(predicted: np.ndarray, data: xgb.DMatrix) -> list[tuple[str, float]]:
        error = np.abs(predicted - data.get_label())
        return [("mae", float(np.average(error, weights=data.get_weight()))), ("one", 1.0)]

    weight = np.where(np.arange(ROWS) < ROWS // 2, 0.1, 3.0)
    dtrain = px.DMatrix(cluster_client, X.sort_values("a"), np.sort(Y), weight=weight)
    result = _train(cluster_client, dtrain, 3, evals=[(dtrain, "t")], custom_metric=metric)
    predicted = result["booster"].predict(xgb.DMatrix(X.sort_values("a")))
    expected = mean_absolute_error(np.sort(Y), predicted, sample_weight=weight)
    assert result["history"]["t"]["mae"][-1] == pytest.approx(expected, abs=2e-6)
    assert result["history"]["t"]["one"] == [1.0] * 3


def test_train_over_two_ranks_is_as_good_as_one_and_the_same_twice(cluster_client: Any) -> None:
    """Two ranks predict what one does, report the metric of all rows, and repeat bit by bit."""
    dtrain = px.DMatrix(cluster_client, X, Y)
    one, two = (_train(cluster_client, dtrain, 10, evals=[(dtrain, "t")]) for _ in range(2))
    plain = xgb.train({**PARAMS, "nthread": 1}, xgb.DMatrix(X, Y), 10)
    assert _dump(one["booster"]) == _dump(two["booster"])
    predicted, by_plain = (booster.predict(xgb.DMatrix(X)) for booster in (one["booster"], plain))
    np.testing.assert_allclose(predicted, by_plain, rtol=0, atol=1e-6)
    assert one["history"]["t"]["logloss"][-1] == pytest.approx(log_loss(Y, predicted), abs=1e-5)


def test_train_one_rank_per_host_equals_plain_on_the_cluster(cluster_client: Any) -> None:
    """Workers of one host make one rank with all their threads: the trees of plain xgboost."""
    threads = sum(worker.nthreads for worker in cluster_client.workers())
    plain = xgb.train({**PARAMS, "nthread": threads}, xgb.DMatrix(X, Y), 5)
    result = px.train(cluster_client, PARAMS, px.DMatrix(cluster_client, X, Y), 5)
    assert _dump(result["booster"]) == _dump(plain)


def test_train_evals_with_fewer_rows_than_ranks_report_the_plain_metric(cluster_client: Any) -> None:
    """A single row to evaluate on, with categories: each rank takes it, and the mean is what it is."""
    frame = X.assign(e=pd.Categorical(_rng.choice(list("xyz"), ROWS)))
    dtrain = px.DMatrix(cluster_client, frame, Y, enable_categorical=True)
    single = px.DMatrix(cluster_client, frame[:1], Y[:1], enable_categorical=True)
    result = _train(cluster_client, dtrain, 4, evals=[(single, "one")])
    predicted = result["booster"].predict(xgb.DMatrix(frame[:1], enable_categorical=True))
    expected = log_loss(Y[:1], predicted, labels=[0, 1])
    assert result["history"]["one"]["logloss"][-1] == pytest.approx(expected, abs=1e-5)


def test_train_early_stopping_over_ranks_stops_all_at_once(cluster_client: Any) -> None:
    """Both ranks stop at the same round, within one of where plain stops, and the model knows its best round."""
    cut = 1200
    dtrain = px.DMatrix(cluster_client, X[:cut], Y[:cut])
    held = px.DMatrix(cluster_client, X[cut:], Y[cut:])
    result = _train(cluster_client, dtrain, 200, evals=[(held, "h")], early_stopping_rounds=4)
    losses = result["history"]["h"]["logloss"]
    assert len(losses) == result["booster"].num_boosted_rounds() < 200
    assert result["booster"].best_iteration == int(np.argmin(losses)) == len(losses) - 5


def test_train_error_in_one_rank_is_the_error_of_the_training_at_once(cluster_client: Any) -> None:
    """What rank 1's objective raises is what the caller sees, not the network error that rank 0 has of it."""

    def objective(predicted: np.ndarray, data: xgb.DMatrix) -> tuple[np.ndarray, np.ndarray]:
        if xgb.collective.get_rank() == 1:
            raise LookupError("only here")
        return predicted - data.get_label(), np.ones_like(predicted)

    dtrain = px.DMatrix(cluster_client, X, Y)
    began = time.monotonic()
    with pytest.raises(LookupError, match="only here"):
        _train(cluster_client, dtrain, 5, obj=objective)
    assert time.monotonic() - began < 10
    assert _train(cluster_client, dtrain, 2)["booster"].num_boosted_rounds() == 2


@pytest.mark.parametrize(
    "params",
    [{"tree_method": "exact"}, {"booster": "gblinear"}, {"objective": "survival:cox"}, {"eval_metric": ["error", "ams@0.1"]}],
)
def test_train_what_cannot_be_distributed_is_refused_with_the_reason(cluster_client: Any, params: dict[str, Any]) -> None:
    """What xgboost trains on one machine only is refused before any rank starts."""
    with pytest.raises(NotSupported, match="one machine only"):
        px.train(cluster_client, params, px.DMatrix(cluster_client, X, Y), 2, ranks="worker")


_T = (X.a + X.b * X.c).to_numpy()
_UPPER = np.where(np.arange(ROWS) % 3, np.exp(_T) + 0.5, np.inf)  # a third is still alive
KINDS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "survival": ({"objective": "survival:aft"}, None, {"label_lower_bound": np.exp(_T), "label_upper_bound": _UPPER}),
    "several outputs": ({}, np.c_[_T, X.d], {}),
    "trees of several outputs": ({"multi_strategy": "multi_output_tree"}, np.c_[_T, X.d], {}),
    "several labels": ({"objective": "binary:logistic"}, np.c_[_T > 0, X.d > 0].astype(int), {}),
    "dart": ({"booster": "dart", "rate_drop": 0.3, "seed": 3}, _T, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_train_over_ranks_learns_what_plain_learns(cluster_client: Any, kind: str) -> None:
    """Survival times, several outputs and dropped trees: predictions and metrics are those of plain xgboost."""
    params, y, fields = KINDS[kind]
    plain_data, history = xgb.DMatrix(X, y, **fields), {}  # type: ignore[var-annotated]
    plain = xgb.train(params, plain_data, 5, evals=[(plain_data, "t")], evals_result=history, verbose_eval=False)
    dtrain = px.DMatrix(cluster_client, X, y, **fields)
    result = px.train(cluster_client, params, dtrain, 5, evals=[(dtrain, "t")], ranks="worker", verbose_eval=False)
    ours, expected = (booster.predict(xgb.DMatrix(X)) for booster in (result["booster"], plain))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    for metric, values in history["t"].items():
        assert result["history"]["t"][metric] == pytest.approx(values, rel=1e-5)


def test_train_medians_over_ranks_are_warned_of(cluster_client: Any) -> None:
    """A leaf gets the mean of the ranks' medians, which is no median."""
    dtrain = px.DMatrix(cluster_client, X, _T)
    with pytest.warns(UserWarning, match="the mean of the ranks' quantiles"):
        px.train(cluster_client, {"objective": "reg:absoluteerror"}, dtrain, 1, ranks="worker", verbose_eval=False)


def test_two_trainings_at_once_both_end_right(cluster_client: Any) -> None:
    """Gangs wait for each other's workers: two trainings from two threads give what each gives alone."""
    from concurrent.futures import ThreadPoolExecutor

    dtrain = px.DMatrix(cluster_client, X, Y)
    alone = _dump(_train(cluster_client, dtrain, 5)["booster"])
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(_train, cluster_client, dtrain, 5) for _ in range(2)]
        assert [_dump(result.result(timeout=60)["booster"]) for result in results] == [alone, alone]


TRACKER = """
import json, sys
from xgboost.tracker import RabitTracker

tracker = RabitTracker(1, "127.0.0.1", sortby="task", timeout=60)
tracker.start()
print(json.dumps(tracker.worker_args()), flush=True)
sys.stdin.read()
"""
ALONE = """
import json, subprocess, sys
from parml.xgboost import collective
from parml_core.errors import GangError

collective.VERDICT_TIMEOUT_S = 0.1
_, stage, tracker = sys.argv
with subprocess.Popen([sys.executable, "-c", tracker], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
    meeting = json.loads(host.stdout.readline()) | {"dmlc_retry": 1, "dmlc_timeout": 5}

    def lose(here):
        if here == stage:
            host.kill()
            host.wait()

    try:
        lose("meet")
        with collective.joined(0, meeting):
            lose("part")
    except GangError as error:
        print("told:", error)
    lose(stage)
"""


@pytest.mark.parametrize("stage", ["meet", "part"])
def test_rank_that_loses_the_others_as_they_meet_or_part_tells_of_a_loss(stage: str) -> None:
    """It is a reason to begin again, as it is in a round, and no error of the rank's own. In a process that this may break."""
    command = [sys.executable, "-c", ALONE, stage, TRACKER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert "told: rank 0 cannot reach the others" in done.stdout and "Stack trace" not in done.stdout, done

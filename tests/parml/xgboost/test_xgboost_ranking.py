"""Ranking: query groups stay whole, wherever partitions and ranks are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost as xgb

import parml.xgboost as px
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

_rng = np.random.default_rng(4)
SIZES = _rng.integers(1, 30, 80)
ROWS = int(SIZES.sum())
QID = np.repeat(np.arange(80) * 3 + 5, SIZES)
X = _rng.normal(size=(ROWS, 4)).astype("f4")
Y = np.digitize(X[:, 0] + X[:, 1] * X[:, 2], [-0.7, 0.5])
WEIGHT = _rng.choice([0.5, 1.0, 2.0], 80)
CUTS = (7, 7, ROWS // 3, ROWS - 40)  # most of them inside of a group
PARAMS = {"objective": "rank:ndcg", "eval_metric": ["ndcg@5", "auc", "ndcg"], "max_depth": 4}


@pytest.fixture
def engine() -> Any:
    with InlineEngine() as engine:
        yield engine


def _dump(booster: xgb.Booster) -> list[str]:
    return booster.get_dump(with_stats=True, dump_format="json")


def _plain(engine: Engine, weight: Any = None, **params: Any) -> tuple[xgb.Booster, Any]:
    history: dict[str, Any] = {}
    data = xgb.DMatrix(X, Y, qid=QID, weight=weight)
    params = {**PARAMS, "nthread": sum(worker.nthreads for worker in engine.workers()), **params}
    return xgb.train(params, data, 4, evals=[(data, "t")], evals_result=history, verbose_eval=False), history


@pytest.mark.parametrize("params", [{}, {"objective": "rank:pairwise"}, {"tree_method": "approx"}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_train_groups_over_partition_borders_grow_the_trees_of_plain(
    engine: Engine, parts: Any, params: dict[str, Any], weighted: bool
) -> None:
    """Groups that are cut by partitions, an empty partition, and weights: same dump, same metrics."""
    if weighted:
        params = {**params, "eval_metric": "auc"}  # xgboost's weighted ndcg comes out above 1, which it takes for an error
    plain, history = _plain(engine, WEIGHT if weighted else None, **params)
    weight = parts(np.repeat(WEIGHT, SIZES), *CUTS) if weighted else None
    dtrain = px.DMatrix(engine, parts(X, *CUTS), parts(Y, *CUTS), qid=parts(QID, *CUTS), weight=weight)
    result = px.train(engine, {**PARAMS, **params}, dtrain, 4, evals=[(dtrain, "t")], verbose_eval=False)
    assert _dump(result["booster"]) == _dump(plain)
    assert result["history"] == history


@pytest.mark.parametrize("form", ["qid", "group", "text"])
def test_train_groups_in_memory_in_any_form_are_the_same(engine: Engine, form: str) -> None:
    """Ids, sizes, and ids that are no numbers; a weight for each group."""
    plain, _ = _plain(engine, WEIGHT, eval_metric="auc")
    how = {"qid": {"qid": QID}, "group": {"group": list(SIZES)}, "text": {"qid": np.array([f"q{i}" for i in QID])}}[form]
    dtrain = px.DMatrix(engine, X, Y, weight=WEIGHT, **how)
    assert _dump(px.train(engine, PARAMS, dtrain, 4)["booster"]) == _dump(plain)


def test_train_over_ranks_keeps_groups_whole_and_counts_each_once(cluster_client: Any, parts: Any) -> None:
    """Two ranks rank as well as one, and their metrics are those of all groups, also of data to evaluate on."""
    plain, _ = _plain(cluster_client)
    dtrain = px.DMatrix(cluster_client, parts(X, *CUTS), parts(Y, *CUTS), qid=parts(QID, *CUTS))
    held = px.DMatrix(cluster_client, X, Y, group=SIZES)
    evals = [(dtrain, "t"), (held, "h")]
    result = px.train(cluster_client, PARAMS, dtrain, 4, evals=evals, ranks="worker", verbose_eval=False)
    booster = result["booster"]
    text = booster.eval_set([(xgb.DMatrix(X, Y, qid=QID), "all")], 3)
    expected = [float(item.split(":")[1]) for item in text.split()[1:]]
    assert [values[-1] for values in result["history"]["t"].values()] == pytest.approx(expected, rel=1e-5)
    assert [values[-1] for values in result["history"]["h"].values()] == pytest.approx(expected, rel=1e-5)
    plain_ndcg = float(plain.eval_set([(xgb.DMatrix(X, Y, qid=QID), "all")], 3).split()[1].split(":")[1])
    assert expected[0] == pytest.approx(plain_ndcg, abs=0.03)


def test_train_over_ranks_fewer_groups_than_ranks_is_plain(cluster_client: Any) -> None:
    """A single group has a single rank."""
    n = int(SIZES[0]) + 20
    dtrain = px.DMatrix(cluster_client, X[:n], Y[:n], group=[n])
    result = px.train(cluster_client, PARAMS, dtrain, 3, ranks="worker", verbose_eval=False)
    assert _dump(result["booster"]) == _dump(xgb.train(PARAMS, xgb.DMatrix(X[:n], Y[:n], group=[n]), 3))


def test_train_metric_of_the_user_is_weighted_by_groups(cluster_client: Any) -> None:
    """What is a mean over groups on each rank is a mean over all groups."""

    def groups(predicted: np.ndarray, data: xgb.DMatrix) -> tuple[str, float]:
        return "size", float(np.diff(data.get_uint_info("group_ptr")).mean())

    sizes = np.sort(SIZES)
    dtrain = px.DMatrix(cluster_client, X, Y, group=sizes)
    result = px.train(
        cluster_client, PARAMS, dtrain, 1, evals=[(dtrain, "t")], custom_metric=groups, ranks="worker", verbose_eval=False
    )
    assert result["history"]["t"]["size"] == pytest.approx([sizes.mean()], abs=1e-5)


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_groups_that_do_not_add_up_are_refused(engine: Engine, parts: Any) -> None:
    """Sizes for other rows than there are, in memory and for partitions."""
    with pytest.raises(InputError, match="add up"):
        px.DMatrix(engine, X, Y, group=[1, 2, 3])
    with pytest.raises(InputError, match="add up"):
        px.DMatrix(engine, parts(X, 9), parts(Y, 9), group=[1, 2, 3])
    with pytest.raises(InputError, match="positive sizes"):
        px.DMatrix(engine, X, Y, group=[0, ROWS])


def test_groups_whose_rows_are_scattered_are_refused(engine: Engine, parts: Any) -> None:
    """A query that comes back later, within a partition or in another, would be two."""
    shuffled = np.r_[QID[30:], QID[:30]]
    for qid in (QID % 7, np.r_[QID[-3:], QID[3:]], shuffled % 50):
        for dtrain in (px.DMatrix(engine, X, Y, qid=qid), px.DMatrix(engine, parts(X, 500), Y, qid=parts(qid, 500))):
            with pytest.raises(InputError, match="sort the rows by qid"):
                px.train(engine, PARAMS, dtrain, 1)


def test_groups_and_ids_at_once_evals_without_and_odd_weights_are_refused(engine: Engine) -> None:
    """What xgboost would ignore, or could not use."""
    with pytest.raises(InputError, match="found both"):
        px.DMatrix(engine, X, Y, qid=QID, group=SIZES)
    with pytest.raises(InputError, match="expected a weight for each of 80 groups"):
        px.DMatrix(engine, X, Y, qid=QID, weight=WEIGHT[:7])
    dtrain = px.DMatrix(engine, X, Y, qid=QID)
    with pytest.raises(InputError, match="expected query groups in the 'h' data too"):
        px.train(engine, PARAMS, dtrain, 1, evals=[(px.DMatrix(engine, X, Y), "h")])
    odd = px.DMatrix(engine, X, Y, qid=QID, weight=np.linspace(0, 1, ROWS))
    with pytest.raises(InputError, match="weighs whole groups"):
        px.train(engine, PARAMS, odd, 1)

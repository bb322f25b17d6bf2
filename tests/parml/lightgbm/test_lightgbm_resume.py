"""A rank that is lost and goes on from its checkpoint makes the model and the history that plain lightgbm makes in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as ss

import parml.lightgbm as pl
from parml.boosting.checkpoints import Checkpoint, Checkpoints
from parml.lightgbm import params as parameters
from parml.lightgbm.rank import Job, Task, train_rank
from parml.lightgbm.scores import add_trees, outputs_of
from parml_core.engine.inline import InlineEngine

ROWS, CUT, ROUNDS, EVERY, LOST_AT = 1200, 900, 12, 3, 8
_rng = np.random.default_rng(2)
FRAME = pd.DataFrame(
    {
        "a": _rng.normal(size=ROWS),
        "b": np.where(_rng.random(ROWS) < 0.1, np.nan, _rng.normal(size=ROWS)),
        "i": _rng.integers(0, 9, ROWS),
        "c": pd.Categorical(np.where(_rng.random(ROWS) < 0.1, None, _rng.choice(list("abcdefgh"), ROWS))),
    }
)
TARGET = (FRAME.a + FRAME.b.fillna(0) * FRAME.i * 0.3 + 0.3 * (FRAME.c.cat.codes % 3)).to_numpy()
BINARY = (TARGET > 0.5).astype(float)
MULTI = np.digitize(TARGET, [-0.5, 1.0]).astype(float)
RELEVANCE = np.clip(np.digitize(TARGET, [-0.5, 0.5, 1.5]), 0, 3)
START = _rng.normal(size=ROWS)
ARRAY = FRAME[["a", "b", "i"]].to_numpy()
SPARSE = ss.random(ROWS, 40, 0.05, random_state=3, format="csr")
QUIET = {"verbosity": -1, "deterministic": True, "num_threads": 1, "force_row_wise": True}


class Lost(Exception):
    """The end of a rank."""


class Loses:
    """Ends the rank before one round, in its first attempt; keeps which rounds have begun."""

    before_iteration = True
    order = 0
    begun: list[int] = []

    def __call__(self, env: Any) -> None:
        round_ = env.iteration - env.begin_iteration
        self.begun.append(round_)
        if round_ == LOST_AT and self.begun.count(round_) == 1:
            raise Lost


def _objective(predicted: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return predicted - data.get_label(), np.ones_like(predicted)


def _metric(predicted: np.ndarray, data: lgb.Dataset) -> tuple[str, float, bool]:
    return "above", float(np.mean(np.abs(predicted.reshape(data.num_data(), -1)[:, -1] - data.get_label()))), False


def _interrupted(
    params: dict[str, Any], X: Any, y: Any, *, fields: dict[str, Any], callbacks: Sequence[Any] = (), **options: Any
) -> tuple[Any, Checkpoint | None]:
    """The result of a training on the first rows, evaluated on all sets, that is lost once; and the checkpoint it had then."""
    with InlineEngine() as engine:
        columns = pl.Dataset(engine, X, y).columns()
    Loses.begun = []
    valid = (("t", None, {}), ("h", columns, {}))
    job = Job(
        params, {}, ROUNDS, columns, valid, callbacks=(Loses(), *callbacks), checkpoint_every=EVERY, feval=_metric, **options
    )

    def share(rows: slice) -> list[Any]:
        parts = [slice(start, min(start + 350, rows.stop)) for start in range(rows.start, rows.stop, 350)]
        return [({"X": _rows(X, p), "y": y[p], **{k: v[p] for k, v in fields.items()}}, 0, p.stop - p.start) for p in parts]

    with Checkpoints(["127.0.0.1"]) as kept:
        task = Task(1, None, kept.depot)

        def attempt() -> Any:
            begin = tuple(kept.latest or (0, b""))
            return train_rank(0, job, task, begin, None, share(slice(0, CUT)), [share(slice(CUT, ROWS))])  # type: ignore[arg-type]

        with pytest.raises(Lost):
            attempt()
        latest = kept.latest
        return attempt(), latest


def _rows(X: Any, rows: slice) -> Any:
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]


def _plain(
    params: dict[str, Any], X: Any, y: Any, *, fields: dict[str, Any], callbacks: Sequence[Any] = (), **options: Any
) -> tuple[lgb.Booster, dict[str, Any]]:
    history: dict[str, Any] = {}
    data, held = (
        lgb.Dataset(
            _rows(X, rows),
            y[rows],
            **{k: (v[rows] if k != "group" else np.unique(v[rows], return_counts=True)[1]) for k, v in fields.items()},
        )
        for rows in (slice(0, CUT), slice(CUT, ROWS))
    )
    held.reference = data
    callbacks = [*callbacks, lgb.record_evaluation(history)]
    booster = lgb.train(
        params, data, ROUNDS, valid_sets=[data, held], valid_names=["t", "h"], feval=_metric, callbacks=callbacks, **options
    )
    return booster, {name: dict(metrics) for name, metrics in history.items()}


def _text(booster: lgb.Booster) -> str:
    """The whole model, without the parameters that it was trained with."""
    return booster.model_to_string(num_iteration=-1).partition("\nparameters:")[0]


CASES: dict[str, tuple[dict[str, Any], Any, Any, dict[str, Any]]] = {
    "regression": ({}, ARRAY, TARGET, {}),
    "categories": ({"min_data_per_group": 5, "cat_smooth": 1}, FRAME, TARGET, {}),
    "binary": ({"objective": "binary", "metric": ["auc", "binary_logloss"]}, FRAME, BINARY, {}),
    "multiclass": ({"objective": "multiclass", "num_class": 3}, ARRAY.astype("f4"), MULTI, {}),
    "l1": ({"objective": "l1"}, ARRAY, TARGET, {}),
    "sparse": ({}, SPARSE, np.asarray(SPARSE.sum(axis=1)).ravel(), {}),
    "init score": ({"objective": "binary"}, ARRAY, BINARY, {"init_score": START}),
    "weights": ({"objective": "poisson"}, ARRAY, np.exp(TARGET / 9), {"weight": np.abs(START)}),
    "ranking": ({"objective": "lambdarank", "eval_at": [3]}, ARRAY, RELEVANCE, {"group": np.arange(ROWS) // 30}),
    "custom": ({"objective": _objective}, ARRAY, TARGET, {}),
    "monotone": ({"monotone_constraints": [1, 0, 0], "path_smooth": 1.0, "reg_sqrt": True}, ARRAY, TARGET, {}),
    "nothing to learn": ({"objective": "binary"}, np.zeros((ROWS, 2)), BINARY, {}),
    "no more splits": ({"min_data_in_leaf": 400, "learning_rate": 1.0}, ARRAY[:, :1] > 0, (TARGET > 0) * 1.0, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_training_makes_the_model_and_history_of_plain_lightgbm(case: str) -> None:
    """Bit by bit, for what draws nothing at random; at most one interval is done again."""
    params, X, y, fields = CASES[case]
    (booster, history), checkpoint = _interrupted({**QUIET, **params}, X, y, fields=fields)
    plain, expected = _plain({**QUIET, **params}, X, y, fields=fields)
    assert checkpoint is not None and checkpoint.rounds == 6
    assert Loses.begun == [*range(LOST_AT + 1), *range(6, ROUNDS)]
    assert (_text(booster), history) == (_text(plain), expected)
    assert booster.best_score == plain.best_score


def test_resumed_training_that_goes_on_from_a_users_model_equals_plain() -> None:
    """The user's trees are there once, and scores begin with what that model says."""
    params = {**QUIET, "objective": "binary"}
    first = lgb.train(params, lgb.Dataset(FRAME[:500], BINARY[:500]), 4)
    (booster, history), _ = _interrupted(params, FRAME, BINARY, fields={}, init_model=first)
    plain, expected = _plain(params, FRAME, BINARY, fields={}, init_model=first)
    assert booster.num_trees() == 4 + ROUNDS
    assert (_text(booster), history) == (_text(plain), expected)


def test_resumed_training_stops_early_where_plain_lightgbm_does() -> None:
    """The best round and how long ago it was are remembered, by a callback as by parameters."""
    bad = np.r_[BINARY[:CUT], 1 - BINARY[CUT:]]  # gets worse: the first round is the best one
    for by in ("params", "callback"):
        params = {**QUIET, "objective": "binary", "metric": "auc"} | ({"early_stopping_round": 9} if by == "params" else {})

        def callbacks(by: str = by) -> list[Any]:
            return [lgb.early_stopping(9, verbose=False)] if by == "callback" else []

        (booster, history), checkpoint = _interrupted(params, ARRAY, bad, fields={}, callbacks=callbacks())
        plain, expected = _plain(params, ARRAY, bad, fields={}, callbacks=callbacks())
        assert checkpoint is not None and checkpoint.rounds == 6
        assert 0 < booster.best_iteration == plain.best_iteration < 4
        assert booster.best_score == plain.best_score
        assert (_text(booster), history) == (_text(plain), expected)


def test_resumed_training_has_the_parameters_that_callbacks_have_set() -> None:
    """A learning rate that was set once holds, one for each round goes on, and what a user's callback keeps is kept."""

    class Counts:
        order, before_iteration = 1, False

        def __init__(self) -> None:
            self.seen: list[int] = []

        def __call__(self, env: Any) -> None:
            self.seen.append(env.iteration)
            assert self.seen == list(range(env.iteration + 1))

    def once(env: Any) -> None:
        if env.iteration == 2:
            env.model.reset_parameter({"lambda_l2": 9.0})
            env.params["noted"] = True
        assert ("noted" in env.params) == (env.iteration >= 2)

    once.before_iteration = True  # type: ignore[attr-defined]
    by_round: list[Callable[[], Any]] = [
        lambda: lgb.reset_parameter(learning_rate=lambda i: 0.5 / (i + 1)),
        Counts,
        lambda: once,
    ]
    (booster, history), _ = _interrupted(QUIET, ARRAY, TARGET, fields={}, callbacks=[make() for make in by_round])
    plain, expected = _plain(QUIET, ARRAY, TARGET, fields={}, callbacks=[make() for make in by_round])
    assert (_text(booster), history) == (_text(plain), expected)


@pytest.mark.parametrize(
    "drawn",
    [
        {"bagging_fraction": 0.5, "bagging_freq": 1},
        {"feature_fraction": 0.5},
        {"extra_trees": True},
        {"data_sample_strategy": "goss", "learning_rate": 0.5},
        {"use_quantized_grad": True},
    ],
    ids=str,
)
def test_resumed_training_that_draws_at_random_draws_others_than_before(drawn: dict[str, Any]) -> None:
    """Trees before the checkpoint are plain lightgbm's; later ones draw by other seeds, and the model is as good."""
    params = {**QUIET, "seed": 4, **drawn}
    (booster, history), _ = _interrupted(params, ARRAY, TARGET, fields={})
    plain, expected = _plain(params, ARRAY, TARGET, fields={})
    found, wanted = (b.dump_model()["tree_info"] for b in (booster, plain))
    assert found[:6] == wanted[:6] and len(found) == ROUNDS
    assert history["h"]["l2"][-1] == pytest.approx(expected["h"]["l2"][-1], rel=0.15)
    assert parameters.draws(params)
    seeds = parameters.other_seeds(params, 6)
    assert f"[bagging_seed: {seeds['bagging_seed']}]" in booster.model_to_string()


def test_trees_add_to_scores_what_training_has_added() -> None:
    """The scores are the very doubles that lightgbm predicts with, for several classes and from any round on."""
    params = {**QUIET, "objective": "multiclass", "num_class": 3}
    model = lgb.train(params, lgb.Dataset(ARRAY, MULTI), 5)
    data = lgb.Dataset(ARRAY, MULTI, params=params).construct()
    add_trees(data, [ARRAY[:500], ARRAY[500:]], None, model, outputs_of(model.model_to_string()), 2, 1)
    expected = model.predict(ARRAY, raw_score=True, start_iteration=2)
    np.testing.assert_array_equal(data.get_field("init_score"), expected)


@pytest.mark.parametrize("boosting", ["dart", "rf"])
def test_what_cannot_go_on_from_its_trees_has_no_checkpoints(boosting: str) -> None:
    """Dart weighs trees anew, forests average: a restart begins with the first round."""
    assert not parameters.resumable({"boosting_type": boosting})
    assert not parameters.resumable({"linear_trees": True})
    assert not parameters.resumable({"cegb_penalty_feature_coupled": [1.0, 2.0]})
    assert parameters.resumable({"boosting": "goss", "linear_tree": False})

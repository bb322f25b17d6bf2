"""Whatever an estimator is asked for, its model, attributes and predictions are those of the library's own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.base import clone
from sklearn.metrics import mean_absolute_error

import parml.lightgbm as pl
import parml.xgboost as px
from parml.testing.parts import cut
from parml_core.engine.base import Engine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

TRAIN, ROWS = 300, 400  # the first rows are trained on, the others evaluated on
_rng = np.random.default_rng(3)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
Z = (X.a + X.b * X.c + 0.3 * _rng.normal(size=ROWS)).to_numpy()
CODES = np.digitize(Z, [-0.5, 0.5])
BINARY = (CODES > 0).astype(int)
TEXT = np.array(["low", "middle", "up"])[CODES]
WEIGHT = _rng.random(ROWS)
TRAIN_WEIGHT = WEIGHT[:TRAIN]
MARGIN = np.linspace(-1, 1, ROWS)
KINDS = X.assign(k=pd.Categorical(_rng.choice(list("pqr"), ROWS)))
REORDERED = KINDS.assign(k=KINDS.k.cat.set_categories(list("rqp")))
QID = np.repeat(np.arange(ROWS // 10), 10)
GROUPS = [10] * (TRAIN // 10)
HELD = {"eval_set": "the rows trained on, and the others"}


def _half_squares(y: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return predicted - y, np.full_like(predicted, 0.5)


def _weighted_squares(y: np.ndarray, predicted: np.ndarray, sample_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (predicted - y) * sample_weight, sample_weight


def _worst(y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> tuple[str, float, bool]:
    return "worst", float(np.abs((predicted - y) * weight).max()), False


def _two(y: np.ndarray, predicted: np.ndarray) -> list[tuple[str, float, bool]]:
    return [("mean", float(predicted.mean()), True), ("bias", float((predicted - y).mean()), False)]


# Of each case: the estimator, its parameters, y of all rows, arguments of fit, and where it matters X.
XGBOOST: dict[str, tuple[Any, ...]] = {
    "early stopping": (
        "XGBClassifier",
        {"n_estimators": 200, "early_stopping_rounds": 3, "learning_rate": 0.6, "eval_metric": ["merror", "mlogloss"]},
        CODES,
        {"sample_weight": TRAIN_WEIGHT, "sample_weight_eval_set": [TRAIN_WEIGHT, None], "verbose": False, **HELD},
    ),
    "callback that keeps the best": (
        "XGBRegressor",
        {"n_estimators": 100, "learning_rate": 0.8, "callbacks": [xgb.callback.EarlyStopping(rounds=3, save_best=True)]},
        Z,
        {"verbose": False, **HELD},
    ),
    "objective and metric": (
        "XGBRegressor",
        {"objective": _half_squares, "eval_metric": mean_absolute_error},
        Z,
        {"verbose": False, **HELD},
    ),
    "weighted objective": ("XGBRegressor", {"objective": _weighted_squares}, Z, {"sample_weight": TRAIN_WEIGHT}),
    "objective of classes": ("XGBClassifier", {"objective": _half_squares}, BINARY, {}),
    "hinge": ("XGBClassifier", {"objective": "binary:hinge"}, BINARY, {}),
    "softmax": ("XGBClassifier", {"objective": "multi:softmax"}, CODES, {}),
    "scale_pos_weight": ("XGBClassifier", {"scale_pos_weight": 5}, BINARY, {}),
    "one class": ("XGBClassifier", {}, np.zeros(ROWS, int), {}),
    "margin": (
        "XGBRegressor",
        {},
        Z,
        {"base_margin": MARGIN[:TRAIN], "base_margin_eval_set": [None, None], **HELD, "verbose": False},
    ),
    "margin of classes": ("XGBClassifier", {}, CODES, {"base_margin": np.c_[MARGIN, -MARGIN, MARGIN**2][:TRAIN]}),
    "quantiles": ("XGBRegressor", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5]}, Z, {}),
    "several targets": ("XGBRegressor", {}, np.c_[Z, -Z], {}),
    "several labels": ("XGBClassifier", {}, np.c_[BINARY, 1 - BINARY], {}),
    "random rows and columns": ("XGBRegressor", {"subsample": 0.5, "colsample_bytree": 0.5, "random_state": 7}, Z, {}),
    "weights of columns": (
        "XGBRegressor",
        {"colsample_bytree": 0.5, "feature_weights": [1, 2, 3, 4], "random_state": 1},
        Z,
        {},
    ),
    "learning rates": (
        "XGBRegressor",
        {"callbacks": [xgb.callback.LearningRateScheduler(lambda i: 0.9 / (i + 1))]},
        Z,
        {"verbose": False, **HELD},
    ),
    "monotone": ("XGBRegressor", {"monotone_constraints": {"a": 1}}, Z, {}),
    "importance": ("XGBRegressor", {"importance_type": "total_cover"}, Z, {}),
    "dart": ("XGBRegressor", {"booster": "dart", "rate_drop": 0.3, "random_state": 1}, Z, {}),
    "missing": ("XGBRegressor", {"missing": 0.0}, Z, {}, X.round()),
    "categories": ("XGBRegressor", {"enable_categorical": True}, Z, {"verbose": False, "eval_set": [(REORDERED, Z)]}, KINDS),
    "forest": ("XGBRFClassifier", {"random_state": 1}, CODES, {"verbose": False, **HELD}),
    "rank by qid": (
        "XGBRanker",
        {"eval_metric": ["ndcg@3", "map@2"], "early_stopping_rounds": 2},
        BINARY,
        {"qid": QID[:TRAIN], "eval_qid": [QID[:TRAIN], QID[TRAIN:]], "verbose": False, **HELD},
    ),
    "rank by group": ("XGBRanker", {"objective": "rank:pairwise"}, CODES, {"group": GROUPS, "base_margin": MARGIN[:TRAIN]}),
}
LIGHTGBM: dict[str, tuple[Any, ...]] = {
    "early stopping": (
        "LGBMClassifier",
        {"n_estimators": 200, "learning_rate": 0.6, "class_weight": {"low": 2.0, "up": 0.5}},
        TEXT,
        {
            "sample_weight": TRAIN_WEIGHT,
            "eval_sample_weight": {1: WEIGHT[TRAIN:]},
            "eval_class_weight": [None, "balanced"],
            "eval_names": ["train", "held"],
            "eval_metric": ["multi_error", "logloss"],
            "callbacks": [lgb.early_stopping(3, verbose=False)],
            **HELD,
        },
    ),
    "early stopping by the first metric": (
        "LGBMRegressor",
        {"n_estimators": 200, "learning_rate": 0.6, "early_stopping_round": 3, "first_metric_only": True, "metric": ["l1"]},
        Z,
        {"eval_X": X[TRAIN:], "eval_y": Z[TRAIN:], "eval_init_score": [MARGIN[TRAIN:]]},
    ),
    "objective and metrics": (
        "LGBMRegressor",
        {"objective": _half_squares},
        Z,
        {
            "sample_weight": TRAIN_WEIGHT,
            "eval_sample_weight": {1: WEIGHT[TRAIN:]},
            "eval_metric": ["l1", _worst, _two],
            **HELD,
        },
    ),
    "weighted objective": ("LGBMRegressor", {"objective": _weighted_squares}, Z, {"sample_weight": TRAIN_WEIGHT}),
    "objective of classes": ("LGBMClassifier", {"objective": _half_squares}, BINARY, {}),
    "cross_entropy": ("LGBMClassifier", {"objective": "cross_entropy"}, BINARY, {}),
    "one against all": ("LGBMClassifier", {"objective": "ova"}, TEXT, {"eval_metric": "error", **HELD}),
    "softmax of two": ("LGBMClassifier", {"objective": "softmax", "num_class": 2}, BINARY, {"eval_metric": "logloss"}),
    "balanced classes": ("LGBMClassifier", {"class_weight": "balanced"}, TEXT, {}),
    "balanced numbers": ("LGBMRegressor", {"class_weight": "balanced"}, CODES, {}),
    "unbalanced": ("LGBMClassifier", {"is_unbalance": True}, BINARY, {}),
    "one class": ("LGBMClassifier", {}, np.array(["all"] * ROWS), {}),
    "score to start from": ("LGBMClassifier", {}, CODES, {"init_score": np.c_[MARGIN, -MARGIN, MARGIN**2][:TRAIN]}),
    "learning rates": ("LGBMRegressor", {}, Z, {"callbacks": [lgb.reset_parameter(learning_rate=lambda i: 0.5 / (i + 1))]}),
    "random rows": ("LGBMRegressor", {"subsample": 0.6, "subsample_freq": 1, "random_state": 4}, Z, {}),
    "generator": ("LGBMRegressor", {"extra_trees": True, "random_state": np.random.RandomState(4)}, Z, {}),
    "dart": ("LGBMRegressor", {"boosting_type": "dart", "random_state": 1}, Z, {}),
    "forest": ("LGBMRegressor", {"boosting_type": "rf", "subsample": 0.6, "subsample_freq": 1, "random_state": 1}, Z, {}),
    "quantile": ("LGBMRegressor", {"objective": "quantile", "alpha": 0.7}, Z, {}),
    "importance": ("LGBMRegressor", {"importance_type": "gain"}, Z, {}),
    "categories": ("LGBMRegressor", {}, Z, {"eval_set": [(REORDERED, Z)]}, KINDS),
    "categories by name": ("LGBMRegressor", {}, Z, {"categorical_feature": ["a"]}, X.assign(a=X.a.round() + 5)),
    "names": ("LGBMRegressor", {}, Z, {"feature_name": list("wxyz")}, X.to_numpy()),
    "rank": (
        "LGBMRanker",
        {"label_gain": [0, 1, 5]},
        CODES,
        {
            "group": GROUPS,
            "sample_weight": TRAIN_WEIGHT,
            "eval_group": [GROUPS, [10] * ((ROWS - TRAIN) // 10)],
            "eval_at": [2, 4],
            **HELD,
        },
    ),
    "rank at random": ("LGBMRanker", {"objective": "rank_xendcg", "random_state": 1}, CODES, {"group": GROUPS}),
}
CASES = [pytest.param(case, id=f"{case[0]} {name}") for name, case in [*XGBOOST.items(), *LIGHTGBM.items()]]
BOTH = pytest.mark.parametrize("model", [px.XGBClassifier(), pl.LGBMClassifier()], ids=["xgboost", "lightgbm"])
CHUNKED = pytest.mark.parametrize("chunked", [False, True], ids=["in memory", "in partitions"])
ASKED = [
    ("predict", {}),
    ("predict", {"output_margin": True}),
    ("predict", {"iteration_range": (0, 1)}),
    ("predict", {"raw_score": True}),
    ("predict", {"pred_leaf": True}),
    ("predict", {"pred_contrib": True}),
    ("predict_proba", {}),
    ("predict_proba", {"iteration_range": (0, 1)}),
    ("predict_proba", {"start_iteration": 1, "num_iteration": 2}),
    ("decision_function", {}),
    ("apply", {}),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with ThreadsEngine(1) as engine:
        yield engine


@CHUNKED
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_estimator_fits_and_predicts_like_the_plain_one(engine: Engine, case: tuple[Any, ...], chunked: bool) -> None:
    """Trees, history, importances and all kinds of predictions are the same."""
    name, params, y, options, *table = case
    rows = table[0] if table else X
    told = []
    for module in {"X": (xgb, px), "L": (lgb, pl)}[name[0]]:
        ours = module in (px, pl)
        model = getattr(module, name)(**{"n_estimators": 5, "n_jobs": 1, **copy.deepcopy(params)})
        args = {"X": rows[:TRAIN], "y": y[:TRAIN], **options}
        if options.items() >= HELD.items():
            args["eval_set"] = [(args["X"], args["y"]), (rows[TRAIN:], y[TRAIN:])]
        if ours:
            model.set_params(client=engine)
            args = _in_parts(args, {}) if chunked else args
        model.fit(**args | {"callbacks": copy.deepcopy(options["callbacks"])} if "callbacks" in options else args)
        told.append(_told(model) | _predicted(model, rows, engine if ours and chunked else None))
    plain, found = told
    assert found.keys() == plain.keys()
    for what, expected in plain.items():
        np.testing.assert_array_equal(found[what], expected, err_msg=str(what))


@CHUNKED
@pytest.mark.parametrize("form", ["estimator", "booster", "file"])
@pytest.mark.parametrize("name", ["XGBRegressor", "XGBClassifier", "LGBMRegressor", "LGBMClassifier"])
def test_estimator_goes_on_from_a_model_like_the_plain_one(
    engine: Engine, tmp_path: Any, name: str, form: str, chunked: bool
) -> None:
    """
    The categories of the rows come in another order than those of the first model, which counts them in its own. (Of more rows
    than bins xgboost's estimator would go on from the quantiles of the new rows, where parml goes on from their values.)
    """
    y = CODES if name.endswith("Classifier") else Z
    params = {"n_estimators": 3, "n_jobs": 1, **({"enable_categorical": True} if name[0] == "X" else {"verbosity": -1})}
    first: Any = getattr({"X": xgb, "L": lgb}[name[0]], name)(**params).fit(KINDS, y)
    booster = first.get_booster() if name[0] == "X" else first.booster_
    booster.save_model(str(tmp_path / "first.json"))
    start = {"estimator": first, "booster": booster, "file": str(tmp_path / "first.json")}[form]
    told = []
    for module in {"X": (xgb, px), "L": (lgb, pl)}[name[0]]:
        model = getattr(module, name)(**params)
        args = {"X": REORDERED[:200], "y": y[:200]}
        if module in (px, pl):
            model.set_params(client=engine)
            args = _in_parts(args, {}) if chunked else args
        model.fit(**args, **{"xgb_model" if name[0] == "X" else "init_model": start})
        told.append(_told(model) | {"of others": model.predict(KINDS), "of these": model.predict(REORDERED)})
    for what, expected in told[0].items():
        np.testing.assert_array_equal(told[1][what], expected, err_msg=str(what))


def test_estimator_going_on_meets_a_category_that_the_model_has_not_seen(engine: Engine) -> None:
    """It has no number in the model's trees: refused, as xgboost does."""
    known = KINDS.assign(k=KINDS.k.cat.remove_categories("r"))
    first = xgb.XGBRegressor(n_estimators=1, enable_categorical=True).fit(known, Z)
    ours = px.XGBRegressor(n_estimators=1, enable_categorical=True, client=engine)
    with pytest.raises(InputError, match=r"column 'k' the categories of the model .*found \['r'\]"):
        ours.fit(KINDS, Z, xgb_model=first)


@pytest.mark.filterwarnings("ignore")
def test_estimator_knows_the_rows_trained_on_again_as_lists(engine: Engine) -> None:
    """lightgbm names them "training", and evaluates them with their weights."""
    X_list, y_list, weight = X[:TRAIN].to_numpy().tolist(), TEXT[:TRAIN].tolist(), TRAIN_WEIGHT.tolist()
    told = []
    for model in (lgb.LGBMClassifier(n_estimators=3, n_jobs=1), pl.LGBMClassifier(n_estimators=3, n_jobs=1, client=engine)):
        told.append(_told(model.fit(X_list, y_list, sample_weight=weight, eval_set=[(X_list, y_list)])))
    assert list(told[0]["history"]) == ["training"]
    assert told[0]["history"] == told[1]["history"]


@BOTH
@CHUNKED
def test_classifier_of_numbers_with_fractions_is_refused(engine: Engine, model: Any, chunked: bool) -> None:
    """What is to be learnt is no class; each value would become one."""
    args = {"X": X, "y": Z}
    with pytest.raises(InputError, match="Unknown label type: continuous"):
        clone(model).set_params(client=engine).fit(**_in_parts(args, {}) if chunked else args)


@BOTH
@CHUNKED
def test_classifier_label_in_evaluation_data_only_is_refused(engine: Engine, model: Any, chunked: bool) -> None:
    """A label that training has not seen is named, before training."""
    seen = TEXT != "up"
    args = {"X": X[seen], "y": TEXT[seen], "eval_set": [(X, TEXT)]}
    with pytest.raises(InputError, match=r"\['low', 'middle'\], found \['up'\]"):
        clone(model).set_params(client=engine).fit(**_in_parts(args, {}) if chunked else args)


def _told(model: Any) -> dict[Any, Any]:
    """What a fitted estimator says about itself."""
    names = ("feature_importances_", "n_features_in_", "feature_names_in_", "classes_", "n_classes_", "objective_")
    names += ("best_iteration", "best_score", "best_iteration_", "best_score_", "intercept_")
    told = {name: getattr(model, name) for name in names if hasattr(model, name)}
    if isinstance(model, xgb.XGBModel):
        history = model.evals_result() if hasattr(model, "evals_result_") else {}
        return told | {"history": history, "trees": model.get_booster().get_dump(with_stats=True, dump_format="json")}
    history = {name: dict(metrics) for name, metrics in model.evals_result_.items()}
    return told | {"history": history, "trees": model.booster_.model_to_string().partition("\nparameters:")[0]}


def _predicted(model: Any, rows: Any, engine: Engine | None) -> dict[Any, Any]:
    """All that it predicts; with an engine for rows in partitions."""
    predicted = {}
    for method, options in ASKED:
        takes = inspect.signature(getattr(model, method)).parameters if hasattr(model, method) else {}
        if takes and options.keys() <= takes.keys():
            found = getattr(model, method)(rows if engine is None else cut(rows, 150, 150), **options)
            predicted[method, *options] = found if engine is None else found.compute(engine)
    return predicted


def _in_parts(value: Any, seen: dict[int, Any]) -> Any:
    """Every array and table of many rows in partitions, the same object each time."""
    if isinstance(value, np.ndarray | pd.DataFrame) and len(value) > 50:
        if id(value) not in seen:
            seen[id(value)] = cut(value, 30, 30, 70)
        return seen[id(value)]
    if isinstance(value, list | tuple):
        return type(value)(_in_parts(item, seen) for item in value)
    return {name: _in_parts(item, seen) for name, item in value.items()} if type(value) is dict else value

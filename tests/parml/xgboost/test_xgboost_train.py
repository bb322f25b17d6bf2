"""parml.xgboost on one host trains the model that xgboost trains, whatever the split and the kind of the data."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as ss
import xgboost as xgb

import parml.xgboost as px
from parml.testing.parts import Parts, cut_evenly
from parml.xgboost.data import MatrixSpec
from parml.xgboost.rank import Job, Task, train_rank
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

ROWS = 1500
_rng = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "a": _rng.normal(size=ROWS),
        "b": np.where(_rng.random(ROWS) < 0.1, np.nan, _rng.normal(size=ROWS)),
        "i": _rng.integers(0, 9, ROWS),
        "t": _rng.random(ROWS) < 0.5,
    }
)
CATEGORY = pd.Series(pd.Categorical(_rng.choice(list("abcdefgh"), ROWS)))
TARGET = (FRAME.a + FRAME.b.fillna(0) * FRAME.i * 0.3 + FRAME.t).to_numpy()
BINARY = (TARGET > 0.5).astype("f4")
MULTI = np.digitize(TARGET, [-0.5, 1.0]).astype("f4")
WEIGHT = _rng.random(ROWS)
MARGIN = _rng.normal(size=ROWS)
X_ARRAY = FRAME.to_numpy("f4")


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Any:
    with request.param() as engine:
        yield engine


def _dump(booster: xgb.Booster) -> list[str]:
    return booster.get_dump(with_stats=True, dump_format="json")


def _threads(engine: Engine) -> dict[str, int]:
    return {"nthread": sum(worker.nthreads for worker in engine.workers())}


CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "binary": ({"objective": "binary:logistic", "eval_metric": ["logloss", "auc"]}, BINARY, {}),
    "multiclass": ({"objective": "multi:softprob", "num_class": 3}, MULTI, {}),
    "regression": ({"max_depth": 3, "max_bin": 32}, TARGET, {}),
    "weights": ({"objective": "binary:logistic"}, BINARY, {"weight": WEIGHT}),
    "base margin": ({"objective": "binary:logistic"}, BINARY, {"base_margin": MARGIN}),
    "multi-output": ({}, np.c_[TARGET, BINARY], {}),
    "sampling": ({"subsample": 0.5, "colsample_bytree": 0.5, "seed": 7}, TARGET, {}),
    "lossguide": ({"grow_policy": "lossguide", "max_leaves": 8}, TARGET, {}),
    "dart": ({"booster": "dart", "rate_drop": 0.3, "seed": 3}, TARGET, {}),
    "approx": ({"tree_method": "approx"}, TARGET, {}),
    "exact": ({"tree_method": "exact"}, TARGET, {}),
    "gblinear": ({"booster": "gblinear", "updater": "coord_descent"}, TARGET, {}),
    "survival": (
        {"objective": "survival:aft", "eval_metric": "aft-nloglik"},
        None,
        {"label_lower_bound": np.exp(TARGET), "label_upper_bound": np.exp(TARGET) + 1},
    ),
}


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("case", CASES)
def test_train_in_any_partitions_grows_the_trees_of_plain_xgboost(engine: Engine, case: str, n: int) -> None:
    """Same dump, same history, same bytes, for each objective, booster and tree method, and any number of partitions."""
    params, y, fields = CASES[case]
    history: dict[str, Any] = {}
    plain_data = xgb.DMatrix(X_ARRAY, y, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = xgb.train(
            {**params, **_threads(engine)},
            plain_data,
            5,
            evals=[(plain_data, "train")],
            evals_result=history,
            verbose_eval=False,
        )
        chunked = {name: cut_evenly(value, n) for name, value in fields.items()}
        dtrain = px.DMatrix(engine, cut_evenly(X_ARRAY, n), None if y is None else cut_evenly(y, n), **chunked)
        result = px.train(engine, params, dtrain, 5, evals=[(dtrain, "train")], verbose_eval=False)
    assert _dump(result["booster"]) == _dump(plain)
    assert result["booster"].save_raw("json") == plain.save_raw("json")
    assert result["history"] == history


@pytest.mark.parametrize("matrix", [px.DMatrix, px.QuantileDMatrix])
@pytest.mark.parametrize("kind", ["numpy", "pandas", "chunked pandas", "chunked pyarrow", "pyarrow", "scipy", "chunked scipy"])
def test_train_from_any_kind_of_table_grows_the_same_trees(engine: Engine, kind: str, matrix: type[px.DMatrix]) -> None:
    """The kind of the table, its dtypes and names reach xgboost as if it had been given the whole."""
    sparse = ss.csr_matrix(np.nan_to_num(X_ARRAY))
    tables = {"numpy": X_ARRAY, "pandas": FRAME, "scipy": sparse, "pyarrow": pa.Table.from_pandas(FRAME)}
    whole: Any = tables[kind.removeprefix("chunked ")]
    X = cut_evenly(whole, 3) if kind.startswith("chunked") else whole
    params = {"objective": "binary:logistic", "max_depth": 4}
    plain = xgb.train({**params, **_threads(engine)}, xgb.DMatrix(whole, BINARY), 5)
    result = px.train(engine, params, matrix(engine, X, BINARY), 5)
    assert _dump(result["booster"]) == _dump(plain)
    assert (result["booster"].feature_names, result["booster"].feature_types) == (plain.feature_names, plain.feature_types)


def test_train_categorical_and_evals_equal_plain_even_for_unseen_categories(engine: Engine) -> None:
    """Categories survive the split, and an evaluation set with categories that training has not seen is evaluated rightly."""
    frame = FRAME.assign(c=CATEGORY.to_numpy())
    frame["c"] = frame.c.astype(CATEGORY.dtype)
    seen = (frame.c != "h").to_numpy()
    Xt, yt, Xe, ye = frame[seen], BINARY[seen], frame[~seen], BINARY[~seen]
    params = {"objective": "binary:logistic", "max_cat_to_onehot": 3}
    history: dict[str, Any] = {}
    plain_eval = xgb.DMatrix(Xe, ye, enable_categorical=True)
    plain = xgb.train(
        {**params, **_threads(engine)},
        xgb.DMatrix(Xt, yt, enable_categorical=True),
        6,
        evals=[(plain_eval, "e")],
        evals_result=history,
        verbose_eval=False,
    )
    dtrain = px.DMatrix(engine, Xt, yt, enable_categorical=True)
    deval = px.DMatrix(engine, Xe, ye, enable_categorical=True)
    result = px.train(engine, params, dtrain, 6, evals=[(deval, "e")], verbose_eval=False)
    assert (_dump(result["booster"]), result["history"]) == (_dump(plain), history)


@pytest.mark.parametrize("n", [1, 3])
def test_train_early_stopping_stops_where_plain_does(engine: Engine, n: int) -> None:
    """Best iteration, score and history are those of plain xgboost; predictions use the model as plain does."""
    params = {"objective": "binary:logistic", "eta": 0.9, "max_depth": 6}
    cut = 900
    history: dict[str, Any] = {}
    plain = xgb.train(
        {**params, **_threads(engine)},
        xgb.DMatrix(X_ARRAY[:cut], BINARY[:cut]),
        200,
        evals=[(xgb.DMatrix(X_ARRAY[cut:], BINARY[cut:]), "held")],
        early_stopping_rounds=3,
        evals_result=history,
        verbose_eval=False,
    )
    dtrain = px.DMatrix(engine, X_ARRAY[:cut], BINARY[:cut])
    deval = px.DMatrix(engine, cut_evenly(X_ARRAY[cut:], n), cut_evenly(BINARY[cut:], n))
    result = px.train(engine, params, dtrain, 200, evals=[(deval, "held")], early_stopping_rounds=3, verbose_eval=False)
    booster = result["booster"]
    assert booster.num_boosted_rounds() < 200
    assert (booster.best_iteration, booster.best_score) == (plain.best_iteration, plain.best_score)
    assert (_dump(booster), result["history"]) == (_dump(plain), history)


def test_train_going_on_from_a_model_with_categories_in_another_order_counts_them_as_the_model_does(engine: Engine) -> None:
    """The trees are those of the same rows with the model's order; what the model has no place for is refused."""
    values = np.random.default_rng(0).choice(["a", "b", "c"], 600)
    y = (values == "a") * 2.0 + (values == "c")
    frames = [pd.DataFrame({"x": pd.Categorical(values, categories=list(order))}) for order in ("abc", "cab")]
    params = {"max_depth": 2}
    first = xgb.train(params, xgb.DMatrix(frames[0], y, enable_categorical=True), 2)
    expected = xgb.train(params, xgb.DMatrix(frames[0], y, enable_categorical=True), 3, xgb_model=first)
    dtrain = px.DMatrix(engine, frames[1], y, enable_categorical=True)
    other = px.DMatrix(engine, frames[1].iloc[:50], y[:50], enable_categorical=True)
    result = px.train(engine, params, dtrain, 3, xgb_model=first, evals=[(other, "other")], verbose_eval=False)
    assert result["booster"].get_dump() == expected.get_dump()
    error = np.sqrt(np.mean((expected.predict(xgb.DMatrix(frames[0].iloc[:50], enable_categorical=True)) - y[:50]) ** 2))
    assert result["history"]["other"]["rmse"][-1] == pytest.approx(error, rel=1e-5)
    unseen = px.DMatrix(
        engine, frames[1].assign(x=pd.Categorical(np.where(values == "a", "d", values))), y, enable_categorical=True
    )
    with pytest.raises(InputError, match="categories of the model"):
        px.train(engine, params, unseen, 3, xgb_model=first)


@pytest.mark.parametrize("form", ["booster", "result", "path", "bytes"])
def test_train_going_on_from_a_model_equals_plain(engine: Engine, form: str, tmp_path: Any) -> None:
    """A model that was trained on other rows splits where these have no bin: continuation has to see the values."""
    params = {"objective": "binary:logistic", **_threads(engine)}
    first = xgb.train(params, xgb.DMatrix(X_ARRAY[:700], BINARY[:700]), 4)
    first.save_model(tmp_path / "model.ubj")
    given = {"booster": first, "result": {"booster": first}, "path": tmp_path / "model.ubj", "bytes": bytes(first.save_raw())}
    plain = xgb.train(params, xgb.DMatrix(X_ARRAY, BINARY), 4, xgb_model=first)
    dtrain = px.DMatrix(engine, cut_evenly(X_ARRAY, 3), cut_evenly(BINARY, 3))
    assert _dump(px.train(engine, params, dtrain, 4, xgb_model=given[form])["booster"]) == _dump(plain)


def test_train_custom_objective_metric_and_callback_equal_plain(engine: Engine) -> None:
    """Closures as objective and metric, and callbacks, do what they do in plain xgboost."""
    scale = 0.5

    def objective(predicted: np.ndarray, data: xgb.DMatrix) -> tuple[np.ndarray, np.ndarray]:
        error = predicted - data.get_label()
        return error * scale, np.full_like(error, scale)

    def metric(predicted: np.ndarray, data: xgb.DMatrix) -> tuple[str, float]:
        return "half", float(np.abs(predicted - data.get_label()).mean() * scale)

    def run(train: Any, data: Any, *head: Any) -> Any:
        callbacks = [xgb.callback.LearningRateScheduler(lambda i: 0.5 / (i + 1))]
        options = {
            "evals": [(data, "t")],
            "obj": objective,
            "custom_metric": metric,
            "callbacks": callbacks,
            "verbose_eval": False,
        }
        return train(*head, {"max_depth": 3, **_threads(engine)}, data, 5, **options)

    history: dict[str, Any] = {}
    plain = run(lambda *a, **k: xgb.train(*a, evals_result=history, **k), xgb.DMatrix(X_ARRAY, TARGET))
    result = run(px.train, px.DMatrix(engine, cut_evenly(X_ARRAY, 3), cut_evenly(TARGET, 3)), engine)
    assert (_dump(result["booster"]), result["history"]) == (_dump(plain), history)
    assert "half" in history["t"]


def test_train_quantile_matrix_with_ref_and_max_bin_equals_plain(engine: Engine) -> None:
    """The bins of the training data serve the evaluation data, also where the user says so."""
    params = {"max_bin": 16, **_threads(engine)}
    history: dict[str, Any] = {}
    qtrain = xgb.QuantileDMatrix(X_ARRAY, TARGET, max_bin=16)
    qeval = xgb.QuantileDMatrix(X_ARRAY[:500], TARGET[:500], max_bin=16, ref=qtrain)
    plain = xgb.train(params, qtrain, 5, evals=[(qeval, "e")], evals_result=history, verbose_eval=False)
    dtrain = px.QuantileDMatrix(engine, cut_evenly(X_ARRAY, 3), cut_evenly(TARGET, 3), max_bin=16)
    deval = px.QuantileDMatrix(engine, X_ARRAY[:500], TARGET[:500], max_bin=16, ref=dtrain)
    result = px.train(engine, params, dtrain, 5, evals=[(deval, "e")], verbose_eval=False)
    assert (_dump(result["booster"]), result["history"]) == (_dump(plain), history)


def test_train_feature_names_and_missing_reach_the_model(engine: Engine) -> None:
    """Names given for an array are the model's, and `missing` is a gap."""
    X = np.nan_to_num(X_ARRAY, nan=-999.0)
    names = ["w", "x", "y", "z"]
    plain = xgb.train(_threads(engine), xgb.DMatrix(X, TARGET, missing=-999.0, feature_names=names), 3)
    dtrain = px.DMatrix(engine, cut_evenly(X, 3), TARGET, missing=-999.0, feature_names=names)
    booster = px.train(engine, {}, dtrain, 3)["booster"]
    assert (booster.feature_names, _dump(booster)) == (names, _dump(plain))


def test_train_int_blocks_beside_float_blocks_is_training_on_floats(engine: Engine) -> None:
    """Partitions whose numeric dtypes differ train as their common dtype."""
    frame = FRAME[["a", "i"]]
    parts = [frame[:600], frame[600:].astype({"i": float})]

    plain = xgb.train(_threads(engine), xgb.DMatrix(frame.astype(float), TARGET), 3)
    booster = px.train(engine, {}, px.DMatrix(engine, Parts(*parts), TARGET), 3)["booster"]
    assert (_dump(booster), booster.feature_types) == (_dump(plain), ["float", "float"])


# --- threads, engines --------------------------------------------------------------------------------------------------


def test_train_more_threads_than_the_workers_have_warns_and_obeys() -> None:
    """The user's nthread wins, with a warning."""
    with InlineEngine() as engine:
        asked = sum(worker.nthreads for worker in engine.workers()) + 1
        dtrain = px.DMatrix(engine, X_ARRAY, TARGET)
        with pytest.warns(UserWarning, match=f"nthread={asked} is more than"):
            px.train(engine, {"n_jobs": asked}, dtrain, 1)


def test_train_without_client_uses_the_engine_of_the_data(engine: Engine) -> None:
    """None means the engine that holds the data."""
    dtrain = px.DMatrix(engine, X_ARRAY, TARGET)
    assert px.train(None, {}, dtrain, 2)["booster"].num_boosted_rounds() == 2


def test_train_on_another_engine_than_the_data_raises(engine: Engine) -> None:
    """Data does not follow from one engine to another unasked."""
    with InlineEngine() as other, pytest.raises(InputError, match="pass the same client"):
        px.train(other, {}, px.DMatrix(engine, X_ARRAY, TARGET), 1)


@pytest.mark.parametrize("quantised", [True, False])
def test_rank_has_let_go_of_its_partitions_when_training_begins(quantised: bool) -> None:
    """What is in a matrix is not kept a second time: raw partitions are gone before the first round."""
    parts = [{"X": X_ARRAY[i::2].copy(), "y": TARGET[i::2].copy()} for i in range(2)]
    kept = [weakref.ref(part["X"]) for part in parts]

    class Look(xgb.callback.TrainingCallback):
        alive: list[bool] | None = None

        def before_training(self, model: Any) -> Any:
            self.alive = [ref() is not None for ref in kept]
            return model

    look = Look()
    spec = MatrixSpec(np.nan, False, None, None, 256)
    job = Job({}, 1, spec, (), quantised, quantised, {"callbacks": [look]})
    shares = [(part, 0, len(part["y"])) for part in parts]
    parts.clear()
    train_rank(0, job, Task(1, None, None), (0, cloudpickle.dumps(None)), shares, [])
    assert look.alive == [False, False]


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_train_without_labels_raises(engine: Engine) -> None:
    """There is nothing to learn without y."""
    with pytest.raises(InputError, match="expected labels"):
        px.train(engine, {}, px.DMatrix(engine, X_ARRAY), 1)


def test_train_on_plain_dmatrix_says_what_to_pass(engine: Engine) -> None:
    """xgboost's own DMatrix is a type error that names ours."""
    with pytest.raises(TypeError, match=r"parml\.xgboost\.DMatrix"):
        px.train(engine, {}, xgb.DMatrix(X_ARRAY, TARGET), 1)


def test_train_text_column_is_named_before_training(engine: Engine) -> None:
    """A column that is no number is refused by its name and dtype."""
    dtrain = px.DMatrix(engine, FRAME.assign(carrier="UA"), TARGET)
    with pytest.raises(InputError, match="'carrier'"):
        px.train(engine, {}, dtrain, 1)


def test_train_categories_without_enable_categorical_says_so(engine: Engine) -> None:
    """The option that is missing is named."""
    with pytest.raises(InputError, match="enable_categorical=True"):
        px.train(engine, {}, px.DMatrix(engine, FRAME.assign(c=CATEGORY.to_numpy()).astype({"c": "category"}), TARGET), 1)


def test_train_evals_with_other_columns_are_refused(engine: Engine) -> None:
    """Evaluation data has the columns of the training data, in their order."""
    dtrain, deval = px.DMatrix(engine, FRAME, TARGET), px.DMatrix(engine, FRAME[["b", "a", "i", "t"]], TARGET)
    with pytest.raises(InputError, match="in the 'e' data too"):
        px.train(engine, {}, dtrain, 1, evals=[(deval, "e")])


def test_train_evals_with_codes_for_categories_are_refused(engine: Engine) -> None:
    """Numbers where training had categories would be taken for their codes."""
    frame = FRAME[["a"]].assign(c=CATEGORY)
    dtrain = px.DMatrix(engine, frame, TARGET, enable_categorical=True)
    deval = px.DMatrix(engine, frame.assign(c=1), TARGET, enable_categorical=True)
    with pytest.raises(InputError, match=r"\['c'\] are categories in one of them only"):
        px.train(engine, {}, dtrain, 1, evals=[(deval, "e")])


@pytest.mark.parametrize("name", ["held out", "a-b", "a:b", ""])
def test_train_evals_name_that_xgboost_cannot_read_back_is_refused(engine: Engine, name: str) -> None:
    """xgboost parses its own log line: such a name would end in an error about unpacking."""
    dtrain = px.DMatrix(engine, X_ARRAY, TARGET)
    with pytest.raises(InputError, match="as the name"):
        px.train(engine, {}, dtrain, 1, evals=[(dtrain, name)])


def test_train_wrong_number_of_feature_names_is_refused(engine: Engine) -> None:
    """One name for each column."""
    with pytest.raises(InputError, match="expected 4 feature_names"):
        px.train(engine, {}, px.DMatrix(engine, X_ARRAY, TARGET, feature_names=["a"]), 1)


def test_train_unknown_ranks_is_refused(engine: Engine) -> None:
    """A typo in `ranks` is named."""
    with pytest.raises(InputError, match="'host' or 'worker'"):
        px.train(engine, {}, px.DMatrix(engine, X_ARRAY, TARGET), 1, ranks="node")  # type: ignore[arg-type]


def test_train_error_of_the_users_objective_surfaces_and_the_next_training_works(engine: Engine) -> None:
    """What user code raises keeps its type; the engine is as good as before."""

    def broken(predicted: np.ndarray, data: xgb.DMatrix) -> Any:
        raise LookupError("my mistake")

    dtrain = px.DMatrix(engine, X_ARRAY, TARGET)
    with pytest.raises(LookupError, match="my mistake"):
        px.train(engine, {}, dtrain, 1, obj=broken)
    assert px.train(engine, {}, dtrain, 1)["booster"].num_boosted_rounds() == 1

"""parml.lightgbm on one host trains the model that lightgbm trains, whatever the split and the kind of the data."""

from __future__ import annotations

import weakref
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as ss

import parml.lightgbm as pl
from parml.data import Partitions
from parml.lightgbm import blocks, rank
from parml.testing.parts import Parts, cut_evenly
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError, NotSupported

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
TARGET = (FRAME.a + FRAME.b.fillna(0) * FRAME.i * 0.3 + FRAME.t + 0.3 * (CATEGORY.cat.codes % 3)).to_numpy()
BINARY = (TARGET > 0.5).astype("f4")
MULTI = np.digitize(TARGET, [-0.5, 1.0]).astype("f4")
WEIGHT = _rng.random(ROWS)
START = _rng.normal(size=ROWS)
GROUPS = np.array([7, 3, 20, 10, 10] * (ROWS // 50))
RELEVANCE = np.clip(np.digitize(TARGET, [-0.5, 0.5, 1.5]), 0, 3)
X_ARRAY = FRAME.to_numpy("f4")
QUIET = {"verbosity": -1, "deterministic": True, "force_row_wise": True}


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Any:
    with request.param() as engine:
        yield engine


def quiet(engine: Engine) -> dict[str, Any]:
    """As many threads for plain lightgbm as the engine has: sums over other shares are rounded otherwise."""
    return {**QUIET, "num_threads": sum(worker.nthreads for worker in engine.workers())}


def text(booster: lgb.Booster) -> str:
    """The whole model, without the parameters that it was trained with, but with the categories of pandas."""
    head, _, tail = booster.model_to_string(num_iteration=-1).partition("\nparameters:")
    return head + tail.partition("end of parameters")[2]


CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "binary": ({"objective": "binary", "metric": ["binary_logloss", "auc"]}, BINARY, {}),
    "multiclass": ({"objective": "multiclass", "num_class": 3}, MULTI, {}),
    "regression": ({"num_leaves": 7, "max_bin": 31}, TARGET, {}),
    "l1": ({"objective": "l1"}, TARGET, {}),
    "weights": ({"objective": "binary"}, BINARY, {"weight": WEIGHT}),
    "init score": ({"objective": "binary"}, BINARY, {"init_score": START}),
    "sampling": ({"bagging_fraction": 0.5, "bagging_freq": 1, "feature_fraction": 0.5, "seed": 7}, TARGET, {}),
    "sampled bins": ({"bin_construct_sample_cnt": 400}, TARGET, {}),
    "dart": ({"boosting": "dart", "drop_rate": 0.3}, TARGET, {}),
    "rf": ({"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}, TARGET, {}),
    "linear": ({"linear_tree": True}, TARGET, {}),
    "monotone": ({"monotone_constraints": [1, 0, 0, 0]}, TARGET, {}),
    "ranking": ({"objective": "lambdarank", "eval_at": [3, 5]}, RELEVANCE, {"group": GROUPS}),
}


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("case", CASES)
def test_train_in_any_partitions_makes_the_model_of_plain_lightgbm(engine: Engine, case: str, n: int) -> None:
    """Same text of the model and same history, for each objective and booster and any number of partitions."""
    params, y, fields = CASES[case]
    params = {**params, **quiet(engine)}
    history: dict[str, Any] = {}
    data = lgb.Dataset(X_ARRAY, y, **fields)
    plain = lgb.train(params, data, 5, valid_sets=[data], callbacks=[lgb.record_evaluation(history)])
    chunked = {name: value if name == "group" else cut_evenly(value, n) for name, value in fields.items()}
    train_set = pl.Dataset(engine, cut_evenly(X_ARRAY, n), cut_evenly(y, n), **chunked)
    result = pl.train(engine, params, train_set, 5, valid_sets=[train_set])
    assert text(result["booster"]) == text(plain)
    assert result["history"] == {name: dict(metrics) for name, metrics in history.items()}


@pytest.mark.parametrize("whole_bytes", [blocks.WHOLE_BYTES, 0], ids=["whole", "by blocks"])
@pytest.mark.parametrize(
    "kind",
    ["numpy", "ints", "pandas", "nullable", "chunked pandas", "chunked pyarrow", "pyarrow", "scipy", "chunked scipy"],
)
def test_train_from_any_kind_of_table_makes_the_same_model(
    engine: Engine, kind: str, whole_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of the table, its dtypes and names reach lightgbm as if it had been given the whole, large or small."""
    monkeypatch.setattr(blocks, "WHOLE_BYTES", whole_bytes)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 4 * 100)  # blocks of a hundred rows
    tables = {
        "numpy": X_ARRAY,
        "ints": FRAME[["i"]].to_numpy(),
        "pandas": FRAME,
        "nullable": FRAME.convert_dtypes(),
        "scipy": ss.csr_matrix(np.nan_to_num(X_ARRAY)),
        "pyarrow": pa.Table.from_pandas(FRAME.assign(t=FRAME.t.astype(int))),
    }
    whole: Any = tables[kind.removeprefix("chunked ")]
    X = cut_evenly(whole, 3) if kind.startswith("chunked") else whole
    params = {"objective": "binary", **quiet(engine)}
    plain = lgb.train(params, lgb.Dataset(whole, BINARY), 5)
    booster = pl.train(engine, params, pl.Dataset(engine, X, BINARY), 5)["booster"]
    assert text(booster) == text(plain)


@pytest.mark.parametrize("whole_bytes", [blocks.WHOLE_BYTES, 0], ids=["whole", "by blocks"])
def test_train_categories_and_valid_sets_equal_plain(engine: Engine, whole_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Categories survive the split, also where the evaluation data has others or in another order."""
    monkeypatch.setattr(blocks, "WHOLE_BYTES", whole_bytes)
    frame = FRAME.assign(c=CATEGORY, o=pd.Categorical(FRAME.i, ordered=True))
    frame.loc[::9, "c"] = None
    Xt, yt = frame[:900], BINARY[:900]
    Xe, ye = frame[900:].assign(c=frame.c[900:].cat.set_categories(list("hgfedcbaz"))), BINARY[900:]
    params = {"objective": "binary", **quiet(engine)}
    history: dict[str, Any] = {}
    data = lgb.Dataset(Xt, yt)
    record = lgb.record_evaluation(history)
    plain = lgb.train(params, data, 6, valid_sets=[lgb.Dataset(Xe, ye, reference=data)], callbacks=[record])
    train_set = pl.Dataset(engine, cut_evenly(Xt, 3), cut_evenly(yt, 3))
    held = pl.Dataset(engine, cut_evenly(Xe, 2), cut_evenly(ye, 2), reference=train_set)
    result = pl.train(engine, params, train_set, 6, valid_sets=held)
    assert text(result["booster"]) == text(plain)
    assert result["history"]["valid_0"] == dict(history["valid_0"])
    np.testing.assert_array_equal(pl.predict(engine, result, Xe), plain.predict(Xe))


@pytest.mark.parametrize("columns", [["i"], [2]], ids=["by name", "by number"])
def test_train_categorical_feature_and_names_given_equal_plain(engine: Engine, columns: list[Any]) -> None:
    """Names given for an array are the model's, and numbers may be taken as categories."""
    features: dict[str, Any] = {"feature_name": list(FRAME.columns), "categorical_feature": columns}
    plain = lgb.train(quiet(engine), lgb.Dataset(X_ARRAY, TARGET, **features), 3)
    booster = pl.train(engine, QUIET, pl.Dataset(engine, cut_evenly(X_ARRAY, 3), TARGET, **features), 3)["booster"]
    assert text(booster) == text(plain)


@pytest.mark.parametrize("by", ["params", "callback"])
@pytest.mark.parametrize("n", [1, 3])
def test_train_early_stopping_stops_where_plain_does(engine: Engine, n: int, by: str) -> None:
    """Best iteration, score and history are those of plain lightgbm; predictions use the model as plain does."""
    params = {"objective": "binary", "learning_rate": 0.9, "metric": ["auc", "binary_logloss"], **quiet(engine)}
    if by == "params":
        params["early_stopping_round"] = 3
    cut = 900

    def callbacks(history: dict[str, Any]) -> list[Any]:
        return [lgb.record_evaluation(history)] + ([] if by == "params" else [lgb.early_stopping(3, verbose=False)])

    history: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    data = lgb.Dataset(X_ARRAY[:cut], BINARY[:cut])
    held = lgb.Dataset(X_ARRAY[cut:], BINARY[cut:], reference=data)
    plain = lgb.train(params, data, 200, valid_sets=[held], valid_names=["held"], callbacks=callbacks(history))
    train_set = pl.Dataset(engine, X_ARRAY[:cut], BINARY[:cut])
    valid = pl.Dataset(engine, cut_evenly(X_ARRAY[cut:], n), cut_evenly(BINARY[cut:], n))
    result = pl.train(engine, params, train_set, 200, valid_sets=[valid], valid_names="held", callbacks=callbacks(seen))
    booster = result["booster"]
    assert 0 < booster.best_iteration == plain.best_iteration < 200
    assert booster.best_score == plain.best_score
    assert (text(booster), result["history"]) == (text(plain), history)
    assert seen == history  # the user's own dict is filled too
    np.testing.assert_array_equal(pl.predict(engine, result, X_ARRAY), plain.predict(X_ARRAY))


@pytest.mark.parametrize("form", ["booster", "result", "path"])
def test_train_going_on_from_a_model_equals_plain(engine: Engine, form: str, tmp_path: Any) -> None:
    """Training goes on from the scores of another model, and has its trees."""
    params = {"objective": "binary", **quiet(engine)}
    first = lgb.train(params, lgb.Dataset(FRAME[:700], BINARY[:700]), 4)
    first.save_model(tmp_path / "model.txt")
    given = {"booster": first, "result": {"booster": first}, "path": tmp_path / "model.txt"}
    plain = lgb.train(params, lgb.Dataset(FRAME, BINARY), 4, init_model=first)
    train_set = pl.Dataset(engine, cut_evenly(FRAME, 3), cut_evenly(BINARY, 3))
    booster = pl.train(engine, params, train_set, 4, init_model=given[form])["booster"]
    assert text(booster) == text(plain)
    assert booster.num_trees() == 8


def test_train_custom_objective_metric_and_callback_equal_plain(engine: Engine) -> None:
    """Closures as objective and metric, and callbacks before an iteration, do what they do in plain lightgbm."""
    scale = 0.5

    def objective(predicted: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        error = predicted - data.get_label()
        return error * scale, np.full_like(error, scale)

    def metric(predicted: np.ndarray, data: lgb.Dataset) -> tuple[str, float, bool]:
        return "half", float(np.abs(predicted - data.get_label()).mean() * scale), False

    params = {"objective": objective, **quiet(engine)}

    def callbacks() -> list[Any]:
        return [lgb.reset_parameter(learning_rate=lambda i: 0.5 / (i + 1))]

    history: dict[str, Any] = {}
    data = lgb.Dataset(X_ARRAY, TARGET)
    record = lgb.record_evaluation(history)
    plain = lgb.train(params, data, 5, valid_sets=[data], feval=metric, callbacks=[*callbacks(), record])
    train_set = pl.Dataset(engine, cut_evenly(X_ARRAY, 3), cut_evenly(TARGET, 3))
    result = pl.train(engine, params, train_set, 5, valid_sets=[train_set], feval=metric, callbacks=callbacks())
    assert (text(result["booster"]), result["history"]) == (text(plain), history)
    assert "half" in history["training"]


def test_train_parameters_of_the_dataset_are_used(engine: Engine) -> None:
    """What a Dataset was given is a parameter of the training, unless that has it too."""
    plain = lgb.train(quiet(engine), lgb.Dataset(X_ARRAY, TARGET, params={"max_bin": 9}), 3)
    booster = pl.train(engine, QUIET, pl.Dataset(engine, X_ARRAY, TARGET, params={"max_bin": 9}), 3)["booster"]
    assert text(booster) == text(plain)


def test_train_int_blocks_beside_float_blocks_is_training_on_floats(engine: Engine) -> None:
    """Partitions whose numeric dtypes differ train as their common dtype."""
    frame = FRAME[["a", "i"]]
    parts = Parts(frame[:600], frame[600:].astype({"i": float}))
    plain = lgb.train(quiet(engine), lgb.Dataset(frame, TARGET), 3)
    assert text(pl.train(engine, QUIET, pl.Dataset(engine, parts, TARGET), 3)["booster"]) == text(plain)


# --- threads, engines --------------------------------------------------------------------------------------------------


def test_train_more_threads_than_the_workers_have_warns_and_obeys() -> None:
    """The user's num_threads wins, under any of its names, with a warning."""
    with InlineEngine() as engine:
        asked = sum(worker.nthreads for worker in engine.workers()) + 1
        train_set = pl.Dataset(engine, X_ARRAY, TARGET)
        with pytest.warns(UserWarning, match=f"num_threads={asked} is more than"):
            booster = pl.train(engine, {"n_jobs": asked, **QUIET}, train_set, 1)["booster"]
        assert f"[num_threads: {asked}]" in booster.model_to_string()


def test_train_without_client_uses_the_engine_of_the_data(engine: Engine) -> None:
    """None means the engine that holds the data."""
    assert pl.train(None, QUIET, pl.Dataset(engine, X_ARRAY, TARGET), 2)["booster"].num_trees() == 2


def test_train_on_another_engine_than_the_data_raises(engine: Engine) -> None:
    """Data does not follow from one engine to another unasked."""
    with InlineEngine() as other, pytest.raises(InputError, match="pass the same client"):
        pl.train(other, QUIET, pl.Dataset(engine, X_ARRAY, TARGET), 1)


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, ss.csr_matrix])
def test_rank_has_let_go_of_its_partitions_when_training_begins(kind: Any) -> None:
    """What is in a Dataset is not kept a second time: raw partitions are gone before the first round."""
    parts = [{"X": kind(X_ARRAY[i::2].copy()), "y": TARGET[i::2].copy()} for i in range(2)]
    kept = [weakref.ref(part["X"]) for part in parts]
    alive: list[bool] = []

    def look(env: Any) -> None:
        alive.extend(ref() is not None for ref in kept)

    with InlineEngine() as engine:
        columns = pl.Dataset(engine, X_ARRAY, TARGET).columns()
    job = rank.Job(dict(QUIET), {}, 1, columns, (), (look,))
    shares = [(part, 0, part["X"].shape[0]) for part in parts]
    parts.clear()
    rank.train_rank(0, job, rank.Task(1), (0, b""), None, shares, [])
    assert alive == [False, False]


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_train_without_labels_raises(engine: Engine) -> None:
    """There is nothing to learn without y."""
    with pytest.raises(InputError, match="expected labels"):
        pl.train(engine, QUIET, pl.Dataset(engine, X_ARRAY), 1)


def test_train_on_plain_dataset_says_what_to_pass(engine: Engine) -> None:
    """lightgbm's own Dataset is a type error that names ours."""
    with pytest.raises(TypeError, match=r"parml\.lightgbm\.Dataset"):
        pl.train(engine, QUIET, lgb.Dataset(X_ARRAY, TARGET), 1)


def test_train_text_column_is_named_before_training(engine: Engine) -> None:
    """A column that is no number is refused by its name and dtype."""
    with pytest.raises(InputError, match="'carrier'"):
        pl.train(engine, QUIET, pl.Dataset(engine, FRAME.assign(carrier="UA"), TARGET), 1)


def test_train_arrow_categories_say_what_to_do(engine: Engine) -> None:
    """LightGBM reads no categories from pyarrow: refused, instead of their codes taken for numbers."""
    table = pa.Table.from_pandas(FRAME.assign(c=CATEGORY))
    with pytest.raises(InputError, match=r"to_pandas\(\)"):
        pl.train(engine, QUIET, pl.Dataset(engine, table, TARGET), 1)


def test_train_categories_that_differ_between_partitions_are_refused(engine: Engine) -> None:
    """One code has to mean one category."""
    parts = Parts(*(pd.DataFrame({"c": pd.Categorical(list(letters) * 10)}) for letters in ("ab", "bc")))
    with pytest.raises(InputError, match="same categories in every partition"):
        pl.train(engine, QUIET, pl.Dataset(engine, parts, np.arange(40)), 1)


@pytest.mark.parametrize("y", [np.r_[np.nan, TARGET[1:]], TARGET[1:]], ids=["NaN", "too few"])
def test_train_labels_that_do_not_fit_are_refused(engine: Engine, y: Any) -> None:
    """Labels that are missing or of another length are told before training."""
    with pytest.raises(InputError, match=r"NaN|as many rows"):
        pl.train(engine, QUIET, pl.Dataset(engine, X_ARRAY, y), 1)


def test_train_no_rows_at_all_is_refused(engine: Engine) -> None:
    """Nothing to train on is an error that says so."""
    with pytest.raises(InputError, match="expected rows"):
        pl.train(engine, QUIET, pl.Dataset(engine, X_ARRAY[:0], TARGET[:0]), 1)


def test_groups_that_do_not_add_up_are_refused(engine: Engine) -> None:
    """Sizes of groups are those of all rows."""
    with pytest.raises(InputError, match="group sizes that add up to the 1500 rows"):
        pl.Dataset(engine, X_ARRAY, RELEVANCE, group=GROUPS[1:])
    with pytest.raises(InputError, match="as many rows in"):
        pl.Dataset(engine, cut_evenly(X_ARRAY, 2), RELEVANCE, group=GROUPS[1:])


def test_train_valid_sets_that_do_not_fit_are_refused(engine: Engine) -> None:
    """Evaluation data has the columns, categories, labels and groups of the training data."""
    frame = FRAME[["a"]].assign(c=CATEGORY)
    train_set = pl.Dataset(engine, frame, RELEVANCE, group=GROUPS)
    for valid, match in [
        (pl.Dataset(engine, FRAME[["a", "b"]], RELEVANCE, group=GROUPS), "in the 'valid_0' data too"),
        (pl.Dataset(engine, frame.assign(c=1), RELEVANCE, group=GROUPS), r"\['c'\] are categories in one of them only"),
        (pl.Dataset(engine, frame, group=GROUPS), "expected y in the"),
        (pl.Dataset(engine, frame, RELEVANCE), "expected group in the"),
    ]:
        with pytest.raises(InputError, match=match):
            pl.train(engine, QUIET, train_set, 1, valid_sets=[valid])


def test_train_two_valid_sets_of_one_name_are_refused(engine: Engine) -> None:
    """The history is kept by name."""
    train_set = pl.Dataset(engine, X_ARRAY, TARGET)
    with pytest.raises(InputError, match="different names"):
        pl.train(engine, QUIET, train_set, 1, valid_sets=[train_set, train_set])
    with pytest.raises(InputError, match="a name for each"):
        pl.train(engine, QUIET, train_set, 1, valid_sets=[train_set, train_set], valid_names=["a"])


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ({"feature_name": ["a"]}, "expected 4 feature names"),
        ({"categorical_feature": ["q"]}, "found 'q'"),
        ({"categorical_feature": [4]}, "found 4"),
    ],
)
def test_dataset_columns_that_are_not_there_are_refused(engine: Engine, features: dict[str, Any], match: str) -> None:
    """Names and numbers are those of columns."""
    with pytest.raises(InputError, match=match):
        pl.train(engine, QUIET, pl.Dataset(engine, FRAME, TARGET, **features), 1)


def test_train_parameters_that_parml_sets_itself_are_refused(engine: Engine) -> None:
    """Machines and ports are not the user's to choose; feature-parallel learning cannot be had."""
    train_set = pl.Dataset(engine, X_ARRAY, TARGET)
    with pytest.raises(InputError, match="'num_machines', 'workers'"):
        pl.train(engine, {"workers": "a:1,b:2", "num_machines": 2}, train_set, 1)
    with pytest.raises(NotSupported, match="all rows on every rank"):
        pl.train(engine, {"tree_learner": "feature"}, train_set, 1)
    with pytest.raises(InputError, match="'host' or 'worker'"):
        pl.train(engine, QUIET, train_set, 1, ranks="node")  # type: ignore[arg-type]


def test_train_error_of_the_users_objective_surfaces_and_the_next_training_works(engine: Engine) -> None:
    """What user code raises keeps its type; the engine is as good as before."""

    def broken(predicted: np.ndarray, data: lgb.Dataset) -> Any:
        raise LookupError("my mistake")

    train_set = pl.Dataset(engine, X_ARRAY, TARGET)
    with pytest.raises(LookupError, match="my mistake"):
        pl.train(engine, {"objective": broken, **QUIET}, train_set, 1)
    assert pl.train(engine, QUIET, train_set, 1)["booster"].num_trees() == 1


def test_partitions_are_what_the_user_gave(engine: Engine) -> None:
    """A Dataset holds partitions and shows them."""
    data = pl.Dataset(engine, cut_evenly(X_ARRAY, 2), TARGET, group=GROUPS)
    assert isinstance(data.partitions, Partitions)
    assert repr(data).startswith("Dataset(3 partitions of X, y, group on ")

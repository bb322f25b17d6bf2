"""Dask's arrays and dataframes as input: the models of the same rows in memory, computed by the engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as ss
import xgboost as xgb

import parml.lightgbm as pl
import parml.xgboost as px
from parml.data import Partitions
from parml.from_dask import as_collection
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

dask = pytest.importorskip("dask", reason="dask is not installed: nothing of it can be handed over")
da = pytest.importorskip("dask.array", reason="dask[array] is not installed")
dd = pytest.importorskip("dask.dataframe", reason="dask[dataframe] is not installed")

ROWS = 600
_rng = np.random.default_rng(11)
FRAME = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
FRAME["y"] = FRAME.a + FRAME.b * FRAME.c
X, Y = FRAME[list("abcd")], FRAME["y"]
WEIGHT = np.linspace(0.5, 2, ROWS)


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with request.param() as engine:
        yield engine


def _frames() -> tuple[Any, Any, Any]:
    rows = dd.from_pandas(FRAME, npartitions=4)
    return rows[list("abcd")], rows["y"], dd.from_pandas(pd.Series(WEIGHT), npartitions=4)


def _unknown_chunks() -> tuple[Any, Any, Any]:
    found = tuple(value.values for value in _frames())
    assert np.isnan(found[0].shape[0])
    return found


def _cut_into_columns() -> tuple[Any, Any, Any]:
    return (
        da.from_array(X.to_numpy(), chunks=(150, 3)),
        da.from_array(Y.to_numpy(), chunks=150),
        da.from_array(WEIGHT, chunks=150),
    )


def _sparse() -> tuple[Any, Any, Any]:
    rows, y, weight = _cut_into_columns()
    return rows.map_blocks(ss.csr_matrix), y, weight


def _in_part() -> tuple[Any, Any, Any]:
    return _frames()[0], Y, WEIGHT


FORMS = [_frames, _unknown_chunks, _cut_into_columns, _sparse, _in_part]


@pytest.mark.parametrize("form", FORMS)
def test_xgboost_on_dask_is_xgboost_on_the_same_rows(engine: Engine, form: Any) -> None:
    """Trees and predictions; the rows evaluated on may be Dask's as well."""
    rows, y, weight = form()
    names, whole = {"feature_names": list("abcd")}, X if form in (_frames, _in_part) else X.to_numpy()
    plain = xgb.train({"nthread": 1}, xgb.DMatrix(whole, Y, weight=WEIGHT, **names), 5)
    dtrain = px.DMatrix(engine, rows, y, weight=weight, **names)
    booster = px.train(engine, {"nthread": 1}, dtrain, 5, verbose_eval=False)["booster"]
    assert booster.save_raw("json") == plain.save_raw("json")
    expected = plain.predict(xgb.DMatrix(whole, **names))
    unnamed = {"validate_features": whole is X}
    np.testing.assert_array_equal(px.predict(engine, booster, rows, **unnamed).compute(engine), expected)
    np.testing.assert_array_equal(px.inplace_predict(engine, booster, rows, **unnamed).compute(engine), expected)


@pytest.mark.parametrize("form", FORMS)
def test_lightgbm_on_dask_is_lightgbm_on_the_same_rows(engine: Engine, form: Any) -> None:
    """Trees and predictions."""
    rows, y, weight = form()
    params = {"num_threads": 1, "verbose": -1}
    whole = X.to_numpy() if form is not _sparse else ss.csr_matrix(X.to_numpy())
    plain = lgb.train(params, lgb.Dataset(whole, Y, weight=WEIGHT, feature_name=list("abcd")), 5)
    data = pl.Dataset(engine, rows, y, weight=weight, feature_name=list("abcd"))
    booster = pl.train(engine, params, data, 5)["booster"]
    assert booster.dump_model()["tree_info"] == plain.dump_model()["tree_info"]
    np.testing.assert_array_equal(pl.predict(engine, booster, rows).compute(engine), plain.predict(whole))


@pytest.mark.parametrize("form", [_frames, _unknown_chunks])
@pytest.mark.parametrize("name", ["XGBClassifier", "LGBMClassifier"])
@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
def test_estimators_on_dask_are_the_plain_ones_on_the_same_rows(engine: Engine, name: str, form: Any) -> None:
    """Labels are found over all partitions; the rows trained on are known again among those to evaluate on."""
    ours, plain = (getattr(side, name)(n_estimators=5, n_jobs=1) for side in {"X": (px, xgb), "L": (pl, lgb)}[name[0]])
    ours.set_params(client=engine)
    rows, y, weight = form()
    labels, whole, codes = y > 0.5, X if form is _frames else X.to_numpy(), (Y > 0.5).astype(int)
    quiet: dict[str, Any] = {"verbose": False} if name[0] == "X" else {}
    ours.fit(rows, labels, sample_weight=weight, eval_set=[(rows, labels)], **quiet)
    plain.fit(whole, codes, sample_weight=WEIGHT, eval_set=[(whole, codes)], **quiet)
    assert ours.classes_.tolist() == [False, True]
    np.testing.assert_array_equal(ours.predict_proba(rows).compute(engine), plain.predict_proba(whole))
    assert ours.score(rows, labels, weight) == plain.score(whole, codes, WEIGHT)
    histories = [model.evals_result() if name[0] == "X" else model.evals_result_ for model in (ours, plain)]
    assert histories[0] == histories[1]


def test_external_memory_groups_and_a_mean_of_all(engine: Engine) -> None:
    """What recipes are made of may be Dask's graph; so may group sizes."""
    rows, y, _ = _cut_into_columns()
    centred = rows - rows.mean(axis=0)
    grades, sizes = (y > 0).astype(int), da.from_array(np.full(ROWS // 20, 20), chunks=10)
    params = {"objective": "rank:ndcg", "nthread": 1}
    whole = xgb.DMatrix(centred.compute(), grades.compute())
    whole.set_group(sizes.compute())
    plain = xgb.train(params, whole, 5)
    dtrain = px.DMatrix(engine, centred, grades, qid=np.repeat(np.arange(ROWS // 20), 20), external_memory=True)
    by_size = px.DMatrix(engine, centred, grades, group=sizes)
    for data in (dtrain, by_size):
        assert px.train(engine, params, data, 5, verbose_eval=False)["booster"].save_raw("json") == plain.save_raw("json")


def test_partitions_what_several_need_is_computed_once(tmp_path: Path, engine: Engine) -> None:
    """A mean over all rows does not read them once more for each partition."""
    calls = tmp_path / "calls"

    def read(i: int) -> pd.DataFrame:
        with calls.open("a") as file:
            file.write("read\n")
        return X[i * 150 : i * 150 + 150]

    rows = dd.from_map(read, range(4), meta=X[:0])
    centred = rows - rows.mean()
    partitions = Partitions.start(engine, X=centred)
    assert partitions.schema().rows == (150,) * 4
    assert len(calls.read_text().split()) == 4
    found = np.concatenate(engine.gather(partitions.fields["X"]))
    np.testing.assert_allclose(found, X - X.mean(), atol=1e-12)


def test_dask_on_a_cluster_is_computed_by_its_workers(cluster_client: Any) -> None:
    """Graphs travel; the processes are not this one."""
    rows, y, _ = _frames()
    where = rows.map_partitions(
        lambda part: pd.DataFrame({"pid": np.full(len(part), float(__import__("os").getpid()))}), meta={"pid": "f8"}
    )
    pids = {worker.pid for worker in cluster_client.workers()}
    found = cluster_client.gather(Partitions.start(cluster_client, X=where).fields["X"])
    assert {int(pid) for part in found for pid in part["pid"]} <= pids
    plain = xgb.train({"nthread": 2}, xgb.DMatrix(X, Y), 5)
    ours = px.train(cluster_client, {}, px.DMatrix(cluster_client, rows, y), 5, verbose_eval=False)["booster"]
    np.testing.assert_allclose(ours.predict(xgb.DMatrix(X)), plain.predict(xgb.DMatrix(X)), rtol=1e-5)


class _OldForm:
    """A graph of tuples, as Dask's were before 2025."""

    def __dask_graph__(self) -> dict[Any, Any]:
        return {"all": (np.arange, 6.0), ("part", 0): (np.reshape, "all", (3, 2)), ("part", 1): (np.negative, ("part", 0))}

    def __dask_keys__(self) -> list[Any]:
        return [("part", 0), ("part", 1)]

    def __dask_postpersist__(self) -> Any:
        return lambda graph, **_: self, ()

    __dask_postcompute__ = __dask_postpersist__
    __dask_optimize__ = staticmethod(lambda graph, keys, **_: graph)
    __dask_scheduler__ = staticmethod(dask.get)


@pytest.mark.parametrize("converted", [True, False])
def test_graph_of_the_old_form_is_computed(engine: Engine, converted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a Dask that knows both forms, and by one that knows no other: then a partition is one task."""
    if not converted:
        monkeypatch.delattr("dask._task_spec.convert_legacy_graph")
    found = engine.gather(Partitions.start(engine, X=_OldForm()).fields["X"])
    expected = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(found, [expected, -expected])


def test_different_partitions_and_other_rows_are_told_as_for_any_collection(engine: Engine) -> None:
    """Dask's partitions are checked like all others."""
    with pytest.raises(InputError, match="same number of partitions"):
        px.DMatrix(engine, _frames()[0], da.from_array(Y.to_numpy(), chunks=100))
    with pytest.raises(InputError, match="as many rows in y as in X"):
        px.DMatrix(
            engine, da.from_array(X.to_numpy(), chunks=(150, 4)), da.from_array(Y.to_numpy(), chunks=((100, 200, 150, 150),))
        ).schema()


def test_dask_is_imported_by_nothing_but_its_own_objects() -> None:
    """parml and its trainers work where dask is not installed."""
    code = "import sys, parml, parml.xgboost, parml.from_dask as f; f.as_collection([1]); sys.exit('dask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert as_collection(X) is X

"""External memory: the trees of data in memory, from more data than a worker may hold, and nothing left on the disk."""

from __future__ import annotations

import os
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import xgboost as xgb
from sklearn.metrics import roc_auc_score

import parml.dataframe as pdf
import parml.xgboost as px
from parml.boosting.recipes import Recipe, Recipes
from parml.data import PartitionedArray
from parml.xgboost.external import disk
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError, NotSupported
from parml_core.graph import Graph, Ref, Task

ROWS = 600
_rng = np.random.default_rng(5)
FRAME = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
FRAME.iloc[::7, 0] = np.nan
FRAME["i"] = _rng.integers(0, 9, ROWS)
TARGET = (FRAME.a.fillna(0) + FRAME.b * FRAME.c).to_numpy()
CATEGORY = pd.Categorical.from_codes(_rng.integers(0, 3, ROWS), ["x", "y", "z"])
QID = np.repeat(np.arange(ROWS // 20), 20)
EDGES = (130, 130, 400)


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with request.param() as engine:
        yield engine


def _dump(booster: xgb.Booster) -> bytearray:
    return booster.save_raw("json")


class _Batches(xgb.DataIter):
    """What a user of plain xgboost writes."""

    def __init__(self, prefix: str, **fields: Any) -> None:
        self.fields, self.at = fields, 0
        super().__init__(prefix, on_host=False)

    def reset(self) -> None:
        self.at = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        edges = [0, *EDGES, ROWS]
        if self.at == len(edges) - 1:
            return False
        start, stop = edges[self.at : self.at + 2]
        input_data(**{name: value[start:stop] for name, value in self.fields.items()})
        self.at += 1
        return True


CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "numpy": ({}, FRAME.to_numpy(), {"y": TARGET}),
    "pandas": ({"objective": "binary:logistic", "eval_metric": ["auc", "logloss"]}, FRAME, {"y": TARGET > 0}),
    "categories": ({}, FRAME.assign(k=CATEGORY), {"y": TARGET}),
    "weights": ({"max_bin": 32}, FRAME, {"y": TARGET, "weight": np.linspace(0.5, 2, ROWS)}),
    "margin": ({"grow_policy": "lossguide", "max_leaves": 8}, FRAME, {"y": TARGET, "base_margin": np.linspace(-1, 1, ROWS)}),
    "survival": (
        {"objective": "survival:aft", "eval_metric": "aft-nloglik"},
        FRAME,
        {"label_lower_bound": np.exp(TARGET), "label_upper_bound": np.exp(TARGET) + 1},
    ),
    "multi-output": ({"multi_strategy": "multi_output_tree"}, FRAME, {"y": np.c_[TARGET, FRAME.b]}),
    "dart": ({"booster": "dart", "rate_drop": 0.3, "subsample": 0.5, "seed": 3}, FRAME, {"y": TARGET}),
    "ranking": ({"objective": "rank:ndcg"}, FRAME, {"y": np.digitize(TARGET, [-1, 0, 1]), "qid": QID}),
}


@pytest.mark.parametrize("matrix", [px.DMatrix, px.QuantileDMatrix])
@pytest.mark.parametrize("case", CASES)
def test_train_grows_the_trees_of_data_in_memory(
    engine: Engine, parts: Any, case: str, matrix: type[px.DMatrix], tmp_path: Path
) -> None:
    """Those of plain xgboost on all rows, also evaluated on external data; a partition is empty, and groups are cut."""
    params, X, fields = CASES[case]
    params = {**params, "nthread": 1}
    history: dict[str, Any] = {}
    names = {"y": "label"}
    plain_data = xgb.DMatrix(X, **{names.get(name, name): value for name, value in fields.items()}, enable_categorical=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = xgb.train(params, plain_data, 5, evals=[(plain_data, "t")], evals_result=history, verbose_eval=False)
        chunked = {name: parts(value, *EDGES) for name, value in fields.items()}
        options = {"enable_categorical": True, "external_memory": str(tmp_path)}
        dtrain, other = (matrix(engine, parts(X, *EDGES), **chunked, **options) for _ in range(2))
        evals = [(dtrain, "t")] if case == "categories" else [(dtrain, "t"), (other, "other")]
        result = px.train(engine, params, dtrain, 5, evals=evals, verbose_eval=False)
    assert _dump(result["booster"]) == _dump(plain)
    assert result["history"]["t"] == history["t"]
    assert result["history"].get("other", history["t"]) == history["t"]
    assert list(tmp_path.iterdir()) == []


def test_train_equals_plain_external_memory_over_the_same_batches(engine: Engine, parts: Any, tmp_path: Path) -> None:
    """What ExtMemQuantileDMatrix makes of the same partitions, byte for byte."""
    batches = _Batches(str(tmp_path / "page"), data=FRAME, label=TARGET)
    plain = xgb.train({"nthread": 1}, xgb.ExtMemQuantileDMatrix(batches, nthread=1), 5)
    dtrain = px.DMatrix(engine, parts(FRAME, *EDGES), parts(TARGET, *EDGES), external_memory=True)
    ours = px.train(engine, {"nthread": 1}, dtrain, 5, verbose_eval=False)["booster"]
    assert ours.save_raw("json") == plain.save_raw("json")


def test_train_fields_in_memory_are_cut_to_the_partitions(engine: Engine, parts: Any) -> None:
    """Only X has to be a collection; another number of labels is refused."""
    expected = xgb.train({"nthread": 1}, xgb.DMatrix(FRAME, TARGET), 5)
    dtrain = px.DMatrix(engine, parts(FRAME, *EDGES), TARGET, external_memory=True)
    assert _dump(px.train(engine, {"nthread": 1}, dtrain, 5, verbose_eval=False)["booster"]) == _dump(expected)
    with pytest.raises(InputError, match="as many rows in y"):
        px.DMatrix(engine, parts(FRAME, *EDGES), TARGET[1:], external_memory=True)


def test_predict_on_external_data_is_lazy_and_plain(engine: Engine, parts: Any) -> None:
    """By partition, with the margin that the matrix has."""
    margin = np.linspace(-1, 1, ROWS)
    booster = xgb.train({}, xgb.DMatrix(FRAME, TARGET), 5)
    data = px.DMatrix(engine, parts(FRAME, *EDGES), base_margin=parts(margin, *EDGES), external_memory=True)
    lazy = px.predict(engine, booster, data)
    assert isinstance(lazy, PartitionedArray) and lazy.npartitions == 4
    np.testing.assert_array_equal(lazy.compute(engine), booster.predict(xgb.DMatrix(FRAME, base_margin=margin)))


def test_train_from_parquet_with_a_mean_of_all_rows(engine: Engine, tmp_path: Path) -> None:
    """Planned as one: X and y of a file are read together, and what depends on all rows is computed once."""
    for i in range(3):
        FRAME.assign(y=TARGET)[i * 200 : i * 200 + 200].to_parquet(tmp_path / f"part-{i}.parquet")
    rows = pdf.read_parquet(str(tmp_path))
    rows["b"] = rows["b"] - rows["b"].mean()
    dtrain = px.DMatrix(engine, rows[["a", "b", "c"]], rows["y"], external_memory=True)
    ours = px.train(engine, {"nthread": 1}, dtrain, 5, verbose_eval=False)["booster"]
    X = rows[["a", "b", "c"]].compute(engine=engine)
    assert _dump(ours) == _dump(xgb.train({"nthread": 1}, xgb.DMatrix(X, TARGET), 5))


# --- recipes ------------------------------------------------------------------------------------------------------------


def test_recipes_compute_once_what_all_need_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    """A total of all partitions is made once; reading and what two neighbours share is done again for each that needs it."""
    calls = tmp_path / "calls"

    def note(name: str, *values: Any) -> Any:
        with calls.open("a") as file:
            file.write(f"{name}\n")
        return sum(values[1:], values[0]) if values else 0

    reads = [Task(f"read:{i}", note, ("read", np.full((2, 2), float(i)))) for i in range(4)]
    total = Task("total", note, ("total", *(Ref(task.key) for task in reads)))
    ends = [Task(f"end:{i}", note, ("end", Ref(f"read:{i}"), Ref(f"read:{max(i - 1, 0)}"), Ref("total"))) for i in range(4)]
    X = PartitionedArray(Graph([*reads, total, *ends]), [task.key for task in ends])
    recipes = Recipes.start(engine, X=X)
    assert recipes.schema().rows == (2, 2, 2, 2)
    counted = {name: calls.read_text().split().count(name) for name in ("read", "total", "end")}
    assert counted == {"read": 4 + 7, "total": 1, "end": 4}
    batch = recipes.batch(3)
    cooked = batch["recipe"].cook({key: future.result() for key, future in batch["inputs"].items()})["X"]
    assert (cooked == 3 + 2 + 6).all()


# --- what cannot be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [{"tree_method": "approx"}, {"tree_method": "exact"}, {"booster": "gblinear"}, {"updater": "prune"}, {"device": "cuda"}],
    ids=str,
)
def test_train_what_has_no_quantised_pages_is_refused(engine: Engine, parts: Any, params: dict[str, Any]) -> None:
    """Before training, and by name."""
    dtrain = px.DMatrix(engine, parts(FRAME, *EDGES), parts(TARGET, *EDGES), external_memory=True)
    with pytest.raises(NotSupported, match=next(iter(params))):
        px.train(engine, params, dtrain, 2)


def test_train_from_a_model_on_and_what_is_in_memory_are_refused(engine: Engine, parts: Any) -> None:
    """What would be wrong, or no help; and folds, which select rows."""
    X, y = parts(FRAME, *EDGES), parts(TARGET, *EDGES)
    dtrain = px.DMatrix(engine, X, y, external_memory=True)
    with pytest.raises(NotSupported, match="xgb_model"):
        px.train(engine, {}, dtrain, 2, xgb_model=xgb.train({}, xgb.DMatrix(FRAME, TARGET), 1))
    with pytest.raises(InputError, match="read_parquet"):
        px.DMatrix(engine, FRAME, TARGET, external_memory=True)
    with pytest.raises(InputError, match="without external_memory"):
        px.cv(engine, {}, dtrain)
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):
        px.train(engine, {}, px.DMatrix(engine, X, y, external_memory="/no/such/folder"), 2)
    kinds = parts(FRAME.assign(k=CATEGORY), *EDGES)
    data, other = (px.DMatrix(engine, kinds, y, enable_categorical=True, external_memory=outside) for outside in (False, True))
    with pytest.raises(NotSupported, match="found categories"):
        px.train(engine, {}, data, 2, evals=[(other, "other")])


# --- over processes -----------------------------------------------------------------------------------------------------


def test_disk_what_a_killed_process_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    """A folder whose process is gone goes with the next start; that of a process that lives stays."""
    with disk(str(tmp_path)) as place, place.pages() as prefix:
        Path(prefix).write_text("page")
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            with disk(str(tmp_path)):
                os.write(writer, b"1")
                signal.pause()
        assert os.read(reader, 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        assert len(list(tmp_path.iterdir())) == 2
        with disk(str(tmp_path)):
            assert len(list(tmp_path.iterdir())) == 2
        assert Path(prefix).read_text() == "page"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 3, 9])
def test_disk_stores_few_partitions_at_a_time_in_order(tmp_path: Path, threads: int) -> None:
    """Whatever the number of threads: the rows asked for, in order, labels hold on to nothing; errors come through."""
    alive, most = [0], [0]
    lock = threading.Lock()

    def make(i: int) -> np.ndarray:
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        value = np.full((10, 2), float(i))
        weakref.finalize(value, lambda: alive.__setitem__(0, alive[0] - 1))
        return value

    def share(i: int, fn: Any = make) -> Any:
        tasks = [Task("X", fn, (i,)), Task("y", np.ndarray.__getitem__, (Ref("X"), (slice(None), 0)))]
        return {"recipe": Recipe(tasks, {"X": "X", "y": "y"}), "inputs": {}}, 1, 8

    def fail(i: int) -> np.ndarray:
        raise LookupError(i)

    with disk(str(tmp_path)) as place:
        batches = place.store([share(i) for i in range(20)], threads)
        assert most[0] <= min(threads, 4) + 1
        for i, batch in enumerate(batches):
            np.testing.assert_array_equal(batch["X"].load(), np.full((7, 2), float(i)))
            np.testing.assert_array_equal(batch["y"], np.full(7, float(i)))
            assert batch["y"].base is None
        with pytest.raises(LookupError, match="7"):
            place.store([share(1), share(7, fail), share(2)], threads)
    assert list(tmp_path.iterdir()) == []


class _KillOnce(xgb.callback.TrainingCallback):
    """Kills its own rank in round 3, and notes how many bytes have a name in the folder then."""

    def __init__(self, marker: Path, folder: Path) -> None:
        self.marker, self.folder = marker, folder

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if epoch == 3 and not self.marker.exists():
            sizes = [path.lstat().st_size for path in self.folder.rglob("*") if path.is_file() or path.is_symlink()]
            self.marker.write_text(str(sum(sizes)))
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def test_train_rank_that_is_killed_leaves_no_data_and_goes_on(cluster_client: Any, parts: Any, tmp_path: Path) -> None:
    """On two ranks: the model is that of an undisturbed training, and as good as plain xgboost's; the folder is empty."""
    folder, marker = tmp_path / "disk", tmp_path / "killed"
    folder.mkdir()
    params = {"objective": "binary:logistic", "max_depth": 3}

    def train(**options: Any) -> Any:
        X, y = parts(FRAME, *EDGES), parts(TARGET > 0, *EDGES)
        dtrain = px.DMatrix(cluster_client, X, y, external_memory=str(folder))
        return px.train(cluster_client, params, dtrain, 8, ranks="worker", verbose_eval=False, **options)["booster"]

    calm = train()
    disturbed = train(callbacks=[_KillOnce(marker, folder)], checkpoint_every=1)
    assert int(marker.read_text()) < 1000
    assert _dump(disturbed) == _dump(calm)
    assert list(folder.iterdir()) == []
    plain = xgb.train(params, xgb.DMatrix(FRAME, TARGET > 0), 8)
    ours, expected = (roc_auc_score(TARGET > 0, booster.predict(xgb.DMatrix(FRAME))) for booster in (calm, plain))
    assert ours == pytest.approx(expected, abs=0.01)


# --- under a limit ------------------------------------------------------------------------------------------------------

LIMIT_BYTES = 400 * 2**20
BLOCK = (12_500, 80)
N_BLOCKS = -(-3 * LIMIT_BYTES // (BLOCK[0] * BLOCK[1] * 8))


def _block(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 8, BLOCK, dtype="i1").astype("f8")


def _label(X: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(X[:, :8].sum())).normal(size=len(X))
    return (X[:, 0] + X[:, 1] * X[:, 2] / 4 + 3 * noise > 7).astype("f4")


@contextmanager
def _watched(cluster: Any) -> Iterator[list[int]]:
    """Samples of the memory of a cluster's workers and ranks together, what they share counted once."""
    nanny = psutil.Process(next(iter(cluster.worker_pids().values()))).parent()
    assert nanny is not None
    samples: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            total = 0
            for process in nanny.children():
                try:
                    if process.name().startswith(("parml worker", "parml train_ra")):
                        total += process.memory_full_info().pss
                except (psutil.Error, OSError):
                    continue
            samples.append(total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_train_three_times_the_memory_limit_stays_under_it() -> None:
    """1.2 GiB of rows on a worker that may have 400 MiB: worker and rank together stay below, and the model is a good one."""
    from parml_core.client import Client, LocalCluster

    blocks = [Task(f"external-block:{i}", _block, (i,)) for i in range(N_BLOCKS)]
    labels = [Task(f"external-label:{i}", _label, (Ref(task.key),)) for i, task in enumerate(blocks)]
    X = PartitionedArray(Graph(blocks), [task.key for task in blocks])
    y = PartitionedArray(Graph([*blocks, *labels]), [task.key for task in labels])
    params = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.5}
    with LocalCluster(1, 1, memory_limit=LIMIT_BYTES, dashboard_port=None) as cluster, Client(cluster) as client:
        before = cluster.worker_pids()
        with _watched(cluster) as samples:
            dtrain = px.DMatrix(client, X, y, external_memory=True)
            booster = px.train(client, params, dtrain, 3, verbose_eval=False)["booster"]
        assert cluster.worker_pids() == before
    print(f"at most {max(samples) / 2**20:.0f} MiB")
    assert max(samples) < LIMIT_BYTES, f"{max(samples) / 2**20:.0f} MiB"
    assert max(samples) > 50 * 2**20  # the processes were found
    some = np.concatenate([_block(i) for i in range(5)])
    plain = xgb.train(params, xgb.QuantileDMatrix(some, np.concatenate([_label(_block(i)) for i in range(5)])), 3)
    unseen = _block(N_BLOCKS)
    ours, expected = (roc_auc_score(_label(unseen), model.predict(xgb.DMatrix(unseen))) for model in (booster, plain))
    assert ours == pytest.approx(expected, abs=0.01) and ours > 0.75

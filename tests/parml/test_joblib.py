"""The joblib backend on the threads engine and on the cluster: what joblib promises, and what parml adds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import threadpoolctl
from joblib import Parallel, delayed, parallel_backend, parallel_config
from joblib.parallel import BatchedCalls
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import parml._joblib_call
import parml.joblib
from parml._joblib_batch import capped_threads, pack, run_batch
from parml.joblib import ParmlBackend
from parml_core.engine.base import Engine, Future, WorkerInfo
from parml_core.engine.registry import use
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import SerializationError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

BOUND_S = 30.0


class Watching(Engine):
    """Another engine, and a record of what it was asked for."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.scattered: list[weakref.ref[Any]] = []
        self.cancelled: list[Future[Any]] = []
        self.submitted = self.under_way = self.most_under_way = 0
        self.workers_shown: list[WorkerInfo] | None = None
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            self.submitted += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        future = self.inner.submit(fn, *args, **kwargs)
        future.add_done_callback(self._one_done)
        return future

    def _one_done(self, _: Future[Any]) -> None:
        with self._lock:
            self.under_way -= 1

    def scatter(self, values: Sequence[Any], *, replicas: int = 1) -> list[Future[Any]]:
        futures = self.inner.scatter(values, replicas=replicas)
        self.scattered += [weakref.ref(future) for future in futures]
        return futures

    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        futures = list(futures)
        self.cancelled += futures
        self.inner.cancel(futures)

    def workers(self) -> list[WorkerInfo]:
        return self.inner.workers() if self.workers_shown is None else self.workers_shown

    def submit_graph(self, graph: Any, wants: Any) -> Any:
        return self.inner.submit_graph(graph, wants)

    def gather(self, futures: Sequence[Future[Any]]) -> Any:
        return self.inner.gather(futures)

    def wait(self, futures: Any, **kwargs: Any) -> Any:
        return self.inner.wait(futures, **kwargs)

    def locate(self, futures: Any) -> Any:
        return self.inner.locate(futures)

    def gang(self, fn: Any, args_by_rank: Any, **kwargs: Any) -> Any:
        return self.inner.gang(fn, args_by_rank, **kwargs)

    def blocked(self) -> Any:
        return self.inner.blocked()


@pytest.fixture
def threads() -> Iterator[Watching]:
    """Two slots, in this process."""
    engine = ThreadsEngine(2)
    yield Watching(engine)
    engine.close()


@pytest.fixture(params=["threads", "cluster"])
def engine(request: pytest.FixtureRequest) -> Iterator[Watching]:
    """Two slots, in this process and as two processes."""
    if request.param == "threads":
        inner: Engine = ThreadsEngine(2)
        yield Watching(inner)
        inner.close()
    else:
        yield Watching(request.getfixturevalue("cluster_client"))


def meet(folder: Path, count: int) -> bool:
    """Whether `count` tasks are here before the time is over; each waits for all."""
    (folder / f"{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}").touch()
    return until(lambda: len(list(folder.iterdir())) >= count)


def until(condition: Callable[[], bool]) -> bool:
    """Wait until something visible to all processes holds, within a bound."""
    deadline = time.monotonic() + BOUND_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


def square(x: int) -> int:
    return x * x


SQUARES = [square(i) for i in range(60)]


# --- asking for it -------------------------------------------------------------------------------------------------------


def test_parallel_each_way_of_asking_gives_results_in_order(engine: Watching) -> None:
    """A configuration, the older context, the name and an instance lead to the same engine and the same list."""
    calls = [delayed(square)(i) for i in range(60)]
    with use(engine):
        with parallel_config("parml"):
            assert Parallel()(calls) == SQUARES
        with parallel_backend("parml"):
            assert Parallel()(calls) == SQUARES
        before = engine.submitted
        assert Parallel(backend="parml")(calls) == SQUARES
        assert Parallel(n_jobs=2, backend=ParmlBackend())(calls) == SQUARES
        assert engine.submitted > before


def test_parallel_client_given_runs_there(threads: Watching) -> None:
    """An engine that the configuration names is used, whatever is current."""
    with parallel_config("parml", client=threads):
        assert Parallel()(delayed(square)(i) for i in range(60)) == SQUARES
    assert threads.submitted > 0


def test_client_that_is_no_engine_raises_type_error() -> None:
    """What cannot run tasks is refused when it is named."""
    with pytest.raises(TypeError):
        parallel_config("parml", client="tcp://127.0.0.1:8786")


def test_parallel_as_context_reused_for_several_calls(engine: Watching) -> None:
    """One Parallel serves call after call, also after one that failed."""
    with use(engine), Parallel(backend="parml", n_jobs=2) as parallel:
        assert parallel(delayed(square)(i) for i in range(60)) == SQUARES
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, i) for i in (1, 0, 2))
        assert parallel(delayed(square)(i) for i in range(60)) == SQUARES


# --- n_jobs --------------------------------------------------------------------------------------------------------------


def test_n_jobs_below_slots_is_never_exceeded(tmp_path: Path) -> None:
    """Of six slots a call with n_jobs=2 uses two, both of them."""
    with ThreadsEngine(6) as inner:
        engine = Watching(inner)
        with parallel_config("parml", client=engine):
            assert all(Parallel(n_jobs=2, batch_size=1, pre_dispatch="all")(delayed(meet)(tmp_path, 2) for _ in range(40)))
        assert engine.most_under_way == 2


def test_n_jobs_above_slots_does_not_send_what_would_wait_for_a_slot(threads: Watching, tmp_path: Path) -> None:
    """What waits here goes to the first slot that is free, and not behind a task that may be a long one."""
    flag = tmp_path / "go"
    with parallel_config("parml", client=threads):
        results = Parallel(n_jobs=6, batch_size=1, return_as="generator")(delayed(wait_for)(flag) for _ in range(12))
        assert until(lambda: threads.under_way == 2)
        assert threads.submitted == 2
        flag.touch()
        assert list(results) == ["late"] * 12


def test_n_jobs_minus_two_leaves_one_slot_free(tmp_path: Path) -> None:
    """A negative n_jobs counts back from all slots."""
    with ThreadsEngine(4) as inner:
        engine = Watching(inner)
        with parallel_config("parml", client=engine, n_jobs=-2):
            assert joblib.effective_n_jobs(None) == 3
            assert all(Parallel(batch_size=1, pre_dispatch="all")(delayed(meet)(tmp_path, 3) for _ in range(40)))
        assert engine.most_under_way == 3


def test_n_jobs_two_runs_two_tasks_at_once(engine: Watching, tmp_path: Path) -> None:
    """Two tasks that wait for each other both end."""
    with parallel_config("parml", client=engine):
        assert Parallel(n_jobs=2)(delayed(meet)(tmp_path, 2) for _ in range(2)) == [True, True]


def test_effective_n_jobs_tells_the_slots(threads: Watching) -> None:
    """joblib and scikit-learn learn from it in how many pieces to cut their work."""
    with parallel_config("parml", client=threads):
        assert [joblib.effective_n_jobs(n) for n in (-1, None, 1, 7)] == [2, 2, 1, 7]
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)(delayed(square)(i) for i in range(2))


def test_cluster_of_one_slot_still_runs_the_calls() -> None:
    """joblib runs a call with one job in the caller's thread; all slots of a small cluster are a cluster all the same."""
    with ThreadsEngine(1) as inner:
        engine = Watching(inner)
        with parallel_config("parml", client=engine):
            where = Parallel(n_jobs=-1)(delayed(threading.get_ident)() for _ in range(5))
        assert threading.get_ident() not in where
        assert engine.submitted > 0


def test_n_jobs_one_is_a_loop_in_the_caller(threads: Watching) -> None:
    """What asks for one job gets joblib's plain loop."""
    with parallel_config("parml", client=threads):
        assert set(Parallel(n_jobs=1)(delayed(threading.get_ident)() for _ in range(5))) == {threading.get_ident()}
    assert threads.submitted == 0


def test_worker_that_joins_gets_work_of_a_running_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that wait until four are under way end, though the call began with two slots."""
    monkeypatch.setattr(parml._joblib_call, "REFRESH_S", 0.02)
    with ThreadsEngine(4) as inner:
        engine = Watching(inner)
        info = inner.workers()[0]
        worker = WorkerInfo(id="a", name="a", host=info.host, nthreads=2)
        joined = WorkerInfo(id="b", name="b", host=info.host, nthreads=2)
        engine.workers_shown = [worker]

        def join() -> None:
            until(lambda: len(list(tmp_path.iterdir())) >= 2)
            engine.workers_shown = [worker, joined]

        thread = threading.Thread(target=join)
        thread.start()
        with parallel_config("parml", client=engine):
            assert all(Parallel(batch_size=1)(delayed(meet)(tmp_path, 4) for _ in range(12)))
        thread.join()


def test_tiny_calls_travel_in_batches(threads: Watching) -> None:
    """The number of tasks follows the time that the calls take and not the number of calls."""
    with parallel_config("parml", client=threads):
        assert Parallel()(delayed(square)(i) for i in range(5000)) == [i * i for i in range(5000)]
    assert threads.submitted < 200


# --- results as they come ------------------------------------------------------------------------------------------------


def test_generator_gives_results_in_order(engine: Watching) -> None:
    """return_as="generator" gives the list's items one by one."""
    with use(engine):
        results = Parallel(backend="parml", return_as="generator")(delayed(square)(i) for i in range(60))
        assert list(results) == SQUARES


def wait_for(file: Path) -> str:
    return "late" if until(file.exists) else "never"


def test_generator_unordered_gives_what_is_ready_first(engine: Watching, tmp_path: Path) -> None:
    """A first task that ends last does not hold up the second one's result."""
    flag = tmp_path / "go"
    with use(engine):
        calls = [delayed(wait_for)(flag), delayed(str)("early")]
        results = Parallel(n_jobs=2, backend="parml", return_as="generator_unordered")(calls)
        assert next(results) == "early"
        flag.touch()
        assert list(results) == ["late"]


@pytest.mark.filterwarnings("ignore:.*tasks.*:UserWarning")
def test_generator_closed_early_cancels_the_rest(engine: Watching, tmp_path: Path) -> None:
    """Nothing of an abandoned call starts any more, and the next call works."""
    flag = tmp_path / "go"
    with use(engine):
        calls = [delayed(str)("first"), *(delayed(wait_for)(flag) for _ in range(20))]
        results = Parallel(n_jobs=2, backend="parml", return_as="generator", batch_size=1)(calls)
        assert next(results) == "first"
        results.close()
        assert engine.cancelled
        submitted = engine.submitted
        flag.touch()
        assert until(lambda: engine.under_way == 0)
        assert engine.submitted == submitted
        assert Parallel(backend="parml")(delayed(square)(i) for i in range(60)) == SQUARES


def test_call_while_a_generator_is_open_under_one_configuration(engine: Watching) -> None:
    """Calls of one configuration do not disturb each other."""
    with use(engine), parallel_config("parml"):
        open_ = Parallel(return_as="generator")(delayed(square)(i) for i in range(60))
        first = next(open_)
        assert Parallel()(delayed(square)(i) for i in range(60)) == SQUARES
        assert [first, *open_] == SQUARES


def test_two_threads_share_one_backend(engine: Watching) -> None:
    """Two threads that use Parallel at the same time each get their own results."""
    backend = ParmlBackend(client=engine)
    results: dict[int, list[int]] = {}

    def run(offset: int) -> None:
        with parallel_config(backend):
            results[offset] = Parallel()(delayed(square)(offset + i) for i in range(300))

    threads = [threading.Thread(target=run, args=(offset,)) for offset in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {offset: [(offset + i) ** 2 for i in range(300)] for offset in (0, 1000)}


# --- what goes wrong -----------------------------------------------------------------------------------------------------


class OwnError(Exception):
    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)


def fail_at_seven(i: int) -> int:
    if i == 7:
        raise OwnError(i, "is seven")
    return i


def test_exception_of_a_call_surfaces_with_its_type_and_place(engine: Watching) -> None:
    """The caller sees the user's exception and the line that raised it."""
    with use(engine):
        with pytest.raises(Exception, match="is seven") as caught:
            Parallel(backend="parml")(delayed(fail_at_seven)(i) for i in range(200))
        assert type(caught.value).__name__ == "OwnError"
        assert caught.value.args == (7, "is seven")
        assert Parallel(backend="parml")(delayed(square)(i) for i in range(60)) == SQUARES


def test_exception_of_a_call_shows_where_it_was_raised(engine: Watching) -> None:
    """The printed traceback names the function that failed, wherever it ran."""
    import traceback

    with use(engine), pytest.raises(Exception, match="is seven") as caught:
        Parallel(backend="parml")(delayed(fail_at_seven)(i) for i in range(200))
    assert "fail_at_seven" in "".join(traceback.format_exception(caught.value))


def test_timeout_raises_and_the_next_call_works(engine: Watching, tmp_path: Path) -> None:
    """A call that is not done in time ends, and leaves the engine usable."""
    flag = tmp_path / "go"
    with use(engine):
        with pytest.raises(multiprocessing.TimeoutError):  # as joblib says it
            Parallel(n_jobs=2, backend="parml", timeout=0.2)(delayed(wait_for)(flag) for _ in range(2))
        flag.touch()
        assert Parallel(backend="parml")(delayed(square)(i) for i in range(60)) == SQUARES


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_exception_in_the_callers_iterator_surfaces(threads: Watching, kind: type[BaseException]) -> None:
    """Whatever the iterator raises, late and on joblib's thread, reaches the caller instead of a wait for ever."""

    def calls() -> Iterator[Any]:
        for i in range(100):
            if i == 60:
                raise kind("the source is broken")
            yield delayed(square)(i)

    with parallel_config("parml", client=threads), pytest.raises(kind, match="the source is broken"):
        Parallel(n_jobs=2)(calls())


@pytest.mark.parametrize("position", [0, 60])
def test_unpicklable_argument_raises_serialization_error(engine: Watching, position: int) -> None:
    """The error names function and argument, from the first batch as from one that a callback dispatched."""
    with use(engine):
        calls = [delayed(square)(threading.Lock() if i == position else i) for i in range(100)]
        with pytest.raises(SerializationError, match=r"argument 0 of square \(a _thread.lock\)"):
            Parallel(n_jobs=2, backend="parml", batch_size=1)(calls)
        assert Parallel(backend="parml")(delayed(square)(i) for i in range(60)) == SQUARES


def test_unpicklable_function_raises_serialization_error(engine: Watching) -> None:
    """A closure over what cannot be pickled is named, and the next call works."""
    lock = threading.Lock()

    def locked(i: int) -> int:
        with lock:
            return i

    with use(engine):
        with pytest.raises(SerializationError, match=r"the function .*locked") as caught:
            Parallel(backend="parml")(delayed(locked)(i) for i in range(4))
        assert isinstance(caught.value, pickle.PicklingError)  # as it is with loky
        assert Parallel(backend="parml")(delayed(square)(i) for i in range(60)) == SQUARES


# --- arguments -----------------------------------------------------------------------------------------------------------


def test_functions_of_every_kind_are_called(engine: Watching) -> None:
    """Lambdas, closures, partials, bound methods and joblib's own wrapper reach the tasks."""
    base = 10
    wrapped = joblib.wrap_non_picklable_objects(lambda x: x + base)
    functions: list[Callable[[int], Any]] = [lambda x: x + base, partial(divmod, 17), "a-b".split, wrapped]
    arguments: list[Any] = [1, 5, "-", 1]
    with use(engine):
        results = Parallel(backend="parml")(delayed(f)(x) for f, x in zip(functions, arguments, strict=True))
    assert results == [11, (3, 2), ["a", "b"], 11]


LARGE = 20_000  # float64: 160 kB


def total(array: Any, i: int) -> float:
    return float(array.sum()) + i


class Holder:
    def __init__(self, array: Any) -> None:
        self.array = array

    def total(self, i: int) -> float:
        return total(self.array, i)


def test_large_array_is_scattered_once_wherever_it_stands(engine: Watching) -> None:
    """As an argument, in a dict, a partial, a closure or a bound method: one array, put on the cluster once a call."""
    array = np.arange(float(LARGE))
    functions: list[Callable[[int], float]] = [
        lambda i: total(array, i),
        partial(total, array),
        Holder(array).total,
    ]
    expected = [array.sum() + i for i in range(40)]
    with parallel_config("parml", client=engine):
        assert Parallel(batch_size=1)(delayed(total)(array, i) for i in range(40)) == expected
        assert len(engine.scattered) == 1
        for n, function in enumerate(functions, start=2):
            assert Parallel(batch_size=1)(delayed(function)(i) for i in range(40)) == expected
            assert len(engine.scattered) == n
        nested = Parallel(batch_size=1)(delayed(lambda d, i: d["x"][0].sum() + i)({"x": [array]}, i) for i in range(40))
        assert nested == expected
        assert len(engine.scattered) == 5


@pytest.mark.parametrize(
    ("value", "scattered"),
    [
        (pd.DataFrame({"a": np.arange(float(LARGE)), "b": ["x"] * LARGE}), 1),
        (pd.Series(np.arange(float(LARGE))), 1),
        (pa.table({"a": np.arange(float(LARGE))}), 1),
        (scipy.sparse.csr_matrix(np.eye(200) + 1), 2),  # data and indices
        (memoryview(np.arange(float(LARGE))), 1),
        (memoryview(b"small"), 0),
        (np.arange(10.0), 0),
        (np.array([{"a": 1}] * LARGE), 0),
        (np.ma.masked_less(np.arange(float(LARGE)), 10), 0),
        (np.asfortranarray(np.arange(float(LARGE)).reshape(100, -1)), 1),
    ],
    ids=["frame", "series", "arrow", "sparse", "view", "small-view", "small", "objects", "masked", "fortran"],
)
def test_value_reaches_the_tasks_as_it_is(engine: Watching, value: Any, scattered: int) -> None:
    """Type and content survive, and what is large and shareable is scattered once."""

    def describe(value: Any) -> tuple[str, bytes, int]:
        content = {"memoryview": bytes, "csr_matrix": lambda v: v.toarray().tobytes()}.get(type(value).__name__)
        data = content(value) if content else repr(value).encode()
        return type(value).__name__, data, getattr(value, "size", len(value) if not hasattr(value, "tocsr") else value.nnz)

    with parallel_config("parml", client=engine):
        found = Parallel(n_jobs=2, batch_size=1)(delayed(describe)(value) for _ in range(10))
    assert found == [describe(value)] * 10
    assert len(engine.scattered) == scattered


def keep(array: np.ndarray) -> tuple[int, int]:
    """Which process this is, and where the array lies in it; the array stays, so that no other can lie there."""
    sys.__dict__.setdefault("_kept_by_test", []).append(array)
    return os.getpid(), array.__array_interface__["data"][0]


def forget_kept() -> None:
    sys.__dict__.pop("_kept_by_test", None)


def test_large_array_arrives_at_most_once_on_each_worker(cluster_client: Any) -> None:
    """Forty tasks on two workers see two arrays at most, and not forty."""
    array = np.arange(float(LARGE))
    with parallel_config("parml", client=cluster_client):
        seen = Parallel(batch_size=1)(delayed(keep)(array) for _ in range(40))
    cluster_client.run(forget_kept)
    assert os.getpid() not in {pid for pid, _ in seen}
    assert len(set(seen)) == len({pid for pid, _ in seen})


def test_dropped_chunks_leave_the_engine_while_the_call_runs(threads: Watching) -> None:
    """A generator of fresh arrays does not fill the workers: what the caller has dropped is dropped there too."""
    most_alive = 0

    def chunks() -> Iterator[Any]:
        nonlocal most_alive
        for i in range(60):
            most_alive = max(most_alive, sum(ref() is not None for ref in threads.scattered))
            yield delayed(total)(np.full(LARGE, float(i)), 0)

    with parallel_config("parml", client=threads):
        assert Parallel(batch_size=1)(chunks()) == [float(i) * LARGE for i in range(60)]
    gc.collect()
    assert len(threads.scattered) == 60
    assert most_alive < 30
    assert not any(ref() is not None for ref in threads.scattered)


def test_arrays_that_pickling_makes_are_not_scattered(threads: Watching) -> None:
    """A fitted forest shows a fresh copy of its trees to every pickler: they travel with the batch."""
    X, y = make_classification(8000, random_state=0, flip_y=0.3)
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    assert forest.estimators_[0].tree_.__getstate__()["nodes"].nbytes > 64 * 1024
    with parallel_config("parml", client=threads):
        predicted = Parallel(n_jobs=2)(delayed(forest.predict)(X[i : i + 5]) for i in range(0, 50, 5))
    assert (np.concatenate(predicted) == forest.predict(X[:50])).all()
    assert not threads.scattered


def write(array: Any) -> float:
    array[0] = 7.0
    return float(array[0])


def test_write_to_a_shared_array_raises_and_says_what_to_do(engine: Watching) -> None:
    """Tasks share the array: one that writes is told why it cannot."""
    array = np.zeros(LARGE)
    with parallel_config("parml", client=engine):
        with pytest.raises(ValueError, match="read-only") as caught:
            Parallel(n_jobs=2)(delayed(write)(array) for _ in range(4))
        assert any("copy the array" in note for note in caught.value.__notes__)
        assert Parallel(n_jobs=2, max_nbytes=None)(delayed(write)(array) for _ in range(4)) == [7.0] * 4
    assert not array.any()


def test_write_to_a_frame_stays_in_its_task(engine: Watching) -> None:
    """A frame is copied on write: neither other tasks nor the caller see the change."""
    frame = pd.DataFrame({"a": np.zeros(LARGE)})

    def change(frame: pd.DataFrame) -> tuple[float, float]:
        before = frame["a"].sum()
        frame.loc[0, "a"] = 1.0
        return before, frame["a"].sum()

    with parallel_config("parml", client=engine):
        assert Parallel(n_jobs=2, batch_size=1)(delayed(change)(frame) for _ in range(6)) == [(0.0, 1.0)] * 6
    assert frame["a"].sum() == 0


@pytest.mark.parametrize(
    ("function", "name"),
    [(square, "square"), (partial(partial(square)), "square"), (lambda: 0, "lambda"), (Holder(None), "Holder")],
)
def test_pack_knows_the_name_of_the_function(function: Any, name: str) -> None:
    """The status page shows whose tasks run, and not joblib's."""
    assert pack(BatchedCalls([delayed(function)()], (None, 1))).name == name


def test_run_batch_lets_go_of_the_arrays_without_the_garbage_collector() -> None:
    """They lie in memory that processes share, and the next call's copy takes the place of this one's if nobody has that."""
    array = np.zeros(20_000)
    packed = pack(partial(np.sum, array))
    assert list(packed.large) == [0]
    gc.disable()
    try:
        before = sys.getrefcount(array)
        assert run_batch(packed.data, packed.large, packed.private)[1] == 0.0
        assert sys.getrefcount(array) == before
    finally:
        gc.enable()


def test_pack_same_array_twice_arrives_as_one() -> None:
    """Identity within a batch survives, as it does in any pickle."""
    array = np.zeros(LARGE)
    packed = pack(partial(lambda a, b: a is b, array, array))
    assert run_batch(packed.data, packed.large, packed.private)[1] is True
    assert len(packed.large) == 1


# --- nesting -------------------------------------------------------------------------------------------------------------


def tree(depth: int, width: int) -> int:
    """Calls of calls: how many leaves."""
    if depth == 0:
        return 1
    return sum(Parallel(n_jobs=2)(delayed(tree)(depth - 1, width) for _ in range(width)))


def test_nested_calls_three_and_more_levels_deep_end(engine: Watching) -> None:
    """More waiting calls than slots at every level, and no deadlock."""
    with use(engine), parallel_config("parml"):
        assert tree(4, 4) == 4**4


# Each of these has leaves of its own name: a scheduler sends ahead by what it has learnt about a name, and these wait for each
# other.


def meet_beside_parent(folder: Path) -> bool:
    return meet(folder, 2)


def nested(folder: Path) -> list[bool]:
    return Parallel(n_jobs=2)(delayed(meet_beside_parent)(folder) for _ in range(2))


def test_nested_call_runs_on_the_cluster_beside_its_waiting_parent(engine: Watching, tmp_path: Path) -> None:
    """The inner tasks take both slots: the parent has given its own back."""
    with use(engine), parallel_config("parml"):
        assert Parallel(n_jobs=2)([delayed(nested)(tmp_path)]) == [[True, True]]


def meet_beside_plain_task(folder: Path) -> bool:
    return meet(folder, 2)


def plain(folder: Path) -> list[bool]:
    import parml  # noqa: F401  registers the backend

    return Parallel(n_jobs=2, backend="parml")(delayed(meet_beside_plain_task)(folder) for _ in range(2))


def test_call_inside_a_plain_task_runs_on_the_same_engine(engine: Watching, tmp_path: Path) -> None:
    """A task that was submitted without joblib may use joblib: the cluster is the one it runs on."""
    assert engine.submit(plain, tmp_path).result() == [True, True]


def test_nested_call_without_n_jobs_is_a_loop(threads: Watching) -> None:
    """As with joblib's own backends, an inner call is parallel when it asks for it."""

    def inner() -> bool:
        return set(Parallel()(delayed(threading.get_ident)() for _ in range(4))) == {threading.get_ident()}

    with use(threads), parallel_config("parml"):
        assert all(Parallel()(delayed(inner)() for _ in range(4)))


# --- threads -------------------------------------------------------------------------------------------------------------


def inner_threads() -> tuple[set[int], str | None]:
    import numpy.linalg  # noqa: F401  loads BLAS

    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}, os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("limit", [1, 3])
def test_inner_max_num_threads_is_honoured(engine: Watching, limit: int) -> None:
    """Loaded libraries are limited in the tasks, and the environment limits those to be loaded."""
    with parallel_config("parml", client=engine, inner_max_num_threads=limit):
        found = Parallel(n_jobs=2)(delayed(inner_threads)() for _ in range(4))
    assert found == [({limit}, str(limit))] * 4


def test_capped_threads_restores_what_was_before() -> None:
    """After the last of overlapping caps the libraries and the environment are as before the first."""
    before = inner_threads()
    with capped_threads(2):
        with capped_threads(1):
            assert inner_threads() == ({1}, "1")
        assert os.environ["OMP_NUM_THREADS"] == "1"  # the strictest holds until all are gone
    assert inner_threads() == before


def test_capped_threads_holds_beside_a_thread_that_limited_before() -> None:
    """threadpoolctl lets the first thread that sets a limit keep others from it; a task's cap holds all the same."""
    found: list[Any] = []

    def capped() -> None:
        with capped_threads(1):
            found.append(inner_threads())

    limiter = threadpoolctl.threadpool_limits(2)  # now this thread is the one
    try:
        thread = threading.Thread(target=capped)
        thread.start()
        thread.join()
    finally:
        limiter.restore_original_limits()
    assert found == [({1}, "1")]


def test_sharedmem_runs_on_threads_with_its_own_n_jobs(threads: Watching, tmp_path: Path) -> None:
    """Tasks that need the caller's memory see it, and three jobs are three threads."""
    seen: list[bool] = []
    with parallel_config("parml", client=threads, n_jobs=3):
        Parallel(require="sharedmem")(delayed(lambda: seen.append(meet(tmp_path, 3)))() for _ in range(3))
    assert seen == [True] * 3
    assert threads.submitted == 0


def test_sharedmem_that_asks_for_the_slots_of_the_cluster_gets_the_processors_of_this_machine() -> None:
    """A forest's predict asks for effective_n_jobs threads, which are a hundred on a large cluster."""
    with ThreadsEngine(100) as engine, parallel_config("parml", client=engine):
        n_jobs = joblib.effective_n_jobs(-1)
        assert n_jobs == 100
        with Parallel(n_jobs=n_jobs, require="sharedmem") as parallel:
            assert parallel._effective_n_jobs() == min(joblib.cpu_count(), 100)


# --- scikit-learn --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return make_classification(1500, 20, random_state=0)


def test_cross_val_score_equals_the_sequential_one(engine: Watching, data: tuple[np.ndarray, np.ndarray]) -> None:
    """The same folds, the same scores, to the last bit."""
    model = make_pipeline(StandardScaler(), LogisticRegression())
    expected = cross_val_score(model, *data, cv=5, scoring="roc_auc")
    with use(engine), parallel_config("parml"):
        assert (cross_val_score(model, *data, cv=5, scoring="roc_auc") == expected).all()
    assert engine.submitted > 0


def test_grid_search_equals_the_sequential_one(engine: Watching, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Equal scores for every candidate, and the data scattered once for all of them."""
    search = GridSearchCV(LogisticRegression(), {"C": [0.01, 0.1, 1.0, 10.0]}, cv=3)
    expected = search.fit(*data).cv_results_["mean_test_score"]
    with use(engine), parallel_config("parml"):
        found = search.fit(*data).cv_results_["mean_test_score"]
    assert (found == expected).all()
    assert len(engine.scattered) == 1  # X; y and the folds are small


def test_forest_equals_the_sequential_one(engine: Watching, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Fitting on the cluster and predicting on threads gives the same probabilities."""
    X, y = data
    expected = RandomForestClassifier(20, random_state=0).fit(X, y).predict_proba(X)
    with use(engine), parallel_config("parml"):
        found = RandomForestClassifier(20, random_state=0).fit(X, y).predict_proba(X)
    assert np.allclose(found, expected, rtol=0, atol=1e-15)  # threads add the trees up in any order


def test_forest_inside_a_search_fits_in_its_task(engine: Watching, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Parallel models in parallel candidates: same scores, no deadlock."""
    X, y = data[0][:300], data[1][:300]
    search = GridSearchCV(RandomForestClassifier(8, random_state=0, n_jobs=2), {"max_depth": [2, 4]}, cv=2)
    expected = search.fit(X, y).cv_results_["mean_test_score"]
    with use(engine), parallel_config("parml"):
        assert (search.fit(X, y).cv_results_["mean_test_score"] == expected).all()

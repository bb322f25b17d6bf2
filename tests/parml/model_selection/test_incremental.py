"""Incremental searches do what loops over plain scikit-learn do, on any engine, and stop early what is not worth it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.model_selection import ParameterSampler, cross_val_score, train_test_split
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

import parml.dataframe as pdf
from parml.model_selection import HyperbandSearchCV, IncrementalSearchCV
from parml.model_selection.blocks import Block
from parml.model_selection.race import Bracket, Entrant, Patience, Trained, _train
from parml.model_selection.schedule import Rung, decaying, hyperband, summary
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError

X, Y = load_digits(return_X_y=True)
SMALL = X[:500], Y[:500]
SPACE = {
    "alpha": loguniform(1e-6, 1e1),
    "eta0": loguniform(1e-4, 1e0),
    "learning_rate": ["constant", "adaptive", "optimal"],
    "penalty": ["l2", "l1", "elasticnet"],
}
SGD = SGDClassifier(random_state=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_each_library() -> Iterator[None]:
    """Small data: threads that wait for busy processors would take most of the time."""
    with threadpool_limits(1):
        yield


class Shuffled(ThreadsEngine):
    """Tasks seem to end in any order: the results are told one by one, in an order that is drawn."""

    def __init__(self, seed: int) -> None:
        super().__init__(2)
        self._rng = random.Random(seed)

    def wait(self, futures: Any, *, until: Any = "all", timeout_s: float | None = None) -> Any:
        futures = list(futures)
        super().wait(futures)
        if until != "first":
            return futures, []
        chosen = self._rng.choice(futures)
        return [chosen], [future for future in futures if future is not chosen]


@pytest.fixture(params=["inline", "threads", "shuffled", "cluster"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "cluster":
        yield request.getfixturevalue("cluster_client")
    else:
        kinds = {"inline": InlineEngine, "threads": lambda: ThreadsEngine(2), "shuffled": lambda: Shuffled(1)}
        with kinds[request.param]() as engine:
            yield engine


# --- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_iter", "eta", "n_models", "calls"),
    [
        (1, 3, 1, 1), (9, 3, 17, 69), (27, 3, 49, 357), (40, 3, 49, 475), (64, 4, 98, 884), (81, 3, 143, 1581),
        (100, 3, 143, 1810), (16, 2, 43, 278), (20, 5, 7, 76),
    ],
)  # fmt: skip
def test_hyperband_metadata_has_the_counts_of_dask_ml(max_iter: int, eta: int, n_models: int, calls: int) -> None:
    """The figures are those that dask_ml 2025.1.0 gives for its HyperbandSearchCV(...).metadata."""
    metadata = HyperbandSearchCV(SGD, SPACE, max_iter=max_iter, aggressiveness=eta).metadata
    assert (metadata["n_models"], metadata["partial_fit_calls"]) == (n_models, calls)
    assert sum(info["partial_fit_calls"] for info in metadata["brackets"]) == calls


def test_hyperband_brackets_are_the_papers() -> None:
    """Every rung for R = 81; and R = 243 has six brackets, which a floating-point logarithm makes five."""
    assert hyperband(81, 3) == {
        4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        3: [(34, 3), (11, 9), (3, 27), (1, 81)],
        2: [(15, 9), (5, 27), (1, 81)],
        1: [(8, 27), (2, 81)],
        0: [(5, 81)],
    }
    assert [rungs[0] for rungs in hyperband(243, 3).values()][:2] == [(243, 1), (98, 3)]


def test_decaying_schedule_keeps_its_share_and_ends_at_max_iter() -> None:
    """After k calls n / (1 + k) ** rate models are left, rounded down, for any numbers."""
    for n, max_iter, rate in [(10, 20, 1.0), (50, 7, 0.5), (1, 5, 2.0), (100, 100, 1.5), (3, 1, 1.0)]:
        rungs = decaying(n, max_iter, rate=rate)
        assert rungs[0] == (n, 1) and rungs[-1].calls == max_iter
        for before, rung in itertools.pairwise(rungs):
            for calls in range(before.calls, rung.calls):
                assert rung.n_models == max(1, int(n / (1 + calls) ** rate))
    assert summary({0: decaying(4, 3)})["partial_fit_calls"] == 12


def drive(bracket: Bracket, curves: dict[int, list[float]], rng: random.Random) -> dict[int, int]:
    """Trains nothing: a model's scores after each call are known. How many calls each model got."""
    going = bracket.begin()
    while going:
        entrant, calls = going.pop(rng.randrange(len(going)))
        total = entrant.calls + calls
        entrant.records.append({"partial_fit_calls": total, "score": curves[entrant.id][total - 1]})
        going += bracket.take(entrant)
    return {entrant.id: entrant.calls for entrant in bracket.entrants}


@pytest.mark.parametrize("seed", range(5))
def test_bracket_decides_by_scores_alone(seed: int) -> None:
    """Whatever ends first, the best of each rung go on; of equal scores the earlier model, and NaN is the worst."""
    curves = {0: [0.1] * 9, 1: [0.9] * 9, 2: [0.5] * 9, 3: [np.nan] * 9, 4: [0.5] * 9, 5: [0.2, 0.2, 1.0] + [0.0] * 6}
    entrants = [Entrant(i, {}, None) for i in curves]
    calls = drive(Bracket([Rung(6, 1), Rung(2, 3), Rung(1, 9)], entrants), curves, random.Random(seed))
    assert calls == {0: 1, 1: 9, 2: 3, 3: 1, 4: 1, 5: 1}


@pytest.mark.parametrize("seed", range(3))
def test_patience_stops_what_has_converged_and_keeps_it_in_the_race(seed: int) -> None:
    """Model 0 is flat from its third call on, and still the best; model 1 rises to the end."""
    curves = {0: [0.5, 0.8, 0.9] + [0.9] * 17, 1: [i / 40 for i in range(20)]}
    entrants = [Entrant(i, {}, None) for i in curves]
    bracket = Bracket(decaying(2, 20), entrants, Patience(4, 0.01))
    assert drive(bracket, curves, random.Random(seed)) == {0: 7, 1: 20}
    assert bracket.best is entrants[0]


# --- the same loop without an engine -----------------------------------------------------------------------------------


def reference(
    brackets: dict[int, list[Rung]], space: Any, X: Any, y: Any, random_state: int, named: bool, test_size: float = 0.2
) -> dict[Any, tuple[float, int, dict[str, Any]]]:
    """Successive halving bracket by bracket, in this thread, with scikit-learn alone: last score and calls of each model."""
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=test_size, random_state=seed)
    results = {}
    for b, rungs in brackets.items():
        params = list(ParameterSampler(space, rungs[0].n_models, random_state=(seed + b) % (2**31 - 1)))
        models = [clone(SGD).set_params(**p) for p in params]
        alive, before = list(range(len(models))), 0
        for rung in rungs:
            alive = sorted(alive, key=lambda i: -results[b, i][0])[: rung.n_models] if before else alive
            for i in alive:
                for _ in range(rung.calls - before):
                    models[i].partial_fit(X_train, y_train, classes=np.unique(y))
                results[b, i] = (models[i].score(X_test, y_test), rung.calls, params[i])
            before = rung.calls
    return {f"bracket={b}-{i}" if named else i: found for (b, i), found in results.items()}


def assert_same_as(search: Any, expected: dict[Any, tuple[float, int, dict[str, Any]]]) -> None:
    found = search.cv_results_
    assert sorted(found["model_id"]) == sorted(expected)
    for i, model_id in enumerate(found["model_id"]):
        here = found["test_score"][i], found["partial_fit_calls"][i], found["params"][i]
        assert here == expected[model_id], model_id


def test_hyperband_equals_plain_loops_on_any_engine(engine: Engine) -> None:
    """Scores, calls, parameters and the best are those of one thread with scikit-learn alone; counts those of metadata."""
    search = HyperbandSearchCV(SGD, SPACE, max_iter=9, random_state=3, client=engine).fit(*SMALL)
    expected = reference(hyperband(9, 3), SPACE, *SMALL, 3, named=True)
    assert_same_as(search, expected)
    metadata = search.metadata
    for done, planned in zip(search.metadata_["brackets"], metadata["brackets"], strict=True):
        assert done == planned
    assert search.metadata_["partial_fit_calls"] == metadata["partial_fit_calls"] == 69
    finalists = [score for score, calls, _ in expected.values() if calls == 9]
    assert search.best_score_ == max(finalists)
    assert search.score(*SMALL) == search.best_estimator_.score(*SMALL) > 0.8
    histories = search.model_history_
    assert sum(len(records) for records in histories.values()) == len(search.history_)
    assert {record["bracket"] for record in search.history_} == {0, 1, 2}
    for model_id, score in zip(search.cv_results_["model_id"], search.cv_results_["test_score"], strict=True):
        assert histories[model_id][-1]["score"] == score


def test_incremental_with_decay_equals_plain_loops_on_any_engine(engine: Engine) -> None:
    """Ten models, ever fewer of which go on."""
    search = IncrementalSearchCV(SGD, SPACE, 10, decay_rate=1.0, max_iter=12, random_state=5, client=engine).fit(*SMALL)
    rungs = decaying(10, 12, rate=1.0)
    assert_same_as(search, reference({0: rungs}, SPACE, *SMALL, 5, named=False))
    assert search.metadata_["partial_fit_calls"] == search.metadata["partial_fit_calls"] == 10 + 5 + 3 + 2 * 2 + 1 * 7
    assert set(search.cv_results_) >= {
        "mean_partial_fit_time", "std_partial_fit_time", "mean_score_time", "std_score_time", "test_score", "rank_test_score",
        "model_id", "partial_fit_calls", "params", "param_alpha", "param_penalty",
    }  # fmt: skip
    assert search.cv_results_["rank_test_score"].min() == 1 and search.best_params_ in search.cv_results_["params"]


@pytest.mark.slow
def test_early_stopping_finds_the_best_of_the_full_search_at_a_quarter_of_its_calls() -> None:
    """On digits, within one per cent of the best of 49 settings that get 40 calls each, in plain loops, on the same split."""
    full = reference({0: [Rung(49, 40)]}, SPACE, X, Y, 0, named=False, test_size=0.5)
    best, calls = max(score for score, _, _ in full.values()), sum(calls for _, calls, _ in full.values())
    options = {"max_iter": 40, "random_state": 0, "test_size": 0.5}
    for search in (HyperbandSearchCV(SGD, SPACE, **options), IncrementalSearchCV(SGD, SPACE, 49, 1.0, **options)):
        assert search.fit(X, Y).best_score_ >= best - 0.01
        assert 0 < search.metadata_["partial_fit_calls"] <= calls / 4


# --- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frame", "sparse", "sparse-matrix", "lists"])
def test_search_on_each_kind_of_data_equals_that_on_an_array(kind: str) -> None:
    """pandas with labels in a Series, scipy.sparse, and plain lists."""
    make = {"frame": pd.DataFrame, "sparse": sparse.coo_array, "sparse-matrix": sparse.csr_matrix, "lists": np.ndarray.tolist}
    data = make[kind](SMALL[0]), pd.Series(SMALL[1]) if kind == "frame" else SMALL[1]
    options = {"max_iter": 4, "random_state": 0, "n_initial_parameters": 3, "n_blocks": 3}
    space = {"alpha": loguniform(1e-3, 1e3)}
    here = IncrementalSearchCV(MultinomialNB(), space, **options).fit(*data)
    there = IncrementalSearchCV(MultinomialNB(), space, **options).fit(*SMALL)
    assert here.cv_results_["test_score"].tolist() == there.cv_results_["test_score"].tolist()
    assert here.metadata_ == there.metadata_


@pytest.mark.parametrize(
    ("estimator", "space"),
    [
        (MLPClassifier((8,)), {"learning_rate_init": [1e-3, 1e-2], "alpha": [1e-4, 1e-2]}),
        (GaussianNB(), {"var_smoothing": [1e-9, 1e-3, 1e-1]}),
        (MiniBatchKMeans(n_init=1), {"n_clusters": [2, 5, 10]}),
        (SGDRegressor(), {"alpha": [1e-4, 1e-2], "eta0": [1e-5, 1e-4]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_search_repeats_for_a_seed_with_each_kind_of_estimator(estimator: Any, space: Any) -> None:
    """Also where the estimator has no seed of its own; with labels or none."""
    data = SMALL if not isinstance(estimator, MiniBatchKMeans) else SMALL[:1]
    searches = [
        IncrementalSearchCV(estimator, space, 3, max_iter=4, random_state=1, n_blocks=2, client=engine).fit(*data)
        for engine in (InlineEngine(), Shuffled(0))
    ]
    scores = [search.cv_results_["test_score"] for search in searches]
    np.testing.assert_allclose(*scores, rtol=1e-12)  # not equal: k-means adds up in threads
    for key in ("params", "partial_fit_calls", "rank_test_score"):
        assert list(searches[0].cv_results_[key]) == list(searches[1].cv_results_[key])
    assert is_classifier(searches[0]) == is_classifier(estimator)
    if is_classifier(estimator):
        np.testing.assert_array_equal(searches[0].predict(X), searches[1].best_estimator_.predict(X))
        assert searches[0].predict_proba(X).shape == (len(X), 10) and searches[0].classes_.tolist() == list(range(10))


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers which rows it saw."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any) -> Recorder:
        raise NotImplementedError("a search never fits")

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Recorder:
        self.classes_ = classes
        weights = np.full(len(X), np.nan) if sample_weight is None else np.asarray(sample_weight)
        rows = np.column_stack([np.asarray(X)[:, 0], np.asarray(y), weights])
        self.seen_ = [*getattr(self, "seen_", []), rows]
        return self

    def score(self, X: Any, y: Any) -> float:
        self.tested_on_ = np.asarray(X)[:, 0].tolist()  # a scorer that writes spoils nothing
        return float(-self.number)


def test_every_call_gets_one_block_and_no_row_of_the_test() -> None:
    """Four blocks, each once in each round of four calls; weights are cut with their rows; test rows are never trained on."""
    rows = np.arange(100.0).reshape(-1, 1)
    search = IncrementalSearchCV(Recorder(), {"number": [0, 1]}, "grid", max_iter=8, random_state=0, n_blocks=4)
    search.fit(rows, rows[:, 0] % 3, sample_weight=rows[:, 0] * 2)
    seen = search.best_estimator_.seen_
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert sorted(first[:, 0]) == sorted(second[:, 0]) and len({*first[:, 0]}) == 80
    assert (first[:, 2] == first[:, 0] * 2).all() and (first[:, 1] == first[:, 0] % 3).all()
    assert [sorted(block[:, 0]) for block in seen[:4]] != [sorted(block[:, 0]) for block in seen[4:]]
    assert not hasattr(search.best_estimator_, "tested_on_")
    assert search.best_estimator_.classes_.tolist() == [0.0, 1.0, 2.0] and search.best_params_ == {"number": 0}


def frame_of_rows(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame({"row": np.arange(float(n)), "label": np.where(np.arange(n) < n // 2, "a", "b")})


def test_partitions_of_a_collection_are_the_blocks(engine: Engine) -> None:
    """Three partitions, a filter that empties none; labels of all partitions are known at the first call; test rows apart."""
    table = pdf.from_pandas(frame_of_rows(), npartitions=3)
    search = IncrementalSearchCV(Recorder(), {"number": [3, 2]}, "grid", max_iter=3, random_state=0, client=engine)
    search.fit(table[["row"]], table["label"], sample_weight=np.arange(60) + 0.5)
    model = search.best_estimator_
    assert model.classes_.tolist() == ["a", "b"] and search.best_score_ == -2.0
    blocks = [block[:, 0].astype(float) for block in model.seen_]
    assert [len(block) for block in blocks] == [16, 16, 16]  # 12 of 60 rows are for the test, 4 of each partition
    assert sorted({int(block[0] // 20) for block in blocks}) == [0, 1, 2]
    assert all((block // 20 == block[0] // 20).all() for block in blocks)
    assert all((block[:, 2].astype(float) == block[:, 0].astype(float) + 0.5).all() for block in model.seen_)


def test_collection_with_an_empty_partition_is_searched_and_predicted_by_partition() -> None:
    """The model is that of the rows; predictions are lazy and have the partitions of the input."""
    frame = pd.DataFrame(X[:300], columns=[f"p{i}" for i in range(64)]).assign(label=Y[:300], row=np.arange(300))
    table = pdf.from_pandas(frame, npartitions=4)
    table = table[table["row"] >= 75]
    features = [f"p{i}" for i in range(64)]
    search = HyperbandSearchCV(SGD, SPACE, max_iter=9, random_state=0, test_size=0.2).fit(table[features], table["label"])
    assert search.best_score_ > 0.8 and search.metadata_["partial_fit_calls"] == 69
    predicted = search.predict(table[features])
    rows = frame[75:][features]
    np.testing.assert_array_equal(predicted.compute(), search.best_estimator_.predict(rows))
    assert search.score(table[features], table["label"]) == search.best_estimator_.score(rows, frame["label"][75:])


# --- what fails --------------------------------------------------------------------------------------------------------


class Fragile(ClassifierMixin, BaseEstimator):
    """Fails at a call, in scoring, or by taking its worker down."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def fit(self, X: Any, y: Any) -> Fragile:
        raise NotImplementedError("a search never fits")

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Fragile:
        self.calls_ = getattr(self, "calls_", 0) + 1
        if self.fails == "worker":
            os._exit(3)
        if self.fails == f"call {self.calls_}":
            raise ValueError(f"no call {self.calls_}")
        return self

    def score(self, X: Any, y: Any) -> float:
        if self.fails == "score":
            raise ArithmeticError("no score")
        return {"": 0.5, "call 3": 0.9}.get(self.fails, 0.1)


def test_failing_candidates_get_error_score_and_a_note_and_the_search_goes_on(engine: Engine) -> None:
    """One fails at its first call, one at its third while it leads, one in the scorer."""
    space = {"fails": ["call 3", "call 1", "score", ""]}
    search = IncrementalSearchCV(Fragile(), space, "grid", max_iter=5, random_state=0, error_score=-1.0, client=engine)
    with pytest.warns(FitFailedWarning, match="3 of 4 models failed"):
        search.fit(*SMALL)
    assert search.cv_results_["test_score"].tolist() == [-1.0, -1.0, -1.0, 0.5]
    assert search.cv_results_["partial_fit_calls"].tolist() == [2, 0, 1, 5]
    assert search.best_params_ == {"fails": ""} and search.best_estimator_.calls_ == 5
    assert search.cv_results_["rank_test_score"].tolist() == [2, 2, 2, 1]
    for text, part in zip(search.cv_results_["error"], ["no call 3", "no call 1", "no score", ""], strict=True):
        assert part in text and bool(part) == bool(text)


def test_error_score_raise_and_a_search_where_all_fail_raise() -> None:
    """The first with the model's own error, the second with its text."""
    with pytest.raises(ValueError, match="no call 3"):
        IncrementalSearchCV(Fragile(), {"fails": ["call 3", ""]}, "grid", max_iter=5, error_score="raise").fit(*SMALL)
    with pytest.raises(ValueError, match=r"All the 2 models failed(.|\n)*no score"):
        IncrementalSearchCV(Fragile(), {"fails": ["score", "call 1"]}, "grid", max_iter=5).fit(*SMALL)
    with pytest.raises(ValueError, match="Invalid parameter 'failz'"):
        IncrementalSearchCV(Fragile(), {"failz": [1]}, "grid").fit(*SMALL)


@pytest.mark.slow
def test_candidate_that_kills_its_workers_does_not_end_the_search() -> None:
    """It is given up after the workers that it took down; the other trains to its end."""
    from parml_core.client import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_port=None, settings={"scheduler": {"allowed_failures": 1}}
        ) as cluster,
        Client(cluster) as client,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FitFailedWarning)
        search = IncrementalSearchCV(Fragile(), {"fails": ["", "worker"]}, "grid", max_iter=3, random_state=0, client=client)
        search.fit(X[:20], Y[:20])
    assert search.best_params_ == {"fails": ""} and search.best_estimator_.calls_ == 3
    assert np.isnan(search.cv_results_["test_score"][1]) and "WorkerKilled" in search.cv_results_["error"][1]


class DiesOnce(GaussianNB):
    """The first time that it is at its third call, its process is killed."""

    def __init__(self, var_smoothing: float = 1e-9, marker: str = "") -> None:
        super().__init__(var_smoothing=var_smoothing)
        self.marker = marker

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> DiesOnce:
        self.calls_ = getattr(self, "calls_", 0) + 1
        if self.calls_ == 3 and self.marker and not os.path.exists(self.marker):
            open(self.marker, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().partial_fit(X, y, classes, sample_weight)


@pytest.mark.slow
def test_search_survives_a_killed_worker_with_the_same_results(tmp_path: Path) -> None:
    """Models that the worker held are made again from their blocks; no call is counted twice."""
    from parml_core.client import Client, LocalCluster

    space, marker = {"var_smoothing": loguniform(1e-9, 1e1)}, tmp_path / "killed"
    options: dict[str, Any] = {"max_iter": 9, "n_blocks": 3, "random_state": 0}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
        mine = HyperbandSearchCV(DiesOnce(marker=str(marker)), space, client=client, **options).fit(*SMALL)
    assert marker.exists()
    theirs = HyperbandSearchCV(DiesOnce(), space, client=InlineEngine(), **options).fit(*SMALL)
    assert mine.cv_results_["test_score"].tolist() == theirs.cv_results_["test_score"].tolist()
    assert mine.metadata_ == theirs.metadata_ and mine.best_params_ == theirs.best_params_
    assert mine.best_estimator_.calls_ == theirs.best_estimator_.calls_


def test_task_gives_a_new_model_and_leaves_the_old_one_as_it_was() -> None:
    """Others may hold it: a score under way, a task that runs again because its worker was lost."""
    block = Block(X[:50], Y[:50], {})
    first = _train(Trained(SGDClassifier(random_state=0)), block, {"classes": np.arange(10)})
    weights = first.model.coef_.copy()
    second = _train(first, block, {})
    np.testing.assert_array_equal(first.model.coef_, weights)
    assert (second.model.coef_ != weights).any() and len(second.fit_s) == 2


def test_wrong_arguments_are_refused_by_name() -> None:
    """Before anything runs."""
    for options, part in [
        ({"max_iter": 0}, "max_iter"),
        ({"aggressiveness": 1}, "aggressiveness"),
        ({"patience": 1}, "patience"),
        ({"scoring": ["accuracy"]}, "one scorer"),
        ({"n_blocks": 0}, "n_blocks"),
    ]:
        with pytest.raises(InputError, match=part):
            HyperbandSearchCV(SGD, SPACE, **options).fit(*SMALL)
    with pytest.raises(TypeError, match="partial_fit"):
        HyperbandSearchCV(LogisticRegression(), {"C": [1.0]}).fit(*SMALL)
    with pytest.raises(InputError, match="two rows"):
        HyperbandSearchCV(SGD, SPACE).fit(X[:1], Y[:1])


# --- the search as an estimator and as a user of an engine -------------------------------------------------------------


class Watched(ThreadsEngine):
    """Counts what is put on it, and what it still holds at the end."""

    scattered = 0

    def scatter(self, values: Sequence[Any], *, replicas: int = 1) -> Any:
        self.scattered += sum(getattr(value, "X", None) is not None for value in values)
        return super().scatter(values, replicas=replicas)


def test_blocks_are_scattered_once_and_patience_saves_calls(capsys: pytest.CaptureFixture[str]) -> None:
    """Four blocks and the test rows, however many brackets; `verbose` prints each score."""
    with Watched(2) as engine:
        search = HyperbandSearchCV(
            GaussianNB(), {"var_smoothing": loguniform(1e-9, 1e-1)}, max_iter=27, patience=3, tol=0.05, n_blocks=4,
            random_state=0, client=engine, verbose=True, prefix=" mine",
        )  # fmt: skip
        search.fit(*SMALL)
        assert engine.scattered == 5
    assert search.metadata_["partial_fit_calls"] < search.metadata["partial_fit_calls"] == 357
    assert search.metadata_["n_models"] == 49
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(search.history_) and lines[0].startswith("[CV mine] model bracket=")


def test_search_is_an_estimator_that_can_be_cloned_and_nested() -> None:
    """clone keeps the client; inside cross_val_score it searches each fold."""
    with ThreadsEngine(2) as engine:
        search = HyperbandSearchCV(SGD, SPACE, max_iter=3, random_state=0, client=engine)
        assert clone(search).client is engine
        scores = cross_val_score(search, *SMALL, cv=2)
        assert scores.shape == (2,) and scores.min() > 0.7


class Stuck(Fragile):
    """Ctrl-C while it trains."""

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Stuck:
        raise KeyboardInterrupt


def test_keyboard_interrupt_ends_the_search() -> None:
    """It reaches the caller, and is no candidate's failure."""
    with pytest.raises(KeyboardInterrupt):
        IncrementalSearchCV(Stuck(), {"fails": [""]}, "grid", client=InlineEngine()).fit(*SMALL)

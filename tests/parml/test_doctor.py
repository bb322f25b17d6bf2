"""The doctor: it tells what the trainers would refuse or do badly, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parml
import parml.lightgbm as pl
import parml.xgboost as px
from parml.data import PartitionedArray
from parml.doctor import Finding, Report, _versions
from parml_core.engine.base import Engine, WorkerInfo
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.errors import InputError, NotSupported
from parml_core.graph import Graph, Task

ROWS = 400
_rng = np.random.default_rng(2)
FRAME = pd.DataFrame(_rng.normal(size=(ROWS, 3)), columns=list("abc"))
LABEL = (FRAME.a + FRAME.b > 0).astype(int).to_numpy()
TRAINERS = ["xgboost", "lightgbm"]


@pytest.fixture(params=[InlineEngine, ThreadsEngine])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with request.param() as engine:
        yield engine


def _parts(*parts: Any) -> PartitionedArray:
    _parts.count += 1  # type: ignore[attr-defined]
    tasks = [Task(f"doctor-{_parts.count}:{i}", _give, ([part],)) for i, part in enumerate(parts)]  # type: ignore[attr-defined]
    return PartitionedArray(Graph(tasks), [task.key for task in tasks])


_parts.count = 0  # type: ignore[attr-defined]


def _give(box: list[Any]) -> Any:
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def _texts(report: Report, severity: Any) -> str:
    return "\n".join(map(str, report.of(severity)))


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_doctor_of_sound_data_finds_nothing_to_do(engine: Engine, trainer: Any, chunked: bool) -> None:
    """Only how much memory the fit needs."""
    X, y = (_parts(FRAME[:200], FRAME[200:]), _parts(LABEL[:200], LABEL[200:])) if chunked else (FRAME, LABEL)
    objective = {"xgboost": "binary:logistic", "lightgbm": "binary"}[trainer]
    report = parml.doctor(engine, X, y, trainer=trainer, params={"objective": objective, "max_depth": 3})
    assert report and [finding.severity for finding in report] == ["note"]
    assert "the fit needs about" in report.findings[0].what


@pytest.mark.parametrize("trainer", TRAINERS)
def test_doctor_tells_all_faults_of_partitions_where_training_tells_the_first(engine: Engine, trainer: Any) -> None:
    """Text columns, dtypes and categories that differ, missing labels: each with its partition; training refuses the same."""
    kinds = [pd.CategoricalDtype(list("xy")), pd.CategoricalDtype(list("xyz"))]
    good = FRAME[:50].assign(k=pd.Categorical(["x"] * 50, dtype=kinds[0]))
    other = good.assign(k=pd.Categorical(["x"] * 50, dtype=kinds[1]))
    X = _parts(good, good.assign(a="text"), other, good, good)
    y = _parts(LABEL[:50], LABEL[:50], LABEL[:50], np.where(np.arange(50) == 3, np.nan, 1.0), LABEL[:49])
    options = {"enable_categorical": True} if trainer == "xgboost" else {}
    report = parml.doctor(engine, X, y, trainer=trainer, **options)
    assert not report
    texts = _texts(report, "error")
    assert "column 'a' to have one dtype" in texts and "partition 1" in texts
    assert "column 'k' to have the same categories" in texts and "0 and 2 differ" in texts
    assert "1 of 50 values NaN or infinite in partition 3" in texts
    assert "50 in X and 49 in y in partition 4" in texts
    matrix = px.DMatrix if trainer == "xgboost" else pl.Dataset
    with pytest.raises(InputError) as refused:
        matrix(engine, X, y, **options).schema()
    assert str(refused.value).partition(";")[0] in texts


@pytest.mark.parametrize("trainer", TRAINERS)
def test_doctor_columns_and_groups_that_cannot_be_used(engine: Engine, trainer: Any) -> None:
    """In the words of the trainers."""
    assert "{'t': 'object'}" in _texts(parml.doctor(engine, FRAME.assign(t=object()), LABEL, trainer=trainer), "error")
    assert "add up" in _texts(parml.doctor(engine, FRAME, LABEL, group=[100, 200], trainer=trainer), "error")
    report = parml.doctor(engine, _parts(FRAME, ValueError("no such file")), _parts(LABEL, LABEL), trainer=trainer)
    assert "cannot be computed: ValueError: no such file" in _texts(report, "error")


def test_doctor_sizes_of_partitions(engine: Engine) -> None:
    """Empty ones are no harm, one that is much larger than the others is."""
    edges = [0, 10, 10, 20, 30, 40, 400]
    ends = list(pairwise(edges))
    report = parml.doctor(engine, _parts(*(FRAME[a:b] for a, b in ends)), _parts(*(LABEL[a:b] for a, b in ends)))
    assert "1 of 6 partitions are empty" in _texts(report, "note")
    assert "the largest partition has 360 rows" in _texts(report, "warning")
    assert report


def test_doctor_classes(engine: Engine) -> None:
    """Seen once, only one, and such as the objective cannot take."""
    binary, multi = {"objective": "binary:logistic"}, {"objective": "multi:softprob", "num_class": 3}
    once = np.r_[[2], LABEL[1:]]
    assert "classes that occur once: [2]" in _texts(parml.doctor(engine, FRAME, once), "warning")
    assert "all labels are 1" in _texts(parml.doctor(engine, FRAME, np.ones(ROWS)), "warning")
    assert "found [0, 1, 2]" in _texts(parml.doctor(engine, FRAME, once, params=binary), "error")
    assert "num_class=3, found [3]" in _texts(parml.doctor(engine, FRAME, np.where(LABEL, 3, 1), params=multi), "error")
    assert not parml.doctor(engine, FRAME, np.arange(ROWS)).of("warning")


def test_doctor_class_missing_on_a_rank(cluster_client: Any) -> None:
    """Sorted rows give each of two ranks one class only; with one rank for the host nothing is missing."""
    order = np.argsort(LABEL, kind="stable")
    X, y = _parts(FRAME.iloc[order]), _parts(LABEL[order])
    texts = _texts(parml.doctor(cluster_client, X, y, ranks="worker"), "warning")
    assert "rank 0 has no row with the labels [1]" in texts or "rank 1 has no row with the labels [0]" in texts
    assert "no row" not in repr(parml.doctor(cluster_client, X, y))


def test_doctor_parameters_that_are_refused_or_ignored(cluster_client: Any) -> None:
    """What training over two ranks raises, and what the libraries do not know."""
    options: Any = {"ranks": "worker"}
    report = parml.doctor(cluster_client, FRAME, LABEL, params={"tree_method": "exact", "colour": 1}, **options)
    assert "found 'exact', which xgboost has for one machine only" in _texts(report, "error")
    assert '"colour" } are not used' in _texts(report, "warning")
    with pytest.raises(NotSupported, match="one machine only"):
        px.train(cluster_client, {"tree_method": "exact"}, px.DMatrix(cluster_client, FRAME, LABEL), 1, **options)
    report = parml.doctor(cluster_client, FRAME, LABEL, params={"objective": "binary:nonsense"})
    assert "Unknown objective function" in _texts(report, "error")
    params = {"linear_tree": True, "colour": 1, "objective": "l1"}
    report = parml.doctor(cluster_client, FRAME, LABEL, params=params, trainer="lightgbm", **options)
    assert "linear_tree over 2 ranks" in _texts(report, "error")
    assert "ignores the parameters ['colour']" in _texts(report, "warning")
    assert "the mean of the ranks' percentiles" in _texts(
        parml.doctor(cluster_client, FRAME, LABEL, params={"objective": "l1"}, trainer="lightgbm", **options), "warning"
    )
    assert "read_parquet" in _texts(parml.doctor(cluster_client, FRAME, LABEL, external_memory=True), "error")
    X, y = _parts(FRAME), _parts(LABEL)
    report = parml.doctor(cluster_client, X, y, params={"tree_method": "approx"}, external_memory=True)
    assert "expected trees by histogram" in _texts(report, "error")


class _Small(InlineEngine):
    """An engine whose worker may have little."""

    limit = 0

    def workers(self) -> list[WorkerInfo]:
        return [WorkerInfo("w", "small", "here", 1, self.limit, {}, os.getpid())]


def test_doctor_memory_against_the_limit() -> None:
    """Too much is an error that names external memory; with that, or a larger limit, it is none."""
    X, y = _parts(*[np.zeros((100_000, 20))] * 8), _parts(*[np.arange(100_000) % 2] * 8)
    with _Small() as engine:
        engine.limit = 450 * 2**20
        report = parml.doctor(engine, X, y)
        assert "external_memory=True" in _texts(report, "error")
        assert parml.doctor(engine, X, y, external_memory=True)
        engine.limit = 10**10
        assert [finding.severity for finding in parml.doctor(engine, X, y)] == ["note"]
        lightgbm = parml.doctor(engine, X, y, trainer="lightgbm", params={"objective": "binary"})
        assert lightgbm and "MiB" in lightgbm.findings[0].what


def test_doctor_versions_that_differ(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with another version of the trainer is an error, with another numpy a warning, without it an error."""
    theirs = _versions("xgboost") | {"xgboost": "0.1", "numpy": "0.2", "pandas": ""}
    calls = iter([_versions("xgboost")] + [theirs] * 9)
    monkeypatch.setattr(sys.modules["parml.doctor"], "_versions", lambda trainer: next(calls))
    report = parml.doctor(engine, FRAME, LABEL)
    assert "has xgboost 0.1, and this process" in _texts(report, "error")
    assert "has no pandas" in _texts(report, "error")
    assert "has numpy 0.2" in _texts(report, "warning")


def test_report_shows_the_worst_first_and_each_once() -> None:
    """A repr for people; truth for programs."""
    report = Report([Finding("note", "n"), Finding("error", "e", "do it"), Finding("error", "e", "do it")])
    assert repr(report) == "Report: 1 errors, 0 warnings, 1 notes\nerror   e; do it\nnote    n"
    assert not report and len(report) == 2 and Report([Finding("warning", "w")])
    with pytest.raises(InputError, match="'xgboost' or 'lightgbm'"):
        parml.doctor(InlineEngine(), FRAME, LABEL, trainer="catboost")  # type: ignore[arg-type]

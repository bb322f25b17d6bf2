"""
A plugin of a pytest that runs tests of joblib and scikit-learn, on parml or on loky, and reports what came of each.

The environment says how. UPSTREAM_BACKEND: the backend of every `Parallel` that names none; "": joblib's own default.
UPSTREAM_ONLY: a file with the names of the tests to run, as a JSON list; "": all. UPSTREAM_REPORT: the file that gets one JSON
line for each test. UPSTREAM_TASKS: see `everywhere/sitecustomize.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib.testing
import pytest
from joblib.parallel import BACKENDS

from parml_core.client import Client, LocalCluster

BACKEND = os.environ["UPSTREAM_BACKEND"]
ONLY = os.environ["UPSTREAM_ONLY"]
REPORT, TASKS = Path(os.environ["UPSTREAM_REPORT"]), Path(os.environ["UPSTREAM_TASKS"])


def pytest_configure(config: pytest.Config) -> None:
    TASKS.touch()
    config.pluginmanager.register(Upstream(), "upstream")
    plain = joblib.testing.parametrize
    joblib.testing.parametrize = lambda names, values, **kwargs: plain(names, with_parml(names, values), **kwargs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ONLY:
        wanted = set(json.loads(Path(ONLY).read_text()))
        items[:] = [item for item in items if name_of(item) in wanted]


def name_of(item: pytest.Item) -> str:
    """Package, module and test: in a pytest of installed modules the ids of tests lack these."""
    return f"{item.path.parent.parent.name}/{item.path.stem}::{item.name}"


def with_parml(names: str, values: Any) -> list[Any]:
    """The values of a parametrised test; wherever "loky" stands, there is one more with "parml" in its place."""
    values = list(values)
    for value in list(values):
        row = value if isinstance(value, tuple) else (value,)
        if any(is_text(item, "loky") for item in row):
            row = tuple("parml" if is_text(item, "loky") else item for item in row)
            row = more_than_loky(names, row)
            twin = row if isinstance(value, tuple) else row[0]
            if not any(type(other) is type(twin) and other == twin for other in values):
                values.append(twin)
    return values


def more_than_loky(names: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two tests say that loky cannot do something. parml has to do it: two calls at a time, and calls inside any others."""
    unable = names == "backend, error" or (names == "parent_backend,child_backend,expected" and row[1] == "parml")
    return (*row[:-1], False) if unable else row


def is_text(item: Any, text: str) -> bool:
    return isinstance(item, str) and item == text


class Upstream:
    """One cluster for all tests; every test under the backend that is asked for."""

    n_loky = 0

    def pytest_sessionstart(self) -> None:
        self.cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None)
        self.client = Client(self.cluster)
        loky = BACKENDS["loky"]
        submit = loky.submit

        def counting(backend: Any, *args: Any, **kwargs: Any) -> Any:
            self.n_loky += 1
            return submit(backend, *args, **kwargs)

        loky.submit = counting

    def pytest_sessionfinish(self) -> None:
        self.client.close()
        self.cluster.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if not BACKEND:
            return (yield)
        with joblib.parallel_config(BACKEND, n_jobs=2):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.before = self.n_loky, TASKS.stat().st_size
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        report = yield
        if report.when == "call" or report.outcome != "passed":
            line = {
                "test": name_of(item),
                "outcome": report.outcome,
                "seconds": round(call.duration, 2),
                "loky": self.n_loky - self.before[0],
                "parml": TASKS.stat().st_size - self.before[1],
                "why": "" if report.passed else str(report.longrepr)[-3000:],
            }
            with REPORT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return report

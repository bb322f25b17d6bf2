"""Runs tests of installed packages in a pytest of their own, on parml, and what is doubtful then on loky, and compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 7200.0  # of a whole suite; each test has 100 s


@dataclass(frozen=True)
class Suite:
    """
    Tests of a package.

    Parameters
    ----------
    modules : list of str
    backend : str
        Of all calls that name none; "": joblib's own default, as the tests name backends themselves, parml among them.
    select : str
        A part of the names of the tests.
    fail : dict of str to str
        By the beginning of a test's name: why parml need not pass it.
    idle : dict of str to str
        By the beginning of a test's name: why nothing of it goes to parml's workers.
    """

    modules: list[str]
    backend: str = ""
    select: str = ""
    fail: dict[str, str] = field(default_factory=dict)
    idle: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """
    What came of a test: "passed", "failed" or "skipped".

    Parameters
    ----------
    loky, parml : int
        How many batches of calls went to each.
    why : str
        It did not pass.
    """

    test: str
    outcome: str
    seconds: float
    loky: int
    parml: int
    why: str


def losses(suite: Suite, folder: Path) -> tuple[list[Result], list[str]]:
    """What came of the tests on parml; and what it loses of what loky passes, and which exceptions are none."""
    found = run(suite, folder / "parml", suite.backend)
    doubtful = [result.test for result in found if result.outcome != "passed" or not result.parml]
    ask = [loky_name(test) for test in doubtful if not begins(test, suite.fail)]
    on_loky = run(suite, folder / "loky", suite.backend and "loky", only=ask) if ask else []
    return found, list(wrong(suite, found, {result.test: result for result in on_loky}))


def wrong(suite: Suite, found: list[Result], on_loky: dict[str, Result]) -> Iterable[str]:
    """What is not as it has to be, a line or more for each."""
    for result in found:
        loky = on_loky.get(loky_name(result.test))
        if begins(result.test, suite.fail):
            if result.outcome == "passed":
                yield f"{result.test}: an exception, and passes; take it off the list"
            continue
        if result.outcome != "passed" and (loky is None or loky.outcome == "passed"):
            yield f"{result.test}: {result.outcome}, and passes on loky\n{result.why}"
        if begins(result.test, suite.idle):
            if result.parml:
                yield f"{result.test}: an exception, and {result.parml} batches went to parml; take it off the list"
        elif loky is not None and loky.outcome == "passed" and loky.loky and not result.parml:
            yield f"{result.test}: {loky.loky} batches went to loky, none to parml"
    for name in [*suite.fail, *suite.idle]:
        if not any(begins(result.test, [name]) for result in found):
            yield f"{name}: an exception, and no such test ran; take it off the list"


def loky_name(test: str) -> str:
    """The name of the same test on loky: the plugin has made a twin of it, or it names no backend."""
    return test.replace("parml", "loky")


def begins(test: str, names: Collection[str]) -> bool:
    return test.partition("::")[2].startswith(tuple(names))


def run(suite: Suite, folder: Path, backend: str, only: list[str] | None = None) -> list[Result]:
    """Run tests with `backend` for all calls that name none."""
    folder.mkdir(parents=True)
    report, names = folder / "report.jsonl", folder / "only.json"
    names.write_text(json.dumps(only))
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--timeout=100", "-p", "no:cacheprovider", "-W", "ignore"]
    command += ["-c", os.devnull, "--rootdir", str(folder), "-p", "tests.upstream.plugin", "--pyargs", *suite.modules]
    command += ["-k", suite.select] if suite.select and only is None else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "upstream" / "everywhere")]),
        "UPSTREAM_BACKEND": backend,
        "UPSTREAM_ONLY": "" if only is None else str(names),
        "UPSTREAM_REPORT": str(report),
        "UPSTREAM_TASKS": str(folder / "tasks"),
    }
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=BOUND_S)
    if done.returncode not in (0, 1, 5):  # all passed, some failed, no such test
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-5000:]}{done.stderr[-5000:]}")
    lines = report.read_text().splitlines() if report.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    return list({result.test: result for result in results}.values())  # what fails at its end has told twice

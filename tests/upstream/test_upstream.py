"""Some of joblib's and scikit-learn's own tests: parml passes what loky passes. All of them: `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upstream.run import Result, Suite, losses, wrong
from tests.upstream.suites import SOME_OF_JOBLIB, SOME_OF_SEARCH


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("suite", "at_least"), [(SOME_OF_JOBLIB, 100), (SOME_OF_SEARCH, 50)], ids=["joblib", "scikit-learn"])
def test_parml_passes_what_loky_passes(suite: Suite, at_least: int, tmp_path: Path) -> None:
    """Each test passes, or fails on loky too, or is on a list; and what goes to loky there, goes to parml here."""
    found, lost = losses(suite, tmp_path)
    assert not lost, "\n".join(lost)
    assert sum(result.outcome == "passed" for result in found) >= at_least


def result(test: str, outcome: str = "passed", *, loky: int = 0, parml: int = 0) -> Result:
    return Result(test, outcome, 0.0, loky, parml, "")


@pytest.mark.parametrize(
    ("on_parml", "on_loky", "lost"),
    [
        (result("m::a", parml=1), [], 0),
        (result("m::a", "failed", parml=1), [result("m::a", loky=1)], 1),
        (result("m::a", "failed", parml=1), [result("m::a", "failed", loky=1)], 0),
        (result("m::a[parml]", "failed"), [], 1),  # a twin of a test that loky does not have
        (result("m::a[parml]", "skipped"), [result("m::a[loky]")], 1),
        (result("m::a"), [result("m::a")], 0),
        (result("m::a"), [result("m::a", loky=1)], 1),
        (result("m::a", "failed"), [result("m::a", "failed", loky=1)], 0),
        (result("m::fails", "failed"), [], 0),
        (result("m::fails"), [], 1),
        (result("m::idle"), [result("m::idle", loky=1)], 0),
        (result("m::idle", parml=1), [], 1),
    ],
)
def test_losses_are_told(on_parml: Result, on_loky: list[Result], lost: int) -> None:
    """What fails here alone, what goes nowhere, and exceptions that are none."""
    suite = Suite([], fail={"fails": "", "gone": ""}, idle={"idle": ""})
    others = [result("m::fails", "failed"), result("m::idle")]
    lines = list(wrong(suite, [on_parml, *others], {result.test: result for result in on_loky}))
    assert lines.pop().startswith("gone")  # no such test ran
    assert len(lines) == lost

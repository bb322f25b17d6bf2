"""Restarts: after losses only, as often as allowed, and once there are ranks enough."""

from __future__ import annotations

import time
from typing import Any

import pytest

from parml.boosting import gang
from parml.boosting.gang import with_restarts
from parml_core.engine.inline import InlineEngine
from parml_core.errors import GangError


class Run:
    """Raises these errors one after the other, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        if self.errors:
            raise self.errors.pop(0)
        return "model"


def _restarted(run: Any, max_restarts: int, places: Any = lambda: 2) -> str:
    return with_restarts(InlineEngine(), run, n_places=places, max_restarts=max_restarts)


def test_restarts_after_losses_until_it_ends_well() -> None:
    """As many attempts as it takes."""
    run = Run(GangError("a"), GangError("b"))
    assert (_restarted(run, 2), run.times) == ("model", 3)


def test_restarts_are_counted_and_the_last_error_says_so() -> None:
    """One loss more than allowed is the error of the training, with the loss as its cause."""
    run = Run(GangError("first"), GangError("second"))
    with pytest.raises(GangError, match=r"second; .* after 1 restarts") as caught:
        _restarted(run, 1)
    assert run.times == 2 and isinstance(caught.value.__cause__, GangError)


def test_restarts_none_allowed_says_that_they_could_be() -> None:
    """The message names the option."""
    with pytest.raises(GangError, match="or allow max_restarts"):
        _restarted(Run(GangError("first")), 0)


def test_restarts_are_not_for_other_errors() -> None:
    """What is no loss comes again: it is raised at once."""
    run = Run(ValueError("mine"))
    with pytest.raises(ValueError, match="mine"):
        _restarted(run, 3)
    assert run.times == 1


def test_restarts_wait_for_a_worker_in_the_place_of_the_lost() -> None:
    """The next attempt begins when there are as many places as before."""
    places = iter([2, 1, 1, 2])
    seen = []

    def n_places() -> int:
        seen.append(next(places))
        return seen[-1]

    assert _restarted(Run(GangError("lost")), 1, n_places) == "model"
    assert seen == [2, 1, 1, 2]


def test_restarts_hardly_wait_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that fell silent was waited for already, and nobody takes its place: the others go on."""
    monkeypatch.setattr(gang, "RETURN_TIMEOUT_S", 60.0)
    monkeypatch.setattr(gang, "SILENT_RETURN_TIMEOUT_S", 0.05)
    places = iter([2])
    run = Run(GangError("worker 'a' was lost (silent for more than 10 s)"))
    began = time.monotonic()
    assert _restarted(run, 1, lambda: next(places, 1)) == "model"
    assert time.monotonic() - began < 30


def test_restarts_count_the_workers_of_one_silent_machine_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are noticed one after the other, soon; later silences, and losses that are none, count on their own."""
    first, second = (GangError(f"worker 'a-{i}' was lost (silent for more than 2 s)") for i in (1, 2))
    assert _restarted(Run(first, second, gang._NeverBegan("'a-3' is gone")), 1) == "model"
    with pytest.raises(GangError, match=r"killed; .* after 1 restarts"):
        _restarted(Run(first, GangError("killed")), 1)
    monkeypatch.setattr(gang, "SAME_LOSS_S", 0.0)
    with pytest.raises(GangError, match="after 1 restarts"):
        _restarted(Run(first, second), 1)

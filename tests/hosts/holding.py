"""Callbacks that hold all ranks of a training in one round, so that a test can look at them, or do something to them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xgboost as xgb

from tests.hosts.network import BOUND_S

ROUND = 6


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something that no event tells of."""
    pause, deadline = threading.Event(), time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {BOUND_S} s"
        pause.wait(0.01)


class Hold:
    """
    For LightGBM. Each rank that is held says so by a file of its pid and its number of rows.

    Parameters
    ----------
    folder : Path
    meeting : bool
        Hold before the ranks meet, when this callback has arrived, instead of in a round.
    """

    order = 0

    def __init__(self, folder: Path, *, meeting: bool = False) -> None:
        self.folder = folder
        self.meeting = meeting

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.meeting:
            self.hold(-1)

    def __call__(self, env: Any) -> None:
        if env.iteration == ROUND and not self.meeting:
            self.hold(env.model.train_set.num_data())

    def hold(self, what: int) -> None:
        if not (self.folder / "go").exists():
            (self.folder / f"held_{os.getpid()}_{what}").touch()
            until((self.folder / "go").exists, "the test to let the ranks go")


class HoldInXgboost(Hold, xgb.callback.TrainingCallback):
    """For xgboost; in the place of rows is the number of the rank."""

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if epoch == ROUND and not self.meeting:
            self.hold(xgb.collective.get_rank())
        return False


def held(folder: Path) -> dict[int, int]:
    """The ranks that are held: by pid what they say of themselves."""
    return dict(map(int, path.name.split("_")[1:]) for path in folder.glob("held_*"))

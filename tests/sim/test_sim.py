"""Simulated clusters: the real kernels under crashes, delays and partitions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from parml_core.kernel.gangs import Gangs
from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.kernel.transitions import TRANSITIONS
from parml_core.kernel.worker import WorkerKernel
from parml_core.testing.sim import main, run_seed, run_seeds

REGRESSIONS = {
    7: "attempts were numbered anew when a key was forgotten and came back",
    163: "a suspect was blamed for a task that only waited beside it",
    166: "a gang whose input could not be reached started again without a pause",
    272: "workers stayed reserved for a gang that was gone",
    341: "a connection that broke while its worker was cut off was never closed",
    1377: "a stolen task that was postponed waited in two queues",
    1597: "a task that failed for want of an input failed the next client's too",
    17032: "a wide task that waited for its children kept one slot free for them, and was given none",
    3394: "a task was blamed for what a poison that takes no slot did beside it",
    19813: "a suspect waited for resources of a task that waited for tasks that the suspect kept out",
    28206: "a task was blamed for a worker that a revoked one took down",
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_thousand_worlds_end_well_and_reach_every_transition():
    """Every wanted result is right or erred for a reason, no invariant breaks, and nothing is left after release."""
    failed, pairs = [], set()
    for outcome in run_seeds(range(2000), n_jobs=2):
        pairs.update(outcome.pairs)
        if outcome.error:
            failed.append(f"python -m parml_core.testing.sim --seed {outcome.seed}\n{outcome.error}")
    assert not failed, "\n".join(failed[:3])
    assert pairs == {f"{old} → {new}" for old, new in TRANSITIONS}


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_seed_that_once_failed_ends_well(seed):
    """A fixed bug stays fixed."""
    assert run_seed(seed).error == ""


def test_log_is_the_same_under_another_hash_seed():
    """No kernel iterates over a set or depends on a hash: the same seeds send the same messages at the same times."""
    command = [sys.executable, "-m", "parml_core.testing.sim", "--seeds", "50", "--log-hash"]
    logs = [
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True, timeout=100
        ).stdout
        for hash_seed in ("0", "1")
    ]
    assert logs[0] == logs[1]
    assert len(set(logs[0].split())) == 100  # fifty numbers, fifty different worlds


def _ignore(*args, **kwargs):
    """Instead of a guard."""


@pytest.mark.parametrize(
    ("owner", "guard", "instead"),
    [
        (SchedulerKernel, "_tell_attempt", _ignore),  # nobody hears of Revoke and Recall
        (SchedulerKernel, "_on_absent", _ignore),
        (SchedulerKernel, "_disown", _ignore),
        (SchedulerKernel, "_dismiss", _ignore),  # silent workers are kept
        (SchedulerKernel, "_values_lost", _ignore),
        (Gangs, "worker_lost", _ignore),
        (WorkerKernel, "accepts", lambda self, key, attempt: True),
        (WorkerKernel, "_on_revoke", _ignore),
    ],
)
def test_simulator_notices_when_a_guard_is_missing(monkeypatch, owner, guard, instead):
    """A simulator that never fails proves nothing: without any one of these, some world ends badly."""
    monkeypatch.setattr(owner, guard, instead)
    assert any(run_seed(seed).error for seed in range(500))


def test_command_line_prints_how_to_repeat_a_failure(monkeypatch, capsys):
    """One line to run it again, a summary, and an exit code for scripts."""
    assert main(["--seeds", "5"]) == 0
    assert "5 seeds, 0 failed" in capsys.readouterr().out
    monkeypatch.setattr(WorkerKernel, "_on_revoke", _ignore)
    assert main(["--seeds", "60"]) == 1
    printed = capsys.readouterr().out
    assert "python -m parml_core.testing.sim --seed " in printed and "60 seeds, " in printed


def test_measurement_runs_every_shape_of_graph_to_its_end(capsys):
    """The figure it prints is of graphs that were computed, on as many workers as asked for."""
    assert main(["--workers", "5", "--tasks", "2000", "--no-faults"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("5 workers, ") and "µs" in line for line in lines)

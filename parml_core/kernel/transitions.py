"""
The states of a task in the scheduler, and every change of state that can happen, with its cause.

========= ==============================================================================================
released  known, not in memory, and nothing is done about it
waiting   some inputs are not in memory yet (or, for a scattered value, its client has to send it again)
queued    could run; waits in the scheduler for a slot
running   was sent to a worker, as attempt number `attempt`
memory    one worker at least holds the result
erred     has ended without a result; `failure` tells why
========= ==============================================================================================
"""

from __future__ import annotations

from typing import Literal

State = Literal["released", "waiting", "queued", "running", "memory", "erred"]

STATES: tuple[State, ...] = ("released", "waiting", "queued", "running", "memory", "erred")

UNFINISHED: frozenset[State] = frozenset({"waiting", "queued", "running"})
"""States in which a task keeps its inputs."""

TRANSITIONS: dict[tuple[State, State], str] = {
    ("released", "waiting"): "needed; some inputs are not in memory",
    ("released", "queued"): "needed; all inputs are in memory",
    ("released", "memory"): "scattered by a client, or brought along by a worker",
    ("released", "erred"): "needed, but it is a name that no task has, a lost value, or a rank of a gang that has ended",
    ("waiting", "queued"): "the last missing input came into memory",
    ("waiting", "running"): "rank of a gang that starts",
    ("waiting", "memory"): "scattered again after its holders were lost",
    ("waiting", "erred"): "an input failed, the task was cancelled, or its gang could not start",
    ("waiting", "released"): "nobody needs it any more",
    ("queued", "running"): "sent to a worker",
    ("queued", "waiting"): "an input was lost",
    ("queued", "erred"): "cancelled",
    ("queued", "released"): "nobody needs it any more",
    ("running", "memory"): "finished",
    ("running", "erred"): "raised with no retries left, took down too many workers, was cancelled, or its gang ended",
    ("running", "queued"): "to be run again: raised with retries left, given back, or its worker or its inputs were lost",
    ("running", "waiting"): "to be run again, and an input has been lost",
    ("running", "released"): "nobody needs it any more",
    ("memory", "released"): "nobody needs it any more, or the last holder was lost: where it is needed, it is made again",
    ("memory", "erred"): "the last holder of the result of a rank was lost",
    ("erred", "released"): "nobody holds its future any more, or it is submitted anew after it was cancelled",
}


def diagram() -> str:
    """
    The table as a Graphviz digraph, for the documentation.

    Examples
    --------
    >>> diagram().splitlines()[0]
    'digraph task_states {'
    """
    lines = [f'  {old} -> {new} [label="{why}"]' for (old, new), why in TRANSITIONS.items()]
    return "\n".join(["digraph task_states {", *lines, "}"])

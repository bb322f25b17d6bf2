"""The table of states, the journal, and the invariants themselves."""

from __future__ import annotations

import pytest

from parml_core.kernel.invariants import check, check_worker
from parml_core.kernel.journal import Journal
from parml_core.kernel.transitions import STATES, TRANSITIONS, UNFINISHED, diagram
from parml_core.kernel.worker import WorkerKernel
from parml_core.protocol import messages as m


def test_transitions_lead_between_known_states_and_reach_each():
    """No state is a typing error, and none is cut off."""
    assert all(old in STATES and new in STATES and old != new for old, new in TRANSITIONS)
    reached, todo = {"released"}, ["released"]
    while todo:
        state = todo.pop()
        for old, new in TRANSITIONS:
            if old == state and new not in reached:
                reached.add(new)
                todo.append(new)
    assert reached == set(STATES)
    assert set(STATES) >= UNFINISHED


def test_diagram_shows_every_transition():
    """The documentation's picture is the table."""
    assert diagram().count(" -> ") == len(TRANSITIONS)


def test_journal_tells_the_story_of_a_key_and_forgets_the_oldest():
    """Its length is bounded."""
    journal = Journal(n_lines_max=3)
    for i in range(5):
        journal.note(float(i), "ab"[i % 2], i, "queued", "running")
    assert [line.now for line in journal.story("a")] == [2.0, 4.0]


def test_failed_check_tells_the_story_of_the_key(dialogue, task):
    """Whoever breaks an invariant sees how the task came there."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    d.kernel.tasks["a"].needed_by += 1
    with pytest.raises(AssertionError, match=r"a \(running.*counts 1 unfinished dependants, has 0") as error:
        check(d.kernel)
    assert "old='queued', new='running'" in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda k: k.workers["w0"].running.clear(),
        lambda k: k.tasks["a"].wanted_by.clear(),
        lambda k: k.tasks["a"].group.counts.update(running=7),
        lambda k: k.functions.clear(),
        lambda k: setattr(k.workers["w0"], "claimed", 1),
        lambda k: setattr(k.workers["w0"], "busy", 0),
        lambda k: k.tasks["b"].waiting_on.clear(),
        lambda k: k.tasks["a"].dependants.clear(),
        lambda k: setattr(k.workers["w0"], "load_s", -1.0),
        lambda k: k.by_address.clear(),
    ],
)
def test_check_sees_damage_to_any_part_of_the_state(dialogue, task, damage):
    """Each index is compared with what it indexes."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("b", "a"))
    check(d.kernel)
    damage(d.kernel)
    with pytest.raises(AssertionError):
        check(d.kernel)


def test_check_of_a_worker_sees_wrong_counts():
    """The threads that are handed out are those of the runs that are."""
    kernel = WorkerKernel(1, "tcp://w")
    kernel.handle([m.Compute({}, [m.Assignment("a", 1, "f", b"", (), (0, 0, 0))])])
    check_worker(kernel)
    kernel.handed_threads = 0
    with pytest.raises(AssertionError, match="threads"):
        check_worker(kernel)

"""Workers that are short of memory: who gets what then, and that nothing waits for ever."""

from __future__ import annotations

import pytest

from parml_core.graph import Hints
from parml_core.protocol import messages as m

PAUSED, FULL = m.Pressure(1), m.Pressure(2)


def gives_back(d, worker, *keys):
    runs = [d.runs[worker].pop(key) for key in keys]
    return m.Returned([(run.key, run.attempt) for run in runs])


def refuses(d, worker, key):
    run = d.runs[worker].pop(key)
    return d.says(worker, m.Failed(key, run.attempt, m.Failure("SpillError", "no room", key=key, worker=worker)))


def test_paused_worker_gets_nothing_while_another_is_not(dialogue, task):
    """What it gives back runs elsewhere, and what is new waits for the other."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", *(task(f"a-{i}") for i in range(6)))
    first, ahead = d.running("w0")
    d.says("w0", PAUSED, gives_back(d, "w0", ahead))
    d.finishes("w0", first)
    assert d.running("w0") == []
    for _ in range(10):
        if d.running("w1"):
            d.finishes("w1", d.running("w1")[0])
    assert d.running("w0") == [] and all(d.state(f"a-{i}") == "memory" for i in range(6))


def test_task_goes_where_its_input_is_not_if_that_worker_is_paused(dialogue, task):
    """Moving the input is better than to wait for nobody knows how long."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a"), task("busy"), task("b", "a"))
    d.says("w0", PAUSED)
    d.finishes("w0", "a", nbytes=10**10)
    assert d.running("w0") == []
    d.finishes("w1", "busy")
    assert d.running("w1") == ["b"] and not d.runs["w1"]["b"].anyway


def test_task_that_waits_for_a_paused_worker_finds_another(dialogue, task):
    """Also one that was queued for it before."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("busy-0"), task("busy-1"), task("b", "a"))
    d.finishes("w0", "a", nbytes=10**12)
    d.worker("w1")
    assert d.state("b") == "queued"
    d.says("w0", PAUSED)
    assert "b" in d.running("w1")


@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_that_are_all_paused_get_one_task_at_a_time(dialogue, task, n_workers):
    """However many threads they have: so all is done in the end, sources and what has inputs."""
    d = dialogue()
    names = [f"w{i}" for i in range(n_workers)]
    for name in names:
        d.worker(name, nthreads=4)
        d.says(name, PAUSED)
    tasks = [task(f"a-{i}") for i in range(4)] + [task(f"b-{i}", f"a-{i}") for i in range(4)]
    d.submits("c", *tasks)
    n_done = 0
    while any(d.running(name) for name in names):
        for name in names:
            assert len(d.running(name)) <= 1
            for key in d.running(name):
                assert d.runs[name][key].anyway
                d.finishes(name, key)
                n_done += 1
    assert n_done == 8


def test_paused_worker_uses_what_it_holds_before_it_reads_more(dialogue, task):
    """Though what reads more was submitted first."""
    d = dialogue()
    d.worker("w0")
    d.says("w0", PAUSED)
    d.submits("c", *(task(f"read-{i}") for i in range(4)), *(task(f"use-{i}", f"read-{i}") for i in range(4)))
    for i in range(2):
        for key in (f"read-{i}", f"use-{i}"):
            assert d.running("w0") == [key]
            d.finishes("w0", key)
    d.finishes("w0", "read-2")
    assert d.running("w0") == ["use-2"]


def test_paused_worker_runs_what_has_priority_first(dialogue, task):
    """What a task submits has it: it may be what that one waits for."""
    d = dialogue()
    d.worker("w0")
    d.says("w0", PAUSED)
    urgent = task("urgent", hints=Hints(priority=1))
    d.submits("c", task("read"), task("use", "read"))
    d.submits("c", urgent)
    d.finishes("w0", d.running("w0")[0])
    d.finishes("w0", d.running("w0")[0])
    assert d.state("urgent") == "memory" and d.running("w0") == ["use"]


def test_paused_worker_whose_task_waits_for_others_gets_another(dialogue, task):
    """It may be what that one waits for."""
    d = dialogue()
    d.worker("w0")
    d.says("w0", PAUSED)
    d.submits("c", task("parent"))
    d.submits("c", task("child"))
    assert d.running("w0") == ["parent"]
    d.says("w0", m.Blocked(1))
    assert d.running("w0") == ["parent", "child"]


def test_task_that_is_tied_to_a_paused_worker_runs_there(dialogue, task):
    """One after the other; it would wait for ever if the memory did not come back."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.worker("w1", nthreads=2)
    d.says("w0", PAUSED)
    d.submits("c", *(task(f"a-{i}", hints=Hints(where=("w0",))) for i in range(3)))
    for i in range(3):
        assert d.running("w0") == [f"a-{i}"]
        d.finishes("w0", f"a-{i}")


def test_worker_that_has_memory_again_gets_tasks_as_before(dialogue, task):
    """At once."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.says("w0", PAUSED)
    d.submits("c", *(task(f"a-{i}") for i in range(4)))
    assert len(d.running("w0")) == 1
    d.says("w0", m.Pressure(0))
    assert len(d.running("w0")) == 3
    assert not d.runs["w0"]["a-1"].anyway


def test_full_worker_gets_nothing_while_another_has_room(dialogue, task):
    """Its disk is full: what it is sent fails. A paused one can still run something."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.says("w0", FULL)
    d.says("w1", PAUSED)
    d.submits("c", *(task(f"a-{i}") for i in range(3)))
    for i in range(3):
        assert (d.running("w0"), d.running("w1")) == ([], [f"a-{i}"])
        d.finishes("w1", f"a-{i}")


def test_task_fails_where_all_workers_are_full_and_nothing_runs_that_could_make_room(dialogue, task, heard):
    """With what the worker says of it."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("b"))
    d.says("w0", FULL, gives_back(d, "w0", "b"))
    assert (d.running("w0"), d.state("b")) == (["a"], "queued")
    d.finishes("w0", "a")
    assert d.running("w0") == ["b"] and d.runs["w0"]["b"].anyway
    [failed] = heard(refuses(d, "w0", "b"), "c", m.KeysFailed)
    assert failed.failures[0].text == "no room" and d.state("a") == "memory"


def test_paused_worker_that_is_lost_leaves_nothing_behind(dialogue, task):
    """Nor does its return."""
    d = dialogue()
    d.worker("w0")
    d.says("w0", PAUSED)
    d.submits("c", task("a"), task("b"))
    d.loses("w0")
    d.worker("w0", id="w0#2")
    assert set(d.running("w0#2")) <= {"a", "b"} and d.running("w0#2")


def test_suspect_runs_alone_on_a_worker_that_has_memory(dialogue, task):
    """And moves there from one that became short of it before it started."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("b"))
    d.loses("w0")
    for name in ("w1", "w2"):
        d.worker(name)
    suspects = d.running("w1") + d.running("w2")
    assert sorted(suspects) == ["a", "b"]
    d.says("w1", PAUSED, gives_back(d, "w1", *d.running("w1")))
    assert d.running("w1") == []
    d.finishes("w2", d.running("w2")[0])
    assert len(d.running("w2")) == 1

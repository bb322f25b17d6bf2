"""Gangs: all ranks start or none; one is lost, all end."""

from __future__ import annotations

from parml_core.graph import Hints
from parml_core.protocol import messages as m


def forms(d, task, n_ranks: int, *, where=None, deps=(), timeout_s: float = 0.0, gang: str = "g"):
    """A client submits a gang; it gets no sooner than all its workers are free."""
    if "c" not in d.kernel.clients:
        d.client("c")
    d.wants["c"] = d.wants.get("c", 0) + 1
    ranks = [task(f"rank-{gang}:{r}", *deps, order=r) for r in range(n_ranks)]
    functions = {spec.fn: b"..." for spec in ranks}
    return d.says("c", m.SubmitGang(gang, functions, ranks, where or [[]] * n_ranks, timeout_s, d.wants["c"]))


def test_gang_starts_when_all_its_workers_are_free_and_not_before(dialogue, task):
    """While one worker is busy no rank starts, and the free ones are kept for the gang."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("busy"))
    forms(d, task, 2)
    d.submits("c", task("late"))
    assert (d.running("w0"), d.running("w1")) == (["busy"], [])
    d.finishes("w0", "busy")
    assert sorted(d.running("w0") + d.running("w1")) == ["rank-g:0", "rank-g:1"]
    assert d.state("late") == "queued"


def test_gang_ranks_spread_over_idle_workers(dialogue, task):
    """Without `where` each rank takes one thread, idle workers first."""
    d = dialogue()
    for i in range(3):
        d.worker(f"w{i}")
    d.submits("c", task("busy", hints=Hints(where=("w0",))))
    forms(d, task, 2)
    assert d.running("w0") == ["busy"]
    assert len(d.running("w1")) == len(d.running("w2")) == 1


def test_gang_with_where_takes_all_threads_of_its_workers(dialogue, task):
    """Rank 0 runs beside w0 and has the threads of w0 and w1."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.worker("w1", nthreads=3)
    forms(d, task, 1, where=[["w0", "w1"]])
    assert d.runs["w0"]["rank-g:0"].threads == 5
    d.submits("c", task("a"))
    assert d.state("a") == "queued"
    d.finishes("w0", "rank-g:0")
    assert d.state("a") == "running"


def test_gang_waits_for_its_inputs_and_does_not_keep_workers_from_making_them(dialogue, task):
    """Reserving the workers that have to compute the inputs would be a deadlock."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    forms(d, task, 1, deps=("a",))
    assert d.running("w0") == ["a"]
    d.finishes("w0", "a")
    assert d.running("w0") == ["rank-g:0"]


def test_gang_whose_input_is_lost_while_it_reserves_gives_the_workers_back(dialogue, task):
    """The input is made again on the very workers that were reserved."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a", hints=Hints(where=("w1",))), task("busy", hints=Hints(where=("w0",))))
    d.finishes("w1", "a")
    forms(d, task, 2, deps=("a",))
    assert d.kernel.workers["w1"].reserved_by is not None
    d.says("c", m.Absent(["a"], "tcp://w1"))
    assert d.running("w1") == ["a"]
    d.finishes("w1", "a")
    d.finishes("w0", "busy")
    assert d.running("w0") + d.running("w1") == ["rank-g:0", "rank-g:1"]


def test_rank_that_raises_ends_its_siblings(dialogue, task, heard):
    """The rank has its own exception; the sibling is killed and names the rank."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    forms(d, task, 2)
    sibling = d.runs["w0"]["rank-g:1"]
    outbox = d.raises("w0", "rank-g:0")
    assert heard(outbox, "w0", m.Revoke) == [m.Revoke([("rank-g:1", sibling.attempt)])]
    [failed] = heard(outbox, "c", m.KeysFailed)
    assert [(key, failure.kind) for key, failure in zip(failed.keys, failed.failures, strict=True)] == [
        ("rank-g:0", "raised"),
        ("rank-g:1", "GangError"),
    ]
    assert "rank 0" in failed.failures[1].text


def test_lost_worker_of_a_rank_ends_the_gang(dialogue, task, heard):
    """All futures say which rank was lost, on which worker."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    forms(d, task, 2)
    outbox = d.loses("w1")
    assert heard(outbox, "w0", m.Revoke)
    [failed] = heard(outbox, "c", m.KeysFailed)
    assert {failure.kind for failure in failed.failures} == {"GangError"}
    assert all("rank 1" in failure.text and "'w1'" in failure.text for failure in failed.failures)
    assert d.kernel.workers["w0"].claimed == 0


def test_lost_worker_whose_threads_a_rank_uses_ends_the_gang(dialogue, task, heard):
    """A rank that runs elsewhere has lost part of its machine."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    forms(d, task, 1, where=[["w0", "w1"]])
    outbox = d.loses("w1")
    assert heard(outbox, "w0", m.Revoke) and heard(outbox, "c", m.KeysFailed)
    d.submits("c", task("a"))
    assert d.running("w0") == ["a"]


def test_gang_that_cannot_start_in_time_says_why(dialogue, task, heard):
    """More ranks than threads: an error with numbers, at the deadline."""
    d = dialogue()
    d.worker("w0")
    forms(d, task, 3, timeout_s=5.0)
    d.beats("w0", for_s=5)
    d.says("w0", m.Heartbeat([], 0, 0.0))
    [failed] = heard(d.tick(1.0), "c", m.KeysFailed)
    assert failed.failures[0].kind == "GangError"
    assert "3 free threads" in failed.failures[0].text and "w0" in failed.failures[0].text


def test_gang_that_fits_nowhere_does_not_hold_up_the_next(dialogue, task):
    """It waits for workers to join; others start meanwhile."""
    d = dialogue()
    d.worker("w0")
    forms(d, task, 3, gang="big")
    forms(d, task, 1, gang="small")
    assert d.running("w0") == ["rank-small:0"]


def test_gang_behind_another_does_not_take_the_threads_that_it_waits_for(dialogue, task):
    """Otherwise a stream of small gangs would starve a large one."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    forms(d, task, 1, gang="first")
    forms(d, task, 2, gang="large")
    forms(d, task, 1, gang="small")
    assert d.running("w0") == ["rank-first:0"]
    d.finishes("w0", "rank-first:0")
    assert d.running("w0") == ["rank-large:0", "rank-large:1"]


def test_rank_that_cannot_fetch_its_inputs_sends_all_ranks_back_to_wait(dialogue, task):
    """Nothing has run yet: the gang starts again when the input is back."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a", hints=Hints(where=("w0",))))
    d.finishes("w0", "a")
    forms(d, task, 2, deps=("a",))
    rank = next(iter(d.running("w1")))
    d.missing("w1", rank, ("a", "w0", True))
    assert (d.running("w0"), d.running("w1")) == (["a"], [])
    assert {d.state("rank-g:0"), d.state("rank-g:1")} == {"waiting"}
    d.finishes("w0", "a")
    assert len(d.running("w0")) == len(d.running("w1")) == 1


def test_gang_nobody_wants_any_more_is_ended(dialogue, task, heard):
    """As long as one rank is wanted all go on; then all are killed."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    forms(d, task, 2)
    assert d.says("c", m.Release(["rank-g:0"])) == {}
    assert len(heard(d.says("c", m.Release(["rank-g:1"])), "w0", m.Revoke)[0].attempts) == 2
    assert d.kernel.tasks == {} and d.kernel.gangs.gangs == {}


def test_result_of_a_rank_that_is_lost_is_not_made_again(dialogue, task, heard):
    """One rank cannot run without the others."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    forms(d, task, 1)
    worker = "w0" if d.running("w0") else "w1"
    d.finishes(worker, "rank-g:0")
    [failed] = heard(d.loses(worker), "c", m.KeysFailed)
    assert failed.failures[0].kind == "DataLost"


def test_gang_with_the_key_of_another_task_is_refused(dialogue, task, heard):
    """A key stands for one task; the futures say what to do."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("rank-g:0"))
    [failed] = heard(forms(d, task, 2), "c", m.KeysFailed)
    assert failed.keys == ["rank-g:0", "rank-g:1"] and failed.failures[0].kind == "GangError"
    assert d.kernel.gangs.gangs == {}

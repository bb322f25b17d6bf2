"""Which worker is sent which task, and when."""

from __future__ import annotations

from parml_core.graph import Hints
from parml_core.protocol import messages as m


def test_task_with_inputs_on_two_workers_goes_where_most_bytes_are(dialogue, task):
    """Moving little to where much lies is cheaper than the other way round."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a"), task("b"), task("sum", "a", "b"))
    assert (d.running("w0"), d.running("w1")) == (["a"], ["b"])
    d.finishes("w0", "a", nbytes=1_000)
    d.finishes("w1", "b", nbytes=1_000_000_000)
    assert (d.running("w0"), d.running("w1")) == ([], ["sum"])


def test_task_with_small_input_on_a_busy_worker_goes_to_an_idle_one(dialogue, task):
    """Waiting behind a second of work costs more than moving eight bytes."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("busy-0"), task("busy-1"), task("after", "a"))
    d.finishes("w0", "a")
    d.worker("w1")
    assert "after" not in d.running("w0")
    assert "after" in d.running("w1")


def test_task_with_a_huge_input_waits_for_the_busy_worker_that_holds_it(dialogue, task):
    """Moving minutes' worth of bytes costs more than waiting for half a second."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("busy-0"), task("busy-1"), task("after", "a"))
    d.finishes("w0", "a", nbytes=10**12)
    d.worker("w1")
    assert d.state("after") == "queued"
    d.finishes("w0", *d.running("w0"))
    assert "after" in d.running("w0")


def test_source_tasks_of_unknown_duration_wait_in_the_scheduler(dialogue, task):
    """One for each slot and one ahead: reading does not outrun consuming, and other workers can still take the rest."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.submits("c", *(task(f"read-{i}") for i in range(10)))
    assert d.running("w0") == ["read-0", "read-1", "read-2"]
    assert [d.state(f"read-{i}") for i in range(3, 10)] == ["queued"] * 7


def test_tasks_of_microseconds_travel_by_hundreds(dialogue, task, heard):
    """Once a task of the group was measured at 10 µs, 20 ms of work go ahead in one message."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", *(task(f"f-{i}") for i in range(5000)))
    assert len(d.running("w0")) == 2
    d.finishes("w0", "f-0", duration_s=1e-5)
    [message] = heard(d.finishes("w0", "f-1", duration_s=1e-5), "w0", m.Compute)
    assert 1000 <= len(message.tasks) <= 2000


def test_tasks_of_seconds_travel_one_ahead(dialogue, task):
    """Long work is not tied to a worker before its time."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", *(task(f"f-{i}") for i in range(10)))
    for i in range(5):
        assert d.running("w0") == [f"f-{i}", f"f-{i + 1}"]
        d.finishes("w0", f"f-{i}", duration_s=3.0)


def test_tasks_of_higher_priority_are_sent_first(dialogue, task):
    """Hints.priority beats the order of submission."""
    d = dialogue()
    d.submits("c", task("low"), task("lower"), task("high", hints=Hints(priority=1)))
    d.worker("w0")
    assert d.running("w0") == ["high", "low"]


def test_idle_worker_takes_from_the_queue_of_a_busy_one(dialogue, task):
    """What was not sent yet is shared without asking anybody."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), *(task(f"b-{i}", "a") for i in range(6)))
    d.finishes("w0", "a")
    assert d.running("w0") == ["b-0", "b-1"]
    d.worker("w1")
    assert d.running("w1") == ["b-2", "b-3"]


def test_tasks_sent_ahead_are_asked_back_when_others_are_idle(dialogue, task, heard):
    """The scheduler recalls what has not started; only what the worker returns runs elsewhere."""
    d = dialogue(prefetch_s=10.0)
    d.worker("w0")
    d.submits("c", *(task(f"f-{i}") for i in range(4)))
    d.finishes("w0", "f-0")
    assert d.running("w0") == ["f-1", "f-2", "f-3"]
    d.worker("w1")
    [recall] = heard(d.tick(0.2), "w0", m.Recall)
    assert [key for key, _ in recall.attempts] == ["f-3"]
    assert d.running("w1") == []
    d.says("w0", m.Returned(recall.attempts))
    assert d.running("w1") == ["f-3"]


def test_wide_task_counts_all_its_threads(dialogue, task):
    """A task of three threads fills a worker of three: the next wide one goes to the other worker."""
    d = dialogue()
    d.worker("w0", nthreads=3)
    d.worker("w1", nthreads=3)
    wide = Hints(threads=3)
    d.submits("c", task("a", hints=wide), task("b", hints=wide))
    assert (d.running("w0"), d.running("w1")) == (["a"], ["b"])


def test_task_without_a_slot_starts_on_a_full_worker(dialogue, task):
    """threads=0 takes no slot and waits for none."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", *(task(f"f-{i}") for i in range(5)))
    d.submits("c", task("now", hints=Hints(threads=0)))
    assert "now" in d.running("w0")


def test_tasks_without_a_slot_leave_the_slots_to_others(dialogue, task):
    """Tasks that wait for others without taking a slot must not keep these out."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", *(task(f"wait-{i}", hints=Hints(threads=0)) for i in range(3)))
    d.submits("c", task("child"))
    assert "child" in d.running("w0")


def test_blocked_task_gives_its_slot_back(dialogue, task):
    """While a task only waits, another runs in its place; afterwards there is one slot again."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("parent"), task("long"))
    d.submits("c", task("child", hints=Hints(priority=1)))
    assert d.running("w0") == ["parent", "long"]
    d.says("w0", m.Blocked(1))
    assert d.running("w0") == ["parent", "long", "child"]
    d.says("w0", m.Blocked(-1))
    d.submits("c", task("other"))
    assert "other" not in d.running("w0")


def test_resources_are_never_given_out_twice(dialogue, task):
    """A task that needs the GPU waits while another has it, and others pass it by."""
    d = dialogue()
    d.worker("w0", nthreads=2, resources={"gpu": 1.0})
    gpu = Hints(resources={"gpu": 1.0})
    d.submits("c", task("train-0", hints=gpu), task("train-1", hints=gpu), task("plain"))
    assert d.running("w0") == ["train-0", "plain"]
    d.finishes("w0", "train-0")
    assert d.running("w0") == ["plain", "train-1"]


def test_task_pinned_to_a_name_waits_for_that_worker(dialogue, task):
    """A worker that restarts keeps its name: a task tied to it runs there."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("here", hints=Hints(where=("w1",))))
    assert d.running("w0") == []
    d.worker("w1", id="w1#2")
    assert d.running("w1#2") == ["here"]


def test_task_pinned_to_a_worker_that_never_comes_fails_with_a_reason(dialogue, task, heard):
    """Nobody waits for ever; the message names what was wanted and who is here."""
    d = dialogue(pinned_timeout_s=5.0)
    d.worker("w0")
    d.submits("c", task("here", hints=Hints(where=("gone",))), task("after", "here"))
    d.beats("w0", for_s=4)
    assert d.state("here") == "queued"
    d.says("w0", m.Heartbeat([], 0, 0.0))
    [failed] = heard(d.tick(2.0), "c", m.KeysFailed)
    assert failed.keys == ["here", "after"]
    assert failed.failures[0].kind == "ClusterError"
    assert "where=('gone',)" in failed.failures[0].text and "w0" in failed.failures[0].text


def test_queue_of_a_worker_that_a_gang_takes_moves_elsewhere(dialogue, task):
    """Training may take hours: what waited for that worker's threads goes to others."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), *(task(f"b-{i}", "a") for i in range(4)))
    d.finishes("w0", "a", nbytes=10**12)
    ranks = [task("rank:0")]
    d.says("c", m.SubmitGang("g", {"f-rank:0": b""}, ranks, [["w0"]], 0.0, 9))
    d.finishes("w0", "b-0", "b-1")
    assert d.running("w0") == ["rank:0"]
    assert [d.state("b-2"), d.state("b-3")] == ["queued"] * 2
    d.worker("w1")
    assert d.running("w1") == ["b-2", "b-3"]

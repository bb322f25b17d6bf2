"""Runs that raise, workers that die, peers that cannot be reached."""

from __future__ import annotations

from parml_core.graph import Hints
from parml_core.protocol import messages as m


def test_task_with_retries_is_run_again_until_they_are_used_up(dialogue, task, heard):
    """retries=1: two runs; the second failure is the task's, and that of what needs it."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("flaky", hints=Hints(retries=1)), task("after", "flaky"))
    first = d.runs["w0"]["flaky"].attempt
    d.raises("w0", "flaky")
    assert d.runs["w0"]["flaky"].attempt > first
    [failed] = heard(d.raises("w0", "flaky"), "c", m.KeysFailed)
    assert failed.keys == ["flaky", "after"]
    assert [failure.key for failure in failed.failures] == ["flaky", "flaky"]


def test_answer_of_an_old_attempt_is_ignored(dialogue, task):
    """Whoever was given up on may still answer: it counts for nothing."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    old = d.runs["w0"]["a"]
    d.says("c", m.Release(["a"]))
    d.submits("c", task("a"))
    d.says("w0", m.Finished([m.Done("a", old.attempt, 8, 1.0)]))
    assert d.state("a") == "running"
    d.finishes("w0", "a")
    assert d.state("a") == "memory"


def test_key_that_was_forgotten_gets_a_new_number(dialogue, task, heard):
    """Numbers of attempts are never used twice, also when nothing else is remembered of a key."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    first = d.runs["w0"]["a"].attempt
    revoked = heard(d.says("c", m.Release(["a"])), "w0", m.Revoke)
    assert revoked[0].attempts == [("a", first)] and d.state("a") == "unknown"
    d.submits("c", task("a"))
    assert d.runs["w0"]["a"].attempt != first


def test_lost_worker_has_only_its_own_results_made_again(dialogue, task, heard):
    """What another worker holds is not computed twice; clients that had a result hear that it is pending again."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a"), task("b"), task("pair", "a", "b", order=2))
    d.finishes("w0", "a")
    d.finishes("w1", "b", nbytes=10**9)
    d.finishes("w1", "pair")
    outbox = d.loses("w0")
    assert [message.keys for message in heard(outbox, "c", m.KeysPending)] == [["a"]]
    assert d.running("w1") == ["a"]
    assert (d.state("b"), d.state("pair")) == ("memory", "memory")
    assert d.kernel.counters["recomputed"] == 1


def test_lost_input_of_a_lost_result_is_made_again_first(dialogue, task):
    """A result whose inputs were dropped long ago is made from its graph."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("b", "a"), task("c", "b"), wants=["c"])
    for key in ("a", "b", "c"):
        d.finishes("w0", key)
    assert [d.state(key) for key in "abc"] == ["released", "released", "memory"]
    d.worker("w1")
    d.loses("w0")
    assert [d.state(key) for key in "abc"] == ["running", "waiting", "waiting"]
    for key in ("a", "b", "c"):
        d.finishes("w1", key)
    assert [d.state(key) for key in "abc"] == ["released", "released", "memory"]


def test_second_holder_saves_a_value_from_being_made_again(dialogue, task, heard):
    """A copy that was fetched as an input is as good as the original."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a"))
    d.finishes("w0", "a")
    d.says("w1", m.Copied([("a", 8)]))
    assert heard(d.loses("w0"), "c", m.KeysPending) == []
    assert d.state("a") == "memory"


def test_poison_task_ends_with_the_names_of_the_workers_it_took_down(dialogue, task, heard):
    """Three deaths, each while it ran alone, are enough; its companions of the first death are unharmed."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.submits("c", task("poison"), task("innocent"))
    d.loses("w0", "killed by signal 11")
    outbox = {}
    for name in ("w1", "w2", "w3"):
        d.worker(name, nthreads=2)
        if d.running(name) == ["innocent"]:
            d.finishes(name, "innocent")
        assert d.running(name) == ["poison"]
        outbox = d.loses(name, "killed by signal 11")
    [failed] = heard(outbox, "c", m.KeysFailed)
    assert failed.keys == ["poison"]
    assert failed.failures[0].kind == "WorkerKilled"
    assert "w1, w2, w3" in failed.failures[0].text and "signal 11" in failed.failures[0].text
    d.worker("w4")
    if d.running("w4"):
        d.finishes("w4", "innocent")
    assert d.state("innocent") == "memory"


def test_suspects_run_alone_and_others_wait_for_them(dialogue, task):
    """While a suspect has a worker for itself, that worker is sent nothing else."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.submits("c", task("a"), task("b"))
    d.loses("w0")
    d.worker("w1", nthreads=2)
    d.submits("c", task("fresh"))
    assert d.running("w1") == ["a"]
    d.finishes("w1", "a")
    assert d.running("w1") == ["b"]
    d.finishes("w1", "b")
    assert d.running("w1") == ["fresh"]


def test_suspect_that_waits_for_its_children_does_not_keep_them_out(dialogue, task):
    """A task that only waits is no danger; without its children it would wait for ever."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("parent"), task("other"))
    d.loses("w0")
    d.worker("w1")
    assert d.running("w1") == ["parent"]
    d.says("w1", m.Blocked(1))
    d.submits("w1/c", task("child", hints=Hints(priority=1)))
    assert d.running("w1") == ["parent", "child"]


def test_two_suspects_that_wait_for_each_other_end_up_side_by_side(dialogue, task):
    """Nothing runs but a task that waits: after two seconds another suspect may join it, since it may be what it waits for."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.submits("c", task("parent"), task("needed"))
    d.loses("w0")
    d.worker("w1", nthreads=2)
    assert d.running("w1") == ["parent"]
    d.says("w1", m.Blocked(1))
    assert d.running("w1") == ["parent"]
    d.beats("w1", for_s=3)
    assert d.running("w1") == ["parent", "needed"]


def test_worker_that_leaves_on_purpose_puts_nobody_under_suspicion(dialogue, task):
    """A worker that says good-bye was not killed by its tasks."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.submits("c", task("a"), task("b"))
    d.says("w0", m.WorkerBye("scaled down"))
    assert d.kernel.disconnect == ["w0"]
    d.worker("w1", nthreads=2)
    assert d.running("w1") == ["a", "b"]


def test_silent_worker_is_sent_away_and_heard_no_more(dialogue, task, heard):
    """After 15 s of silence its work goes elsewhere; should it wake up, its answers count for nothing and it has to leave."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    run = d.runs["w0"]["a"]
    d.worker("w1")
    d.beats("w1", for_s=15)
    assert d.running("w1") == []
    d.says("w1", m.Heartbeat([], 0, 0.0))
    outbox = d.tick(1.0)
    assert heard(outbox, "w0", m.Leave) and d.kernel.disconnect == ["w0"]
    assert d.running("w1") == ["a"]
    assert d.says("w0", m.Finished([m.Done("a", run.attempt, 8, 1.0)])) == {}
    assert d.state("a") == "running"


def test_scheduler_that_was_stopped_itself_blames_nobody_for_silence(dialogue, task):
    """Heartbeats wait in the sockets of a scheduler that was stopped for a minute: the clock alone proves nothing."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    d.beats("w0", for_s=2)
    d.tick(60.0)
    assert d.running("w0") == ["a"]
    d.beats("w0", for_s=2)
    assert d.running("w0") == ["a"]


def test_worker_that_joins_at_the_address_of_another_takes_its_place(dialogue, task):
    """Two processes cannot listen at one address: the former is dead, whatever its connection says."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    d.finishes("w0", "a")
    former = d.kernel.workers["w0"]
    d.kernel.by_address["tcp://w0#2"] = d.kernel.by_address.pop(former.address)
    former.address = "tcp://w0#2"
    d.worker("w0", id="w0#2")
    assert list(d.kernel.workers) == ["w0#2"]
    assert d.running("w0#2") == ["a"]


def test_value_that_its_holder_does_not_have_is_made_again(dialogue, task):
    """The scheduler believes the worker that said so, and the run goes on when the value is back."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a"), task("long", hints=Hints(where=("w0",))), task("b", "a", hints=Hints(where=("w1",))))
    d.finishes("w0", "a")
    d.missing("w1", "b", ("a", "w0", True))
    assert (d.state("a"), d.state("b")) == ("running", "waiting")
    holder = "w0" if "a" in d.running("w0") else "w1"
    d.finishes(holder, "a")
    assert d.running("w1") == ["b"]


def test_holder_that_cannot_be_reached_is_tried_again_with_pauses_then_made_again_then_the_task_fails(dialogue, task, heard):
    """A network that is split for good ends in an error that names both ends, and not in a loop."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a", hints=Hints(where=("w0",))), task("b", "a", hints=Hints(where=("w1",))))
    d.finishes("w0", "a")
    outbox, n_tries, n_made = {}, 0, 1
    while d.state("b") != "erred":
        assert n_tries < 20
        if d.running("w1"):
            n_tries += 1
            outbox = d.missing("w1", "b", ("a", "w0", False))
            assert d.running("w1") == [], "no pause"
        elif d.running("w0"):
            n_made += 1
            d.finishes("w0", "a")
        else:
            d.beats("w0", "w1", for_s=1)
    assert n_tries == 12 and n_made > 3 and 10 < d.now < 60
    [failed] = heard(outbox, "c", m.KeysFailed)
    assert "'w1' did not reach tcp://w0" in failed.failures[0].text


def test_functions_are_sent_once_to_a_worker_and_forgotten_some_time_after_their_last_task(dialogue, task, heard):
    """The bytes of a function travel with its first task only, also to tasks that come soon after the last one is gone."""
    d = dialogue()
    d.worker("w0")
    outbox = d.submits("c", task("f-0"), task("f-1"))
    assert list(heard(outbox, "w0", m.Compute)[0].functions) == ["f-f"]
    assert heard(d.submits("c", task("f-2")), "w0", m.Compute) == []
    assert heard(d.finishes("w0", "f-0", "f-1"), "w0", m.Compute)[0].functions == {}
    d.finishes("w0", "f-2")
    outbox = d.says("c", m.Release(["f-0", "f-1", "f-2"]))
    assert heard(outbox, "w0", m.ForgetFunctions) == []
    assert heard(d.submits("c", task("f-3")), "w0", m.Compute)[0].functions == {}
    d.finishes("w0", "f-3")
    d.says("c", m.Release(["f-3"]))
    outbox = d.tick(d.kernel.policy.function_idle_s + 1)
    assert heard(outbox, "w0", m.ForgetFunctions) == [m.ForgetFunctions(["f-f"])]
    assert d.kernel.functions == {}


def test_large_function_is_forgotten_with_its_last_task(dialogue, task, heard):
    """What a closure holds does not outlive the tasks that need it."""
    d = dialogue()
    d.worker("w0")
    spec = task("f-0")
    d.client("c")
    d.says("c", m.Submit({spec.fn: bytes(100_000)}, [spec], ["f-0"], 1))
    d.finishes("w0", "f-0")
    outbox = d.says("c", m.Release(["f-0"]))
    assert heard(outbox, "w0", m.ForgetFunctions) == [m.ForgetFunctions([spec.fn])]


def test_small_result_travels_with_the_news_and_is_not_kept(dialogue, task, heard):
    """A worker is told whose result somebody waits for; who asks later is told where it is."""
    d = dialogue()
    d.worker("w0")
    [compute] = heard(d.submits("c", task("b", "a"), task("a"), wants=["b"]), "w0", m.Compute)
    assert [(run.key, run.wanted) for run in compute.tasks] == [("a", False)]
    [compute] = heard(d.finishes("w0", "a"), "w0", m.Compute)
    [run] = compute.tasks
    assert run.wanted
    [ready] = heard(d.says("w0", m.Finished([m.Done("b", run.attempt, 8, 0.1, b"pickle")])), "c", m.KeysReady)
    assert (ready.keys, ready.small) == (["b"], [b"pickle"])
    d.client("other")
    [ready] = heard(d.says("other", m.Want(["b"], 1)), "other", m.KeysReady)
    assert (ready.keys, ready.small) == (["b"], [b""])

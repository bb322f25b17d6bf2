"""Clients that share keys, cancel, scatter and leave."""

from __future__ import annotations

from parml_core.graph import Hints
from parml_core.protocol import messages as m


def test_two_clients_that_submit_the_same_key_share_one_run(dialogue, task, heard):
    """Equal keys are equal work; each is told under its own number."""
    d = dialogue()
    d.worker("w0")
    d.submits("c0", task("a"))
    d.submits("c1", task("a"))
    outbox = d.finishes("w0", "a")
    assert [heard(outbox, c, m.KeysReady)[0].keys for c in ("c0", "c1")] == [["a"], ["a"]]
    assert d.kernel.counters["finished"] == 1


def test_cancel_with_two_clients_ends_only_the_future_of_the_one_that_cancels(dialogue, task, heard):
    """Somebody else still wants it: the run goes on."""
    d = dialogue()
    d.worker("w0")
    d.submits("c0", task("a"))
    d.submits("c1", task("a"))
    outbox = d.says("c0", m.Cancel(["a"]))
    assert heard(outbox, "c0", m.KeysFailed)[0].failures[0].kind == "TaskCancelled"
    assert "c1" not in outbox and d.running("w0") == ["a"]
    assert heard(d.finishes("w0", "a"), "c1", m.KeysReady)


def test_cancel_spares_what_a_dependant_of_another_client_needs(dialogue, task, heard):
    """The input of somebody else's task is not ended either."""
    d = dialogue()
    d.worker("w0")
    d.submits("c0", task("a"))
    d.submits("c1", task("a"), task("b", "a"), wants=["b"])
    d.says("c0", m.Cancel(["a"]))
    d.finishes("w0", "a")
    assert heard(d.finishes("w0", "b"), "c1", m.KeysReady)


def test_cancel_ends_dependants_and_inputs_that_only_they_need(dialogue, task, heard):
    """A cancelled run is revoked, and everything around it goes too."""
    d = dialogue()
    d.worker("w0", nthreads=2)
    d.submits("c", task("a"), task("b", "a"), task("e", "b"), wants=["b", "e"])
    outbox = d.says("c", m.Cancel(["b"]))
    assert heard(outbox, "c", m.KeysFailed)[0].keys == ["b", "e"]
    assert heard(outbox, "w0", m.Revoke)[0].attempts[0][0] == "a"
    assert d.state("a") == "released"


def test_cancelled_task_that_is_submitted_again_runs(dialogue, task, heard):
    """A cancellation is about the futures of that time, not about the key."""
    d = dialogue()
    d.submits("c", task("a"), task("b", "a"))
    d.says("c", m.Cancel(["a"]))
    assert (d.state("a"), d.state("b")) == ("erred", "erred")
    d.submits("c", task("a"), task("b", "a"))
    d.worker("w0")
    d.finishes("w0", "a")
    assert heard(d.finishes("w0", "b"), "c", m.KeysReady)[0].wants == [2]


def test_cancel_of_what_has_ended_changes_nothing(dialogue, task):
    """A result that is there stays."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"))
    d.finishes("w0", "a")
    assert d.says("c", m.Cancel(["a"])) == {}
    assert d.state("a") == "memory"


def test_release_frees_values_and_forgets_records(dialogue, task, heard):
    """When nobody holds a future nothing is left, on workers and in the scheduler."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("b", "a"), wants=["b"])
    d.finishes("w0", "a")
    assert heard(d.finishes("w0", "b"), "w0", m.Free) == [m.Free(["a"])]
    assert heard(d.says("c", m.Release(["b"])), "w0", m.Free) == [m.Free(["b"])]
    assert d.kernel.tasks == {}


def test_client_that_is_lost_releases_what_it_held(dialogue, task):
    """A crash counts as letting go of everything."""
    d = dialogue()
    d.worker("w0")
    d.submits("c", task("a"), task("b", "a"), task("e", "b"))
    d.loses("c")
    assert d.kernel.tasks == {} and d.kernel.clients == {}


def test_tasks_of_a_message_that_nobody_wants_are_not_kept(dialogue, task):
    """Only what a wanted key needs is remembered."""
    d = dialogue()
    d.submits("c", task("a"), task("b"), wants=["b"])
    assert list(d.kernel.tasks) == ["b"]


def test_want_of_an_unknown_key_fails_with_advice(dialogue, heard):
    """Whoever refers to a key that was released learns it at once."""
    d = dialogue()
    d.client("c")
    [failed] = heard(d.says("c", m.Want(["gone"], 1)), "c", m.KeysFailed)
    assert failed.failures[0].kind == "MissingKeyError"
    assert "submit it again" in failed.failures[0].text
    d.says("c", m.Release(["gone"]))
    assert d.kernel.tasks == {}


def scatters(d, client: str, key: str, *holders: str, want: int = 1):
    """The client has put a value on these workers."""
    return d.says(client, m.Scattered([m.Holding(key, 8, tuple(f"tcp://{holder}" for holder in holders))], want))


def test_scattered_value_that_is_lost_is_sent_again_by_its_client(dialogue, task, heard):
    """Nobody can compute it, but its client still has it; what waits for it goes on then."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.client("c")
    scatters(d, "c", "s", "w0")
    d.submits("c", task("a", "s"))
    outbox = d.loses("w0")
    assert heard(outbox, "c", m.NeedValues) == [m.NeedValues(["s"])]
    assert heard(outbox, "c", m.KeysPending)[0].keys == ["s"]
    assert d.state("a") == "waiting"
    scatters(d, "c", "s", "w1")
    assert d.running("w1") == ["a"]


def test_scattered_value_put_on_a_worker_that_died_meanwhile_is_asked_for_again(dialogue, heard):
    """The client's word and the worker's death may cross, more than once."""
    d = dialogue()
    d.worker("w0")
    d.client("c")
    d.loses("w0")
    for want in (1, 2):
        assert heard(scatters(d, "c", "s", "w0", want=want), "c", m.NeedValues) == [m.NeedValues(["s"])]
    d.worker("w1")
    assert heard(scatters(d, "c", "s", "w1", want=3), "c", m.KeysReady)


def test_scattered_value_whose_client_has_left_is_lost_with_its_worker(dialogue, task, heard):
    """Waiting would be for ever: what needs it fails, and says why."""
    d = dialogue()
    d.worker("w0")
    d.client("c0")
    scatters(d, "c0", "s", "w0")
    d.worker("w1", nthreads=1)
    d.submits("c1", task("a", "s", hints=Hints(where=("nobody",))))
    d.loses("c0")
    assert d.state("s") == "memory"
    [failed] = heard(d.loses("w0"), "c1", m.KeysFailed)
    assert failed.failures[0].kind == "DataLost" and failed.failures[0].key == "s"


def test_second_client_with_the_same_value_sends_it_when_the_first_has_left(dialogue, task, heard):
    """Every client that scattered a value can send it again."""
    d = dialogue()
    d.worker("w0")
    for client in ("c0", "c1"):
        d.client(client)
        scatters(d, client, "s", "w0")
    assert heard(d.loses("w0"), "c0", m.NeedValues)
    assert heard(d.loses("c0"), "c1", m.NeedValues) == [m.NeedValues(["s"])]


def test_value_that_no_client_speaks_of_is_dropped_after_a_while(dialogue, heard):
    """A client may die between putting a value on a worker and saying so."""
    d = dialogue(stray_s=5.0)
    d.worker("w0")
    d.says("w0", m.Copied([("s", 8)], put=True))
    d.beats("w0", for_s=5)
    d.says("w0", m.Heartbeat([], 0, 0.0))
    assert heard(d.tick(1.0), "w0", m.Free) == [m.Free(["s"])]


def test_value_that_its_client_speaks_of_later_is_kept(dialogue, heard):
    """The worker's word may come before the client's."""
    d = dialogue(stray_s=5.0)
    d.worker("w0")
    d.client("c")
    d.says("w0", m.Copied([("s", 8)], put=True))
    assert heard(scatters(d, "c", "s", "w0"), "c", m.KeysReady)
    d.beats("w0", for_s=8)
    assert d.state("s") == "memory"


def test_client_that_is_told_absent_gets_another_holder_or_a_new_run(dialogue, task, heard):
    """What the client found out counts: a holder without the value is none."""
    d = dialogue()
    d.worker("w0")
    d.worker("w1")
    d.submits("c", task("a"))
    d.finishes("w0", "a")
    d.says("w1", m.Copied([("a", 8)]))
    [ready] = heard(d.says("c", m.Absent(["a"], "tcp://w0")), "c", m.KeysReady)
    assert ready.holders == ["tcp://w1"]
    assert heard(d.says("c", m.Absent(["a"], "tcp://w1")), "c", m.KeysPending)
    assert d.state("a") == "running"


def test_lost_result_is_made_again_although_another_client_cancelled_its_input_later(dialogue, task, heard):
    """A cancellation ends the futures of its time; it does not keep others from what they need afterwards."""
    d = dialogue()
    d.worker("w0")
    d.submits("c0", task("a"), task("b", "a"), wants=["b"])
    d.finishes("w0", "a")
    d.finishes("w0", "b")
    d.submits("c1", task("a"))
    d.says("c1", m.Cancel(["a"]))
    assert d.state("a") == "erred"
    d.loses("w0")
    d.worker("w1")
    d.finishes("w1", "a")
    assert heard(d.finishes("w1", "b"), "c0", m.KeysReady)

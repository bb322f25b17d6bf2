"""The worker's kernel: inputs, order, attempts."""

from __future__ import annotations

import msgspec

from parml_core.kernel import effects as fx
from parml_core.kernel import events as ev
from parml_core.kernel.invariants import check_worker
from parml_core.kernel.worker import WorkerKernel, WorkerPolicy
from parml_core.protocol import messages as m

HERE, W1, W2 = "tcp://here", "tcp://w1", "tcp://w2"


def tell(kernel, *events):
    """Handle, check, and sort the effects by kind."""
    effects = kernel.handle(events)
    check_worker(kernel)
    return effects


def of(effects, kind):
    return [effect for effect in effects if type(effect) is kind]


def messages(effects, kind):
    return [effect.message for effect in of(effects, fx.Send) if type(effect.message) is kind]


def run(key, attempt=1, inputs=(), *, threads=1, order=0, gang=""):
    given = tuple(m.Input(name, 8, holders) for name, *holders in inputs)
    given = tuple(m.Input(i.key, 8, tuple(i.holders)) for i in given)
    return m.Assignment(key, attempt, "f", b"", given, (0, 0, order), threads, gang)


def compute(*runs):
    return m.Compute({}, list(runs))


def handed(effects):
    return [task.key for effect in of(effects, fx.Execute) for task in effect.tasks]


def test_task_without_inputs_is_handed_over_at_once():
    """Nothing to fetch, a thread free: the executor has it in the same turn."""
    kernel = WorkerKernel(1, HERE)
    assert handed(tell(kernel, compute(run("a")))) == ["a"]
    [finished] = messages(tell(kernel, ev.RunEnded("a", 1, 8, 0.1)), m.Finished)
    assert finished.runs == [m.Done("a", 1, 8, 0.1)]
    assert kernel.values == {"a": 8}


def test_tasks_beyond_the_threads_wait_in_order_of_priority():
    """What is unknown to be short is handed one for each thread, the most urgent first."""
    kernel = WorkerKernel(1, HERE)
    assert handed(tell(kernel, compute(run("first"), run("late", order=2), run("next", order=1)))) == ["first"]
    assert handed(tell(kernel, ev.RunEnded("first", 1, 8, 5.0))) == ["next"]


def test_short_tasks_are_handed_ahead():
    """A thread that finishes a task of microseconds finds the next one without asking."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("f-0"), *(run(f"f-{i}", order=i) for i in range(1, 100))))
    assert len(handed(tell(kernel, ev.RunEnded("f-0", 1, 8, 1e-5)))) > 50


def test_inputs_are_asked_for_in_one_request_to_a_peer():
    """Keys that are needed while a request is under way go together into the next one."""
    kernel = WorkerKernel(2, HERE)
    [fetch] = of(tell(kernel, compute(run("a", inputs=[("x", W1), ("y", W1)]))), fx.Fetch)
    assert (fetch.peer, fetch.keys) == (W1, ("x", "y"))
    assert of(tell(kernel, compute(run("b", 2, inputs=[("z", W1)]), run("c", 3, inputs=[("v", W1)]))), fx.Fetch) == []
    effects = tell(kernel, ev.Fetched(W1, (("x", 8), ("y", 8))))
    assert handed(effects) == ["a"]
    assert messages(effects, m.Copied) == [m.Copied([("x", 8), ("y", 8)])]
    assert [fetch.keys for fetch in of(effects, fx.Fetch)] == [("z", "v")]


def test_second_holder_is_asked_when_the_first_fails():
    """Unreachable or absent: another holder may have it."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", inputs=[("x", W1, W2)])))
    [fetch] = of(tell(kernel, ev.FetchFailed(W1, ("x",))), fx.Fetch)
    assert fetch.peer == W2
    assert handed(tell(kernel, ev.Fetched(W2, (("x", 8),)))) == ["a"]


def test_input_that_no_holder_gives_is_reported_with_all_that_was_tried():
    """The scheduler decides what then happens: the worker has let go of the run."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", inputs=[("x", W1, W2)])))
    tell(kernel, ev.FetchFailed(W1, ("x",)))
    [missing] = messages(tell(kernel, ev.Fetched(W2, (), ("x",))), m.InputsMissing)
    assert missing.missing == [("x", W1, False), ("x", W2, True)]
    assert kernel.runs == {} and kernel.wanted == {}


def test_input_that_the_scheduler_believes_to_be_here_is_reported_as_absent():
    """Asking oneself would be for ever."""
    kernel = WorkerKernel(1, HERE)
    [missing] = messages(tell(kernel, compute(run("a", inputs=[("x", HERE)]))), m.InputsMissing)
    assert missing.missing == [("x", HERE, True)]


def test_input_that_comes_by_another_way_ends_the_wait():
    """A client puts the value, or a task makes it, while a peer is being asked."""
    kernel = WorkerKernel(2, HERE)
    tell(kernel, compute(run("a", inputs=[("x", W1)])))
    effects = tell(kernel, ev.ValuesPut((("x", 8),)))
    assert handed(effects) == ["a"]
    assert messages(effects, m.Copied) == [m.Copied([("x", 8)], put=True)]
    assert of(tell(kernel, ev.Fetched(W1, (("x", 8),))), fx.Drop) == []


def test_input_that_is_freed_before_its_run_is_noticed():
    """The run is given back instead of failing in the executor."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("x"), run("long", order=1)))
    tell(kernel, ev.RunEnded("x", 1, 8, 5.0))
    tell(kernel, compute(run("a", 3, inputs=[("x", HERE)], order=2)), m.Free(["x"]))
    [missing] = messages(tell(kernel, ev.RunEnded("long", 1, 8, 5.0)), m.InputsMissing)
    assert (missing.key, missing.missing) == ("a", [("x", HERE, True)])


def test_revoked_run_is_skipped_and_its_result_is_not_accepted():
    """What runs is left to end, unheard; its slot is free."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", 1), run("b", 2, order=1)))
    effects = tell(kernel, m.Revoke([("a", 1)]))
    assert of(effects, fx.Skip) == [fx.Skip([("a", 1)])] and handed(effects) == ["b"]
    assert not kernel.accepts("a", 1)
    assert tell(kernel, ev.RunEnded("a", 1, 8, 0.1)) == []
    assert kernel.values == {}


def test_revoked_run_of_an_old_attempt_leaves_the_new_one_alone():
    """Numbers decide, not keys."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", 1)))
    tell(kernel, m.Revoke([("a", 1)]), compute(run("a", 2)))
    tell(kernel, m.Revoke([("a", 1)]))
    assert kernel.accepts("a", 2) and not kernel.accepts("a", 1)


def test_revoke_that_comes_after_the_result_drops_it():
    """The scheduler has not accepted it, so nobody would ever free it."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", 1)))
    tell(kernel, ev.RunEnded("a", 1, 8, 0.1))
    assert of(tell(kernel, m.Revoke([("a", 1)])), fx.Drop) == [fx.Drop(["a"])]
    assert kernel.values == {}


def test_recall_gives_back_only_what_has_not_been_handed_over():
    """No task is ever in two queues."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", 1), run("b", 2, order=1)))
    [returned] = messages(tell(kernel, m.Recall([("a", 1), ("b", 2)])), m.Returned)
    assert returned.attempts == [("b", 2)]


def test_value_that_arrives_when_nobody_waits_any_more_is_dropped():
    """Its run was revoked while the peer answered."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", 1, inputs=[("x", W1)])), m.Revoke([("a", 1)]))
    effects = tell(kernel, compute(run("b", 2, inputs=[("y", W2)])), ev.Fetched(W1, (("x", 8),)))
    assert of(effects, fx.Drop) == [fx.Drop(["x"])] and messages(effects, m.Copied) == []


def test_input_that_cannot_be_sent_fails_the_runs_that_need_it():
    """It exists, so making it again would not help."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a", 1, inputs=[("x", W1)])))
    failure = m.Failure("SerializationError", "no", key="x")
    assert messages(tell(kernel, ev.Fetched(W1, (), (), {"x": failure})), m.Failed) == [m.Failed("a", 1, failure)]


def test_wide_task_waits_until_all_its_threads_are_free():
    """Two threads busy, three needed: nothing that fits overtakes it for ever."""
    kernel = WorkerKernel(3, HERE)
    assert handed(tell(kernel, compute(run("a"), run("wide", 2, threads=3, order=1), run("c", 3, order=2)))) == ["a"]
    assert handed(tell(kernel, ev.RunEnded("a", 1, 8, 5.0))) == ["wide"]
    assert handed(tell(kernel, ev.RunEnded("wide", 2, 8, 5.0))) == ["c"]


def test_task_without_a_slot_starts_when_its_inputs_are_there():
    """threads=0 waits for no thread."""
    kernel = WorkerKernel(1, HERE)
    assert handed(tell(kernel, compute(run("a"), run("now", 2, threads=0)))) == ["now", "a"]


def test_blocked_threads_let_others_run():
    """A task that only waits gives back what it takes, and takes it again."""
    kernel = WorkerKernel(2, HERE)
    tell(kernel, compute(run("parent", threads=2), run("a", 2, order=1), run("b", 3, order=2), run("c", 4, order=3)))
    effects = tell(kernel, ev.SlotsBlocked(2))
    assert handed(effects) == ["a", "b"] and messages(effects, m.Blocked) == [m.Blocked(2)]
    tell(kernel, ev.SlotsBlocked(-2))
    assert handed(tell(kernel, ev.RunEnded("a", 2, 8, 5.0))) == []


def test_rank_is_started_killed_and_reported():
    """Ranks go by their own effects; inputs that a rank cannot get are reported like those of a task."""
    kernel = WorkerKernel(1, HERE)
    rank = run("r:0", 1, gang="g")
    assert of(tell(kernel, compute(rank)), fx.ExecuteRank) == [fx.ExecuteRank(rank)]
    assert messages(tell(kernel, ev.RankStarted("r:0", 1)), m.Started) == [m.Started([("r:0", 1)])]
    assert of(tell(kernel, m.Revoke([("r:0", 1)])), fx.KillRank) == [fx.KillRank("r:0", 1)]
    tell(kernel, compute(run("r:0", 2, gang="g")))
    [missing] = messages(tell(kernel, ev.RankInputsMissing("r:0", 2, (("x", W1, True),))), m.InputsMissing)
    assert missing == m.InputsMissing("r:0", 2, [("x", W1, True)])
    assert kernel.ranks == {}


# --- memory ------------------------------------------------------------------------------------------------------------


def test_inputs_are_asked_for_within_a_bound_of_bytes():
    """A quarter of it in a request; a larger one comes alone, when nothing else is on its way."""
    kernel = WorkerKernel(1, HERE, WorkerPolicy(fetching_bytes=400))
    sizes = {"a": (60, W1), "b": (40, W1), "c": (40, W1), "d": (300, W2), "huge": (1000, W2)}
    inputs = tuple(m.Input(key, nbytes, (peer,)) for key, (nbytes, peer) in sizes.items())
    asked = of(tell(kernel, compute(m.Assignment("sum", 1, "f", b"", inputs, (0, 0, 0)))), fx.Fetch)
    assert [(fetch.peer, fetch.keys) for fetch in asked] == [(W1, ("a", "b")), (W2, ("d",))]
    asked = of(tell(kernel, ev.Fetched(W2, (("d", 300),))), fx.Fetch)
    assert asked == []  # "huge" waits for what comes from the other
    asked = of(tell(kernel, ev.Fetched(W1, (("a", 60), ("b", 40)))), fx.Fetch)
    assert [(fetch.peer, fetch.keys) for fetch in asked] == [(W1, ("c",))]
    asked = of(tell(kernel, ev.Fetched(W1, (("c", 40),))), fx.Fetch)
    assert [(fetch.peer, fetch.keys) for fetch in asked] == [(W2, ("huge",))]
    assert handed(tell(kernel, ev.Fetched(W2, (("huge", 1000),)))) == ["sum"]


def test_while_values_move_to_disk_nothing_starts_and_nothing_is_given_back():
    """It is over soon."""
    kernel = WorkerKernel(1, HERE)
    effects = tell(kernel, ev.MemoryPressure(True, moving=True), compute(run("a"), run("b", inputs=[("x", W1)])))
    assert effects == []
    assert handed(tell(kernel, ev.MemoryPressure(False))) == ["a"]
    assert kernel.asking == {W1: ("x",)}


def test_paused_worker_gives_back_what_has_not_started():
    """And says so first, so that nothing more is sent; what was sent before that comes back too."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, compute(run("a"), run("b"), run("c", inputs=[("x", W1)])))
    effects = tell(kernel, ev.MemoryPressure(True))
    assert [type(effect.message) for effect in of(effects, fx.Send)] == [m.Pressure, m.Returned]
    assert messages(effects, m.Returned)[0].attempts == [("b", 1), ("c", 1)]
    assert messages(tell(kernel, compute(run("d"))), m.Returned)[0].attempts == [("d", 1)]
    assert messages(tell(kernel, ev.MemoryPressure(True)), m.Pressure) == []
    assert messages(tell(kernel, ev.MemoryPressure(False)), m.Pressure) == [m.Pressure(0)]


def test_paused_worker_runs_one_at_a_time_of_what_it_is_sent_all_the_same():
    """It has threads for more. One that waits for others makes place for the next."""
    kernel = WorkerKernel(4, HERE)
    tell(kernel, ev.MemoryPressure(True))
    runs = [msgspec.structs.replace(run(key, order=i), anyway=True) for i, key in enumerate("abc")]
    assert handed(tell(kernel, compute(*runs))) == ["a"]
    assert handed(tell(kernel, ev.SlotsBlocked(1))) == ["b"]
    assert handed(tell(kernel, ev.RunEnded("b", 1, 8, 0.1))) == ["c"]


def test_full_worker_refuses_what_it_is_sent_all_the_same():
    """With the reason; what runs goes on. Later it runs again what it is sent."""
    kernel = WorkerKernel(2, HERE)
    tell(kernel, compute(run("a")))
    effects = tell(kernel, ev.MemoryPressure(True, refusal=m.Failure("SpillError", "no room")))
    assert messages(effects, m.Pressure) == [m.Pressure(2)]
    sent = compute(msgspec.structs.replace(run("b"), anyway=True))
    assert tell(kernel, sent) == []
    [failed] = messages(tell(kernel, ev.RunEnded("a", 1, 8, 0.1)), m.Failed)
    assert failed == m.Failed("b", 1, m.Failure("SpillError", "no room", key="b"))
    tell(kernel, ev.MemoryPressure(False))
    assert handed(tell(kernel, compute(run("b", attempt=2)))) == ["b"]


def test_inputs_that_cannot_be_read_are_reported_as_absent_and_forgotten():
    """So the scheduler has them made again; a peer that asks for one is told the same."""
    kernel = WorkerKernel(1, HERE)
    tell(kernel, ev.ValuesPut((("x", 8), ("y", 8), ("z", 8))), compute(run("a", inputs=[("x", HERE), ("y", HERE)])))
    effects = tell(kernel, ev.InputsUnreadable("a", 1, ("x",)))
    assert messages(effects, m.InputsMissing) == [m.InputsMissing("a", 1, [("x", HERE, True)])]
    assert of(effects, fx.Drop) == [fx.Drop(["x"])]
    assert of(tell(kernel, ev.ValuesUnreadable(("z",))), fx.Drop) == [fx.Drop(["z"])]
    assert kernel.values == {"y": 8} and kernel.runs == {}

"""The client's kernel: which futures are held, and which news concern them."""

from __future__ import annotations

from parml_core.kernel.client import ClientKernel
from parml_core.protocol import messages as m

LOST = m.Failure("TaskCancelled", "cancelled", key="a")


def held_by(kernel, key):
    want = kernel.begin()
    record, _ = kernel.hold(key)
    return record, want


def test_key_held_twice_is_released_with_the_last_future():
    """The scheduler is told once."""
    kernel = ClientKernel()
    record, _ = held_by(kernel, "a")
    assert kernel.hold("a") == (record, False)
    assert not kernel.release(record)
    assert kernel.release(record)
    assert kernel.held == {}


def test_news_of_a_future_that_was_released_are_no_news_of_a_later_one():
    """The number under which a key was asked for tells them apart."""
    kernel = ClientKernel()
    first, old = held_by(kernel, "a")
    kernel.release(first)
    second, new = held_by(kernel, "a")
    assert kernel.handle([m.KeysFailed(["a"], [LOST], [old])]) == []
    assert kernel.handle([m.KeysReady(["a"], ["tcp://w"], [new], [b""])]) == [second]
    assert second.status == "finished"


def test_future_that_has_erred_stays_so():
    """Late news change nothing that a user has seen."""
    kernel = ClientKernel()
    record, want = held_by(kernel, "a")
    kernel.handle([m.KeysFailed(["a"], [m.Failure("raised", "no", key="a")], [want])])
    kernel.handle([m.KeysReady(["a"], ["tcp://w"], [want], [b""]), m.KeysPending(["a"], [want])])
    assert record.status == "erred"


def test_result_that_is_computed_again_is_pending_meanwhile():
    """Its holder was lost; the next holder comes with the news that it is ready."""
    kernel = ClientKernel()
    record, want = held_by(kernel, "a")
    kernel.handle([m.KeysReady(["a"], ["tcp://w0"], [want], [b""]), m.KeysPending(["a"], [want])])
    assert (record.status, record.holder) == ("pending", "")
    kernel.handle([m.KeysReady(["a"], ["tcp://w1"], [want], [b""])])
    assert (record.status, record.holder) == ("finished", "tcp://w1")


def test_cancelled_key_that_is_asked_for_again_is_a_new_future():
    """Whether the scheduler has answered the cancellation yet or not."""
    kernel = ClientKernel()
    first, old = held_by(kernel, "a")
    assert kernel.cancel(["a", "unknown"]) == [first]
    second, new = held_by(kernel, "a")
    assert second is not first
    kernel.handle([m.KeysFailed(["a"], [LOST], [old])])
    assert (first.status, second.status) == ("cancelled", "pending")
    assert not kernel.release(first)
    kernel.handle([m.KeysReady(["a"], ["tcp://w"], [new], [b""])])
    assert second.status == "finished"


def test_cancel_of_what_has_ended_changes_nothing():
    """A result that is there stays."""
    kernel = ClientKernel()
    record, want = held_by(kernel, "a")
    kernel.handle([m.KeysReady(["a"], ["tcp://w"], [want], [b""])])
    assert kernel.cancel(["a"]) == [] and record.status == "finished"


def test_lost_scheduler_fails_everything_that_is_held():
    """Results are gone with it; what had failed keeps its reason."""
    kernel = ClientKernel()
    pending, _ = held_by(kernel, "a")
    erred, want = held_by(kernel, "b")
    kernel.handle([m.KeysFailed(["b"], [m.Failure("raised", "no", key="b")], [want])])
    gone = m.Failure("SchedulerLost", "gone")
    assert kernel.fail_all(gone) == [pending]
    assert pending.failure is gone and erred.failure.kind == "raised"

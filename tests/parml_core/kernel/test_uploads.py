"""A broadcast of one large value: who sends it to whom, and how often."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parml_core.kernel import effects as fx
from parml_core.kernel import events as ev
from parml_core.kernel.uploads import FIRST_BYTES_PER_S, PATIENCE, PATIENCE_S, Asker, Uploads
from parml_core.kernel.worker import WorkerKernel
from parml_core.protocol import messages as m
from tests.parml_core.kernel.test_worker_kernel import HERE, W1, W2, handed, messages, of, tell

NBYTES = 100_000_000


def broadcast(askers: list[Asker], dying: frozenset[Asker] = frozenset()) -> tuple[int, dict[str, int], dict[str, int]]:
    """
    All ask the first holder at once, one transfer takes one turn, and whoever is told to asks elsewhere. Those of `dying` end
    in the turn in which they have asked, and get nothing.

    Returns the number of turns, by address how often it has sent the value, and by place how often it was sent there.
    """
    holders = {"first": Uploads()}
    sends: dict[str, int] = {}
    into: dict[str, int] = {}
    under_way: list[tuple[str, Asker]] = []
    asks = [("first", asker) for asker in askers]
    n_turns = 0
    while asks or under_way:
        while asks:
            holder, asker = asks.pop(0)
            assert holder in holders, f"{asker} was told to ask {holder}, which has nothing"
            sent = holders[holder].ask("x", NBYTES, asker, n_turns)
            if sent or asker in dying:
                under_way.append((holder, asker))
        n_turns += 1
        ended, under_way = under_way, []
        for holder, asker in ended:
            sends[holder] = sends.get(holder, 0) + 1
            into[asker.place] = into.get(asker.place, 0) + 1
            kept = asker not in dying
            if kept:
                holders[asker.address] = Uploads()
                turns = holders[holder].ended("x", asker, n_turns, kept=True)
            else:
                turns = holders[holder].gone(asker, n_turns)
            for turn in turns:
                if not turn.elsewhere:
                    under_way.append((holder, turn.asker))
                elif turn.asker.place == asker.place != "":
                    holders[turn.asker.address] = Uploads()  # mapped, and never sent
                else:
                    asks.append((turn.elsewhere, turn.asker))
    assert not any(uploads.waited_for or uploads._uploads for uploads in holders.values())
    assert len(holders) == 1 + len(set(askers) - dying), "somebody got nothing"
    return n_turns, sends, into


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_broadcast_takes_the_logarithm_of_the_number_of_hosts(workers_on_host: list[int]) -> None:
    """No holder sends more often than the hosts can be halved, and each host is sent the value once."""
    askers = [Asker(f"{host}:{i}", f"place-{host}") for i in range(5) for host, n in enumerate(workers_on_host) if i < n]
    n_turns, sends, into = broadcast(askers)
    most = math.ceil(math.log2(len(workers_on_host) + 1))
    assert n_turns <= most and max(sends.values()) <= most
    assert set(into.values()) == {1}


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_broadcast_reaches_all_that_live(n: int, data: st.DataObject) -> None:
    """Whoever is lost keeps nobody from the value."""
    askers = [Asker(f"{i}", "") for i in range(n)]
    broadcast(askers, frozenset(data.draw(st.sets(st.sampled_from(askers)))))


def test_nobody_waits_for_an_upload_that_does_not_end() -> None:
    """One that takes several times as long as others frees the way for one other, and is still heard of when it ends."""
    uploads = Uploads()
    stopped, b, c, d = (Asker(name, "") for name in ("stopped", "b", "c", "d"))
    assert [uploads.ask("x", NBYTES, asker, 0.0) for asker in (stopped, b, c, d)] == [True, False, False, False]
    usual_s = NBYTES / FIRST_BYTES_PER_S
    assert uploads.overdue(PATIENCE * usual_s) == []
    [turn] = uploads.overdue(PATIENCE * usual_s + PATIENCE_S + 0.1)
    assert turn.asker == b and not turn.elsewhere
    assert uploads.overdue(PATIENCE * usual_s + PATIENCE_S + 0.2) == []  # b has its own time
    [turn] = uploads.ended("x", stopped, 20.0, kept=True)
    assert turn.asker == d and turn.elsewhere == "stopped"
    [turn] = uploads.ended("x", b, 20.0, kept=False)
    assert turn.asker == c and not turn.elsewhere


# --- the worker that asks ----------------------------------------------------------------------------------------------


def test_value_that_others_are_sent_is_asked_for_alone_and_may_come_from_another() -> None:
    """Where its holder names another one, that is asked; when that one fails, the first is asked again."""
    kernel = WorkerKernel(1, HERE)
    inputs = tuple(m.Input(key, 8, (W1,)) for key in ("a", "large", "b"))
    asked = of(tell(kernel, m.Compute({}, [m.Assignment("sum", 1, "f", b"", inputs, (0, 0, 0))])), fx.Fetch)
    assert asked == [fx.Fetch(W1, ("a", "large", "b"))]
    more = tuple(m.Input(key, 8, (W1,)) for key in ("c", "d"))
    assert not of(tell(kernel, m.Compute({}, [m.Assignment("more", 2, "f", b"", more, (0, 0, 1))])), fx.Fetch)
    asked = of(tell(kernel, ev.Fetched(W1, (("a", 8), ("b", 8)), later=("large",))), fx.Fetch)
    assert asked == [fx.Fetch(W1, ("c", "d"))]  # those that need not wait come first
    asked = of(tell(kernel, ev.Fetched(W1, (("c", 8), ("d", 8)))), fx.Fetch)
    assert asked == [fx.Fetch(W1, ("large",), patient=True)]
    asked = of(tell(kernel, ev.Redirected(W1, "large", W2)), fx.Fetch)
    assert asked == [fx.Fetch(W2, ("large",), patient=True)]
    asked = of(tell(kernel, ev.FetchFailed(W2, ("large",))), fx.Fetch)
    assert asked == [fx.Fetch(W1, ("large",), patient=True)]
    effects = tell(kernel, ev.Redirected(W1, "large", HERE))  # which is not so: it is said what was tried
    assert [missing.missing for missing in messages(effects, m.InputsMissing)] == [[("large", W2, False), ("large", W1, False)]]


@pytest.mark.parametrize("holders", ["tcp://there:1 tcp://here:2", "tcp://here:2 tcp://there:1"])
def test_holder_on_this_host_is_asked_first(holders: str) -> None:
    """What it has need not be sent at all."""
    kernel = WorkerKernel(1, "tcp://here:1")
    inputs = tuple(m.Input(key, 100, tuple(holders.split())) for key in "ab")
    asked = of(tell(kernel, m.Compute({}, [m.Assignment("sum", 1, "f", b"", inputs, (0, 0, 0))])), fx.Fetch)
    assert asked == [fx.Fetch("tcp://here:2", ("a", "b"))]
    assert handed(tell(kernel, ev.Fetched("tcp://here:2", (("a", 100), ("b", 100))))) == ["sum"]

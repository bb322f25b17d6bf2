"""Checkpoints come from the ranks of their own training, whole, and the last one is kept."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from itertools import pairwise

import pytest

from parml.boosting.checkpoints import INTERVAL_S, Checkpoint, Checkpoints, Depot, Pace, Sender

HERE = ["127.0.0.1"]


def _threads() -> int:
    return sum(thread.name.startswith("parml-checkpoint") for thread in threading.enumerate())


def test_checkpoints_the_last_one_is_there_when_send_returns() -> None:
    """Also from a second rank 0, after a restart; and a large one."""
    with Checkpoints(HERE) as kept:
        assert kept.latest is None
        with Sender(kept.depot) as sender:
            for rounds in (2, 4):
                sender.send(rounds, bytes([rounds]) * 3_000_000)
                assert kept.latest == Checkpoint(rounds, bytes([rounds]) * 3_000_000)
        with Sender(kept.depot) as sender:
            sender.send(5, b"")
    assert kept.latest == Checkpoint(5, b"")
    assert _threads() == 0


def test_checkpoints_of_a_rank_that_was_given_up_do_not_take_the_place_of_later_ones() -> None:
    """It may live on on a worker that nobody reaches; what the ranks after it have done stays done."""
    with Checkpoints(HERE) as kept, Sender(kept.depot) as given_up, Sender(kept.depot) as current:
        given_up.send(3, b"old")
        current.send(6, b"new")
        given_up.send(4, b"old")
        assert kept.latest == Checkpoint(6, b"new")


def test_checkpoints_without_the_secret_are_not_taken() -> None:
    """A stranger at the port is sent away, and the training's own checkpoint stays."""
    with Checkpoints(HERE) as kept:
        with Sender(kept.depot) as sender:
            sender.send(2, b"mine")
        with Sender(Depot(kept.depot.host, kept.depot.port, b"guessed" * 4)) as stranger:
            stranger.send(9, b"poison")
        with socket.create_connection(kept.depot[:2]) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 4096)
            connection.settimeout(5)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert kept.latest == Checkpoint(2, b"mine")
    assert repr(kept.depot.secret) not in repr(kept.depot)


def test_checkpoints_a_message_that_breaks_off_is_not_taken() -> None:
    """A rank that is killed while it sends leaves the checkpoint before."""
    with Checkpoints(HERE) as kept:
        sender = Sender(kept.depot)
        sender.send(2, b"whole")
        assert sender._connection is not None
        sender._connection.sendall(bytes(1) + (7).to_bytes(8, "big") + (1000).to_bytes(8, "big") + b"half")
        sender._connection.close()
    assert kept.latest == Checkpoint(2, b"whole")


def test_checkpoints_strangers_that_say_nothing_do_not_hold_up_the_rank() -> None:
    """Connections that never prove themselves are bounded in number and end with the training."""
    with Checkpoints(HERE) as kept:
        silent = [socket.create_connection(kept.depot[:2]) for _ in range(4)]
        with Sender(kept.depot) as sender:
            sender.send(1, b"mine")
    assert kept.latest == Checkpoint(1, b"mine")
    assert _threads() == 0
    for connection in silent:
        connection.close()


def test_sender_without_anybody_to_take_it_warns_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A training does not end because its checkpoints cannot be kept."""
    with Checkpoints(HERE) as kept:
        depot = kept.depot
    with Sender(depot) as sender:
        for rounds in (1, 2):
            sender.send(rounds, b"lost")
    ours = [record.getMessage() for record in caplog.records if record.name == "parml.boosting"]
    assert [message.split(":")[0] for message in ours] == ["no checkpoint can be kept"]


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_pace_given_rounds_is_kept_to() -> None:
    """Every k rounds, whatever the time; 0 is never."""
    assert [n for n in range(1, 10) if Pace(3).due(n)] == [3, 6, 9]
    assert not any(Pace(0).due(n) for n in range(1, 10))


@pytest.mark.parametrize(("round_s", "cost_s"), [(0.01, 0.001), (0.5, 0.3), (60.0, 1.0)])
def test_pace_by_measured_time_loses_little_and_costs_little(round_s: float, cost_s: float) -> None:
    """Between two checkpoints lie five seconds, or a round where it takes longer, and never more than 2 % go into them."""
    clock = Clock()
    pace = Pace(None, clock)
    made = []
    for n in range(1, 3001):
        clock.now_s += round_s
        if pace.due(n):
            clock.now_s += cost_s
            pace.made(cost_s)
            made.append(clock.now_s)
    gaps = [b - a for a, b in pairwise(made)]
    longest = max(INTERVAL_S, cost_s / 0.02) + round_s + cost_s
    assert max(gaps) <= longest + 1e-6
    assert cost_s * len(made) <= 0.03 * clock.now_s

"""Ranks tell each other values: all get all, in order, and who is no member gets nothing."""

from __future__ import annotations

import dataclasses
import math
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from parml.boosting.exchange import HANDSHAKE_TIMEOUT_S, Invitation, Member, exchange
from parml_core.errors import AuthenticationError, ConnectionLost


def _rounds(invitation: Invitation, rank: int, values: list[Any]) -> list[Any]:
    with Member(invitation, rank) as member:
        return [member.allgather([rank, value]) for value in values]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_allgather_gives_all_values_by_rank_in_every_round(n: int) -> None:
    """Whoever comes first, values are in order of rank; floats arrive bit by bit."""
    values = [0.1 + 0.2, None, {"a": [1, "x"]}, -math.inf]
    with exchange(n, "127.0.0.1") as invitation, ThreadPoolExecutor(n) as pool:
        futures = [pool.submit(_rounds, invitation, rank, values) for rank in reversed(range(n))]
        for future in futures:
            assert future.result(timeout=20) == [[[rank, value] for rank in range(n)] for value in values]


def test_member_that_leaves_ends_the_exchange_for_the_others() -> None:
    """A rank that is gone is noticed at once, and not waited for."""
    with exchange(2, "127.0.0.1") as invitation, ThreadPoolExecutor(1) as pool:
        other = pool.submit(Member, invitation, 1)
        with Member(invitation, 0) as member:
            other.result(timeout=20).close()
            with pytest.raises(ConnectionLost, match="found their exchange ended"):
                member.allgather(1)


def test_host_that_ends_after_the_last_round_has_told_everybody() -> None:
    """Rank 0 is host and member: it may be done when others have not got the last values yet."""

    def host(address: Future[Invitation]) -> list[Any]:
        with exchange(4, "127.0.0.1") as invitation:
            address.set_result(invitation)
            return _rounds(invitation, 0, ["x" * 1000])

    with ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            address: Future[Invitation] = Future()
            first = pool.submit(host, address)
            others = [pool.submit(_rounds, address.result(timeout=20), rank, ["y"]) for rank in (1, 2, 3)]
            assert [len(future.result(timeout=20)[0]) for future in [first, *others]] == [4] * 4


def test_end_of_the_host_ends_the_members() -> None:
    """When the caller's training ends, ranks that still wait learn of it."""
    with ThreadPoolExecutor(1) as pool:
        with exchange(2, "127.0.0.1") as invitation:
            member = Member(invitation, 0)
            waiting = pool.submit(member.allgather, 1)
        with pytest.raises(ConnectionLost):
            waiting.result(timeout=20)
        member.close()
        with pytest.raises(ConnectionLost, match="expected to reach"):
            Member(invitation, 0)


def test_strangers_are_no_members_and_do_no_harm() -> None:
    """Who talks nonsense, knows another secret or claims a rank that there is not is turned away; the members still meet."""
    with exchange(2, "127.0.0.1") as invitation, ThreadPoolExecutor(2) as pool:
        with socket.create_connection((invitation.host, invitation.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        with pytest.raises(AuthenticationError):
            Member(dataclasses.replace(invitation, secret=bytes(32)), 0)
        outsider = Member(invitation, 2)  # it knows the secret, so it learns of its fate only when it waits
        with pytest.raises(ConnectionLost):
            outsider.allgather(0)
        outsider.close()
        futures = [pool.submit(_rounds, invitation, rank, ["x"]) for rank in range(2)]
        assert [future.result(timeout=20) for future in futures] == [[[[0, "x"], [1, "x"]]]] * 2


def test_strangers_that_say_nothing_keep_no_member_waiting() -> None:
    """A scanner of ports that connects and is silent costs the members nothing: they meet while it is still there."""
    with exchange(2, "127.0.0.1") as invitation, ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection((invitation.host, invitation.port)))
        began = time.monotonic()
        futures = [pool.submit(_rounds, invitation, rank, ["x"]) for rank in range(2)]
        assert [future.result(timeout=20) for future in futures] == [[[[0, "x"], [1, "x"]]]] * 2
        assert time.monotonic() - began < HANDSHAKE_TIMEOUT_S / 2


def test_invitation_does_not_show_its_secret() -> None:
    """It may be logged with the arguments of a rank."""
    assert "secret" not in repr(Invitation("h", 1, b"secret"))

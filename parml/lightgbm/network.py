"""How several ranks meet: over an exchange they tell their addresses, then LightGBM connects them through its own sockets."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import lightgbm as lgb

from parml.boosting.exchange import Invitation, Member, exchange
from parml.boosting.rendezvous import address_towards
from parml_core.errors import ConnectionLost, GangError, NotSupported

VERDICT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Meeting:
    """
    What a rank needs to find the others.

    Parameters
    ----------
    invitation : Invitation
        To the exchange in the caller.
    hosts : tuple of str
        Of all ranks.
    """

    invitation: Invitation
    hosts: tuple[str, ...]


@contextmanager
def meeting(hosts: Sequence[str]) -> Iterator[Meeting | None]:
    """A place to meet while the ranks train; None for a single rank, which needs no network at all."""
    if len(hosts) == 1:
        yield None
        return
    with exchange(len(hosts), address_towards(hosts)) as invitation:
        yield Meeting(invitation, tuple(hosts))


@contextmanager
def joined(rank: int, place: Meeting | None, minutes: int) -> Iterator[Member | None]:
    """
    Be `rank` of LightGBM's network while in this context, and a member of an exchange that rank 0 hosts.

    LightGBM's network is global to a process; each rank has a process of its own.
    """
    if place is None:
        yield None
        return
    n, link = len(place.hosts), cast(lgb.Booster, SimpleNamespace())  # what set_network and free_network do needs no booster
    with _verdict_awaited(rank), ExitStack() as stack:
        here = address_towards(place.hosts)
        if ":" in here:
            raise NotSupported(f"expected an IPv4 address between the ranks, found {here}: LightGBM's network knows no other")
        with Member(place.invitation, rank) as members, hold_port() as held:
            mine = stack.enter_context(exchange(n, here)) if rank == 0 else None
            inner = (mine.host, mine.port, mine.secret.hex()) if mine else None
            told = members.allgather([here, held.getsockname()[1], inner])
        member = stack.enter_context(Member(mine or _invitation(told[0][2]), rank))
        machines = [f"rank={rank}", *(f"{host}:{port}" for host, port, _ in told)]
        stack.callback(lgb.Booster.free_network, link)
        lgb.Booster.set_network(link, ",".join(machines), told[rank][1], minutes, n)
        yield member


@contextmanager
def met(rank: int, place: Meeting | None) -> Iterator[Member | None]:
    """Be a member of the caller's exchange while in this context, without a network of LightGBM."""
    if place is None:
        yield None
        return
    with _verdict_awaited(rank), Member(place.invitation, rank) as member:
        yield member


def _invitation(told: tuple[str, int, str]) -> Invitation:
    host, port, secret = told
    return Invitation(host, port, bytes.fromhex(secret))


@contextmanager
def _verdict_awaited(rank: int) -> Iterator[None]:
    """
    Hold back an error that another rank's loss has caused.

    The gang is about to say which rank that was and to end this one; the error from here would only hide it.
    """
    try:
        yield
    except (ConnectionLost, lgb.basic.LightGBMError) as error:
        if isinstance(error, lgb.basic.LightGBMError) and not is_network_failure(error):
            raise
        threading.Event().wait(VERDICT_TIMEOUT_S)
        raise GangError(f"rank {rank} cannot reach the others: {error}") from error


def is_network_failure(error: lgb.basic.LightGBMError) -> bool:
    """Whether LightGBM failed because it could not talk to another rank."""
    return "Socket" in str(error)


def hold_port() -> socket.socket:
    """
    A port of this machine, bound until the socket is closed.

    LightGBM binds it again a moment after that. So it is none of those that the system gives to whoever asks for any.
    """
    first = _first_ephemeral_port()
    for port in random.sample(range(first // 2, first), 64) if first > 2048 else []:
        held = socket.socket()
        try:
            held.bind(("", port))
        except OSError:
            held.close()
        else:
            return held
    held = socket.socket()
    held.bind(("", 0))
    return held


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32768

"""On which address of this machine the ranks can reach it."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from parml_core.errors import AddressError


def address_towards(hosts: Iterable[str]) -> str:
    """
    The address of the interface from which this machine sends to `hosts`; loopback where they are all this machine.

    A host that is reached through another network than loopback decides: its interface is the one that all can reach.

    Examples
    --------
    >>> address_towards(["127.0.0.1"])
    '127.0.0.1'
    """
    found = ""
    for host in hosts:
        found = _source_address(host)
        if not found.startswith("127.") and found != "::1":
            break
    return found


def _source_address(host: str) -> str:
    try:
        family, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # of a datagram socket: chooses the route, sends nothing
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise AddressError(
            f"expected worker host {host!r} to be an address that this machine has a route to, found: {exc}; "
            "give workers a --host that clients can reach"
        ) from exc

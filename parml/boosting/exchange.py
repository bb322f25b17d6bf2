"""
Ranks tell each other small values: addresses before a training, metrics in it.

One process is the host of an exchange, the ranks are its members. In each round every member gives one value, and all get
the values of all, in order of rank. Values are what JSON can say, so that nothing is run that comes from the network; floats
arrive as they were. Who does not know the secret, on either side, gets nothing.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from parml_core.errors import AuthenticationError, ConnectionLost

MEETING_TIMEOUT_S = 600.0  # ranks join once they have read their inputs, which may take one longer than another
HANDSHAKE_TIMEOUT_S = 5.0
MAX_VALUE_BYTES = 64 << 20
_NONCE_BYTES = 16
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Invitation:
    """
    How to become a member.

    Parameters
    ----------
    host : str
    port : int
    secret : bytes
    """

    host: str
    port: int
    secret: bytes = field(repr=False)


@contextmanager
def exchange(n: int, host: str) -> Iterator[Invitation]:
    """
    Be the host of an exchange of `n` members, on a thread of this process, while in this context.

    Examples
    --------
    >>> with exchange(1, "127.0.0.1") as invitation, Member(invitation, 0) as member:
    ...     member.allgather("here")
    ['here']
    """
    secret = secrets.token_bytes(32)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connections: list[socket.socket] = []
    ended = threading.Event()
    with socket.create_server((host, 0), family=family) as listener:
        args = (listener, n, secret, connections, ended)
        server = threading.Thread(target=_serve, args=args, name="parml-exchange", daemon=True)
        server.start()
        try:
            yield Invitation(host, listener.getsockname()[1], secret)
        finally:
            ended.set()
            # Closing alone would not wake the thread; and what it is sending, the last values for some members, has to arrive.
            for connection in [listener, *connections]:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
            server.join(timeout=HANDSHAKE_TIMEOUT_S)


class Member:
    """
    A rank's place in an exchange.

    Parameters
    ----------
    invitation : Invitation
    rank : int

    Raises
    ------
    ConnectionLost
        The host, or another member, is gone.
    AuthenticationError
        The host does not know the secret.
    """

    def __init__(self, invitation: Invitation, rank: int) -> None:
        where = f"{invitation.host}:{invitation.port}"
        try:
            self._connection = socket.create_connection((invitation.host, invitation.port), timeout=HANDSHAKE_TIMEOUT_S)
        except OSError as error:
            raise ConnectionLost(f"expected to reach the other ranks at {where}: {error}") from error
        try:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _introduce(self._connection, invitation.secret, rank)
        except OSError as error:
            self.close()
            if isinstance(error, AuthenticationError):
                raise
            raise ConnectionLost(f"expected to be let in by the other ranks at {where}: {error}") from error
        self._connection.settimeout(None)  # a rank that is lost is noticed by the gang

    def allgather(self, value: Any) -> list[Any]:
        """The values of all members, by rank."""
        try:
            _send(self._connection, json.dumps(value).encode())
            return list(json.loads(_receive(self._connection)))
        except OSError as error:
            raise ConnectionLost(f"expected the other ranks, found their exchange ended: {error}") from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# --- the host ----------------------------------------------------------------------------------------------------------


def _serve(listener: socket.socket, n: int, secret: bytes, connections: list[socket.socket], ended: threading.Event) -> None:
    """Until a member leaves; then all connections end, which tells the others."""
    listener.settimeout(MEETING_TIMEOUT_S)
    try:
        members = _meet(listener, n, secret, connections, ended)
        while True:
            values = [_receive(members[rank]) for rank in range(n)]
            everything = b"[" + b",".join(values) + b"]"
            for rank in range(n):
                _send(members[rank], everything)
    except OSError:
        return  # a member has left, nobody came, or the context has ended
    finally:
        for connection in connections:
            _hang_up(connection)
            connection.close()


def _meet(
    listener: socket.socket, n: int, secret: bytes, connections: list[socket.socket], ended: threading.Event
) -> dict[int, socket.socket]:
    """All members by rank. Each is welcomed on a thread of its own, so that a stranger who is silent keeps nobody waiting."""
    members: dict[int, socket.socket] = {}

    def welcome(connection: socket.socket) -> None:
        try:
            members[_welcome(connection, secret, n)] = connection
        except OSError:  # whoever it was, it was no member
            _hang_up(connection)
            connection.close()
        if len(members) == n:
            _hang_up(listener)  # nobody else is waited for

    while len(members) < n and not ended.is_set():
        try:
            connection = listener.accept()[0]
        except OSError:
            if len(members) == n:
                break
            raise
        connections.append(connection)
        threading.Thread(target=welcome, args=(connection,), name="parml-exchange-welcome", daemon=True).start()
    if len(members) < n:
        raise ConnectionLost(f"expected {n} members, found {len(members)}")
    return members


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _welcome(connection: socket.socket, secret: bytes, n: int) -> int:
    """The rank of who has just connected and knows the secret."""
    connection.settimeout(HANDSHAKE_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs, mine = _exactly(connection, _NONCE_BYTES), secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(mine + _proof(secret, b"host", theirs, mine))
    claim = _exactly(connection, _LENGTH.size)
    _verify(connection, _proof(secret, claim, theirs, mine))
    rank: int = _LENGTH.unpack(claim)[0]
    if rank >= n:
        raise ConnectionLost(f"expected a rank below {n}, found {rank}")
    connection.settimeout(None)
    return rank


def _introduce(connection: socket.socket, secret: bytes, rank: int) -> None:
    mine, claim = secrets.token_bytes(_NONCE_BYTES), _LENGTH.pack(rank)
    connection.sendall(mine)
    theirs = _exactly(connection, _NONCE_BYTES)
    _verify(connection, _proof(secret, b"host", mine, theirs))
    connection.sendall(claim + _proof(secret, claim, mine, theirs))


def _proof(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret, b"".join(parts), "sha256")


def _verify(connection: socket.socket, expected: bytes) -> None:
    if not hmac.compare_digest(_exactly(connection, _DIGEST_BYTES), expected):
        raise AuthenticationError("expected a peer that knows the secret of this training, found one that does not")


# --- frames ------------------------------------------------------------------------------------------------------------


def _send(connection: socket.socket, value: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(value)) + value)


def _receive(connection: socket.socket) -> bytes:
    (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if size > MAX_VALUE_BYTES:
        raise ConnectionLost(f"expected at most {MAX_VALUE_BYTES} bytes in a value, found {size}")
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = connection.recv(min(size - len(received), 1 << 20))
        if not piece:
            raise ConnectionLost("the connection was closed")
        received += piece
    return bytes(received)

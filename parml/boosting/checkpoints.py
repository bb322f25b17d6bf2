"""
Checkpoints of a training, kept by the caller: rank 0 sends them, and the ranks of a restart get the last one.

On the same way rank 0 tells how far it is, where somebody wants to know.

The caller is another process, and as a rule on another machine, than the ranks: what takes them down leaves the checkpoint.
A checkpoint is bytes that only ranks look into. The connection between the two proves on every message that it comes from the
training that it is for: a digest with a secret, which travels with the arguments of the rank.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import cloudpickle

from parml.boosting.progress import Listener
from parml.boosting.rendezvous import address_towards

INTERVAL_S = 5.0
MAX_SHARE = 0.02  # of the time that may go into checkpoints, where their rounds are not given
TIMEOUT_S = 10.0
IDLE_LIMIT = 8  # strangers that may be connected at once

NEWS_INTERVAL_S = 0.2

_HEAD = struct.Struct(">BQQ")  # what it is, rounds, length
_STATE, _NEWS = 0, 1
_PROOF = 32

log = logging.getLogger("parml.boosting")


class Checkpoint(NamedTuple):
    """The state of a training after some rounds."""

    rounds: int
    state: bytes


def pickled(callback: Any) -> bytes | None:
    """
    A callback for a checkpoint; None where it holds a file, a lock, …: after a restart it begins anew.

    Examples
    --------
    >>> pickled(threading.Lock()) is None
    True
    """
    try:
        content: bytes = cloudpickle.dumps(callback)
    except Exception:
        return None
    return content


class Depot(NamedTuple):
    """Where a rank sends checkpoints to, and whether somebody wants to know how far it is."""

    host: str
    port: int
    secret: bytes
    news: bool = False

    def __repr__(self) -> str:
        return f"Depot({self.host}:{self.port})"


class Checkpoints:
    """
    The caller's side: listens while the training lasts, and keeps the last checkpoint.

    Parameters
    ----------
    hosts : iterable of str
        Where the ranks are; checkpoints are taken on the interface that these reach.
    listener : callable, optional
        Hears how far the training is: called with the rounds done and what rank 0 tells of them.

    Attributes
    ----------
    latest : Checkpoint or None

    Examples
    --------
    >>> with Checkpoints(["127.0.0.1"]) as kept, Sender(kept.depot) as sender:
    ...     sender.send(3, b"trees")
    >>> kept.latest
    Checkpoint(rounds=3, state=b'trees')
    """

    def __init__(self, hosts: Iterable[str], listener: Listener | None = None) -> None:
        self._hear = listener
        self.latest: Checkpoint | None = None
        address = address_towards(hosts)
        self._listener = socket.create_server((address, 0), family=_family(address))
        host, port = self._listener.getsockname()[:2]
        self.depot = Depot(host, port, secrets.token_bytes(32), listener is not None)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._readers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._listen, name="parml-checkpoints", daemon=True)
        self._thread.start()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Take nothing more. `latest` stays."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self._thread.join()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for reader in self._readers:
            reader.join()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with self._lock:
                if len(self._open) >= IDLE_LIMIT:
                    connection.close()
                    continue
                self._open.add(connection)
            reader = threading.Thread(target=self._read, args=(connection,), name="parml-checkpoint", daemon=True)
            reader.start()
            self._readers = [*(thread for thread in self._readers if thread.is_alive()), reader]

    def _read(self, connection: socket.socket) -> None:
        nonce = secrets.token_bytes(16)
        try:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(nonce)
            if not hmac.compare_digest(_receive(connection, _PROOF), _proof(self.depot.secret, nonce, b"hello")):
                return
            connection.settimeout(None)
            while True:
                head = _receive(connection, _HEAD.size)
                kind, rounds, length = _HEAD.unpack(head)
                content = _receive(connection, length)
                proof = _proof(self.depot.secret, nonce, head + content)
                if not hmac.compare_digest(_receive(connection, _PROOF), proof):
                    return
                if kind == _STATE and (self.latest is None or rounds >= self.latest.rounds):  # none of a rank that was given up
                    self.latest = Checkpoint(rounds, content)
                if kind == _NEWS and self._hear is not None:
                    self._hear(rounds, content)
                connection.sendall(b"\1")
        except OSError:
            return  # the rank has ended, or was no rank
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


class Sender:
    """
    Rank 0's side.

    Parameters
    ----------
    depot : Depot
    """

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self._connection: socket.socket | None = None
        self._nonce = b""
        self._broken = False
        self._told_s = -NEWS_INTERVAL_S

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def send(self, rounds: int, state: bytes) -> None:
        """Returns when the caller has it; what it cannot get is left out, with a warning, and training goes on without."""
        self._send(_STATE, rounds, state)

    def tell(self, rounds: int, news: Callable[[], bytes]) -> None:
        """Say how far the training is, where somebody wants to know, and not too often."""
        if self._depot.news and time.monotonic() - self._told_s >= NEWS_INTERVAL_S:
            self._send(_NEWS, rounds, news())
            self._told_s = time.monotonic()

    def _send(self, kind: int, rounds: int, content: bytes) -> None:
        if self._broken:
            return
        try:
            connection = self._connection or self._connect()
            head = _HEAD.pack(kind, rounds, len(content))
            for piece in (head, content, _proof(self._depot.secret, self._nonce, head + content)):
                connection.sendall(piece)
            _receive(connection, 1)
        except OSError as error:
            self._broken = True
            log.warning("no checkpoint can be kept: %s:%d took none (%s)", self._depot.host, self._depot.port, error)

    def _connect(self) -> socket.socket:
        connection = self._connection = socket.create_connection(self._depot[:2], timeout=TIMEOUT_S)
        self._nonce = _receive(connection, 16)
        connection.sendall(_proof(self._depot.secret, self._nonce, b"hello"))
        return connection


class Pace:
    """
    When the next checkpoint is due.

    Parameters
    ----------
    every : int, optional
        Rounds between two; 0: never. Default: what `INTERVAL_S` has room for, and more where a checkpoint takes long.
    clock : callable

    Examples
    --------
    >>> times = iter([0, 4, 6, 6.1])
    >>> pace = Pace(None, clock=lambda: next(times))
    >>> pace.due(1), pace.due(2)
    (False, True)
    """

    def __init__(self, every: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._last_s = clock()
        self._cost_s = 0.0

    def due(self, rounds: int) -> bool:
        """Whether to make a checkpoint now that so many rounds are done."""
        if self._every is not None:
            return self._every > 0 and rounds % self._every == 0
        return self._clock() - self._last_s >= max(INTERVAL_S, self._cost_s / MAX_SHARE)

    def made(self, cost_s: float) -> None:
        """A checkpoint was made, and held the training up for so long."""
        self._cost_s = cost_s
        self._last_s = self._clock()


def _proof(secret: bytes, nonce: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, nonce + content, "sha256")


def _receive(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = connection.recv(min(count - len(received), 1 << 20))
        if not piece:
            raise ConnectionError("the peer has gone")
        received += piece
    return bytes(received)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET

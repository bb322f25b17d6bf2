"""
The handshake: both ends prove that they know the cluster's secret, then tell each other who they are.

::

    client                                                              server
    magic, protocol version, nonce            40 bytes  →
                                             40 bytes  ←                magic, protocol version, nonce
    1, HMAC(client's key, all of the above)   33 bytes  →
                                             33 bytes  ←                1, HMAC(server's key, all of the above); or 0: refused
    Hello                                               →
                                                       ←                Hello, then its verdict on the versions
    its verdict on the versions                         →

Up to the proof every message has a fixed size, and none is decoded by more than `struct`. The keys are derived from the secret
with a label for each direction, so a proof cannot be reflected; fresh nonces of both ends make a replay worthless. Who fails
is told one text, whatever failed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import struct
import time
from collections.abc import Awaitable
from typing import Any, Protocol

import msgspec

from parml_core.comm.base import Credentials
from parml_core.errors import AuthenticationError, ProtocolError, VersionMismatch
from parml_core.protocol.messages import PROTOCOL_VERSION, Hello

__all__ = [
    "MAGIC",
    "Pipe",
    "Refusals",
    "agree",
    "check_proof",
    "introduce_as_client",
    "introduce_as_server",
    "prove_as_client",
    "prove_as_server",
]

log = logging.getLogger(__name__)

MAGIC = b"PARML\x01"
_PREFACE = struct.Struct("<6sH32s")
_PROOF_BYTES = 33
_REFUSED = bytes(_PROOF_BYTES)
_LENGTH = struct.Struct("<I")
_MAX_HELLO_BYTES = 1024 * 1024
_MUST_BE_EQUAL = ("protocol", "parml", "python")
_UNPROVED = (
    "expected both ends to prove that they know the secret of the same cluster, found that they do not; "
    "use this cluster's scheduler file or secret"
)


class Pipe(Protocol):
    """What the handshake needs of a stream; a tornado IOStream is one."""

    def read_bytes(self, num_bytes: int) -> Awaitable[bytes]: ...

    def write(self, data: bytes) -> Awaitable[Any]: ...


async def prove_as_client(pipe: Pipe, credentials: Credentials) -> None:
    """
    Prove the secret to a server, and have it prove it.

    Raises
    ------
    AuthenticationError, VersionMismatch, ProtocolError
        Whatever it is, the stream must be closed then.
    """
    mine = _preface()
    pipe.write(mine)
    theirs = await _read_preface(pipe, "server")
    _check_protocol(theirs)
    transcript = mine + theirs
    proof = _proof(credentials, b"client", transcript)
    pipe.write(proof)
    answer = await pipe.read_bytes(_PROOF_BYTES)
    if not hmac.compare_digest(answer, _proof(credentials, b"server", transcript + proof)):
        raise AuthenticationError(_UNPROVED)


async def prove_as_server(pipe: Pipe, credentials: Credentials) -> None:
    """
    Have a client prove the secret, and then prove it.

    Raises
    ------
    AuthenticationError, VersionMismatch, ProtocolError
        Whatever it is, the stream must be closed then, after what was written has been sent.
    """
    theirs = await _read_preface(pipe, "client")
    mine = _preface()
    pipe.write(mine)
    _check_protocol(theirs)
    transcript = theirs + mine
    proof = await pipe.read_bytes(_PROOF_BYTES)
    if not hmac.compare_digest(proof, _proof(credentials, b"client", transcript)):
        pipe.write(_REFUSED)
        raise AuthenticationError(_UNPROVED)
    pipe.write(_proof(credentials, b"server", transcript + proof))


async def introduce_as_client(pipe: Pipe, hello: Hello) -> Hello:
    """
    Exchange Hellos with a server that has proved the secret; its Hello.

    Raises
    ------
    VersionMismatch, ProtocolError
    """
    pipe.write(_packed(msgspec.msgpack.encode(hello)))
    theirs = await _read_packed(pipe)
    verdict = await _read_packed(pipe)
    peer, reason = _judge(hello, theirs)
    pipe.write(_packed(reason.encode()))
    return _agreed(peer, reason or verdict.decode("utf-8", "replace"))


async def introduce_as_server(pipe: Pipe, hello: Hello) -> Hello:
    """
    Exchange Hellos with a client that has proved the secret; its Hello.

    Raises
    ------
    VersionMismatch, ProtocolError
    """
    peer, reason = _judge(hello, await _read_packed(pipe))
    pipe.write(_packed(msgspec.msgpack.encode(hello)) + _packed(reason.encode()))
    return _agreed(peer, reason or (await _read_packed(pipe)).decode("utf-8", "replace"))


def agree(mine: Hello, theirs: Hello) -> None:
    """
    Raise where two peers cannot work together.

    Raises
    ------
    VersionMismatch
        Names both versions of all that differ.
    """
    differing = [name for name in _MUST_BE_EQUAL if mine.versions.get(name) != theirs.versions.get(name)]
    if differing:
        here = ", ".join(f"{name} {mine.versions.get(name, 'unknown')}" for name in differing)
        there = ", ".join(f"{name} {theirs.versions.get(name, 'unknown')}" for name in differing)
        raise VersionMismatch(
            f"expected equal versions at both ends, found {here} ({mine.role} {mine.id}) and {there} "
            f"({theirs.role} {theirs.id}); install the same versions on all machines of the cluster"
        )


def check_proof(mine: Credentials, theirs: Credentials) -> None:
    """
    The same question within one process.

    Raises
    ------
    AuthenticationError
    """
    if not hmac.compare_digest(mine.secret, theirs.secret):
        raise AuthenticationError(_UNPROVED)


def _preface() -> bytes:
    return _PREFACE.pack(MAGIC, PROTOCOL_VERSION, os.urandom(32))


async def _read_preface(pipe: Pipe, role: str) -> bytes:
    magic = await pipe.read_bytes(len(MAGIC))  # first by itself: who speaks another protocol need not send 40 bytes
    if magic != MAGIC:
        raise ProtocolError(f"expected a parml {role}, found a peer that speaks another protocol; check address and port")
    return magic + await pipe.read_bytes(_PREFACE.size - len(MAGIC))


def _check_protocol(theirs: bytes) -> None:
    version = _PREFACE.unpack(theirs)[1]
    if version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"expected protocol version {PROTOCOL_VERSION}, which this end speaks, found {version} at the peer; "
            "install the same version of parml on all machines of the cluster"
        )


def _proof(credentials: Credentials, label: bytes, transcript: bytes) -> bytes:
    key = hmac.digest(credentials.secret, b"parml handshake 1 " + label, hashlib.sha256)
    return b"\x01" + hmac.digest(key, transcript, hashlib.sha256)


def _packed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


async def _read_packed(pipe: Pipe) -> bytes:
    (length,) = _LENGTH.unpack(await pipe.read_bytes(_LENGTH.size))
    if length > _MAX_HELLO_BYTES:
        raise ProtocolError(f"expected a hello of at most {_MAX_HELLO_BYTES} bytes, found {length}")
    return await pipe.read_bytes(length) if length else b""


def _judge(mine: Hello, data: bytes) -> tuple[Hello | None, str]:
    """The peer's Hello, and why the peer is refused, empty where it is not."""
    try:
        theirs = msgspec.msgpack.decode(data, type=Hello)
        agree(mine, theirs)
        return theirs, ""
    except msgspec.DecodeError as exc:
        return None, f"expected a hello, found {exc}; install the same version of parml on all machines of the cluster"
    except VersionMismatch as exc:
        return None, str(exc)


def _agreed(peer: Hello | None, reason: str) -> Hello:
    if peer is None or reason:
        raise VersionMismatch(reason)
    return peer


class Refusals:
    """
    The log of one listener's refused peers: one line for each, but not more than `burst` at once and then one a second.

    Whoever can connect can cause a line, so their number must not be theirs to choose.
    """

    def __init__(self, burst: int = 20) -> None:
        self._burst = burst
        self._allowed = float(burst)
        self._at_s = time.monotonic()
        self._left_out = 0

    def tell(self, local: str, peer: str, why: object) -> None:
        now_s = time.monotonic()
        self._allowed = min(self._burst, self._allowed + now_s - self._at_s)
        self._at_s = now_s
        if self._allowed < 1:
            self._left_out += 1
            return
        self._allowed -= 1
        more = f" (and {self._left_out} others before, not shown)" if self._left_out else ""
        self._left_out = 0
        log.warning("%s refused a connection from %s: %s%s", local, peer, why, more)

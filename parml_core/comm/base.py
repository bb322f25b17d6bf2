"""
What a connection is, whatever carries it: frames in order, both ways, between two peers that know the same secret.

A transport gives `connect` and `listen`. Both end in a `Comm` only after the handshake (`handshake`): whoever holds a Comm
talks to an authenticated peer whose versions fit, and knows its `Hello`.
"""

from __future__ import annotations

import abc
import functools
import importlib.metadata
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from parml_core.errors import AddressError, ConfigError
from parml_core.protocol.frames import Frame, Limits
from parml_core.protocol.messages import PROTOCOL_VERSION, Hello
from parml_core.typing import Address, Buffer

__all__ = ["MEASURED_BYTES", "Comm", "Credentials", "Limits", "Listener", "OnComm", "my_versions", "split_address"]

MEASURED_BYTES = 1024 * 1024
"""What comes in smaller portions says little of the network: the systems at both ends may have it waiting."""

_MIN_SECRET_BYTES = 16


class Credentials:
    """
    What proves that a peer belongs to the cluster. Its repr hides the secret.

    Parameters
    ----------
    secret : bytes
        At least 16 bytes; as random as the cluster shall be safe.

    Examples
    --------
    >>> Credentials.from_hex("00" * 32)
    Credentials(secret=<32 bytes>)
    """

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ConfigError(
                f"expected a secret of at least {_MIN_SECRET_BYTES} bytes, found {len(secret)}; "
                "make one with Credentials.generate()"
            )
        self.secret = bytes(secret)

    @classmethod
    def generate(cls) -> Credentials:
        """A new random secret of 32 bytes."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def from_hex(cls, text: str) -> Credentials:
        """The secret as `to_hex` wrote it."""
        try:
            secret = bytes.fromhex(text)
        except ValueError:  # the text is not repeated: it may be most of a secret
            raise ConfigError(
                "expected a secret of hexadecimal digits, found other characters; copy it from the scheduler file"
            ) from None
        return cls(secret)

    def to_hex(self) -> str:
        return self.secret.hex()

    def __repr__(self) -> str:
        return f"Credentials(secret=<{len(self.secret)} bytes>)"


class Comm(abc.ABC):
    """
    A connection to an authenticated peer. It belongs to one event loop, and is used on that loop's thread only.

    Attributes
    ----------
    peer : Hello
    local_address, peer_address : str
    bytes_per_s : float
        Throughput at which the last frame of `MEASURED_BYTES` or more came in; 0: not known.
    """

    peer: Hello
    local_address: Address
    peer_address: Address
    bytes_per_s: float = 0.0

    @abc.abstractmethod
    async def read(self) -> Frame:
        """
        The next frame: header, and buffers in memory of their own.

        One reader at a time. A read that is cancelled aborts the connection, for it may have taken half a frame.

        Raises
        ------
        ConnectionLost
            The peer is gone, or this end was closed.
        ProtocolError
            The peer broke the limits; the connection is closed.
        """

    @abc.abstractmethod
    def write(self, header: Buffer, buffers: Sequence[Buffer] = ()) -> None:
        """
        Send a frame. Never blocks; frames keep their order. Buffers must not change until they are sent (`drain`).

        Raises
        ------
        ConnectionLost
        ProtocolError
            The frame is larger than the limits of this end; nothing was sent, and the connection stays.
        """

    @abc.abstractmethod
    async def drain(self, below_bytes: int = 16 * 1024 * 1024) -> None:
        """
        Back-pressure: return when fewer than `below_bytes` wait to be sent.

        Raises
        ------
        ConnectionLost
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Send what is written, for 5 s at the longest, then close. Never raises; may be called again."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped. A pending `read` raises ConnectionLost."""

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether this end knows that the connection has ended."""

    @property
    @abc.abstractmethod
    def pending_bytes(self) -> int:
        """Bytes written and not yet handed to the system (in a process: not yet read)."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.local_address} → {self.peer.role} {self.peer.id} at {self.peer_address}, {state}>"


OnComm: TypeAlias = Callable[[Comm], Awaitable[None]]
"""Called with each new Comm, which it then owns, in a task of its own. An exception that leaves it is logged and aborts it."""


class Listener(abc.ABC):
    """Accepts connections at `address` (with the actual port) until `stop`."""

    address: Address

    @abc.abstractmethod
    async def stop(self) -> None:
        """Accept no more. Connections that exist live on; those in the middle of their handshake are dropped."""


@functools.cache
def _my_versions() -> tuple[tuple[str, str], ...]:
    def version_of(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    return (
        ("protocol", str(PROTOCOL_VERSION)),
        ("parml", version_of("parml")),
        ("python", f"{sys.version_info.major}.{sys.version_info.minor}"),
        ("cloudpickle", version_of("cloudpickle")),
    )


def my_versions() -> dict[str, str]:
    """
    What this process says of its versions in a Hello.

    Examples
    --------
    >>> sorted(my_versions())
    ['cloudpickle', 'parml', 'protocol', 'python']
    """
    return dict(_my_versions())


def split_address(address: Address) -> tuple[str, str]:
    """
    The transport and what it is told.

    Examples
    --------
    >>> split_address("tcp://127.0.0.1:8786")
    ('tcp', '127.0.0.1:8786')
    """
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "tcp", address
    if scheme not in ("tcp", "inproc"):
        raise AddressError(f"expected an address such as tcp://127.0.0.1:8786 or inproc://name, found {address!r}")
    return scheme, rest

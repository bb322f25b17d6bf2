"""Frames over TCP: a tornado IOStream under each Comm, no encryption yet, and therefore loopback unless asked otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import random
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

from tornado.iostream import IOStream, StreamClosedError

from parml_core.comm.base import MEASURED_BYTES, Comm, Credentials, Limits, Listener, OnComm
from parml_core.comm.handshake import (
    Refusals,
    introduce_as_client,
    introduce_as_server,
    prove_as_client,
    prove_as_server,
)
from parml_core.errors import AddressError, ClusterError, ConnectionLost, ProtocolError, VersionMismatch
from parml_core.protocol.frames import LARGE_BYTES, Frame, Parser, encode
from parml_core.protocol.messages import Hello
from parml_core.typing import Address, Buffer

__all__ = ["TCPComm", "TCPListener", "connect", "listen", "listens"]

log = logging.getLogger(__name__)

_BACKLOG = 1024
_TRY_S = 3.0  # a system that hears nothing asks again after 1 s and 3 s, and then ever more rarely
_MAX_STRANGERS: Final = 64
_GRACE_S = 0.02  # many times what an honest handshake takes on a local network
_NO_RESOURCES_PAUSE_S = 0.5
_CLOSE_TIMEOUT_S = 5.0
_BURST = 4  # reads in a row that need not wait, before other work of the loop gets its turn
_HANDSHAKE_CHUNK_BYTES = 256


class _Stream(IOStream):
    """An IOStream that reads little from a stranger, and tells how much it has still to send."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, read_chunk_size=_HANDSHAKE_CHUNK_BYTES)
        _configure(sock)

    def trust(self) -> None:
        self.read_chunk_size = LARGE_BYTES
        self.max_buffer_size = sys.maxsize  # from here on the parser sets the limits

    @property
    def pending_bytes(self) -> int:
        return len(self._write_buffer or b"")  # None when closed

    def addresses(self) -> tuple[Address, Address]:
        """This end's and the peer's."""
        try:
            return _address_of(self.socket.getsockname()), _address_of(self.socket.getpeername())
        except (AttributeError, OSError) as exc:  # closed by this end, or by the peer
            raise StreamClosedError(real_error=exc) from None


class TCPComm(Comm):
    """A Comm over TCP; made by `connect` and `listen`."""

    def __init__(self, stream: _Stream, peer: Hello, limits: Limits) -> None:
        stream.trust()
        self.peer = peer
        self.local_address, self.peer_address = stream.addresses()
        self._stream = stream
        self._parser = Parser(limits)
        self._burst = 0
        self._loop = asyncio.get_running_loop()

    async def read(self) -> Frame:
        parser, arrived, first, since_s = self._parser, 0, 0, 0.0
        try:
            while (frame := parser.next()) is None:
                space = parser.space()
                arriving = cast("asyncio.Future[int]", self._stream.read_into(cast(bytearray, space), partial=True))
                if arriving.done():
                    self._burst += 1
                    if self._burst == _BURST:
                        self._burst = 0
                        await asyncio.sleep(0)
                count = await arriving
                parser.filled(count)
                if not arrived:  # the first bytes tell when the others begin to come
                    since_s, first = self._loop.time(), count
                arrived += count
            if arrived - first >= MEASURED_BYTES:
                self.bytes_per_s = (arrived - first) / max(self._loop.time() - since_s, 1e-6)
            return frame
        except StreamClosedError as exc:
            raise self._lost(exc) from None
        except (ProtocolError, asyncio.CancelledError):
            self.abort()
            raise

    def write(self, header: Buffer, buffers: Sequence[Buffer] = ()) -> None:
        try:
            for piece in encode(header, buffers, self._parser.limits):
                self._stream.write(cast(bytes, piece))
        except StreamClosedError as exc:
            raise self._lost(exc) from None

    async def drain(self, below_bytes: int = 16 * 1024 * 1024) -> None:
        try:
            while self._stream.pending_bytes >= max(below_bytes, 1):
                await self._stream.write(b"")  # done when all that was written before is sent
        except StreamClosedError as exc:
            raise self._lost(exc) from None
        if self._stream.closed():
            raise self._lost(None)

    async def close(self) -> None:
        await _flush_and_close(self._stream)

    def abort(self) -> None:
        self._stream.close()

    @property
    def closed(self) -> bool:
        return self._stream.closed()

    @property
    def pending_bytes(self) -> int:
        return self._stream.pending_bytes

    def _lost(self, exc: StreamClosedError | None) -> ConnectionLost:
        cause = exc.real_error if exc is not None else None
        how = f": {cause}" if cause is not None else ""
        return ConnectionLost(f"the connection to {self.peer.role} {self.peer.id} at {self.peer_address} has ended{how}")


# --- connecting --------------------------------------------------------------------------------------------------------


async def connect(where: str, *, credentials: Credentials, hello: Hello, timeout_s: float, limits: Limits) -> TCPComm:
    """
    Connect to ``host:port``.

    A listener that is flooded drops strangers before it answers them; then this tries again until `timeout_s` has passed.

    Raises
    ------
    AddressError, AuthenticationError, VersionMismatch, ProtocolError, ConnectionLost
    """
    host, port = _split(where)
    try:
        async with asyncio.timeout(timeout_s):
            stream = await _prove(host, port, credentials)
            try:
                return TCPComm(stream, await introduce_as_client(stream, hello), limits)
            except StreamClosedError:
                raise ConnectionLost(f"the peer at {host}:{port} has gone in the middle of the handshake") from None
            except VersionMismatch:
                await _flush_and_close(stream)  # the peer shall hear why
                raise
            except BaseException:
                stream.close()
                raise
    except TimeoutError:
        raise AddressError(
            f"expected a parml peer at {host}:{port} to answer within {timeout_s:g} s, found none that did; "
            "check that it runs, and that nothing between here and there drops connections"
        ) from None


async def listens(where: str, within_s: float) -> bool:
    """Whether anybody listens at ``host:port``, asked until there is an answer: a connection, or that nobody does."""
    host, port = _split(where)
    end = asyncio.get_running_loop().time() + within_s
    while (left_s := end - asyncio.get_running_loop().time()) > 0:
        try:
            async with asyncio.timeout(min(left_s, _TRY_S)):
                _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return False
        except OSError:  # no way there, or no answer: the network may come back
            await asyncio.sleep(min(left_s, _TRY_S) / 3)
        else:
            writer.close()
            return True
    return False


async def _prove(host: str, port: int, credentials: Credentials) -> _Stream:
    pause_s = 0.02
    while True:
        stream = await _open(host, port)
        try:
            await prove_as_client(stream, credentials)
            return stream
        except StreamClosedError:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 1.0)
        except BaseException:
            stream.close()
            raise


async def _open(host: str, port: int) -> _Stream:
    problem: BaseException | None = None
    for family, sockaddr in await _resolve(host, port):
        stream = _Stream(socket.socket(family, socket.SOCK_STREAM))
        try:
            await stream.connect(sockaddr)
            return stream
        except StreamClosedError as exc:
            problem = exc.real_error or exc
        except BaseException:
            stream.close()
            raise
    raise AddressError(f"expected a parml peer at {host}:{port}, found {problem}; check the address, and that the peer runs")


# --- listening ---------------------------------------------------------------------------------------------------------


async def listen(
    where: str,
    on_comm: OnComm,
    *,
    credentials: Credentials,
    hello: Hello,
    timeout_s: float,
    limits: Limits,
    allow_insecure: bool = False,
) -> TCPListener:
    """
    Listen at ``host:port``; port 0 means any that is free.

    Raises
    ------
    AddressError
    """
    host, port = _split(where)
    family, sockaddr = (await _resolve(host, port))[0]
    if not ipaddress.ip_address(sockaddr[0].partition("%")[0]).is_loopback:
        if not allow_insecure:
            raise AddressError(
                f"expected a loopback address to listen at, found {host}: connections are authenticated but not encrypted yet, "
                "so whoever sees the network could read data; use 127.0.0.1 (with an SSH tunnel), or pass allow_insecure=True"
            )
        log.warning("listening at %s without encryption: whoever sees the network can read all data", host)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(sockaddr)
        sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        raise AddressError(_why_not_bound(host, port, exc)) from None
    return TCPListener(sock, on_comm, credentials, hello, timeout_s, limits)


class TCPListener(Listener):
    """
    Accepts connections; made by `listen`.

    At most 64 strangers (peers that have not proved anything yet) are served at once. More wait in the system's queue for a
    moment, then the oldest stranger has to go: an honest one comes back (`connect`), and one that idles keeps nobody out.
    """

    def __init__(
        self, sock: socket.socket, on_comm: OnComm, credentials: Credentials, hello: Hello, timeout_s: float, limits: Limits
    ) -> None:
        self.address = _address_of(sock.getsockname())
        self._sock = sock
        self._on_comm = on_comm
        self._credentials = credentials
        self._hello = hello
        self._timeout_s = timeout_s
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._strangers: dict[_Stream, float] = {}  # oldest first; since when
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals = Refusals()
        self._stopped = False
        self._resume()

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for stream in list(self._strangers):
            stream.close()

    def _resume(self) -> None:
        if not self._stopped:
            self._loop.add_reader(self._sock, self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock)
        self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        for _ in range(_MAX_STRANGERS):
            if len(self._strangers) >= _MAX_STRANGERS:
                oldest, since_s = next(iter(self._strangers.items()))
                wait_s = since_s + _GRACE_S - self._loop.time()
                if wait_s > 0:
                    self._pause(wait_s)
                    return
                del self._strangers[oldest]
                oldest.close()
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # out of file descriptors or memory: some may be freed
                log.warning("%s cannot accept a connection now: %s", self.address, exc)
                self._pause(_NO_RESOURCES_PAUSE_S)
                return
            stream = _Stream(sock)
            self._strangers[stream] = self._loop.time()
            task = self._loop.create_task(self._serve(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: _Stream) -> None:
        comm = await self._admit(stream)
        if comm is None:
            stream.close()
            return
        try:
            await self._on_comm(comm)
        except Exception:
            log.exception("%s ends the connection to %s", self.address, comm)
            comm.abort()
        except BaseException:
            comm.abort()
            raise

    async def _admit(self, stream: _Stream) -> TCPComm | None:
        peer_address = "a peer that left"
        try:
            _, peer_address = stream.addresses()
            async with asyncio.timeout(self._timeout_s):
                await prove_as_server(stream, self._credentials)
                self._strangers.pop(stream, None)
                peer = await introduce_as_server(stream, self._hello)
            return None if self._stopped else TCPComm(stream, peer, self._limits)
        except ClusterError as exc:
            self._refusals.tell(self.address, peer_address, exc)
            await _flush_and_close(stream)  # the peer shall hear that it was refused
        except TimeoutError:
            self._refusals.tell(self.address, peer_address, f"expected a handshake within {self._timeout_s:g} s, found none")
        except StreamClosedError:
            if not self._stopped:
                self._refusals.tell(self.address, peer_address, "it left, or had to make room, in the middle of the handshake")
        except asyncio.CancelledError:
            stream.close()
            raise
        finally:
            self._strangers.pop(stream, None)
        return None


# --- addresses and sockets ---------------------------------------------------------------------------------------------


def _split(where: str) -> tuple[str, int]:
    host, found, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not found or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"expected host:port, such as 127.0.0.1:8786 or [::1]:8786, found {where!r}")
    return host, int(port)


async def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        version = ipaddress.ip_address(host).version
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise AddressError(
            f"expected a host that can be resolved, found {host!r}: {exc.strerror or exc}; check its spelling"
        ) from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _address_of(sockaddr: Any) -> Address:
    host, port = sockaddr[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _why_not_bound(host: str, port: int, exc: OSError) -> str:
    advice = {
        errno.EADDRINUSE: f"`ss -ltnp 'sport = :{port}'` shows who uses it: end that, or choose another port (0: any free one)",
        errno.EADDRNOTAVAIL: "this machine has no such address: choose one of its own",
        errno.EACCES: "ports below 1024 need privileges: choose a higher one",
    }.get(exc.errno or 0, "choose another host or port")
    return f"expected to listen at {host}:{port}, found {exc.strerror or exc}; {advice}"


def _configure(sock: socket.socket) -> None:
    """No delay for small frames; a peer whose machine is gone is noticed within a minute."""
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 10),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),
    ]
    for level, name, value in options:
        if hasattr(socket, name):
            with contextlib.suppress(OSError):  # the peer may be gone already
                sock.setsockopt(level, getattr(socket, name), value)


async def _flush_and_close(stream: _Stream) -> None:
    with contextlib.suppress(StreamClosedError, TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await stream.write(b"")
    stream.close()

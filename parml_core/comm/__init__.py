"""Connections between authenticated peers: `connect`, `listen`, and the `Comm` that both give."""

from __future__ import annotations

from parml_core.comm import inproc, tcp
from parml_core.comm.base import Comm, Credentials, Limits, Listener, OnComm, my_versions, split_address
from parml_core.protocol.messages import Hello
from parml_core.typing import Address

__all__ = ["Comm", "Credentials", "Limits", "Listener", "OnComm", "connect", "listen", "listens", "my_versions"]

_LIMITS = Limits()


async def connect(
    address: Address, *, credentials: Credentials, hello: Hello, timeout_s: float = 10.0, limits: Limits = _LIMITS
) -> Comm:
    """
    Connect to a listener, prove the secret, and exchange Hellos.

    Parameters
    ----------
    address : str
        ``tcp://host:port`` or ``inproc://name``.
    credentials : Credentials
    hello : Hello
        What this end says of itself.
    timeout_s : float
        For all of it.
    limits : Limits
        For the frames that the peer sends, and this end too.

    Raises
    ------
    AddressError
        Nobody answers there.
    AuthenticationError
        One of both does not know the secret of the other; no part of a Hello was sent.
    VersionMismatch
        Both ends raise it, with the same text.
    ProtocolError
        The peer is something else.

    Examples
    --------
    >>> import asyncio
    >>> async def main():
    ...     async def echo(comm):
    ...         comm.write(*await comm.read())
    ...         await comm.close()
    ...
    ...     secret = Credentials.generate()
    ...     versions = my_versions()
    ...     listener = await listen("tcp://127.0.0.1:0", echo, credentials=secret, hello=Hello("scheduler", "s", versions))
    ...     comm = await connect(listener.address, credentials=secret, hello=Hello("client", "c", versions))
    ...     comm.write(b"header", [b"buffer"])
    ...     header, buffers = await comm.read()
    ...     await comm.close()
    ...     await listener.stop()
    ...     return bytes(header), bytes(buffers[0])
    >>> asyncio.run(main())
    (b'header', b'buffer')
    """
    scheme, where = split_address(address)
    if scheme == "tcp":
        return await tcp.connect(where, credentials=credentials, hello=hello, timeout_s=timeout_s, limits=limits)
    return await inproc.connect(where, credentials=credentials, hello=hello, limits=limits)


async def listen(
    address: Address,
    on_comm: OnComm,
    *,
    credentials: Credentials,
    hello: Hello,
    timeout_s: float = 5.0,
    limits: Limits = _LIMITS,
    allow_insecure: bool = False,
) -> Listener:
    """
    Accept connections.

    Parameters
    ----------
    address : str
        ``tcp://127.0.0.1:0`` (port 0: any that is free) or ``inproc://name`` (``inproc://``: a fresh name).
    on_comm : callable
        Awaited for each connection, in a task of its own, once its handshake has succeeded.
    credentials : Credentials
    hello : Hello
        What this end says of itself to each peer that has proved the secret.
    timeout_s : float
        How long a handshake may take.
    limits : Limits
    allow_insecure : bool
        Listen at other addresses than loopback although there is no encryption yet.

    Raises
    ------
    AddressError
        The address is in use, is not this machine's, or is not loopback.
    """
    scheme, where = split_address(address)
    if scheme == "inproc":
        return await inproc.listen(where, on_comm, credentials=credentials, hello=hello, limits=limits)
    return await tcp.listen(
        where,
        on_comm,
        credentials=credentials,
        hello=hello,
        timeout_s=timeout_s,
        limits=limits,
        allow_insecure=allow_insecure,
    )


async def listens(address: Address, *, within_s: float) -> bool:
    """
    Whether anybody listens at `address`, asked until there is an answer or the time is over; with what secret is not asked.

    Parameters
    ----------
    address : str
    within_s : float

    Returns
    -------
    bool
        False: nobody does, or nothing there could be reached.

    Examples
    --------
    >>> import asyncio
    >>> asyncio.run(listens("tcp://127.0.0.1:1", within_s=5.0))
    False
    """
    scheme, where = split_address(address)
    return await tcp.listens(where, within_s) if scheme == "tcp" else inproc.listens(where)

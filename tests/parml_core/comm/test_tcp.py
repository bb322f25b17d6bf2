"""What only TCP has: ports, hosts, sockets, processes that die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import parml_core
from parml_core.comm import Credentials, connect, listen, my_versions
from parml_core.comm.base import split_address
from parml_core.errors import AddressError, ConfigError, ConnectionLost, ProtocolError
from parml_core.protocol.messages import Hello

SECRET = Credentials(b"0123456789abcdef" * 2)
HELLO = Hello("client", "c-1", my_versions())


async def ignore(comm) -> None:
    await comm.close()


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


def test_listen_port_in_use_names_host_port_and_what_to_do():
    """Who finds his port taken learns how to see by whom, and what else he can do."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(AddressError, match=rf"127\.0\.0\.1:{port}, found Address already in use; `ss -ltnp.*another port"):
            run(listen(f"tcp://127.0.0.1:{port}", ignore, credentials=SECRET, hello=HELLO))


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_listen_beyond_loopback_is_refused_unless_asked_for(host):
    """Without encryption, only loopback is listened at by default."""
    with pytest.raises(AddressError, match=r"not encrypted yet.*allow_insecure=True"):
        run(listen(f"tcp://{host}:0", ignore, credentials=SECRET, hello=HELLO))


def test_listen_beyond_loopback_when_asked_for_warns(caplog):
    """Who asks for it gets it, and a warning."""

    async def main():
        listener = await listen("tcp://0.0.0.0:0", ignore, credentials=SECRET, hello=HELLO, allow_insecure=True)
        port = int(listener.address.rpartition(":")[2])
        comm = await connect(f"tcp://127.0.0.1:{port}", credentials=SECRET, hello=HELLO)
        await comm.close()
        await listener.stop()

    run(main())
    assert "without encryption" in caplog.text


def test_listen_at_an_address_of_another_machine_says_so():
    """An address that cannot be bound is named."""
    with pytest.raises(AddressError, match="no such address"):
        run(listen("tcp://192.0.2.1:0", ignore, credentials=SECRET, hello=HELLO, allow_insecure=True))


def test_connect_to_localhost_by_name():
    """A host name is resolved, and all its addresses are tried."""

    async def main():
        listener = await listen("tcp://127.0.0.1:0", ignore, credentials=SECRET, hello=HELLO)
        comm = await connect(listener.address.replace("127.0.0.1", "localhost"), credentials=SECRET, hello=HELLO)
        await comm.close()
        await listener.stop()

    run(main())


def test_connect_where_nobody_listens_fails_at_once():
    """A refused connection is an AddressError that names host and port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(AddressError, match=rf"127\.0\.0\.1:{port}, found .*refused"):
        run(connect(f"tcp://127.0.0.1:{port}", credentials=SECRET, hello=HELLO))


@pytest.mark.parametrize("address", ["tcp://", "tcp://host", "tcp://host:x", "tcp://:80", "tcp://host:99999", "tcp://[::1]"])
def test_connect_malformed_address_shows_a_good_one(address):
    """What cannot be parsed is answered with an example."""
    with pytest.raises(AddressError, match=r"such as 127\.0\.0\.1:8786"):
        run(connect(address, credentials=SECRET, hello=HELLO))


def test_split_address_unknown_transport_raises():
    """Only transports that exist are taken."""
    with pytest.raises(AddressError, match="http"):
        split_address("http://example.org:80")
    assert split_address("127.0.0.1:8786") == ("tcp", "127.0.0.1:8786")


def test_connect_to_a_peer_that_never_answers_ends_in_time():
    """The timeout of `connect` holds although the connection itself was made."""

    async def main():
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            await connect(f"tcp://127.0.0.1:{sock.getsockname()[1]}", credentials=SECRET, hello=HELLO, timeout_s=0.2)

    with pytest.raises(AddressError, match=r"within 0\.2 s"):
        run(main())


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_connect_to_another_service_says_what_it_is_not(answer):
    """A port where something else listens is told apart from a wrong secret."""

    async def main():
        async def handle(reader, writer):
            writer.write(answer)
            await reader.read(10)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        try:
            await connect(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", credentials=SECRET, hello=HELLO)
        finally:
            server.close()

    with pytest.raises(ProtocolError, match="expected a parml server"):
        run(main())


PEER = """
import asyncio, sys
from parml_core.comm import Credentials, connect, my_versions
from parml_core.protocol.messages import Hello

async def main():
    hello = Hello("worker", "w-1", my_versions())
    comm = await connect(sys.argv[1], credentials=Credentials(b"0123456789abcdef" * 2), hello=hello)
    comm.write(b"here")
    await comm.read()

asyncio.run(main())
"""


def test_read_peer_killed_is_connection_lost_at_once():
    """A peer that is killed is noticed by the end of its socket, and named."""

    async def main():
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_comm(comm):
            await comm.read()
            os.kill(peer.pid, signal.SIGKILL)
            try:
                await comm.read()
            except ConnectionLost as exc:
                lost.set_result(str(exc))

        listener = await listen("tcp://127.0.0.1:0", on_comm, credentials=SECRET, hello=HELLO)
        env = os.environ | {"PYTHONPATH": str(Path(parml_core.__file__).parents[1])}
        peer = subprocess.Popen([sys.executable, "-c", PEER, listener.address], env=env)
        try:
            assert "worker w-1 at tcp://127.0.0.1:" in await asyncio.wait_for(lost, 20)
        finally:
            peer.kill()
            peer.wait(5)
            await listener.stop()

    run(main())


def test_connections_opened_and_closed_leave_no_descriptor():
    """After many connections the process has as many open files as before."""

    async def main():
        async def on_comm(comm):
            try:
                await comm.read()
            except ConnectionLost:
                await comm.close()

        listener = await listen("tcp://127.0.0.1:0", on_comm, credentials=SECRET, hello=HELLO)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            comm = await connect(listener.address, credentials=SECRET, hello=HELLO)
            await comm.close()
        while listener._tasks:
            await asyncio.wait(listener._tasks, timeout=5)
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        await listener.stop()

    run(main())


def test_credentials_hide_the_secret_and_refuse_a_short_one():
    """A secret never shows in a repr or an error, and a guessable one is not taken."""
    credentials = Credentials.generate()
    assert credentials.to_hex() not in repr(credentials)
    assert Credentials.from_hex(credentials.to_hex()).secret == credentials.secret
    assert len(credentials.secret) == 32
    with pytest.raises(ConfigError, match="at least 16 bytes, found 5"):
        Credentials(b"short")
    with pytest.raises(ConfigError) as caught:
        Credentials.from_hex("not hexadecimal: hunter2hunter2")
    assert "hunter2" not in str(caught.value)

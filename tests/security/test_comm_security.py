"""Strangers, liars and noise at a listener: nothing of theirs is decoded, kept or believed, and the honest are served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import random
import resource
import struct
import time
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from parml_core.comm import Comm, Credentials, Limits, connect, listen, my_versions
from parml_core.comm.handshake import MAGIC, Refusals
from parml_core.errors import AuthenticationError, ConnectionLost, ProtocolError, VersionMismatch
from parml_core.protocol.messages import PROTOCOL_VERSION, Hello

SECRET = Credentials(b"the secret of this cluster 12345")
SERVER = Hello("scheduler", "s-1", my_versions())
CLIENT = Hello("client", "c-1", my_versions())
PREFACE = struct.Struct("<6sH32s")


class Server:
    """A listener that echoes frames, and what it was given to see."""

    def __init__(self, **options) -> None:
        self.options = options
        self.errors: list[dict] = []
        self.ends: list[BaseException] = []

    async def __aenter__(self) -> Server:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.errors.append(context))
        self.listener = await listen("tcp://127.0.0.1:0", self.on_comm, credentials=SECRET, hello=SERVER, **self.options)
        self.port = int(self.listener.address.rpartition(":")[2])
        return self

    async def on_comm(self, comm: Comm) -> None:
        try:
            while True:
                comm.write(*await comm.read())
        except (ConnectionLost, ProtocolError) as exc:
            self.ends.append(exc)
            await comm.close()

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def serves_the_honest(self) -> None:
        start_s = time.monotonic()
        comm = await connect(self.listener.address, credentials=SECRET, hello=CLIENT)
        comm.write(b"hello", [b"there"])
        header, (buffer,) = await asyncio.wait_for(comm.read(), 5)
        assert (bytes(header), bytes(buffer)) == (b"hello", b"there")
        await comm.close()
        assert time.monotonic() - start_s < 1

    async def __aexit__(self, *exc: object) -> None:
        await self.listener.stop()
        assert self.errors == []


@contextlib.asynccontextmanager
async def recorder(port: int):
    """A man in the middle who only listens: (his port, what the client sent, what the server sent)."""
    sent: tuple[bytearray, bytearray] = (bytearray(), bytearray())

    async def pump(reader, writer, record):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                record += data
                writer.write(data)
        writer.close()

    async def handle(reader, writer):
        to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_server[1], sent[0]), pump(to_server[0], writer, sent[1]))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], *sent
    finally:
        server.close()


@contextlib.contextmanager
def resident_memory_grows_less_than(mib: int):
    """The peak of this process's resident memory in the block, by the kernel's count, above what it was before."""

    def peak_kib() -> int:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew at what is resident now
    before = peak_kib()
    yield
    grown = (peak_kib() - before) / 1024
    assert grown < mib, f"{grown:.0f} MiB"


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """All that the server says before it closes."""
    try:
        return await asyncio.wait_for(reader.read(-1), 5)
    except ConnectionResetError:
        return b""


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


def preface(version: int = PROTOCOL_VERSION, nonce: bytes | None = None) -> bytes:
    return PREFACE.pack(MAGIC, version, nonce or os.urandom(32))


def refusals(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "refused a connection" in record.getMessage()]


# --- nothing is decoded before the proof -------------------------------------------------------------------------------


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_strangers_cause_no_unpickling_and_no_decoding(tmp_path, monkeypatch, caplog):
    """Whatever a peer without the secret sends, at whatever point, neither pickle nor msgpack ever sees it."""
    sign = tmp_path / "fired"
    bomb = pickle.dumps(Canary(sign))
    pickle.loads(bomb)
    assert sign.exists()  # the canary can sing
    sign.unlink()

    def sing(*args, **kwargs):
        sign.touch()
        raise AssertionError("something was decoded before the proof")

    hello = msgspec.msgpack.encode(CLIENT)

    async def main():
        async with Server(timeout_s=0.5) as server:
            with monkeypatch.context() as patch:
                for module in (pickle, cloudpickle):
                    for name in ("load", "loads", "Unpickler"):
                        patch.setattr(module, name, sing, raising=False)
                patch.setattr(msgspec.msgpack, "decode", sing)
                framed = struct.pack("<I", len(hello)) + hello
                for data in (
                    bomb,
                    preface() + bomb,
                    preface() + bytes(33) + bomb,
                    preface() + b"\x01" + bytes(32) + framed,
                    preface() + b"\x01" + os.urandom(32) + struct.pack("<II", len(bomb), 0) + bomb,
                    framed,
                ):
                    reader, writer = await server.raw()
                    writer.write(data)
                    answer = await answer_of(reader)
                    assert b"scheduler" not in answer
                    assert len(answer) <= PREFACE.size + 33
                    writer.close()
                with pytest.raises(AuthenticationError):
                    await connect(server.listener.address, credentials=Credentials.generate(), hello=CLIENT)
                assert not sign.exists()
            await server.serves_the_honest()

    run(main)
    assert not sign.exists()
    assert refusals(caplog)


def test_client_decodes_nothing_of_a_server_without_the_secret(tmp_path, monkeypatch):
    """The client checks the server too: one that listens at the scheduler's port gets no Hello and is not believed."""
    received = bytearray()
    bomb = pickle.dumps(Canary(tmp_path / "fired"))

    async def impostor(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            received.extend(await reader.readexactly(PREFACE.size))
            writer.write(preface())
            received.extend(await reader.readexactly(33))
            writer.write(b"\x01" + os.urandom(32) + struct.pack("<I", len(bomb)) + bomb)
            received.extend(await reader.read(-1))
        writer.close()

    async def main():
        server = await asyncio.start_server(impostor, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        start_s = time.monotonic()
        with pytest.raises(AuthenticationError):
            await connect(f"tcp://127.0.0.1:{port}", credentials=SECRET, hello=CLIENT)
        assert time.monotonic() - start_s < 1
        server.close()

    run(main)
    assert not (tmp_path / "fired").exists()
    assert len(received) == PREFACE.size + 33
    assert b"client" not in received
    assert SECRET.secret not in received


def test_the_secret_never_travels():
    """What is on the wire during handshake and after holds neither the secret nor its hexadecimal form."""

    async def main():
        async with Server() as server, recorder(server.port) as (port, by_client, by_server):
            comm = await connect(f"tcp://127.0.0.1:{port}", credentials=SECRET, hello=CLIENT)
            comm.write(b"x")
            await comm.read()
            await comm.close()
            for record in (by_client, by_server):
                assert len(record) > PREFACE.size + 33
                assert SECRET.secret not in record
                assert SECRET.to_hex().encode() not in record

    run(main)


# --- proofs that are not one's own -------------------------------------------------------------------------------------


def test_replayed_handshake_is_refused(caplog):
    """The bytes of a right client, sent again, prove nothing: the server's nonce is another."""

    async def main():
        async with Server() as server:
            async with recorder(server.port) as (port, by_client, by_server):
                comm = await connect(f"tcp://127.0.0.1:{port}", credentials=SECRET, hello=CLIENT)
                await comm.close()
            for proof in (by_client[PREFACE.size : PREFACE.size + 33], by_server[PREFACE.size : PREFACE.size + 33]):
                start_s = time.monotonic()
                reader, writer = await server.raw()
                writer.write(by_client[: PREFACE.size] + proof + by_client[PREFACE.size + 33 :])
                answer = await answer_of(reader)
                assert answer[PREFACE.size :] in (b"", bytes(33))  # refused, or reset
                assert time.monotonic() - start_s < 1
                writer.close()
            await server.serves_the_honest()

    run(main)
    assert sum("secret" in line for line in refusals(caplog)) == 2


def test_reflected_handshake_is_refused_by_the_client():
    """A server that sends back what it gets has not proved anything, whether it echoes all or only the proof."""

    async def main():
        for own_preface in (False, True):

            async def mirror(reader, writer, own_preface=own_preface):
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    data = await reader.readexactly(PREFACE.size)
                    writer.write(preface() if own_preface else data)
                    while data := await reader.read(1000):
                        writer.write(data)
                writer.close()

            server = await asyncio.start_server(mirror, "127.0.0.1", 0)
            start_s = time.monotonic()
            with pytest.raises(AuthenticationError):
                await connect(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", credentials=SECRET, hello=CLIENT)
            assert time.monotonic() - start_s < 1
            server.close()

    run(main)


def test_reflected_handshake_is_refused_by_the_server():
    """The server's own nonce and words, sent back to it on a second connection, open nothing."""

    async def main():
        async with Server() as server:
            reader1, writer1 = await server.raw()
            writer1.write(preface())
            challenge = await reader1.readexactly(PREFACE.size)
            reader2, writer2 = await server.raw()
            writer2.write(challenge)
            answer = await reader2.readexactly(PREFACE.size)
            writer1.write(b"\x01" + answer[-32:])
            writer2.write(b"\x01" + challenge[-32:])
            for reader, writer in ((reader1, writer1), (reader2, writer2)):
                assert await answer_of(reader) in (b"", bytes(33))
                writer.close()
            await server.serves_the_honest()

    run(main)


def test_both_ends_of_a_wrong_secret_hear_one_text(caplog):
    """The refused and the log of the refusing say the same, and neither says which part was wrong."""

    async def main():
        async with Server() as server:
            with pytest.raises(AuthenticationError) as caught:
                await connect(server.listener.address, credentials=Credentials.generate(), hello=CLIENT)
            assert any(str(caught.value) in line for line in refusals(caplog))

    run(main)


# --- noise, floods and lies about sizes --------------------------------------------------------------------------------

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(100),
    "zeros": bytes(1000),
    "almost": MAGIC[:-1] + b"\x02" + bytes(100),
    "megabytes": os.urandom(1 << 20),
    "wrong proof": preface() + os.urandom(33),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_closes_the_connection_with_one_log_line(name, caplog):
    """What is no handshake is answered with the end, at once, and one line in the log."""

    async def main():
        async with Server() as server:
            start_s = time.monotonic()
            reader, writer = await server.raw()
            writer.write(GARBAGE[name])
            await answer_of(reader)
            assert time.monotonic() - start_s < 1
            writer.close()
            assert len(refusals(caplog)) == 1
            await server.serves_the_honest()

    with caplog.at_level(logging.DEBUG, logger="parml_core"):
        run(main)
    assert len(refusals(caplog)) == 1
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize("sent", [0, 1, 6, 39, 40, 60])
@pytest.mark.parametrize("leaves", [True, False])
def test_half_a_handshake_ends_at_the_deadline_or_with_the_peer(sent, leaves, caplog):
    """A peer that stops in the middle is dropped when it leaves or when its time is over, with one line in the log."""

    async def main():
        async with Server(timeout_s=0.3) as server:
            reader, writer = await server.raw()
            writer.write((preface() + os.urandom(33))[:sent])
            if leaves:
                writer.close()
                await server.serves_the_honest()
            else:
                await answer_of(reader)
            while server.listener._strangers:
                await asyncio.wait(server.listener._tasks, timeout=5)
            await server.serves_the_honest()
            writer.close()

    run(main)
    assert len(refusals(caplog)) == 1


def test_slow_bytes_do_not_stretch_the_deadline(caplog):
    """The whole handshake has one deadline, however many bytes arrive before it."""

    async def main():
        async with Server(timeout_s=0.3) as server:
            reader, writer = await server.raw()
            start_s = time.monotonic()
            closed = asyncio.ensure_future(answer_of(reader))
            for byte in preface():
                writer.write(bytes([byte]))
                if (await asyncio.wait([closed], timeout=0.02))[0]:
                    break
            await closed
            assert time.monotonic() - start_s < 1
            writer.close()

    run(main)
    assert "within 0.3 s" in refusals(caplog)[0]


def test_a_thousand_idle_strangers_keep_nobody_out():
    """Connections that say nothing are few at a time, whatever their number, and a real client gets in within a second."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1400:
        pytest.skip("fewer than 1,400 file descriptors are allowed here")

    async def main():
        async with Server() as server:
            before = len(os.listdir("/proc/self/fd"))
            strangers = [await server.raw() for _ in range(1000)]
            await server.serves_the_honest()
            assert len(server.listener._strangers) <= 64
            assert len(os.listdir("/proc/self/fd")) - before <= 1000 + 64 + 4
            for _, writer in strangers:
                writer.close()

    run(main)


def test_random_bytes_never_harm_the_listener(caplog):
    """Random bytes in random pieces, some of them behind a true beginning: no exception, no growth, and service goes on."""
    rng = random.Random(0)

    async def attack(server):
        _, writer = await server.raw()
        with contextlib.suppress(ConnectionError):
            data = rng.choice([b"", MAGIC, preface(), preface() + b"\x01"]) + rng.randbytes(rng.choice([0, 1, 40, 300, 10_000]))
            for _ in range(rng.randint(1, 3)):
                writer.write(data[: len(data) // 2])
                data = data[len(data) // 2 :]
                await writer.drain()
        writer.close()

    async def main():
        async with Server(timeout_s=0.5) as server:
            for _ in range(20):
                await asyncio.gather(*(attack(server) for _ in range(25)))
            await server.serves_the_honest()

    with caplog.at_level(logging.DEBUG, logger="parml_core"), resident_memory_grows_less_than(mib=30):
        run(main)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(refusals(caplog)) < 40  # 500 attacks may not fill the disk


@pytest.mark.parametrize(
    "claim",
    [
        struct.pack("<II", 2**32 - 1, 0),
        struct.pack("<II", 0, 2**32 - 1),
        struct.pack("<IIQ", 0, 1, 2**63),
        struct.pack("<IIQQ", 1, 2, 2**63, 2**64 - 1),
        struct.pack("<II", 0, 65536) + struct.pack("<Q", 1 << 30) * 65536,
    ],
)
def test_authenticated_peer_that_lies_about_sizes_is_cut_off_and_costs_nothing(claim):
    """A member of the cluster with a broken length is refused before memory is spent; the others do not notice."""

    async def main():
        async with Server() as server:
            comm = await connect(server.listener.address, credentials=SECRET, hello=CLIENT)
            with resident_memory_grows_less_than(mib=10):
                comm._stream.write(claim)
                with pytest.raises(ConnectionLost):
                    await asyncio.wait_for(comm.read(), 5)
            assert isinstance(server.ends[0], ProtocolError)
            await server.serves_the_honest()

    run(main)


def test_random_frames_of_an_authenticated_peer_end_its_connection_only():
    """Noise after the handshake is a ProtocolError, or frames of noise: never anything else."""
    rng = random.Random(1)

    async def main():
        async with Server(limits=Limits(max_header_bytes=100_000, max_buffers=100, max_frame_bytes=1 << 20)) as server:
            for _ in range(100):
                comm = await connect(server.listener.address, credentials=SECRET, hello=CLIENT)
                comm._stream.write(rng.randbytes(rng.randint(8, 5000)))
                await comm.close()
            await server.serves_the_honest()
            while server.listener._tasks:
                await asyncio.wait(server.listener._tasks, timeout=5)
            assert len(server.ends) == 101

    run(main)


# --- versions ----------------------------------------------------------------------------------------------------------


def test_protocol_version_differs_both_ends_name_both(caplog):
    """Each end learns the other's protocol version from the preface, and says both."""

    async def main():
        async with Server() as server:
            reader, writer = await server.raw()
            writer.write(preface(version=77))
            answer = await answer_of(reader)
            assert PREFACE.unpack(answer)[1] == PROTOCOL_VERSION
            writer.close()

        async def newer(reader, writer):
            await reader.readexactly(PREFACE.size)
            writer.write(preface(version=78))
            await reader.read(-1)
            writer.close()

        fake = await asyncio.start_server(newer, "127.0.0.1", 0)
        with pytest.raises(VersionMismatch, match=rf"version {PROTOCOL_VERSION}, which this end speaks, found 78"):
            await connect(f"tcp://127.0.0.1:{fake.sockets[0].getsockname()[1]}", credentials=SECRET, hello=CLIENT)
        fake.close()

    run(main)
    assert f"version {PROTOCOL_VERSION}, which this end speaks, found 77" in refusals(caplog)[0]


@pytest.mark.parametrize("data", [b"\xc1", b"\x93\x01\x02\x03", b"", pickle.dumps(1)])
def test_hello_that_cannot_be_read_is_refused_at_both_ends(data, monkeypatch, caplog):
    """A member of the cluster that sends another kind of Hello is told so."""

    async def main():
        async with Server() as server:
            with monkeypatch.context() as patch:
                original = msgspec.msgpack.encode
                patch.setattr(msgspec.msgpack, "encode", lambda value: data if value is CLIENT else original(value))
                with pytest.raises(VersionMismatch, match="expected a hello"):
                    await connect(server.listener.address, credentials=SECRET, hello=CLIENT)
            assert "expected a hello" in refusals(caplog)[0]
            await server.serves_the_honest()

    run(main)


def test_refusals_are_logged_at_a_bounded_rate(caplog, monkeypatch):
    """A flood makes a few lines, then one a second, which tells how many were left out."""
    now_s = [100.0]
    monkeypatch.setattr("parml_core.comm.handshake.time.monotonic", lambda: now_s[0])
    log = Refusals(burst=5)
    for _ in range(1000):
        log.tell("here", "there", "no secret")
    assert len(refusals(caplog)) == 5
    now_s[0] += 1
    log.tell("here", "there", "no secret")
    assert refusals(caplog)[-1].endswith("(and 995 others before, not shown)")
    assert len(refusals(caplog)) == 6

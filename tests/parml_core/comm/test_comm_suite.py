"""What every transport has to do, run on each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time

import numpy as np
import pytest

from parml_core.comm import Comm, Credentials, Limits, connect, listen, my_versions
from parml_core.errors import AddressError, AuthenticationError, ConnectionLost, ProtocolError, VersionMismatch
from parml_core.protocol.messages import Hello
from parml_core.protocol.serialize import dumps, loads

SECRET = Credentials(b"0123456789abcdef" * 2)
LISTENS = Hello("scheduler", "s-1", my_versions(), address="tcp://127.0.0.1:1")
CONNECTS = Hello("worker", "w-1", my_versions(), holds=[("x", 8)])


@contextlib.asynccontextmanager
async def pair(address: str, **options):
    """Both ends of a connection: (the one that connected, the one that was accepted)."""
    accepted: asyncio.Future[Comm] = asyncio.get_running_loop().create_future()

    async def on_comm(comm: Comm) -> None:
        accepted.set_result(comm)

    listener = await listen(address, on_comm, credentials=SECRET, hello=LISTENS, **options)
    ours = await connect(listener.address, credentials=SECRET, hello=CONNECTS, **options)
    theirs = await asyncio.wait_for(accepted, 5)
    try:
        yield ours, theirs
    finally:
        await ours.close()
        await theirs.close()
        await listener.stop()


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, 10)


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), 30))


class CommSuite:
    address: str

    def test_connect_each_end_knows_the_other(self):
        """After the handshake both ends have the other's Hello and addresses that fit."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                assert ours.peer == LISTENS
                assert theirs.peer == CONNECTS
                assert ours.peer_address == theirs.local_address
                assert theirs.peer_address == ours.local_address
                assert not ours.closed
                assert not theirs.closed
                assert "s-1" in repr(ours)

        run(main)

    def test_frames_both_ways_keep_order_and_content(self):
        """Frames of all sizes arrive as they were sent, in order, in both directions at once."""
        sizes = [0, 1, 100, 65_535, 65_536, 65_537, 3_000_000]

        async def main():
            async with pair(self.address) as (ours, theirs):
                sent = [(bytes([i]) * h, [bytes([i + n]) * b for n, b in enumerate(sizes[:i])]) for i, h in enumerate(sizes)]
                sent += [(str(i).encode(), []) for i in range(1000)]
                for sender, receiver in ((ours, theirs), (theirs, ours)):
                    for header, buffers in sent:
                        sender.write(header, buffers)
                    for header, buffers in sent:
                        got_header, got_buffers = await soon(receiver.read())
                        assert bytes(got_header) == header
                        assert [bytes(b) for b in got_buffers] == buffers
                        assert all(isinstance(b, memoryview) for b in got_buffers)

        run(main)

    def test_values_with_arrays_travel(self):
        """A serialised array goes through and comes back equal."""
        array = np.random.default_rng(0).random((500, 500))

        async def main():
            async with pair(self.address) as (ours, theirs):
                pickled = dumps({"a": array, "b": [1]})
                ours.write(pickled.head, pickled.buffers)
                head, buffers = await soon(theirs.read())
                value = loads(head, buffers)
                np.testing.assert_array_equal(value["a"], array)
                assert value["b"] == [1]

        run(main)

    def test_multidimensional_and_empty_buffers_travel_as_bytes(self):
        """Any buffer will do, whatever its shape and item type."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                ours.write(b"", [memoryview(np.arange(6.0).reshape(2, 3)), memoryview(np.empty((0, 3))), bytearray(b"ab")])
                _, (matrix, empty, small) = await soon(theirs.read())
                assert np.frombuffer(matrix).tolist() == [0, 1, 2, 3, 4, 5]
                assert (matrix.format, empty.nbytes, bytes(small)) == ("B", 0, b"ab")

        run(main)

    def test_write_to_a_peer_that_does_not_read_never_blocks_and_drain_waits(self):
        """`write` returns at once, what waits is counted, and `drain` returns only when the peer has read."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                blob = bytes(8 << 20)
                for _ in range(8):
                    ours.write(b"x", [blob])
                assert ours.pending_bytes > 16 << 20
                draining = asyncio.ensure_future(ours.drain(1 << 20))
                await asyncio.sleep(0)
                assert not draining.done()
                for _ in range(8):
                    await soon(theirs.read())
                await soon(draining)
                assert ours.pending_bytes < 1 << 20

        run(main)

    def test_close_what_was_written_arrives_before_the_end(self):
        """A peer reads all frames that were written before the close, then ConnectionLost, which names who is gone."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                for i in range(100):
                    ours.write(str(i).encode(), [bytes(10_000)])
                closing = asyncio.ensure_future(ours.close())
                for i in range(100):
                    header, _ = await soon(theirs.read())
                    assert bytes(header) == str(i).encode()
                await soon(closing)
                with pytest.raises(ConnectionLost, match=r"worker w-1 at .*://.* has ended"):
                    await soon(theirs.read())
                assert ours.closed
                assert theirs.closed
                for use in (lambda: theirs.write(b"x"), lambda: ours.write(b"x")):
                    with pytest.raises(ConnectionLost):
                        use()
                for end in (ours, theirs):
                    with pytest.raises(ConnectionLost):
                        await end.drain()
                    with pytest.raises(ConnectionLost):
                        await end.read()
                    await end.close()

        run(main)

    def test_abort_ends_pending_reads_of_both_ends(self):
        """Readers that wait at either end hear of an abort."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                reads = [asyncio.ensure_future(end.read()) for end in (ours, theirs)]
                await asyncio.sleep(0)
                ours.abort()
                for read in reads:
                    with pytest.raises(ConnectionLost):
                        await soon(read)

        run(main)

    def test_abort_ends_a_drain(self):
        """Who waits for a peer to read hears that it is gone."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                ours.write(b"", [bytes(64 << 20)])
                draining = asyncio.ensure_future(ours.drain(1))
                await asyncio.sleep(0)
                theirs.abort()
                with pytest.raises(ConnectionLost):
                    await soon(draining)

        run(main)

    def test_read_cancelled_aborts_the_connection(self):
        """A cancelled read may have taken half a frame: the connection is of no use after it."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ours.read(), 0.01)
                assert ours.closed
                with pytest.raises(ConnectionLost):
                    await soon(theirs.read())

        run(main)

    def test_write_beyond_the_limits_raises_and_the_connection_stays(self):
        """The sender is told; nothing is sent."""

        async def main():
            async with pair(self.address, limits=Limits(max_header_bytes=10, max_buffers=1)) as (ours, theirs):
                with pytest.raises(ProtocolError, match="header of at most 10 bytes, found 11"):
                    ours.write(b"x" * 11)
                with pytest.raises(ProtocolError, match="at most 1 buffers"):
                    ours.write(b"x", [b"", b""])
                ours.write(b"fine", [b"1"])
                header, _ = await soon(theirs.read())
                assert bytes(header) == b"fine"

        run(main)

    def test_read_beyond_the_limits_raises_and_closes(self):
        """A receiver with tighter limits than the sender refuses the frame and ends the connection."""

        async def main():
            accepted: asyncio.Future[Comm] = asyncio.get_running_loop().create_future()

            async def on_comm(comm):
                accepted.set_result(comm)

            limits = Limits(max_frame_bytes=1000)
            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS, limits=limits)
            ours = await connect(listener.address, credentials=SECRET, hello=CONNECTS)
            theirs = await soon(accepted)
            ours.write(b"x", [bytes(2000)])
            with pytest.raises(ProtocolError, match="frame of at most 1000 bytes, found 2001"):
                await soon(theirs.read())
            assert theirs.closed
            with pytest.raises(ConnectionLost):
                await soon(ours.read())
            await ours.close()
            await listener.stop()

        run(main)

    def test_connect_with_a_wrong_secret_fails_fast_and_calls_nobody(self, caplog):
        """AuthenticationError in under a second, a log line at the listener, and the next right client is served."""

        async def main():
            seen = []

            async def on_comm(comm):
                seen.append(comm.peer.id)
                comm.write(b"welcome")

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            start_s = time.monotonic()
            with pytest.raises(AuthenticationError, match="secret of the same cluster"):
                await connect(listener.address, credentials=Credentials.generate(), hello=CONNECTS)
            assert time.monotonic() - start_s < 1
            comm = await connect(listener.address, credentials=SECRET, hello=CONNECTS)
            await soon(comm.read())
            assert seen == ["w-1"]
            await comm.close()
            await listener.stop()

        with caplog.at_level(logging.WARNING, logger="parml_core.comm"):
            run(main)
        refusals = [r.getMessage() for r in caplog.records if "refused a connection" in r.getMessage()]
        assert len(refusals) == 1
        assert "secret" in refusals[0]

    @pytest.mark.parametrize("name", ["protocol", "parml", "python"])
    def test_connect_with_another_version_is_refused_at_both_ends(self, name, caplog):
        """Both ends name both versions."""
        other = Hello("worker", "w-old", my_versions() | {name: "0.0"})

        async def main():
            async def on_comm(comm):
                raise AssertionError("a peer of another version was let in")

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            with pytest.raises(VersionMismatch) as caught:
                await connect(listener.address, credentials=SECRET, hello=other)
            assert f"{name} {my_versions()[name]} (scheduler s-1)" in str(caught.value)
            assert f"{name} 0.0 (worker w-old)" in str(caught.value)
            await listener.stop()

        with caplog.at_level(logging.WARNING, logger="parml_core.comm"):
            run(main)
        (line,) = [r.getMessage() for r in caplog.records if "refused a connection" in r.getMessage()]
        assert f"{name} {my_versions()[name]}" in line
        assert f"{name} 0.0" in line

    def test_connect_with_another_cloudpickle_is_let_in(self):
        """A version that need not be equal keeps nobody out."""

        async def main():
            async def on_comm(comm):
                comm.write(b"welcome")

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            hello = Hello("client", "c", my_versions() | {"cloudpickle": "0.1"})
            comm = await connect(listener.address, credentials=SECRET, hello=hello)
            assert bytes((await soon(comm.read()))[0]) == b"welcome"
            await comm.close()
            await listener.stop()

        run(main)

    def test_listen_twice_at_one_address_raises(self):
        """The second is told that the address is taken and what to do."""

        async def main():
            async def on_comm(comm):
                await comm.close()

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            with pytest.raises(AddressError, match=r"expected .*found .*(choose another port|fresh one)"):
                await listen(listener.address, on_comm, credentials=SECRET, hello=LISTENS)
            await listener.stop()
            again = await listen(listener.address, on_comm, credentials=SECRET, hello=LISTENS)
            assert again.address == listener.address
            await again.stop()
            await again.stop()

        run(main)

    def test_stop_refuses_new_connections_and_keeps_old_ones(self):
        """A stopped listener's connections live on."""

        async def main():
            comms = []

            async def on_comm(comm):
                comms.append(comm)
                comm.write(b"welcome")
                comm.write(*await comm.read())

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            comm = await connect(listener.address, credentials=SECRET, hello=CONNECTS)
            await soon(comm.read())
            await listener.stop()
            with pytest.raises(AddressError):
                await connect(listener.address, credentials=SECRET, hello=CONNECTS)
            comm.write(b"still there")
            assert bytes((await soon(comm.read()))[0]) == b"still there"
            await comm.close()
            await comms[0].close()

        run(main)

    def test_on_comm_that_raises_ends_that_connection_only(self, caplog):
        """An error in a handler is logged, its peer hears the end, others go on."""

        async def main():
            async def on_comm(comm):
                header, _ = await comm.read()
                if bytes(header) == b"bad":
                    raise ValueError("a bug in the handler")
                comm.write(header)

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            good, bad = [await connect(listener.address, credentials=SECRET, hello=CONNECTS) for _ in range(2)]
            bad.write(b"bad")
            with pytest.raises(ConnectionLost):
                await soon(bad.read())
            good.write(b"good")
            assert bytes((await soon(good.read()))[0]) == b"good"
            for comm in (good, bad):
                await comm.close()
            await listener.stop()

        run(main)
        assert "a bug in the handler" in caplog.text

    def test_many_connections_at_once_all_get_in(self):
        """Far more honest peers than are served at once are all served."""

        async def main():
            async def on_comm(comm):
                comm.write(*await comm.read())

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)

            async def client(i):
                comm = await connect(listener.address, credentials=SECRET, hello=CONNECTS)
                comm.write(str(i).encode())
                header, _ = await comm.read()
                await comm.close()
                return int(bytes(header))

            assert await asyncio.gather(*map(client, range(200))) == list(range(200))
            await listener.stop()

        run(main)

    def test_a_busy_reader_lets_others_have_their_turn(self):
        """A connection on which frames never stop does not keep its loop from anything else."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                turns = 0

                async def other():
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                for _ in range(20_000):
                    ours.write(b"x" * 100)
                task = asyncio.ensure_future(other())
                for _ in range(20_000):
                    await theirs.read()
                task.cancel()
                assert turns >= 5

        run(main)

    def test_ends_on_loops_of_two_threads(self):
        """The ends may live in different threads; nothing is lost, and an end is heard."""
        ready: threading.Event = threading.Event()
        address: list[str] = []
        count = 3000

        async def serve():
            done = asyncio.Event()

            async def on_comm(comm):
                try:
                    while True:
                        header, buffers = await comm.read()
                        comm.write(header, buffers)
                except ConnectionLost:
                    done.set()

            listener = await listen(self.address, on_comm, credentials=SECRET, hello=LISTENS)
            address.append(listener.address)
            ready.set()
            await asyncio.wait_for(done.wait(), 20)
            await listener.stop()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert ready.wait(5)

        async def main():
            comm = await connect(address[0], credentials=SECRET, hello=CONNECTS)

            async def send():
                for i in range(count):
                    comm.write(str(i).encode(), [bytes(i % 2000)])
                    if i % 10 == 0:
                        await comm.drain(20_000)

            sending = asyncio.ensure_future(send())
            for i in range(count):
                header, (buffer,) = await soon(comm.read())
                assert int(bytes(header)) == i
                assert len(buffer) == i % 2000
            await sending
            await comm.close()

        run(main)
        thread.join(5)
        assert not thread.is_alive()


class TestTCP(CommSuite):
    address = "tcp://127.0.0.1:0"


class TestInproc(CommSuite):
    address = "inproc://"

    def test_buffers_are_the_senders_memory_read_only(self):
        """Nothing is copied, and the receiver cannot change what is the sender's."""

        async def main():
            async with pair(self.address) as (ours, theirs):
                array = np.arange(10)
                ours.write(b"", [memoryview(array)])
                _, (view,) = await soon(theirs.read())
                assert np.shares_memory(np.frombuffer(view, array.dtype), array)
                assert view.readonly

        run(main)

    def test_connect_to_an_unknown_name_raises(self):
        """The names that exist are told."""

        async def main():
            async with pair("inproc://known"):
                with pytest.raises(AddressError, match=r"'unknown' in this process, found \['known'\]"):
                    await connect("inproc://unknown", credentials=SECRET, hello=CONNECTS)

        run(main)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
class TestTCP6(CommSuite):
    address = "tcp://[::1]:0"

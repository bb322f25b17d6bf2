"""Values between hosts, in turns and compressed: here two addresses of this machine, which parml takes for two hosts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parml_core.comm import Credentials, listen, my_versions
from parml_core.comm.base import Limits
from parml_core.config import Settings
from parml_core.errors import ConnectionLost, ProtocolError
from parml_core.kernel import uploads
from parml_core.protocol import compression, frames
from parml_core.protocol.messages import FromData, Hello, Piece, decoder_of, encoder
from parml_core.protocol.serialize import dumps, loads
from parml_core.runtime import pieces
from parml_core.runtime.data import DataServer
from parml_core.runtime.peer import DataLink
from parml_core.store.memory import MemoryStore

SECRET = Credentials(b"0123456789abcdef" * 2)
HERE, THERE = "tcp://127.0.0.1:0", "tcp://127.0.0.2:0"
decoder = decoder_of(FromData)


def sent_in_pieces(buffers: list[bytes], codecs: dict[int, str]) -> tuple[list[memoryview], list[tuple[Piece, memoryview]]]:
    """What arrives of these buffers when those of `codecs` are compressed: the plain ones, and the pieces."""
    messages: list[tuple[Any, list[Any]]] = [(None, [buffer for i, buffer in enumerate(buffers) if i not in codecs])]
    for i, codec in codecs.items():
        for start in range(0, len(buffers[i]), compression.PIECE_BYTES):
            piece, data = pieces.pack(1, codec, memoryview(buffers[i])[start : start + compression.PIECE_BYTES])
            messages.append((piece, [data]))
    parser, found = frames.Parser(), []
    for message, out in messages:
        for chunk in frames.encode(encoder.encode([message] if message else []), out):
            rest = memoryview(chunk)
            while rest:
                space = parser.space()
                n = min(len(space), len(rest))
                space[:n], rest = rest[:n], rest[n:]
                parser.filled(n)
                while (frame := parser.next()) is not None:
                    found.append((decoder.decode(frame[0]), frame[1]))
    return found[0][1], [(messages[0], data[0]) for messages, data in found[1:]]


contents = st.one_of(st.binary(max_size=350), st.integers(0, 350).map(bytes))
chosen = st.dictionaries(st.integers(0, 5), st.sampled_from(["lz4", "zstd"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(contents, max_size=6), chosen)
def test_any_buffers_come_back_as_they_were(buffers: list[bytes], codecs: dict[int, str]) -> None:
    """Whichever of them are compressed, in how many pieces ever, each is in memory that can be written to."""
    codecs = {i: codec for i, codec in sorted(codecs.items()) if i < len(buffers)}
    with pytest.MonkeyPatch.context() as patched:
        for module in (compression, pieces):
            patched.setattr(module, "PIECE_BYTES", 100)
        plain, packed = sent_in_pieces(buffers, codecs)
        unpacking = pieces.Unpacking(len(buffers), plain, {i: len(buffers[i]) for i in codecs}, Limits())
        for i, (piece, data) in enumerate(packed):
            assert not unpacking.complete, f"complete without {len(packed) - i} pieces"
            unpacking.put(piece, data)
    assert unpacking.complete
    assert [bytes(buffer) for buffer in unpacking.buffers] == buffers
    assert not any(buffer.readonly for buffer in unpacking.buffers)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["lz4", "zstd"]), st.booleans())
def test_damage_is_noticed(data: st.DataObject, codec: str, compressible: bool) -> None:
    """A changed bit, or bytes that are missing: an error with a name, and never a wrong value."""
    content = bytes(range(256)) * 4 if compressible else random.Random(1).randbytes(1024)
    _, [(piece, found)] = sent_in_pieces([content], {0: codec})
    assert bool(piece.codec) == compressible
    unpacking = pieces.Unpacking(1, [], {0: len(content)}, Limits())
    damaged = bytearray(found)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    else:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        unpacking.put(piece, damaged)
    except ProtocolError as error:
        assert "damaged" in str(error)
    else:  # a bit that means nothing to the codec
        assert bytes(unpacking.buffers[0]) == content


@pytest.mark.parametrize(
    ("n_buffers", "packed", "nbytes"),
    [(2, {0: 10}, 10), (1, {1: 10}, 10), (1, {0: 1 << 60}, 10), (1, {0: 10}, 11), (1, {0: 10}, 0), (1, {0: 1 << 30}, 1 << 29)],
)
def test_numbers_that_cannot_be_are_refused(n_buffers: int, packed: dict[int, int], nbytes: int) -> None:
    """Buffers too few, too large or elsewhere, pieces larger than what is missing or than any may be: before room is made."""
    with pytest.raises(ProtocolError, match="expected"):
        unpacking = pieces.Unpacking(n_buffers, [], packed, Limits())
        unpacking.put(Piece(1, "", nbytes, 0), bytes(min(nbytes, 100)))


# --- a server and a link -----------------------------------------------------------------------------------------------


def asked(values: dict[str, Any], scene: Callable[[DataLink, list[int]], Awaitable[Any]], *, at: str, setting: str) -> Any:
    """Let a scene ask a server at an address for values; it sees how many bytes each answer and piece came to."""

    async def main() -> Any:
        store = MemoryStore()
        sizes = {}
        for key, value in values.items():
            sizes[key] = dumps(value).nbytes
            store.put(key, value, sizes[key])
        nothing = {"handle": print, "look_after": int, "has_lent": int, "disk_for": lambda nbytes: None}
        server = DataServer("w", store, sizes, **nothing)  # type: ignore[arg-type]
        hello = Hello("data", "w", my_versions())
        listener = await listen(at, server.serve, credentials=SECRET, hello=hello)
        link = await DataLink.open(listener.address, SECRET, "c", Settings.from_dict({"comm": {"compression": setting}}))
        came: list[int] = []
        read = link._comm.read

        async def counted() -> frames.Frame:
            frame = await read()
            came.append(sum(map(len, frame[1])))
            return frame

        link._comm.read = counted  # type: ignore[method-assign]
        try:
            return await scene(link, came)
        finally:
            await link.close()
            await listener.stop()

    return asyncio.run(asyncio.wait_for(main(), 30))


VALUES = {"zeros": bytearray(9 << 20), "noise": random.Random(1).randbytes(1 << 20), "small": 1}


async def get_all(link: DataLink, came: list[int]) -> int:
    await link.get(["small"])  # the link reads what comes next by the new function
    _, found = await link.get(list(VALUES))
    assert {key: loads(value.head, value.buffers) for key, value in zip(VALUES, found, strict=True) if value} == VALUES
    return sum(came)


@pytest.mark.parametrize("setting", ["lz4", "zstd"])
def test_values_are_compressed_between_hosts_where_that_is_set(setting: str) -> None:
    """What can be made smaller is, in pieces; what cannot goes as it is; and nothing is on one host."""
    noise = len(VALUES["noise"])
    assert noise <= asked(VALUES, get_all, at=THERE, setting=setting) < noise + 500_000
    assert asked(VALUES, get_all, at=HERE, setting=setting) > len(VALUES["zeros"])
    assert asked(VALUES, get_all, at=THERE, setting="none") > len(VALUES["zeros"])


def test_link_is_measured_before_anything_is_compressed() -> None:
    """Only where the values that came first came slowly, and as long as those that are compressed come faster."""

    async def scene(link: DataLink, came: list[int]) -> None:
        first = await get_all(link, came)
        assert first > len(VALUES["zeros"]) and link._measured[0] > 0
        link._measured = 1e6, link._measured[1]
        assert await get_all(link, came) < first + len(VALUES["noise"]) + 500_000
        link._measured = 1e6, link._measured[1] - 1e6  # so long ago that it may not be so any more
        assert (await link._codecs())[0] == ()
        link._measured = 1e8, time.monotonic()
        assert (await link._codecs())[0] == ("lz4", "zstd")
        link._see_whether_it_paid({0: 10_000_000}, time.monotonic() - 0.05)
        assert (await link._codecs())[0] == ("lz4", "zstd")
        link._see_whether_it_paid({0: 10_000_000}, time.monotonic() - 0.2)  # half as fast as the link
        assert (await link._codecs())[0] == ()

    asked(VALUES, scene, at=THERE, setting="auto")


def test_damaged_piece_ends_the_connection_and_the_next_one_gives_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fetches tries again after a lost connection, as always."""
    pack = pieces.pack
    monkeypatch.setattr(pieces, "pack", lambda *args: (pack(*args)[0], bytes(pack(*args)[1])[:-1]))

    async def scene(link: DataLink, came: list[int]) -> None:
        with pytest.raises(ConnectionLost, match="compressed with lz4, found damaged ones"):
            await link.get(["zeros"])
        monkeypatch.setattr(pieces, "pack", pack)
        again = await DataLink.open(link._comm.peer_address, SECRET, "c", Settings())
        _, [value] = await again.get(["zeros"])
        await again.close()
        assert value is not None and loads(value.head, value.buffers) == VALUES["zeros"]

    asked(VALUES, scene, at=THERE, setting="lz4")


# --- turns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_keeps_it", [True, False])
def test_those_that_wait_get_their_turns(first_keeps_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first has the value, or its connection ends, the second is sent it, and the third is told to ask the second."""
    monkeypatch.setattr(uploads, "PATIENCE_S", 1000.0)

    async def scene(link: DataLink, came: list[int]) -> None:
        where = link._comm.peer_address
        first, second, third = [await DataLink.open(where, SECRET, id, Settings(), f"tcp://{id}:1") for id in "abc"]
        answer, [small, value] = await first._get(["small", "zeros"], "place-a")
        assert small is not None and value is not None
        assert (answer.shared, answer.later) == (["zeros"], [])
        answers = []
        for asker in (second, third):
            answer, [small, value] = await asker._get(["small", "zeros"], "place-b")
            assert small is not None and value is None
            assert (answer.shared, answer.later) == ([], ["zeros"])
            answers.append(asyncio.ensure_future(asker._get(["zeros"], "place-b", patient=True)))
            await link.get(["small"])  # by now the asker was heard
            _, [value] = await link.get(["zeros"])  # who is no worker waits for nobody
            assert value is not None
        assert not any(answer.done() for answer in answers)
        if first_keeps_it:
            first.took(["zeros"], lambda key: True)
        else:
            await first.close()
        answer, [value] = await answers[0]
        assert value is not None and (answer.shared, answer.elsewhere) == (["zeros"], "")
        second.took(["zeros"], lambda key: True)
        answer, [value] = await answers[1]
        assert (answer.elsewhere, value) == ("tcp://b:1", None)  # for it is in the same place
        for opened in (first, second, third):
            await opened.close()

    asked(VALUES, scene, at=HERE, setting="none")

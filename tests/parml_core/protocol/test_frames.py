"""Frames survive being cut anywhere, and what breaks the limits is refused before memory is spent on it."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml_core.errors import ProtocolError
from parml_core.protocol.frames import LARGE_BYTES, Limits, Parser, encode
from tests.drawn import examples

SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES, 1 << 20, (4 << 20) + 5]),
)
FRAMES = st.lists(st.tuples(SIZES, st.lists(SIZES, max_size=4)), min_size=1, max_size=4)


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


def pattern(size: int, seed: int) -> bytes:
    return (bytes(range(seed, 251)) * (size // (251 - seed) + 1))[:size]


def feed(parser: Parser, stream: bytes, steps) -> list:
    """What comes out when the stream arrives in pieces of these sizes, and then in large ones."""
    frames, at = [], 0
    while True:
        while (frame := parser.next()) is not None:
            frames.append(frame)
        if at == len(stream):
            return frames
        step = next(steps, 200_000)
        space = parser.space()
        assert len(space) > 0
        piece = stream[at : at + min(step, len(space))]
        space[: len(piece)] = piece
        parser.filled(len(piece))
        at += len(piece)


@examples(60)
@given(FRAMES, st.lists(st.integers(1, 200_000), min_size=1, max_size=30))
def test_parser_any_frames_cut_anywhere_come_out_the_same(shapes, steps):
    """What is encoded comes out, whatever pieces the stream arrives in."""
    sent = [(pattern(h, 1), [pattern(n, i + 2) for i, n in enumerate(sizes)]) for h, sizes in shapes]
    stream = b"".join(bytes(piece) for header, buffers in sent for piece in encode(header, buffers))
    received = feed(Parser(), stream, iter(steps))
    assert [(bytes(h), [bytes(b) for b in bs]) for h, bs in received] == sent


def test_parser_byte_by_byte_gives_the_frames():
    """The smallest pieces are no special case."""
    sent = [(b"", []), (b"h", [b""]), (b"header", [b"a", b"", b"bc"])]
    stream = b"".join(bytes(piece) for header, buffers in sent for piece in encode(header, buffers))
    received = feed(Parser(), stream, itertools.repeat(1))
    assert [(bytes(h), [bytes(b) for b in bs]) for h, bs in received] == sent


def test_encode_large_buffers_are_passed_as_they_are_and_small_ones_joined():
    """A frame of small parts is one piece; a large buffer is not copied."""
    large = bytearray(LARGE_BYTES)
    assert len(encode(b"h", [b"a"] * 100)) == 1
    pieces = encode(b"h", [b"a", large, b"b", b"c"])
    assert [len(piece) for piece in pieces] == [8 + 4 * 8 + 2, LARGE_BYTES, 2]
    assert isinstance(pieces[1], memoryview)
    assert pieces[1].obj is large


def test_parser_buffers_do_not_share_memory_with_later_frames():
    """A buffer that is kept stays as it was when more frames arrive, and it may be written to."""
    parser = Parser()
    stream = encode(b"h", [b"first"])[0]
    ((_, (kept,)),) = feed(parser, stream, iter([1 << 20]))
    feed(parser, encode(b"h", [b"other"])[0], iter([1 << 20]))
    assert bytes(kept) == b"first"
    kept[:1] = b"F"


def parse(data: bytes, limits: Limits) -> None:
    feed(Parser(limits), data, iter([len(data)]))


@pytest.mark.parametrize(
    ("data", "limits", "text"),
    [
        (struct.pack("<II", 2**32 - 1, 0), Limits(), "header of at most"),
        (struct.pack("<II", 100, 0) + b"x" * 100, Limits(max_header_bytes=99), "header of at most 99 bytes, found 100"),
        (struct.pack("<II", 0, 10**9), Limits(), "at most 65536 buffers in a frame, found 1000000000"),
        (struct.pack("<IIQ", 0, 1, 2**63), Limits(), "frame of at most"),
        (struct.pack("<IIQ", 0, 1, 2**64 - 1), Limits(), "frame of at most"),
        (struct.pack("<IIQQ", 0, 2, 2**63, 2**63), Limits(), "frame of at most"),
        (struct.pack("<IIQ", 0, 1, 1001), Limits(max_frame_bytes=1000), "frame of at most 1000 bytes, found 1001"),
        (struct.pack("<IIQ", 2, 1, 999), Limits(max_frame_bytes=1000), "frame of at most 1000 bytes, found 1001"),
    ],
)
def test_parser_claim_beyond_the_limits_is_refused_before_allocation(data, limits, text):
    """A length that is too large is an error as soon as it is read, and costs no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=text):
            parse(data, limits)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_parser_claim_within_the_limits_costs_no_memory_until_data_comes():
    """Many peers that claim gigabytes and send nothing do not fill the memory."""
    parsers = []
    with resident_memory_grows_less_than(mib=60):  # a page of 2 MiB each
        for _ in range(20):
            parser = Parser()
            feed(parser, struct.pack("<IIQ", 0, 1, 100 << 20) + b"some data", iter([1000]))
            parsers.append(parser)


def test_encode_beyond_the_limits_raises_before_anything_is_sent():
    """Who sends too much learns it at his end."""
    with pytest.raises(ProtocolError, match="header of at most 10 bytes, found 11"):
        encode(b"x" * 11, (), Limits(max_header_bytes=10))
    with pytest.raises(ProtocolError, match="at most 2 buffers"):
        encode(b"", [b"a"] * 3, Limits(max_buffers=2))


@examples(300)
@given(st.binary(max_size=300), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_parser_any_bytes_give_frames_or_a_protocol_error(data, steps):
    """Nothing that a peer sends raises anything else."""
    limits = Limits(max_header_bytes=1000, max_buffers=4, max_frame_bytes=2000)
    try:
        frames = feed(Parser(limits), data, iter(steps))
    except ProtocolError:
        return
    assert sum(len(h) + sum(map(len, bs)) for h, bs in frames) <= len(data)

"""Values over a slow link: buffers that are worth it follow the answer in compressed pieces (`protocol.compression`)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence

from parml_core.comm.base import Comm, Limits
from parml_core.errors import ProtocolError
from parml_core.protocol.compression import PIECE_BYTES, choose, compress, decompress
from parml_core.protocol.frames import LARGE_BYTES, allocate, check, nbytes_of
from parml_core.protocol.messages import Piece, encoder
from parml_core.typing import Buffer


def to_compress(buffers: Sequence[Buffer], codecs: tuple[str, ...], bytes_per_s: float) -> dict[int, str]:
    """With which codec each of these buffers, by position, is at the other end earlier than as it is."""
    large = [(i, buffer) for i, buffer in enumerate(buffers) if nbytes_of(buffer) >= LARGE_BYTES]
    return {i: codec for i, buffer in large if (codec := choose(buffer, codecs, bytes_per_s))}


async def send(comm: Comm, request: int, codec: str, buffer: Buffer) -> None:
    """Send a buffer in pieces; one is compressed while those before are on their way. Raises ConnectionLost."""
    view = memoryview(buffer).cast("B")
    for start in range(0, len(view), PIECE_BYTES):
        piece, data = await asyncio.to_thread(pack, request, codec, view[start : start + PIECE_BYTES])
        comm.write(encoder.encode([piece]), [data])
        await comm.drain()


def pack(request: int, codec: str, data: memoryview) -> tuple[Piece, Buffer]:
    """A piece and its bytes, compressed where they come to less."""
    packed = compress(codec, data)
    checksum = zlib.crc32(data)
    if len(packed) < len(data):
        return Piece(request, codec, len(data), checksum), packed
    return Piece(request, "", len(data), checksum), data


class Unpacking:
    """
    The buffers of an answer of which some follow in pieces.

    Parameters
    ----------
    n_buffers : int
        Of the answer.
    sent : sequence of memoryview
        Those that came with it.
    packed : mapping of position to nbytes
        The others.
    limits : Limits

    Attributes
    ----------
    buffers : list of memoryview
        Each in memory of its own; of use when it is `complete`.

    Raises
    ------
    ProtocolError
        The peer breaks the limits, or the numbers are not those of one answer.
    """

    def __init__(self, n_buffers: int, sent: Sequence[memoryview], packed: Mapping[int, int], limits: Limits) -> None:
        check(0, [*map(nbytes_of, sent), *packed.values()], limits)
        if len(sent) + len(packed) != n_buffers or any(not 0 <= i < n_buffers for i in packed):
            raise ProtocolError(f"expected {n_buffers} buffers, found {len(sent)} and those at {sorted(packed)} to follow")
        came = iter(sent)
        self.buffers = [allocate(packed[i]) if i in packed else next(came) for i in range(n_buffers)]
        self._places = [self.buffers[i] for i in sorted(packed) if packed[i]]

    @property
    def complete(self) -> bool:
        return not self._places

    def put(self, piece: Piece, data: Buffer) -> None:
        """Put the next piece into its place. Raises ProtocolError."""
        place = self._places[0] if self._places else memoryview(b"")
        if not 0 < piece.nbytes <= min(PIECE_BYTES, len(place)):
            raise ProtocolError(f"expected a piece of at most {min(PIECE_BYTES, len(place))} bytes, found {piece.nbytes}")
        decompress(piece.codec, data, piece.checksum, place[: piece.nbytes])
        self._places[0] = place[piece.nbytes :]
        if not self._places[0]:
            del self._places[0]

"""
What goes over a slow link is sent in fewer bytes, where that is earlier there: a buffer in pieces, each compressed by itself.

Whether it pays is measured: the receiver knows how fast the link is, the sender tries how fast and how well a sample of the
buffer compresses. The codecs are those of pyarrow, which is loaded when the first slow link is met.
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Mapping

from parml_core.errors import ProtocolError
from parml_core.typing import Buffer

__all__ = ["CODECS", "PIECE_BYTES", "available", "choose", "compress", "decompress", "earliest"]

CODECS = {"lz4": None, "zstd": 1}
"""Names, and the level of each."""

PIECE_BYTES = 4 * 1024 * 1024
"""So much of a buffer is compressed, sent and put into its place at a time."""

_SAMPLE_BYTES, _SAMPLES = 16 * 1024, 4
_WORTH = 0.8  # of the time that the plain bytes take; compressing takes processors from tasks


@functools.cache
def available() -> tuple[str, ...]:
    """
    The codecs that this process has.

    Examples
    --------
    >>> available()
    ('lz4', 'zstd')
    """
    try:
        import pyarrow
    except ImportError:
        return ()
    return tuple(name for name in CODECS if pyarrow.Codec.is_available(name))


def compress(codec: str, data: Buffer) -> bytes:
    """
    At most `PIECE_BYTES` of data, compressed.

    Examples
    --------
    >>> target = bytearray(1000)
    >>> packed = compress("lz4", bytes(1000))
    >>> len(packed) < 100
    True
    >>> decompress("lz4", packed, zlib.crc32(bytes(1000)), target)
    >>> decompress("lz4", packed, zlib.crc32(bytes(999)), target)
    Traceback (most recent call last):
    parml_core.errors.ProtocolError: expected 1000 bytes compressed with lz4, found damaged ones; they have to be sent again
    """
    packed: bytes = _codec(codec).compress(data, asbytes=True)  # its buffers tell a wrong length
    return packed


def decompress(codec: str, data: Buffer, checksum: int, target: Buffer) -> None:
    """
    Fill `target` with what was compressed.

    Parameters
    ----------
    codec : str
        Empty: the data were not compressed.
    data : buffer
    checksum : int
        CRC-32 of what comes out.
    target : writable buffer of exactly the right size

    Raises
    ------
    ProtocolError
        The data are damaged.
    """
    place = memoryview(target)
    try:
        if codec:
            data = memoryview(_codec(codec).decompress(data, decompressed_size=len(place))).cast("B")
        place[:] = data
    except (OSError, ValueError, KeyError):  # KeyError: no such codec
        checksum = -1
    if zlib.crc32(place) != checksum:
        how = f"compressed with {codec}" if codec else "that are not compressed"
        raise ProtocolError(f"expected {len(place)} bytes {how}, found damaged ones; they have to be sent again")


def choose(buffer: Buffer, codecs: tuple[str, ...], bytes_per_s: float) -> str:
    """
    With which of these codecs a buffer would be at the other end of a link the earliest, by a sample of it.

    Parameters
    ----------
    buffer : buffer
    codecs : tuple of str
    bytes_per_s : float
        Throughput of the link.

    Returns
    -------
    str
        Empty: it is sent as it is.

    Examples
    --------
    >>> import random
    >>> choose(bytes(1 << 20), ("lz4",), 1e6), choose(random.Random(1).randbytes(1 << 20), ("lz4",), 1e6)
    ('lz4', '')
    """
    view = memoryview(buffer).cast("B")
    step = max(len(view) // _SAMPLES, _SAMPLE_BYTES)
    sample = b"".join(view[start : start + _SAMPLE_BYTES] for start in range(0, len(view), step))
    tried = {}
    for codec in codecs:
        if codec in available():
            _codec(codec)
            began = time.perf_counter()
            packed = compress(codec, sample)
            tried[codec] = time.perf_counter() - began, len(packed)
    return earliest(len(sample), tried, bytes_per_s)


def earliest(nbytes: int, tried: Mapping[str, tuple[float, int]], bytes_per_s: float) -> str:
    """
    The codec with which `nbytes` arrive the earliest, where a piece is compressed while the one before is sent; or none.

    Parameters
    ----------
    nbytes : int
    tried : mapping of codec to (seconds, bytes)
        What compressing takes, and what it leaves.
    bytes_per_s : float
        Throughput of the link.

    Examples
    --------
    >>> tried = {"lz4": (0.002, 500_000), "zstd": (0.01, 250_000)}
    >>> [earliest(1_000_000, tried, bytes_per_s) for bytes_per_s in (1e7, 1e8, 1e9)]
    ['zstd', 'lz4', '']
    """
    needs_s = {codec: max(seconds, left / bytes_per_s) for codec, (seconds, left) in tried.items()}
    best = min(needs_s, key=needs_s.__getitem__, default="")
    return best if best and needs_s[best] < _WORTH * nbytes / bytes_per_s else ""


@functools.cache
def _codec(name: str):  # type: ignore[no-untyped-def]  # pyarrow has no types
    import pyarrow

    return pyarrow.Codec(name, compression_level=CODECS[name])

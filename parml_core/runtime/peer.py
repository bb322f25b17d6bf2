"""Messages over a Comm: the control plane's conversation, and requests for values on the data plane."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Any

import msgspec

from parml_core.comm import connect
from parml_core.comm.base import MEASURED_BYTES, Comm, Credentials, Limits, my_versions
from parml_core.config import Settings
from parml_core.errors import ConnectionLost, ParmlError, ProtocolError
from parml_core.protocol.compression import CODECS, available
from parml_core.protocol.messages import (
    FromData,
    GetValues,
    Hello,
    Loan,
    Piece,
    PutDone,
    PutValues,
    Took,
    Values,
    decoder_of,
    encoder,
)
from parml_core.protocol.serialize import Serialized
from parml_core.runtime.pieces import Unpacking
from parml_core.store.disk import Unreadable, borrow_from_disk
from parml_core.store.shared import borrow, loan_of, this_place
from parml_core.typing import Address, Buffer, Key, host_of


def limits_of(settings: Settings) -> Limits:
    """What a peer may send in one frame."""
    comm = settings.comm
    return Limits(max_header_bytes=comm.max_header_bytes, max_frame_bytes=comm.max_message_bytes or None)


FRAME_BYTES = 16 * 1024 * 1024
"""Messages that are larger together travel in several frames."""

FAST_BYTES_PER_S = 150e6
"""Over a faster link nothing is compressed: what little time that may win is not worth a processor at each end."""

MEASURE_AGAIN_S = 60.0
"""So long the throughput of a link is believed to be what it was when values last came as they are."""


class Conversation:
    """
    Typed messages both ways. What is said before the next `flush` travels in one frame; that comes at the end of this turn of
    the loop at the latest.

    Parameters
    ----------
    comm : Comm
    decoder : msgspec decoder
        Of a list of the messages that the peer may send.
    """

    def __init__(self, comm: Comm, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self.comm = comm
        self._decoder = decoder
        self._outbox: list[Any] = []
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> list[Any]:
        """The messages of the next frame. Raises ConnectionLost, ProtocolError."""
        header, _ = await self.comm.read()
        try:
            return self._decoder.decode(header)
        except msgspec.DecodeError as error:
            self.comm.abort()
            peer = self.comm.peer
            raise ConnectionLost(f"{peer.role} {peer.id} sent what is no message of this protocol: {error}") from error

    def say(self, messages: Sequence[Any]) -> None:
        """Send soon. A peer that is gone hears nothing; whoever reads from it learns that."""
        if not self._outbox:
            self._loop.call_soon(self.flush)
        self._outbox.extend(messages)

    def flush(self) -> None:
        """Send now what was said."""
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            with contextlib.suppress(ConnectionLost):
                self._write(outbox)

    def _write(self, messages: Sequence[Any]) -> None:
        header = encoder.encode(messages)
        if len(header) > FRAME_BYTES and len(messages) > 1:
            half = len(messages) // 2
            self._write(messages[:half])
            self._write(messages[half:])
        else:
            self.comm.write(header)


_from_data = decoder_of(FromData)


class DataLink:
    """
    Requests for values to one worker. Several may be under way at a time.

    Use `open`; a link that has failed stays failed. A worker that is stopped, or cut off, leaves its connections open, but
    makes no new ones: by that it is told from one that is busy, and the link fails after `silence_s`.
    """

    def __init__(
        self, comm: Comm, connect_again: Callable[[float], Awaitable[Comm]], silence_s: float, settings: Settings
    ) -> None:
        self._comm = comm
        self._limits = limits_of(settings)
        self._compression = "none" if host_of(comm.local_address) == host_of(comm.peer_address) else settings.comm.compression
        self._measured = inf, 0.0  # throughput of the link in bytes/s, and when that was
        self._plain_until_s = 0.0  # because compressing was slower than the link
        self._connect_again = connect_again
        self._n_requests = 0
        self._answers: dict[int, asyncio.Future[tuple[Any, list[memoryview]]]] = {}
        self._unpacking: dict[int, tuple[Values, Unpacking, float]] = {}
        self._reader = asyncio.ensure_future(self._read())
        self._watcher = asyncio.ensure_future(self._watch(silence_s / 3))

    @classmethod
    async def open(
        cls, address: Address, credentials: Credentials, id: str, settings: Settings, mine: Address = ""
    ) -> DataLink:
        """
        Connect to a worker's data plane; `mine` is that of the worker that connects.

        Raises ConnectionLost, AuthenticationError, AddressError.
        """
        hello, limits = Hello("data", id, my_versions(), address=mine), limits_of(settings)
        silence_s = settings.scheduler.worker_timeout_s

        def open_comm(timeout_s: float) -> Awaitable[Comm]:
            return connect(address, credentials=credentials, hello=hello, timeout_s=timeout_s, limits=limits)

        comm = await open_comm(min(settings.comm.connect_timeout_s, silence_s))
        return cls(comm, open_comm, silence_s, settings)

    @property
    def closed(self) -> bool:
        return self._comm.closed

    async def get(self, keys: Sequence[Key]) -> tuple[Values, list[Serialized | None]]:
        """The answer, and for each key its value or None. Raises ConnectionLost."""
        return await self._get(keys, "")

    async def borrow(
        self, keys: Sequence[Key], *, keep: bool, private: bool = False, patient: bool = False
    ) -> tuple[Values, list[Serialized | None]]:
        """
        As `get`; of a worker on this host large values are not copied: their buffers are memory of both.

        `keep`: they can be lent in turn. `private`: they are writable, and what is written is this process's alone. `patient`:
        the one value that is asked for comes in its turn, or from another worker. Say `took` of what is shared.
        """
        answer, values = await self._get(keys, this_place(), patient=patient)
        gone = []
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            loan = answer.loans.get(key)
            if loan is not None and value is not None:
                try:
                    if loan.checksum is None:
                        values[i] = borrow(value.head, loan, keep=keep, private=private)
                    else:
                        values[i] = await asyncio.to_thread(borrow_from_disk, loan, keep=keep, private=private)
                except (OSError, Unreadable):  # dropped meanwhile, damaged, or this process may not look into that one
                    gone.append(i)
        if gone:
            again, sent = await self.get([keys[i] for i in gone])
            answer.failures.update(again.failures)
            for i, value in zip(gone, sent, strict=True):
                values[i] = value
        return answer, values

    def took(self, shared: Sequence[Key], kept: Callable[[Key], bool]) -> None:
        """Tell which of the values that others wait for, too, can be had here now."""
        if shared:
            message = Took([key for key in shared if kept(key)], [key for key in shared if not kept(key)])
            with contextlib.suppress(ConnectionLost):
                self._comm.write(encoder.encode([message]))

    async def _get(self, keys: Sequence[Key], place: str, *, patient: bool = False) -> tuple[Values, list[Serialized | None]]:
        self._n_requests += 1
        request = self._n_requests
        message = GetValues(request, list(keys), place, patient, *await self._codecs())
        values, buffers = await self._ask(request, message, ())
        return values, unpack(values.heads, values.buffers, buffers)

    async def _codecs(self) -> tuple[tuple[str, ...], float]:
        """By which codecs values may be compressed, and the throughput of the link."""
        bytes_per_s, then_s = self._measured
        now_s = time.monotonic()
        slow = bytes_per_s < FAST_BYTES_PER_S and now_s - then_s < MEASURE_AGAIN_S and now_s > self._plain_until_s
        if self._compression == "auto" and slow:
            return await asyncio.to_thread(available), bytes_per_s
        if self._compression in CODECS:
            return (self._compression,), 1.0  # as if there were no slower one
        return (), 0.0

    async def put(self, keys: Sequence[Key], values: Sequence[Serialized]) -> None:
        """Let the worker keep these values; those in shared memory it maps, where it can. Raises ConnectionLost."""
        loans = {key: loan for key, value in zip(keys, values, strict=True) if (loan := loan_of(value)) is not None}
        refused = await self._put(keys, values, loans)
        if refused:
            by_key = dict(zip(keys, values, strict=True))
            await self._put(refused, [by_key[key] for key in refused], {})

    async def _put(self, keys: Sequence[Key], values: Sequence[Serialized], loans: dict[Key, Loan]) -> list[Key]:
        self._n_requests += 1
        sent = [[] if key in loans else value.buffers for key, value in zip(keys, values, strict=True)]
        place = this_place() if loans else ""
        heads = [value.head for value in values]
        message = PutValues(self._n_requests, list(keys), heads, list(map(len, sent)), place, loans)
        answer, _ = await self._ask(self._n_requests, message, [buffer for buffers in sent for buffer in buffers])
        assert isinstance(answer, PutDone)
        return answer.refused

    async def _ask(self, request: int, message: Any, buffers: Sequence[Buffer]) -> tuple[Any, list[memoryview]]:
        answer = self._answers[request] = asyncio.get_running_loop().create_future()
        try:
            self._comm.write(encoder.encode([message]), buffers)
            return await answer
        finally:
            self._answers.pop(request, None)

    async def _read(self) -> None:
        error: ParmlError = ConnectionLost("the connection was closed")
        try:
            while True:
                header, buffers = await self._comm.read()
                for message in _from_data.decode(header):
                    if type(message) is Values and message.packed:
                        packed = Unpacking(sum(message.buffers), buffers, message.packed, self._limits)
                        self._unpacking[message.request] = message, packed, time.monotonic()
                    elif type(message) is Piece:
                        await self._unpack(message, buffers)
                    else:
                        if sum(map(len, buffers)) >= MEASURED_BYTES:
                            self._measured = self._comm.bytes_per_s or inf, time.monotonic()
                        self._answered(message, buffers)
        except ParmlError as lost:
            error = lost
        except msgspec.DecodeError as garbage:
            error = ConnectionLost(f"worker {self._comm.peer.id} sent what is no message of this protocol: {garbage}")
        finally:
            self._watcher.cancel()
            self._comm.abort()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionLost(str(error)))

    def _answered(self, message: Any, buffers: list[memoryview]) -> None:
        answer = self._answers.get(message.request)
        if answer is not None and not answer.done():
            answer.set_result((message, buffers))

    async def _unpack(self, piece: Piece, buffers: list[memoryview]) -> None:
        message, packed, since_s = self._unpacking.get(piece.request, (None, None, 0.0))
        if message is None or packed is None or len(buffers) != 1:
            raise ProtocolError(
                f"expected a piece of an answer, found one of request {piece.request} in {len(buffers)} buffers"
            )
        await asyncio.to_thread(packed.put, piece, buffers[0])
        if packed.complete:
            del self._unpacking[piece.request]
            self._see_whether_it_paid(message.packed, since_s)
            self._answered(message, packed.buffers)

    def _see_whether_it_paid(self, packed: Mapping[int, int], since_s: float) -> None:
        """A sample does not tell how busy the processors are: what was slower than the link is left for a while."""
        nbytes, now_s = sum(packed.values()), time.monotonic()
        if nbytes >= MEASURED_BYTES and nbytes < self._measured[0] * (now_s - since_s):
            self._plain_until_s = now_s + MEASURE_AGAIN_S

    async def _watch(self, period_s: float) -> None:
        waited_for = None
        while True:
            await asyncio.sleep(period_s)
            oldest = next(iter(self._answers), None)
            if oldest is not None and oldest == waited_for:
                try:
                    comm = await self._connect_again(period_s)
                except (ParmlError, OSError):
                    self._comm.abort()
                    return
                await comm.close()
            waited_for = oldest

    async def close(self) -> None:
        self._comm.abort()
        await asyncio.wait([self._reader, self._watcher])


class DataLinks:
    """One DataLink to each worker that is talked to, opened when first needed. `mine`: where this worker gives values."""

    def __init__(self, credentials: Credentials, id: str, settings: Settings, mine: Address = "") -> None:
        self._credentials = credentials
        self._id = id
        self._settings = settings
        self._mine = mine
        self._links: dict[Address, asyncio.Future[DataLink]] = {}

    async def to(self, address: Address) -> DataLink:
        """The link to a worker. Raises ConnectionLost, AuthenticationError, AddressError."""
        opening = self._links.get(address)
        if (
            opening is not None
            and opening.done()
            and (opening.cancelled() or opening.exception() is not None or opening.result().closed)
        ):
            opening = None
        if opening is None:
            opening = self._links[address] = asyncio.ensure_future(
                DataLink.open(address, self._credentials, self._id, self._settings, self._mine)
            )
        return await asyncio.shield(opening)

    async def close(self) -> None:
        links, self._links = self._links, {}
        for opening in links.values():
            opening.cancel()
            with contextlib.suppress(ParmlError, OSError, asyncio.CancelledError):
                await (await opening).close()


def unpack(heads: Sequence[bytes | None], counts: Sequence[int], buffers: Sequence[Buffer]) -> list[Serialized | None]:
    """The values of a message whose buffers travelled out of band; ``counts[i]`` of them belong to ``heads[i]``."""
    values: list[Serialized | None] = []
    start = 0
    for head, count in zip(heads, counts, strict=True):
        values.append(None if head is None else Serialized(head, list(buffers[start : start + count])))
        start += count
    return values

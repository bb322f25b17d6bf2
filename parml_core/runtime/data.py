"""A worker's side of the data plane: values are given to whoever asks for them, and kept for whoever puts them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from parml_core.comm.base import Comm
from parml_core.errors import ConnectionLost, ParmlError
from parml_core.kernel import events as ev
from parml_core.kernel.uploads import Asker, Turn, Uploads
from parml_core.protocol.frames import nbytes_of
from parml_core.protocol.messages import GetValues, PutDone, PutValues, ToData, Took, Values, decoder_of, encoder
from parml_core.protocol.serialize import failure_of
from parml_core.runtime import pieces
from parml_core.runtime.peer import unpack
from parml_core.store.disk import Disk, Unreadable
from parml_core.store.memory import MemoryStore
from parml_core.store.shared import borrow, this_place
from parml_core.typing import Address, Key

log = logging.getLogger("parml.worker")

_to_data = decoder_of(ToData)

_PICKLE_ASIDE_BYTES = 1024 * 1024  # larger values are pickled off the loop, which has heartbeats to send
_OVERDUE_S = 0.5  # between two looks at uploads that others wait for


class DataServer:
    """
    Serves the connections of one worker's data plane.

    Parameters
    ----------
    name : str
        Of the worker.
    store : MemoryStore
    sizes : mapping of key to nbytes
        What the kernel believes to be in the store.
    handle : callable
        Tells the kernel of an event.
    look_after, has_lent : callable
        Called with the bytes that came into the store, or moved into a segment.
    disk_for : callable
        Where a value of so many bytes is moved to rather than to be lent from memory, or None.
    """

    def __init__(
        self,
        name: str,
        store: MemoryStore,
        sizes: Mapping[Key, int],
        *,
        handle: Callable[[Any], None],
        look_after: Callable[[int], None],
        has_lent: Callable[[int], None],
        disk_for: Callable[[int], Disk | None],
    ) -> None:
        self._name = name
        self._store = store
        self._sizes = sizes
        self._handle = handle
        self._look_after = look_after
        self._has_lent = has_lent
        self._disk_for = disk_for
        self._connections = itertools.count(1)
        self._uploads = Uploads()
        self._waiting: dict[tuple[Key, Asker], asyncio.Future[Address]] = {}
        self._looks = False  # for uploads that are overdue

    async def serve(self, comm: Comm) -> None:
        """Give values, and keep values that are put, as long as the peer stays."""
        asker = Asker(comm.peer.address, "", next(self._connections))
        try:
            while True:
                header, buffers = await comm.read()
                for request in _to_data.decode(header):
                    if type(request) is GetValues:
                        asker = asker._replace(place=request.place)
                        values, out = await self._give(request, asker)
                        await _send(comm, request, values, out)
                        del out  # the values may be dropped before the peer says more
                    elif type(request) is Took:
                        for key in request.kept + request.others:
                            kept = key in request.kept
                            self._take(self._uploads.ended(key, asker, time.monotonic(), kept=kept))
                    else:
                        comm.write(encoder.encode([self._keep(request, buffers)]))
                await comm.drain()
        except ConnectionLost:
            comm.abort()
        finally:
            self._take(self._uploads.gone(asker, time.monotonic()))

    # --- giving --------------------------------------------------------------------------------------------------------

    async def _give(self, request: GetValues, asker: Asker) -> tuple[Values, list[Any]]:
        lends = request.place != "" and request.place == this_place()
        shared, later, elsewhere = [], [], ""
        if request.place and not lends and asker.address:
            shared = [key for key in request.keys if self._sizes.get(key, -1) >= self._uploads.large_bytes]
        if request.patient and shared:
            elsewhere = await self._turn(shared[0], asker)
        elif shared:
            later = [key for key in shared if not self._is_free(key, asker)]
            shared = [key for key in shared if key not in later]
        heads: list[bytes | None] = []
        counts: list[int] = []
        out: list[Any] = []
        failures = {}
        unreadable = []
        loans = {}
        sizes = self._sizes
        for key in request.keys:
            entry = None if elsewhere or key in later else self._store.entry(key)
            serialized, loan = None, None
            if entry is not None:
                pack = functools.partial(entry.lend, self._disk_for(sizes.get(key, 0))) if lends else entry.pack
                try:
                    if sizes.get(key, 0) > _PICKLE_ASIDE_BYTES:
                        serialized, loan = await asyncio.to_thread(pack)
                    else:
                        serialized, loan = pack()
                except ParmlError as error:
                    failures[key] = failure_of(error, key=key, worker=self._name)
                except Unreadable as why:
                    log.warning("the value of %s has to be made again, since it was damaged on disk: %s", key, why)
                    unreadable.append(key)
            if loan is not None:
                loans[key] = loan
                self._has_lent(sizes.get(key, 0))
            buffers = [] if serialized is None or loan is not None else serialized.buffers
            heads.append(None if serialized is None else serialized.head)
            counts.append(len(buffers))
            out.extend(buffers)
        if unreadable:
            self._handle(ev.ValuesUnreadable(tuple(unreadable)))
        return Values(request.request, heads, counts, failures, loans, shared, later, elsewhere), out

    def _is_free(self, key: Key, asker: Asker, *, patient: bool = False) -> bool:
        return self._uploads.ask(key, self._sizes[key], asker, time.monotonic(), patient=patient)

    async def _turn(self, key: Key, asker: Asker) -> Address:
        """Wait until a large value can be sent, or another worker has it, whose address is returned."""
        if self._is_free(key, asker, patient=True):
            return ""
        turn = self._waiting[key, asker] = asyncio.get_running_loop().create_future()
        if not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_later(_OVERDUE_S, self._look_for_overdue)
        try:
            return await turn
        finally:
            self._waiting.pop((key, asker), None)

    def _take(self, turns: Iterable[Turn]) -> None:
        for turn in turns:
            waiting = self._waiting.get((turn.key, turn.asker))
            if waiting is not None and not waiting.done():
                waiting.set_result(turn.elsewhere)

    def _look_for_overdue(self) -> None:
        self._take(self._uploads.overdue(time.monotonic()))
        self._looks = self._uploads.waited_for
        if self._looks:
            asyncio.get_running_loop().call_later(_OVERDUE_S, self._look_for_overdue)

    # --- keeping -------------------------------------------------------------------------------------------------------

    def _keep(self, request: PutValues, buffers: Sequence[memoryview]) -> PutDone:
        sizes, refused = [], []
        for key, value in zip(request.keys, unpack(request.heads, request.buffers, buffers), strict=True):
            assert value is not None
            kept, loan = value, request.loans.get(key)
            if loan is not None:
                try:
                    if request.place != this_place():
                        raise FileNotFoundError(f"lent in {request.place}")
                    kept = borrow(value.head, loan, keep=True)
                except OSError:
                    refused.append(key)
                    continue
            self._store.put_serialized(key, kept)
            sizes.append((key, kept.nbytes))
        self._look_after(sum(nbytes for _, nbytes in sizes))
        self._handle(ev.ValuesPut(tuple(sizes)))
        return PutDone(request.request, refused)


async def _send(comm: Comm, request: GetValues, values: Values, buffers: list[Any]) -> None:
    """Buffers that are worth it go in compressed pieces."""
    chosen: dict[int, str] = {}
    if request.codecs and buffers:
        chosen = await asyncio.to_thread(pieces.to_compress, buffers, request.codecs, request.bytes_per_s)
    if chosen:
        values = msgspec.structs.replace(values, packed={i: nbytes_of(buffers[i]) for i in chosen})
    comm.write(encoder.encode([values]), [buffer for i, buffer in enumerate(buffers) if i not in chosen])
    for i, codec in chosen.items():
        await pieces.send(comm, request.request, codec, buffers[i])

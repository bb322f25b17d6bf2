"""How much memory a worker uses, and what it does when that becomes too much: it moves values to disk, and starts less."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Callable, Sequence

from parml_core.config import WorkerSettings
from parml_core.errors import SpillError
from parml_core.kernel.events import MemoryPressure
from parml_core.protocol.messages import Failure
from parml_core.protocol.serialize import failure_of
from parml_core.runtime.machine import file_system_of, temporary_folder
from parml_core.store.disk import Disk
from parml_core.store.memory import Entry, MemoryStore
from parml_core.store.pool import pool
from parml_core.store.shared import adopt_orphans, owned_bytes

log = logging.getLogger(__name__)

LOOK_S = 0.1
ADOPT_S = 0.3
FULL_S = 5.0  # after so long a disk that was full is tried again
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def used_bytes() -> int:
    """
    Bytes of memory that are this process's own: private pages, and the segments that it has made or is left with.

    Nearly as the nanny counts them (`runtime.forking.own_memory_of`). What is mapped from disk does not count: the system takes
    it away where it needs room.

    Examples
    --------
    >>> used_bytes() > 2**20
    True
    """
    with open("/proc/self/statm", "rb") as file:
        _, resident, shared, *_ = file.read().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES + owned_bytes()


class MemoryWatch:
    """
    Looks at the memory of a worker ten times a second.

    Parameters
    ----------
    limit_bytes : int
        Of the worker.
    settings : WorkerSettings
    store : MemoryStore
    folder : str
        Where values go; empty: a folder for temporary files.
    worker : str
        Its name, for error messages.
    tell : callable
        Gets a MemoryPressure when it has changed.
    """

    def __init__(
        self,
        limit_bytes: int,
        settings: WorkerSettings,
        store: MemoryStore,
        folder: str,
        worker: str,
        tell: Callable[[MemoryPressure], None],
    ) -> None:
        self._target = settings.memory_target * limit_bytes
        self._spill = settings.memory_spill * limit_bytes
        self._pause = settings.memory_pause * limit_bytes
        self._store = store
        self._disk = Disk(folder or temporary_folder())
        self._warned = False
        self._tell = tell
        self._told = MemoryPressure(False)
        self._worker = worker
        self._full: Failure | None = None
        self._not_before_s = 0.0  # nothing can be moved until then,
        self._stuck_bytes = 0  # unless much has come to what was left
        self._due = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        adopted_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), LOOK_S)
            self._due.clear()
            if loop.time() - adopted_s > ADOPT_S:
                adopted_s = loop.time()
                adopt_orphans()
            self.look()
            if self._must_move(used_bytes()):
                await asyncio.to_thread(self._move, self._store.least_used())
                if (left := used_bytes()) > self._spill:  # it is in use, or is no value: nothing waits for it to be moved
                    self._not_before_s = loop.time() + (LOOK_S if self._full is None else FULL_S)
                    self._stuck_bytes = left
                self.look()

    def close(self) -> None:
        """A move that is under way does not delay the end of the worker."""
        self._ended = True

    def disk_to_lend_from(self) -> Disk | None:
        """Where a value should go before it is lent: a copy in shared memory would come on top of what is too much already."""
        return self._disk if used_bytes() > self._spill and self._full is None else None

    def has_room(self, nbytes: int) -> bool:
        """Whether so much more would not have to be moved to disk. Any thread."""
        return used_bytes() + nbytes <= self._target

    def look(self) -> None:
        """Tell what is so now. To be called, too, whenever much has come into the store, before anything more is started."""
        used = used_bytes()
        if used > self._spill:  # some of it may be free, and only not be given back
            _give_back()
            used = used_bytes()
        if used <= self._spill:
            self._full, self._not_before_s = None, 0.0  # what could not be moved is gone
        moving = self._must_move(used)
        if moving:
            self._due.set()
        # Paused above the upper level until below the lower one, so that it does not flutter.
        paused = used > (self._spill if self._told.paused else self._pause)
        pressure = MemoryPressure(True, moving, self._full) if paused else MemoryPressure(False)
        if pressure != self._told:
            self._told = pressure
            self._tell(pressure)

    def _must_move(self, used: int) -> bool:
        if used <= self._spill:
            return False
        more = self._full is None and used - self._stuck_bytes > (self._pause - self._spill) / 2
        return more or asyncio.get_running_loop().time() >= self._not_before_s

    def _move(self, entries: Sequence[Entry]) -> None:
        """Values to disk, until less than the target is used. On a thread of its own."""
        self._full = None
        wanted, freed = used_bytes() - self._target, 0
        for entry in entries:
            if self._ended:
                return
            if freed >= wanted:  # by what they say of themselves
                _give_back()
                wanted, freed = used_bytes() - self._target, 0
                if wanted <= 0:
                    return
            try:
                freed += entry.spill(self._disk)
            except SpillError as error:
                log.warning("%s", error)
                self._full = failure_of(error, key="", worker=self._worker)
                break
        if freed:
            self._warn_of_memory()
            _give_back()

    def _warn_of_memory(self) -> None:
        """A folder that is memory itself makes it no less."""
        kind = "" if self._warned else file_system_of(self._disk.folder)
        self._warned = True
        if kind in ("tmpfs", "ramfs"):
            log.warning(
                "worker %s moves values from memory to %s: expected a folder on a disk, found memory (%s); choose another one "
                "(LocalCluster(spill_directory=...), parml worker --spill-directory)",
                self._worker,
                self._disk.folder,
                kind,
            )


def keep_freed(nbytes: int) -> None:
    """
    Let malloc use large blocks again, which it would give back to the system one by one, to get cold memory for the next.

    To be called before there are threads. All share one heap then, for only that one grows to any size. What is free at its end
    beyond `nbytes` goes back at once, and so do blocks that are larger; the rest when `give_back_freed` is called.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, min(nbytes, 2**31 - 1))
        mallopt(_M_ARENA_MAX, 1)


def give_back_freed() -> None:
    """Give the system what was freed and malloc keeps."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _give_back() -> None:
    pool.trim(0.0)
    give_back_freed()


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None)

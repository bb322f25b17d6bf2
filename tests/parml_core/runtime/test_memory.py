"""What a worker does about its memory, by levels, without a worker."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parml_core.config import WorkerSettings
from parml_core.kernel.events import MemoryPressure
from parml_core.runtime import memory
from parml_core.runtime.machine import file_system_of, temporary_folder
from parml_core.runtime.memory import MemoryWatch
from parml_core.store.memory import MemoryStore

LIMIT = 1000


class Watched:
    """A watch that is shown `used` bytes and notes what it tells."""

    def __init__(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = 0
        self.told: list[MemoryPressure] = []
        self.store = MemoryStore()
        monkeypatch.setattr(memory, "used_bytes", lambda: self.used)
        self.watch = MemoryWatch(LIMIT, WorkerSettings(), self.store, folder, "w", self.told.append)

    def look(self, used: int) -> list[MemoryPressure]:
        async def look() -> None:
            self.watch.look()

        self.used, self.told[:] = used, []
        asyncio.run(look())
        return list(self.told)

    def until(self, *steps: tuple[int, Any]) -> None:
        """Let it run, using so many bytes until it has told what satisfies a condition, one step after the other."""

        async def run() -> None:
            running = asyncio.ensure_future(self.watch.run())
            async with asyncio.timeout(20):
                for self.used, over in steps:
                    while not over(self.told):
                        assert not running.done(), running.exception()
                        await asyncio.sleep(0)
            running.cancel()

        asyncio.run(run())


def test_worker_is_paused_above_the_upper_level_until_below_the_lower_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it does not flutter around one of them."""
    watched = Watched(str(tmp_path), monkeypatch)
    assert watched.look(790) == []
    assert watched.look(810) == [MemoryPressure(True, moving=True)]
    assert watched.look(790) == [] == watched.look(710)
    assert watched.look(690) == [MemoryPressure(False)]
    assert watched.look(790) == []


def test_pause_goes_on_where_nothing_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use stays; the worker hears that waiting is of no use, and that it has memory again when it has."""
    watched = Watched(str(tmp_path), monkeypatch)
    watched.until(
        (900, lambda told: MemoryPressure(True) in told),
        (100, lambda told: told[-1] == MemoryPressure(False)),
    )
    assert watched.told[0] == MemoryPressure(True, moving=True)


def test_values_go_to_disk_the_least_used_first_until_the_target_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is freed is measured, not taken on trust."""
    watched = Watched(str(tmp_path), monkeypatch)
    for name in "abcd":
        watched.store.put(name, np.zeros(100_000), 800_000)
    watched.store.entry("a")
    entries = watched.store.least_used()
    monkeypatch.setattr(
        memory, "used_bytes", lambda: 600 + 100 * sum(entry._on_disk is None for entry in entries) - 200
    )  # two have to go
    watched.watch._move(entries)
    assert [entry._on_disk is not None for entry in entries] == [True, True, False, False]
    assert entries[3] is watched.store.entry("a")


def test_disk_that_is_full_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what runs that would start fail with."""
    watched = Watched("/nowhere", monkeypatch)
    watched.store.put("a", np.zeros(100_000), 800_000)
    watched.until((900, lambda told: any(pressure.refusal for pressure in told)))
    refusal = watched.told[-1].refusal
    assert refusal is not None
    assert (refusal.kind, refusal.worker) == ("SpillError", "w") and "/nowhere" in refusal.text


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_folder_that_is_memory_is_warned_of_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When values go there, not before."""
    monkeypatch.setattr(memory, "file_system_of", lambda _: kind)
    watched = Watched(str(tmp_path), monkeypatch)
    watched.used = 900
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            watched.store.put(name, np.zeros(100_000), 800_000)
            watched.watch._move(watched.store.least_used())
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (kind == "tmpfs") and all(f"{tmp_path}: expected a folder on a disk" in text for text in said)


def test_file_systems_are_told_apart() -> None:
    """By what the kernel says of the mount."""
    assert file_system_of("/dev/shm") in ("tmpfs", "")
    assert file_system_of("/no such folder") == ""
    assert file_system_of(temporary_folder()) not in ("proc", "sysfs")


def test_large_blocks_are_used_again_warm_and_given_back_when_asked() -> None:
    """The kernel counts the pages that it had to bring; the first array needs new ones, the next one of its size none."""
    program = """
        import resource, threading, psutil
        import numpy as np
        from parml_core.runtime.memory import give_back_freed, keep_freed

        def fill():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.full(2**22, 1.0)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

        found, process = [], psutil.Process()
        keep_freed(2**26)
        at_first = process.memory_info().rss
        for _ in range(2):
            thread = threading.Thread(target=fill)
            thread.start()
            thread.join()
        kept = process.memory_info().rss - at_first
        give_back_freed()
        left = process.memory_info().rss - at_first
        np.full(2**24, 1.0)
        print(*found, kept, left, process.memory_info().rss - at_first)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    first, second, kept, left, after_a_larger_one = map(int, done.stdout.split())
    assert second < first / 2
    assert kept > 0.9 * 2**25 > 2 * left
    assert after_a_larger_one < 2**26

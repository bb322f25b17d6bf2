"""Values on disk come back as they were, or not at all; the store gives up what was used the longest ago."""

from __future__ import annotations

import gc
import os
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml_core.errors import SpillError
from parml_core.protocol.serialize import Serialized, dumps, loads
from parml_core.store.disk import FILE_BYTES, Disk, OnDisk, Unreadable, borrow_from_disk
from parml_core.store.memory import SPILLED_BYTES, Entry, MemoryStore
from parml_core.store.pool import START, pool
from parml_core.store.shared import adopt_orphans, borrow, owned_bytes

LARGE = np.arange(SPILLED_BYTES, dtype="f8")


def file_of(written: OnDisk) -> str:
    """A path to the file, which has no name."""
    return f"/proc/self/fd/{written._file.fd}"


@given(st.lists(st.binary(max_size=300), max_size=5), st.binary(max_size=50))
def test_value_comes_back_as_it_was(buffers: list[bytes], head: bytes) -> None:
    """Head and buffers of any lengths, none included."""
    read = Disk("/tmp").write(Serialized(head, list(buffers))).read()
    assert read.head == head and [bytes(buffer) for buffer in read.buffers] == buffers


@pytest.mark.parametrize(
    "value",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
        pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": pd.array([1, None], "Int64"), "c": ["é", None]}),
        {"model": [1, "text", b"bytes"]},
    ],
    ids=["fortran", "structured", "frame", "objects"],
)
def test_objects_come_back_equal(value: Any, tmp_path: Path) -> None:
    """Pickled as everywhere."""
    read = Disk(str(tmp_path)).write(dumps(value)).read()
    found = loads(read.head, read.buffers)
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(found, value)
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(found, value, strict=True)
        assert found.flags.f_contiguous == value.flags.f_contiguous
    else:
        assert found == value


def test_file_has_no_name_and_goes_with_its_value(tmp_path: Path) -> None:
    """Whatever ends the process, nothing is left to remove."""
    before = len(os.listdir("/proc/self/fd"))
    written = Disk(str(tmp_path)).write(dumps(LARGE))
    assert os.listdir(tmp_path) == [] and len(os.listdir("/proc/self/fd")) == before + 1
    read = written.read()
    array = loads(read.head, read.buffers)
    del written, read
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    np.testing.assert_array_equal(array, LARGE)  # what was read stays as long as it is used


@pytest.mark.parametrize("damage", ["cut", "flip in the head", "flip in a buffer"])
def test_damaged_file_is_never_a_value(damage: str, tmp_path: Path) -> None:
    """A bit of it, or its end."""
    written = Disk(str(tmp_path)).write(dumps(LARGE))
    with open(file_of(written), "r+b") as file:
        if damage == "cut":
            file.truncate(written.nbytes - 1)
        else:
            file.seek(START + 5 if "head" in damage else written.nbytes - 3)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 8]))
    with pytest.raises(Unreadable, match="expected"):
        written.read()


def test_small_values_share_files_and_a_file_goes_with_its_last_value(tmp_path: Path) -> None:
    """So that many of them leave descriptors for the rest."""
    disk, before = Disk(str(tmp_path)), len(os.listdir("/proc/self/fd"))
    numbers = range(5 * FILE_BYTES // LARGE.nbytes)
    written = [disk.write(dumps(LARGE + i)) for i in numbers]
    n_files = len(os.listdir("/proc/self/fd")) - before
    assert n_files <= 6 < len(written)
    for i in (0, 1, len(written) // 2, len(written) - 1):
        read = written[i].read()
        np.testing.assert_array_equal(loads(read.head, read.buffers), LARGE + i)
    large = disk.write(dumps(np.zeros(FILE_BYTES)))
    assert len(os.listdir("/proc/self/fd")) - before == n_files + 1
    del written[1:], large, read
    assert len(os.listdir("/proc/self/fd")) - before == 1
    written.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_that_are_used_up_are_named_and_not_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room on the disk would be of no help."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    disk = Disk(str(tmp_path))
    kept = [disk.write(dumps(LARGE)), disk.write(dumps(LARGE))]
    large = [disk.write(dumps(np.zeros(FILE_BYTES)))]
    with pytest.raises(SpillError, match=r"found 2 files of values open there already, and no more allowed.*ulimit -n"):
        large.append(disk.write(dumps(np.zeros(FILE_BYTES))))
    assert len(kept) == 2


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what is wrong with it; and the value is where it was."""
    entry = Entry(LARGE.copy())
    with pytest.raises(SpillError, match=f"{tmp_path}/none, found no way to it"):
        entry.spill(Disk(str(tmp_path / "none")))
    np.testing.assert_array_equal(entry.value(), LARGE)


# --- in the store ------------------------------------------------------------------------------------------------------


def test_value_that_a_task_uses_stays_in_memory(tmp_path: Path) -> None:
    """To write it would free nothing. Without the task it goes, and comes back; the second time without being written."""
    entry, disk = Entry(LARGE.copy()), Disk(str(tmp_path))
    used = entry.value()
    assert entry.spill(disk) == 0
    del used
    assert entry.spill(disk) > LARGE.nbytes
    np.testing.assert_array_equal(entry.value(), LARGE)
    assert not entry.value().flags.writeable
    on_disk = entry._on_disk
    assert entry.spill(disk) > LARGE.nbytes and entry._on_disk is on_disk


def test_value_in_shared_memory_goes_to_disk_and_can_be_lent_again(tmp_path: Path) -> None:
    """Its segment is let go of; what is lent then is the file, read by whoever borrows it, who can lend it in turn."""
    entry, disk = Entry(LARGE.copy()), Disk(str(tmp_path))
    serialized, loan = entry.lend()
    assert loan is not None
    del serialized
    assert entry.spill(disk) > LARGE.nbytes
    _, loan = entry.lend()
    assert loan is not None
    borrowed = Entry(serialized=borrow_from_disk(loan, keep=True))
    del entry
    assert borrowed.spill(disk) > LARGE.nbytes  # without being written
    _, loan = borrowed.lend()
    assert loan is not None
    again = borrow_from_disk(loan, keep=False)
    del borrowed
    np.testing.assert_array_equal(loads(again.head, again.buffers), LARGE)
    with pytest.raises(OSError, match=r"No such file|another file"):
        borrow_from_disk(loan, keep=False)


def test_borrowed_segment_counts_and_can_be_spilled_once_its_owner_has_let_go_of_it(tmp_path: Path) -> None:
    """Before, its memory would not be freed."""
    pool.trim(0.0)
    disk, before, lender = Disk(str(tmp_path)), owned_bytes(), Entry(LARGE.copy())
    serialized, loan = lender.lend()
    assert loan is not None
    borrower = Entry(serialized=borrow(serialized.head, loan, keep=True))
    adopt_orphans()
    assert owned_bytes() - before == START + LARGE.nbytes and borrower.spill(disk) == 0
    del lender, serialized
    pool.trim(0.0)
    assert owned_bytes() == before
    adopt_orphans()
    assert owned_bytes() - before == LARGE.nbytes and borrower.spill(disk) > LARGE.nbytes
    assert owned_bytes() == before
    np.testing.assert_array_equal(borrower.value(), LARGE)


def test_damaged_file_that_is_lent_is_no_value_either(tmp_path: Path) -> None:
    """The borrower looks, not the lender."""
    entry, disk = Entry(LARGE.copy()), Disk(str(tmp_path))
    entry.spill(disk)
    _, loan = entry.lend()
    assert loan is not None
    with open(f"/proc/self/fd/{loan.fd}", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(Unreadable, match="expected"):
        borrow_from_disk(loan, keep=True)
    with pytest.raises(Unreadable, match="expected"):
        entry.value()


def test_value_that_cannot_be_pickled_stays(tmp_path: Path) -> None:
    """It can be used here all the same."""
    value = {"lambda": lambda: 0, "lock": threading.Lock()}
    entry = Entry(value)
    del value
    assert entry.spill(Disk(str(tmp_path))) == 0
    assert entry.value()["lambda"]() == 0


def test_least_used_is_first_and_small_values_are_left_alone() -> None:
    """To be asked for is to be used."""
    store = MemoryStore()
    for name in "abc":
        store.put(name, LARGE.copy(), LARGE.nbytes)
    store.put("small", 1, 28)
    store.put_serialized("bytes", dumps(LARGE))
    store.entry("a")
    store.drop(["b"])
    assert store.least_used() == [store._entries[name] for name in ("c", "bytes", "a")]


@given(st.lists(st.tuples(st.sampled_from("pgds"), st.integers(0, 3)), max_size=30))
def test_store_that_spills_is_a_dict(steps: list[tuple[str, int]]) -> None:
    """Whatever is put, asked for, dropped and spilled in whatever order, what is there is what a dict would have."""
    store, model = MemoryStore(), {}  # type: ignore[var-annotated]
    for number, (step, key) in enumerate(steps):
        name = str(key)
        if step == "p":
            model[name] = np.full(SPILLED_BYTES // 8, number)
            store.put(name, model[name].copy(), SPILLED_BYTES)
        elif step == "d":
            model.pop(name, None)
            store.drop([name])
        elif step == "s":
            for entry in store.least_used()[: key + 1]:
                entry.spill(Disk("/tmp"))
        entry_ = store.entry(name)
        assert (entry_ is None) == (name not in model)
        if entry_ is not None:
            np.testing.assert_array_equal(entry_.value(), model[name])

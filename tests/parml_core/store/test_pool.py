"""Files in memory that are used again: never while anybody can read them, and not kept for long."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.store import pool as pools
from parml_core.store.pool import Pool, pool
from parml_core.store.shared import Segment, this_place

pytestmark = pytest.mark.skipif(not this_place(), reason="this system has no sealed memory files")

BIG = 100_000
BOUND_S = 20.0


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """Files are kept as where somebody trims the pool."""
    gc.collect()
    pool.trim(0.0)
    yield
    gc.collect()
    pool.trim(0.0)


def segment_of(value: float) -> Segment:
    return Segment.of([np.full(BIG, value).data.cast("B")])


def first_of(segment: Segment) -> float:
    return float(np.frombuffer(segment.buffers[0])[0])


def test_file_is_used_again_by_a_value_of_about_its_size() -> None:
    """Its content is the new value's, also where that is shorter."""
    inode = segment_of(1.0).loan().inode
    shorter = Segment.of([np.full(BIG - 5, 2.0).data.cast("B"), b"abc"])
    assert shorter.loan().inode == inode
    assert (np.frombuffer(shorter.buffers[0]) == 2.0).all()
    assert bytes(shorter.buffers[1]) == b"abc"
    assert Segment.of([bytes(16 * BIG)]).loan().inode != inode


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("private", [True, False])
def test_file_is_not_used_again_while_it_is_borrowed(keep: bool, private: bool) -> None:
    """Also where the reader has no descriptor of it, and of the whole mapping only one array."""
    segment = segment_of(1.0)
    inode = segment.loan().inode
    array = np.frombuffer(Segment.borrow(segment.loan(), keep=keep, private=private).buffers[0])
    del segment
    assert segment_of(2.0).loan().inode != inode
    assert (array == 1.0).all()
    del array
    again = [segment_of(3.0), segment_of(4.0)]
    assert inode in {segment.loan().inode for segment in again}


def test_file_is_not_used_again_while_its_maker_reads_it() -> None:
    """A task may keep an array that lies in a value which the worker has dropped."""
    segment = segment_of(1.0)
    array, inode = np.frombuffer(segment.buffers[0]), segment.loan().inode
    del segment
    other = segment_of(2.0)
    assert other.loan().inode != inode
    assert (array == 1.0).all()
    del array, other
    again = [segment_of(3.0), segment_of(4.0)]
    assert inode in {segment.loan().inode for segment in again}


READER = """
import sys
from parml_core.protocol.messages import Loan
from parml_core.store.shared import Segment
import msgspec
segment = Segment.borrow(msgspec.json.decode(sys.argv[1], type=Loan), keep=False)
print("mapped", flush=True)
sys.stdin.readline()
print(set(memoryview(segment.buffers[0]).cast("d")), flush=True)
sys.stdin.readline()
"""


def test_file_is_used_again_when_a_reader_was_killed() -> None:
    """The kernel knows that it is gone; nobody has to tell."""
    import msgspec

    segment = segment_of(1.0)
    loan = segment.loan()
    command = [sys.executable, "-c", READER, msgspec.json.encode(loan).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert reader.stdout.readline() == "mapped\n"
        pool.trim()  # lately, however long the reader took to start
        del segment
        assert segment_of(2.0).loan().inode != loan.inode
        print(file=reader.stdin, flush=True)
        assert reader.stdout.readline() == "{1.0}\n"
        reader.kill()
    pool.trim(60.0)
    again = [segment_of(3.0), segment_of(4.0)]
    assert loan.inode in {segment.loan().inode for segment in again}


def test_file_is_not_used_again_while_a_forked_process_reads_it() -> None:
    """A fork has the mappings of its parent without having opened anything."""
    segment = segment_of(1.0)
    array, inode = np.frombuffer(segment.buffers[0]), segment.loan().inode
    parent_end, child_end = os.pipe()
    child_reads, parent_writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(child_reads, 1)
        os.write(child_end, b"1" if (array == 1.0).all() else b"0")
        os._exit(0)
    del segment, array
    assert segment_of(2.0).loan().inode != inode
    os.write(parent_writes, b"x")
    assert os.read(parent_end, 1) == b"1"
    os.waitpid(pid, 0)
    for fd in (parent_end, child_end, child_reads, parent_writes):
        os.close(fd)


def test_fork_does_not_use_its_parents_files() -> None:
    """Neither those that were idle, nor those whose value it drops."""
    idle = segment_of(1.0).loan().inode
    segment = Segment.of([bytes(9 * BIG)])
    pid = os.fork()
    if pid == 0:
        used = segment.loan().inode
        del segment
        mine = {segment_of(2.0).loan().inode, Segment.of([bytes(9 * BIG)]).loan().inode}
        os._exit(0 if not mine & {idle, used} else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert segment_of(3.0).loan().inode == idle
    assert bytes(segment.buffers[0][:3]) == bytes(3)


def test_loan_of_an_earlier_value_is_void() -> None:
    """Who comes too late does not get the value that is there now."""
    segment = segment_of(1.0)
    loan = segment.loan()
    del segment
    again = segment_of(2.0)
    assert (again.loan().inode, again.loan().fd) == (loan.inode, loan.fd)
    with pytest.raises(FileNotFoundError, match="another one's"):
        Segment.borrow(loan, keep=False)
    assert first_of(Segment.borrow(again.loan(), keep=False)) == 2.0


def test_pool_keeps_no_more_than_its_limit_and_nothing_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; what was of no use for a while goes with the next look at it."""
    now_s = 0.0
    monkeypatch.setattr(pools.time, "monotonic", lambda: now_s)
    few = Pool(3 * 2**20)
    assert few.take(2**20) is not None
    few.give(few.take(2**20))  # nobody has trimmed it yet: there may be nobody who ever will
    assert few.idle_bytes() == 0
    few.trim()
    files = [few.take(2**20) for _ in range(5)]
    for file in files:
        file.fill([b"abc"], [64], 67)
    last = files[-1].inode
    while files:
        few.give(files.pop(0))
    assert few.idle_bytes() == 3 * 2**20
    now_s = pools.IDLE_S - 0.1
    few.trim()
    newest = few.take(2**20)
    assert newest.inode == last
    few.give(newest)
    now_s = pools.IDLE_S + 0.1
    few.trim()
    assert few.idle_bytes() == 2**20
    few.trim(0.0)
    assert few.idle_bytes() == 0


def test_value_that_a_client_has_is_never_overwritten() -> None:
    """The memory of a released value is used again, but not as long as anybody has it mapped."""
    with LocalCluster(2, 1, dashboard_port=None) as cluster, Client(cluster) as client:
        kept = kept_of(client)
    assert all((scattered == i).all() and (result == i + 1).all() for i, scattered, result in kept)


def kept_of(client: Client) -> list[tuple[int, np.ndarray, np.ndarray]]:
    kept = []
    for i in range(12):
        (future,) = client.scatter([np.full(BIG, float(i))])
        result = client.submit(np.add, future, 1.0).result(BOUND_S)
        kept.append((i, future.result(BOUND_S), result))
        del future, result
        if i % 3 == 0:
            del kept[: len(kept) // 2]
    return kept

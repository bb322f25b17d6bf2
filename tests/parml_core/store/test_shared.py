"""Values in memory that several processes map: unit by unit, then between real workers and ranks."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.graph import Hints
from parml_core.protocol.messages import Loan
from parml_core.protocol.serialize import loads
from parml_core.runtime.forking import own_memory_of
from parml_core.store.memory import Entry
from parml_core.store.pool import Pool, pool
from parml_core.store.shared import Segment, this_place

pytestmark = pytest.mark.skipif(not this_place(), reason="this system has no sealed memory files")

BOUND_S = 20.0
BIG = 100_000


@pytest.fixture(autouse=True)
def unpooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process nothing is kept for later; `test_pool` has that."""
    pool.trim(0.0)
    monkeypatch.setattr("parml_core.store.shared.pool", Pool(0))


def give_back() -> None:
    """What a worker keeps for later."""
    pool.trim(0.0)


def open_segments(pid: int | None = None) -> int:
    """How many segments a process has open."""
    folder, found = Path(f"/proc/{pid or os.getpid()}/fd"), 0
    for fd in folder.iterdir():
        try:
            found += os.readlink(fd).startswith("/memfd:parml")
        except OSError:
            continue  # closed meanwhile
    return found


def mapped_segments() -> int:
    """Bytes of segments that this process maps."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:parml" in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def test_segment_holds_any_buffers_aligned_and_read_only() -> None:
    """Also empty ones, and none at all."""
    given = [b"abc", b"", np.arange(1000.0).data.cast("B"), bytearray(65)]
    segment = Segment.of(given)
    borrowed = Segment.borrow(segment.loan(), keep=False)
    del segment  # what was mapped needs the owner no more
    assert [bytes(buffer) for buffer in borrowed.buffers] == [bytes(buffer) for buffer in given]
    assert all(buffer.readonly for buffer in borrowed.buffers)
    assert np.frombuffer(borrowed.buffers[2]).ctypes.data % 64 == 0
    assert Segment.of([]).buffers == []


def test_segment_is_sealed() -> None:
    """Nobody can write to what others have mapped, or cut it short, which would kill them."""
    segment = Segment.of([bytes(5000)])
    fd = os.open(f"/proc/{os.getpid()}/fd/{segment.loan().fd}", os.O_RDWR)
    try:
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 10), lambda: mmap.mmap(fd, 5000)):
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno in (errno.EPERM, errno.EACCES)
    finally:
        os.close(fd)


def test_segment_that_is_gone_is_never_taken_for_another_file() -> None:
    """A descriptor is used again for something else as soon as it is closed."""
    segment = Segment.of([b"old" * 100])
    loan = segment.loan()
    del segment
    with pytest.raises(FileNotFoundError):
        Segment.borrow(loan, keep=False)
    other = Segment.of([b"new" * 100])
    assert other.loan().fd == loan.fd
    with pytest.raises(FileNotFoundError, match="another file"):
        Segment.borrow(loan, keep=False)
    with pytest.raises(OSError):
        Segment.borrow(Loan(1 << 30, 0, 0, [1], 1), keep=False)


def test_segment_whose_descriptor_is_a_fifo_by_now_is_not_waited_for(tmp_path: Path) -> None:
    """Opening one that nobody writes to would never return."""
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(FileNotFoundError, match="another file"):
            Segment.borrow(Loan(os.getpid(), reading, 0, [1], 1), keep=False)
    finally:
        os.close(reading)


def test_segments_are_closed_with_the_last_who_has_them() -> None:
    """Descriptors with their objects, memory with the last array that lies in it."""
    gc.collect()
    before = open_segments(), mapped_segments()
    segment = Segment.of([np.arange(float(BIG)).data.cast("B")])
    borrowed = Segment.borrow(segment.loan(), keep=True)
    array = np.frombuffer(borrowed.buffers[0])
    assert open_segments() == before[0] + 2
    del segment, borrowed
    assert open_segments() == before[0]
    assert array.sum() == sum(range(BIG))
    del array
    gc.collect()
    assert (open_segments(), mapped_segments()) == before


def test_entry_that_is_lent_moves_into_the_segment() -> None:
    """The worker does not keep a copy of its own, and gives all readers the same segment."""
    frame = pd.DataFrame({"a": np.arange(float(BIG)), "b": 1})
    entry = Entry(frame)
    serialized, loan = entry.lend()
    assert loan is not None
    assert entry.lend()[1] == loan
    assert loads(serialized.head, Segment.borrow(loan, keep=False).buffers).equals(frame)
    assert entry.value().equals(frame)
    assert entry.value()["a"].to_numpy().base is not None
    assert not entry.value()["a"].to_numpy().flags.writeable
    assert Entry(np.arange(10)).lend()[1] is None  # too small to be worth it
    assert Entry([str(i) for i in range(BIG)]).lend()[1] is None  # cannot be used where it lies


def test_entry_without_a_descriptor_left_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be shared is bytes like before."""

    def refuse(*args: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse)
    serialized, loan = Entry(np.arange(BIG)).lend()
    assert loan is None
    assert loads(serialized.head, serialized.buffers).sum() == sum(range(BIG))


def test_memory_of_a_process_has_the_segments_that_it_made_and_not_those_of_others() -> None:
    """A worker does not get round its memory limit by lending what it holds; a reader is not charged for the same pages."""
    mine = 50 * 2**20
    before = own_memory_of(os.getpid())
    segment = Segment.of([memoryview(bytearray(2**20))] * 50)
    assert own_memory_of(os.getpid()) - before == pytest.approx(mine, rel=0.1)
    borrowed = Segment.borrow(segment.loan(), keep=True)
    assert sum(bytes(buffer[:1])[0] for buffer in borrowed.buffers) == 0  # touched
    del segment
    assert own_memory_of(os.getpid()) - before < mine / 10
    assert borrowed.nbytes == mine


# --- between processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def client() -> Iterator[Client]:
    with LocalCluster(2, 1, dashboard_port=None) as cluster, Client(cluster) as client:
        yield client


def address_of(array: np.ndarray) -> tuple[int, str]:
    """The process, and the file in which the memory of an array lies."""
    start = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= start < high:
            return os.getpid(), " ".join(line.split()[4:])
    raise AssertionError("the array lies nowhere")


def rank_total(rank: int, arrays: list[np.ndarray]) -> tuple[float, str]:
    return float(sum(array.sum() for array in arrays)), address_of(arrays[0])[1]


def test_workers_of_a_host_map_a_value_instead_of_copying_it(client: Client) -> None:
    """Reader and owner have the array in the same file in memory; the client gets an array of its own."""
    owner, reader = client.workers()
    array = client.submit(np.arange, float(BIG), hints=Hints(where=(owner.name,)))
    pid, there = client.submit(address_of, array, hints=Hints(where=(reader.name,))).result(BOUND_S)
    other_pid, here = client.submit(address_of, array, hints=Hints(where=(owner.name,))).result(BOUND_S)
    assert pid != other_pid
    assert "memfd:parml" in here
    assert here == there
    result = array.result(BOUND_S)
    assert result.sum() == sum(range(BIG))
    result[0] = 1.0  # nobody else's


def wait_for_death(pid: int) -> None:
    """Until the process of a worker is gone, and with it all that it had mapped."""
    pause = threading.Event()
    for _ in range(2000):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return
        except OSError:
            return
        pause.wait(0.005)
    raise AssertionError(f"process {pid} lives")


def test_client_maps_a_result_and_may_write_to_it(client: Client) -> None:
    """It is not copied, what is written is seen by nobody else, and it stays what it is when its owner is killed."""
    (owner, _) = client.workers()
    future = client.submit(np.arange, float(BIG), hints=Hints(where=(owner.name,)))
    first, second = client.gather([future])[0], future.result(BOUND_S)
    assert "memfd:parml" in address_of(first)[1]
    first[:10] = -1.0
    assert second[:10].tolist() == list(range(10))
    assert client.submit(np.sum, future).result(BOUND_S) == sum(range(BIG))
    del future
    os.kill(owner.pid, signal.SIGKILL)
    wait_for_death(owner.pid)
    assert second.sum() == sum(range(BIG))
    assert first.sum() == sum(range(10, BIG)) - 10
    gc.collect()
    del first, second
    assert mapped_segments() == 0


def test_rank_maps_its_inputs(client: Client) -> None:
    """A rank of a gang has no copy of the partitions of its host."""
    arrays = client.map(np.full, [BIG] * 4, [float(x) for x in range(4)])
    ids = [worker.id for worker in client.workers()]
    results = client.gather(client.gang(rank_total, [(0, arrays[:3]), (1, arrays[3:])], where=[(id,) for id in ids]))
    assert [total for total, _ in results] == [3.0 * BIG, 3.0 * BIG]
    assert all("memfd:parml" in place for _, place in results)


def test_value_outlives_the_worker_that_made_it(client: Client) -> None:
    """Whoever has mapped it keeps it; nothing is made again for a reader that has it."""
    owner, reader = client.workers()
    array = client.submit(np.arange, float(BIG), hints=Hints(where=(owner.id, reader.id), retries=3))
    client.wait([array], timeout_s=BOUND_S)
    (holder,) = client.locate([array])[0]
    other = reader if holder == owner.id else owner
    assert client.submit(np.sum, array, hints=Hints(where=(other.name,))).result(BOUND_S) == sum(range(BIG))
    os.kill(next(worker.pid for worker in client.workers() if worker.id == holder), signal.SIGKILL)
    again = client.submit(np.max, array, hints=Hints(where=(other.name,)))
    assert again.result(BOUND_S) == BIG - 1


def test_released_values_leave_no_segment_open(client: Client) -> None:
    """A worker's descriptors go with its values."""
    arrays = client.map(np.full, [BIG] * 6, [float(x) for x in range(6)])
    totals = [client.submit(np.sum, array, hints=Hints(where=(w.name,))) for array in arrays for w in client.workers()]
    client.gather(totals, timeout_s=BOUND_S)
    pids = [worker.pid for worker in client.workers()]
    assert sum(map(open_segments, pids)) == 12
    del arrays, totals
    gc.collect()
    for _ in range(200):  # round trips to each worker, which the releases overtake
        client.run(give_back)
        if not sum(map(open_segments, pids)):
            break
    assert sum(map(open_segments, pids)) == 0


def test_scattered_value_is_one_copy_for_client_and_workers(client: Client) -> None:
    """Client, both workers and a task's argument have one file; and it is what the value was when it was given."""
    values = np.arange(float(BIG))
    before = open_segments()
    (future,) = client.scatter([values])
    values[:] = 0
    names = [worker.name for worker in client.workers()]
    places = [client.submit(address_of, future, hints=Hints(where=(name,))).result(BOUND_S) for name in names]
    assert len({pid for pid, _ in places}) == 2
    assert len({place for _, place in places}) == 1
    assert "memfd:parml" in places[0][1]
    assert open_segments() == before + 1
    assert client.submit(np.sum, future).result(BOUND_S) == sum(range(BIG))
    del future
    gc.collect()
    assert eventually_closed(before)


def eventually_closed(count: int) -> bool:
    """A released value goes when the client's loop comes to it."""
    pause = threading.Event()
    for _ in range(400):
        if open_segments() == count:
            return True
        pause.wait(0.005)
    return False


def test_value_put_on_a_worker_elsewhere_is_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster behind a tunnel looks like one on this host, until a worker says that it cannot take a loan."""
    monkeypatch.setattr("parml_core.runtime.peer.this_place", lambda: "another host")
    (future,) = client.scatter([np.arange(float(BIG))])
    assert client.submit(np.sum, future).result(BOUND_S) == sum(range(BIG))
    assert "memfd:parml" not in client.submit(address_of, future).result(BOUND_S)[1]


def test_segments_take_at_most_half_of_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that scatters thousands of values can still open its own files."""
    gc.collect()
    files = 2 * open_segments() + 6
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    values = [Entry(np.arange(BIG)) for _ in range(6)]
    loans = [value.lend()[1] for value in values]
    assert [loan is None for loan in loans] == [False] * 4 + [True] * 2

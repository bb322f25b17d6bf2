"""One large value that workers of many hosts need, over cables that carry little."""

from __future__ import annotations

import operator
import os
import random
import signal
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from parml_core.graph import Hints
from tests.hosts.holding import until
from tests.hosts.network import BOUND_S, Cluster, Host, Network

pytestmark = pytest.mark.slow

NBYTES = 6 << 20
BYTES_PER_S = 16 << 20


@pytest.fixture(scope="module")
def cluster(
    network: Network, hosts_to_lose: list[Host], hosts: list[Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """One worker on each of six hosts, two on the last."""
    first, *others = [*hosts_to_lose, *hosts]
    workers = [(first, "first", 1)] + [(host, f"{i}", 1) for i, host in enumerate([*others, others[-1]])]
    for host in network.hosts:
        host.limit_cable(BYTES_PER_S)
    try:
        with Cluster(tmp_path_factory.mktemp("broadcasts"), network.hosts[0], workers) as cluster:
            yield cluster
    finally:
        for host in network.hosts:
            host.limit_cable(0)


def start(cluster: Cluster, first: Host, others: list[Host], seed: int) -> tuple[list[Any], dict[Host, int], int]:
    """Checksums on every worker of the others, of bytes that the first host has; what all have sent before; what is right."""
    [holder] = cluster.workers_of(first)
    make = random.Random(seed).randbytes
    value = cluster.client.submit(make, NBYTES, hints=Hints(where=(holder,)))
    cluster.client.wait([value], timeout_s=BOUND_S)
    before = {host: host.sent_bytes() for host in [first, *others]}
    checksums = [
        cluster.client.submit(zlib.crc32, value, hints=Hints(where=(worker,)))
        for host in others
        for worker in cluster.workers_of(host)
    ]
    return checksums, before, zlib.crc32(make(NBYTES))


def test_broadcast_uses_all_cables_and_comes_to_each_host_once(
    cluster: Cluster, hosts: list[Host], hosts_to_lose: list[Host]
) -> None:
    """The first holder sends the value to three of five hosts at most, though six workers ask it; the others do the rest."""
    first, *others = [*hosts_to_lose, *hosts]
    checksums, before, right = start(cluster, first, others, seed=1)
    assert {future.result(timeout_s=BOUND_S) for future in checksums} == {right}
    times = {host: (host.sent_bytes() - count) / NBYTES for host, count in before.items()}
    assert times[first] < 3.5
    assert 4.9 < sum(times.values()) < 5.6  # each time with the headers of its packets, and what else the hosts say


def test_values_over_a_slow_cable_are_compressed_once_it_was_measured(
    cluster: Cluster, hosts: list[Host], hosts_to_lose: list[Host]
) -> None:
    """The first comes as it is, the second in a small part of its bytes: the slow link is noticed by itself."""
    client, source, target = cluster.client, hosts[0], hosts_to_lose[1]
    here, there = (Hints(where=tuple(cluster.workers_of(host))) for host in (source, target))
    sent = []
    for seed in (3, 4):
        value = client.submit(operator.mul, random.Random(seed).randbytes(1000), NBYTES // 1000, hints=here)
        client.wait([value], timeout_s=BOUND_S)
        before = source.sent_bytes()
        right = zlib.crc32(random.Random(seed).randbytes(1000) * (NBYTES // 1000))
        assert client.submit(zlib.crc32, value, hints=there).result(timeout_s=BOUND_S) == right
        sent.append(source.sent_bytes() - before)
    assert sent[0] > NBYTES and sent[1] < NBYTES / 10


def test_holder_that_is_killed_while_it_sends_keeps_nobody_from_the_value(
    cluster: Cluster, hosts: list[Host], hosts_to_lose: list[Host]
) -> None:
    """When the second upload has begun, all processes of the first host are killed. One other has the value: so have all."""
    first, *others = [*hosts_to_lose, *hosts]
    checksums, before, right = start(cluster, first, others, seed=2)
    until(lambda: first.sent_bytes() - before[first] > 1.2 * NBYTES, "the first holder to have sent the value to one host")
    for pid in first.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert {future.result(timeout_s=BOUND_S) for future in checksums} == {right}

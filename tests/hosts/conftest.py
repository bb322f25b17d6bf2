"""Three hosts for all tests of several hosts, and a cluster on them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hosts.network import Cluster, Host, Network, what_is_missing


def workers_on(hosts: list[Host]) -> list[tuple[Host, str, int]]:
    """Two threads on each of three hosts, on the first as two workers. Here all share the same cores: train with one each."""
    a, b, c = hosts
    return [(a, "a-1", 1), (a, "a-2", 1), (b, "b", 2), (c, "c", 2)]


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """A host for schedulers, and six for workers, each of which has another network that leads nowhere."""
    missing = what_is_missing()
    if missing and os.environ.get("CI") and "command" in missing:  # which can be mended there, unlike missing rights
        pytest.fail(f"expected a network of hosts in continuous integration; it {missing}, see tests/install-system-packages")
    if missing:
        pytest.skip(f"a network of hosts {missing}")
    network = Network(7)
    try:
        for i, host in enumerate(network.hosts):
            host.add_other_network(f"203.0.113.{i + 1}/32")  # set apart for documentation
        yield network
    finally:
        network.close()


@pytest.fixture(scope="session")
def hosts(network: Network) -> list[Host]:
    """Three for workers."""
    return network.hosts[1:4]


@pytest.fixture(scope="session")
def hosts_to_lose(network: Network) -> list[Host]:
    """Three others, on which there is nothing that a test would miss."""
    return network.hosts[4:]


@pytest.fixture(scope="session")
def three_hosts(network: Network, hosts: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers on the first host, one on each of the others. For tests that harm none of them."""
    with Cluster(tmp_path_factory.mktemp("three"), network.hosts[0], workers_on(hosts)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def two_hosts(network: Network, hosts: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The last two of these."""
    with Cluster(tmp_path_factory.mktemp("two"), network.hosts[0], workers_on(hosts)[2:]) as cluster:
        yield cluster

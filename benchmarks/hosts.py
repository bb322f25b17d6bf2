"""
What it takes to move an array from one host to another: between two workers, and as a plain stream of TCP.

The hosts are network namespaces of this machine with a cable between them, so this needs root and iproute2. Plain TCP is one
process at each end, which send and receive the bytes of an array that is there already, in pieces as large as the system
takes them. Both are done in turn; told is the first time and the median of the later ones.

    python benchmarks/hosts.py [--mebibytes 256] [--repeats 8]

With --broadcast, one array goes to workers of so many hosts at once, over cables that carry --cable MiB/s each; told is the
time, also as a multiple of one transfer, and how often each host has sent the array.

    python benchmarks/hosts.py --broadcast 7 --mebibytes 16 --cable 16
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parml_core.graph import Hints  # noqa: E402
from tests.hosts.network import Cluster, Host, Network, what_is_missing  # noqa: E402

MIB = 2**20


def make(mebibytes: int, value: float) -> np.ndarray:
    return np.full(mebibytes * MIB // 8, value)


def look(array: np.ndarray) -> float:
    return float(array[0] + array[-1])


def receive(address: str, mebibytes: int) -> None:
    """Take arrays from whoever connects, and say after each that it is here."""
    target = memoryview(make(mebibytes, 0.0)).cast("B")
    with socket.create_server((address, 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    with connection:
        while True:
            done = 0
            while done < len(target):
                count = connection.recv_into(target[done:])
                if not count:
                    return
                done += count
            connection.sendall(b".")


def send(address: str, port: int, mebibytes: int) -> None:
    """Send an array for each line that comes in, and print the seconds until it was there."""
    source = memoryview(make(mebibytes, 1.0)).cast("B")
    with socket.create_connection((address, port)) as connection:
        for _ in sys.stdin:
            began = time.perf_counter()
            connection.sendall(source)
            connection.recv(1)
            print(time.perf_counter() - began, flush=True)


@contextlib.contextmanager
def program(host: Host, *args: str) -> Iterator[subprocess.Popen[str]]:
    """This program on a host."""
    command = ["ip", "netns", "exec", host.name, sys.executable, __file__, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def plain_stream(source: Host, target: Host, mebibytes: int) -> Iterator[subprocess.Popen[str]]:
    with program(target, "--receive", target.address, "--mebibytes", str(mebibytes)) as receiver:
        assert receiver.stdout is not None
        port = receiver.stdout.readline().strip()
        with program(source, "--send", f"{target.address}:{port}", "--mebibytes", str(mebibytes)) as sender:
            yield sender


def stream(sender: subprocess.Popen[str]) -> float:
    assert sender.stdin is not None and sender.stdout is not None
    sender.stdin.write("\n")
    sender.stdin.flush()
    return float(sender.stdout.readline())


def fetch(cluster: Cluster, source: Host, target: Host, mebibytes: int, value: float) -> float:
    """Seconds from the submission of a task at `target`, which needs an array that lies at `source`, to its result."""
    client = cluster.client
    here, there = (Hints(where=tuple(cluster.workers_of(host))) for host in (source, target))
    array = client.submit(make, mebibytes, value, hints=here)
    client.wait([array])
    began = time.perf_counter()
    found = client.submit(look, array, hints=there).result()
    seconds = time.perf_counter() - began
    assert found == 2 * value
    return seconds


def measure(mebibytes: int, repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"plain TCP": [], "parml": []}
    network = Network(3)
    try:
        scheduler, source, target = network.hosts
        workers = [(source, "source", 1), (target, "target", 1)]
        with (
            tempfile.TemporaryDirectory() as folder,
            plain_stream(source, target, mebibytes) as sender,
            Cluster(Path(folder), scheduler, workers) as cluster,
        ):
            fetch(cluster, source, target, 1, 0.0)
            for i in range(repeats):
                seconds["plain TCP"].append(stream(sender))
                seconds["parml"].append(fetch(cluster, source, target, mebibytes, float(i)))
    finally:
        network.close()
    return seconds


def noise(mebibytes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(mebibytes * MIB // 8)


def broadcast(mebibytes: int, n_hosts: int, cable: int, repeats: int) -> None:
    network = Network(n_hosts + 2)
    scheduler, *hosts = network.hosts
    try:
        workers = [(host, f"w{i}", 1) for i, host in enumerate(hosts)]
        with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), scheduler, workers) as cluster:
            client = cluster.client
            source, *targets = [Hints(where=tuple(cluster.workers_of(host))) for host in hosts]
            for host in hosts:
                host.limit_cable(cable * MIB)
            for seed in range(repeats + 1):
                array = client.submit(noise, mebibytes if seed else 1, seed, hints=source)
                client.wait([array])
                before = [host.sent_bytes() for host in hosts]
                began = time.perf_counter()
                found = client.gather([client.submit(look, array, hints=target) for target in targets])
                seconds = time.perf_counter() - began
                sent = [(host.sent_bytes() - count) / (mebibytes * MIB) for host, count in zip(hosts, before, strict=True)]
                assert len(set(found)) == 1
                if seed:  # the first was small, and has paid for imports
                    times = seconds * cable / mebibytes
                    print(f"{seconds:.2f} s, {times:.1f} × one transfer; sent {' '.join(f'{n:.1f}' for n in sent)}", flush=True)
    finally:
        network.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the array (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--broadcast", type=int, metavar="HOSTS", help="send one array to so many hosts instead")
    parser.add_argument("--cable", type=int, default=16, help="MiB/s that a host can send then (default: %(default)s)")
    parser.add_argument("--receive", help=argparse.SUPPRESS)
    parser.add_argument("--send", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        receive(options.receive, options.mebibytes)
        return
    if options.send:
        address, _, port = options.send.rpartition(":")
        send(address, int(port), options.mebibytes)
        return
    if missing := what_is_missing():
        raise SystemExit(f"two hosts {missing}")
    if options.broadcast:
        broadcast(options.mebibytes, options.broadcast, options.cable, options.repeats)
        return
    seconds = measure(options.mebibytes, options.repeats)
    plain_ms = 1000 * statistics.median(seconds["plain TCP"][1:])
    print(f"\n{options.mebibytes} MiB{'ms':>16}{'GB/s':>8}{'of plain':>10}{'first, ms':>12}")
    for name, found in seconds.items():
        ms = 1000 * statistics.median(found[1:])
        print(f"{name:<10}{ms:>16.1f}{options.mebibytes * MIB / ms / 1e6:>8.2f}{plain_ms / ms:>10.2f}{1000 * found[0]:>12.1f}")
        print(" " * 10, " ".join(f"{1000 * s:.0f}" for s in found), file=sys.stderr)


if __name__ == "__main__":
    main()

"""The simulated world: one clock, one random generator, and a network that delays, holds back and loses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

import msgspec

from parml_core.protocol.messages import encoder
from parml_core.typing import Address


class World:
    """
    Everything that happens, in order of time. Equal seeds give equal worlds.

    Parameters
    ----------
    seed : int
    delay_s : float
        Typical time that a message travels.

    Attributes
    ----------
    active : int
        Events to come that are not clockwork (ticks, heartbeats). With none, nothing happens any more by itself.
    held : dict of process to list
        What arrives at, or leaves from, processes that are cut off from everybody else.
    data : dict of address to WorkerNode
        Where values can be fetched.
    """

    def __init__(self, seed: int, delay_s: float, *, verbose: bool = False) -> None:
        self.rng = Random(seed)
        self.delay = delay_s
        self.verbose = verbose
        self.now = 0.0
        self.n_events = 0
        self.active = 0
        self.held: dict[str, list[tuple[Wire, Any]]] = {}
        self.cuts: dict[tuple[str, str], None] = {}  # pairs of processes that cannot reach each other for values
        self.data: dict[Address, Any] = {}
        self.fetch_fails = 0.0  # probability
        self.fetch_absent = 0.0
        self.unreadable = 0.0  # of what was on disk
        self._heap: list[tuple[float, int, bool, Callable[..., None], tuple[Any, ...]]] = []
        self._n = 0
        self._log = hashlib.blake2b(digest_size=16)

    def at(self, delay_s: float, call: Callable[..., None], *args: Any, clockwork: bool = False) -> None:
        """Let something happen after a while."""
        self.at_time(self.now + delay_s, call, *args, clockwork=clockwork)

    def at_time(self, time_s: float, call: Callable[..., None], *args: Any, clockwork: bool = False) -> None:
        self._n += 1
        self.active += not clockwork
        heappush(self._heap, (time_s, self._n, clockwork, call, args))

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, clockwork, call, args = heappop(self._heap)
        self.n_events += 1
        self.active -= not clockwork
        call(*args)

    def some_delay_s(self) -> float:
        return self.delay * (0.1 + self.rng.expovariate(1.0))

    def note(self, what: str, data: bytes = b"") -> None:
        """Everything that is noted goes into the hash of the log."""
        line = f"{self.now:.9f} {what} "
        self._log.update(line.encode())
        self._log.update(data)
        if self.verbose:
            print(line, msgspec.msgpack.decode(data) if data[:1] >= b"\x80" else data.decode(), flush=True)

    def log_hash(self) -> str:
        return self._log.hexdigest()

    # --- processes and the network -------------------------------------------------------------------------------------

    def cut_off(self, process: str) -> None:
        """From now on a process hears nobody and is heard by nobody; messages wait."""
        self.held.setdefault(process, [])

    def reconnect(self, process: str) -> None:
        for wire, item in self.held.pop(process, []):
            wire.arrive(item)

    def reaches(self, a: str, b: str) -> bool:
        """Whether two processes can exchange values."""
        return a not in self.held and b not in self.held and (min(a, b), max(a, b)) not in self.cuts


class Wire:
    """One direction of a connection between a scheduler and a peer: what is sent arrives in order, after a while."""

    def __init__(self, world: World, process: str, name: str, hear: Callable[[Any], None]) -> None:
        self.world = world
        self.process = process
        self.name = name
        self._hear = hear
        self._last_s = 0.0
        self._ended = False
        self._epoch = 0

    def send(self, messages: list[Any]) -> None:
        if messages:
            self.put(encoder.encode(messages))

    def put(self, item: Any) -> None:
        """Send something as it is. None: the end of the connection."""
        if not self._ended:
            self._last_s = max(self._last_s, self.world.now + self.world.some_delay_s())
            self.world.at_time(self._last_s, self.arrive, (self._epoch, item))

    def end(self, *, lose: bool = False) -> None:
        """Close; `lose`: what is under way does not arrive."""
        if not self._ended:
            self._epoch += lose
            self.put(None)
            self._ended = True

    def arrive(self, item: tuple[int, Any]) -> None:
        if item[0] != self._epoch:
            return
        held = self.world.held.get(self.process)
        if held is not None:
            held.append((self, item))
            return
        content = item[1]
        self.world.note(self.name, content if type(content) is bytes else repr(content).encode())
        self._hear(content)

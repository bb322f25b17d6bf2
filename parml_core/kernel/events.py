"""Events of the kernels that are not messages from a peer: peers come and go, time passes, the shell has done its part."""

from __future__ import annotations

import msgspec

from parml_core.engine.base import WorkerInfo
from parml_core.protocol.messages import Failure
from parml_core.typing import Address, Key


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all events."""


class ClientJoined(Event):
    """A client has authenticated. Its id is the sender of this event."""


class WorkerJoined(Event):
    """A worker has authenticated and registered; `holds` are values it brings along."""

    info: WorkerInfo
    address: Address
    holds: tuple[tuple[Key, int], ...] = ()


class PeerLost(Event):
    """The connection to the sender is gone."""

    reason: str


class Tick(Event):
    """Time has passed; whatever waits for a deadline looks at the clock."""


class RunEnded(Event):
    """The executor has run a task: its result is in the store (and in `small`, pickled), or `failure` tells why not."""

    key: Key
    attempt: int
    nbytes: int
    duration_s: float
    failure: Failure | None = None
    small: bytes = b""


class TakenBack(Event):
    """The executor has let go of these attempts before it started them."""

    attempts: list[tuple[Key, int]]


class RankStarted(Event):
    """The process of a rank runs."""

    key: Key
    attempt: int


class RankInputsMissing(Event):
    """A rank did not start because it could not fetch its inputs; `missing` as in the message InputsMissing."""

    key: Key
    attempt: int
    missing: tuple[tuple[Key, Address, bool], ...]


class Fetched(Event):
    """
    A request to a peer was answered: `values` are in the store now, the peer has none of `absent`, and it has the keys of
    `failures` but cannot give them. Those of `later` are large, and it is sending them to another one now.
    """

    peer: Address
    values: tuple[tuple[Key, int], ...]
    absent: tuple[Key, ...] = ()
    failures: dict[Key, Failure] = {}
    later: tuple[Key, ...] = ()


class Redirected(Event):
    """A patient request was answered with another holder, which has just got the value from this one."""

    peer: Address
    key: Key
    to: Address


class FetchFailed(Event):
    """A request to a peer failed: the peer could not be reached, or went away."""

    peer: Address
    keys: tuple[Key, ...]


class ValuesPut(Event):
    """A client has put values into the store."""

    values: tuple[tuple[Key, int], ...]


class InputsUnreadable(Event):
    """A run that was handed over did not start: these of its inputs were on disk, and are not what they were."""

    key: Key
    attempt: int
    lost: tuple[Key, ...]


class ValuesUnreadable(Event):
    """These values were on disk, and are not what they were: who asked for them was told that they are not here."""

    keys: tuple[Key, ...]


class MemoryPressure(Event):
    """
    The worker's memory is short (`paused`), or not any more.

    `moving`: values are on their way to disk, which will soon be over; nothing starts until then. `refusal` says what a run
    fails with that would start: there is no room on disk for what would have to make way for it.
    """

    paused: bool
    moving: bool = False
    refusal: Failure | None = None


class SlotsBlocked(Event):
    """Running tasks that use `count` threads only wait now (negative: they run again)."""

    count: int

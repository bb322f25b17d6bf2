"""What a WorkerKernel asks its shell to do. The scheduler's kernel asks for nothing but messages and disconnections."""

from __future__ import annotations

import msgspec

from parml_core.protocol.messages import Assignment
from parml_core.typing import Address, Key


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Send(Effect):
    """Send this message to the scheduler."""

    message: object


class Execute(Effect):
    """Run these tasks, in this order, as threads come free. All their inputs are in the store."""

    tasks: list[Assignment]


class ExecuteRank(Effect):
    """Start this rank in a process of its own; it fetches its inputs itself."""

    task: Assignment


class KillRank(Effect):
    """End the process of this rank; nobody waits for its outcome."""

    key: Key
    attempt: int


class TakeBack(Effect):
    """Take from the executor those of these attempts that it has not started, and say which (`TakenBack`)."""

    attempts: list[tuple[Key, int]]


class Skip(Effect):
    """Do not start these attempts if they have not started; if they have, drop their results, and let others run meanwhile."""

    attempts: list[tuple[Key, int]]


class Fetch(Effect):
    """Ask this peer for these values. `patient`: for a single one, in turn with others (`uploads`)."""

    peer: Address
    keys: tuple[Key, ...]
    patient: bool = False


class Drop(Effect):
    """Remove these values from the store."""

    keys: list[Key]


class DefineFunctions(Effect):
    """Keep the bytes of these functions until told to forget them."""

    functions: dict[str, bytes]


class DropFunctions(Effect):
    """Forget these functions."""

    fns: list[str]


class Stop(Effect):
    """End the worker, for this reason; `rejoin`: it is to be started again."""

    reason: str
    rejoin: bool = False

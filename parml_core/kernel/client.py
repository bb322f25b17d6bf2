"""
The client, without I/O: which futures are held, and what is known of each.

A key is held once however many Future objects stand for it. When the last of them is released, the scheduler is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from parml_core.engine.base import Status
from parml_core.protocol import messages as m
from parml_core.typing import Address, Key


class Held:
    """
    What a client knows of one key that it holds.

    Attributes
    ----------
    want : int
        Number of the message that asked for it.
    holder : str
        A worker that has the result, while status is ``"finished"``.
    failure : Failure or None
        Why it is erred or cancelled.
    n_futures : int
        Future objects that share this record.
    small : bytes
        The pickled result, if it is small and came with the news of it.
    value : object
        For a scattered value: the value as it was then, to be sent again should its workers be lost.
    """

    __slots__ = ("__weakref__", "failure", "holder", "key", "n_futures", "shell", "small", "status", "value", "want")

    def __init__(self, key: Key, want: int) -> None:
        self.key = key
        self.want = want
        self.status: Status = "pending"
        self.holder: Address = ""
        self.failure: m.Failure | None = None
        self.small = b""
        self.n_futures = 0
        self.value: Any = None
        self.shell: Any = None  # belongs to whoever runs this kernel


class ClientKernel:
    """
    Examples
    --------
    >>> kernel = ClientKernel()
    >>> want = kernel.begin()
    >>> held, fresh = kernel.hold("a")
    >>> held.status, fresh
    ('pending', True)
    >>> changed = kernel.handle([m.KeysReady(["a"], ["tcp://w1"], [want], [b""])])
    >>> held.status, held.holder
    ('finished', 'tcp://w1')
    >>> kernel.release(held)
    True
    """

    def __init__(self) -> None:
        self.held: dict[Key, Held] = {}
        self._n_wants = 0

    def begin(self) -> int:
        """Begin a message that asks for futures: its number."""
        self._n_wants += 1
        return self._n_wants

    def hold(self, key: Key) -> tuple[Held, bool]:
        """
        The record of a key, counted once more, and whether the message that was begun last has to ask for it.

        A key that was cancelled is asked for anew; the futures of the cancelled one stay cancelled.
        """
        held = self.held.get(key)
        fresh = held is None or held.status == "cancelled"
        if fresh:
            held = self.held[key] = Held(key, self._n_wants)
        assert held is not None
        held.n_futures += 1
        return held, fresh

    def release(self, held: Held) -> bool:
        """One Future less; True: it was the last, tell the scheduler."""
        held.n_futures -= 1
        if held.n_futures > 0 or self.held.get(held.key) is not held:
            return False
        del self.held[held.key]
        return True

    def cancel(self, keys: Iterable[Key]) -> list[Held]:
        """Give up on these keys; the records that are cancelled by it. Whoever asks for one of them later asks anew."""
        changed = []
        for key in keys:
            held = self.held.get(key)
            if held is not None and held.status == "pending":
                held.status = "cancelled"
                held.failure = m.Failure("TaskCancelled", f"task {key!r} was cancelled", key=key)
                changed.append(held)
        return changed

    def handle(self, events: Iterable[Any]) -> list[Held]:
        """Take what the scheduler says; the records whose status or holder changed."""
        changed: list[Held] = []
        for event in events:
            kind = type(event)
            if kind is m.KeysReady:
                for key, holder, want, small in zip(event.keys, event.holders, event.wants, event.small, strict=True):
                    held = self.held.get(key)
                    if held is not None and held.want == want and held.status in ("pending", "finished"):
                        held.status, held.holder, held.small = "finished", holder, small
                        changed.append(held)
            elif kind is m.KeysFailed:
                for key, failure, want in zip(event.keys, event.failures, event.wants, strict=True):
                    held = self.held.get(key)
                    if held is not None and held.want == want and held.status in ("pending", "finished"):
                        held.status = "cancelled" if failure.kind == "TaskCancelled" else "erred"
                        held.failure = failure
                        changed.append(held)
            elif kind is m.KeysPending:
                for key, want in zip(event.keys, event.wants, strict=True):
                    held = self.held.get(key)
                    if held is not None and held.want == want and held.status == "finished":
                        held.status, held.holder, held.small = "pending", "", b""
                        changed.append(held)
        return changed

    def fail_all(self, failure: m.Failure) -> list[Held]:
        """The scheduler is gone: nothing that is held will come any more."""
        changed = []
        for held in self.held.values():
            if held.status in ("pending", "finished"):
                held.status, held.failure = "erred", failure
                changed.append(held)
        return changed

"""Futures of a cluster's client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parml_core.engine.base import Future, Status
from parml_core.errors import NotSupported, WaitTimeout
from parml_core.kernel.client import Held
from parml_core.protocol.messages import Failure
from parml_core.protocol.serialize import exception_of, loads

if TYPE_CHECKING:
    from parml_core.client.client import Client
    from parml_core.client.fetch import Collector

T = TypeVar("T")


class ClusterFuture(Future[T], Generic[T]):
    """
    A result on a cluster.

    Attributes
    ----------
    inputs : tuple of Future
        Arguments that were put on workers for this task: kept, so that a lost result can be made again.
    """

    __slots__ = ("_client", "_record", "_released", "inputs", "key")

    def __init__(self, client: Client, record: Held, inputs: tuple[Future[Any], ...] = ()) -> None:
        self.key = record.key
        self.inputs = inputs
        self._client = client
        self._record = record
        self._released = False

    @property
    def status(self) -> Status:
        return self._record.status

    def result(self, timeout_s: float | None = None) -> T:
        return self._client.gather([self], timeout_s=timeout_s)[0]

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        done, _ = self._client.wait([self], timeout_s=timeout_s)
        if not done:
            raise WaitTimeout(f"expected task {self.key!r} to end within {timeout_s} s; it is still {self.status}")
        if self.status == "finished":
            return None
        assert self._record.failure is not None
        return exception_of(self._record.failure)

    def add_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        watcher = _Callback(self, callback)
        if not self._client.link.watch(self._record, watcher):
            watcher(self._record)

    def remove_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        self._client.link.unwatch(self._record, _Callback(self, callback))

    def cancel(self) -> None:
        """Cancel this task, and what needs it."""
        self._client.cancel([self])

    def release(self) -> None:
        if not self._released:
            self._released = True
            self.inputs = ()
            self._client.link.release(self._record)

    def __del__(self) -> None:
        # An interpreter that ends, or a constructor that failed, leaves nothing to release.
        record = getattr(self, "_record", None)
        if record is not None and not self._released:
            self._released = True
            self._client.link.release(record)

    def __await__(self) -> Generator[Any, None, T]:
        collector = self._client.link.collect([self._record])
        try:
            yield from asyncio.wrap_future(collector.future).__await__()
        except asyncio.CancelledError:
            collector.abandon()
            raise
        return value_of(collector, self._record)

    def __reduce__(self) -> Any:
        raise NotSupported(
            f"expected the future {self.key!r} as an argument of submit, or in a list, tuple or dict among the arguments, "
            "where it becomes its result; a future inside another object cannot be sent: pass it as an argument of its own"
        )


class _Callback:
    """Hands a future to a user's callback, on the thread for callbacks. Equal for an equal callback of the same future."""

    __slots__ = ("_callback", "_future")

    def __init__(self, future: ClusterFuture[Any], callback: Callable[[Any], None]) -> None:
        self._future = future
        self._callback = callback

    def __call__(self, record: Held) -> None:
        self._future._client.link.call_back(lambda: self._callback(self._future))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Callback) and self._future is other._future and self._callback == other._callback

    def __hash__(self) -> int:
        return id(self._future)


def value_of(collector: Collector, record: Held) -> Any:
    """What was collected for a record, or raise what its task raised."""
    fetched = collector.got[record]
    if isinstance(fetched, Failure):
        raise exception_of(fetched)
    return loads(fetched.head, fetched.buffers)


def first_failure(collector: Collector, records: list[Held]) -> BaseException | None:
    """What the first of these tasks that has failed raised."""
    for record in records:
        fetched = collector.got.get(record)
        if isinstance(fetched, Failure):
            return exception_of(fetched)
    return None

"""One call of a joblib.Parallel: its batches on their way to an engine, and their results on the way back to joblib."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from parml._joblib_batch import Initial, Packed, RunBatch, pack, references_beside, twin_of
from parml_core.engine.base import Engine, Future
from parml_core.errors import ClusterError
from parml_core.graph import Hints

REFRESH_S = 1.0
"""How often a running call looks for workers that have joined."""


class Owner(Protocol):
    """What a call asks of its backend."""

    def limit(self) -> int:
        """How many batches may be under way now."""

    def refresh(self) -> None:
        """Look whether there are more workers now."""

    def crashed(self, exc: BaseException) -> None:
        """The call cannot go on: joblib's callback raised, say."""


class Batch:
    """
    A batch that joblib has dispatched. `value` or `error` is set before the callback is called with it.

    `needs` holds the futures of its large values while it is under way: its worker may be lost.
    """

    __slots__ = ("callback", "error", "future", "needs", "packed", "value")

    def __init__(self, callback: Callable[[Batch], None]) -> None:
        self.callback = callback
        self.packed: Packed | None = None
        self.needs: dict[int, Future[Any]] = {}
        self.future: Future[Any] | None = None
        self.value: tuple[float, list[Any]] | None = None
        self.error: BaseException | None = None


class Scattered(NamedTuple):
    """A large value of the caller, and what the engine has instead of it, which does not keep the value's object alive."""

    value: Any
    twin: Any
    future: Future[Any]


class Call:
    """
    Submits batches, at most `owner.limit()` at a time, and hands their results to joblib on a thread of its own.

    joblib's callback reads a result and dispatches the next batch. Both may take long, so neither may happen on the thread
    on which an engine reports.

    Parameters
    ----------
    engine : Engine
    owner : Owner
    hints : Hints
        Of the task of each batch.
    inner_threads : int or None
        Threads that compiled libraries may use in a batch.
    share_from_bytes : float
        Arrays of this size and more are scattered once for the call.
    initial : Initial, optional
        What each process does before its first batch.
    """

    def __init__(
        self,
        engine: Engine,
        owner: Owner,
        *,
        hints: Hints,
        inner_threads: int | None,
        share_from_bytes: float,
        initial: Initial | None = None,
    ) -> None:
        self._engine, self._owner = engine, owner
        self._initial = () if initial is None else tuple(engine.scatter([initial]))
        self._hints, self._inner_threads, self._share_from_bytes = hints, inner_threads, share_from_bytes
        self._lock = threading.Lock()  # a leaf: nothing is called under it
        self._cancelled = False
        self._waiting: deque[Batch] = deque()
        self._under_way: set[Batch] = set()
        self._scattered: dict[int, Scattered] = {}  # by id of the value
        self._ended: SimpleQueue[Batch | None] = SimpleQueue()  # None: the call is over
        self._thread: threading.Thread | None = None

    def submit(self, calls: Callable[[], list[Any]], callback: Callable[[Batch], None]) -> Batch:
        """Take a batch. What goes wrong becomes its outcome, for joblib also calls this where nobody could catch it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._collect, name="parml-joblib", daemon=True)
            self._thread.start()
        batch = Batch(callback)
        try:
            batch.packed = pack(calls, share_from_bytes=self._share_from_bytes)
            self._scatter(batch.packed)
        except Exception as exc:
            self._fail(batch, exc)
            return batch
        with self._lock:
            self._waiting.append(batch)
        self._pump()
        return batch

    def cancel(self) -> None:
        """Cancel what waits and what is under way."""
        with self._lock:
            self._cancelled = True
            self._waiting.clear()
            futures = [batch.future for batch in self._under_way if batch.future is not None]
            self._under_way.clear()
        self._cancel(futures)

    def close(self) -> None:
        """End the thread and forget what was scattered."""
        self._scattered.clear()
        self._ended.put(None)

    def _scatter(self, packed: Packed) -> None:
        """Put futures in the place of large values. joblib calls `submit` under a lock of the call, so there is no race."""
        new = [value for value in packed.large.values() if id(value) not in self._scattered]
        if new:
            self._forget_dropped()
            twins = [twin_of(value) for value in new]
            for value, twin, future in zip(new, twins, self._engine.scatter(twins), strict=True):
                self._scattered[id(value)] = Scattered(value, twin, future)
        packed.large = {number: self._scattered[id(value)].future for number, value in packed.large.items()}

    def _forget_dropped(self) -> None:
        """Let the workers drop what the caller has dropped, as chunks from a generator are: only the twin still knows it."""
        records = list(self._scattered.values())
        for record, count in zip(records, references_beside([record.value for record in records]), strict=True):
            if count == 1 + (getattr(record.twin, "base", None) is record.value):  # the record's, and the twin's
                del self._scattered[id(record.value)]

    def _pump(self) -> None:
        """Give the engine as many waiting batches as may be under way."""
        while True:
            limit = self._owner.limit()
            with self._lock:
                if not self._waiting or len(self._under_way) >= limit:
                    return
                batch = self._waiting.popleft()
                self._under_way.add(batch)
            self._start(batch)

    def _start(self, batch: Batch) -> None:
        packed, batch.packed = batch.packed, None
        assert packed is not None
        batch.needs = packed.large
        try:
            future = self._engine.submit(
                RunBatch(packed.name),
                packed.data,
                packed.large,
                packed.private,
                self._inner_threads,
                *self._initial,
                hints=self._hints,
            )
        except Exception as exc:
            self._fail(batch, exc)
            return
        with self._lock:
            batch.future = future
            cancelled = batch not in self._under_way
        if cancelled:
            self._cancel([future])
        else:
            future.add_done_callback(lambda _: self._ended.put(batch))

    def _cancel(self, futures: Sequence[Future[Any]]) -> None:
        with contextlib.suppress(ClusterError):  # on a cluster that is gone there is nothing to cancel
            self._engine.cancel(futures)

    def _fail(self, batch: Batch, exc: BaseException) -> None:
        batch.error = exc
        self._ended.put(batch)

    # --- on the thread of the call ---------------------------------------------------------------------------------------

    def _collect(self) -> None:
        try:
            self._hand_over()
        except BaseException as exc:  # the caller waits for this thread: nothing may end it unheard
            self._owner.crashed(exc)

    def _hand_over(self) -> None:
        refresh_at = time.monotonic() + REFRESH_S
        while True:
            ended = self._next_ended(refresh_at - time.monotonic())
            batches = [batch for batch in ended if batch is not None]
            with self._lock:
                self._under_way.difference_update(batches)
                over = self._cancelled or None in ended
            if over:
                return
            self._pump()  # before results are fetched: that may take a while
            self._read(batches)
            for batch in batches:
                batch.callback(batch)
            if time.monotonic() >= refresh_at:
                refresh_at = time.monotonic() + REFRESH_S
                with contextlib.suppress(ClusterError):  # a lost scheduler shows in the futures
                    self._owner.refresh()
                self._pump()

    def _next_ended(self, timeout_s: float) -> list[Batch | None]:
        """All batches that have ended since the last look; waits for the first."""
        ended: list[Batch | None] = []
        with contextlib.suppress(Empty):
            ended.append(self._ended.get(timeout=max(timeout_s, 0.001)))
            while True:
                ended.append(self._ended.get_nowait())
        return ended

    def _read(self, batches: Sequence[Batch]) -> None:
        """Fetch the outcomes."""
        futures = [batch.future for batch in batches if batch.future is not None]
        values: dict[Future[Any], Any] = {}
        if len(futures) > 1:
            with contextlib.suppress(BaseException):  # one failed: each tells for itself
                values = dict(zip(futures, self._engine.gather(futures), strict=True))
        for batch in batches:
            if batch.future is not None:
                try:
                    batch.value = values[batch.future] if values else batch.future.result()
                except BaseException as exc:  # whatever a task can raise is its outcome
                    batch.error = exc
                batch.future = None
            batch.needs = {}

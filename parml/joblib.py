"""
The joblib backend ``"parml"``: whatever is parallel through joblib runs on parml's workers.

``import parml`` registers it. It serves ``parallel_config("parml")``, ``parallel_backend("parml")`` and
``Parallel(backend="parml")``, and with them scikit-learn. Tasks run on the Client that the caller made (or on the engine of
``use(engine)``, or on that of ``parallel_config("parml", client=...)``). Where there is none, a local cluster is started at
the first call, serves all later ones and ends with the process.

- ``n_jobs=k`` means at most k batches at the same time; ``n_jobs=-1``, the default, means all slots of the cluster, those of
  workers that join during a call too. ``n_jobs=1`` is what joblib says it is: a loop in the calling process.
- Arrays of 64 KiB and more (numpy arrays, memoryviews, pandas and Arrow objects; also those inside sparse matrices,
  partials, closures and estimators) travel to each worker once in a call, and tasks share them. They must not change during
  the call. numpy arrays are read-only in the tasks; of a frame a task changes its own copy. ``Parallel(max_nbytes=None)``
  turns the sharing off.
- A call that ends early (an error, ``timeout``, a closed generator) cancels what has not started. What runs goes on to its
  end, unheard, beside what comes next: a thread cannot be ended from outside.
- ``initializer(*initargs)``, of a Parallel or a configuration, is called in each worker before its first task of a call; not
  again where it was the last that the worker called.
- A call inside a task goes to the same cluster when it asks for more than one job, three levels deep; deeper ones are loops.
- A forked process does not use its parent's cluster: it starts its own, or, inside another call, uses its threads.
- What shares memory (``require="sharedmem"``) runs on threads of the calling process.
- So does what a library says runs well on threads (``prefer="threads"``: forests, neighbours) where nobody made a Client or
  chose an engine: the local cluster would have the same processors, after a start and copies of the data. Calls with an
  initializer or ``inner_max_num_threads``, which are for worker processes, go to the cluster all the same.

Examples
--------
>>> import parml
>>> from joblib import Parallel, delayed, parallel_config
>>> from parml_core.engine.registry import use
>>> from parml_core.engine.threads import ThreadsEngine
>>> with ThreadsEngine(2) as engine, use(engine), parallel_config("parml"):
...     Parallel()(delayed(pow)(i, 2) for i in range(4))
[0, 1, 4, 9]
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib.parallel import (
    TASK_ERROR,
    AutoBatchingMixin,
    BatchCompletionCallBack,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
    cpu_count,
    register_parallel_backend,
)

from parml._joblib_batch import SHARED_FROM_BYTES, Initial
from parml._joblib_call import Batch, Call
from parml._joblib_embedded import embedded_engine, embedded_runs
from parml_core.engine import registry
from parml_core.engine.base import Engine
from parml_core.graph import Hints

__all__ = ["ParmlBackend", "register"]

DEEPEST_LEVEL = 2
"""Nested calls below this level (the outermost is 0) are loops: each level holds a thread for every call that waits."""

MOST_GROWTH = 64
"""A batch has at most so many times the calls of the one before: calls differ."""

SHORT_BATCH_S = 0.2
"""Batches that take less are sent ahead, so that no slot waits for the next one to travel, which takes about 2 ms."""


def register() -> None:
    """
    Make the name ``"parml"`` known to joblib.

    Examples
    --------
    >>> import joblib
    >>> register()
    >>> joblib.parallel.BACKENDS["parml"].__name__
    'ParmlBackend'
    """
    register_parallel_backend("parml", ParmlBackend)


class ParmlBackend(AutoBatchingMixin, ParallelBackendBase):
    """
    Runs the batches of joblib as tasks of an engine.

    Parameters
    ----------
    nesting_level : int, optional
        Set by joblib: how many calls are around this one.
    inner_max_num_threads : int, optional
        How many threads OpenMP and BLAS may use in a task. Default: as many as the worker allows a task, one.
    client : Engine, optional
        Where to run. Default: the current Client or engine, else a local cluster of this process.
    initializer : callable, optional
        Each worker calls ``initializer(*initargs)`` before its first task of a call. Default: that of the Parallel.
    initargs : tuple

    Examples
    --------
    >>> from joblib import Parallel, delayed, parallel_config
    >>> from parml_core.engine.threads import ThreadsEngine
    >>> register()
    >>> with ThreadsEngine(2) as engine, parallel_config("parml", client=engine):
    ...     Parallel(n_jobs=2)(delayed(divmod)(i, 2) for i in range(4))
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = True  # by handing such calls to threads, with their own n_jobs: joblib itself would use one thread

    # A batch costs about 2 ms beside what its calls take.
    MIN_IDEAL_BATCH_DURATION = 0.1
    MAX_IDEAL_BATCH_DURATION = 1.0

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        client: Engine | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.parallel: Any = None
        self._smoothed_batch_duration: float
        self._client = registry.resolve(client) if client is not None else None
        self._initializer, self._initargs = initializer, initargs
        self._engine: Engine | None = None  # of the call; joblib's callbacks come from threads that have no current engine
        self._call: Call | None = None
        self._n_jobs = self.default_n_jobs
        self._slots = 0  # of all workers, when last looked at
        self._threads = 1  # that a task takes
        self._most_jobs = 0  # that the call has had at the same time
        self._share_from_bytes: float = SHARED_FROM_BYTES
        self._batch_duration_s = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.nesting_level, self.inner_max_num_threads)  # a task runs its calls on its worker's client

    # --- how much at the same time ---------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches may run at the same time; 2 on a cluster with one slot, which joblib would not use for 1."""
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        _check(n_jobs)
        if self._level > DEEPEST_LEVEL:
            return 1
        if n_jobs > 0:
            return n_jobs
        if self._engine is None and self._on_this_machine and not embedded_runs():
            self._slots = cpu_count()  # as it will have: who only asks is no reason to start it
        else:
            self._look_at_workers()
        return max(self._slots + 1 + n_jobs, 2)

    def limit(self) -> int:
        """
        How many batches may be under way.

        Not more than there are slots: what waits for a slot here goes to the first that is free. Only where batches are so
        short that slots would wait for the next one, and where all slots may be used, two for each slot.
        """
        jobs = self._n_jobs if self._n_jobs > 0 else max(self._slots + 1 + self._n_jobs, 1)
        if self._slots:
            jobs = min(jobs, self._slots)
        ahead = jobs >= self._slots and 0 < self._batch_duration_s < SHORT_BATCH_S
        return 2 * jobs if ahead else jobs

    def refresh(self) -> None:
        """Give workers that have joined their share: joblib itself only replaces what has ended."""
        if self._n_jobs > 0:
            self._look_at_workers()
            return
        n_jobs = self.effective_n_jobs(self._n_jobs)
        with self.parallel._lock:
            self.parallel._cached_effective_n_jobs = n_jobs
            more, self._most_jobs = n_jobs - self._most_jobs, max(n_jobs, self._most_jobs)
            for _ in range(2 * more):  # pre_dispatch: two for each slot
                if self.parallel._original_iterator is not None:
                    self.parallel.dispatch_next()

    @property
    def _level(self) -> int:
        return self.nesting_level or 0

    def _look_at_workers(self) -> None:
        """The number of slots; a task takes as many of its worker's threads as it may use and every worker has."""
        workers = (self._engine or self._resolve()).workers()
        self._threads = max(1, min([self.inner_max_num_threads or 1, *(worker.nthreads for worker in workers)]))
        self._slots = sum(worker.nthreads // self._threads for worker in workers)

    @property
    def _on_this_machine(self) -> bool:
        """Whether nobody has said where to run, and no task does: then it is this machine."""
        return self._client is None and not self._level and registry.explicit_engine() is None

    def _resolve(self) -> Engine:
        if self._client is not None:
            return self._client
        if self._level:
            return registry.current_engine()
        return registry.explicit_engine() or embedded_engine()

    # --- a Parallel and its calls ----------------------------------------------------------------------------------------

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        max_nbytes: float | None = SHARED_FROM_BYTES,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        **_: Any,
    ) -> int:
        """Make ready for the calls of one Parallel; `max_nbytes` None: no array is shared. Other settings are loky's."""
        _check(n_jobs)
        for_processes = initializer or self._initializer or self.inner_max_num_threads
        well_on_threads = prefer == "threads" and self._on_this_machine and not for_processes
        if require == "sharedmem" or well_on_threads:
            raise FallbackToBackend(_SharedMemory(self._local_n_jobs(n_jobs), nesting_level=self._level))
        if n_jobs == 1 or self._level > DEEPEST_LEVEL:
            raise FallbackToBackend(SequentialBackend(nesting_level=self._level))
        if self.parallel is not parallel:  # parallel_config has one backend for all, which may run at the same time
            if initializer is None:
                initializer, initargs = self._initializer, self._initargs
            own = type(self)(self.nesting_level, self.inner_max_num_threads, self._client, initializer, initargs)
            own.parallel = parallel
            raise FallbackToBackend(own)
        self._n_jobs = n_jobs
        self._share_from_bytes = math.inf if max_nbytes is None else SHARED_FROM_BYTES
        self._engine = self._resolve()
        if n_jobs > 0:
            self._look_at_workers()
        effective = self.effective_n_jobs(n_jobs)
        if not self._slots:
            warnings.warn("expected workers, found none: the call waits until one joins", stacklevel=5)
        return effective

    def start_call(self) -> None:
        self.stop_call()
        assert self._engine is not None
        self._most_jobs = self.parallel._cached_effective_n_jobs
        self._call = Call(
            self._engine,
            self,
            hints=Hints(threads=self._threads),
            inner_threads=self.inner_max_num_threads,
            share_from_bytes=self._share_from_bytes,
            initial=None if self._initializer is None else Initial(self._initializer, self._initargs),
        )

    def submit(self, func: Callable[[], list[Any]], callback: Callable[[Any], None] | None = None) -> Batch:
        assert self._call is not None
        return self._call.submit(func, callback or (lambda _: None))

    def retrieve_result_callback(self, out: Batch) -> list[Any]:
        if out.value is None:
            assert out.error is not None
            raise out.error
        (self._batch_duration_s, results), out.value = out.value, None
        return results

    def compute_batch_size(self) -> int:
        """How many calls the next batch gets. Far below the aim it grows to half of that at once, where joblib doubles it."""
        if 0 < self._smoothed_batch_duration < self.MIN_IDEAL_BATCH_DURATION / 16:
            half_way = self.MIN_IDEAL_BATCH_DURATION / 2 / self._smoothed_batch_duration
            self._effective_batch_size *= int(min(half_way, MOST_GROWTH))
            self._smoothed_batch_duration = self._DEFAULT_SMOOTHED_BATCH_DURATION
            return self._effective_batch_size
        return super().compute_batch_size()

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Learn from what the calls took; joblib's `duration` counts the time in queues too."""
        super().batch_completed(batch_size, self._batch_duration_s)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        if self._call is not None:
            self._call.cancel()

    def stop_call(self) -> None:
        if self._call is not None:
            self._call.close()
            self._call = None

    def terminate(self) -> None:
        self.reset_batch_stats()

    def crashed(self, exc: BaseException) -> None:
        """Raise what broke joblib's callback, e.g. SystemExit in the caller's iterator, where the caller waits."""
        tracker = BatchCompletionCallBack(0, 1, self.parallel)
        with self.parallel._lock:
            self.parallel._register_new_job(tracker)
        tracker._register_outcome({"result": exc, "status": TASK_ERROR})

    # --- nested calls ----------------------------------------------------------------------------------------------------

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int]:
        """This backend, one level deeper. As with joblib's own backends an inner call is parallel when it says n_jobs."""
        return type(self)(self._level + 1, self.inner_max_num_threads), 1

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        assert self._engine is not None
        with self._engine.blocked():
            yield

    def _local_n_jobs(self, n_jobs: int) -> int:
        """
        How many threads of this process stand for `n_jobs`.

        All means the processors of this machine, and in a task the one that it runs on. A library that asks for as many as
        the cluster has slots (forests do, to predict) means all, too.
        """
        all_slots = self._slots and max(self._slots, 2)  # as effective_n_jobs tells them
        if n_jobs > 0 and n_jobs != all_slots:
            return n_jobs
        if self._level:
            return 1
        return min(n_jobs, cpu_count()) if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1)


def _check(n_jobs: int) -> None:
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning: expected -1 for all slots, or how many jobs")


class _SharedMemory(ThreadingBackend):
    """A fixed number of threads."""

    def __init__(self, n_threads: int, nesting_level: int) -> None:
        super().__init__(nesting_level=nesting_level)
        self._n_threads = n_threads

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        return self._n_threads

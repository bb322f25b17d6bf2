"""Client: the ten verbs on a cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from parml_core import config
from parml_core.client.fetch import Collector
from parml_core.client.future import ClusterFuture, first_failure, value_of
from parml_core.client.link import SUBMIT_TASKS, Link
from parml_core.client.local import LocalCluster
from parml_core.comm.base import Credentials
from parml_core.deploy.scheduler_file import as_address, read_scheduler_file
from parml_core.engine import registry
from parml_core.engine.base import Engine, Future, WorkerInfo
from parml_core.errors import AddressError, SerializationError, WaitTimeout
from parml_core.graph import Graph, Hints, Ref, Task
from parml_core.graph.order import order
from parml_core.graph.passes import cull
from parml_core.graph.task import NO_HINTS
from parml_core.kernel.client import Held
from parml_core.protocol import messages as m
from parml_core.protocol.serialize import dumps_call, dumps_function
from parml_core.runtime.executor import blocked, current_job
from parml_core.sizeof import sizeof
from parml_core.typing import Key, WorkerId

T = TypeVar("T")

LIFT_BYTES = 64 * 1024
"""Larger arguments are put on a worker once, and named in the task, instead of being sent with each task."""

FUNCTION_BYTES = CALL_BYTES = 16 * 1024 * 1024
_SMALL = frozenset({int, float, bool, complex, type(None), Ref})


class Client(Engine):
    """
    A connection to a cluster, and an `Engine`.

    Parameters
    ----------
    cluster : str, path or LocalCluster, optional
        An address such as ``"tcp://127.0.0.1:8786"`` (then with `secret`, or ``PARML_SECRET``); the path of a scheduler file;
        or a LocalCluster. Default: the file that ``PARML_SCHEDULER_FILE`` names; without it, a LocalCluster sized to this
        machine is started, and ended with the client.
    secret : str or bytes, optional
        The cluster's secret, as hexadecimal digits or bytes.
    timeout_s : float
        For the connection.
    set_default : bool
        Whether code that names no engine uses this client from now on.

    Raises
    ------
    AddressError, AuthenticationError, VersionMismatch

    Examples
    --------
    >>> from parml_core.client import Client, LocalCluster
    >>> with LocalCluster(n_workers=1, dashboard_port=None) as cluster, Client(cluster) as client:
    ...     client.submit(pow, 2, 10).result()
    1024
    """

    name = "cluster"

    def __init__(
        self,
        cluster: str | os.PathLike[str] | LocalCluster | None = None,
        *,
        secret: str | bytes | None = None,
        timeout_s: float = 10.0,
        set_default: bool = True,
    ) -> None:
        self.cluster: LocalCluster | None = None
        self._owns_cluster = False
        if cluster is None and not os.environ.get("PARML_SCHEDULER_FILE"):
            cluster = LocalCluster()
            self._owns_cluster = True
        try:
            self._address, credentials = self._where(cluster, secret)
            self._link: Link | None = Link(self._address, credentials, config.resolve(), timeout_s)
        except BaseException:
            if self._owns_cluster and self.cluster is not None:
                self.cluster.close()
            raise
        self._begin()
        if set_default:
            registry.set_default(self)
        self._finalizer = weakref.finalize(self, _finalize, self.link, self.cluster if self._owns_cluster else None)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._closed = False
        self._token = secrets.token_hex(4)
        self._n_keys = itertools.count()

    def _where(self, cluster: Any, secret: str | bytes | None) -> tuple[str, Credentials]:
        if isinstance(cluster, LocalCluster):
            self.cluster = cluster
            return cluster.scheduler_address, Credentials(cluster.secret)
        if cluster is None:
            cluster = os.environ["PARML_SCHEDULER_FILE"]
        text = os.fspath(cluster)
        address = as_address(text)
        if address is not None:
            given = secret if secret is not None else os.environ.get("PARML_SECRET")
            if given is None:
                raise AddressError(
                    f"expected the secret of the cluster at {address}, found none; give secret=, set PARML_SECRET, or connect "
                    "with the scheduler file, which holds it"
                )
            return address, Credentials(given) if isinstance(given, bytes) else Credentials.from_hex(given)
        found = read_scheduler_file(Path(text))
        return found.address, Credentials(found.secret)

    @property
    def link(self) -> Link:
        """The connection to the scheduler."""
        assert self._link is not None
        return self._link

    # --- the ten verbs -------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, hints: Hints = NO_HINTS, **kwargs: Any) -> Future[T]:
        return self._submit_many(fn, [args], kwargs, hints)[0]

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], hints: Hints = NO_HINTS, **kwargs: Any) -> list[Future[T]]:
        """
        Run `fn` on each tuple of items, like the builtin map, in parallel.

        Parameters
        ----------
        fn : callable
        *iterables : iterable
            The shortest ends the call.
        hints : Hints
        **kwargs
            The same for each call.

        Returns
        -------
        list of Future
        """
        return self._submit_many(fn, list(zip(*iterables, strict=False)), kwargs, hints)

    def _submit_many(
        self, fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]], kwargs: dict[str, Any], hints: Hints
    ) -> list[Future[Any]]:
        self._check()
        fn_id, fn_bytes = self._function(fn)
        lifter = _Lifter(self)
        kwargs = {name: lifter.lift(value) for name, value in kwargs.items()} if kwargs else kwargs
        in_kwargs = tuple(lifter.used)
        stem = f"{_name_of(fn)}-{self._token}"
        spec_hints = self._hints(hints)
        specs, inputs = [], []
        for i, call_args in enumerate(calls):
            lifter.used = dict.fromkeys(in_kwargs)
            args = call_args if _all_small(call_args) else tuple([lifter.lift(arg) for arg in call_args])
            call = dumps_call(args, kwargs)
            deps = tuple(lifter.used)
            _check_call(call)
            specs.append(m.TaskSpec(f"{stem}{next(self._n_keys):x}", fn_id, call, deps, i, spec_hints))
            inputs.append(tuple(lifter.lifted[key] for key in deps if key in lifter.lifted))
        records: list[Held] = []
        for start in range(0, len(specs), SUBMIT_TASKS):  # they need nothing of each other, so that any number may travel
            part = specs[start : start + SUBMIT_TASKS]
            records += self.link.submit({fn_id: fn_bytes}, part, [spec.key for spec in part])
        return [ClusterFuture(self, record, lifted) for record, lifted in zip(records, inputs, strict=True)]

    def submit_graph(self, graph: Graph, wants: Iterable[Key]) -> list[Future[Any]]:
        self._check()
        wants = list(wants)
        graph = cull(graph, wants)
        positions = order(graph)
        lifter = _Lifter(self)
        for future in graph.futures.values():
            self._own(future)
        functions: dict[str, bytes] = {}
        specs = []
        for key in sorted(graph, key=positions.__getitem__):
            task = graph[key]
            specs.append(self._spec(task, positions[key], functions, lifter))
        records = self.link.submit(functions, specs, wants)
        inputs = tuple(lifter.lifted.values())
        return [ClusterFuture(self, record, inputs) for record in records]

    def _spec(self, task: Task, position: int, functions: dict[str, bytes], lifter: _Lifter) -> m.TaskSpec:
        fn_id, fn_bytes = self._function(task.fn)
        functions[fn_id] = fn_bytes
        lifter.used = dict.fromkeys(task.deps)
        args = tuple(lifter.lift(value) for value in task.args)
        kwargs = {name: lifter.lift(value) for name, value in task.kwargs.items()}
        call, deps = dumps_call(args, kwargs), tuple(lifter.used)
        _check_call(call)
        return m.TaskSpec(task.key, fn_id, call, deps, position, self._hints(task.hints))

    def scatter(self, values: Sequence[Any], *, replicas: int = 1) -> list[Future[Any]]:
        self._check()
        if replicas < 0:
            raise ValueError(f"expected replicas to be a number of workers, or 0 for all, found {replicas}")
        values = list(values)
        if not values:
            return []
        put = self.link.put(values, replicas)
        futures: list[Future[Any]] = [ClusterFuture(self, record) for record in put.records]
        with self.blocked():
            put.done.result()
        self.wait(futures)
        return futures

    def gather(self, futures: Sequence[Future[T]], *, timeout_s: float | None = None) -> list[T]:
        self._check()
        records = [self._own(future) for future in futures]
        collector = self.link.collect(records)
        self._wait_for(collector, timeout_s)
        failure = first_failure(collector, records)
        if failure is not None:
            raise failure
        return [value_of(collector, record) for record in records]

    def wait(
        self,
        futures: Iterable[Future[Any]],
        *,
        until: Literal["all", "first", "first_error"] = "all",
        timeout_s: float | None = None,
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        self._check()
        if until not in ("all", "first", "first_error"):
            raise ValueError(f"expected until to be 'all', 'first' or 'first_error', found {until!r}")
        futures = list(futures)
        records = [self._own(future) for future in futures]
        over: concurrent.futures.Future[None] = concurrent.futures.Future()
        pending = dict.fromkeys(records)
        watched = []

        def ended(record: Held) -> None:  # on the loop, or below before the loop has heard of it
            with self.link.lock:
                pending.pop(record, None)
                failed = record.status in ("erred", "cancelled")
                enough = until == "first" or (until == "first_error" and failed)
                if (enough or not pending) and not over.done():
                    over.set_result(None)

        for record in list(pending):
            if self.link.watch(record, ended):
                watched.append(record)
            else:
                ended(record)
        if not records and not over.done():
            over.set_result(None)
        try:
            with self.blocked():
                over.result(timeout_s)
        except concurrent.futures.TimeoutError:
            pass
        finally:
            for record in watched:
                self.link.unwatch(record, ended)
        done = [future for future in futures if future.status != "pending"]
        return done, [future for future in futures if future.status == "pending"]

    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        self._check()
        keys = [self._own(future).key for future in futures]
        if keys:
            self.link.cancel(keys)

    def workers(self) -> list[WorkerInfo]:
        self._check()
        answer: m.WorkersAre = self.link.ask(m.AskWorkers)
        return answer.workers

    def locate(self, futures: Sequence[Future[Any]]) -> list[tuple[WorkerId, ...]]:
        self._check()
        keys = [self._own(future).key for future in futures]
        answer: m.HoldersAre = self.link.ask(lambda request: m.AskHolders(request, keys))
        return [tuple(ids) for ids in answer.ids]

    def gang(
        self,
        fn: Callable[..., T],
        args_by_rank: Sequence[tuple[Any, ...]],
        *,
        where: Sequence[Sequence[WorkerId]] | None = None,
        timeout_s: float | None = None,
    ) -> list[Future[T]]:
        self._check()
        if not args_by_rank:
            return []
        if where is not None and (len(where) != len(args_by_rank) or not all(where)):
            raise ValueError(
                f"expected in `where` the workers of each of {len(args_by_rank)} ranks, found for the ranks "
                f"{[len(ids) for ids in where]} workers"
            )
        fn_id, fn_bytes = self._function(fn)
        gang = f"{_name_of(fn)}-{self._token}{next(self._n_keys):x}"
        lifter = _Lifter(self)
        specs, inputs = [], []
        for rank, args in enumerate(args_by_rank):
            lifter.used = {}
            call, deps = dumps_call(tuple(lifter.lift(arg) for arg in args), {}), tuple(lifter.used)
            _check_call(call)
            specs.append(m.TaskSpec(f"{gang}:{rank}", fn_id, call, deps, rank, None))
            inputs.append(tuple(lifter.lifted[key] for key in deps if key in lifter.lifted))
        records = self.link.submit_gang(
            gang,
            {fn_id: fn_bytes},
            specs,
            [list(ids) for ids in where or [()] * len(specs)],
            timeout_s or 0.0,
            tuple(getattr(fn, "__parml_preload__", ())),
        )
        return [ClusterFuture(self, record, lifted) for record, lifted in zip(records, inputs, strict=True)]

    def blocked(self) -> AbstractContextManager[None]:
        return blocked()

    # --- more than the verbs -------------------------------------------------------------------------------------------

    def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> dict[str, T]:
        """
        Run a function once on each worker, at once, whatever else runs there.

        Returns
        -------
        dict of worker's name to result
        """
        workers = self.workers()
        futures = [self.submit(fn, *args, hints=Hints(where=(w.id,), threads=0), **kwargs) for w in workers]
        return dict(zip((w.name for w in workers), self.gather(futures), strict=True))

    def wait_for_workers(self, n_workers: int, timeout_s: float | None = None) -> None:
        """
        Wait until so many workers have joined.

        Raises
        ------
        WaitTimeout
        """

        async def enough() -> None:
            while len((await self.link.ask_async(m.AskWorkers)).addresses) < n_workers:
                await asyncio.sleep(0.05)

        self.link.call(enough(), timeout_s)

    def state(self) -> dict[str, Any]:
        """Workers, tasks by state, groups, clients, gangs and counters, as the scheduler sees them now."""
        self._check()
        answer: m.StateIs = self.link.ask(m.AskState)
        return answer.state

    @property
    def dashboard_url(self) -> str | None:
        """Where the status page of a LocalCluster is."""
        return None if self.cluster is None else self.cluster.dashboard_url

    def close(self) -> None:
        """End the connection, and the cluster where this client started it. Futures that are pending err."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        if registry.explicit_engine() is self:
            registry.set_default(None)
        self._finalizer()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __repr__(self) -> str:
        return f"<Client of {self._address}{', closed' if self._closed else ''}>"

    # --- pieces --------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"expected this client in the process that made it ({self._pid}), found it in a fork of that ({os.getpid()}); "
                "make another Client here"
            )
        self.link.check_open()

    def _own(self, future: Future[Any]) -> Held:
        if isinstance(future, ClusterFuture) and future._client is self and not future._released:
            return future._record
        if isinstance(future, ClusterFuture) and future._released:
            raise ValueError(f"expected a future that is held, found {future.key!r}, which was released")
        raise ValueError(
            f"expected futures of {self!r}, found {future!r}; take its result() first, or use the client that made it"
        )

    def _function(self, fn: Callable[..., Any]) -> tuple[str, bytes]:
        if not callable(fn):
            raise TypeError(f"expected a callable, found {fn!r} of type {type(fn).__name__}")
        fn_id, data = dumps_function(fn)
        if len(data) > FUNCTION_BYTES:
            raise SerializationError(
                f"expected a function of at most {FUNCTION_BYTES >> 20} MiB, found {_name_of(fn)!r} with {len(data) >> 20} MiB "
                "of data in its closure or its object; pass the data as an argument, or scatter it and pass the future"
            )
        return fn_id, data

    @staticmethod
    def _hints(hints: Hints) -> Hints | None:
        """What a task submits comes before what its siblings submit, so that nested work ends what was begun."""
        job = current_job()
        if job is not None and hints.priority == 0:
            return msgspec.structs.replace(hints, priority=1 - job.assignment.priority[0])
        return None if hints is NO_HINTS or hints == NO_HINTS else hints

    def _wait_for(self, collector: Collector, timeout_s: float | None) -> None:
        if collector.future.done():
            return
        try:
            with self.blocked():
                collector.future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            collector.abandon()
            raise WaitTimeout(
                f"expected the results within {timeout_s} s, found {collector.n_missing} of {collector.n_wanted} tasks still "
                "without one; they go on"
            ) from None
        except BaseException:
            collector.abandon()
            raise


class _Lifter:
    """
    Replaces, among the arguments of tasks, futures by Refs, and large values by Refs to values put on a worker once.

    Attributes
    ----------
    used : dict of key
        What the arguments that were lifted since this was last emptied refer to.
    lifted : dict of key to Future
        Values that go to workers.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._by_id: dict[int, tuple[Any, Key]] = {}  # keeps the object, so that its id stays its own
        self.used: dict[Key, None] = {}
        self.lifted: dict[Key, Future[Any]] = {}

    def lift(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SMALL:
            if kind is Ref:
                self.used[value.key] = None
            return value
        if kind is str or kind is bytes:
            return self._put(value) if len(value) > LIFT_BYTES else value
        if isinstance(value, Future):
            key = self._client._own(value).key
            self.used[key] = None
            return Ref(key)
        if kind is list:
            return [self.lift(item) for item in value]
        if kind is tuple:
            return tuple([self.lift(item) for item in value])
        if kind is dict:
            return {name: self.lift(item) for name, item in value.items()}
        return self._put(value) if sizeof(value) > LIFT_BYTES else value

    def _put(self, value: Any) -> Ref:
        known = self._by_id.get(id(value))
        if known is None:
            put = self._client.link.put([value])
            future: Future[Any] = ClusterFuture(self._client, put.records[0])
            self.lifted[future.key] = future
            known = self._by_id[id(value)] = (value, future.key)
        self.used[known[1]] = None
        return Ref(known[1])


def _check_call(call: bytes) -> None:
    if len(call) > CALL_BYTES:
        raise SerializationError(
            f"expected arguments of at most {CALL_BYTES >> 20} MiB besides arrays and frames, found {len(call) >> 20} MiB; "
            "scatter them and pass the future, or pass the large parts as arguments of their own"
        )


def _all_small(args: tuple[Any, ...]) -> bool:
    for value in args:
        kind = type(value)
        if kind not in _SMALL or kind is Ref:
            return False
    return True


def _name_of(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", None) or type(getattr(fn, "func", fn)).__name__
    return name.replace(":", "_").replace("-", "_")


def _finalize(link: Link, cluster: LocalCluster | None) -> None:
    link.close()
    if cluster is not None:
        cluster.close()


# A connection is that of the process which made it: code in a fork that names no engine gets another one than the parent's.
os.register_at_fork(after_in_child=lambda: registry.forget(Client))

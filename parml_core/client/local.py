"""LocalCluster: a scheduler and workers on this machine, as processes of their own that live as long as this object."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from parml_core.comm.base import Credentials
from parml_core.config import resolve
from parml_core.deploy.host import SCHEDULER, start_scheduler, start_workers, supervise
from parml_core.deploy.scheduler_file import SchedulerFile, unnamed_scheduler_file
from parml_core.engine.registry import foreseen
from parml_core.runtime.machine import memory_limit as limit_of
from parml_core.runtime.machine import shape
from parml_core.runtime.specs import SchedulerSpec, WorkerSpec


class LocalCluster:
    """
    A cluster on this machine. It ends with `close`, at the end of a ``with``, when it is garbage-collected, or with this
    process, however that ends.

    Parameters
    ----------
    n_workers : int, optional
        Worker processes. Default: as many as fill this machine's cores (those that this process may use).
    threads_per_worker : int, optional
        Tasks that one worker runs at a time. Default: 1 on a machine of up to four cores, more on larger ones.
    memory_limit : str, int, float or None
        Of each worker: ``"2GiB"``, bytes, a fraction of this machine's memory; ``"auto"``: its share of that; None: none.
        A worker that comes to 95 % of it is restarted.
    dashboard_port : int or None
        Where the scheduler serves its page, on loopback; 0: any free port; None: nowhere. A port that is in use is replaced
        by a free one, with a warning.
    name : str
        Workers are called by this name and a number.
    resources : dict of str to float, optional
        What each worker has, for tasks that ask for it.
    spill_directory : str, optional
        Where workers put values that do not fit into their memory. Default: the folder for temporary files.
    preload : sequence of str, optional
        Modules that processes of trainings will need, imported when nothing else is to be done. Default: the trainers that
        this process has imported.
    settings : mapping, optional
        Overrides of `parml_core.config.Settings`.

    Attributes
    ----------
    scheduler_address : str
    secret : bytes
    scheduler_file : str
        Tells other processes of this user how to connect.
    dashboard_url : str or None
    scheduler_pid : int

    Examples
    --------
    >>> from parml_core.client import LocalCluster
    >>> with LocalCluster(n_workers=2, dashboard_port=None) as cluster:
    ...     sorted(cluster.worker_pids())
    ['worker-0', 'worker-1']
    """

    scheduler_address: str
    scheduler_file: str
    dashboard_url: str | None
    scheduler_pid: int

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        *,
        memory_limit: str | int | float | None = "auto",
        dashboard_port: int | Literal["auto"] | None = "auto",
        name: str = "worker",
        resources: Mapping[str, float] | None = None,
        spill_directory: str | None = None,
        preload: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        count, nthreads = shape(n_workers, threads_per_worker)
        memory_bytes = limit_of(memory_limit, share=1 / max(1, count))
        resolved = resolve(settings)
        chosen = resolved.to_dict()
        if dashboard_port == "auto":
            dashboard_port = resolved.dashboard.port
        self.secret = Credentials.generate().secret
        owned = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, _close, owned, os.getpid())
        try:
            self._supervisor = supervise(foreseen(everywhere=True))
            owned.callback(self._supervisor.close)
            self._start(owned, SchedulerSpec(secret=self.secret, dashboard_port=dashboard_port, settings=chosen))
            start_workers(
                self._supervisor,
                [
                    WorkerSpec(
                        scheduler=self.scheduler_address,
                        secret=self.secret,
                        name=f"{name}-{i}",
                        nthreads=nthreads,
                        memory_bytes=memory_bytes,
                        resources=dict(resources or {}),
                        settings=chosen,
                        spill_directory=spill_directory or "",
                    )
                    for i in range(count)
                ],
            )
            self._supervisor.foresee(foreseen() if preload is None else preload)
        except BaseException:
            self.close()
            raise

    def worker_pids(self) -> dict[str, int]:
        """The pid of each worker that lives, by name; a worker that was restarted has its new one."""
        return {name: pid for name, pid in self._supervisor.pids.items() if name != SCHEDULER}

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """End all processes of the cluster, within 5 s, and remove its files. More calls do nothing, nor do forked children."""
        self._finalizer()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.worker_pids())} workers"
        return f"LocalCluster({getattr(self, 'scheduler_address', 'starting')}, {state})"

    def _start(self, owned: contextlib.ExitStack, spec: SchedulerSpec) -> None:
        ready = start_scheduler(self._supervisor, spec)
        self.scheduler_address, self.dashboard_url, self.scheduler_pid = ready.address, ready.dashboard, ready.pid
        fd, self.scheduler_file = unnamed_scheduler_file(SchedulerFile(ready.address, self.secret, ready.dashboard))
        owned.callback(os.close, fd)
        if spec.dashboard_port and ready.dashboard and f":{spec.dashboard_port}/" not in ready.dashboard:
            warnings.warn(f"port {spec.dashboard_port} is in use: the dashboard is at {ready.dashboard}", stacklevel=3)


def _close(owned: contextlib.ExitStack, owner_pid: int) -> None:
    if os.getpid() == owner_pid:  # a forked child holds a copy of the object, not the cluster
        owned.close()

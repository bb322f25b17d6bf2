"""The scheduler's state as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parml_core.errors import NotSupported

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PER_WORKER = {
    "executing": "tasks and ranks that run",
    "assigned": "tasks and ranks that were sent and have not ended",
    "held": "results that are held",
    "nthreads": "threads for tasks",
    "memory_bytes": "resident memory of the process",
    "memory_limit_bytes": "memory limit of the process, 0: none",
    "paused": "1 where memory is short: it starts one task at a time",
    "cpu_percent": "use of processors, 100 being one of them",
}


def render(state: Mapping[str, Any]) -> bytes:
    """
    Metrics in the text format that Prometheus scrapes.

    Parameters
    ----------
    state : mapping
        ``SchedulerKernel.snapshot()``.

    Raises
    ------
    NotSupported
        prometheus-client is not installed.

    Examples
    --------
    >>> state = {"tasks": {"memory": 3}, "workers": [], "clients": ["c"], "gangs": [], "counters": {"finished": 3}}
    >>> print(render(state).decode())  # doctest: +ELLIPSIS
    # HELP parml_tasks tasks by state
    # TYPE parml_tasks gauge
    parml_tasks{state="memory"} 3.0
    ...
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError as error:
        raise NotSupported(
            "expected prometheus-client, which makes /metrics, found that it is not installed; pip install 'parml[dashboard]'"
        ) from error
    registry = CollectorRegistry()
    registry.register(_Collector(state))
    return generate_latest(registry)


class _Collector:
    """What prometheus-client asks for the metrics of this moment."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = state

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        state = self._state
        tasks = GaugeMetricFamily("parml_tasks", "tasks by state", labels=["state"])
        for name, n in state["tasks"].items():
            tasks.add_metric([name], n)
        yield tasks
        for name, description in _PER_WORKER.items():
            family = GaugeMetricFamily(f"parml_worker_{name}", f"{description}, by worker", labels=["worker"])
            for worker in state["workers"]:
                family.add_metric([worker["name"]], worker[name])
            yield family
        yield GaugeMetricFamily("parml_workers", "workers that have joined", value=len(state["workers"]))
        yield GaugeMetricFamily("parml_clients", "clients that are connected", value=len(state["clients"]))
        yield GaugeMetricFamily("parml_gangs", "gangs that are known", value=len(state["gangs"]))
        for name, n in state["counters"].items():
            yield CounterMetricFamily(f"parml_{name}", f"{name.replace('_', ' ')} since the start", value=n)

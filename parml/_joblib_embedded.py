"""The local cluster that serves joblib calls in a process that has made no Client."""

from __future__ import annotations

import atexit
import os
import threading
from importlib import import_module
from typing import Any

from parml_core.engine.base import Engine
from parml_core.errors import ClusterError

_lock = threading.Lock()
_running: tuple[Any, Any] | None = None  # the cluster and its client
_of_parent: list[Any] = []


def embedded_engine() -> Engine:
    """The Client of this process's own local cluster: started when it is not there, or not there any more."""
    global _running
    with _lock:
        if _running is not None and not _answers(_running[1]):
            _stop()
        if _running is None:
            _running = _start()
        engine: Engine = _running[1]
        return engine


def embedded_runs() -> bool:
    """Whether this process has started its local cluster, and not ended it."""
    return _running is not None


def close_embedded() -> None:
    """End the local cluster of this process, where there is one."""
    with _lock:
        _stop()


def _start() -> tuple[Any, Any]:
    from parml_core.client import LocalCluster

    threading.Thread(target=import_module, args=("parml_core.client.client",), daemon=True).start()  # while it starts
    cluster = LocalCluster(dashboard_port=None)
    try:
        from parml_core.client import Client

        client = Client(cluster, set_default=False)  # nobody's choice: collections go on using threads
    except BaseException:
        cluster.close()
        raise
    atexit.register(close_embedded)
    return cluster, client


def _stop() -> None:
    global _running
    if _running is not None:
        cluster, client = _running
        _running = None
        atexit.unregister(close_embedded)
        try:
            client.close()
        finally:
            cluster.close()


def _answers(client: Any) -> bool:
    try:
        client.workers()
    except ClusterError:
        return False
    return True


def _forget_in_child() -> None:
    """A forked process has the parent's objects, but the cluster is the parent's: it is neither used nor ended there."""
    global _running, _lock
    _of_parent.append(_running)  # kept, so that no finaliser runs
    _running, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)

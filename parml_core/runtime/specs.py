"""
What a process of a cluster is told when it starts, and what it says when it is ready.

Specs reach a process over an inherited socket, never by argv or environment: they hold the cluster's secret.
"""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from parml_core.protocol.messages import Input
from parml_core.typing import Address, Key


class SchedulerSpec(msgspec.Struct):
    """
    Parameters
    ----------
    secret : bytes
    host, port : str, int
        Where to listen; port 0: any free one.
    dashboard_port : int or None
        0: any free one; None: no dashboard.
    ready_fd : int
        Where to tell that it is ready (`tell_ready`); -1: nobody wants to know.
    settings : dict
        ``Settings.to_dict()``.
    allow_insecure : bool
        Listen at other addresses than loopback although nothing is encrypted.
    """

    secret: bytes
    host: str = "127.0.0.1"
    port: int = 0
    dashboard_port: int | None = 8787
    ready_fd: int = -1
    settings: dict[str, Any] = {}
    allow_insecure: bool = False

    def __repr__(self) -> str:
        return _repr_without_secret(self)


class WorkerSpec(msgspec.Struct):
    """
    Parameters
    ----------
    scheduler : str
        Address of the scheduler.
    secret : bytes
    name : str
        What its operator calls it; stays the same when the worker is restarted.
    nthreads : int
    memory_bytes : int
        Its memory limit; 0: none.
    host : str
        Where its data plane listens.
    resources : dict of str to float
    settings : dict
        ``Settings.to_dict()``.
    ready_fd : int
        As for a scheduler. A worker that was restarted has none.
    allow_insecure : bool
        As for a scheduler.
    spill_directory : str
        Where values go that do not fit into its memory; empty: the folder for temporary files.
    """

    scheduler: Address
    secret: bytes
    name: str
    nthreads: int
    memory_bytes: int
    host: str = "127.0.0.1"
    resources: dict[str, float] = {}
    settings: dict[str, Any] = {}
    ready_fd: int = -1
    allow_insecure: bool = False
    spill_directory: str = ""

    def __repr__(self) -> str:
        return _repr_without_secret(self)


class RankSpec(msgspec.Struct):
    """
    One rank of a gang, as its process gets it.

    Parameters
    ----------
    key, attempt : str, int
    fn : bytes
        The pickled function.
    args : bytes
        The pickled ``(args, kwargs)``, with Refs in them.
    inputs : list of Input
        What the Refs name; the process fetches the values itself.
    secret : bytes
    threads : int
        Threads that the rank may use.
    gang : str
    worker : str
        Name of the worker that the rank belongs to.
    preload : list of str
        Modules that are imported before the process is forked, once for all ranks.
    """

    key: Key
    attempt: int
    fn: bytes
    args: bytes
    inputs: list[Input]
    secret: bytes
    threads: int = 1
    gang: str = ""
    worker: str = ""
    preload: list[str] = []

    def __repr__(self) -> str:
        return _repr_without_secret(self)


class Ready(msgspec.Struct):
    """What a process tells once it works, or `error`: why it never will."""

    address: Address = ""
    dashboard: str | None = None
    id: str = ""
    pid: int = 0
    error: str = ""


_told: list[Ready] = []


def tell_ready(ready_fd: int, ready: Ready) -> None:
    """Write one line of JSON to `ready_fd` and close it; nobody may want to know, or read."""
    _told.append(ready)
    if ready_fd < 0:
        return
    try:
        os.write(ready_fd, msgspec.json.encode(ready) + b"\n")
    except BrokenPipeError:
        pass
    finally:
        os.close(ready_fd)


def told_ready() -> Ready | None:
    """What this process has told, if it has."""
    return _told[-1] if _told else None


def parse_ready(line: bytes) -> Ready:
    """What `tell_ready` wrote; extra fields are ignored."""
    known = {name: value for name, value in json.loads(line).items() if name in Ready.__struct_fields__}
    return msgspec.convert(known, Ready)


def _repr_without_secret(spec: msgspec.Struct) -> str:
    shown = ("name", "key", "host", "port", "scheduler", "nthreads", "memory_bytes", "gang", "worker")
    fields = (f"{name}={getattr(spec, name)!r}" for name in shown if name in spec.__struct_fields__)
    return f"{type(spec).__name__}({', '.join(fields)})"

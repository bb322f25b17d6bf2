"""The functions that a nanny forks for: they turn what every child is given into what each main function takes."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence

import msgspec

from parml_core.client.nested import TaskClient
from parml_core.comm.base import Credentials
from parml_core.config import Settings
from parml_core.errors import ParmlError
from parml_core.runtime import scheduler, worker
from parml_core.runtime.specs import Ready, SchedulerSpec, WorkerSpec, tell_ready, told_ready


def run_scheduler(payload: bytes, link: socket.socket, fds: Sequence[int]) -> None:
    """A scheduler; it needs no nanny, and ends with it."""
    link.close()
    spec = msgspec.msgpack.decode(payload, type=SchedulerSpec)
    spec.ready_fd = fds[0] if fds else -1
    with _failure_told(spec.ready_fd):
        scheduler.main(spec)


def run_worker(payload: bytes, link: socket.socket, fds: Sequence[int]) -> None:
    """A worker; its link to the nanny starts its ranks."""
    spec = msgspec.msgpack.decode(payload, type=WorkerSpec)
    spec.ready_fd = fds[0] if fds else -1
    with _failure_told(spec.ready_fd):
        engine = TaskClient(spec.scheduler, Credentials(spec.secret), Settings.from_dict(spec.settings))
        worker.main(spec, link.detach(), engine)


@contextlib.contextmanager
def _failure_told(ready_fd: int) -> Iterator[None]:
    """Where the process fails before it is ready, whoever waits for it hears why; the nanny then has nothing to mend."""
    try:
        yield
    except Exception as error:
        told = told_ready()
        if ready_fd >= 0 and told is None:
            tell_ready(ready_fd, Ready(error=f"{type(error).__name__}: {error}"))
        elif ready_fd >= 0 and told is not None and told.error:
            pass
        elif isinstance(error, ParmlError):  # its message says it all
            print(f"parml: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        else:
            raise

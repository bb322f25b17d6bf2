"""
Every Python process of these runs imports this at its start: pytest's own, loky's, those of the cluster, scripts of tests.

It registers the backend, which tests name that cannot know parml, and counts what goes to a cluster, from whatever process:
each batch of joblib's calls appends a byte to the file UPSTREAM_TASKS.
"""

from __future__ import annotations

import os
from typing import Any

import parml  # noqa: F401  registers the backend
from parml._joblib_call import Call
from parml_core.client import Client

_start = Call._start


def _counting(self: Call, batch: Any) -> None:
    if isinstance(self._engine, Client):  # and not threads of this process
        fd = os.open(os.environ["UPSTREAM_TASKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, b".")
        os.close(fd)
    _start(self, batch)


Call._start = _counting  # type: ignore[method-assign]

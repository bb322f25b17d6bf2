"""The client that serves tasks: what a task submits goes to the cluster that runs it."""

from __future__ import annotations

import threading

from parml_core import config
from parml_core.client.client import Client
from parml_core.client.link import Link
from parml_core.comm.base import Credentials
from parml_core.engine import registry
from parml_core.typing import Address


class TaskClient(Client):
    """
    A client inside a worker. It connects when a task first uses it, and waits in it give the task's slot back.

    Parameters
    ----------
    address : str
        Of the scheduler.
    credentials : Credentials
    settings : Settings
    """

    def __init__(self, address: Address, credentials: Credentials, settings: config.Settings) -> None:
        self.cluster = None
        self._owns_cluster = False
        self._address = address
        self._credentials = credentials
        self._settings = settings
        self._link = None
        self._connecting = threading.Lock()
        self._begin()
        registry.set_default(self)

    @property
    def link(self) -> Link:
        with self._connecting:
            if self._link is None:
                self._link = Link(self._address, self._credentials, self._settings, self._settings.comm.connect_timeout_s)
            return self._link

    def close(self) -> None:
        """Nothing: it lives as long as the worker, and a task that closes its engine means its own use of it."""

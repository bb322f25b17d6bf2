"""
Every exception that parml raises of its own accord.

A message says what was expected, what was found and what to do. Each class is also a builtin's, so that code which knows
nothing of parml can catch it. An exception raised by a user's function is never wrapped: it keeps its type and traceback,
and gains a note that names the task and the worker.

::

    ParmlError                                  Exception
     ├─ GraphError                              ValueError
     │   ├─ CycleError
     │   └─ MissingKeyError                     KeyError
     ├─ ConfigError                             ValueError
     ├─ InputError                              ValueError      data that cannot be used as given
     ├─ SerializationError                      TypeError
     ├─ NotSupported                            NotImplementedError
     ├─ TaskCancelled                           concurrent.futures.CancelledError
     ├─ WaitTimeout                             TimeoutError
     └─ ClusterError                            RuntimeError
         ├─ RemoteError                                         a task raised what cannot be rebuilt here
         ├─ WorkerKilled                                        a task took down too many workers
         ├─ DataLost                            LookupError     a value that nobody can make again
         ├─ SpillError                  MemoryError     no room on disk for what does not fit into memory
         ├─ GangError                                           a rank was lost or failed, or could not start
         ├─ ConnectionLost                      ConnectionError
         │   └─ SchedulerLost
         ├─ ProtocolError                       ConnectionError malformed, oversized or unknown input from a peer
         ├─ VersionMismatch                     ConnectionError
         ├─ AuthenticationError                 PermissionError
         └─ AddressError                        OSError         an address that cannot be bound or reached
"""

from __future__ import annotations

import concurrent.futures

__all__ = [
    "AddressError",
    "AuthenticationError",
    "ClusterError",
    "ConfigError",
    "ConnectionLost",
    "CycleError",
    "DataLost",
    "GangError",
    "GraphError",
    "InputError",
    "MissingKeyError",
    "NotSupported",
    "ParmlError",
    "ProtocolError",
    "RemoteError",
    "SchedulerLost",
    "SerializationError",
    "SpillError",
    "TaskCancelled",
    "VersionMismatch",
    "WaitTimeout",
    "WorkerKilled",
]


class ParmlError(Exception):
    """Base of all exceptions that parml itself raises."""


class GraphError(ParmlError, ValueError):
    """A graph that cannot be evaluated."""


class CycleError(GraphError):
    """Tasks that wait for each other; the message shows the cycle."""


class MissingKeyError(GraphError, KeyError):
    """A task refers to a key that no task of the graph makes."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class ConfigError(ParmlError, ValueError):
    """A setting that does not exist or has a value that it cannot have."""


class InputError(ParmlError, ValueError):
    """Data that cannot be used as given."""


class SerializationError(ParmlError, TypeError):
    """A function, argument, result or exception that cannot be pickled or unpickled."""


class NotSupported(ParmlError, NotImplementedError):
    """What was asked for is not possible on this engine; the message says why and what to use."""


class TaskCancelled(ParmlError, concurrent.futures.CancelledError):
    """The task was cancelled before it had a result."""


class WaitTimeout(ParmlError, TimeoutError):
    """The time that the caller allowed has passed; the work goes on."""


class ClusterError(ParmlError, RuntimeError):
    """Something about the cluster, as opposed to the user's code or data."""


class RemoteError(ClusterError):
    """A task raised an exception that cannot be rebuilt here; the message has its type and text."""


class WorkerKilled(ClusterError):
    """A task that was running on each of several workers when they died is not tried again."""


class DataLost(ClusterError, LookupError):
    """The only copies of a value are gone, and it has no graph from which to make it again."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class SpillError(ClusterError, MemoryError):
    """What does not fit into a worker's memory finds no room on its disk either; the message names folder and free bytes."""


class GangError(ClusterError):
    """A gang could not start, or ended because one of its ranks was lost."""


class ConnectionLost(ClusterError, ConnectionError):
    """A peer went away in the middle of a conversation."""


class SchedulerLost(ConnectionLost):
    """The connection to the scheduler ended; results that were not fetched are gone."""


class ProtocolError(ClusterError, ConnectionError):
    """A peer sent what the protocol does not allow; its connection is closed."""


class VersionMismatch(ClusterError, ConnectionError):
    """Two peers whose versions cannot work together."""


class AuthenticationError(ClusterError, PermissionError):
    """A peer did not prove that it knows the cluster's secret."""


class AddressError(ClusterError, OSError):
    """An address that cannot be parsed, bound or reached."""

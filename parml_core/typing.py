"""The names that every room of parml_core uses for its identifiers."""

from __future__ import annotations

from typing import TypeAlias

Key: TypeAlias = str
"""Names one task and its result, e.g. ``"sum-3f9c2a:4,0"``. What stands before ``:`` is the group shown to people."""

Group: TypeAlias = str
WorkerId: TypeAlias = str
"""Names one incarnation of a worker: a worker that restarts under its old name gets a new id."""

ClientId: TypeAlias = str
PeerId: TypeAlias = str
"""A WorkerId or a ClientId: whom the scheduler talks to."""

Address: TypeAlias = str
"""``tcp://127.0.0.1:8786`` or ``inproc://name``."""

Buffer: TypeAlias = bytes | bytearray | memoryview


def group_of(key: Key) -> Group:
    """
    The group of a key: its name without token and chunk index.

    Examples
    --------
    >>> group_of("read_csv-3f9c2a71b0de4455:12")
    'read_csv'
    >>> group_of("inc")
    'inc'
    """
    head = key.split(":", 1)[0]
    name, _, token = head.rpartition("-")
    return name or token


def host_of(address: Address) -> str:
    """
    The host in an address.

    Examples
    --------
    >>> host_of("tcp://127.0.0.1:8786"), host_of("tcp://[::1]:8786"), host_of("inproc://name")
    ('127.0.0.1', '[::1]', 'name')
    """
    return address.partition("://")[2].rpartition(":")[0] or address.partition("://")[2]

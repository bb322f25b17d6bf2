"""
The scheduler file: what a worker or client has to know to reach a cluster, its secret included, for its owner's eyes only.

::

    {"address": "tcp://127.0.0.1:8786", "secret": "<hexadecimal>", "dashboard": "http://127.0.0.1:8787/status", "versions": {…}}
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from parml_core.comm.base import Credentials, my_versions
from parml_core.errors import ConfigError

FILE_VARIABLE, SECRET_VARIABLE = "PARML_SCHEDULER_FILE", "PARML_SECRET"


class SchedulerFile(msgspec.Struct, frozen=True):
    """
    How to reach a cluster.

    Parameters
    ----------
    address : str
    secret : bytes
    dashboard : str or None
        URL of its page.
    """

    address: str
    secret: bytes
    dashboard: str | None = None

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.secret)

    def __repr__(self) -> str:
        return f"SchedulerFile({self.address!r}, dashboard={self.dashboard!r})"


class _Content(msgspec.Struct):
    address: str
    secret: str
    dashboard: str | None = None
    versions: dict[str, str] = {}


def write_scheduler_file(path: str | Path, contact: SchedulerFile) -> None:
    """
    Write the file at once and completely, readable by its owner alone.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scheduler_file(folder + "/s.json", SchedulerFile("tcp://127.0.0.1:8786", b"0" * 32))
    ...     read_scheduler_file(folder + "/s.json").address
    'tcp://127.0.0.1:8786'
    """
    path = Path(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    except OSError as error:
        raise ConfigError(f"expected to write the scheduler file {path}, found {error}; choose another place for it") from error
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(_content_of(contact))
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def unnamed_scheduler_file(contact: SchedulerFile) -> tuple[int, str]:
    """
    A file that is in no directory, so that nothing is left of it however this process ends: its descriptor, and a path to it
    for all processes of this user, as long as the descriptor is open.

    Examples
    --------
    >>> fd, path = unnamed_scheduler_file(SchedulerFile("tcp://127.0.0.1:8786", b"0" * 32))
    >>> read_scheduler_file(path).address
    'tcp://127.0.0.1:8786'
    >>> os.close(fd)
    """
    fd = os.memfd_create("scheduler-file", os.MFD_CLOEXEC)
    os.fchmod(fd, 0o600)
    os.write(fd, _content_of(contact))
    return fd, f"/proc/{os.getpid()}/fd/{fd}"


def _content_of(contact: SchedulerFile) -> bytes:
    content = _Content(contact.address, contact.credentials.to_hex(), contact.dashboard, my_versions())
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def read_scheduler_file(path: str | Path) -> SchedulerFile:
    """
    What `write_scheduler_file` wrote.

    Raises
    ------
    ConfigError
        There is no such file, or it is something else.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError("something that is no file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"expected a scheduler file at {path}, found {error.strerror or error}; `parml scheduler --scheduler-file {path}` "
            "writes one"
        ) from error
    try:
        content = msgspec.json.decode(data, type=_Content)
    except msgspec.MsgspecError as error:  # the content is not repeated: it may hold a secret
        raise ConfigError(f"expected {path} to be a scheduler file, found that it is none ({error})") from error
    return SchedulerFile(content.address, Credentials.from_hex(content.secret).secret, content.dashboard)


def remove_scheduler_file(path: str | Path, contact: SchedulerFile) -> None:
    """Remove the file where it still is the one that was written for `contact`."""
    with contextlib.suppress(ConfigError, OSError):
        found = read_scheduler_file(path)
        if (found.address, found.secret) == (contact.address, contact.secret):
            os.unlink(path)


def default_scheduler_file(environ: Mapping[str, str] | None = None) -> Path:
    """
    Where a scheduler writes its file when nobody says where, and where others look for it.

    Examples
    --------
    >>> str(default_scheduler_file({"PARML_SCHEDULER_FILE": "/data/s.json"}))
    '/data/s.json'
    >>> str(default_scheduler_file({"XDG_RUNTIME_DIR": "/run/user/7"}))
    '/run/user/7/parml/scheduler.json'
    """
    environ = os.environ if environ is None else environ
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    runtime = environ.get("XDG_RUNTIME_DIR")
    root = Path(runtime) if runtime else Path(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return root / "parml" / "scheduler.json"


def find_scheduler(address_or_file: str | None = None, environ: Mapping[str, str] | None = None) -> SchedulerFile:
    """
    How to reach the scheduler that is meant.

    Parameters
    ----------
    address_or_file : str, optional
        An address (``tcp://host:port`` or ``host:port``) or the path of a scheduler file. Default: the file of
        `default_scheduler_file`.
    environ : mapping, optional
        The secret of an address comes from PARML_SECRET in it, or from the default file where that has the same address.

    Raises
    ------
    ConfigError
        There is no such file, or no secret for the address.
    """
    environ = os.environ if environ is None else environ
    default = default_scheduler_file(environ)
    if not address_or_file:
        return read_scheduler_file(default)
    address = as_address(address_or_file)
    if address is None:
        return read_scheduler_file(address_or_file)
    secret = environ.get(SECRET_VARIABLE)
    if secret:
        return SchedulerFile(address, Credentials.from_hex(secret).secret)
    if default.is_file():
        known = read_scheduler_file(default)
        if known.address == address:
            return known
    raise ConfigError(
        f"expected the secret of the cluster at {address}, found none; set {SECRET_VARIABLE}, or give the scheduler's file "
        "instead of its address"
    )


def as_address(text: str) -> str | None:
    """
    `text` as an address, or None where it is a path.

    Examples
    --------
    >>> as_address("127.0.0.1:8786"), as_address("here/s.json")
    ('tcp://127.0.0.1:8786', None)
    """
    if "://" in text:
        return text
    host, _, port = text.rpartition(":")
    return f"tcp://{text}" if host and port.isdigit() and "/" not in text else None

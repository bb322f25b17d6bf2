"""
What a nanny and its peers say to each other, and how: one message to a packet of a Unix socket, with file descriptors.

A peer is whoever holds the other end of one of the nanny's sockets: the process that started it (the root), or a child that
asks for processes of its own (a worker, for its ranks). A peer sees and ends only the processes that it asked for. When it
closes its end, by intention or by dying, they end; when the root does, the nanny ends too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.process import current_process
from pathlib import Path
from typing import Any

import msgspec

from parml_core.errors import ConfigError, ConnectionLost

MAX_PACKET_BYTES = 128 * 1024
MAX_FDS = 8
GRACE_S = 2.0
"""How long a child may take to end after SIGTERM before it is killed."""


class Setup(msgspec.Struct, tag=True):
    """
    The root's first message: who it is and where its modules lie. `preload` is imported while nobody waits.

    All that is forked has the root's `authkey`, as every child of multiprocessing: by it a task may use the root's managers.
    """

    parent_pid: int
    path: list[str]
    pythonpath: str | None
    authkey: bytes
    preload: list[str] = []


class Spawn(msgspec.Struct, tag=True):
    """
    Fork a process. The descriptors that come with the message are given to it. → `Spawned` or `NotSpawned`.

    Parameters
    ----------
    request : int
        Number of this message, for the answer.
    name : str
        For people, and for lists of processes.
    target : str
        ``"package.module:function"``, called as ``function(payload, link, fds)``: `link` is a socket to the nanny by which
        the process may ask for processes of its own.
    payload : bytes
        For the target alone: the nanny does not look into it.
    preload : list of str
        Modules to import before the fork.
    threads : int
        For OMP_NUM_THREADS and its like.
    memory_bytes : int
        Above 95 % of it the process is killed; 0: no limit.
    restart : bool
        Fork it again, without descriptors, when it ends without the target having returned; but not again and again where
        it never comes to say that it `Works`.
    """

    request: int
    name: str
    target: str
    payload: bytes = b""
    preload: list[str] = []
    threads: int = 1
    memory_bytes: int = 0
    restart: bool = False

    def __repr__(self) -> str:  # the payload may hold a secret
        return f"Spawn({self.name!r}, {self.target!r})"


class Kill(msgspec.Struct, tag=True):
    """End this process at once; it is not restarted. A process that the peer did not ask for, or that is gone: nothing."""

    pid: int


class Works(msgspec.Struct, tag=True):
    """A child does what it was forked for: if it dies now, that is no reason not to start it again."""


class Foresee(msgspec.Struct, tag=True):
    """Processes to come will need these modules: import them when nothing else is to be done."""

    modules: list[str]


class Spawned(msgspec.Struct, tag=True):
    """A process runs. ``request=0``: nobody asked, it was restarted."""

    request: int
    name: str
    pid: int


class NotSpawned(msgspec.Struct, tag=True):
    """The process could not be started, because of this."""

    request: int
    name: str
    text: str


class Exited(msgspec.Struct, tag=True):
    """
    A process has ended and is gone.

    Parameters
    ----------
    name, pid : str, int
    text : str
        For people: ``"exit code 1"``, ``"killed by SIGKILL"``, and why where the nanny knows.
    expected : bool
        The target has returned, or the process was told to end.
    """

    name: str
    pid: int
    text: str
    expected: bool


class GaveUp(msgspec.Struct, tag=True):
    """A process that died again and again is not restarted any more."""

    name: str
    text: str


Request = Setup | Spawn | Kill | Works | Foresee
Event = Spawned | NotSpawned | Exited | GaveUp

_encoder = msgspec.msgpack.Encoder()


class Packets:
    """
    One end of a nanny's socket, not blocking: messages are sent when there is room, in order.

    Parameters
    ----------
    sock : socket.socket
    incoming : type
        `Request` for a nanny's end, `Event` for a peer's.
    """

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def send(self, message: Request | Event, fds: Sequence[int] = ()) -> None:
        """Send now or with a later `flush`. The descriptors belong to the other end from here on: they are closed here."""
        packet = _encoder.encode(message)
        if len(packet) > MAX_PACKET_BYTES:
            close_all(fds)
            raise ConfigError(f"expected at most {MAX_PACKET_BYTES} bytes for {message!r}, found {len(packet)}")
        self._unsent.append((packet, fds))
        self.flush()

    def flush(self) -> bool:
        """Send what there is room for. True: nothing is left. What cannot be sent because nobody reads is dropped."""
        while self._unsent:
            packet, fds = self._unsent[0]
            try:
                socket.send_fds(self._sock, [packet], list(fds))
            except BlockingIOError:
                return False
            except OSError:  # the other end is gone, which `receive` reports
                self._drop()
                return True
            self._unsent.popleft()
            close_all(fds)
        return True

    def receive(self) -> Iterator[tuple[Any, list[int]]]:
        """
        Messages that are there, each with its descriptors, which belong to the caller.

        Raises
        ------
        ConnectionLost
            The other end is gone, or sent what is no message.
        """
        while True:
            try:
                packet, fds, flags, _ = socket.recv_fds(self._sock, MAX_PACKET_BYTES, MAX_FDS)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionLost(f"the nanny's socket failed: {error}") from error
            if not packet:
                raise ConnectionLost("the other end of the nanny's socket is closed")
            try:
                message = self._decoder.decode(packet)
            except msgspec.MsgspecError as error:
                close_all(fds)
                raise ConnectionLost(f"expected a message on the nanny's socket, found {error} (flags {flags})") from error
            yield message, fds

    def shut(self) -> None:
        """Tell the other end that this one is gone, also where forked processes hold copies of it. `receive` raises then."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._drop()
        self._sock.close()

    def _drop(self) -> None:
        for _, fds in self._unsent:
            close_all(fds)
        self._unsent.clear()


def launch(preload: Sequence[str] = ()) -> tuple[subprocess.Popen[bytes], Packets]:
    """
    Start a nanny: an interpreter of its own, in a session of its own, so that Ctrl-C at a terminal does not reach it.

    It finds modules as this process does, and ends with everything it forked when the socket closes or this process ends.
    """
    ours, theirs = Packets.pair()
    root = str(Path(__file__).resolve().parents[2])
    pythonpath = os.environ.get("PYTHONPATH")
    threads = thread_environment(1)  # before numpy is first loaded: pools of threads would not survive the forks
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join([root, pythonpath] if pythonpath else [root])}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "parml_core.runtime.nanny", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    packets = Packets(ours, Event)
    packets.send(Setup(os.getpid(), list(sys.path), pythonpath, bytes(current_process().authkey), list(preload)))
    return process, packets


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that keep numerical libraries to so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors, those that are closed already included."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)

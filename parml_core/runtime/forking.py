"""What a fork needs: modules imported before it, a clean process after it, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from parml_core.runtime.nanny_protocol import Spawn, thread_environment

Target = Callable[[bytes, socket.socket, list[int]], None]

CLEAN_EXIT = 90
"""Exit code of a child whose target has returned; 0 may also come from a task that called os._exit(0)."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_FORK_SAFE_THREAD = "jemalloc_bg_thd"  # pyarrow's: jemalloc holds its own locks over a fork
_libc = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger("parml.nanny")


class CannotStart(Exception):
    """A process cannot be started; the text says why."""


# --- before ------------------------------------------------------------------------------------------------------------


def import_once(name: str) -> Any:
    """
    A module, imported for all processes that will be forked from here.

    Raises
    ------
    CannotStart
        Whatever the module did on import.
    """
    known = sys.modules.get(name)
    if known is not None:
        return known
    before = _thread_names()
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        raise CannotStart(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    strangers = sorted(_thread_names() - before - {_FORK_SAFE_THREAD})
    if strangers:
        log.warning("importing %r started threads (%s), which do not exist in processes forked from here", name, strangers)
    gc.collect()
    gc.freeze()  # the collector of a child does not touch, and so does not copy, what was imported here
    return module


def resolve(target: str) -> Target:
    """The function that ``"package.module:function"`` names. Raises CannotStart."""
    module, _, function = target.partition(":")
    found = getattr(import_once(module), function, None)
    if not callable(found):
        raise CannotStart(f"expected a function {function!r} in module {module!r}, found {found!r}")
    return found  # type: ignore[no-any-return]


def _thread_names() -> set[str]:
    names = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as file:
            names.add(file.read().strip())
    return names


# --- in the child ------------------------------------------------------------------------------------------------------


def be(
    spawn: Spawn, target: Target, link: socket.socket, fds: list[int], *, nanny_pid: int, let_go: Callable[[], None]
) -> NoReturn:
    """Become the process that was forked for `spawn`, until it ends. `let_go` parts with what is the nanny's."""
    code = 1
    try:
        _die_with(nanny_pid, spawn.name)
        os.setpgid(0, 0)
        let_go()
        os.environ.update(thread_environment(spawn.threads))
        _adjust_libraries(spawn.threads)
        target(spawn.payload, link, fds)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code & 0xFF or CLEAN_EXIT)


def _die_with(nanny_pid: int, name: str) -> None:
    """Have the kernel kill this process when the nanny dies, however that happens; show `name` in lists of processes."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_NAME, f"parml {name}".encode()[:15], 0, 0, 0)
    if os.getppid() != nanny_pid:  # it died before the kernel was asked
        os._exit(1)


def _adjust_libraries(threads: int) -> None:
    """Give libraries that are loaded already random numbers of this process's own, and its number of threads."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    if threads != 1 and "numpy" in sys.modules:  # they were loaded for one thread each
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)


# --- from outside ------------------------------------------------------------------------------------------------------


def own_memory_of(pid: int) -> int:
    """
    Bytes of memory that are the process's own: private pages, and the segments that it has made (`store.shared`).

    Without libraries, and without the segments of others, whose pages it maps as every reader on the host does.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES + _segment_bytes_of(pid)


def _segment_bytes_of(pid: int) -> int:
    """Of the files in memory that the process has open for writing, as who made them has, unlike who has borrowed them."""
    total, folder = 0, f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # closed meanwhile
                path = f"{folder}/{name}"
                if os.readlink(path).startswith("/memfd:parml") and os.lstat(path).st_mode & stat.S_IWUSR:
                    total += os.stat(path).st_blocks * 512
    return total


def how_it_ended(code: int) -> str:
    """
    An exit code, or minus the number of a signal, in words.

    Examples
    --------
    >>> how_it_ended(3), how_it_ended(-9)
    ('exit code 3', 'killed by SIGKILL')
    """
    if code == CLEAN_EXIT:
        return "it was done"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"

"""What this machine has: processors and memory that this process may use, and sizes as people write them."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import re
import resource
import tempfile
from pathlib import Path

from parml_core.errors import ConfigError

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", re.IGNORECASE)


def cores() -> int:
    """
    Processors that this process may use: what its affinity allows, and what its cgroups pay for.

    Examples
    --------
    >>> 1 <= cores() <= os.cpu_count()
    True
    """
    allowed: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroup_folders("cpu"):
        allowed = min(allowed, _cpu_quota(folder))
    return max(1, math.ceil(allowed))


def memory_bytes() -> int:
    """
    Memory that this process may use: that of the machine, or what its cgroups allow where that is less.

    Examples
    --------
    >>> memory_bytes() > 2**20
    True
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit() and int(text) > 0:
                total = min(total, int(text))
    return total


def allow_open_files() -> None:
    """As many open files as this process may allow itself."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_system_of(folder: str | Path) -> str:
    """
    The kind of file system that a folder lies on, such as ``"ext4"`` or ``"tmpfs"``; empty where that is not known.

    Examples
    --------
    >>> file_system_of("/proc")
    'proc'
    """
    with contextlib.suppress(OSError):
        device = os.stat(folder).st_dev
        for line in _read(Path("/proc/self/mountinfo")).splitlines():
            mount, _, kind = line.partition(" - ")
            if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return kind.split()[0]
    return ""


def temporary_folder() -> str:
    """
    Where large files go for a while: the usual folder, unless that lies in memory and ``/var/tmp`` does not.

    Examples
    --------
    >>> os.path.isdir(temporary_folder())
    True
    """
    usual, disk = tempfile.gettempdir(), "/var/tmp"
    memory = ("tmpfs", "ramfs")
    better = file_system_of(usual) in memory and file_system_of(disk) not in memory and os.access(disk, os.W_OK)
    return disk if better else usual


def parse_bytes(size: int | str) -> int:
    """
    Bytes that a text stands for.

    Examples
    --------
    >>> parse_bytes("2GiB"), parse_bytes("1.5 kB"), parse_bytes(100)
    (2147483648, 1500, 100)
    """
    if isinstance(size, int):
        return size
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ConfigError(f"expected a size such as '2GiB', '500MB' or a number of bytes, found {size!r}")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def memory_limit(limit: int | float | str | None, *, share: float = 1.0) -> int:
    """
    The memory limit of one worker in bytes; 0: none.

    Parameters
    ----------
    limit : int, float, str or None
        Bytes; a fraction of this machine's memory (a float up to 1.0); a size such as ``"2GiB"``; ``"auto"``: the worker's
        share of the machine; None or 0: no limit.
    share : float
        The worker's share, for ``"auto"``.

    Examples
    --------
    >>> memory_limit("1KiB"), memory_limit(None), memory_limit(0.5) == memory_limit("auto", share=0.5)
    (1024, 0, True)
    """
    if limit is None or limit == 0:
        return 0
    if limit == "auto":
        return int(memory_bytes() * min(share, 1.0))
    if isinstance(limit, float) and limit <= 1.0:
        found = int(memory_bytes() * limit)
    else:
        found = int(limit) if isinstance(limit, float) else parse_bytes(limit)
    if found < 0:
        raise ConfigError(f"expected a memory limit above 0, found {limit!r}; None means no limit")
    return found


def shape(n_workers: int | None, threads_per_worker: int | None) -> tuple[int, int]:
    """
    Workers and threads of each, to fill this machine where the caller leaves it open.

    Up to four cores: one worker of one thread for each, because Python code in threads waits for the interpreter. Above,
    workers have several threads, so that they share what they hold.
    """
    for name, count in (("n_workers", n_workers), ("threads_per_worker", threads_per_worker)):
        if count is not None and not isinstance(count, numbers.Integral):
            raise ConfigError(f"expected {name} to be a whole number, found {count!r}")
    n = cores()
    if n_workers is None and threads_per_worker is None:
        if n <= 4:
            return n, 1
        n_workers = next(count for count in range(1, n + 1) if n % count == 0 and count * count >= n)
    if n_workers is None:
        n_workers = max(1, n // max(1, threads_per_worker or 1))
    if threads_per_worker is None:
        threads_per_worker = max(1, n // max(1, n_workers))
    if n_workers < 0 or threads_per_worker < 1:
        raise ConfigError(f"expected n_workers ≥ 0 and threads_per_worker ≥ 1, found {n_workers} and {threads_per_worker}")
    return n_workers, threads_per_worker


def _cgroup_folders(controller: str) -> list[Path]:
    """Folders of this process's cgroup and those above it, of version 2 and of version 1."""
    folders: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = Path("/sys/fs/cgroup")
        elif controller in controllers.split(","):
            root = Path("/sys/fs/cgroup", controllers)
        else:
            continue
        here = root / path.lstrip("/")
        folders += [here, *(parent for parent in here.parents if parent.is_relative_to(root))]
    return folders


def _cpu_quota(folder: Path) -> float:
    """Processors that a cgroup pays for."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

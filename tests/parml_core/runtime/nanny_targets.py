"""What the nannies of the tests run. Each tells what it has to tell on the descriptors that it was given."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def tell(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """Say who this process is, then end."""
    numpy = sys.modules.get("numpy")
    story = {
        "pid": os.getpid(),
        "payload": payload.decode(),
        "cwd": os.getcwd(),
        "path": sys.path,
        "pythonpath": os.environ.get("PYTHONPATH"),
        "omp": os.environ["OMP_NUM_THREADS"],
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")),
        "mine": sorted([link.fileno(), *fds]),
        "random": random.random(),
        "numpy_random": float(numpy.random.random()) if numpy else None,
        "sigint_ignored": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "sigterm_default": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "group": os.getpgrp(),
        "argv_and_environment": Path("/proc/self/cmdline").read_text() + Path("/proc/self/environ").read_text(),
    }
    os.write(fds[0], json.dumps(story).encode())


def wait(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """Live until somebody ends it."""
    del payload, link, fds
    while True:
        time.sleep(3600)


def refuse_to_end(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """Say that SIGTERM is ignored from here on, and go on for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(fds[0], b"!")
    wait(payload, link, fds)


def have_a_child(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """Start a program that outlives this process if nobody looks after it."""
    program = subprocess.Popen(["sleep", "3600"])
    os.write(fds[0], str(program.pid).encode())
    wait(payload, link, fds)


def exit_with(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """End as told: an exit code, or minus the number of a signal."""
    del link, fds
    code = int(payload)
    if code < 0:
        os.kill(os.getpid(), -code)
    raise SystemExit(code)


def vanish(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """End as no process should that is not done."""
    del payload, link, fds
    os._exit(0)


def eat(payload: bytes, link: socket.socket, fds: list[int]) -> None:
    """Use as many bytes of memory as told, and live."""
    food = bytearray(int(payload))
    food[::4096] = b"x" * len(food[::4096])
    wait(payload, link, fds)

"""Seconds and memory of a program and of all processes that it starts, seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import psutil

SAMPLE_EVERY_S = 0.1


@dataclass
class Report:
    """What a program said of itself (JSON lines on its standard output), and what was seen of it."""

    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    step_bytes: dict[str, tuple[int, int]] = field(default_factory=dict)  # by step what was seen last, and the most
    returncode: int = 0
    error_text: str = ""


def memory_of(pids: Iterable[int]) -> int:
    """
    Bytes that these processes and all their descendants occupy.

    A page that n of them share counts once, not n times; a file in memory counts whole, also where nobody has mapped it yet.

    Examples
    --------
    >>> import os
    >>> 2**20 < memory_of([os.getpid()]) < 2**40
    True
    """
    family: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family.update({p.pid: p for p in [process, *process.children(recursive=True)]})
        except psutil.Error:
            continue
    private = shared = 0
    files: dict[int, int] = {}
    for pid in family:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                parts = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss_")}
            files.update(_files_in_memory(pid))
        except OSError:
            continue
        private += parts["Pss_Anon:"] + parts["Pss_File:"]
        shared += parts["Pss_Shmem:"]
    return private + max(shared, sum(files.values()))


def _files_in_memory(pid: int) -> dict[int, int]:
    """Bytes by inode."""
    found = {}
    for fd in os.scandir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(fd.path).startswith("/memfd:"):
                status = os.stat(fd.path)
                found[status.st_ino] = status.st_blocks * 512
        except OSError:
            continue
    return found


def run_watched(command: list[str], on_step: Callable[[str], None], *, memory: bool = True) -> Report:
    """
    Run a program to its end while its memory is sampled.

    Parameters
    ----------
    command : list of str
        Its standard output is JSON lines. ``{"step": text}`` goes to `on_step`; ``{"pids": [...]}`` names processes that it
        uses without having started them; everything else is collected into ``Report.values``.
    on_step : callable
    memory : bool
        Sampling takes a processor's time: without it, seconds are those of the program alone.
    """
    report = Report()
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watched = {process.pid}
        ended = threading.Event()
        step = ""

        def sample() -> None:
            while not ended.wait(SAMPLE_EVERY_S):
                before, used = step, memory_of(list(watched))
                report.peak_bytes = max(report.peak_bytes, used)
                if before == step:
                    report.step_bytes[step] = used, max(report.step_bytes.get(step, (0, 0))[1], used)

        errors: list[str] = []
        assert process.stdout is not None and process.stderr is not None
        reader = threading.Thread(target=errors.extend, args=(process.stderr,))
        sampler = threading.Thread(target=sample)
        reader.start()
        if memory:
            sampler.start()
        try:
            for line in process.stdout:
                if not line.startswith("{"):  # printed by a library, not by say()
                    errors.append(line)
                    continue
                said = json.loads(line)
                watched.update(said.pop("pids", []))
                if "step" in said:
                    step = said.pop("step")
                    on_step(step)
                report.values.update(said)
        finally:
            report.returncode = process.wait()
            report.seconds = time.perf_counter() - began
            ended.set()
            if memory:
                sampler.join()
            reader.join()
    report.error_text = "".join(errors)
    return report


def say(**values: Any) -> None:
    """Tell the program that runs this one under `run_watched`."""
    print(json.dumps(values), file=sys.__stdout__, flush=True)

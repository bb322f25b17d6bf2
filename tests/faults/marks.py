"""Processes of a test, found whoever their parent is by now: they inherit a mark in their environment."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

MARK = "PARML_TEST_FOLDER"


def marked(folder: Path) -> list[int]:
    """The living processes that were started with ``{MARK: str(folder)}`` in their environment, and all that come from them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it may end between any question and the next
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(folder):
                found.append(process.pid)
    return found

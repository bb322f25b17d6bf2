"""A line in the caller's terminal that says how far a training is: rounds done, and the last metrics. Needs rich."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from parml_core.errors import NotSupported

Scores = Mapping[str, Mapping[str, Any]]
"""Of the last round, by name of data and metric."""


Listener = Callable[[int, bytes], None]
"""Hears how many rounds are done, and the news of the last."""


def news_of(history: Mapping[str, Mapping[str, list[Any]]]) -> bytes:
    """
    The last metrics of a history, as rank 0 tells them.

    Examples
    --------
    >>> news_of({"train": {"rmse": [0.5, 0.25]}})
    b'{"train": {"rmse": 0.25}}'
    """
    last = {data: {metric: float(values[-1]) for metric, values in of.items() if values} for data, of in history.items()}
    return json.dumps(last).encode()


def text_of(scores: Scores) -> str:
    """
    Metrics for people.

    Examples
    --------
    >>> text_of({"train": {"rmse": 0.25}, "valid": {"rmse": 1 / 3}})
    'train rmse 0.25  valid rmse 0.33333'
    """
    return "  ".join(f"{data} {metric} {value:.5g}" for data, of in scores.items() for metric, value in of.items())


@contextmanager
def progress_line(rounds: int, *, shown: bool, file: Any = None) -> Iterator[Listener | None]:
    """
    A line while in this context; None where none is to be shown.

    Parameters
    ----------
    rounds : int
        How many there will be.
    shown : bool
    file : optional
        Where to write. Default: standard output.
    """
    if not shown:
        yield None
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError as error:
        raise NotSupported("expected rich for progress=True, found it missing; install it with pip install rich") from error
    columns = (TextColumn("rounds"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(file=file)) as line:
        task = line.add_task("", total=rounds)

        def show(done: int, news: bytes) -> None:
            line.update(task, completed=done, description=escape(text_of(json.loads(news))))

        yield show

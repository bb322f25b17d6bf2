"""What goes along with the results of a search as they arrive: a line of progress, files from which it can go on."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from parml.model_selection.plan import Call
from parml_core.errors import InputError
from parml_core.hashing import tokenize

__all__ = ["Checkpoint", "Follower", "Interrupted", "Progress"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while calls ran: `results` has what had ended, by number, and `replay` takes what the next run shall give."""

    def __init__(self, results: dict[int, Any], replay: Callable[[list[Any]], None]) -> None:
        super().__init__()
        self.results, self.replay = results, replay


class Progress:
    """
    A line of rich: how much is done, and the best score so far.

    Parameters
    ----------
    what : str
    """

    def __init__(self, what: str) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Line
        except ImportError as error:
            raise ImportError(
                "expected rich to be installed for progress=True, found it is not; pip install 'parml[progress]'"
            ) from error
        count, best = (MofNCompleteColumn(), TimeElapsedColumn()), TextColumn("{task.fields[best]}")
        self._line = Line(TextColumn("{task.description}"), BarColumn(), *count, best, console=Console(stderr=True))
        self._task = self._line.add_task(what, total=0, best="")
        self._total, self._best = 0, -np.inf

    def __enter__(self) -> Progress:
        self._line.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._line.stop()

    def expect(self, count: int) -> None:
        """So many more will come."""
        self._total += count
        self._line.update(self._task, total=self._total)

    def step(self, score: float | None = None, count: int = 1) -> None:
        """So many have come, and with them, maybe, a score that can be compared with others."""
        if score is not None and score > self._best:
            self._best = score
        best = "" if self._best == -np.inf else f"best {self._best:.4f}"
        self._line.update(self._task, advance=count, best=best)


class Checkpoint:
    """
    A directory with a file for each result, named by the content of what was computed.

    Parameters
    ----------
    directory : str or path
        Made where it is not there. Searches may share it.
    """

    def __init__(self, directory: Any) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._tokens: dict[int, tuple[Any, str]] = {}  # by id, with the value itself, which so keeps its id

    def path_of(self, call: Call) -> Path:
        """Where the result of a call is, or would be."""
        kwargs = {name: value for name, value in call.kwargs.items() if name not in _UNIMPORTANT}
        parameters = sorted((kwargs.pop("parameters", None) or {}).items())  # a sampler may draw them in another order
        parts = [self._token(value) for value in (*call.args, *kwargs.values())] + [tokenize(parameters)]
        return self._directory / f"{tokenize(sklearn.__version__, list(kwargs), parts)}.json"

    def load(self, call: Call) -> Any:
        """What was written; None: nothing, or by a machine that failed while it wrote."""
        try:
            return json.loads(self.path_of(call).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def save(self, call: Call, result: Any) -> None:
        """Write a result so that a reader sees all of it or nothing."""
        try:
            text = json.dumps(result, default=_as_number)
        except TypeError as error:
            raise InputError(
                f"expected results of numbers and texts for a checkpoint, found {error}; "
                "let the scorer return numbers, or search without a checkpoint"
            ) from error
        handle, name = tempfile.mkstemp(dir=self._directory, suffix=".tmp")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path_of(call))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def _token(self, value: Any) -> str:
        if id(value) not in self._tokens:
            self._tokens[id(value)] = value, tokenize(value)
        return self._tokens[id(value)][1]


_UNIMPORTANT = frozenset({"caller", "callback_ctx", "verbose", "split_progress", "candidate_progress"})


def _as_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


class Follower:
    """
    Both for the calls of scikit-learn's searches.

    Parameters
    ----------
    progress : Progress, optional
    checkpoint : Checkpoint, optional
    metric : str, optional
        Which of several scores counts.
    """

    def __init__(self, progress: Progress | None, checkpoint: Checkpoint | None, metric: str | None) -> None:
        self._progress, self._checkpoint, self._metric = progress, checkpoint, metric
        self._calls: list[Call] = []
        self._missing: Counter[int] = Counter()
        self._scores: dict[int, list[float]] = {}

    @property
    def wants_each(self) -> bool:
        """Whether results are to be told as they arrive."""
        return self._progress is not None or self._checkpoint is not None

    def begin(self, calls: Sequence[Call]) -> dict[int, Any]:
        """Calls that are about to run; the results of those that need not, by number."""
        self._calls, self._scores = list(calls), {}
        self._missing = Counter(id(call.kwargs.get("parameters")) for call in calls)
        if self._progress is not None:
            self._progress.expect(len(calls))
        known = {}
        if self._checkpoint is not None:
            for i, call in enumerate(calls):
                result = self._checkpoint.load(call)
                if result is not None:
                    known[i] = result
        for i, result in known.items():
            self._show(i, result)
        return known

    def hear(self, number: int, result: Any) -> None:
        """A call has ended."""
        if self._checkpoint is not None:
            self._checkpoint.save(self._calls[number], result)
        self._show(number, result)

    def _show(self, number: int, result: Any) -> None:
        if self._progress is None:
            return
        candidate = id(self._calls[number].kwargs.get("parameters"))
        scores = result.get("test_scores") if isinstance(result, dict) else None
        if isinstance(scores, dict):
            scores = scores.get(self._metric, next(iter(scores.values()), None))
        if isinstance(scores, (int, float)):
            self._scores.setdefault(candidate, []).append(float(scores))
        self._missing[candidate] -= 1
        done = not self._missing[candidate] and candidate in self._scores
        self._progress.step(float(np.mean(self._scores[candidate])) if done else None)

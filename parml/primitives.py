"""
The steps that every chunked collection is made of, as tasks: `source` makes chunks, `map_blocks` changes them one by one,
`tree_reduce` merges them into one, `shuffle` sends each row to the chunk that it belongs to.

A *group* is the part of a key before the colon, a name and a content token. Chunk i of a group is the task ``"group:i"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from parml_core.graph import Hints, Ref, Task
from parml_core.typing import Key

FAN_IN = 16
_AT_ONCE = Hints(priority=1)
MOST_PIECES = 4096
"""A shuffle has at most so many pieces, about: one for each chunk and target, or several targets in one."""


def chunk_key(group: str, index: int) -> Key:
    """
    The key of one chunk.

    Examples
    --------
    >>> chunk_key("read_csv-3f9c", 2)
    'read_csv-3f9c:2'
    """
    return f"{group}:{index}"


def source(group: str, fn: Callable[[Any], Any], parts: Iterable[Any]) -> list[Task]:
    """
    One chunk for each part: what `fn` makes of the part.

    Examples
    --------
    >>> from parml_core.graph import Graph, evaluate
    >>> evaluate(Graph(source("sq-1", lambda n: n * n, [3, 4])), ["sq-1:0", "sq-1:1"])
    [9, 16]
    """
    return map_blocks(group, fn, parts)


def map_blocks(group: str, fn: Callable[..., Any], *columns: Iterable[Any]) -> list[Task]:
    """
    Chunk i is ``fn(*(column[i] for column in columns))``.

    Parameters
    ----------
    group : str
    fn : callable
    *columns : iterable
        Equally long. Chunks of other collections stand in them as `Ref`.

    Examples
    --------
    >>> from parml_core.graph import Graph, Ref, evaluate
    >>> tasks = source("n-1", int, "12") + map_blocks("sum-2", pow, [Ref("n-1:0"), Ref("n-1:1")], [5, 3])
    >>> evaluate(Graph(tasks), ["sum-2:0", "sum-2:1"])
    [1, 8]
    """
    return [Task(chunk_key(group, index), fn, args) for index, args in enumerate(zip(*columns, strict=True))]


def tree_reduce(
    group: str,
    keys: Sequence[Key],
    combine: Callable[[list[Any]], Any],
    finish: Callable[[list[Any]], Any] | None = None,
    *,
    fan_in: int = FAN_IN,
) -> list[Task]:
    """
    Merge chunks, up to `fan_in` at a time and always neighbours, until one is left: ``"group:0"``.

    Parameters
    ----------
    group : str
    keys : sequence of str
        The chunks, at least one, in order.
    combine : callable
        Takes a list of chunks or of what `combine` returned, in order.
    finish : callable, optional
        Takes the place of `combine` in the last step. Default: `combine`.

    Examples
    --------
    >>> from parml_core.graph import Graph, evaluate
    >>> tasks = source("n-1", int, range(100))
    >>> evaluate(Graph(tasks + tree_reduce("sum-2", [task.key for task in tasks], sum)), ["sum-2:0"])
    [4950]
    """
    tasks: list[Task] = []
    level = 0
    while len(keys) > fan_in:
        merged = [
            Task(f"{group}:{level},{start // fan_in}", combine, ([Ref(key) for key in keys[start : start + fan_in]],))
            for start in range(0, len(keys), fan_in)
        ]
        tasks += merged
        keys = [task.key for task in merged]
        level += 1
    tasks.append(Task(chunk_key(group, 0), finish or combine, ([Ref(key) for key in keys],)))
    return tasks


class Pieces:
    """
    The rows of a chunk in the order of the targets that they go to.

    Parameters
    ----------
    rows : array or pandas object
    bounds : sequence of int
        Where the rows of each target begin, and the end of the last.
    first : int
        The number of the first target.

    Examples
    --------
    >>> pieces = Pieces.of(np.array([10, 11, 12, 13]), np.array([2, 0, 2, 0]), 3)
    >>> [pieces.rows_of(target).tolist() for target in range(3)]
    [[11, 13], [], [10, 12]]
    """

    __slots__ = ("bounds", "first", "rows")

    def __init__(self, rows: Any, bounds: Sequence[int], first: int = 0) -> None:
        self.rows, self.bounds, self.first = rows, bounds, first

    @classmethod
    def of(cls, chunk: Any, targets: np.ndarray, n_targets: int) -> Pieces:
        """A chunk whose row i goes to ``targets[i]``. Rows of a target keep their order."""
        small = targets.astype(np.min_scalar_type(n_targets), copy=False)  # numpy sorts numbers of 16 bits by radix
        order = np.argsort(small, kind="stable")
        bounds = np.searchsorted(small[order], np.arange(n_targets + 1)).tolist()
        return cls(chunk.take(order, axis=0), bounds)

    def between(self, first: int, stop: int) -> Pieces:
        """Those of the targets from `first` to before `stop`; a view."""
        bounds = self.bounds[first - self.first : stop - self.first + 1]
        rows = _sliced(self.rows, bounds[0], bounds[-1])
        return Pieces(rows, [bound - bounds[0] for bound in bounds], first)

    def rows_of(self, target: int) -> Any:
        """The rows of a target; a view."""
        place = target - self.first
        return _sliced(self.rows, self.bounds[place], self.bounds[place + 1])


def _sliced(rows: Any, start: int, stop: int) -> Any:
    return rows.iloc[start:stop] if hasattr(rows, "iloc") else rows[start:stop]


def shuffle(
    group: str,
    keys: Sequence[Key],
    n_targets: int,
    target_of: Callable[..., np.ndarray],
    join: Callable[[list[Any]], Any],
    *args: Any,
) -> list[Task]:
    """
    Chunk t is what `join` makes of all rows that belong to target t, in the order of the chunks that they come from.

    Each chunk is sorted by target where it lies and cut into pieces, which stay there, in memory or on disk, until those who
    join them fetch them: from worker to worker, and nobody fetches much more than it needs. A lost piece is made again from
    its chunk alone.

    Parameters
    ----------
    group : str
    keys : sequence of str
        The chunks, at least one: arrays or pandas objects.
    n_targets : int
    target_of : callable
        ``target_of(chunk, *args)`` is the target of each row, shape (n_rows,), of integers from 0 to below `n_targets`.
    join : callable
        Takes the rows from each chunk, as many items as there are chunks; some may have no rows.
    *args
        May hold `Ref`.

    Examples
    --------
    >>> from parml_core.graph import Graph, evaluate
    >>> chunks = source("n-1", np.array, [[1, 2, 3], [4, 5, 6]])
    >>> tasks = shuffle("odd-2", [task.key for task in chunks], 2, np.remainder, np.concatenate, 2)
    >>> [chunk.tolist() for chunk in evaluate(Graph(chunks + tasks), ["odd-2:0", "odd-2:1"])]
    [[2, 4, 6], [1, 3, 5]]
    """
    n_groups = min(n_targets, max(1, MOST_PIECES // len(keys)))
    starts = [n_targets * place // n_groups for place in range(n_groups + 1)]
    tasks: list[Task] = []
    for index, key in enumerate(keys):
        cut = f"cut_{group}:{index}"  # a name of its own: how long a task will take is learnt by name
        tasks.append(Task(cut, _cut, (Ref(key), n_targets, target_of, *args)))
        for place in range(n_groups):
            args_of_piece = (Ref(cut), *starts[place : place + 2])
            tasks.append(Task(f"piece_{group}:{index},{place}", _between, args_of_piece, hints=_AT_ONCE))
    for place in range(n_groups):
        pieces = [Ref(f"piece_{group}:{index},{place}") for index in range(len(keys))]
        tasks += [
            Task(chunk_key(group, target), _join, (target, join, pieces)) for target in range(starts[place], starts[place + 1])
        ]
    return tasks


def _cut(chunk: Any, n_targets: int, target_of: Callable[..., np.ndarray], *args: Any) -> Pieces:
    return Pieces.of(chunk, target_of(chunk, *args), n_targets)


def _between(pieces: Pieces, first: int, stop: int) -> Pieces:
    return pieces.between(first, stop)


def _join(target: int, join: Callable[[list[Any]], Any], pieces: list[Pieces]) -> Any:
    return join([piece.rows_of(target) for piece in pieces])

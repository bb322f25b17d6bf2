"""
The steps that every chunked collection is made of, as tasks: `source` makes chunks, `map_blocks` changes them one by one,
`tree_reduce` merges them into one.

A *group* is the part of a key before the colon, a name and a content token. Chunk i of a group is the task ``"group:i"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from parml_core.graph import Ref, Task
from parml_core.typing import Key

FAN_IN = 16


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

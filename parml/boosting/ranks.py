"""
Which processes train, and on which rows: pure functions of what the engine tells.

Rows are cut in their order into equal runs, one for each rank, so that the same rows on the same number of hosts give the
same model, whatever the partitions, wherever they lie and in whatever order the workers joined. Where the data lies decides
only which of several equal hosts takes which run: the one that holds most of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

from parml_core.engine.base import WorkerInfo
from parml_core.errors import ClusterError
from parml_core.typing import WorkerId

RankPer = Literal["host", "worker"]

Piece = tuple[int, int, int]
"""Rows of one partition: its number, the first row, and the row after the last."""


@dataclass(frozen=True, slots=True)
class Rank:
    """
    One training process.

    Parameters
    ----------
    host : str
    workers : tuple of str
        Ids of the workers whose threads it takes.
    threads : int
    pieces : tuple of Piece
        The rows that it trains on, in row order. A partition may be shared by neighbouring ranks.
    """

    host: str
    workers: tuple[WorkerId, ...]
    threads: int
    pieces: tuple[Piece, ...] = ()


def plan_ranks(
    workers: Sequence[WorkerInfo],
    holders: Sequence[Sequence[WorkerId]],
    rows: Sequence[int],
    *,
    per: RankPer = "host",
    at_most: int | None = None,
    starts: Sequence[int] | None = None,
) -> list[Rank]:
    """
    The ranks of a training: rank 0 has the first rows, and all have the same number, give or take one.

    Parameters
    ----------
    workers : sequence of WorkerInfo
    holders : sequence of sequence of str
        For each partition the workers that hold it.
    rows : sequence of int
        For each partition.
    per : {"host", "worker"}
    at_most : int, optional
        How many ranks. Default: one for each host or worker, as long as each has a row.
    starts : sequence of int, optional
        Rows, counted over all partitions, at which groups begin that have to stay whole; the first is 0.

    Examples
    --------
    >>> workers = [WorkerInfo("w1", "work-01", "a", 2), WorkerInfo("w2", "work-02", "b", 2)]
    >>> for rank in plan_ranks(workers, [("w2",), ("w1",)], [10, 6]):
    ...     print(rank)
    Rank(host='b', workers=('w2',), threads=2, pieces=((0, 0, 8),))
    Rank(host='a', workers=('w1',), threads=2, pieces=((0, 8, 10), (1, 0, 6)))
    """
    places = places_of(workers, per)
    n_ranks = min(len(places), at_most or len(places), sum(rows) if starts is None else len(starts))
    shares = cut_rows(rows, n_ranks, starts)
    chosen = _nearest(places, shares, holders)
    return [replace(place, pieces=share) for place, share in zip(chosen, shares, strict=True)]


def places_of(workers: Sequence[WorkerInfo], per: RankPer) -> list[Rank]:
    """Where ranks can be: hosts or workers, in the order of the workers' names, which they keep when they are restarted."""
    groups: dict[str, list[WorkerInfo]] = {}
    for worker in sorted(workers, key=lambda worker: (worker.name, worker.id)):
        groups.setdefault(worker.host if per == "host" else worker.id, []).append(worker)
    if not groups:
        raise ClusterError("expected at least one worker to train on, found none; start workers")
    return [
        Rank(group[0].host, tuple(worker.id for worker in group), sum(worker.nthreads for worker in group))
        for group in groups.values()
    ]


def n_places(workers: Sequence[WorkerInfo], per: RankPer) -> int:
    """How many ranks there can be."""
    return len({worker.host if per == "host" else worker.id for worker in workers})


def cut_rows(rows: Sequence[int], n: int, starts: Sequence[int] | None = None) -> list[tuple[Piece, ...]]:
    """
    All rows in their order, in `n` runs of equal length, give or take one.

    Parameters
    ----------
    rows : sequence of int
        Of each partition.
    n : int
        At most as many as there are rows, or groups.
    starts : sequence of int, optional
        Rows at which groups begin: each cut is moved to the nearest of them, and each run has a group.

    Examples
    --------
    >>> cut_rows([4, 2], 2)
    [((0, 0, 3),), ((0, 3, 4), (1, 0, 2))]
    >>> cut_rows([4, 2], 2, starts=[0, 4])
    [((0, 0, 4),), ((1, 0, 2),)]
    """
    total = sum(rows)
    cuts = [r * (total // n) + min(r, total % n) for r in range(n + 1)]
    if starts is not None:
        groups = [0]
        for r, cut in enumerate(cuts[1:-1], 1):
            after = bisect_left(starts, cut)
            nearest = after if after < len(starts) and starts[after] - cut <= cut - starts[after - 1] else after - 1
            groups.append(min(max(nearest, groups[-1] + 1), len(starts) - (n - r)))
        cuts = [*(starts[group] for group in groups), total]
    return [_rows_between(rows, start, stop) for start, stop in pairwise(cuts)]


def share_out(n_ranks: int, rows: Sequence[int], starts: Sequence[int] | None = None) -> list[tuple[Piece, ...]]:
    """
    For each rank the rows that it evaluates on: equal runs, or all rows where there are fewer rows, or groups, than ranks.

    A rank without rows would make xgboost refuse categories, and a user's metric divide by nothing; that each takes all of
    them leaves means what they are.

    Examples
    --------
    >>> share_out(2, [1])
    [((0, 0, 1),), ((0, 0, 1),)]
    """
    if (sum(rows) if starts is None else len(starts)) < n_ranks:
        return cut_rows(rows, 1) * n_ranks
    return cut_rows(rows, n_ranks, starts)


def _rows_between(rows: Sequence[int], start: int, stop: int) -> tuple[Piece, ...]:
    ends = list(accumulate(rows))
    pieces = [(i, max(start - end + n, 0), min(stop - end + n, n)) for i, (n, end) in enumerate(zip(rows, ends, strict=True))]
    return tuple((i, begin, end) for i, begin, end in pieces if begin < end)


def _nearest(places: Sequence[Rank], shares: Sequence[Sequence[Piece]], holders: Sequence[Sequence[WorkerId]]) -> list[Rank]:
    """
    For each share a place of its own, such that little has to be moved.

    Places with other numbers of threads add up other rounding errors, so where they differ the order of their names decides.
    """
    if len({place.threads for place in places}) > 1:
        return list(places[: len(shares)])
    index = {worker: i for i, place in enumerate(places) for worker in place.workers}
    held: dict[tuple[int, int], int] = {}
    for s, share in enumerate(shares):
        for partition, start, stop in share:
            for i in {index[worker] for worker in holders[partition] if worker in index}:
                held[s, i] = held.get((s, i), 0) + stop - start
    chosen: dict[int, int] = {}
    for s, i in sorted(held, key=lambda pair: (-held[pair], pair)):
        if s not in chosen and i not in chosen.values():
            chosen[s] = i
    free = iter([i for i in range(len(places)) if i not in chosen.values()])
    return [places[chosen[s] if s in chosen else next(free)] for s in range(len(shares))]

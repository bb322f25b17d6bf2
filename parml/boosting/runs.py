"""
Query groups of a ranking task as runs of rows: where they begin, whatever the partitions.

Rows of a group lie one after the other; it may begin in one partition and end in another. So the groups are known from where
each partition's runs of equal query ids begin, and nothing has to be sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

from parml_core.errors import InputError

Runs: TypeAlias = tuple[Any, Any]
"""Of one partition: where runs of equal query ids begin, and the ids of the runs."""


def runs_of(qid: Any) -> Runs:
    """
    Where runs of equal query ids begin.

    Examples
    --------
    >>> runs_of([7, 7, 3])
    (array([0, 2]), array([7, 3]))
    """
    values = np.asarray(qid)
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.empty(0, int)
    return starts, values[starts]


def sizes_of(qid: Any) -> Any:
    """
    The number of rows of each group, in order.

    Examples
    --------
    >>> sizes_of([7, 7, 3])
    array([2, 1])
    """
    return np.diff(np.r_[runs_of(qid)[0], len(qid)])


def group_starts(runs: Sequence[Runs], rows: Sequence[int]) -> list[int]:
    """
    The rows, counted over all partitions, at which groups begin; an InputError for groups whose rows are scattered.

    Examples
    --------
    >>> group_starts([runs_of([1, 1, 2]), runs_of([2, 3])], [3, 2])
    [0, 2, 4]
    """
    starts: list[Any] = []
    ids: list[Any] = []
    last: Any = None
    for (begin, values), offset in zip(runs, accumulate(rows, initial=0), strict=False):
        if len(values):
            goes_on = int(bool(ids) and values[0] == last)
            starts.append(begin[goes_on:] + offset)
            ids.append(values[goes_on:])
            last = values[-1]
    found, counts = np.unique(np.concatenate(ids), return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"expected the rows of a query group one after the other, found {int((counts > 1).sum())} values of qid in several "
            f"places, {found[counts > 1][0]} among them; sort the rows by qid"
        )
    return [int(start) for start in np.concatenate(starts)]


def qid_of(sizes: Any, rows: int | None) -> Any:
    """
    Query ids for groups of these sizes, and an InputError where these are no sizes of groups of so many rows.

    Examples
    --------
    >>> qid_of([2, 1], rows=3)
    array([0, 0, 1])
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes <= 0).any():
        raise InputError(f"expected group as a list of positive sizes, found {sizes.dtype} {sizes.shape}; or pass qid")
    if rows is not None and sizes.sum() != rows:
        raise InputError(
            f"expected group sizes that add up to the {rows} rows of X, found {len(sizes)} groups of {sizes.sum()} rows"
        )
    return np.repeat(np.arange(len(sizes)), sizes)

"""The rows of a rank: futures of whole partitions in the caller, cut to the rank's rows where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parml.boosting.ranks import Piece
from parml.data import Partitions
from parml.tables import row_count, slice_rows

Batch = dict[str, Any]
"""Rows in memory: ``"X"``, and what there is of ``"y"``, ``"weight"``, … ."""

Share = tuple[dict[str, Any], int, int]
"""One partition by field, futures in the caller and values in the rank, or its recipe and inputs; and which rows of it."""


def share_of(data: Partitions, pieces: Sequence[Piece]) -> list[Share]:
    """The futures of these rows, to be passed to a rank."""
    return [(data.batch(i), start, stop) for i, start, stop in pieces]


def batches_of(shares: Sequence[Share]) -> list[Batch]:
    """
    The rows themselves, one batch for each partition.

    Examples
    --------
    >>> batches_of([({"X": [1, 2, 3], "y": [0, 1, 1]}, 1, 3)])
    [{'X': [2, 3], 'y': [1, 1]}]
    """
    return [rows_of(batch, start, stop) for batch, start, stop in shares]


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """These rows of a batch."""
    return {name: _rows(value, start, stop) for name, value in batch.items()}


def _rows(value: Any, start: int, stop: int) -> Any:
    return value if (start, stop) == (0, row_count(value)) else slice_rows(value, start, stop)

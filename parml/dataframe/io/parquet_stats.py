"""What the footers of Parquet files say of the columns in each row group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from parml.dataframe.io.arrow_tables import plain_type
from parml.dataframe.predicate import Bounds


class RowGroupStatistics:
    """
    Bounds of columns in each row group.

    Parameters
    ----------
    schema : pyarrow Schema
    groups : sequence of pyarrow RowGroupMetaData
    keys : mapping of column to list
        What the directories say: one value for each row group.
    dtypes : mapping of column to pandas dtype
        In which rows are compared. Of others the values are compared as they are.
    """

    def __init__(
        self, schema: pa.Schema, groups: Sequence[Any], keys: Mapping[str, list[Any]], dtypes: Mapping[Any, Any]
    ) -> None:
        self._schema, self._groups, self._keys, self._dtypes = schema, groups, keys, dtypes
        self._found: dict[Any, Bounds | None] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def bounds(self, column: Any) -> Bounds | None:
        if column not in self._found:
            self._found[column] = self._bounds(column)
        return self._found[column]

    def _bounds(self, column: Any) -> Bounds | None:
        if column in self._keys:
            values = pd.Series(self._keys[column])
            there = values.notna().to_numpy()
            return Bounds(there, values[there], values[there], ~there, there)
        if column not in self._schema.names:
            return None
        kind = plain_type(self._schema.field(column).type)
        if pa.types.is_nested(kind):
            return None
        n = len(self)
        lows, highs = [], []
        known, nulls, values = np.zeros(n, bool), np.ones(n, bool), np.ones(n, bool)
        places: dict[int, int] = {}
        for number, group in enumerate(self._groups):
            statistics = _statistics(group, column, places)
            if statistics is None:
                continue
            if statistics.has_null_count:
                # pandas takes a float that is not a number for missing, and no footer counts those.
                nulls[number] = statistics.null_count > 0 or pa.types.is_floating(kind)
                values[number] = statistics.null_count < group.num_rows
            low, high = _extremes(statistics)
            if low is not None and high is not None and low == low and high == high:  # not NaN
                known[number] = True
                lows.append(low)
                highs.append(high)
        try:
            low, high = self._as_pandas(lows, kind, column), self._as_pandas(highs, kind, column)
        except (pa.ArrowException, TypeError, ValueError):
            low = high = pd.Series([], dtype=object)
            known[:] = False
        return Bounds(known, low, high, nulls, values)

    def _as_pandas(self, values: list[Any], kind: pa.DataType, column: Any) -> pd.Series:
        series = pa.array(values, kind).to_pandas()
        return series.astype(self._dtypes[column]) if column in self._dtypes else series


def _statistics(group: Any, column: str, places: dict[int, int]) -> Any:
    """Those of a column of one row group; None where it has none."""
    place = places.get(group.num_columns)
    if place is None or group.column(place).path_in_schema != column:
        found = [i for i in range(group.num_columns) if group.column(i).path_in_schema == column]
        if not found:
            return None
        place = places[group.num_columns] = found[0]
    return group.column(place).statistics


def _extremes(statistics: Any) -> tuple[Any, Any]:
    try:
        return (statistics.min, statistics.max) if statistics.has_min_max else (None, None)
    except (ValueError, OverflowError):  # a text cut in the middle of a character, a time that Python has not
        return None, None


def columns_with_nulls(groups: Sequence[Any]) -> set[str]:
    """Columns of which some row group has a null, or does not say that it has none."""
    found: set[str] = set()
    for group in groups:
        for place in range(group.num_columns if group.num_rows else 0):
            column = group.column(place)
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count:
                found.add(column.path_in_schema)
    return found

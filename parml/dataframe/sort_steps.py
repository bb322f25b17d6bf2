"""Extremes, quantiles and first occurrences of one partition, and of what was kept of several: plain pandas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.groupby_steps import VALUE
from parml.dataframe.plan_shuffle import place_of
from parml.dataframe.reductions import Counts


@dataclass(frozen=True)
class Extremes:
    """The largest or smallest rows of a partition, and of those of several."""

    method: str
    n: int
    kwargs: dict[str, Any]

    def chunk(self, rows: Any) -> Any:
        return getattr(rows, self.method)(self.n, **self.kwargs)

    def combine(self, parts: list[Any]) -> Any:
        return self.chunk(steps.concat(parts))


def distinct(parts: list[pd.Series]) -> pd.Series:
    """The values of several partitions, each once."""
    return steps.concat(parts).drop_duplicates()  # type: ignore[no-any-return]


def unique(parts: list[pd.Series]) -> Any:
    """An array of the values of several partitions, each once."""
    return steps.concat(parts).unique()


@dataclass(frozen=True)
class MostFrequent:
    """The values that occur most often."""

    counts: Counts
    dropna: bool

    def __call__(self, partials: list[pd.Series]) -> pd.Series:
        counts = self.counts.combine(partials)
        values = counts.index[(counts > 0) & (counts == counts.max())] if len(counts) else counts.index
        return pd.Series(values, dtype=self.counts.meta.dtype, name=self.counts.meta.name).mode(self.dropna)


def starts_and_end(counts: list[Any]) -> list[int]:
    """The number of the first row of each partition, and of all rows."""
    return [0, *np.cumsum(steps.listed(counts)).tolist()]


@dataclass(frozen=True)
class Picks:
    """The values at the places that quantiles lie between."""

    q: Any
    interpolation: str
    meta: pd.Series

    def _places(self, n_rows: int) -> list[tuple[int, float]]:
        places = [max(n_rows - 1, 0) * float(q) for q in np.atleast_1d(self.q)]
        return [(int(place), place - int(place)) for place in places]

    def chunk(self, rows: pd.DataFrame, starts: list[int], partition: int) -> dict[int, pd.Series]:
        start = starts[partition]
        wanted = {place + more for place, _ in self._places(starts[-1]) for more in (0, 1)} | {starts[-1] - 1}
        values = {
            place: rows[VALUE].iloc[place - start : place - start + 1] for place in wanted if start <= place < start + len(rows)
        }
        return {-1: starts[-1], **values}

    def combine(self, parts: list[dict[int, Any]]) -> dict[int, Any]:
        return {place: value for part in parts for place, value in part.items()}

    def finish(self, parts: list[dict[int, Any]]) -> Any:
        values = self.combine(parts)
        n_rows = values[-1]
        if not n_rows:
            return self.meta.quantile(self.q, self.interpolation)
        results = []
        for place, share in self._places(n_rows):
            pair = pd.concat([values[place], values[min(place + 1, n_rows - 1)]])
            results.append(pair.quantile(share, self.interpolation))
        if not isinstance(self.q, list | tuple | np.ndarray):
            return results[0]
        index = pd.Index(self.q, dtype="float64")
        return pd.Series(results, index=index, name=self.meta.name, dtype=self.meta.iloc[:0].quantile([0.5]).dtype)


def first_of_each(numbered_rows: pd.DataFrame, width: int, keep: Any) -> pd.DataFrame:
    """The rows whose first columns occur for the first time."""
    return numbered_rows[~numbered_rows.iloc[:, :width].duplicated(keep=keep)]


def places_of_first(numbered_rows: pd.DataFrame, width: int, keep: Any) -> pd.DataFrame:
    """The places of these rows, and where they came from."""
    home = first_of_each(numbered_rows, width, keep).iloc[:, -1]
    return pd.DataFrame({0: place_of(home), 1: home})


def kept_places(numbered_rows: pd.DataFrame, width: int, keep: Any) -> pd.Series:
    """The places of these rows, where no row moved."""
    return place_of(first_of_each(numbered_rows, width, keep).iloc[:, -1])

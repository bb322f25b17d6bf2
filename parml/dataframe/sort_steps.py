"""Extremes, quantiles and first occurrences of one partition, and of what was kept of several: plain pandas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.plan_shuffle import place_of


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


def marked_duplicates(numbered_rows: pd.DataFrame, width: int, keep: Any) -> pd.DataFrame:
    """Whether the first columns occur elsewhere, and where the rows came from."""
    return pd.DataFrame({0: numbered_rows.iloc[:, :width].duplicated(keep=keep), 1: numbered_rows.iloc[:, -1]})

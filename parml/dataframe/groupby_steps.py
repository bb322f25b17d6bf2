"""
What a group-by does to one partition, or to partial results of several: plain pandas, no plan, no engine.

`Partials` aggregates without having a group's rows in one place: a partial result of each partition, merged. `Whole` calls any
method of pandas' group-by where they are in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps

VALUE = "__parml_value__"
"""The column of the values of a series that is grouped."""

# What is kept of a column for each aggregation, and what merges it where that is not itself.
KEPT = {
    "sum": ("sum",), "prod": ("prod",), "min": ("min",), "max": ("max",), "first": ("first",), "last": ("last",),
    "any": ("any",), "all": ("all",), "count": ("count",), "size": ("size",), "mean": ("total", "count"),
    "var": ("total", "count", "squares"), "std": ("total", "count", "squares"),
}  # fmt: skip
_MERGED_BY = {"count": "sum", "size": "sum", "total": "sum", "squares": "sum"}


@dataclass(frozen=True)
class Grouping:
    """
    How rows are grouped.

    Parameters
    ----------
    by : tuple
        Columns of the keys.
    names : tuple
        What the keys are called in the result; columns of other names are no part of it.
    single : bool
        One key that was not given in a list.
    sort, dropna, observed, as_index, group_keys : bool
        As in pandas.
    """

    by: tuple[Any, ...]
    names: tuple[Any, ...]
    single: bool = False
    sort: bool = True
    dropna: bool = True
    observed: bool = True
    as_index: bool = True
    group_keys: bool = True

    def of(self, frame: pd.DataFrame, series: bool, name: Any) -> Any:
        """pandas' group-by of a partition: of all its columns, or of the column `VALUE`, under a name."""
        columns = list(zip(self.by, self.names, strict=True))
        if series:
            keys = [frame[column].rename(key) for column, key in columns]
            values: Any = frame[VALUE].rename(name)
        else:
            keys = [column if column == key else frame[column].rename(key) for column, key in columns]
            hidden = [column for column, key in columns if column != key]
            values = frame.drop(columns=hidden) if hidden else frame
        return values.groupby(
            keys[0] if self.single else keys,
            sort=self.sort,
            dropna=self.dropna,
            observed=self.observed,
            as_index=self.as_index,
            group_keys=self.group_keys,
        )


@dataclass(frozen=True)
class Whole:
    """
    A method of pandas' group-by, of all rows of each group.

    Parameters
    ----------
    grouping : Grouping
    series : bool
        The column `VALUE` is grouped, as a series.
    selection : object
        Of a frame: a column, a list of columns, or None for all. Of a series: its name.
    name : str
    args : tuple
    kwargs : dict
        Of the method.
    """

    grouping: Grouping
    series: bool
    selection: Any
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, frame: pd.DataFrame) -> Any:
        grouped = self.grouping.of(frame, self.series, self.selection)
        if not self.series and self.selection is not None:
            grouped = grouped[self.selection]
        return getattr(grouped, self.name)(*self.args, **self.kwargs)


@dataclass(frozen=True)
class WholeGroups:
    """`Whole` on a partition that may have no rows, or none with keys."""

    whole: Whole
    meta: Any

    def __call__(self, frame: pd.DataFrame) -> Any:
        grouping = self.whole.grouping
        if grouping.observed and not len(frame):
            return self.meta
        if self.whole.name == "transform" and grouping.dropna and frame[list(grouping.by)].isna().any(axis=1).all():
            return self.meta.reset_index(drop=True).reindex(range(len(frame))).set_axis(frame.index)  # pandas fails here
        return self.whole(frame)


@dataclass(frozen=True)
class Returning:
    """
    `Whole` on rows that go back to where they came from.

    The frame has its columns numbered, and a last one that tells where a row came from; so has the result. pandas gives each
    row of the result the label of the row that it belongs to.
    """

    whole: WholeGroups
    columns: pd.Index

    def __call__(self, numbered: pd.DataFrame) -> pd.DataFrame:
        frame = numbered.iloc[:, :-1].set_axis(self.columns, axis=1).reset_index(drop=True)
        result = self.whole(frame)
        places = result.index.to_numpy(dtype="int64")
        result = result.to_frame() if isinstance(result, pd.Series) else result
        result = result.set_axis(range(result.shape[1]), axis=1).set_axis(numbered.index.take(places), axis=0)
        return result.assign(**{"home": numbered.iloc[places, -1].to_numpy()})


def order_of_groups(grouping: Grouping, results: list[Any]) -> Any:
    """Results of all groups in the order in which pandas sorts groups."""
    result = steps.concat(results, not grouping.as_index)
    keys: dict[str, Any] = {"level": list(range(len(grouping.by)))} if grouping.as_index else {"by": list(grouping.names)}
    numbers = result.groupby(**keys, sort=True, dropna=False, observed=True).ngroup().to_numpy()
    result = result.take(np.argsort(numbers, kind="stable"))
    return result if grouping.as_index else result.reset_index(drop=True)


@dataclass(frozen=True)
class Partials:
    """
    Aggregations from partial results.

    A partial result is a frame: the keys in columns 0, 1, ..., then what is kept of each column.

    Parameters
    ----------
    grouping : Grouping
    wanted : tuple of (column, name)
        A column and one of `KEPT` for each column of the result; the column is None for sizes.
    meta : DataFrame or Series
        What pandas makes of no rows.
    ddof : int
        Of variances.
    """

    grouping: Grouping
    wanted: tuple[tuple[Any, str], ...]
    meta: Any
    ddof: int = 1

    @property
    def keys(self) -> list[int]:
        """The columns of the keys in a partial result."""
        return list(range(len(self.grouping.by)))

    @property
    def _places(self) -> dict[tuple[Any, str], int]:
        """In which column of a partial result stands what is kept of a column."""
        kept = dict.fromkeys((column, kept) for column, name in self.wanted for kept in KEPT[name])
        return {one: place for place, one in enumerate(kept, len(self.keys))}

    def chunk(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The partial result of a partition."""
        columns = dict(enumerate(frame[column] for column in self.grouping.by))
        for (column, kept), place in self._places.items():
            if column is not None:
                columns[place] = steps.as_float(frame[column]) if kept in ("total", "squares") else frame[column]
        working = pd.DataFrame(columns, copy=False)
        grouped = self._grouped(working)
        made = {place: _keep(grouped, kept, place) for (_, kept), place in self._places.items()}
        return self._flat(made)

    def combine(self, partials: list[pd.DataFrame]) -> pd.DataFrame:
        """Several partial results as one."""
        return self._flat(self._merged(partials))

    def finish(self, partials: list[pd.DataFrame]) -> Any:
        """The result of the groups whose partial results these are."""
        if self.grouping.observed and not any(len(partial) for partial in partials):
            return self.meta
        merged = self._merged(partials, final=True)
        index = next(iter(merged.values())).index.set_names(list(self.grouping.names))
        dtypes = [self.meta.dtype] if isinstance(self.meta, pd.Series) else list(self.meta.dtypes)[-len(self.wanted) :]
        results = [
            self._result(merged, column, name, dtype).set_axis(index)
            for (column, name), dtype in zip(self.wanted, dtypes, strict=True)
        ]
        if isinstance(self.meta, pd.Series):
            return results[0].rename(self.meta.name)
        if not self.grouping.as_index:
            results = [index.get_level_values(level).to_series(index=index) for level in self.keys] + results
        frame = pd.DataFrame(dict(enumerate(results)), index=index).set_axis(self.meta.columns, axis=1)
        return frame if self.grouping.as_index else frame.reset_index(drop=True)

    def finish_one(self, partial: pd.DataFrame) -> Any:
        """The result of the groups of one partial result."""
        return self.finish([partial])

    def _grouped(self, frame: pd.DataFrame, final: bool = False) -> Any:
        how = self.grouping
        if final:
            # With numbers as names, pandas 3.1 mixes up the levels of groups that were not observed.
            keys = [frame[key].rename(f"key {key}") for key in self.keys]
            return frame.groupby(keys, sort=how.sort, dropna=how.dropna, observed=how.observed)
        # Beside groups that were not observed, pandas shows keys that occur only with nulls.
        return frame.groupby(self.keys, sort=False, dropna=how.dropna and how.observed, observed=True)

    def _merged(self, partials: Sequence[pd.DataFrame], final: bool = False) -> dict[int, pd.Series]:
        places = self._places
        frame = steps.concat(partials, ignore_labels=True)
        for (column, kept), place in places.items():
            if kept == "squares":  # Chan, Golub and LeVeque (1979): distances from the common mean
                total, count = places[column, "total"], places[column, "count"]
                grouped = self._grouped(frame)
                common = grouped[total].transform("sum") / grouped[count].transform("sum")
                distance = (frame[total] / frame[count] - common).fillna(0.0)
                frame[place] = frame[place] + frame[count] * distance**2
        grouped = self._grouped(frame, final)
        return {place: getattr(grouped[place], _MERGED_BY.get(kept, kept))() for (_, kept), place in places.items()}

    def _flat(self, made: dict[int, pd.Series]) -> pd.DataFrame:
        """Keys and what is kept as columns."""
        index = next(iter(made.values())).index
        keys = {key: index.get_level_values(key).array for key in self.keys}
        return pd.DataFrame({**keys, **{place: series.array for place, series in made.items()}}, copy=False)

    def _result(self, merged: dict[int, pd.Series], column: Any, name: str, dtype: Any) -> pd.Series:
        if name == "size":
            return merged[self._places[column, name]].astype(dtype)
        if name not in ("mean", "var", "std"):
            return merged[self._places[column, name]]
        count = merged[self._places[column, "count"]]
        if name == "mean":
            result = merged[self._places[column, "total"]] / count
        else:
            count = (count - self.ddof).clip(lower=0)
            result = merged[self._places[column, "squares"]] / count
        result = result.mask(count == 0).astype(dtype)
        return np.sqrt(result) if name == "std" else result  # type: ignore[return-value]


def _keep(grouped: Any, kept: str, place: int) -> pd.Series:
    if kept == "size":
        return grouped.size()  # type: ignore[no-any-return]
    if kept == "squares":
        return (grouped[place].var(ddof=0) * grouped[place].count()).fillna(0.0)  # type: ignore[no-any-return]
    return getattr(grouped[place], "sum" if kept == "total" else kept)()  # type: ignore[no-any-return]

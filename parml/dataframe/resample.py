"""Rows in bins of time: `resample`. Bins are groups, so that what a bin holds may lie in several partitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.ascending import ends_of, keys_of, with_keys
from parml.dataframe.base import Frame
from parml.dataframe.groupby import holds_function
from parml.dataframe.meta import sample_of
from parml.dataframe.operators import like_pandas
from parml.dataframe.plan import Blockwise, Node, Numbers, Rows
from parml.dataframe.plan_across import Reduce, labelled
from parml_core.errors import NotSupported


class Resamples:
    """`resample`, for frames and series."""

    _node: Node

    def resample(
        self,
        rule: Any,
        closed: str | None = None,
        label: str | None = None,
        on: Any = None,
        origin: Any = "start_day",
        offset: Any = None,
    ) -> Resampler:
        """
        Rows in bins of time, for aggregations; bins without rows are in the result as in pandas'.

        Parameters
        ----------
        rule : str or offset
            How long bins are: ``"15min"``, ``"D"``, ``"ME"``.
        closed, label : {"left", "right"}, optional
            Which end belongs to a bin, and which one it is called by.
        on : column, optional
            Of the times. Default: the labels of the rows. They ascend, which is found out while they are read.
        origin, offset : optional
            As in pandas.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> times = pd.date_range("2024-01-01 22:00", periods=4, freq="h")
        >>> pdf.from_pandas(pd.Series([1, 2, 3, 4], index=times), npartitions=3).resample("D").sum().compute().tolist()
        [3, 7]
        """
        return Resampler(self, Bins(rule, closed, label, origin, offset), on)


@dataclass(frozen=True)
class Bins:
    """
    Bins of time; pandas makes them.

    Parameters
    ----------
    rule, closed, label, origin, offset
        As of pandas' ``resample``.
    """

    rule: Any
    closed: str | None
    label: str | None
    origin: Any
    offset: Any

    def resampler(self, rows: Any, origin: Any = None) -> Any:
        """pandas' own."""
        given = {"closed": self.closed, "label": self.label, "offset": self.offset}
        return rows.resample(self.rule, origin=self.origin if origin is None else origin, **given)

    def counts(self, times: pd.Index, origin: Any = None) -> pd.Series:
        """How many of some times, which ascend, lie in each bin."""
        return self.resampler(pd.Series(1, index=times), origin).count()  # type: ignore[no-any-return]

    def labels_of(self, times: pd.Index, ends: pd.Index) -> pd.Index:
        """The label of the bin of each of some times, which ascend and lie between the first and the last of all."""
        if not len(times):
            return times
        origin = self._fixed_origin(ends)
        if origin is not None:
            counts = self.counts(times, origin)
            return counts.index.repeat(counts)
        counts = self.counts(ends[:1].append([times, ends[1:]]))  # bins begin where the first of all times says
        return counts.index.repeat(counts)[1:-1]

    def _fixed_origin(self, ends: pd.Index) -> Any:
        """The time from which bins of fixed length are counted in both directions, where it is one."""
        fixed = isinstance(pd.tseries.frequencies.to_offset(self.rule), pd.offsets.Tick)
        if not fixed or not isinstance(ends, pd.DatetimeIndex) or self.origin in ("end", "end_day"):
            return None
        return {"start_day": ends[0].normalize(), "start": ends[0]}.get(self.origin, self.origin)


class Resampler:
    """
    Rows in bins of time; see `Resamples.resample`.

    Parameters
    ----------
    frame : DataFrame or Series
    bins : Bins
    on : object
    selection : optional
        A column or a list of columns.
    """

    def __init__(self, frame: Any, bins: Bins, on: Any, selection: Any = None) -> None:
        meta = frame._meta
        if isinstance(keys_of(meta, on), pd.PeriodIndex):
            raise NotSupported("expected times to resample, found periods; use to_timestamp() before")
        if isinstance(meta, pd.DataFrame) and not meta.columns.is_unique:
            raise NotSupported(f"expected columns of different names to resample, found {list(meta.columns)}; rename them")
        bins.resampler(meta if on is None else meta.set_index(on))  # pandas' own error, with pandas' own words
        self._frame, self._bins, self._on, self._selection = frame, bins, on, selection

    def __getitem__(self, columns: Any) -> Resampler:
        chosen = Resampler(self._frame, self._bins, self._on, columns)
        _ = self._frame._meta[columns]  # a KeyError of pandas shows at once
        return chosen

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and isinstance(self._frame._meta, pd.DataFrame) and name in self._frame._meta.columns:
            return self[name]
        raise AttributeError(f"a resampler of parml has no attribute or column {name!r}; it has {', '.join(METHODS)}")

    def _aggregated(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame, bins = self._frame, self._bins
        node = labelled(frame._node)
        ends = ends_of(node, self._on, "to resample")
        keys = with_keys(node, self._on)
        binned = Blockwise("bins", partial(bin_labels, bins, self._on), (keys, ends), meta=_labels_like(node.meta, self._on))
        rows: Any = Frame._of(node)
        if self._on is not None:
            rows = rows.drop(columns=self._on)
        groups = rows.groupby(Frame._of(binned))
        if self._selection is not None:
            groups = groups[self._selection]
        found = (groups._aggregated(name, args, kwargs) if name == "ohlc" else getattr(groups, name)(*args, **kwargs))._node
        filled = Filled(bins, rows._meta, self._selection, name, args, kwargs, found.meta)
        filled = filled.like(self._meta(rows._meta, filled))
        made = Reduce("bins made", Blockwise("bins made", bins_made, (found,), meta=0), steps.listed, steps.listed, 0)
        inputs = (found, ends, made, Numbers(found.npartitions))
        result = Blockwise(f"resample {name}", filled, inputs, meta=filled.meta, rows=Rows(f"bins {name} {found.token}"))
        result.in_order = True  # type: ignore[attr-defined]
        return Frame._of(result)

    def _meta(self, meta: Any, filled: Filled) -> Any:
        """What pandas makes of no rows; as far as that is known without calling a user's function."""
        if any(map(holds_function, (*filled.args, *filled.kwargs.values()))):
            return filled.meta
        empty = filled.of(meta.set_axis(keys_of(self._frame._meta, self._on), axis=0))
        return empty if type(empty) is type(filled.meta) else filled.meta


def _labels_like(meta: Any, on: Any) -> pd.Series:
    times = keys_of(meta, on)
    return pd.Series(times, index=meta.index, name=times.name)


def bin_labels(bins: Bins, on: Any, rows: Any, ends: pd.Index | None) -> pd.Series:
    """The label of the bin of each row."""
    times = keys_of(rows, on)
    return pd.Series(times if ends is None else bins.labels_of(times, ends), index=rows.index, name=times.name)


def bins_made(part: Any) -> tuple[Any, int]:
    """The first bin of a partition of results, and how many there are."""
    return (part.index[0] if len(part) else None), len(part)


@dataclass(frozen=True)
class Filled:
    """
    Aggregated bins with those between them that have no rows; pandas says what comes of such a bin.

    Parameters
    ----------
    bins : Bins
    rows : DataFrame or Series
        Empty, like those that are in bins.
    selection : object
    name, args, kwargs
        The method.
    meta : DataFrame or Series
    """

    bins: Bins
    rows: Any
    selection: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    meta: Any = None

    def like(self, meta: Any) -> Filled:
        return Filled(self.bins, self.rows, self.selection, self.name, self.args, self.kwargs, meta)

    def of(self, rows: Any) -> Any:
        """The method, on pandas' resampler of rows."""
        resampler = self.bins.resampler(rows)
        return getattr(resampler if self.selection is None else resampler[self.selection], self.name)(*self.args, **self.kwargs)

    def __call__(self, part: Any, ends: pd.Index | None, made: list[tuple[Any, int]], number: int) -> Any:
        if ends is None or not len(part):
            return self.meta
        counts = self.bins.counts(ends)
        labels = counts.index
        start = labels.get_loc(part.index[0]) if any(n for _, n in made[:number]) else 0
        after = next((first for first, n in made[number + 1 :] if n), None)
        wanted = labels[start : None if after is None else labels.get_loc(after)].rename(part.index.name)
        if isinstance(part, pd.Series):
            part = part.rename(self.meta.name)
        if sum(n for _, n in made) < len(labels):
            empty = self.of(sample_of(self.rows).set_axis(ends, axis=0)).iloc[[int(np.flatnonzero(counts.to_numpy() == 0)[0])]]
            missing = wanted.difference(part.index, sort=False)
            rows = empty.take(np.zeros(len(missing), "int64")).set_axis(missing, axis=0)
            part = pd.concat([_truth_like(part, rows), rows])  # the dtypes are those beside bins without rows, everywhere
            part = part.take(wanted.get_indexer_for(part.index).argsort())
        return part.set_axis(wanted, axis=0)


def _truth_like(part: Any, rows: Any) -> Any:
    """Truth values as numbers, where bins without rows are."""
    if isinstance(part, pd.Series):
        return part.astype(rows.dtype) if steps.is_truth(part.dtype) else part
    dtypes = {place: rows.dtypes.iloc[place] for place, dtype in enumerate(part.dtypes) if steps.is_truth(dtype)}
    return part.set_axis(range(part.shape[1]), axis=1).astype(dtypes).set_axis(part.columns, axis=1) if dtypes else part


METHODS = (
    "agg", "count", "first", "last", "max", "mean", "median", "min", "nunique", "ohlc", "prod", "quantile", "sem", "size",
    "std", "sum", "var",
)  # fmt: skip


def _method(name: str) -> Callable[..., Any]:
    def method(self: Resampler, *args: Any, **kwargs: Any) -> Any:
        return self._aggregated(name, args, kwargs)

    return like_pandas(method, pd.core.resample.Resampler, name, "Resampler")


for _name in METHODS:
    setattr(Resampler, _name, _method(_name))
Resampler.aggregate = Resampler.apply = Resampler.agg  # type: ignore[attr-defined]

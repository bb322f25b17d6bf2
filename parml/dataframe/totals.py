"""Methods that merge all rows into one value, or one for each column."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import reductions, steps, steps_totals
from parml.dataframe.base import Frame, aligned, elementwise
from parml.dataframe.comoments import comoment_of
from parml.dataframe.operators import like_pandas
from parml.dataframe.plan import Blockwise, Input, Node
from parml.dataframe.plan_across import Reduce, labelled
from parml.dataframe.quantiles import quantile_of
from parml_core.errors import InputError, NotSupported

MOMENTS = ("kurt", "sem", "skew")


class Totals(Frame):
    """Totals that frames and series have in common."""

    @property
    def nbytes(self) -> Any:
        """The bytes of all values, without those that they refer to and without labels; a total to be computed."""
        return Frame._of(Reduce("nbytes", Blockwise("nbytes", steps_totals.nbytes_of, (self._node,), meta=0), sum, sum, 0))

    def memory_usage_per_partition(self, index: bool = True, deep: bool = False) -> Any:
        """The bytes of each partition, as a series labelled by its number."""
        step = partial(steps_totals.bytes_of_part, index=index, deep=deep)
        sizes = Blockwise("memory_usage", step, (self._node,), meta=0)
        return Frame._of(Reduce("sizes", sizes, steps.packed, steps_totals.sizes_of_parts, pd.Series([], dtype="int64")))

    def first_valid_index(self) -> Any:
        """The label of the first row that is not null; to be computed."""
        return self._valid_label("first_valid_index", 0)

    def last_valid_index(self) -> Any:
        """The label of the last row that is not null; to be computed."""
        return self._valid_label("last_valid_index", -1)

    def _valid_label(self, name: str, place: int) -> Any:
        labels = Blockwise(name, partial(steps.call_method, name), (labelled(self._node),), meta=0)
        choose = partial(steps_totals.chosen, place)
        return Frame._of(Reduce(name, labels, choose, choose, None))

    def _moment_of(self, name: str, axis: Any, skipna: bool, numeric_only: bool, kwargs: dict[str, Any]) -> Any:
        frame: Any = self
        if numeric_only and isinstance(self._meta, pd.DataFrame):
            frame = frame.iloc[:, reductions.numeric_columns(self._meta)]
        if reductions.checked_axis(axis, name):
            return elementwise(name, partial(steps.call_method, name), (frame,), {"axis": 1, "skipna": skipna, **kwargs})
        return reductions.moment_of(name, frame._node, skipna=skipna, **kwargs)

    def _extreme(self, name: str, axis: Any, skipna: bool, numeric_only: bool) -> Any:
        frame: Any = self
        if numeric_only and isinstance(self._meta, pd.DataFrame):
            frame = frame.iloc[:, reductions.numeric_columns(self._meta)]
        if reductions.checked_axis(axis, name):
            return elementwise(name, partial(steps.call_method, name), (frame,), {"axis": 1, "skipna": skipna})
        node = labelled(frame._node)
        extreme = Extreme(name, skipna, node.meta)
        series = isinstance(node.meta, pd.Series)
        meta = None if series else pd.Series([], dtype=node.meta.index.dtype)
        return Frame._of(Reduce(name, Blockwise(name, extreme.chunk, (node,), meta=0), extreme.combine, extreme.finish, meta))


@dataclass(frozen=True)
class Extreme:
    """The label of the least or greatest value of each column: (value, label), or None where all are null."""

    name: str
    skipna: bool
    meta: Any

    def chunk(self, partition: Any) -> list[Any] | None:
        if not len(partition):
            return None
        frame = partition.to_frame() if isinstance(partition, pd.Series) else partition
        return [self._best(frame.iloc[:, place]) for place in range(frame.shape[1])]

    def _best(self, column: pd.Series) -> tuple[Any, Any] | None:
        if not self.skipna and column.isna().any():
            raise ValueError("Encountered an NA value with skipna=False")
        there = column.dropna()
        if not len(there):
            return None
        place = int(there.argmin() if self.name == "idxmin" else there.argmax())
        return steps_totals.ranked(there).iloc[place], there.index[place]

    def combine(self, parts: list[Any]) -> list[Any] | None:
        kept = [part for part in parts if part is not None]
        return [self._first_best(column) for column in zip(*kept, strict=True)] if kept else None

    def _first_best(self, column: tuple[Any, ...]) -> Any:
        there = [pair for pair in column if pair is not None]
        choose = min if self.name == "idxmin" else max
        return choose(there, key=lambda pair: pair[0]) if there else None  # the first of equal ones

    def finish(self, parts: list[Any]) -> Any:
        best = self.combine(parts)
        if best is None:
            return getattr(self.meta, self.name)(skipna=self.skipna)  # pandas' error, or nothing
        if None in best:
            raise ValueError("Encountered all NA values")
        labels = [pair[1] for pair in best]
        if isinstance(self.meta, pd.Series):
            return labels[0]
        if isinstance(self.meta.index, pd.MultiIndex):
            return pd.Series(labels, index=self.meta.columns, dtype=object)
        return pd.Series(pd.Index(labels, dtype=self.meta.index.dtype), index=self.meta.columns)


@dataclass(frozen=True)
class Ordered:
    """Whether values ascend, or descend: the first, the last and whether those between do; None of no rows."""

    increasing: bool

    def chunk(self, part: pd.Series) -> tuple[Any, Any, bool] | None:
        if not len(part):
            return None
        part = steps_totals.ranked(part)
        ordered = part.is_monotonic_increasing if self.increasing else part.is_monotonic_decreasing
        return part.iloc[0], part.iloc[-1], bool(ordered)

    def combine(self, parts: list[Any]) -> tuple[Any, Any, bool] | None:
        kept = [part for part in parts if part is not None]
        if not kept:
            return None
        ordered = all(part[2] for part in kept)
        for before, after in itertools.pairwise(kept):
            low, high = (before[1], after[0]) if self.increasing else (after[0], before[1])
            ordered = ordered and not pd.isna(low) and not pd.isna(high) and bool(low <= high)
        return kept[0][0], kept[-1][1], ordered

    def finish(self, parts: list[Any]) -> bool:
        merged = self.combine(parts)
        return merged is None or merged[2]


class SeriesTotals(Totals):
    """Totals of series."""

    def quantile(self, q: Any = 0.5, interpolation: str = "linear") -> Any:
        """
        The value below which a share of the values lies; exact, in two passes.

        Parameters
        ----------
        q : float or list of float
        interpolation : {"linear", "lower", "higher", "midpoint", "nearest"}

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([4, 1, 3, 2, 5]), npartitions=2).quantile(0.5).compute()
        np.float64(3.0)
        """
        return quantile_of(self._node, q, interpolation)

    def median(self, skipna: bool = True) -> Any:
        """The median; exact, in two passes."""
        if not skipna:
            raise NotSupported("expected median with skipna=True; use dropna or fillna before")
        if pd.api.types.is_bool_dtype(self._meta.dtype):  # which pandas takes for numbers in a median, and not in a quantile
            as_numbers: Any = elementwise("truth", steps.as_float, (self,))
            return as_numbers.quantile(0.5)
        return self.quantile(0.5)

    def median_approximate(self) -> Any:
        """
        About the median, in one pass: of each partition, no further away than a 512th of its values.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([4, 1, 3, 2, 5]), npartitions=2).median_approximate().compute()
        np.float64(3.0)
        """
        return quantile_of(self._node, 0.5, approximate=True)

    def mode(self, dropna: bool = True) -> Any:
        """The most frequent values, in order."""
        series: Any = self
        counts = series.value_counts(sort=False, dropna=dropna)
        mode = partial(steps_totals.most_frequent, self._meta, dropna)
        return Frame._of(Blockwise("mode", mode, (counts._node,), meta=self._meta.reset_index(drop=True)))

    def corr(self, other: Any, method: Any = "pearson", min_periods: int | None = None) -> Any:
        """The correlation with another series of the same partitions, over rows where both have values."""
        aligned([self._node, other._node])
        return comoment_of("corr", (self._node, other._node), min_periods=min_periods, method=method)

    def cov(self, other: Any, min_periods: int | None = None, ddof: int = 1) -> Any:
        """The covariance with another series of the same partitions, over rows where both have values."""
        aligned([self._node, other._node])
        return comoment_of("cov", (self._node, other._node), min_periods=min_periods, ddof=ddof)

    def autocorr(self, lag: int = 1) -> Any:
        """The correlation with the values some rows before."""
        series: Any = self
        return self.corr(series.shift(lag))

    @property
    def is_monotonic_increasing(self) -> Any:
        """Whether no value is less than the one before; to be computed."""
        return self._ordered(Ordered(True), "is_monotonic_increasing")

    @property
    def is_monotonic_decreasing(self) -> Any:
        """Whether no value is greater than the one before; to be computed."""
        return self._ordered(Ordered(False), "is_monotonic_decreasing")

    def _ordered(self, ordered: Ordered, name: str) -> Any:
        chunk = Blockwise(name, ordered.chunk, (self._node,), meta=0)
        return Frame._of(Reduce(name, chunk, ordered.combine, ordered.finish, True))

    def nunique_approx(self) -> Any:
        """About how many different values there are, within 2 per cent mostly, in 16 KiB for each partition."""
        return approximate_count(self._node)

    def memory_usage(self, index: bool = True, deep: bool = False) -> Any:
        """The bytes of all values, and of the labels of all partitions."""
        step = partial(steps.call_method, "memory_usage", index=index, deep=deep)
        return Frame._of(Reduce("memory_usage", Blockwise("memory_usage", step, (self._node,), meta=0), sum, sum, 0))

    def describe(self, percentiles: Any = None) -> Any:
        """
        Count, mean, deviation, least, quantiles and greatest; or count, number of values, and the most frequent.

        Parameters
        ----------
        percentiles : list of float, optional
            Default: 0.25, 0.5 and 0.75.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1, 2, 3]), npartitions=2).describe()["mean"].compute()
        np.float64(2.0)
        """
        series: Any = self
        shares = described_shares(percentiles)
        dtype = self._meta.dtype
        if (pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)) or reductions.is_time(dtype):
            spread = [] if dtype.kind == "M" else [series.std()]
            parts = [series.count(), series.mean(), *spread, series.min(), self.quantile(shares), series.max()]
        else:
            parts = [series.count(), series.value_counts()]
        step = steps_totals.numbers_described if len(parts) > 2 else steps_totals.values_described
        places = tuple(Input(place) for place in range(len(parts)))
        meta = self._meta.describe(percentiles=percentiles)
        nodes = [part._node for part in parts]
        return Frame._of(Blockwise("describe", step, nodes, (self._meta, shares, *places), meta=meta))


def described_shares(percentiles: Any) -> list[float]:
    """The quantiles that `describe` shows, as pandas chooses them."""
    if percentiles is None:
        return [0.25, 0.5, 0.75]
    return sorted({float(share) for share in percentiles})


class FrameTotals(Totals):
    """Totals of frames, one for each column."""

    def _each(self, name: str, frame: Any, total: Callable[[Any], Any], join: Callable[..., Any], meta: Any) -> Any:
        """A total of each column by itself, and what `join` makes of all of them."""
        columns = [frame[column] for column in frame.columns] if frame.columns.is_unique else []
        if not columns:
            raise InputError(f"expected columns of different names in {name}, found {list(frame.columns)}")
        nodes = [total(column)._node for column in columns]
        unique = list(dict.fromkeys(nodes))
        places = tuple(Input(unique.index(node)) for node in nodes)
        return Frame._of(Blockwise(name, join, unique, (frame.columns, *places), meta=meta))

    def quantile(self, q: Any = 0.5, axis: Any = 0, numeric_only: bool = False, interpolation: str = "linear") -> Any:
        """
        The value of each column below which a share of its values lies; exact, in two passes.

        Parameters
        ----------
        q : float or list of float
        axis : 0 or 1
            With 1, of each row.
        numeric_only : bool
        interpolation : {"linear", "lower", "higher", "midpoint", "nearest"}
        """
        frame: Any = self
        if numeric_only:
            frame = frame.iloc[:, reductions.numeric_columns(self._meta)]
        if reductions.checked_axis(axis, "quantile"):
            if np.ndim(q):
                raise NotSupported("expected one quantile with axis=1, found several")
            return elementwise("quantile", partial(steps.call_method, "quantile"), (frame, q), {"axis": 1})
        meta = frame._meta.quantile(q, interpolation=interpolation)
        join = partial(steps_totals.joined_totals, meta)
        return self._each("quantile", frame, lambda column: column.quantile(q, interpolation), join, meta)

    def median(self, axis: Any = 0, skipna: bool = True, numeric_only: bool = False) -> Any:
        """The median of each column, exact, or with ``axis=1`` of each row."""
        frame: Any = self.iloc[:, reductions.numeric_columns(self._meta)] if numeric_only else self  # type: ignore[attr-defined]
        if reductions.checked_axis(axis, "median"):
            return elementwise("median", partial(steps.call_method, "median"), (frame,), {"axis": 1, "skipna": skipna})
        meta = frame._meta.median()
        join = partial(steps_totals.joined_totals, meta)
        return self._each("median", frame, lambda column: column.median(skipna), join, meta)

    def median_approximate(self, axis: Any = 0, *, numeric_only: bool = False) -> Any:
        """About the median of each column, in one pass: see `Series.median_approximate`; with ``axis=1`` exact, of each row."""
        frame: Any = self[reductions.numeric_columns(self._meta)] if numeric_only else self  # type: ignore[index]
        if reductions.checked_axis(axis, "median_approximate"):
            return frame.median(axis=1)
        meta = frame._meta.median()
        join = partial(steps_totals.joined_totals, meta)
        return self._each("median_approximate", frame, lambda column: column.median_approximate(), join, meta)

    def nunique(self, axis: Any = 0, dropna: bool = True) -> Any:
        """How many different values each column has, or with ``axis=1`` each row."""
        if reductions.checked_axis(axis, "nunique"):
            return elementwise("nunique", partial(steps.call_method, "nunique"), (self,), {"axis": 1, "dropna": dropna})
        meta = pd.Series(0, index=self._meta.columns, dtype="int64")
        join = partial(steps_totals.joined_totals, meta)
        return self._each("nunique", self, lambda column: column.nunique(dropna), join, meta)

    def nunique_approx(self) -> Any:
        """About how many different rows there are, within 2 per cent mostly, in 16 KiB for each partition."""
        return approximate_count(self._node)

    def mode(self, axis: Any = 0, numeric_only: bool = False, dropna: bool = True) -> Any:
        """The most frequent values of each column."""
        frame: Any = self.iloc[:, reductions.numeric_columns(self._meta)] if numeric_only else self  # type: ignore[attr-defined]
        if reductions.checked_axis(axis, "mode"):
            raise NotSupported("expected axis=0 in mode, found 1, whose columns depend on the rows; use map_partitions")
        meta = frame._meta.mode(dropna=dropna)
        return self._each("mode", frame, lambda column: column.mode(dropna), steps_totals.joined_modes, meta)

    def describe(self, percentiles: Any = None, include: Any = None, exclude: Any = None) -> Any:
        """
        The `Series.describe` of each column of numbers or times, or of the dtypes in `include`.

        Parameters
        ----------
        percentiles : list of float, optional
        include, exclude : optional
            As for pandas: "all", or dtypes.
        """
        frame: Any = self
        if include is None and exclude is None:
            chosen = list(self._meta.select_dtypes([np.number, "datetime"]).columns)
            frame = frame[chosen] if chosen else frame
        elif include != "all":
            frame = frame.select_dtypes(include, exclude)
        meta = frame._meta.describe(percentiles=percentiles, include="all")
        return self._each("describe", frame, lambda column: column.describe(percentiles), steps_totals.joined_columns, meta)

    def corr(self, method: Any = "pearson", min_periods: int = 1, numeric_only: bool = False) -> Any:
        """The correlation of each pair of columns, over rows where both have values."""
        frame: Any = self.iloc[:, reductions.numeric_columns(self._meta)] if numeric_only else self  # type: ignore[attr-defined]
        return comoment_of("corr", (frame._node,), min_periods=min_periods, method=method)

    def cov(self, min_periods: int | None = None, ddof: int = 1, numeric_only: bool = False) -> Any:
        """The covariance of each pair of columns, over rows where both have values."""
        frame: Any = self.iloc[:, reductions.numeric_columns(self._meta)] if numeric_only else self  # type: ignore[attr-defined]
        return comoment_of("cov", (frame._node,), min_periods=min_periods, ddof=ddof)

    def memory_usage(self, index: bool = True, deep: bool = False) -> Any:
        """The bytes of each column, and of the labels of all partitions."""
        step = partial(steps.call_method, "memory_usage", index=index, deep=deep)
        usage = Blockwise("memory_usage", step, (self._node,), meta=0)
        meta = self._meta.memory_usage(index=index, deep=deep)
        return Frame._of(Reduce("memory_usage", usage, steps_totals.summed, steps_totals.summed, meta))

    def info(self, buf: Any = None, memory_usage: bool = False) -> None:
        """
        Print the columns with their dtypes and how many values they have; computes these.

        Parameters
        ----------
        buf : file, optional
            Default: the standard output.
        memory_usage : bool
            Also the bytes in memory.
        """
        from parml.collections import compute

        frame: Any = self
        rows, count, usage = compute(frame.shape[0], frame.count(), self.memory_usage().sum() if memory_usage else 0)
        lines = [f"{type(self).__name__}: {rows} rows in {self.npartitions} partitions, {len(frame.columns)} columns"]
        names = [str(name) for name in frame.columns]
        width = max(map(len, names), default=0)
        for name, n, dtype in zip(names, count, frame.dtypes, strict=True):
            lines.append(f"  {name:<{width}}  {n} non-null  {dtype}")
        if memory_usage:
            lines.append(f"memory usage: {usage} bytes")
        print("\n".join(lines), file=buf)


HLL_BITS = 14


def approximate_count(node: Node) -> Any:
    """The number of different rows, by HyperLogLog (Flajolet, Fusy, Gandouet and Meunier, 2007)."""
    registers = Blockwise("hll", steps_totals.hll_registers, (node,), (Input(0), HLL_BITS), meta=0)
    merge = steps_totals.hll_merged
    return Frame._of(Reduce("nunique_approx", registers, merge, steps_totals.hll_estimate, 0))


def _moment_method(name: str, owner: str) -> Callable[..., Any]:
    def method(self: Totals, axis: Any = 0, skipna: bool = True, numeric_only: bool = False, **kwargs: Any) -> Any:
        return self._moment_of(name, axis, skipna, numeric_only, kwargs)

    return like_pandas(method, getattr(pd, owner), name, owner)


def _extreme_method(name: str, owner: str) -> Callable[..., Any]:
    def method(self: Totals, axis: Any = 0, skipna: bool = True, numeric_only: bool = False) -> Any:
        return self._extreme(name, axis, skipna, numeric_only)

    return like_pandas(method, getattr(pd, owner), name, owner)


for _cls, _owner in ((FrameTotals, "DataFrame"), (SeriesTotals, "Series")):
    for _name in MOMENTS:
        setattr(_cls, _name, _moment_method(_name, _owner))
    for _name in ("idxmax", "idxmin"):
        setattr(_cls, _name, _extreme_method(_name, _owner))
    for _name in ("kurtosis",):
        setattr(_cls, _name, _moment_method("kurt", _owner))

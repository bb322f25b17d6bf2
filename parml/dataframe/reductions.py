"""
Rows merged into totals. Each reduction is three functions over plain pandas: what to keep of a partition, how to merge what
was kept of neighbours, and how to finish. Partitions without rows keep nothing, so that they change neither values nor dtypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe.base import Frame
from parml.dataframe.plan import Blockwise, CountRows, Input, Node
from parml.dataframe.plan_across import Reduce
from parml_core.errors import NotSupported

# What merges the partial results of each: a sum of counts, for instance.
MERGES = {"sum": "sum", "prod": "prod", "min": "min", "max": "max", "count": "sum", "any": "any", "all": "all"}


def reduce_by(name: str, node: Node, **kwargs: Any) -> Any:
    """``sum``, ``min``, ``count`` and others of `MERGES`, of each column."""
    least = kwargs.pop("min_count", 0)
    if least > 0:
        total, count = reduce_by(name, node, **kwargs), reduce_by("count", node)
        null = getattr(node.meta, name)(min_count=1) if isinstance(node.meta, pd.Series) else np.nan
        return Frame._of(Blockwise("min_count", where_enough, (total._node, count._node), (Input(0), Input(1), least, null)))
    meta = getattr(node.meta, name)(**kwargs)
    totals = Totals(name, tuple(kwargs.items()), node.meta)
    chunk = Blockwise(name, totals.chunk, (node,), meta=node.meta)
    return Frame._of(Reduce(name, chunk, totals.combine, totals.finish, meta))


def where_enough(total: Any, count: Any, least: int, null: Any) -> Any:
    """Null where there were fewer values."""
    if isinstance(total, pd.Series):
        return total.where(count >= least)
    return total if count >= least else null


@dataclass(frozen=True)
class Totals:
    """A pandas reduction whose partial results are merged by a pandas reduction. What is kept is a frame of one row."""

    name: str
    kwargs: tuple[tuple[str, Any], ...]
    meta: Any

    def chunk(self, partition: Any) -> Any:
        return self._one_row(partition, self.name, dict(self.kwargs)) if len(partition) else None

    def combine(self, partials: list[Any]) -> Any:
        kept = [partial for partial in partials if partial is not None]
        return self._one_row(pd.concat(kept), MERGES[self.name], self._merge_kwargs) if kept else None

    def finish(self, partials: list[Any]) -> Any:
        kept = [partial for partial in partials if partial is not None]
        if not kept:
            return getattr(self.meta, self.name)(**dict(self.kwargs))
        return getattr(pd.concat(kept), MERGES[self.name])(**self._merge_kwargs)

    @property
    def _merge_kwargs(self) -> dict[str, Any]:
        return {name: value for name, value in self.kwargs if name == "skipna"}

    @staticmethod
    def _one_row(values: Any, name: str, kwargs: dict[str, Any]) -> Any:
        if isinstance(values, pd.DataFrame):
            row = {place: Totals._one_row(values.iloc[:, place], name, kwargs) for place in range(len(values.columns))}
            frame = pd.DataFrame(row, index=range(1))
            frame.columns = values.columns
            return frame
        extension = isinstance(values.dtype, pd.api.extensions.ExtensionDtype)
        keeps_dtype = name in ("min", "max") or (name == "sum" and (extension or values.dtype.kind == "m"))
        dtype: Any = values.dtype if keeps_dtype and not pd.api.types.is_bool_dtype(values.dtype) else None
        if name in ("any", "all") and extension:
            dtype = "boolean"  # true, false or not known
        return pd.Series([getattr(values, name)(**kwargs)], dtype=dtype, name=values.name)


def moment_of(name: str, node: Node, *, ddof: int = 1, skipna: bool = True) -> Any:
    """``sem``, ``skew`` and ``kurt`` of each column."""
    return _moments(name, node, {"sem": 2, "skew": 3, "kurt": 4}[name], ddof, skipna)


def mean_of(node: Node, *, skipna: bool = True) -> Any:
    """The mean of each column."""
    return _moments("mean", node, 1, 0, skipna)


def variance_of(node: Node, *, ddof: int = 1, skipna: bool = True, root: bool = False) -> Any:
    """The variance, or the standard deviation, of each column."""
    return _moments("std" if root else "var", node, 2, ddof, skipna)


def _moments(name: str, node: Node, order: int, ddof: int, skipna: bool) -> Any:
    if name in ("mean", "std") and isinstance(node.meta, pd.Series) and is_time(node.meta.dtype):
        return moment_of_times(name, node, ddof, skipna)
    columns = [node.meta] if isinstance(node.meta, pd.Series) else [node.meta.iloc[:, i] for i in range(node.meta.shape[1])]
    for column in columns:
        if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
            raise TypeError(
                f"expected real numbers for {name}, found column {column.name!r} of dtype {column.dtype}; "
                "choose columns, or pass numeric_only=True"
            )
    meta = getattr(node.meta, name)(**({"ddof": ddof} if order == 2 else {}))
    narrow = all(column.dtype == np.float32 for column in columns)
    moments = Moments(name, order, ddof, skipna, meta, np.dtype("float32" if narrow else "float64"))
    chunk = Blockwise(name, moments.chunk, (node,), meta=node.meta)
    if meta is pd.NA:  # a float in arithmetic
        meta = np.float64("nan")
    if narrow and isinstance(meta, pd.Series):
        meta = meta.astype("float32")
    return Frame._of(Reduce(name, chunk, moments.combine, moments.finish, meta))


@dataclass(frozen=True)
class Moments:
    """
    Count, mean and sums of powers of the distances from the mean, by column, merged as Chan, Golub and LeVeque (1979) do
    for squares, and Pébay (2008) for the third and fourth powers.

    What is kept is an array of ``order + 1`` rows and one column for each column.
    """

    name: str
    order: int
    ddof: int
    skipna: bool
    meta: Any
    dtype: np.dtype

    def chunk(self, partition: Any) -> np.ndarray | None:
        if not len(partition):
            return None
        frame = partition.to_frame() if isinstance(partition, pd.Series) else partition
        count = frame.count() if self.skipna else pd.Series(len(frame), index=frame.columns)
        rows = [count, frame.mean(skipna=self.skipna)]
        if self.order > 1:
            rows.append(frame.var(ddof=0, skipna=self.skipna) * count)
        kept = np.array([row.to_numpy(dtype="float64", na_value=np.nan) for row in rows])
        if self.order > 2:
            away = frame.to_numpy(dtype="float64", na_value=np.nan) - kept[1]
            add = np.nansum if self.skipna else np.sum
            kept = np.vstack([kept, *(add(away**power, axis=0)[None] for power in range(3, self.order + 1))])
        return kept

    def combine(self, partials: list[Any]) -> np.ndarray | None:
        kept = [partial for partial in partials if partial is not None]
        if not kept:
            return None
        parts = np.stack(kept, axis=1)
        count, mean = parts[0], parts[1]
        some = count > 0  # a column of nulls has no mean, and none to add
        total = count.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            merged = np.where(some, count * mean, 0.0).sum(axis=0) / total
            if self.order == 1:
                return np.array([total, merged])
            away = mean - merged
            sums = [parts[2] + count * away**2]
            if self.order > 2:
                sums.append(parts[3] + 3 * away * parts[2] + count * away**3)
            if self.order > 3:
                sums.append(parts[4] + 4 * away * parts[3] + 6 * away**2 * parts[2] + count * away**4)
        return np.array([total, merged, *(np.where(some, each, 0.0).sum(axis=0) for each in sums)])

    def finish(self, partials: list[Any]) -> Any:
        merged = self.combine(partials)
        if merged is None:
            return self.meta
        with np.errstate(invalid="ignore", divide="ignore"):
            result = merged[1] if self.order == 1 else self._shape(*merged)
        if isinstance(self.meta, pd.Series):
            return pd.Series(result, index=self.meta.index, dtype=self.dtype if self.dtype == "float32" else self.meta.dtype)
        return pd.NA if self.meta is pd.NA and np.isnan(result[0]) else self.dtype.type(result[0])

    def _shape(self, n: np.ndarray, mean: np.ndarray, squares: np.ndarray, *sums: np.ndarray) -> np.ndarray:
        if self.order == 2:
            variance = np.where(n > self.ddof, squares / (n - self.ddof), np.nan)
            return {"var": variance, "std": np.sqrt(variance), "sem": np.sqrt(variance / n)}[self.name]
        # Values that differ by no more than rounding have no shape.
        spread = squares > n * (4 * np.finfo(float).eps * mean) ** 2
        if self.order == 3:
            result = n * np.sqrt(n - 1) / (n - 2) * sums[0] / squares**1.5
        else:
            below = (n - 2) * (n - 3)
            result = (n * (n + 1) * (n - 1) * sums[1]) / (below * squares**2) - 3 * (n - 1) ** 2 / below
        return np.where(spread & (n >= self.order), result, np.nan)


def is_time(dtype: Any) -> bool:
    """Times and durations of numpy, with a zone or without."""
    return isinstance(dtype, pd.DatetimeTZDtype) or (isinstance(dtype, np.dtype) and dtype.kind in "mM")


def moment_of_times(name: str, node: Node, ddof: int, skipna: bool) -> Any:
    """The mean or the standard deviation of times or durations."""
    moments = TimeMoments(name == "std", ddof, skipna, node.meta)
    chunk = Blockwise(name, moments.chunk, (node,), meta=0)
    return Frame._of(Reduce(name, chunk, moments.combine, moments.finish, pd.NaT))


@dataclass(frozen=True)
class TimeMoments:
    """
    The mean of times, or their standard deviation, which is a duration. What is kept is the count, the exact sum of the
    integers that times are stored as, and the sum of squares of their distances from the mean; None of nothing.

    pandas adds floats: its means are off by some of the last digits.
    """

    root: bool
    ddof: int
    skipna: bool
    meta: pd.Series

    def chunk(self, part: pd.Series) -> tuple[int, int, float] | None:
        if not self.skipna and part.isna().any():
            return (0, 0, np.nan)
        values = np.asarray(part.dropna().astype("int64"))
        if not len(values):
            return None
        total = (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
        away = (values - total // len(values)).astype("float64")
        return len(values), total, float((away**2).sum() - away.sum() ** 2 / len(values))

    def combine(self, parts: list[Any]) -> tuple[int, int, float] | None:
        kept = [part for part in parts if part is not None]
        if not kept or any(part[0] == 0 for part in kept):
            return (0, 0, np.nan) if kept else None
        count, total = sum(part[0] for part in kept), sum(part[1] for part in kept)
        away = [(n * total - each * count) / (n * count) for n, each, _ in kept]  # whole numbers until the division
        return count, total, sum(squares + n * d**2 for (n, _, squares), d in zip(kept, away, strict=True))

    def finish(self, parts: list[Any]) -> Any:
        merged = self.combine(parts)
        if merged is None or merged[0] <= (self.ddof if self.root else 0):
            return pd.NaT
        count, total, squares = merged
        if not self.root:
            mean = abs(total) // count * (1 if total >= 0 else -1)  # as pandas cuts off what lies below the unit
            return pd.Series([mean], dtype="int64").astype(self.meta.dtype)[0]
        unit = self.meta.array.unit  # type: ignore[attr-defined]
        return pd.Series([int(np.sqrt(squares / (count - self.ddof)))], dtype="int64").astype(f"timedelta64[{unit}]")[0]


def value_counts_of(node: Node, *, normalize: bool, sort: bool, ascending: bool, dropna: bool) -> Any:
    """How often each value of a series occurs."""
    counts = Counts(normalize, sort, ascending, dropna, node.meta)
    chunk = Blockwise("value_counts", counts.chunk, (node,))
    meta = node.meta.value_counts(normalize=normalize, dropna=dropna)
    return Frame._of(Reduce("value_counts", chunk, counts.combine, counts.finish, meta))


@dataclass(frozen=True)
class Counts:
    """Values and how often they occur, in the order in which they first appear."""

    normalize: bool
    sort: bool
    ascending: bool
    dropna: bool
    meta: pd.Series

    def chunk(self, partition: pd.Series) -> pd.Series:
        return partition.value_counts(sort=False, dropna=self.dropna)

    def combine(self, partials: list[pd.Series]) -> pd.Series:
        kept = [partial for partial in partials if len(partial)] or partials[:1]
        merged = pd.concat(kept)
        return merged if len(kept) == 1 else merged.groupby(level=0, sort=False, dropna=False, observed=False).sum()

    def finish(self, partials: list[pd.Series]) -> pd.Series:
        counts = self.combine(partials)
        if hasattr(self.meta.array, "_mask"):  # pandas counts the nulls of these last
            counts = counts.take(np.argsort(counts.index.isna(), kind="stable"))
        if self.sort:
            counts = counts.sort_values(ascending=self.ascending, kind="stable")
        return (counts / counts.sum()).rename("proportion") if self.normalize else counts


def nunique_of(node: Node, *, dropna: bool) -> Any:
    """How many different values a series has."""
    counts = Counts(False, False, False, dropna, node.meta)
    chunk = Blockwise("nunique", counts.chunk, (node,))
    return Frame._of(Reduce("nunique", chunk, counts.combine, Distinct(counts), 0))


@dataclass(frozen=True)
class Distinct:
    """The number of values that occur."""

    counts: Counts

    def __call__(self, partials: list[pd.Series]) -> int:
        return int((self.counts.combine(partials) > 0).sum())


def rows_of(node: Node) -> Any:
    """The number of rows."""
    return Frame._of(Reduce("len", CountRows(node), sum, sum, 0))


def numeric_columns(meta: pd.DataFrame) -> list[int]:
    """The places of the columns of numbers and truth values."""
    return [place for place, dtype in enumerate(meta.dtypes) if pd.api.types.is_numeric_dtype(dtype)]


def checked_axis(axis: Any, name: str) -> bool:
    """Whether a reduction goes along the rows, one result for each."""
    if axis in (None, 0, "index", "rows"):
        return False
    if axis in (1, "columns"):
        return True
    raise NotSupported(f"expected axis 0 or 1 in {name}, found {axis!r}")

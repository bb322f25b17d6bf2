"""
Steps on rows that look at rows before or after them: running totals, shifts, fills, windows.

Each partition is given the rows it needs of the partitions before and after, however short or empty those are, by a `Scan`;
then pandas does the rest, so that the results are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, elementwise
from parml.dataframe.meta import as_meta, learned
from parml.dataframe.operators import like_pandas
from parml.dataframe.plan import Blockwise, Columnwise, Input, Node
from parml.dataframe.plan_across import labelled
from parml.dataframe.plan_scan import Scan
from parml_core.errors import InputError, NotSupported


@dataclass(frozen=True)
class Beside:
    """
    Calls a function with a partition between rows of its neighbours, and cuts their rows off the result.

    Parameters
    ----------
    fn : callable
        One row out for each row in.
    """

    fn: Callable[..., Any]

    def __call__(self, partition: Any, before: Any, after: Any, *args: Any, **kwargs: Any) -> Any:
        result = self.fn(steps.concat([part for part in (before, partition, after) if part is not None]), *args, **kwargs)
        start = 0 if before is None else len(before)
        expected = start + len(partition) + (0 if after is None else len(after))
        if len(result) != expected:
            raise InputError(
                f"expected one row for each of {expected}, found {len(result)}; use map_partitions for other shapes"
            )
        return result.iloc[start : start + len(partition)]


def beside(
    name: str,
    frame: Frame,
    fn: Callable[..., Any],
    *,
    before: Callable[[Any], Any] | None = None,
    after: Callable[[Any], Any] | None = None,
    columnwise: bool = True,
    meta: Any = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """
    ``fn`` of a frame, where each partition sees what is kept of those before and after it.

    Parameters
    ----------
    name : str
    frame : Frame
    fn : callable
    before, after : callable, optional
        What to keep of rows in order, for the partition that follows or precedes them. ``before(before(a) + b)`` has to be
        ``before(a + b)``.
    columnwise : bool
        A column of the result needs that column alone.
    meta : optional
    args, kwargs
        Further arguments of `fn`.
    """
    node = frame._node
    inputs: list[Node] = [node]
    places: list[Any] = []
    for kept, backward in ((before, False), (after, True)):
        if kept is None or node.npartitions == 1:
            places.append(None)
            continue
        ends = (Columnwise if columnwise else Blockwise)(f"{name}-ends", kept, (node,))
        places.append(Input(len(inputs)))
        inputs.append(Scan(f"{name}-{'after' if backward else 'before'}", ends, kept, backward=backward))
    given = (Input(0), *places, *args)
    result = Blockwise(name, Beside(fn), inputs, given, kwargs, meta=meta, rows=node.rows)
    if (
        columnwise
        and isinstance(result.meta, pd.DataFrame)
        and isinstance(node.meta, pd.DataFrame)
        and list(result.meta.columns) == list(node.meta.columns)
    ):
        result = Columnwise(name, Beside(fn), inputs, given, kwargs, meta=result.meta, rows=node.rows)
    return Frame._of(result)


def last_rows(n: int) -> Callable[[Any], Any]:
    return partial(steps.call_method, "tail", n=n)


def first_rows(n: int) -> Callable[[Any], Any]:
    return partial(steps.call_method, "head", n=n)


@dataclass(frozen=True)
class Running:
    """``cumsum`` and its like; `last` is the total so far as one row."""

    name: str
    skipna: bool

    def __call__(self, values: Any) -> Any:
        return getattr(values, self.name)(skipna=self.skipna)

    def last(self, values: Any) -> Any:
        totals = self(values)
        return (totals.ffill() if self.skipna else totals).iloc[-1:]


def time_span(window: Any) -> pd.Timedelta:
    """A window given as a length of time."""
    try:
        return pd.Timedelta(pd.tseries.frequencies.to_offset(window))
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a number of rows or a fixed length of time such as '3D', found {window!r}") from error


@dataclass(frozen=True)
class Within:
    """The rows within a length of time of the last row, or of the first. Labels, or a column, are sorted times."""

    span: pd.Timedelta
    on: Any = None
    first: bool = False

    def __call__(self, rows: Any) -> Any:
        if not len(rows):
            return rows
        times = rows.index if self.on is None else pd.Index(rows[self.on])
        if self.first:
            return rows.iloc[: int(np.asarray(times <= times[0] + self.span).sum())]
        return rows.iloc[len(rows) - int(np.asarray(times >= times[-1] - self.span).sum()) :]


class AcrossRows(Frame):
    """Methods of frames and series whose rows depend on rows around them."""

    def shift(self, periods: int = 1, freq: Any = None, axis: Any = 0, fill_value: Any = None) -> Any:
        """
        Shift rows by a number of periods, or their labels by a frequency.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1, 2, 3]), npartitions=3).shift(1, fill_value=0).compute().tolist()
        [0, 1, 2]
        """
        given = {"axis": axis} | ({} if fill_value is None else {"fill_value": fill_value})
        if freq is not None:
            step = partial(steps.call_method, "shift")
            return elementwise("shift_labels", step, (self,), {"periods": periods, "freq": freq})
        return self._by_periods("shift", periods, given)

    def diff(self, periods: int = 1, axis: Any = 0) -> Any:
        """The difference of each value and the one some rows before it."""
        return self._by_periods("diff", periods, {} if isinstance(self._meta, pd.Series) else {"axis": axis})

    def pct_change(self, periods: int = 1, fill_method: None = None, freq: Any = None) -> Any:
        """The change of each value from the one some rows before it, as a share of that."""
        if freq is not None or fill_method is not None:
            raise NotSupported("expected pct_change of a number of rows, found freq= or fill_method=; use shift(freq=...)")
        return self._by_periods("pct_change", periods, {})

    def _by_periods(self, name: str, periods: Any, kwargs: dict[str, Any]) -> Any:
        if not isinstance(periods, int | np.integer):
            raise NotSupported(f"expected a whole number of rows in {name}, found {periods!r}")
        step = partial(steps.call_method, name)
        if kwargs.get("axis") in (1, "columns"):
            return elementwise(name, partial(step, periods=periods), (self,), kwargs, columnwise=False)
        n = int(periods)
        ends: dict[str, Any] = {"before": last_rows(n)} if n >= 0 else {"after": first_rows(-n)}
        return beside(name, self, step, kwargs={"periods": periods, **kwargs}, **ends)

    def ffill(self, *, axis: Any = None, limit: int | None = None, limit_area: Any = None, inplace: bool = False) -> Any:
        """
        Fill nulls with the last value before them that is none.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1.0, None, None]), npartitions=3).ffill().compute().tolist()
        [1.0, 1.0, 1.0]
        """
        return self._filled("ffill", axis, limit, limit_area, inplace)

    def bfill(self, *, axis: Any = None, limit: int | None = None, limit_area: Any = None, inplace: bool = False) -> Any:
        """Fill nulls with the first value after them that is none."""
        return self._filled("bfill", axis, limit, limit_area, inplace)

    def _filled(self, name: str, axis: Any, limit: int | None, limit_area: Any, inplace: bool) -> Any:
        if inplace:
            raise NotSupported(f"expected {name} without inplace=True, as frames do not change; assign what it returns")
        step = partial(steps.call_method, name)
        if axis in (1, "columns"):
            return elementwise(name, step, (self,), {"axis": 1, "limit": limit, "limit_area": limit_area}, columnwise=False)
        if limit is None:
            sides: dict[str, Any] = {"before": partial(edge, name)} if name == "ffill" else {"after": partial(edge, name)}
        else:
            sides = {"before": last_rows(limit)} if name == "ffill" else {"after": first_rows(limit)}
        if limit_area is not None:  # whether a null lies between values is seen from both sides
            if limit is not None:
                raise NotSupported(f"expected {name} with limit= or limit_area=, found both")
            sides = {"before": partial(edge, "ffill"), "after": partial(edge, "bfill")}
        return beside(name, self, step, kwargs={"limit": limit, "limit_area": limit_area}, **sides)

    def _running(self, name: str, axis: Any, skipna: bool, numeric_only: bool = False) -> Any:
        frame: Any = self.select_dtypes(["number", "bool"]) if numeric_only else self  # type: ignore[attr-defined]
        if axis in (1, "columns"):
            return elementwise(
                name, partial(steps.call_method, name), (frame,), {"axis": 1, "skipna": skipna}, columnwise=False
            )
        getattr(frame._meta, name)(skipna=skipna)  # pandas' own error, with pandas' own words
        if name in ("cumsum", "cumprod"):
            frame = elementwise("counted", steps.truth_as_numbers, (frame,))
        running = Running(name, skipna)
        return beside(name, frame, running, before=running.last)

    def rolling(
        self, window: Any, min_periods: int | None = None, center: bool = False, win_type: Any = None, on: Any = None,
        closed: Any = None,
    ) -> Rolling:  # fmt: skip
        """
        Windows of a number of rows, or of a length of time where labels (or the column `on`) are sorted times.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1, 2, 3, 4]), npartitions=4).rolling(2).sum().compute().tolist()
        [nan, 3.0, 5.0, 7.0]
        """
        given = {"min_periods": min_periods, "center": center, "win_type": win_type, "closed": closed}
        return Rolling(self, window, given | ({} if on is None else {"on": on}))

    def map_overlap(self, fn: Callable[..., Any], before: Any, after: Any, *args: Any, meta: Any = None, **kwargs: Any) -> Any:
        """
        Call ``fn(rows, *args, **kwargs)`` for each partition together with rows before and after it.

        Parameters
        ----------
        fn : callable
            Returns one row for each row that it is given; those of the neighbours are cut off.
        before, after : int or timedelta
            How many rows, or with sorted times as labels, rows how long before and after.
        *args, **kwargs
        meta : optional
            What `fn` returns; see `map_partitions`.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.Series([1, 2, 4, 7]), npartitions=2)
        >>> frame.map_overlap(lambda rows: rows - rows.shift(1, fill_value=0), 1, 0).compute().tolist()
        [1, 1, 2, 3]
        """
        if meta is None:
            meta = learned(fn, (self._meta, *args), kwargs, what="the function of map_overlap")
        sides: dict[str, Any] = {}
        for side, wanted, rows in (("before", before, last_rows), ("after", after, first_rows)):
            if isinstance(wanted, str | timedelta | pd.Timedelta):
                sides[side] = Within(time_span(wanted), first=side == "after")
            elif not isinstance(wanted, int) or wanted < 0:
                raise InputError(f"expected {side}= to be a number of rows or a length of time, found {wanted!r}")
            elif wanted:
                sides[side] = rows(wanted)
        return beside("map_overlap", self, fn, columnwise=False, meta=as_meta(meta), args=args, kwargs=kwargs, **sides)


def edge(name: str, rows: Any) -> Any:
    """One row of the last values that are not null, or of the first."""
    filled = getattr(rows, name)()
    return filled.iloc[-1:] if name == "ffill" else filled.iloc[:1]


class Rolling:
    """
    Windows over rows; see `AcrossRows.rolling`. What comes of each window has the label of its row.

    Parameters
    ----------
    frame : Frame
    window : int or length of time
    kwargs : dict
        Other arguments of pandas' ``rolling``.
    """

    def __init__(self, frame: Frame, window: Any, kwargs: dict[str, Any]) -> None:
        frame._meta.rolling(window, **kwargs)  # pandas' own error, with pandas' own words
        self._frame, self._window, self._kwargs = frame, window, kwargs
        if isinstance(window, int | np.integer):
            self._sides: dict[str, Any] = {"before": last_rows(int(window))}
            if kwargs["center"]:
                self._sides["after"] = first_rows(int(window))
        elif isinstance(window, str | timedelta | pd.Timedelta | pd.tseries.offsets.BaseOffset):
            span, on = time_span(window), kwargs.get("on")
            self._frame = frame if on is not None else Frame._of(labelled(frame._node))
            self._sides = {"before": Within(span, on)}
            if kwargs["center"]:
                self._sides["after"] = Within(span, on, first=True)
        else:
            raise NotSupported(f"expected a number of rows or a length of time as window, found {type(window).__name__}")

    def __getitem__(self, columns: Any) -> Rolling:
        on = self._kwargs.get("on")
        if on is None:
            return Rolling(self._frame[columns], self._window, self._kwargs)  # type: ignore[index]
        raise NotSupported("expected to choose columns before rolling(on=...), found them chosen after it")

    def cov(self, other: Any = None, pairwise: bool | None = None, ddof: int = 1) -> Any:
        """
        The covariance in each window with another series or frame of the same partitions.

        Parameters
        ----------
        other : Series or DataFrame, optional
            Default: the series, or the frame, itself.
        pairwise : False, optional
            Columns of frames are matched by name; of a frame with itself, say so.
        ddof : int

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 4], "b": [1, 3, 2]}), npartitions=2)
        >>> frame.a.rolling(2).cov(frame.b).compute().tolist()
        [nan, 1.0, -1.0]
        """
        frame = self._frame
        if (
            self._kwargs.get("on") is not None
            or pairwise
            or (pairwise is other is None and isinstance(frame._meta, pd.DataFrame))
        ):
            raise NotSupported("expected cov with pairwise=False and without on=, found another; choose pairs of columns")
        other = frame if other is None else other
        both = elementwise("both", beside_each_other, (frame, other), columnwise=False)
        step = partial(windows_cov, frame._meta, other._meta, self._window, self._kwargs)
        return beside("cov", both, step, columnwise=False, kwargs={"ddof": ddof}, **self._sides)

    def _of_windows(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step = partial(window_method, name, self._window, self._kwargs)
        columnwise = self._kwargs.get("on") is None and not name.startswith("agg")  # a dict of columns wants them all
        return beside(name, self._frame, step, columnwise=columnwise, args=args, kwargs=kwargs, **self._sides)


def window_method(name: str, window: Any, rolling: dict[str, Any], rows: Any, *args: Any, **kwargs: Any) -> Any:
    """A method of pandas' windows on rows that hold all of each."""
    return getattr(rows.rolling(window, **rolling), name)(*args, **kwargs)


def beside_each_other(left: Any, right: Any) -> pd.DataFrame:
    """The columns of both, numbered."""
    both = pd.concat([left, right], axis=1)
    return both.set_axis(range(both.shape[1]), axis=1)


def windows_cov(left: Any, right: Any, window: Any, rolling: dict[str, Any], both: pd.DataFrame, ddof: int) -> Any:
    """The covariance of what `beside_each_other` put together, like two metas."""
    width = left.shape[1] if isinstance(left, pd.DataFrame) else 1
    parts = []
    for like, columns in ((left, both.iloc[:, :width]), (right, both.iloc[:, width:])):
        series = isinstance(like, pd.Series)
        parts.append(columns.iloc[:, 0].rename(like.name) if series else columns.set_axis(like.columns, axis=1))
    return parts[0].rolling(window, **rolling).cov(parts[1], pairwise=False, ddof=ddof)


ROLLING_METHODS = (
    "aggregate", "apply", "count", "kurt", "max", "mean", "median", "min", "nunique", "quantile", "rank", "sem", "skew", "std",
    "sum", "var",
)  # fmt: skip


def _rolling_method(name: str) -> Callable[..., Any]:
    def method(self: Rolling, *args: Any, **kwargs: Any) -> Any:
        return self._of_windows(name, args, kwargs)

    return like_pandas(method, pd.core.window.rolling.Rolling, name, "Rolling")


def _running_method(name: str) -> Callable[..., Any]:
    def method(self: AcrossRows, axis: Any = 0, skipna: bool = True, numeric_only: bool = False) -> Any:
        return self._running(name, axis, skipna, numeric_only)

    return like_pandas(method, pd.DataFrame, name, "DataFrame")


for _name in ROLLING_METHODS:
    setattr(Rolling, _name, _rolling_method(_name))
Rolling.agg = Rolling.aggregate  # type: ignore[attr-defined]
for _name in ("cummax", "cummin", "cumprod", "cumsum"):
    setattr(AcrossRows, _name, _running_method(_name))

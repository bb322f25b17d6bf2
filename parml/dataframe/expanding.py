"""Windows from the first row to each row: `expanding`. What is carried from partition to partition is one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe.base import Frame
from parml.dataframe.operators import like_pandas
from parml.dataframe.plan import Blockwise, Input, Node
from parml.dataframe.plan_scan import Scan
from parml_core.errors import InputError

STATS = ("rows", "there", "count", "sum", "squares", "min", "max")
"""What is kept of all rows so far, of each column: how many rows, values and finite values, and of these the rest; squares are
of the distances from the mean."""


class Expands:
    """`expanding`, for frames and series."""

    _node: Node

    def expanding(self, min_periods: int = 1) -> Expanding:
        """
        Windows that reach from the first row to each row.

        Parameters
        ----------
        min_periods : int
            With fewer values, there is none.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1, 2, 6]), npartitions=3).expanding().mean().compute().tolist()
        [1.0, 1.5, 3.0]
        """
        return Expanding(self, min_periods)


class Expanding:
    """
    Windows that reach from the first row to each row; see `Expands.expanding`.

    Parameters
    ----------
    frame : DataFrame or Series
    min_periods : int
    """

    def __init__(self, frame: Any, min_periods: int) -> None:
        frame._meta.expanding(min_periods)  # pandas' own error, with pandas' own words
        self._frame, self._min_periods = frame, min_periods

    def __getitem__(self, columns: Any) -> Expanding:
        return Expanding(self._frame[columns], self._min_periods)

    def _of_windows(self, name: str, ddof: int = 1) -> Any:
        node = self._frame._node
        meta = getattr(node.meta.expanding(self._min_periods), name)()
        if isinstance(meta, pd.DataFrame) and not (meta.columns.is_unique and list(meta.columns) == list(node.meta.columns)):
            raise InputError(f"expected columns of numbers of different names, found {dict(node.meta.dtypes)}; choose columns")
        kept = Blockwise("expanding-kept", kept_of, (node,))
        before = Scan("expanding-before", kept, merged)
        windows = Windows(name, self._min_periods, ddof)
        return Frame._of(
            Blockwise(f"expanding {name}", windows, (node, before), (Input(0), Input(1)), meta=meta, rows=node.rows)
        )


def _columns(rows: Any) -> list[np.ndarray]:
    columns = [rows] if isinstance(rows, pd.Series) else [rows.iloc[:, place] for place in range(rows.shape[1])]
    return [column.to_numpy("float64", na_value=np.nan) for column in columns]


def kept_of(rows: Any) -> pd.DataFrame:
    """One row of `STATS` of each column, those of column i in columns ``(i, stat)``; none of no rows."""
    found: dict[tuple[int, str], Any] = {}
    for place, values in enumerate(_columns(rows)):
        there = values[np.isfinite(values)]
        stats = (
            len(values),
            (~np.isnan(values)).sum(),
            len(there),
            there.sum(),
            ((there - there.mean()) ** 2).sum() if len(there) else 0.0,
        )
        ends = (there.min(), there.max()) if len(there) else (np.nan, np.nan)
        found |= {(place, stat): value for stat, value in zip(STATS, (*stats, *ends), strict=True)}
    return pd.DataFrame(found, index=range(min(len(rows), 1)), dtype="float64")


def merged(kept: pd.DataFrame) -> pd.DataFrame:
    """Several such rows, in order, as one (Chan, Golub and LeVeque, 1979)."""
    if len(kept) < 2:
        return kept
    found: dict[tuple[int, str], Any] = {}
    for place in range(kept.shape[1] // len(STATS)):
        rows, there, count, total, squares, least, most = (kept[place, stat].to_numpy() for stat in STATS)
        n = count.sum()
        means = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        centre = total.sum() / n if n else 0.0
        stats = (rows.sum(), there.sum(), n, total.sum(), (squares + count * (means - centre) ** 2).sum())
        ends = (np.fmin.reduce(least), np.fmax.reduce(most))
        found |= {(place, stat): value for stat, value in zip(STATS, (*stats, *ends), strict=True)}
    return pd.DataFrame(found, index=range(1), dtype="float64")


@dataclass(frozen=True)
class Windows:
    """
    What comes of the windows of a partition's rows, from what is kept of the rows before.

    Parameters
    ----------
    name : str
    min_periods : int
    ddof : int
    """

    name: str
    min_periods: int
    ddof: int

    def __call__(self, rows: Any, before: pd.DataFrame) -> Any:
        columns = [
            self._of_column(values, {stat: before[place, stat].iloc[0] for stat in STATS} if len(before) else None)
            for place, values in enumerate(_columns(rows))
        ]
        if isinstance(rows, pd.Series):
            return pd.Series(columns[0], index=rows.index, name=rows.name)
        return pd.DataFrame(dict(enumerate(columns)), index=rows.index).set_axis(rows.columns, axis=1)

    def _of_column(self, values: np.ndarray, before: dict[str, float] | None) -> np.ndarray:
        kept = before or dict.fromkeys(STATS, 0.0) | {"min": np.nan, "max": np.nan}
        if self.name == "count":
            rows = kept["rows"] + np.arange(1, len(values) + 1)
            return np.where(rows >= self.min_periods, kept["there"] + (~np.isnan(values)).cumsum(), np.nan)
        windows = pd.Series(np.where(np.isinf(values), np.nan, values)).expanding(1)  # as pandas does
        local = np.isfinite(values).cumsum().astype("float64")
        count = kept["count"] + local
        if self.name in ("min", "max"):
            best = np.fmin if self.name == "min" else np.fmax
            found = best(getattr(windows, self.name)().to_numpy(), kept[self.name])
        elif self.name in ("sum", "mean"):
            found = kept["sum"] + windows.sum().fillna(0.0).to_numpy()
            found = found if self.name == "sum" else _divided(found, count)
        else:
            away = windows.mean().fillna(0.0).to_numpy() - (kept["sum"] / kept["count"] if kept["count"] else 0.0)
            squares = windows.var(ddof=0).fillna(0.0).to_numpy() * local + kept["squares"]
            squares = squares + away**2 * _divided(local * kept["count"], count)
            found = np.where(count > self.ddof, _divided(squares, count - self.ddof), np.nan)
            found = np.sqrt(found) if self.name == "std" else found
        return np.where(count >= self.min_periods, found, np.nan)


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


EXPANDING_METHODS = ("count", "max", "mean", "min", "std", "sum", "var")


def _method(name: str) -> Callable[..., Any]:
    def method(self: Expanding, *args: Any, **kwargs: Any) -> Any:
        return self._of_windows(name, *args, **kwargs)

    return like_pandas(method, pd.core.window.expanding.Expanding, name, "Expanding")


for _name in EXPANDING_METHODS:
    setattr(Expanding, _name, _method(_name))

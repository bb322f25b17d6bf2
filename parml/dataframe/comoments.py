"""Covariance and correlation of columns, each pair over the rows where both have a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe.base import Frame
from parml.dataframe.plan import Blockwise, Node
from parml.dataframe.plan_across import Reduce
from parml_core.errors import NotSupported


@dataclass(frozen=True)
class Comoments:
    """
    For each pair (a, b) of columns: count, mean of a, sum of products of distances from the means, and of squares of those
    of a; arrays of shape (4, n_columns, n_columns), merged as Chan, Golub and LeVeque do (1979).

    Parameters
    ----------
    name : {"cov", "corr"}
    min_periods : int
    ddof : int
    columns : Index
    pair : bool
        The value of the only pair, and no matrix.
    """

    name: str
    min_periods: int
    ddof: int
    columns: pd.Index
    pair: bool

    def chunk(self, *partitions: Any) -> np.ndarray:
        frame = partitions[0] if len(partitions) == 1 else pd.concat(partitions, axis=1)
        x = frame.to_numpy(dtype="float64", na_value=np.nan)
        there = ~np.isnan(x)
        count = there.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.where(count > 0, np.where(there, x, 0.0).sum(axis=0) / count, 0.0)
            x = np.where(there, x - centre, 0.0)
            seen = there.astype("float64")
            n = seen.T @ seen
            sums = x.T @ seen
            products = x.T @ x - np.where(n > 0, sums * sums.T / n, 0.0)
            squares = (x * x).T @ seen - np.where(n > 0, sums * sums / n, 0.0)
            mean = np.where(n > 0, centre[:, None] + sums / n, 0.0)
        return np.array([n, mean, products, squares])

    def combine(self, parts: list[np.ndarray]) -> np.ndarray:
        n, mean, products, squares = np.stack(parts, axis=1)
        total = n.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.where(total > 0, (n * mean).sum(axis=0) / total, 0.0)
        away = mean - centre
        return np.array(
            [
                total,
                centre,
                (products + n * away * away.transpose(0, 2, 1)).sum(axis=0),
                (squares + n * away**2).sum(axis=0),
            ]
        )

    def finish(self, parts: list[np.ndarray]) -> Any:
        n, _, products, squares = self.combine(parts)
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.name == "cov":
                values = np.where(n > self.ddof, products / (n - self.ddof), np.nan)
            else:
                values = np.clip(products / np.sqrt(squares * squares.T), -1, 1)
        values = np.where(n >= max(self.min_periods, 1), values, np.nan)
        return np.float64(values[0, 1]) if self.pair else pd.DataFrame(values, index=self.columns, columns=self.columns)


def comoment_of(
    name: str, nodes: tuple[Node, ...], *, min_periods: int | None = None, ddof: int = 1, method: Any = "pearson"
) -> Any:
    """
    ``cov`` or ``corr`` of the columns of a frame, or of two series.

    Parameters
    ----------
    name : {"cov", "corr"}
    nodes : tuple of Node
        One frame or two series.
    min_periods : int, optional
        Pairs of fewer rows have none.
    ddof : int
    method : "pearson"
    """
    if method != "pearson":
        raise NotSupported(f"expected method='pearson', found {method!r}; rank the columns first, or compute them")
    for node in nodes:
        for column, dtype in node.meta.dtypes.items() if len(nodes) == 1 else [(node.meta.name, node.meta.dtype)]:
            if not pd.api.types.is_numeric_dtype(dtype):
                raise TypeError(f"expected numbers for {name}, found column {column!r} of dtype {dtype}; choose columns")
    columns = nodes[0].meta.columns if len(nodes) == 1 else pd.RangeIndex(2)
    moments = Comoments(name, min_periods or 1, ddof, columns, pair=len(nodes) == 2)
    meta = np.float64("nan") if moments.pair else pd.DataFrame(np.nan, index=columns, columns=columns)
    chunk = Blockwise(name, moments.chunk, nodes, meta=0)
    return Frame._of(Reduce(name, chunk, moments.combine, moments.finish, meta))

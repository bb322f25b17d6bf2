"""
Exact quantiles of a column in two passes and little memory.

Each partition is sorted and keeps every so-manieth value, so that for any value it is known how many are no greater, but for
the distance of two that were kept. From all of these follows between which two values the wanted one lies. The second pass
counts what lies before them and keeps what lies between: a few hundredths of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame
from parml.dataframe.plan import Blockwise, Input, Node
from parml.dataframe.plan_across import Reduce
from parml_core.errors import InputError

KEPT = 512
"""So many values are kept of each partition, at most."""


@dataclass(frozen=True)
class Sketch:
    """
    Values of a partition in order, and how many are no greater than each.

    Parameters
    ----------
    values : array of shape (n_kept,)
    ranks : array of shape (n_kept,), int64
    """

    values: np.ndarray
    ranks: np.ndarray


def sketch(series: pd.Series) -> Sketch:
    """Of the values that are not null."""
    ordered = np.sort(ordinals(series))
    n = len(ordered)
    ranks = np.unique(np.arange(1, KEPT + 1) * n // KEPT)
    ranks = ranks[ranks > 0]
    return Sketch(ordered[ranks - 1], ranks)


def ordinals(series: pd.Series) -> np.ndarray:
    """The values that are not null as numbers; times as the integers that they are stored as."""
    values = series.dropna()
    if values.dtype.kind in "mM":
        return np.asarray(values.astype("int64"))
    return values.to_numpy()


def brackets(sketches: list[Any], shares: Sequence[float]) -> list[tuple[int, Any, Any]]:
    """
    For each value that is needed its place, a value below it (or None) and one that is no smaller.

    Parameters
    ----------
    sketches : list of Sketch
    shares : sequence of float
        The quantiles, from 0 to 1. Each needs the two values between which it lies.
    """
    kept = [each for each in steps.unpacked(sketches) if len(each.values)]
    if not kept:
        return []
    total = sum(int(each.ranks[-1]) for each in kept)
    error = sum(int(np.diff(each.ranks, prepend=0).max()) - 1 for each in kept)
    values = np.unique(np.concatenate([each.values for each in kept]))
    least = np.zeros(len(values), dtype="int64")  # so many are no greater, at least; and at most `error` more
    for each in kept:
        least += np.concatenate([[0], each.ranks])[np.searchsorted(each.values, values, side="right")]
    found = []
    for place in sorted({place for share in shares for place in neighbours(total, share)}):
        below = int(np.searchsorted(least, place - error, side="right")) - 1
        found.append((place, values[below] if below >= 0 else None, values[np.searchsorted(least, place + 1)]))
    return found


def neighbours(total: int, share: float) -> tuple[int, int]:
    """The places of the two values between which a quantile lies."""
    place = (total - 1) * share
    return int(np.floor(place)), int(np.ceil(place))


def between(series: pd.Series, found: list[tuple[int, Any, Any]]) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """For each bracket how many values lie before it, and those inside, with how often each occurs."""
    values = ordinals(series)
    result = []
    for _, below, top in found:
        inside = values <= top if below is None else (values <= top) & (values > below)
        before = 0 if below is None else int((values <= below).sum())
        result.append((before, *np.unique(values[inside], return_counts=True)))
    return result


def merged(parts: list[Any]) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What `between` found in several partitions."""
    result = []
    for bracket in zip(*parts, strict=True):
        values, places = np.unique(np.concatenate([each[1] for each in bracket]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([each[2] for each in bracket]), minlength=len(values))
        result.append((sum(each[0] for each in bracket), values, counts.astype("int64")))
    return result


@dataclass(frozen=True)
class Interpolate:
    """The quantiles from the values found; pandas interpolates between the two neighbours of each."""

    shares: tuple[float, ...]
    interpolation: str
    meta: pd.Series
    many: bool

    def about(self, sketches: list[Any]) -> Any:
        """The quantiles from the sketches alone: of each partition, no further away than 1 / `KEPT` of its values."""
        kept = [each for each in steps.unpacked(sketches) if len(each.values)]
        if not kept:
            return self(sketches, [], [])
        values = np.concatenate([each.values for each in kept])
        order = np.argsort(values, kind="stable")
        below = np.cumsum(np.concatenate([np.diff(each.ranks, prepend=0) for each in kept])[order])
        places = sorted({place for share in self.shares for place in neighbours(int(below[-1]), share)})
        at = dict(zip(places, values[order][np.searchsorted(below, places, side="right")], strict=True))
        return self._of_places(int(below[-1]), at)

    def __call__(self, sketches: list[Any], found: list[tuple[int, Any, Any]], parts: list[Any]) -> Any:
        if not found:
            return self.meta.quantile(list(self.shares) if self.many else self.shares[0], interpolation=self.interpolation)
        total = sum(int(each.ranks[-1]) for each in steps.unpacked(sketches) if len(each.ranks))
        at = {}
        for (place, _, _), (before, values, counts) in zip(found, parts, strict=True):
            at[place] = values[np.searchsorted(np.cumsum(counts), place - before, side="right")]
        return self._of_places(total, at)

    def _of_places(self, total: int, at: dict[int, Any]) -> Any:
        results = [self._one(total, share, at) for share in self.shares]
        if not self.many:
            return results[0]
        like = self.meta.quantile([0.5], interpolation=self.interpolation)
        dtype = None if isinstance(like.dtype, np.dtype) and like.dtype.kind == "f" else like.dtype
        return pd.Series(results, index=pd.Index(self.shares, dtype="float64"), dtype=dtype, name=self.meta.name)

    def _one(self, total: int, share: float, at: dict[int, Any]) -> Any:
        low, high = neighbours(total, share)
        part = (total - 1) * share - low
        if self.interpolation == "nearest":
            low = high = round((total - 1) * share)
        pair = pd.Series([at[low], at[high]], dtype="int64" if self.meta.dtype.kind in "mM" else None).astype(self.meta.dtype)
        return pair.quantile(part, interpolation=self.interpolation)


def quantile_of(node: Node, q: Any, interpolation: str = "linear", *, approximate: bool = False) -> Any:
    """
    Quantiles of a series.

    Parameters
    ----------
    node : Node
    q : float or sequence of float
    interpolation : {"linear", "lower", "higher", "midpoint", "nearest"}
    approximate : bool
        In one pass, from the values that are kept of each partition; exact where it has no more than `KEPT`.
    """
    many = np.ndim(q) > 0
    shares = tuple(float(share) for share in (q if many else [q]))
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError("percentiles should all be in the interval [0, 1]")
    if not (pd.api.types.is_numeric_dtype(node.meta.dtype) or node.meta.dtype.kind in "mM"):
        raise InputError(f"expected numbers or times for quantile, found column {node.meta.name!r} of dtype {node.meta.dtype}")
    meta = node.meta.quantile(list(shares) if many else shares[0], interpolation=interpolation)
    sketches = Reduce("sketch", Blockwise("sketch", sketch, (node,), meta=0), steps.packed, steps.packed, 0)
    finish = Interpolate(shares, interpolation, node.meta, many)
    if approximate:
        return Frame._of(Reduce("approximate quantile", sketches.inputs[0], steps.packed, finish.about, meta))
    found = Blockwise("brackets", brackets, (sketches,), (Input(0), shares), meta=0)
    parts = Reduce("between", Blockwise("between", between, (node, found), meta=0), merged, merged, 0)
    return Frame._of(Blockwise("quantile", finish, (sketches, found, parts), meta=meta))

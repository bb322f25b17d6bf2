"""
Where a row belongs by its keys: a hash that equal keys share whatever their dtypes, and places in a sorted order.

Plain pandas and numpy, no plan, no engine. Hashes depend on values alone: they are the same in every process.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

NULL = np.uint64(0x9E3779B97F4A7C15)
"""The hash of every null, of whatever dtype: pandas merges them with each other."""

_NUMBERS = frozenset({"integer", "floating", "mixed-integer-float", "boolean", "decimal", "complex"})
_TIMES = frozenset({"datetime", "datetime64", "timedelta", "timedelta64"})
_MOST_CODES = 2**62


@dataclass(frozen=True)
class Keys:
    """
    The values of a row that decide where it belongs.

    Parameters
    ----------
    columns : tuple, optional
        Default: the labels of the rows.
    """

    columns: tuple[Any, ...] | None = None

    def of(self, frame: Any) -> pd.DataFrame:
        """A frame with the keys as its columns."""
        return frame.index.to_frame(index=False) if self.columns is None else frame[list(self.columns)]


# -------------------------------------------------------------------------------------------------------------- hashes


def hash_rows(keys: pd.DataFrame) -> np.ndarray:
    """
    The hash of each row, shape (n_rows,) of uint64.

    Rows whose values compare equal have equal hashes: the integer 1, the float 1.0 and True; a text in a categorical, in
    Arrow and as an object; one time in several units; null and null.

    Examples
    --------
    >>> ints, floats = pd.DataFrame({"a": [1, -2]}, dtype="int32"), pd.DataFrame({"b": [1.0, -2.0]})
    >>> (hash_rows(ints) == hash_rows(floats)).all()
    np.True_
    """
    hashes = np.zeros(len(keys), "uint64")
    for place in range(keys.shape[1]):
        hashes = _mixed(hashes * np.uint64(31) + _hash_values(keys.iloc[:, place]))
    return hashes


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Every bit spread over all others, as in splitmix64 (Steele, Lea and Flood, 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _hash_values(values: pd.Series) -> np.ndarray:
    dtype: Any = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        of_categories = np.append(_hash_values(pd.Series(dtype.categories)), NULL)
        return of_categories[values.cat.codes.to_numpy()]  # the code of a null is -1, that of the last
    if pd.api.types.is_complex_dtype(dtype):
        return _hash_values(pd.Series(np.real(values.to_numpy())))
    if pd.api.types.is_numeric_dtype(dtype):
        # Numbers that floats cannot tell apart share a hash, which costs a little balance and nothing else.
        bits = (values.to_numpy("float64", na_value=np.nan) + 0.0).view("uint64")  # + 0.0: of -0.0 and 0.0 the same
    elif isinstance(dtype, pd.DatetimeTZDtype) or getattr(dtype, "kind", "O") in "mM":
        bits = values.array.as_unit("us").asi8.view("uint64") if hasattr(values.array, "asi8") else _hash_objects(values)
    elif isinstance(dtype, pd.PeriodDtype):
        bits = values.array.asi8.view("uint64")
    else:
        bits = _hash_objects(values)
    return np.where(values.isna().to_numpy(), NULL, bits)


def _hash_objects(values: pd.Series) -> np.ndarray:
    codes, found = pd.factorize(values)
    uniques = np.asarray(found, dtype=object)
    kind = pd.api.types.infer_dtype(uniques, skipna=True)
    if kind == "string":
        hashes = pd.util.hash_array(uniques, categorize=False)
    elif kind in _NUMBERS:
        hashes = _hash_values(pd.Series([float(np.real(item)) for item in uniques], dtype="float64"))
    elif kind in _TIMES:
        hashes = _hash_values(pd.Series(uniques).infer_objects())
        if pd.Series(uniques).infer_objects().dtype == object:  # times of several zones
            hashes = _hash_values(pd.to_datetime(pd.Series(uniques), utc=True))
    else:
        hashes = np.array([_hash_item(item) for item in uniques], dtype="uint64")
    return np.append(hashes, NULL)[codes]


def _hash_item(item: Any) -> np.uint64:
    if isinstance(item, numbers.Number):
        return _hash_values(pd.Series([float(np.real(item))]))[0]  # type: ignore[call-overload, no-any-return]
    text = item if isinstance(item, str) else str(item)
    return pd.util.hash_array(np.array([text], dtype=object), categorize=False)[0]  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------------- order


@dataclass(frozen=True)
class Order:
    """
    How rows are sorted.

    Parameters
    ----------
    keys : Keys
    ascending : tuple of bool, optional
        One for each key. Default: all of them ascend.
    nulls_first : bool
    """

    keys: Keys
    ascending: tuple[bool, ...] | None = None
    nulls_first: bool = False

    def sorted(self, frame: Any) -> Any:
        """The rows in this order; equal ones stay in the order in which they are."""
        keys = self.keys.of(frame)
        plain = keys.set_axis(range(keys.shape[1]), axis=1).reset_index(drop=True)
        place = "first" if self.nulls_first else "last"
        by, ascending = list(plain.columns), list(self._ascending(len(plain.columns)))
        return frame.take(plain.sort_values(by, ascending=ascending, na_position=place, kind="stable").index.to_numpy())

    def targets(self, frame: Any, bounds: pd.DataFrame) -> np.ndarray:
        """For each row how many of the bounds, which are sorted, it is not before. Equal rows get equal numbers."""
        keys = self.keys.of(frame)
        steps, size = 2 * len(bounds) + 3, 1
        targets = np.zeros(len(keys), "int64")
        tied: Any = slice(None)  # rows that the keys so far do not tell apart from some bound
        of_rows, of_bounds = np.zeros(len(keys), "int64"), np.zeros(len(bounds), "int64")
        for place, ascending in enumerate(self._ascending(keys.shape[1])):
            if size * steps > _MOST_CODES:
                break  # the keys before suffice: rows that they do not tell apart stay together
            row_codes, bound_codes = _codes(keys.iloc[:, place].iloc[tied], bounds.iloc[:, place])
            of_rows = of_rows * steps + self._directed(row_codes, ascending, steps)
            of_bounds = of_bounds * steps + self._directed(bound_codes, ascending, steps)
            if place == 0:
                targets = np.searchsorted(of_bounds, np.arange(steps), side="right")[of_rows]
            else:
                targets[tied] = np.searchsorted(of_bounds, of_rows, side="right")
            at_bound = np.flatnonzero(row_codes & 1)  # odd: at a bound, or null
            tied, of_rows, size = at_bound if place == 0 else tied[at_bound], of_rows[at_bound], size * steps
        return targets

    def _directed(self, codes: np.ndarray, ascending: bool, steps: int) -> np.ndarray:
        null = 0 if self.nulls_first else steps - 1
        return np.where(codes < 0, null, codes + 1 if ascending else steps - 2 - codes)

    def _ascending(self, n: int) -> tuple[bool, ...]:
        return (True,) * n if self.ascending is None else self.ascending


def _codes(values: pd.Series, bounds: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """
    Whole numbers in the order of the values: ``2 i`` before bound number i, ``2 i + 1`` at it, -1 of a null.
    """
    rows, limits = _comparable(values), _comparable(bounds)
    null, null_limit = values.isna().to_numpy(), bounds.isna().to_numpy()
    steps = np.unique(limits[~null_limit])

    def code(items: np.ndarray, nulls: np.ndarray) -> np.ndarray:
        codes = np.full(len(items), -1, "int64")
        there = items[~nulls]
        left = np.searchsorted(steps, there, side="left")
        equal = steps[np.minimum(left, len(steps) - 1)] == there if len(steps) else 0
        codes[~nulls] = 2 * left + equal
        return codes

    return code(rows, null), code(limits, null_limit)


def _comparable(values: pd.Series) -> np.ndarray:
    """An array that numpy sorts as pandas sorts the values; what stands in the place of a null does not matter."""
    dtype: Any = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy()
    if hasattr(values.array, "asi8"):  # times and periods
        return values.array.asi8
    if pd.api.types.is_numeric_dtype(dtype):
        if isinstance(dtype, np.dtype):
            return values.to_numpy()
        kind = np.dtype(getattr(dtype, "numpy_dtype", "float64"))
        return values.to_numpy(kind, na_value=kind.type(0))
    return values.to_numpy(object)


def sample(order: Order, n_rows: int, frame: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Keys of some rows, always the same, and how many rows each of them stands for."""
    keys = order.keys.of(frame).reset_index(drop=True)
    keys = keys.set_axis(range(keys.shape[1]), axis=1)
    if len(keys) > n_rows:
        chosen = np.sort(np.random.default_rng(0).choice(len(keys), n_rows, replace=False))
        return keys.take(chosen), np.full(n_rows, len(keys) / n_rows)
    return keys, np.ones(len(keys))


def merge_samples(samples: list[Any]) -> tuple[pd.DataFrame, np.ndarray]:
    """Several samples as one."""
    kept = [one for one in samples if len(one[0])] or samples[:1]
    return pd.concat([keys for keys, _ in kept], ignore_index=True), np.concatenate([weights for _, weights in kept])


@dataclass(frozen=True)
class Quantiles:
    """Of samples, the keys that cut the sorted rows into `n_targets` parts of about equal length: a frame of those."""

    order: Order
    n_targets: int

    def __call__(self, samples: list[Any]) -> pd.DataFrame:
        keys, weights = merge_samples(samples)
        place = Order(Keys(tuple(keys.columns)), self.order.ascending, self.order.nulls_first)
        ranked = place.sorted(keys)
        below = np.cumsum(weights[ranked.index.to_numpy()])
        if not len(below):
            return ranked
        wanted = below[-1] * np.arange(1, self.n_targets) / self.n_targets
        return ranked.take(np.minimum(np.searchsorted(below, wanted, side="right"), len(below) - 1))

"""What totals do to partitions and to what is left of them: plain pandas and numpy."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe.steps import unpacked


def nbytes_of(values: Any) -> int:
    """Of the values alone."""
    columns = [values] if isinstance(values, pd.Series) else [values.iloc[:, place] for place in range(values.shape[1])]
    return int(sum(column.nbytes for column in columns))


def bytes_of_part(values: Any, index: bool, deep: bool) -> int:
    return int(np.sum(values.memory_usage(index=index, deep=deep)))


def sizes_of_parts(sizes: list[Any]) -> pd.Series:
    return pd.Series(unpacked(sizes), dtype="int64")


def summed(parts: list[pd.Series]) -> pd.Series:
    """Item by item."""
    return functools.reduce(operator.add, parts)


def chosen(place: int, values: list[Any]) -> Any:
    """The first or last of those that are not None."""
    there = [value for value in values if value is not None]
    return there[place] if there else None


def ranked(values: pd.Series) -> pd.Series:
    """Values that can be compared as pandas does: categories by their places, whatever they are called."""
    return values.cat.codes if isinstance(values.dtype, pd.CategoricalDtype) else values


def most_frequent(meta: pd.Series, dropna: bool, counts: pd.Series) -> pd.Series:
    """The values of the highest count, in pandas' order and dtype."""
    best = counts.index[counts.to_numpy() == counts.max()] if counts.sum() else counts.index[:0]
    return pd.Series(best, dtype=meta.dtype, name=meta.name).mode(dropna=dropna)


def numbers_described(meta: pd.Series, shares: list[float], count: Any, *totals: Any) -> pd.Series:
    """Count, mean, deviation (but of times), least, quantiles and greatest."""
    *before, quantiles, most = totals
    like = meta.describe(percentiles=shares)
    dtype = like.dtype if meta.dtype.kind not in "mM" else None
    return pd.Series([count, *before, *quantiles, most], index=like.index, dtype=dtype, name=meta.name)


def values_described(meta: pd.Series, shares: list[float], count: int, counts: pd.Series) -> pd.Series:
    """Of values that are no numbers: how many there are, how many differ, and which is the most frequent."""
    counts = counts[counts > 0]
    found = [count, len(counts), *((counts.index[0], counts.iloc[0]) if len(counts) else (np.nan, np.nan))]
    return pd.Series(found, index=["count", "unique", "top", "freq"], dtype=object, name=meta.name)


def joined_totals(meta: Any, columns: pd.Index, /, *totals: Any) -> Any:
    """The totals of columns as a series, or as a frame where each is a series."""
    if isinstance(meta, pd.DataFrame):
        frame = pd.concat(totals, axis=1)
        frame.columns = columns
        return frame
    kinds = {getattr(total, "dtype", type(total)) for total in totals}
    same = len(kinds) == 1 and kinds != {type(pd.NaT)}  # which is of times as well as of durations
    same = same and not isinstance(meta.dtype, pd.api.extensions.ExtensionDtype)
    return pd.Series(list(totals), index=columns, name=meta.name, dtype=meta.dtype if not same else None)


def joined_columns(columns: pd.Index, /, *series: pd.Series) -> pd.DataFrame:
    """Series of different labels side by side; labels in the order in which they come, longest first, as pandas has them."""
    labels: dict[Any, None] = {}
    for each in sorted(series, key=len):
        labels.update(dict.fromkeys(each.index))
    frame = pd.concat([each.reindex(list(labels)) for each in series], axis=1, sort=False)
    frame.columns = columns
    return frame


def joined_modes(columns: pd.Index, /, *series: pd.Series) -> pd.DataFrame:
    frame = pd.concat(series, axis=1)
    frame.columns = columns
    return frame


def hll_registers(values: Any, bits: int) -> np.ndarray:
    """For each of 2**bits groups of hashes the most zeros that one begins with, and one."""
    hashes = pd.util.hash_pandas_object(values, index=False).to_numpy()
    rest = hashes << np.uint64(bits)
    zeros = 63 - np.floor(np.log2(np.maximum(rest >> np.uint64(11), 1).astype("float64"))).astype("int64") - 11
    rank = np.where(rest == 0, 64 - bits, zeros) + 1
    registers = np.zeros(2**bits, dtype="uint8")
    np.maximum.at(registers, (hashes >> np.uint64(64 - bits)).astype("int64"), rank.astype("uint8"))
    return registers


def hll_merged(parts: list[np.ndarray]) -> np.ndarray:
    return np.maximum.reduce(parts)


def hll_estimate(parts: list[np.ndarray]) -> float:
    """The number of different hashes that the registers tell of; few of them by the registers that are empty."""
    registers = hll_merged(parts)
    m = len(registers)
    raw = 0.7213 / (1 + 1.079 / m) * m**2 / np.sum(2.0 ** -registers.astype("float64"))
    empty = int((registers == 0).sum())
    return float(m * np.log(m / empty)) if raw <= 2.5 * m and empty else float(raw)

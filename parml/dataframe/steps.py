"""What the steps of a plan do to one partition, or to a list of them: plain pandas, no plan, no engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from parml_core.errors import InputError


def same(value: Any) -> Any:
    return value


def take_columns(frame: pd.DataFrame, columns: Any) -> Any:
    """One column as a series, or the columns of a list as a frame."""
    return frame[columns]


def take_rows(frame: Any, mask: pd.Series) -> Any:
    """The rows where the mask is true."""
    mask = mask.to_numpy() if isinstance(mask, pd.Index) else mask
    # No values of any type are taken for a list of no columns.
    return frame[mask] if len(mask) or mask.dtype != object else frame.iloc[:0]


def set_column(frame: pd.DataFrame, column: Any, value: Any) -> pd.DataFrame:
    """The frame with a column set; a series is aligned by its labels."""
    frame = frame.copy(deep=False)
    frame[column] = value
    return frame


def rename_columns(frame: pd.DataFrame, names: Mapping[Any, Any]) -> pd.DataFrame:
    return frame.rename(columns=names)


def call_method(name: str, value: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A pandas method by name."""
    return getattr(value, name)(*args, **kwargs)


def call_accessor(accessor: str, name: str, value: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A method of ``.str``, ``.dt`` or ``.cat``."""
    return getattr(getattr(value, accessor), name)(*args, **kwargs)


def get_accessor(accessor: str, name: str, value: Any) -> Any:
    """A property of ``.str``, ``.dt`` or ``.cat``."""
    return getattr(getattr(value, accessor), name)


def astype(frame: Any, dtype: Any) -> Any:
    """Like pandas', but columns of `dtype` that were not read are no mistake."""
    if isinstance(dtype, dict) and isinstance(frame, pd.DataFrame):
        dtype = {column: kind for column, kind in dtype.items() if column in frame.columns}
    return frame.astype(dtype)


def concat(partitions: Sequence[Any], ignore_labels: bool = False) -> Any:
    """One frame of several, in order."""
    filled = [partition for partition in partitions if len(partition)] or list(partitions[:1])  # empty ones may differ in dtype
    if isinstance(filled[0], pd.Index):
        return filled[0].append(filled[1:])
    return own(filled[0]) if len(filled) == 1 and not ignore_labels else pd.concat(filled, ignore_index=ignore_labels)


def carry_on(kept: Callable[[Any], Any], before: Any, partition: Any) -> Any:
    """What is passed on to the next partition, from what came before and this one."""
    return kept(concat([before, partition]))


def carry_back(kept: Callable[[Any], Any], after: Any, partition: Any) -> Any:
    """What is passed on to the partition before, from what comes after and this one."""
    return kept(concat([partition, after]))


def join_pieces(pieces: Sequence[tuple[Any, int, int]], ignore_labels: bool) -> Any:
    """One partition of pieces (partition, which, of how many) of other ones."""
    slices = []
    for frame, which, of in pieces:
        rows = len(frame)
        slices.append(frame.iloc[rows * which // of : rows * (which + 1) // of])
    return concat(slices, ignore_labels)


def listed(values: list[Any]) -> list[Any]:
    """Items and lists of items as one list."""
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def running_starts(counts: list[Any]) -> list[int]:
    """The number of the first row of each partition, from the number of rows of each."""
    return [0, *itertools.accumulate(listed(counts)[:-1])]


def shift_labels(frame: Any, starts: Sequence[int], partition: int) -> Any:
    """The frame with its row numbers counted from the partition's first row."""
    return frame.set_axis(frame.index + starts[partition], axis=0) if len(frame) else frame


def labelled_by(frame: pd.DataFrame, columns: Any, drop: bool) -> pd.DataFrame:
    """Columns as labels, of the column's dtype also where numbers follow each other, for which pandas has a range."""
    result = frame.set_index(columns, drop=drop)
    if result.index.nlevels == 1 and isinstance(result.index, pd.RangeIndex):
        column = columns[0] if isinstance(columns, list) else columns
        result.index = result.index.astype(frame[column].dtype)
    return result


def first_rows(frame: Any, n: int) -> Any:
    return frame.head(n)


def only(partitions: Sequence[Any]) -> Any:
    """The value of a collection of one chunk."""
    return own(partitions[0])


def own(value: Any) -> Any:
    """A pandas object that may be changed: the engine may still hold this one. Copies no rows before they are written to."""
    return value.copy(deep=False) if isinstance(value, pd.DataFrame | pd.Series) else value


def map_partition(fn: Callable[..., Any], meta: Any, frame: Any, /, *args: Any, **kwargs: Any) -> Any:
    """What a user's function makes of a partition, checked against what it was said to make."""
    result = fn(own(frame), *map(own, args), **{name: own(value) for name, value in kwargs.items()})
    return conformed(result, meta, frame)


def conformed(result: Any, meta: Any, frame: Any) -> Any:
    """
    The result of a user's function as a frame or series like `meta`.

    Arrays get the labels of the partition they were made from.
    """
    if isinstance(meta, pd.Series):
        if isinstance(result, pd.Series):
            return result.rename(meta.name)
        if getattr(result, "ndim", None) == 1 and len(result) == len(frame):
            return pd.Series(result, index=frame.index, name=meta.name)
    elif isinstance(result, pd.DataFrame):
        if list(result.columns) == list(meta.columns):
            return result
        raise InputError(
            f"expected the function of map_partitions to return columns {list(meta.columns)}, found {list(result.columns)}; "
            "pass meta= with the columns that it returns for every partition"
        )
    elif getattr(result, "ndim", None) == 2 and result.shape == (len(frame), len(meta.columns)):
        return pd.DataFrame(result, index=frame.index, columns=meta.columns)
    shape = f" of shape {result.shape}" if hasattr(result, "shape") else ""
    raise InputError(
        f"expected the function of map_partitions to return a {type(meta).__name__} for each partition, or an array with one "
        f"item for each row, found {type(result).__name__}{shape}; change the function or pass meta= of what it returns"
    )


def labels_of(frame: Any) -> pd.Index:
    return frame.index


def drawn(frame: Any, partition: int, frac: float, replace: bool, seed: int) -> Any:
    """A share of the rows, in order, by chance."""
    rng = np.random.default_rng([seed, partition])
    size = round(frac * len(frame))
    places = np.sort(rng.choice(len(frame), size=size, replace=replace)) if size else np.arange(0)
    return frame.iloc[places]


def split_part(frame: Any, partition: int, low: float, high: float, seed: int, shuffle: bool) -> Any:
    """The rows whose draw lies in a range."""
    rng = np.random.default_rng([seed, partition])
    draws = rng.random(len(frame))
    places = np.flatnonzero((draws >= low) & (draws < high))
    return frame.iloc[rng.permutation(places) if shuffle else places]


class Packed(list[Any]):
    """A list of values that waits to be merged, told from values that are lists themselves."""


def packed(values: list[Any]) -> Packed:
    return Packed(unpacked(values))


def unpacked(values: list[Any]) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, Packed) else [value])]


def apply_rows(step: Callable[..., Any], meta: Any, frame: Any, /, *args: Any, **kwargs: Any) -> Any:
    """``apply`` and ``map``, which cannot tell what they make of no rows."""
    return step(frame, *args, **kwargs) if len(frame) else meta.set_axis(frame.index, axis=0)


def evaluated(frame: pd.DataFrame, expr: str, variables: Mapping[str, Any], **kwargs: Any) -> Any:
    return frame.eval(expr, local_dict=variables, global_dict={}, **kwargs)


def columns_at(frame: pd.DataFrame, places: Any) -> Any:
    return frame.iloc[:, places]


def aligned_part(part: int, left: Any, right: Any, **kwargs: Any) -> Any:
    return left.align(right, **kwargs)[part]


def case_when(series: pd.Series, /, *flat: Any) -> pd.Series:
    """pandas', with its list of pairs flat, so that partitions can stand in it."""
    return series.case_when(list(zip(flat[::2], flat[1::2], strict=True)))


def is_truth(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "b"


_NUMBERS_OF_TRUTH = {"bool": "int64", "boolean": "Int64"}


def truth_as_numbers(values: Any) -> Any:
    """Truth values as whole numbers, which is what their sums are."""
    if isinstance(values, pd.Series):
        return values.astype(_NUMBERS_OF_TRUTH.get(str(values.dtype), values.dtype))
    numbers = {column: _NUMBERS_OF_TRUTH.get(str(dtype)) for column, dtype in values.dtypes.items()}
    return values.astype({column: dtype for column, dtype in numbers.items() if dtype is not None})


def as_float(values: pd.Series) -> pd.Series:
    """Numbers or truth values as floats, with nulls of the same kind."""
    return values.astype("Float64" if isinstance(values.dtype, pd.api.extensions.ExtensionDtype) else "float64")


def relabelled(fn: Callable[..., Any], index: pd.Index, /, *args: Any, **kwargs: Any) -> Any:
    """A function of labels, whose arrays become labels again."""
    result = fn(index, *args, **kwargs)
    is_array = isinstance(result, np.ndarray | pd.api.extensions.ExtensionArray)
    return pd.Index(result, name=index.name) if is_array else result


def call_partition(name: str, meta: pd.DataFrame, series: pd.Series, /, *args: Any, **kwargs: Any) -> pd.DataFrame:
    """``.str.partition``, which has three columns only where there are texts."""
    result = getattr(series.str, name)(*args, **kwargs)
    return result if result.shape[1] == meta.shape[1] else meta.reindex(series.index)


def get_attribute(name: str, value: Any) -> Any:
    return getattr(value, name)


def map_labels(meta: pd.Index, index: pd.Index, mapper: Any, na_action: Any) -> pd.Index:
    """``map``, which cannot tell what it makes of no labels."""
    return index.map(mapper, na_action) if len(index) else meta

"""An estimate of how many bytes a value takes, fast enough to ask for every result."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["sizeof"]

_SAMPLE = 16
_DEPTH = 6
_OBJECTS = 2000  # how many objects one estimate looks at, at most
_UNKNOWN_BYTES = 64

_SCALARS = frozenset({int, float, complex, bool, type(None), str, bytes, bytearray})


def sizeof(value: Any) -> int:
    """
    Bytes that `value` takes, about: of large containers a sample is looked at. Never raises.

    Parameters
    ----------
    value : object

    Returns
    -------
    int

    Examples
    --------
    >>> sizeof(b"x" * 1000) >= 1000, 8_000_000 < sizeof([float(i) for i in range(1_000_000)]) < 40_000_000
    (True, True)
    """
    if type(value) in _SCALARS:
        return sys.getsizeof(value)
    try:
        return int(_Estimate().of(value, _DEPTH))
    except Exception:  # an object that does strange things when looked at is no reason to fail
        return _UNKNOWN_BYTES


class _Estimate:
    """One estimate: every object counts once, and the number of objects looked at is bounded."""

    __slots__ = ("left", "seen")

    def __init__(self) -> None:
        self.left = _OBJECTS
        self.seen: dict[int, Any] = {}

    def of(self, value: Any, depth: int) -> float:
        kind: Any = type(value)
        if kind in _SCALARS:
            return sys.getsizeof(value)
        if id(value) in self.seen:
            return 0
        self.seen[id(value)] = value
        self.left -= 1
        measure = _find_measure(kind)
        if measure is not None:
            return measure(self, value, depth)
        if self.left < 0 or depth <= 0:
            return _UNKNOWN_BYTES
        if isinstance(value, dict):
            return dict.__sizeof__(value) + self.all_of(value, depth) + self.all_of(value.values(), depth)
        if isinstance(value, list | tuple | set | frozenset):
            return sys.getsizeof(value) + self.all_of(value, depth)
        return self._object(value, depth)

    def all_of(self, items: Collection[Any], depth: int) -> float:
        """The items of a container: all of them where they are few, otherwise as many times a sample as fit."""
        count = len(items)
        if count <= _SAMPLE:
            return sum(self.of(item, depth - 1) for item in items)
        if isinstance(items, list | tuple):
            sample = items[:: count // _SAMPLE][:_SAMPLE]
        else:
            sample = list(itertools.islice(items, _SAMPLE))
        distinct = {id(item): item for item in sample}  # a list of one array many times holds it once
        size = sum(self.of(item, depth - 1) for item in distinct.values())
        return size * count * len(distinct) / len(sample) ** 2

    def _object(self, value: Any, depth: int) -> float:
        nbytes = getattr(value, "nbytes", None)
        if isinstance(nbytes, int):  # arrays of any library
            return nbytes + _UNKNOWN_BYTES
        state = getattr(value, "__dict__", None)
        size = float(object.__sizeof__(value)) if state is not None else sys.getsizeof(value, _UNKNOWN_BYTES)
        for name in getattr(type(value), "__slots__", ()):
            size += self.of(getattr(value, name, None), depth - 1)
        return size + (self.all_of(list(state.values()), depth) if isinstance(state, dict) else 0)


Measure = Callable[[_Estimate, Any, int], float]
_measures: dict[str, Measure] = {}


def _measure_of(*type_names: str) -> Callable[[Measure], Measure]:
    def register(function: Measure) -> Measure:
        _measures.update(dict.fromkeys(type_names, function))
        return function

    return register


@functools.lru_cache(maxsize=4096)
def _find_measure(kind: Any) -> Measure | None:
    for base in kind.__mro__:
        found = _measures.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    return None


@_measure_of("builtins.function", "builtins.builtin_function_or_method", "builtins.type", "builtins.module")
def _code(estimate: _Estimate, value: Any, depth: int) -> float:
    return _UNKNOWN_BYTES


@_measure_of("numpy.ndarray")
def _array(estimate: _Estimate, array: Any, depth: int) -> float:
    size = float(array.nbytes) + _UNKNOWN_BYTES
    if not array.dtype.hasobject or array.size == 0 or depth <= 0:
        return size
    step = max(1, array.size // _SAMPLE)
    sample = [item for item in array.flat[::step][:_SAMPLE]]
    return size + estimate.all_of(sample, depth) * array.size / len(sample)


@_measure_of("pandas.DataFrame", "pandas.core.frame.DataFrame")
def _frame(estimate: _Estimate, frame: Any, depth: int) -> float:
    size = estimate.of(frame.index, depth) + estimate.of(frame.columns, depth)
    if all(dtype.kind != "O" for dtype in frame.dtypes):
        return size + float(frame.memory_usage(index=False).sum())
    return size + sum(_column(estimate, column.array, depth) for _, column in frame.items())


@_measure_of("pandas.Series", "pandas.core.series.Series")
def _series(estimate: _Estimate, series: Any, depth: int) -> float:
    return estimate.of(series.index, depth) + _column(estimate, series.array, depth)


@_measure_of("pandas.MultiIndex", "pandas.core.indexes.multi.MultiIndex")
def _multi_index(estimate: _Estimate, index: Any, depth: int) -> float:
    return sum(estimate.of(level, depth) for level in index.levels) + sum(codes.nbytes for codes in index.codes)


@_measure_of("pandas.Index", "pandas.core.indexes.base.Index")
def _index(estimate: _Estimate, index: Any, depth: int) -> float:
    if type(index).__name__ == "RangeIndex":
        return _UNKNOWN_BYTES
    return _column(estimate, index.array, depth)


def _column(estimate: _Estimate, array: Any, depth: int) -> float:
    size = float(array.nbytes) + _UNKNOWN_BYTES
    categories = getattr(array, "categories", None)
    if categories is not None:
        return size + estimate.of(categories, depth)
    if (array.dtype.kind == "O" and not hasattr(array, "__arrow_array__")) or type(array).__name__ == "NumpyExtensionArray":
        return estimate.of(array.to_numpy(), depth)
    return size


@_measure_of("pyarrow.lib._Tabular", "pyarrow.lib.Array", "pyarrow.lib.ChunkedArray", "pyarrow.lib.Buffer")
def _arrow(estimate: _Estimate, value: Any, depth: int) -> float:
    nbytes = getattr(value, "nbytes", None)
    return float(value.size if nbytes is None else nbytes) + _UNKNOWN_BYTES


@_measure_of("polars.dataframe.frame.DataFrame", "polars.series.series.Series")
def _polars(estimate: _Estimate, value: Any, depth: int) -> float:
    return float(value.estimated_size()) + _UNKNOWN_BYTES


@_measure_of("scipy.sparse._base._spbase", "scipy.sparse._base.spmatrix")
def _sparse(estimate: _Estimate, matrix: Any, depth: int) -> float:
    return _UNKNOWN_BYTES + sum(estimate.of(part, depth - 1) for part in vars(matrix).values() if part is not matrix)

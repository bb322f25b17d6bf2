"""Rows of arrays and tables in memory, whichever library they come from: count, cut, join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parml_core.errors import InputError

__all__ = ["as_table", "concatenate", "library_of", "row_count", "slice_rows", "take_rows"]


def library_of(value: Any) -> str:
    """The package that the type of `value` comes from: ``"numpy"``, ``"pandas"``, ``"pyarrow"``, ``"polars"``, ``"scipy"``."""
    return type(value).__module__.partition(".")[0]


def row_count(value: Any) -> int:
    """How many rows a table or array has; sparse matrices know no `len`."""
    shape = getattr(value, "shape", None)
    return int(shape[0]) if shape else len(value)


def slice_rows(value: Any, start: int, stop: int) -> Any:
    """Rows `start` to `stop`, without a copy where the library allows it."""
    library = library_of(value)
    if library == "pandas":
        return value.iloc[start:stop]
    if library == "polars":
        return value.slice(start, stop - start)
    if library == "pyarrow":
        if (start, stop) == (0, len(value)):
            return value
        import pyarrow as pa

        # A slice would drag the buffers of the whole along wherever it is pickled: take copies its own rows.
        return value.take(pa.array(range(start, stop), pa.int64()))
    return value[start:stop]


def take_rows(value: Any, rows: Any) -> Any:
    """The rows with these numbers, as a copy."""
    if library_of(value) == "pandas":
        return value.iloc[rows]
    return value.take(rows) if library_of(value) == "pyarrow" else value[rows]


def concatenate(parts: Sequence[Any]) -> Any:
    """
    Partitions of one kind joined in order. Copies, unless there is only one.

    Examples
    --------
    >>> import numpy as np
    >>> concatenate([np.arange(2), np.arange(3)])
    array([0, 1, 0, 1, 2])
    """
    if len(parts) == 1:
        return parts[0]
    library = library_of(parts[0])
    if library == "pandas":
        import pandas as pd

        return pd.concat(parts)
    if library == "polars":
        import polars as pl

        return pl.concat(parts)
    if library == "pyarrow":
        import pyarrow as pa

        return pa.concat_tables(parts) if isinstance(parts[0], pa.Table) else pa.chunked_array(_chunks_of(parts))
    if library == "scipy":
        import scipy.sparse as ss

        return ss.vstack(parts, format="csr")
    import numpy as np

    return np.concatenate(parts)


def _chunks_of(arrays: Sequence[Any]) -> list[Any]:
    return [chunk for array in arrays for chunk in getattr(array, "chunks", [array])]


def as_table(value: Any, name: str) -> Any:
    """`value` in a form that `slice_rows` can cut; an InputError for what is no table."""
    library = library_of(value)
    if library == "scipy":
        return value.tocsr()
    if library == "pyarrow" and type(value).__name__ == "RecordBatch":
        import pyarrow as pa

        return pa.Table.from_batches([value])
    if library == "polars" and type(value).__name__ == "LazyFrame":
        raise InputError(f"expected {name} as a polars DataFrame or Series, found a LazyFrame; call its collect() first")
    if isinstance(value, list | tuple):
        import numpy as np

        return np.asarray(value)
    if library in {"numpy", "pandas", "polars", "pyarrow"} and getattr(value, "shape", True) != ():
        return value
    raise InputError(
        f"expected {name} as a parml collection, numpy array, pandas, pyarrow or polars table, scipy.sparse matrix or list, "
        f"found {type(value).__module__}.{type(value).__qualname__}; convert it to one of these"
    )

"""In each rank: LightGBM's own Dataset from partitions, without joining them where they are dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np

from parml.boosting.runs import sizes_of
from parml.boosting.shares import Batch
from parml.lightgbm.data import Columns
from parml.lightgbm.params import Params
from parml.tables import concatenate, library_of, row_count, slice_rows
from parml_core.errors import InputError

Categories = list[list[Any]] | None
"""Of each category column of pandas; None where the rows are no pandas."""

WHOLE_BYTES = 256 << 20  # tables of fewer numbers are converted at once, which is faster; others by blocks, which takes no room
BLOCK_BYTES = 32 << 20


def build(
    batches: Sequence[Batch],
    columns: Columns,
    params: Params,
    *,
    reference: lgb.Dataset | None = None,
    categories: Categories = None,
    initial: Sequence[float] = (),
    joined: bool = False,
) -> lgb.Dataset:
    """
    A Dataset of several partitions, not yet constructed.

    Parameters
    ----------
    batches : sequence of dict
    columns : Columns
    params : mapping
    reference : lightgbm.Dataset, optional
        Whose bins to use.
    categories : list of list, optional
        Whose places are the codes of categories. Default: those of the first partition.
    initial : sequence of float
        Score of each class before the first tree, beside the rows' own.
    joined : bool
        Make one array of all rows.
    """
    library = library_of(batches[0]["X"])
    if library == "pandas":
        categories = categories_of(batches[0]["X"]) if categories is None else categories
    fields: dict[str, Any] = {}
    for name in ("weight", "init_score"):
        if name in batches[0]:
            fields[name] = np.concatenate([array_of(batch[name]) for batch in batches])
    if "group" in batches[0]:
        fields["group"] = sizes_of(np.concatenate([batch["group"] for batch in batches]))
    if any(initial):
        rows = sum(row_count(batch["X"]) for batch in batches)
        constant = np.tile(np.asarray(initial, float), (rows, 1))
        constant = constant[:, 0] if len(initial) == 1 else constant
        fields["init_score"] = constant + fields["init_score"] if "init_score" in fields else constant
    data = lgb.Dataset(
        rows_for_lightgbm([batch["X"] for batch in batches], categories, joined=joined),
        np.concatenate([array_of(batch["y"]).ravel() for batch in batches]),
        reference=reference,
        feature_name=list(columns.names) if columns.names else "auto",
        categorical_feature=_categorical(columns, batches[0]["X"]),
        params=dict(params),
        **fields,
    )
    data.pandas_categorical = categories  # what the model remembers, so that it can predict for tables
    return data


def _categorical(columns: Columns, part: Any) -> Any:
    if columns.categorical is not None:
        return list(columns.categorical)
    if library_of(part) != "pandas" or columns.names is None:
        return "auto"
    found = [columns.names[i] for i, dtype in enumerate(part.dtypes) if dtype.name == "category" and not dtype.ordered]
    return found or "auto"


def categories_of(frame: Any) -> Categories:
    """Categories of each category column, as LightGBM keeps them in a model."""
    return [list(dtype.categories) for dtype in frame.dtypes if dtype.name == "category"]


def array_of(values: Any) -> np.ndarray:
    """Labels, weights or scores as numbers; what is missing as NaN."""
    library = library_of(values)
    if library == "pandas":
        return values.to_numpy("f8", na_value=np.nan)
    if library == "pyarrow" and hasattr(values, "column_names"):
        return np.column_stack([_arrow_numbers(column) for column in values.columns])
    return _arrow_numbers(values) if library == "pyarrow" else values.to_numpy() if library == "polars" else np.asarray(values)


def rows_for_lightgbm(parts: Sequence[Any], categories: Categories, *, joined: bool = False) -> Any:
    """
    Partitions as LightGBM reads them: sparse ones joined, dense ones as a list.

    Examples
    --------
    >>> [part.shape for part in rows_for_lightgbm([np.zeros((2, 3)), np.ones((1, 3))], None)]
    [(2, 3), (1, 3)]
    """
    library = library_of(parts[0])
    if library == "scipy":
        from scipy.sparse import csr_matrix

        return csr_matrix(concatenate(parts))
    dtype = np.result_type(*(_dtype_of(part) for part in parts))
    rows, width = sum(row_count(part) for part in parts), parts[0].shape[1]
    if library != "numpy" and not joined and rows * width * dtype.itemsize > WHOLE_BYTES:
        return [_Rows(part, categories, dtype) for part in parts]
    arrays = [numbers_of(part, categories, dtype) for part in parts]
    return concatenate(arrays) if joined or len(arrays) == 1 else arrays


def number_blocks(parts: Sequence[Any], categories: Categories, rows: int) -> Iterator[Any]:
    """
    The rows as `rows_for_lightgbm` has them, so many at a time.

    Examples
    --------
    >>> [block.shape for block in number_blocks([np.zeros((3, 1)), np.ones((1, 1))], None, 2)]
    [(2, 1), (1, 1), (1, 1)]
    """
    sparse = library_of(parts[0]) == "scipy"
    dtype = None if sparse else np.result_type(*(_dtype_of(part) for part in parts))
    for part in parts:
        for start in range(0, row_count(part), rows):
            block = slice_rows(part, start, min(start + rows, row_count(part)))
            yield block.tocsr() if dtype is None else np.ascontiguousarray(numbers_of(block, categories, dtype))


def _dtype_of(part: Any) -> np.dtype:
    """What LightGBM would make of the part by itself."""
    library = library_of(part)
    if library == "numpy":
        return part.dtype if part.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    if library == "pandas":
        types = {np.dtype(np.int8) if dtype.name == "category" else dtype for dtype in part.dtypes}
        if all(isinstance(dtype, np.dtype) for dtype in types):
            return np.result_type(np.float32, *types)
    return np.dtype(np.float64)


def numbers_of(part: Any, categories: Categories, dtype: np.dtype) -> np.ndarray:
    """A part as an array of floats: categories as codes, what is missing as NaN. Without a copy where it is such an array."""
    library = library_of(part)
    if library == "numpy":
        return np.asarray(part, dtype)
    if library == "pandas":
        return _coded(part, categories).to_numpy(dtype, na_value=np.nan)
    table = part.to_arrow() if library == "polars" else part
    numbers = np.empty((len(part), part.shape[1]), dtype, order="F")
    for i in range(numbers.shape[1]):
        numbers[:, i] = _arrow_numbers(table.column(i))
    return numbers


def _arrow_numbers(column: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        raise InputError(
            f"expected numbers in columns of pyarrow and polars, found the type {column.type}: LightGBM takes categories from "
            "pandas alone; convert the table with to_pandas(), or the column to codes"
        )
    floats = column.cast(pa.float64())
    return floats.to_numpy() if hasattr(floats, "chunks") else floats.to_numpy(zero_copy_only=False)


def _coded(frame: Any, categories: Categories) -> Any:
    """The frame with codes in the place of categories."""
    columns = [i for i, dtype in enumerate(frame.dtypes) if dtype.name == "category"]
    if not columns:
        return frame
    if categories is None or len(categories) != len(columns):
        raise InputError(f"expected {len(categories or ())} category columns as in the training data, found {len(columns)}")
    coded = frame.copy(deep=False)
    labels, coded.columns = coded.columns, range(frame.shape[1])  # names may occur twice
    for i, known in zip(columns, categories, strict=True):
        column = frame.iloc[:, i].cat
        aligned = column if list(column.categories) == known else column.set_categories(known).cat
        codes = aligned.codes.astype("f4" if len(known) < 1 << 24 else "f8")
        coded[i] = codes.mask(codes < 0)
    coded.columns = labels
    return coded


class _Rows(lgb.Sequence):
    """A part that is converted block by block, as LightGBM asks for its rows, from the first to the last."""

    def __init__(self, part: Any, categories: Categories, dtype: np.dtype) -> None:
        self._part, self._categories = part, categories
        self.batch_size = max(1, BLOCK_BYTES // (8 * part.shape[1]))
        self._start, self._block = 0, np.empty((0, part.shape[1]))

    def __len__(self) -> int:
        return row_count(self._part)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._numbers(start, stop)
        if not self._start <= index < self._start + len(self._block):
            self._start = int(index)
            self._block = self._numbers(self._start, min(self._start + self.batch_size, len(self)))
        row: np.ndarray = self._block[index - self._start]
        return row

    def _numbers(self, start: int, stop: int) -> np.ndarray:
        # LightGBM's sequences have to give float64, in rows.
        return np.ascontiguousarray(numbers_of(slice_rows(self._part, start, stop), self._categories, np.dtype(np.float64)))

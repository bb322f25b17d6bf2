"""Normal forms of pandas' and Arrow's objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parml_core.hashing.forms import Joined, normal_form_of
from parml_core.typing import Buffer


@normal_form_of("pandas.DataFrame", "pandas.core.frame.DataFrame")
def _frame(frame: Any) -> tuple[Any, ...]:
    columns = [_column(column.array) for _, column in frame.items()]
    return frame.columns, frame.index, columns, *_extras(frame)


@normal_form_of("pandas.Series", "pandas.core.series.Series")
def _series(series: Any) -> tuple[Any, ...]:
    return _column(series.array), series.index, series.name, *_extras(series)


def _extras(data: Any) -> tuple[Any, ...]:
    """What a frame carries besides its data; subclasses name their own attributes in ``_metadata``."""
    return data.attrs, data.flags.allows_duplicate_labels, [getattr(data, name, None) for name in data._metadata]


@normal_form_of("pandas.RangeIndex", "pandas.core.indexes.range.RangeIndex")
def _range_index(index: Any) -> tuple[Any, ...]:
    return index.start, index.stop, index.step, index.name


@normal_form_of("pandas.MultiIndex", "pandas.core.indexes.multi.MultiIndex")
def _multi_index(index: Any) -> tuple[Any, ...]:
    return list(index.levels), list(index.codes), list(index.names)


@normal_form_of("pandas.Index", "pandas.core.indexes.base.Index")
def _index(index: Any) -> tuple[Any, ...]:
    return _column(index.array), index.name, getattr(index, "freqstr", None)


def _column(array: Any) -> Any:
    """A numpy array where the column is one in disguise."""
    return array.to_numpy() if type(array).__name__ in ("NumpyExtensionArray", "PandasArray") else array


@normal_form_of("pandas.Categorical", "pandas.core.arrays.categorical.Categorical")
def _categorical(array: Any) -> tuple[Any, ...]:
    return array.categories, array.codes, array.ordered


@normal_form_of("pandas.CategoricalDtype", "pandas.core.dtypes.dtypes.CategoricalDtype")
def _categorical_dtype(dtype: Any) -> tuple[Any, ...]:
    return dtype.categories, dtype.ordered


@normal_form_of("pandas.core.arrays._mixins.NDArrayBackedExtensionArray")
def _array_backed(array: Any) -> tuple[Any, ...]:
    return array.dtype, array._ndarray


@normal_form_of("pandas.core.arrays.masked.BaseMaskedArray")
def _masked_column(array: Any) -> tuple[Any, ...]:
    missing = array.isna()
    return array.dtype, missing, array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0) if missing.any() else array._data


@normal_form_of("pandas.arrays.ArrowExtensionArray", "pandas.core.arrays.arrow.array.ArrowExtensionArray")
def _arrow_backed(array: Any) -> tuple[Any, ...]:
    return array.dtype, array.__arrow_array__()


@normal_form_of("pyarrow.lib._Tabular")
def _table(table: Any) -> tuple[Any, ...]:
    return table.schema, table.num_rows, list(table.columns)


@normal_form_of("pyarrow.lib.Schema")
def _schema(schema: Any) -> tuple[Any, ...]:
    return [(field.name, field.type, field.nullable, field.metadata) for field in schema], schema.metadata


@normal_form_of("pyarrow.lib.DataType")
def _arrow_type(kind: Any) -> tuple[Any, ...]:
    return (str(kind),)


@normal_form_of("pyarrow.lib.Array", "pyarrow.lib.ChunkedArray")
def _arrow_array(array: Any) -> tuple[Any, ...]:
    """Type, length, which are null, and the values: nulls count as zero or empty, for what lies under them is arbitrary."""
    import pyarrow as pa

    chunks = getattr(array, "chunks", None)
    if chunks is None:
        chunks = [array]
    nulls = [chunk.is_null() for chunk in chunks] if array.null_count else []
    mask = Joined(len(array), (bits.to_numpy(zero_copy_only=False).view("u1").data for bits in nulls)) if nulls else None
    kind = array.type
    head = ("arrow", kind, len(array), mask)
    if pa.types.is_dictionary(kind):
        whole = array.unify_dictionaries().combine_chunks() if chunks[1:] else chunks[0] if chunks else None
        return *head, *((whole.indices, whole.dictionary) if whole is not None else ())
    if pa.types.is_boolean(kind):
        return *head, _fixed_width(chunks, "u1")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or (pa.types.is_temporal(kind) and kind.bit_width in (32, 64)):
        return *head, _fixed_width(chunks, f"u{kind.bit_width // 8}")
    if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        return *head, *_texts(chunks)
    return *head, array.to_pylist()  # nested and rare types


def _fixed_width(chunks: list[Any], item: str) -> Joined:
    def buffers() -> Iterator[Buffer]:
        for chunk in chunks:
            filled = _without_nulls(chunk)
            yield filled.to_numpy(zero_copy_only=False).view(item).data

    return Joined(sum(map(len, chunks)) * int(item[1:]), buffers())


def _without_nulls(chunk: Any) -> Any:
    import pyarrow as pa

    kind = chunk.type
    if pa.types.is_temporal(kind):
        chunk = chunk.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    zero: Any = False if pa.types.is_boolean(kind) else b"" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else 0
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        zero = ""
    return chunk.fill_null(pa.scalar(zero, chunk.type)) if chunk.null_count else chunk


def _texts(chunks: list[Any]) -> tuple[Joined, Joined]:
    import numpy as np
    import pyarrow as pa

    lengths, texts = [], []
    for chunk in map(_without_nulls, chunks):
        _, ends, data = chunk.buffers()
        wide = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
        if not len(chunk):
            continue
        offsets = np.frombuffer(ends, "i8" if wide else "i4")[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths.append(np.diff(offsets).astype("i8").data.cast("B"))
        texts.append(memoryview(data)[offsets[0] : offsets[-1]] if data is not None else b"")
    return Joined(sum(map(len, lengths)), lengths), Joined(sum(map(len, texts)), texts)

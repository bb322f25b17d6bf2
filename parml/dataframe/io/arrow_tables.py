"""Arrow tables as pandas frames whose dtypes are the same in every partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from parml_core.errors import InputError


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def plain(table: pa.Table) -> pa.Table:
    """The table without dictionaries, as every part of a file may have another one."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kind, column = field.type.value_type, table.column(place)
            if pa.types.is_string_view(kind):  # as in polars; Arrow can neither cast nor take them
                kind = pa.large_string()
                texts = [pa.DictionaryArray.from_arrays(one.indices, one.dictionary.cast(kind)) for one in column.chunks]
                column = pa.chunked_array(texts, pa.dictionary(field.type.index_type, kind))
            table = table.set_column(place, pa.field(field.name, kind), column.cast(kind))
    return table


def empty_frame(schema: pa.Schema, nullable: Collection[str]) -> pd.DataFrame:
    """No rows; whole numbers and truth values get the dtype that they have in pandas where some are missing."""
    meta = plain(schema.empty_table()).to_pandas()
    dtypes: dict[Any, Any] = {}
    for name in meta.columns:
        kind = meta.dtypes[name]
        if name in nullable and isinstance(kind, np.dtype) and kind.kind in "iub":
            dtypes[name] = np.dtype(object if kind.kind == "b" else "float64")
    return meta.astype(dtypes) if dtypes else meta


def to_frame(table: pa.Table, meta: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns and dtypes of `meta`."""
    frame = plain(table).to_pandas(use_threads=False)
    if not frame.columns.equals(meta.columns):
        frame = frame[list(meta.columns)]  # copies
    found = frame.dtypes
    wrong = {name: dtype for name, dtype in meta.dtypes.items() if found[name] != dtype}
    return frame.astype(wrong) if wrong else frame


def index_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Columns that pandas has written as the index."""
    return tuple(name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str))


def check_schema(first: pa.Schema, other: pa.Schema, first_path: Any, other_path: Any) -> None:
    """
    Check that columns of the same names have the same types.

    Raises
    ------
    InputError
        They have not; the message names both files.
    """
    for ours, theirs in zip(first, other, strict=True):
        if ours.type != theirs.type:
            raise InputError(
                f"expected column {ours.name!r} to have the type of {first_path} ({ours.type}) in every file, found "
                f"{theirs.type} in {other_path}; write the files with equal types"
            )

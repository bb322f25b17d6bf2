"""What each partition of a table looks like, and whether all of them fit together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parml.tables import library_of, row_count
from parml_core.errors import InputError
from parml_core.sizeof import sizeof

__all__ = ["Description", "Schema", "describe", "schema_of"]

NUMERIC = ("bool", "int", "float")


@dataclass(frozen=True, slots=True)
class Description:
    """
    What the caller has to know of one partition to tell whether it fits the others.

    Parameters
    ----------
    rows : dict of str to int
        By field, ``"X"`` first.
    width : int
        Number of columns of X.
    names : tuple of str, optional
        Column names; None for arrays, which have none.
    kinds : tuple of str
        For each column ``"bool"``, ``"int"``, ``"float"``, ``"category"``, or the dtype's own name. One only for arrays.
    categories : dict of str to str
        Digest of the categories by column.
    label_fault : str
        What is wrong with the values of the label; empty: nothing.
    nbytes : int
        What X takes in memory, about.
    """

    rows: dict[str, int]
    width: int
    names: tuple[str, ...] | None
    kinds: tuple[str, ...]
    categories: dict[str, str] = field(default_factory=dict)
    label_fault: str = ""
    nbytes: int = 0


def describe(data: Any, fields: Mapping[str, Any]) -> Description:
    """
    Look at one partition. Reads the values of the label; of everything else only lengths and types.

    Examples
    --------
    >>> import numpy as np
    >>> describe(np.zeros((2, 3)), {"y": np.array([1.0, float("nan")])}).label_fault
    '1 of 2 values NaN or infinite'
    """
    shape: tuple[int, ...] = getattr(data, "shape", None) or (len(data),)
    rows = {"X": row_count(data)} | {name: row_count(value) for name, value in fields.items()}
    if len(shape) != 2:
        return Description(rows, 0, None, ())
    fault, nbytes = _label_fault(fields["y"]) if "y" in fields else "", sizeof(data)
    if library_of(data) == "polars":
        data = data.to_arrow()
    if library_of(data) == "pandas":
        names = tuple(str(name) for name in data.columns)
        kinds = tuple(_pandas_kind(dtype) for dtype in data.dtypes)
        categories = {name: _digest(data.iloc[:, i].cat.categories) for i, name in enumerate(names) if kinds[i] == "category"}
        return Description(rows, shape[1], names, kinds, categories, fault, nbytes)
    if library_of(data) == "pyarrow":
        names = tuple(data.schema.names)
        kinds = tuple(_arrow_kind(dtype) for dtype in data.schema.types)
        categories = {name: _arrow_digest(data, name) for name, kind in zip(names, kinds, strict=True) if kind == "category"}
        return Description(rows, shape[1], names, kinds, categories, fault, nbytes)
    kinds = (_KIND_OF_CODE.get(data.dtype.kind, str(data.dtype)),)
    return Description(rows, shape[1], None, kinds, label_fault=fault, nbytes=nbytes)


_KIND_OF_CODE = {"b": "bool", "i": "int", "u": "int", "f": "float"}


def _pandas_kind(dtype: Any) -> str:
    import pandas as pd

    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if isinstance(dtype, pd.SparseDtype):
        dtype = dtype.subtype
    if isinstance(dtype, pd.ArrowDtype):
        return _arrow_kind(dtype.pyarrow_dtype)
    return _KIND_OF_CODE.get(getattr(dtype, "kind", "O"), str(dtype))


def _arrow_kind(dtype: Any) -> str:
    import pyarrow as pa

    tests = {"category": pa.types.is_dictionary, "bool": pa.types.is_boolean, "int": pa.types.is_integer}
    tests["float"] = pa.types.is_floating
    return next((kind for kind, holds in tests.items() if holds(dtype)), str(dtype))


def _arrow_digest(table: Any, name: str) -> str:
    column = table.column(name).unify_dictionaries()
    return _digest(column.chunk(0).dictionary.to_pylist()) if column.num_chunks else ""


def _digest(categories: Any) -> str:
    return hashlib.blake2b(repr(list(categories)).encode(), digest_size=8).hexdigest()


def _label_fault(label: Any) -> str:
    import numpy as np

    values = np.asarray(label)
    if values.dtype.kind == "O" and library_of(label) == "pandas":
        import pandas as pd

        dtypes = label.dtypes if label.ndim == 2 else [label.dtype]
        if all(pd.api.types.is_numeric_dtype(dtype) for dtype in dtypes):  # nullable numbers
            values = label.to_numpy("f8", na_value=np.nan)
    if values.dtype.kind not in "biuf":
        return f"values of type {getattr(label, 'dtype', values.dtype)}, which are no numbers"
    if values.dtype.kind == "f":
        count = values.size - int(np.isfinite(values).sum())
        return f"{count} of {values.size} values NaN or infinite" if count else ""
    return ""


# --- what all partitions have in common --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schema:
    """
    What all partitions have in common, and the rows of each.

    Parameters
    ----------
    rows : tuple of int
        By partition.
    width : int
    names : tuple of str, optional
    kinds : tuple of str
        As in `Description`; a column that is int here and float there is float.
    mixed : bool
        Whether numeric kinds differ between partitions.
    categories : dict of str to str
    """

    rows: tuple[int, ...]
    width: int
    names: tuple[str, ...] | None
    kinds: tuple[str, ...]
    mixed: bool
    categories: dict[str, str]

    def columns_of_kind(self, *kinds: str) -> list[str]:
        """Names (or numbers) of the columns of these kinds."""
        return [self.names[i] if self.names else str(i) for i, kind in enumerate(self.kinds) if kind in kinds]

    def unusable(self) -> dict[str, str]:
        """Columns that are neither numbers nor categories, with their dtype."""
        usable = (*NUMERIC, "category")
        return {self.names[i] if self.names else "all": kind for i, kind in enumerate(self.kinds) if kind not in usable}


def schema_of(parts: Sequence[Description]) -> Schema:
    """
    Compare partitions; an InputError names the first that does not fit.

    Examples
    --------
    >>> schema_of([Description({"X": 2}, 1, ("a",), ("int",)), Description({"X": 3}, 1, ("a",), ("float",))]).kinds
    ('float',)
    """
    for i, part in enumerate(parts):
        _check_lengths(part, i)
        if part.label_fault:
            raise InputError(f"expected finite numbers in y, found {part.label_fault} in partition {i}; drop or fill them")
    filled = [(i, part) for i, part in enumerate(parts) if part.rows["X"]]
    if not filled:
        raise InputError(f"expected rows to work on, found none in {len(parts)} partitions; look at what was read or filtered")
    first_index, first = filled[0]
    if not first.width:
        raise InputError("expected X with two dimensions and at least one column, found none; reshape it or select columns")
    for i, part in filled[1:]:
        _check_columns(first, first_index, part, i)
    kinds = tuple(_widest(kinds) for kinds in zip(*(part.kinds for _, part in filled), strict=True))
    mixed = any(part.kinds != kinds for _, part in filled)
    return Schema(tuple(part.rows["X"] for part in parts), first.width, first.names, kinds, mixed, first.categories)


def _widest(kinds: tuple[str, ...]) -> str:
    return max(kinds, key=NUMERIC.index) if kinds[0] in NUMERIC else kinds[0]


def _check_lengths(part: Description, i: int) -> None:
    for name, rows in part.rows.items():
        if rows != part.rows["X"]:
            raise InputError(
                f"expected as many rows in {name} as in X, found {part.rows['X']} in X and {rows} in {name} in partition {i}; "
                "derive both from the same table"
            )


def _check_columns(first: Description, first_index: int, part: Description, i: int) -> None:
    if part.width != first.width or part.names != first.names:
        raise InputError(
            f"expected the same columns in every partition, found {_columns(first)} in partition {first_index} and "
            f"{_columns(part)} in partition {i}; select the same columns in the same order everywhere"
        )
    names = first.names or tuple(str(n) for n in range(len(first.kinds)))
    for name, kind, other in zip(names, first.kinds, part.kinds, strict=True):
        if kind != other and not (kind in NUMERIC and other in NUMERIC):
            raise InputError(
                f"expected column {name!r} to have one dtype, found {kind} in partition {first_index} and {other} in "
                f"partition {i}; convert it with astype before"
            )
    for name, digest in first.categories.items():
        if part.categories[name] != digest:
            raise InputError(
                f"expected column {name!r} to have the same categories in every partition, found that partitions {first_index} "
                f"and {i} differ; give all of them one pandas.CategoricalDtype with all categories"
            )


def _columns(part: Description) -> str:
    return f"{part.width} columns" if part.names is None else f"{part.width} columns {list(part.names)}"

"""Normal forms of numpy's and scipy's objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parml_core.hashing.forms import Attributes, Joined, Unique, normal_form_of
from parml_core.hashing.objects import imported, reduced
from parml_core.typing import Buffer

_COPY_BYTES = 1 << 22


@normal_form_of("numpy.dtype")
def _dtype(dtype: Any) -> tuple[Any, ...]:
    if dtype.char == "T":  # strings of variable width
        return reduced(dtype)
    if dtype.names is None:
        return (dtype.subdtype,) if dtype.subdtype else (dtype.str,)
    return dtype.itemsize, tuple((name, *dtype.fields[name]) for name in dtype.names)


@normal_form_of("numpy.generic")
def _numpy_scalar(value: Any) -> tuple[Any, ...]:
    import numpy as np

    return value.dtype, *_elements(np.asarray(value))


@normal_form_of("numpy.ndarray")
def _array(array: Any) -> tuple[Any, ...]:
    extra = {} if type(array).__name__ == "memmap" else getattr(array, "__dict__", {})
    return array.dtype, array.shape, *_elements(array), Attributes(extra)


@normal_form_of("numpy.ma.MaskedArray", "numpy.ma.core.MaskedArray")
def _masked_array(array: Any) -> tuple[Any, ...]:
    import numpy as np

    return np.ma.getdata(array), np.ma.getmaskarray(array), array.fill_value


def _elements(array: Any) -> tuple[Any, ...]:
    """The elements of an array in C order; field by field where gaps between fields could hold anything."""
    import numpy as np

    dtype = array.dtype
    array = array.view(np.ndarray)
    if dtype.names is not None:
        return tuple(array[name] for name in dtype.names)
    if dtype.hasobject or dtype.char == "T":
        return (array.ravel().tolist(),)
    if dtype.char in "gG":  # long doubles hold bytes that are no part of the number
        return ([str(item) for item in array.ravel()],)
    return (Joined(array.nbytes, _in_c_order(array)),) if array.nbytes else ()


def _in_c_order(array: Any) -> Iterator[Buffer]:
    import numpy as np

    if array.flags.c_contiguous:
        yield array.reshape(-1).view(np.uint8).data
        return
    rows = max(1, _COPY_BYTES * len(array) // array.nbytes)
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8).data


@normal_form_of("numpy.ufunc")
def _ufunc(ufunc: Any) -> tuple[Any, ...]:
    for module in ("numpy", "scipy.special"):
        if imported(module, ufunc.__name__) is ufunc:
            return module, ufunc.__name__
    return (Unique(),)


@normal_form_of("scipy.sparse._base._spbase", "scipy.sparse._base.spmatrix")
def _sparse(matrix: Any) -> tuple[Any, ...]:
    parts = {
        "coo": ("data", "row", "col") if len(matrix.shape) == 2 else ("data", "coords"),
        "dia": ("data", "offsets"),
        "lil": ("rows", "data"),
    }.get(matrix.format, ("data", "indices", "indptr"))
    if matrix.format == "dok":
        return matrix.shape, matrix.dtype, sorted(matrix.items())
    return matrix.shape, matrix.dtype, *(getattr(matrix, part) for part in parts)

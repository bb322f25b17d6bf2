"""``assert_eq``: for tests of code that works with frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from parml.collections import compute
from parml.dataframe.base import Frame
from parml.dataframe.meta import emptied


def assert_eq(
    a: Any,
    b: Any,
    *,
    check_names: bool = True,
    check_dtype: bool = True,
    check_index: bool = True,
    check_divisions: bool = True,
    sort_results: bool = True,
    engine: Any = None,
    **kwargs: Any,
) -> bool:
    """
    Check that two frames, series, labels or values are equal once they are computed, and each partition what it was said to be.

    Parameters
    ----------
    a, b : of parml, of pandas, or values
    check_names : bool
    check_dtype : bool
        Also that every partition has the dtypes that are known before it is computed.
    check_index : bool
        False compares rows without their labels.
    check_divisions : bool
        Labels of each partition lie within its divisions, where these are known.
    sort_results : bool
        Rows may stand in any order: they are compared in that of their labels, and without `check_index` of their values.
    engine : Engine, optional
        Where to compute.
    **kwargs
        Of pandas' ``assert_frame_equal`` and its like: ``rtol=`` for instance.

    Returns
    -------
    bool
        True.

    Raises
    ------
    AssertionError
        They differ; the message says where.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> whole = pd.DataFrame({"x": [1, 2, 3]})
    >>> pdf.assert_eq(pdf.from_pandas(whole, npartitions=2) + 1, whole + 1)
    True
    """
    for each in (a, b):
        if isinstance(each, Frame) and isinstance(each._meta, pd.DataFrame | pd.Series) and not each._node.broadcast:
            _check_partitions(each, check_names, check_dtype, check_divisions, engine)
    a, b = compute(a, b, engine=engine)
    if isinstance(a, pd.DataFrame | pd.Series) and isinstance(b, type(a)):
        a, b = (_in_order(each, check_index) if sort_results else each for each in (a, b))
        if not check_index:
            a, b = a.reset_index(drop=True), b.reset_index(drop=True)
        check = pd.testing.assert_frame_equal if isinstance(a, pd.DataFrame) else pd.testing.assert_series_equal
        check(a, b, check_names=check_names, check_dtype=check_dtype, **kwargs)
    elif isinstance(a, pd.Index) and isinstance(b, pd.Index):
        pd.testing.assert_index_equal(a, b, exact=check_dtype, check_names=check_names, **kwargs)
    elif type(a) is not type(b) and isinstance(a, pd.DataFrame | pd.Series | pd.Index):
        raise AssertionError(f"expected {type(a).__name__}, found {type(b).__name__}")
    elif isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        np.testing.assert_array_equal(a, b)
    elif not (a == b or (pd.isna(a) and pd.isna(b))):
        assert np.allclose(a, b), f"expected {a!r}, found {b!r}"
    return True


def _check_partitions(frame: Any, check_names: bool, check_dtype: bool, check_divisions: bool, engine: Any) -> None:
    meta, divisions = frame._meta, frame.divisions
    for number, part in enumerate(compute([frame.partitions[n] for n in range(frame.npartitions)], engine=engine)[0]):
        assert type(part) is type(meta), f"expected partition {number} to be {type(meta).__name__}, found {type(part).__name__}"
        if len(part):
            check = pd.testing.assert_frame_equal if isinstance(meta, pd.DataFrame) else pd.testing.assert_series_equal
            found, said = (emptied(each).reset_index(drop=True) for each in (part, meta))
            check(found, said, check_names=check_names, check_dtype=check_dtype)
        if check_divisions and divisions[0] is not None and len(part):
            low, high, last = divisions[number], divisions[number + 1], number == frame.npartitions - 1
            inside = part.index.min() >= low and (part.index.max() < high or (last and part.index.max() == high))
            assert inside, f"expected labels of partition {number} from {low!r} to {high!r}, found others"


def _in_order(values: Any, by_labels: bool) -> Any:
    try:
        if by_labels:
            return values.sort_index(kind="stable") if not values.index.has_duplicates else _by_all(values)
        return values.sort_values(list(values.columns)) if isinstance(values, pd.DataFrame) else values.sort_values()
    except TypeError:  # of several kinds
        return values


def _by_all(values: Any) -> Any:
    """By labels, and rows of equal labels by their values."""
    frame = values.to_frame(0) if isinstance(values, pd.Series) else values.set_axis(range(values.shape[1]), axis=1)
    keys = [*(frame.index.get_level_values(level) for level in range(frame.index.nlevels))]
    keys += [frame.iloc[:, place] for place in range(frame.shape[1])]
    order = pd.DataFrame({place: pd.Series(key.array) for place, key in enumerate(keys)})
    return values.take(order.sort_values(list(order.columns), kind="stable").index.to_numpy())

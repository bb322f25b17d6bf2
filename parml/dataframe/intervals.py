"""Values as intervals, and texts or numbers as durations: pandas' `cut` and `to_timedelta`."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from parml.collections import compute
from parml.dataframe.base import Frame, elementwise
from parml.dataframe.plan import Blockwise
from parml_core.errors import InputError


def cut(
    x: Any,
    bins: Any,
    right: bool = True,
    labels: Any = None,
    retbins: bool = False,
    precision: int = 3,
    include_lowest: bool = False,
    duplicates: str = "raise",
    ordered: bool = True,
) -> Any:
    """
    The interval in which each value lies, as a category.

    Parameters
    ----------
    x : Series
    bins : sequence, IntervalIndex or int
        The edges of the intervals. With a number of intervals, they lie between the least and the greatest value, which are
        computed when this is called.
    right, labels, precision, include_lowest, duplicates, ordered
        As of pandas' ``cut``.
    retbins : bool
        Return the edges too.

    Returns
    -------
    Series, or Series and array

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> ages = pdf.from_pandas(pd.Series([3, 17, 40]), npartitions=2)
    >>> pdf.cut(ages, [0, 18, 100], labels=["child", "adult"]).compute().tolist()
    ['child', 'child', 'adult']
    >>> [str(interval) for interval in pdf.cut(ages, 2).compute()]
    ['(2.963, 21.5]', '(2.963, 21.5]', '(21.5, 40.0]']
    """
    series = _series(x, "cut")
    given: dict[str, Any] = {"right": right, "labels": labels, "precision": precision, "include_lowest": include_lowest}
    given |= {"duplicates": duplicates, "ordered": ordered}
    if not isinstance(bins, pd.IntervalIndex) and not pd.api.types.is_list_like(bins):
        ends = pd.Series(list(compute(series.min(), series.max())), dtype=series.dtype)
        bins = pd.cut(ends if ends.notna().all() else ends.iloc[:0], bins, right=right, retbins=True)[1]
        given["include_lowest"] = False
    _, edges = pd.cut(series._meta, bins, **given, retbins=True)  # mistakes show here, in pandas' words
    result = elementwise("cut", partial(pd.cut, bins=bins, **given), (series,))
    return (result, edges) if retbins else result


def to_timedelta(arg: Any, unit: str | None = None, errors: str = "raise") -> Any:
    """
    A series of numbers or texts as durations.

    Parameters
    ----------
    arg : Series
    unit : str, optional
        Of numbers.
    errors : {"raise", "coerce"}

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.to_timedelta(pdf.from_pandas(pd.Series([1, 2]), npartitions=2), unit="h").sum().compute()
    Timedelta('0 days 03:00:00')
    """
    series = _series(arg, "to_timedelta")
    step = partial(pd.to_timedelta, unit=unit, errors=errors)
    texts = series.dtype == object or isinstance(series.dtype, pd.StringDtype)
    # Of texts, pandas chooses the resolution by what they say.
    meta = step(pd.Series(["1 day"], dtype=series.dtype, name=series.name)).iloc[:0] if texts else step(series._meta)
    return Frame._of(Blockwise("to_timedelta", step, (series._node,), meta=meta, rowwise=True))


def _series(value: Any, name: str) -> Any:
    if not isinstance(value, Frame) or not isinstance(value._meta, pd.Series):
        raise InputError(f"expected a parml series in {name}, found {type(value).__name__}; use pandas.{name}")
    return value

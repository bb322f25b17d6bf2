"""Series and Scalar: one column over a plan, and one value."""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import reductions, steps
from parml.dataframe.across import AcrossRows
from parml.dataframe.aggregate import Aggregates
from parml.dataframe.base import Frame, aligned, beside_labels, elementwise
from parml.dataframe.categories import Categories
from parml.dataframe.expanding import Expands
from parml.dataframe.frame import checked_category, checked_texts
from parml.dataframe.groups import Groups
from parml.dataframe.meta import as_meta, learned
from parml.dataframe.operators import BINARY_METHODS, ROWWISE_METHODS, Accessor, install_methods, install_operators
from parml.dataframe.plan import Blockwise, Filter, Input
from parml.dataframe.resample import Resamples
from parml.dataframe.rowwise import SeriesRowwise
from parml.dataframe.sort import SortsSeries
from parml.dataframe.totals import SeriesTotals
from parml_core.errors import InputError, NotSupported


class Series(SortsSeries, SeriesRowwise, AcrossRows, SeriesTotals, Groups, Resamples, Aggregates, Expands, of=pd.Series):
    """
    A column cut by rows into partitions, each of which is a pandas Series when it is computed.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> column = pdf.from_pandas(pd.Series([3.0, None, 5.0], name="x"), npartitions=2)
    >>> column.fillna(column.mean()).compute().tolist()
    [3.0, 4.0, 5.0]
    """

    @property
    def name(self) -> Any:
        return self._meta.name

    @property
    def dtype(self) -> Any:
        """The same in every partition."""
        return self._meta.dtype

    @property
    def ndim(self) -> int:
        return 1

    @property
    def shape(self) -> tuple[Any]:
        """The number of rows, which is a total to be computed."""
        return (reductions.rows_of(self._node),)

    @property
    def str(self) -> Any:
        """Functions of texts, as in pandas."""
        return Accessor(self, "str")

    @property
    def dt(self) -> Any:
        """Functions of times, as in pandas."""
        return Accessor(self, "dt")

    @property
    def cat(self) -> Any:
        """Functions of categories, as in pandas."""
        return Categories(self)

    def __iter__(self) -> Iterator[Any]:
        for partition in self.partitions:
            yield from partition

    def __getitem__(self, key: Any) -> Any:
        """The rows where a series is true; in totals of columns, that of one column."""
        if callable(key) and not isinstance(key, Frame):
            key = key(self)
        if isinstance(key, Frame):
            if key._meta.dtype not in (bool, object, "boolean", "bool[pyarrow]"):
                raise InputError(f"expected truth values to choose rows by, found a series of dtype {key._meta.dtype}")
            node = beside_labels(self._node, key)
            aligned([node, key._node])
            return Frame._of(Filter(node, key._node))
        if self._node.broadcast and key in self._meta.index:
            return elementwise("getitem", operator.getitem, (self, key))
        raise NotSupported(f"expected a series of truth values to choose rows by, found {key!r}; compute first for labels")

    def rename(self, name: Any) -> Series:
        """The series under another name."""
        return elementwise("rename", partial(steps.call_method, "rename"), (self, name))

    def to_frame(self, name: Any = None) -> Any:
        """A frame with this column."""
        return elementwise("to_frame", partial(steps.call_method, "to_frame"), (self,), {} if name is None else {"name": name})

    def astype(self, dtype: Any) -> Series:
        """The series in another dtype."""
        checked_category([dtype])
        checked_texts(self._meta, dtype)
        return elementwise("astype", steps.astype, (self, dtype))

    def between(self, left: Any, right: Any, inclusive: Any = "both") -> Series:
        """Whether each value lies between two others."""
        return elementwise("between", partial(steps.call_method, "between"), (self, left, right), {"inclusive": inclusive})

    def dropna(self) -> Series:
        """The values that are not null."""
        return self[elementwise("notna", partial(steps.call_method, "notna"), (self,))]

    def map(self, arg: Any, na_action: Any = None, *, meta: Any = None) -> Series:
        """
        Each value replaced by what a dict, a pandas Series or a function gives for it.

        Parameters
        ----------
        arg : dict, pandas Series or callable
        na_action : None or "ignore"
        meta : optional
            What comes out; see `map_partitions`. Default: learned from made-up values, for a dict from its values.
        """
        if isinstance(arg, Frame):
            raise NotSupported("expected a dict, a pandas Series or a function, found a parml frame; compute it first")
        step = partial(steps.call_method, "map")
        if meta is None and callable(arg):
            meta = learned(step, (self._meta, arg, na_action), {}, what="the function of map")
        elif meta is None:
            values = pd.Series(list(arg.values()) if isinstance(arg, dict) else arg.array)
            meta = (self.name, values.dtype)
        meta = as_meta(meta).rename(self.name)
        return Frame._of(Blockwise("map", step, (self._node,), (Input(0), arg, na_action), meta=meta))

    # -- totals

    def mean(self, skipna: bool = True) -> Any:
        """The mean."""
        return reductions.mean_of(self._node, skipna=skipna)

    def var(self, skipna: bool = True, ddof: int = 1) -> Any:
        """The variance."""
        return reductions.variance_of(self._node, skipna=skipna, ddof=ddof)

    def std(self, skipna: bool = True, ddof: int = 1) -> Any:
        """The standard deviation."""
        return reductions.variance_of(self._node, skipna=skipna, ddof=ddof, root=True)

    def nunique(self, dropna: bool = True) -> Any:
        """How many different values there are."""
        return reductions.nunique_of(self._node, dropna=dropna)

    def value_counts(self, normalize: bool = False, sort: bool = True, ascending: bool = False, dropna: bool = True) -> Any:
        """How often each value occurs, the most frequent first."""
        return reductions.value_counts_of(self._node, normalize=normalize, sort=sort, ascending=ascending, dropna=dropna)

    def __repr__(self) -> Any:
        return f"parml Series: {self.name!r} of dtype {self.dtype}, {self.npartitions} partitions"

    def _repr_html_(self) -> Any:
        return f"<p><b>parml Series</b>: {html.escape(self.__repr__().partition(': ')[2])}</p>"


class Scalar(Frame, of=object):
    """
    One value that is not computed yet: a total. It can stand in arithmetic with frames, series and others of its kind.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> x = pdf.from_pandas(pd.Series([1, 2, 3]), npartitions=2)
    >>> (x.sum() / x.count()).compute()
    np.float64(2.0)
    """

    def __repr__(self) -> str:
        return f"parml Scalar: {self._node.describe()}, not computed"

    def __float__(self) -> float:
        return float(self.compute())

    def __int__(self) -> int:
        return int(self.compute())


def _total_method(name: Any) -> Callable[..., Any]:
    def method(self: Series, **kwargs: Any) -> Any:
        return reductions.reduce_by(name, self._node, **kwargs)

    method.__name__ = name
    method.__doc__ = f"Like :meth:`pandas.Series.{name}`."
    return method


for _name in reductions.MERGES:
    setattr(Series, _name, _total_method(_name))
Series.product = Series.prod  # type: ignore[attr-defined]
install_operators(Series)
install_operators(Scalar)
install_methods(Series, (*BINARY_METHODS, *ROWWISE_METHODS))

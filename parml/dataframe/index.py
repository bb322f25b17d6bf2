"""Index: the labels of rows over a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, elementwise
from parml.dataframe.labels import Labels
from parml.dataframe.meta import as_meta, learned
from parml.dataframe.operators import Accessor, check_values, install_operators, like_pandas
from parml.dataframe.plan import Blockwise, Input


class Index(Labels, of=pd.Index):
    """
    Labels cut into partitions, each of which is a pandas Index when it is computed.

    Comparisons give labels that are true or false, by which rows can be chosen; pandas gives an array.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3]}, index=[10, 20, 30]), npartitions=2)
    >>> frame[frame.index > 10].a.compute().tolist()
    [2, 3]
    """

    @property
    def name(self) -> Any:
        return self._meta.name

    @property
    def names(self) -> Any:
        return self._meta.names

    @property
    def nlevels(self) -> int:
        return int(self._meta.nlevels)

    @property
    def dtype(self) -> Any:
        """The same in every partition."""
        return self._meta.dtype

    @property
    def ndim(self) -> int:
        return 1

    @property
    def shape(self) -> tuple[Any]:
        """The number of labels, which is a total to be computed."""
        return (self.size,)

    @property
    def size(self) -> Any:
        """The number of labels, which is a total to be computed."""
        return self.to_series().size

    @property
    def empty(self) -> bool:
        """Whether there is no label."""
        return bool(self.to_series().empty)

    @property
    def str(self) -> Any:
        """Functions of texts, as in pandas."""
        return Accessor(self, "str")

    def __getattr__(self, name: Any) -> Any:
        if name not in _OF_TIMES or not hasattr(type(self._meta), name):  # others may look at all labels
            of = "" if name.startswith("_") else f" of dtype {self._meta.dtype}"
            raise AttributeError(f"a parml Index{of} has no {name!r}; .to_series() has what a Series has")
        found = getattr(self._meta, name)
        if callable(found):  # .strftime, .normalize, .tz_convert and so on of times
            return partial(self._by_label, name)
        if isinstance(found, pd.Index) or hasattr(found, "__array__"):  # .year
            return elementwise(name, partial(steps.relabelled, partial(steps.get_attribute, name)), (self,))
        return found  # .tz

    def _by_label(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "isin":
            check_values(args, kwargs)
        result = elementwise(name, partial(steps.relabelled, partial(steps.call_method, name)), (self, *args), kwargs)
        if not isinstance(result._meta, pd.Index | pd.Series | pd.DataFrame):
            raise AttributeError(f"a parml Index has no {name!r}; use .to_series()")
        return result

    def __iter__(self) -> Iterator[Any]:
        for partition in self.partitions:
            yield from partition

    def to_series(self, index: None = None, name: Any = None) -> Any:
        """The labels as a series, labelled by themselves."""
        return elementwise("to_series", partial(steps.call_method, "to_series"), (self,), {"name": name})

    def to_frame(self, index: bool = True, name: Any = pd.api.extensions.no_default) -> Any:
        """The labels as columns of a frame."""
        given = {} if name is pd.api.extensions.no_default else {"name": name}
        frame = elementwise("to_frame", partial(steps.call_method, "to_frame"), (self,), given)
        return frame if index else frame.reset_index(drop=True)

    def map(self, mapper: Any, na_action: Any = None, *, meta: Any = None) -> Index:
        """
        Each label replaced by what a dict, a pandas Series or a function gives for it.

        Parameters
        ----------
        mapper : dict, pandas Series or callable
        na_action : None or "ignore"
        meta : optional
            What comes out; see `map_partitions`. Default: learned from made-up labels, for a dict from its values.
        """
        if meta is None and callable(mapper):
            meta = learned(
                partial(steps.call_method, "map"), (self._meta.to_series(), mapper, na_action), {}, what="the function of map"
            )
        elif meta is None:
            meta = pd.Series(list(mapper.values()) if isinstance(mapper, dict) else mapper.array).dtype
        labels = pd.Index(as_meta(meta), name=self.name)
        step = partial(steps.map_labels, labels)
        return Frame._of(Blockwise("map", step, (self._node,), (Input(0), mapper, na_action), meta=labels))

    def __repr__(self) -> Any:
        return f"parml Index: {self.name!r} of dtype {self.dtype}, {self.npartitions} partitions"


_OF_TIMES = frozenset(name for name in dir(pd.Series.dt) if not name.startswith("_")) - {"freq"}

ROWWISE_INDEX_METHODS = ("astype", "fillna", "isin", "isna", "isnull", "notna", "notnull", "rename", "round", "where")
INDEX_TOTALS = ("count", "max", "min", "nunique", "value_counts")


def _by_label_method(name: str) -> Callable[..., Any]:
    def method(self: Index, *args: Any, **kwargs: Any) -> Any:
        return self._by_label(name, *args, **kwargs)

    return like_pandas(method, pd.Index, name, "Index")


def _total_method(name: str) -> Callable[..., Any]:
    def method(self: Index, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.to_series(), name)(*args, **kwargs)

    return like_pandas(method, pd.Series, name, "Index")


for _name in ROWWISE_INDEX_METHODS:
    setattr(Index, _name, _by_label_method(_name))
for _name in INDEX_TOTALS:
    setattr(Index, _name, _total_method(_name))
install_operators(Index)

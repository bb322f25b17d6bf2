"""Methods of labels that look at several of them: as those of a series of the labels, whose values become labels again."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, aligned, elementwise
from parml.dataframe.plan import Blockwise
from parml.dataframe.plan_across import Reduce
from parml_core.errors import InputError, NotSupported


class Labels(Frame):
    """What `Index` has of pandas' methods that merge, drop or move labels."""

    def copy(self, name: Any = None, deep: bool = False) -> Any:
        """The same labels, under another name where one is given."""
        index: Any = self
        return index.rename(self._meta.name if name is None else name)

    def all(self) -> Any:
        """Whether all labels are true."""
        self._meta.all()  # pandas' own error where labels are neither true nor false
        return self._values("all").all()

    def any(self) -> Any:
        """Whether any label is true."""
        self._meta.any()
        return self._values("any").any()

    @property
    def is_monotonic_increasing(self) -> Any:
        """Whether no label is less than the one before; to be computed."""
        return self._values("is_monotonic_increasing").is_monotonic_increasing

    @property
    def is_monotonic_decreasing(self) -> Any:
        """Whether no label is greater than the one before; to be computed."""
        return self._values("is_monotonic_decreasing").is_monotonic_decreasing

    @property
    def nbytes(self) -> Any:
        """The bytes of the labels of all partitions; a total to be computed."""
        return self._summed("nbytes", partial(steps.get_attribute, "nbytes"))

    def memory_usage(self, deep: bool = False) -> Any:
        """The bytes of the labels of all partitions, with `deep` of what they refer to as well; a total to be computed."""
        return self._summed("memory_usage", partial(steps.call_method, "memory_usage", deep=deep))

    def diff(self, periods: int = 1) -> Any:
        """The difference of each label and the one some rows before it."""
        return _as_labels(self._values("diff").diff(periods))

    def drop_duplicates(self, *, keep: Any = "first") -> Any:
        """
        The labels that occur for the first time, in their order.

        Parameters
        ----------
        keep : {"first", "last", False}

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> labels = pdf.from_pandas(pd.Series([1, 2, 3], index=[7, 7, 8]), npartitions=2).index
        >>> labels.drop_duplicates().compute().tolist()
        [7, 8]
        """
        return _as_labels(self._values("drop_duplicates").drop_duplicates(keep=keep))

    def unique(self, level: Any = None) -> Any:
        """The labels that occur, each once, in the order in which they first appear."""
        if level is not None:
            self._meta.unique(level)  # pandas' own error
        return _as_labels(self._values("unique").drop_duplicates())

    def dropna(self, how: Any = "any") -> Any:
        """The labels that are not null."""
        self._meta.dropna(how=how)
        return _as_labels(self._values("dropna").dropna())

    def replace(self, *args: Any, **kwargs: Any) -> Any:
        """Labels replaced by others, as by :meth:`pandas.Index.replace`."""
        return elementwise("replace", partial(steps.relabelled, partial(steps.call_method, "replace")), (self, *args), kwargs)

    def shift(self, periods: int = 1, freq: Any = None) -> Any:
        """Times or periods moved by a number of steps of a frequency: as by :meth:`pandas.Index.shift`, of each label."""
        freq = getattr(self._meta, "freq", None) if freq is None and not isinstance(self._meta, pd.PeriodIndex) else freq
        return elementwise("shift", partial(steps.relabelled, partial(steps.call_method, "shift")), (self, periods, freq))

    def groupby(self, values: Any) -> Any:
        """
        Labels by the value beside them; a total to be computed.

        Parameters
        ----------
        values : Series or Index of the same partitions

        Returns
        -------
        Scalar
            That computes to a dict of value to pandas Index.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> series = pdf.from_pandas(pd.Series(list("aba")), npartitions=2)
        >>> {key: list(labels) for key, labels in series.index.groupby(series).compute().items()}
        {'a': [0, 2], 'b': [1]}
        """
        if not isinstance(values, Frame) or isinstance(values._meta, pd.DataFrame):
            raise InputError(f"expected a parml series or labels to group by, found {type(values).__name__}")
        aligned([self._node, values._node])
        parts = Blockwise("groupby", partial(steps.call_method, "groupby"), (self._node, values._node), meta=0)
        return Frame._of(Reduce("groupby", parts, _joined_groups, _joined_groups, {}))

    def _values(self, name: str) -> Any:
        """A series of the labels."""
        if isinstance(self._meta, pd.MultiIndex):
            raise NotSupported(f"expected labels of one level in {name}, found {self.names}; use to_frame()")  # type: ignore[attr-defined]
        index: Any = self
        return index.to_series()

    def _summed(self, name: str, fn: Any) -> Any:
        return Frame._of(Reduce(name, Blockwise(name, fn, (self._node,), meta=0), sum, sum, 0))


def _as_labels(series: Any) -> Any:
    return Frame._of(Blockwise("labels", pd.Index, (series._node,), rows=series._node.rows))


def _joined_groups(parts: list[dict[Any, pd.Index]]) -> dict[Any, pd.Index]:
    """Groups of several partitions in pandas' order, which is that of the values."""
    groups: dict[Any, list[pd.Index]] = {}
    for part in parts:
        for key, labels in part.items():
            groups.setdefault(key, []).append(labels)
    keys = pd.Categorical(list(groups)).categories if not _are_categories(parts) else list(groups)
    return {key: groups[key][0].append(groups[key][1:]) for key in keys}


def _are_categories(parts: list[dict[Any, pd.Index]]) -> bool:
    """Whether all partitions have the same groups, as those of categories have: they stay in that order."""
    return all(list(part) == list(parts[0]) for part in parts)

"""Rows in order, by labels, and those that occur once: `sort_values`, `set_index`, `loc`, `drop_duplicates` and others."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame
from parml.dataframe.divisions import Divisions
from parml.dataframe.groupby_steps import VALUE
from parml.dataframe.keys import Keys, Order
from parml.dataframe.plan import Blockwise, Input, Node, Project, Rows
from parml.dataframe.plan_across import Reduce, Select, labelled
from parml.dataframe.plan_labels import BetweenLabels, ResetIndex, SetIndex, TakePlaces, divisions_of, in_order
from parml.dataframe.plan_shuffle import Gather, are_together, hashed, sorted_rows, taken_home, with_home
from parml.dataframe.sort_steps import (
    Extremes,
    distinct,
    first_of_each,
    kept_places,
    marked_duplicates,
    places_of_first,
    unique,
)
from parml_core.errors import InputError, NotSupported


class Sorts(Divisions):
    """What frames and series have in common."""

    def sort_index(self, *, ascending: bool = True, na_position: str = "last") -> Any:
        """The rows in the order of their labels; rows of equal labels stay in their order."""
        node = labelled(self._node)
        levels = node.meta.index.nlevels
        order = Order(Keys(), (ascending,) * levels, _nulls_first(na_position))
        result = sorted_rows(node, order)
        result.in_order = ascending and na_position == "last"  # type: ignore[attr-defined]
        return Frame._of(result)

    def drop_duplicates(self, subset: Any = None, *, keep: Any = "first", ignore_index: bool = False) -> Any:
        """
        The rows whose values, or those in the columns of `subset`, occur for the first time, in their order.

        Only the columns that are compared move, and of these only rows that differ within their partition.

        Parameters
        ----------
        subset : column or list of columns, optional
        keep : {"first", "last", False}
        ignore_index : bool
            Number the rows anew.
        """
        node = self._node
        if keep not in ("first", "last", False):
            raise InputError(f"expected keep to be 'first', 'last' or False, found {keep!r}")
        compared = _compared(node, subset)
        width = compared.meta.shape[1]
        homes = with_home(compared)
        if are_together(compared, list(compared.meta.columns)):
            places: Node = Blockwise("drop_duplicates", kept_places, (homes,), (Input(0), width, keep))
        else:
            if keep:
                homes = Blockwise("drop_duplicates", first_of_each, (homes,), (Input(0), width, keep))
            moved = hashed(homes, list(range(width)), node.npartitions)
            kept = Blockwise("drop_duplicates", places_of_first, (moved,), (Input(0), width, keep))
            places = taken_home(kept, node, pd.Series([], dtype="int64"), all_rows=False)
        result = TakePlaces(node, places)
        return Frame._of(ResetIndex(result, True, {}) if ignore_index else result)

    def duplicated(self, subset: Any = None, *, keep: Any = "first") -> Any:
        """
        Whether the values of a row, or those in the columns of `subset`, occurred before; see `drop_duplicates`.

        Parameters
        ----------
        subset : column or list of columns, optional
        keep : {"first", "last", False}

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.DataFrame({"a": [3, 1, 3]}), npartitions=2).duplicated().compute().tolist()
        [False, False, True]
        """
        if keep not in ("first", "last", False):
            raise InputError(f"expected keep to be 'first', 'last' or False, found {keep!r}")
        compared = _compared(self._node, subset)
        moved = hashed(with_home(compared), list(range(compared.meta.shape[1])), compared.npartitions)
        marked = Blockwise("duplicated", marked_duplicates, (moved,), (Input(0), compared.meta.shape[1], keep))
        name = self._node.meta.name if isinstance(self._node.meta, pd.Series) else None
        return Frame._of(taken_home(marked, self._node, pd.Series([], index=self._node.meta.index, dtype=bool, name=name)))

    def reset_index(self, level: Any = None, *, drop: bool = False, **kwargs: Any) -> Any:
        """
        The rows labelled from 0; the labels they had become columns, unless dropped.

        Parameters
        ----------
        level : int, str or list, optional
            Of labels of several levels: those that are taken away. Default: all.
        drop : bool
        **kwargs
            ``names``, ``col_level`` and others as for pandas.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3]}, index=[7, 8, 9]), npartitions=2)
        >>> frame.reset_index().compute().index.tolist()
        [0, 1, 2]
        """
        if level is None or not isinstance(self._node.meta.index, pd.MultiIndex):
            return Frame._of(ResetIndex(self._node if drop else labelled(self._node), drop, kwargs))
        node = labelled(self._node)
        step = partial(steps.call_method, "reset_index", level=level, drop=drop, **kwargs)
        return Frame._of(Blockwise("reset_index", step, (node,), rows=Rows(f"reset_index {level!r} {drop} {node.rows.origin}")))

    @property
    def loc(self) -> Loc:
        """
        Rows by labels, of which it is known that they ascend: ``frame.loc[start:stop]``, ``frame.loc[label]``.

        With a label, the result is the rows that have it, also where it is one or none. Where divisions are known, only the
        partitions that can hold the labels are looked at.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [3, 1, 2], "b": [4, 5, 6]}), npartitions=2).set_index("a")
        >>> frame.loc[2:].b.compute().tolist()
        [6, 4]
        """
        return Loc(self)

    def repartition(self, npartitions: int | None = None, *, divisions: Sequence[Any] | None = None) -> Any:
        """
        The same rows, in the same order, in another number of partitions, or cut at given labels.

        Parameters
        ----------
        npartitions : int
        divisions : sequence, optional
            The label at which each partition begins, and that with which the last one ends; of labels in order.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": range(10)}), npartitions=4)
        >>> [len(part) for part in frame.repartition(2).partitions]
        [5, 5]
        >>> [len(part) for part in frame.repartition(divisions=[0, 2, 9]).partitions]
        [2, 8]
        """
        if divisions is None:
            return super().repartition(npartitions)  # type: ignore[arg-type]
        node = labelled(self._node)
        if not in_order(node):
            raise NotSupported("expected labels in order for divisions, found some of unknown order; use sort_index() before")
        return Frame._of(_cut_at(node, Order(Keys()), divisions))


class SortsFrame(Sorts):
    """What only frames have."""

    def sort_values(
        self,
        by: Any,
        *,
        ascending: Any = True,
        na_position: str = "last",
        ignore_index: bool = False,
        npartitions: int | None = None,
    ) -> Any:
        """
        The rows in the order of one or several columns; equal rows stay in their order (pandas' ``kind="stable"``).

        Rows move to partitions that follow each other, which samples cut into about equal lengths.

        Parameters
        ----------
        by : column or list of columns
        ascending : bool or list of bool
        na_position : {"last", "first"}
        ignore_index : bool
            Number the rows anew.
        npartitions : int, optional
            Default: as many as the frame has.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [3, 1, 2], "b": list("xyz")}), npartitions=2)
        >>> frame.sort_values("a", ascending=False).b.compute().tolist()
        ['x', 'z', 'y']
        """
        columns = _listed(by)
        directions = tuple(ascending) if isinstance(ascending, list | tuple) else (bool(ascending),) * len(columns)
        if len(directions) != len(columns):
            raise InputError(f"expected ascending for each of {len(columns)} columns, found {len(directions)}")
        for column in columns:
            self._node.meta[[column]]  # a KeyError of pandas shows at once
        node = self._node if ignore_index else labelled(self._node)
        order = Order(Keys(tuple(columns)), directions, _nulls_first(na_position))
        return Frame._of(sorted_rows(node, order, npartitions=npartitions, counted=ignore_index))

    def set_index(
        self,
        keys: Any,
        *,
        drop: bool = True,
        sort: bool = True,
        sorted: bool = False,
        divisions: Sequence[Any] | None = None,
        npartitions: int | None = None,
    ) -> Any:
        """
        The frame with columns as the labels of its rows, in the order of these labels.

        Equals ``frame.set_index(keys).sort_index(kind="stable")`` of pandas; with ``sort=False``, ``frame.set_index(keys)``.

        Parameters
        ----------
        keys : column or list of columns
        drop : bool
            Columns that become labels are no columns any more.
        sort : bool
            Put rows in order: then `loc` finds them, and a partition holds the rows from one label to the next.
        sorted : bool
            The column is in order already; no row moves.
        divisions : sequence, optional
            The label at which each partition begins, and that with which the last one ends. Default: samples cut the labels
            into partitions of about equal length.
        npartitions : int, optional
            Default: as many as the frame has.
        """
        columns = _listed(keys)
        for column in columns:
            self._node.meta[[column]]
        given: Any = keys if isinstance(keys, list) else columns[0]
        node = self._node
        if sorted or not sort:
            return Frame._of(SetIndex(node, given, drop, in_order=sorted))
        order = Order(Keys(tuple(columns)))
        forgotten = node.rows.counted_by is not None
        if divisions is not None:
            moved = _cut_at(node, order, divisions, counted=forgotten)
            labelled_rows = SetIndex(moved, given, drop, True, tuple(divisions[1:-1]))
            labelled_rows.ends = (divisions[0], divisions[-1])
            return Frame._of(labelled_rows)
        moved = sorted_rows(node, order, npartitions=npartitions, counted=forgotten)
        return Frame._of(SetIndex(moved, given, drop, in_order=True))

    def nlargest(self, n: int, columns: Any, keep: str = "first") -> Any:
        """The `n` rows with the largest values, in descending order."""
        return _extremes(self._node, "nlargest", n, columns=columns, keep=keep)

    def nsmallest(self, n: int, columns: Any, keep: str = "first") -> Any:
        """The `n` rows with the smallest values, in ascending order."""
        return _extremes(self._node, "nsmallest", n, columns=columns, keep=keep)


class SortsSeries(Sorts):
    """What only series have."""

    def sort_values(self, *, ascending: bool = True, na_position: str = "last", ignore_index: bool = False) -> Any:
        """The values in order; equal ones stay in their order (pandas' ``kind="stable"``)."""
        node = self._node if ignore_index else labelled(self._node)
        order = Order(Keys((VALUE,)), (bool(ascending),), _nulls_first(na_position))
        return Frame._of(_as_series(sorted_rows(_as_frame(node), order, counted=ignore_index), node.meta.name))

    def nlargest(self, n: int = 5, keep: str = "first") -> Any:
        """The `n` largest values, in descending order."""
        return _extremes(self._node, "nlargest", n, keep=keep)

    def nsmallest(self, n: int = 5, keep: str = "first") -> Any:
        """The `n` smallest values, in ascending order."""
        return _extremes(self._node, "nsmallest", n, keep=keep)

    def unique(self) -> Any:
        """The values that occur, each once, in the order in which they first appear: an array."""
        some = Blockwise("unique", partial(steps.call_method, "drop_duplicates"), (self._node,))
        return Frame._of(Reduce("unique", some, distinct, unique, self._node.meta.unique()))


class Loc:
    """Indexing by labels; see `DataFrame.loc`."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __getitem__(self, key: Any) -> Any:
        frame = self._frame
        if isinstance(key, tuple) and isinstance(frame._meta, pd.DataFrame):
            if frame._meta.index.nlevels > 1:
                raise NotSupported(f"expected one label in .loc, found {key!r} for labels of several levels; use reset_index()")
            if len(key) != 2:
                raise InputError(f"expected rows and columns, found {key!r}")
            rows, columns = key
            chosen = frame if isinstance(rows, slice) and rows == slice(None) else Loc(frame)[rows]
            return chosen if isinstance(columns, slice) and columns == slice(None) else chosen[columns]
        if isinstance(key, Frame):
            return frame[key]
        node = labelled(frame._node)
        if isinstance(key, slice) and key.step is None:
            start, stop = key.start, key.stop
        elif pd.api.types.is_scalar(key) and key is not None:
            start = stop = key
        else:
            raise NotSupported(f"expected a label, a slice of labels or a series of truth values, found {key!r}")
        if not in_order(node):
            raise NotSupported(
                "expected labels in order for .loc, found some of unknown order; use set_index or sort_index before"
            )
        divisions = divisions_of(node)
        if isinstance(node.meta.index, pd.DatetimeIndex) and any(isinstance(end, str) for end in (start, stop)):
            divisions = None  # pandas makes the times of texts, such as a month
        if divisions is not None and len(divisions):
            first = 0 if start is None else bisect_right(divisions, start)
            last = len(divisions) if stop is None else bisect_right(divisions, stop)
            node = Select(node, range(first, max(first, last) + 1))
        return Frame._of(BetweenLabels(node, start, stop))


def _cut_at(node: Node, order: Order, divisions: Sequence[Any], counted: bool = False) -> Node:
    """Rows in order, cut at given keys."""
    given = list(divisions)
    if len(given) < 2 or any(b < a for a, b in itertools.pairwise(given)):
        raise InputError(f"expected divisions in ascending order, at least two of them, found {given!r}")
    keys = order.keys.of(node.meta)
    bounds = pd.DataFrame({keys.columns[0]: pd.Series(given[1:-1], dtype=keys.dtypes.iloc[0])})
    result = sorted_rows(node, order, npartitions=len(given) - 1, bounds=bounds, counted=counted)
    result.in_order, result.divisions = order.keys.columns is None, tuple(given[1:-1])  # type: ignore[attr-defined]
    result.ends = (given[0], given[-1])  # type: ignore[attr-defined]
    return result


def _compared(node: Node, subset: Any) -> Node:
    """The columns in which rows are compared."""
    if isinstance(node.meta, pd.Series):
        return _as_frame(node)
    if subset is None:
        return node
    columns = subset if isinstance(subset, list | tuple) else [subset]
    for column in columns:
        if column not in node.meta.columns:
            raise KeyError(f"expected columns of the frame, found {column!r}; they are {list(node.meta.columns)}")
    return Project(node, list(columns))


def _listed(columns: Any) -> list[Any]:
    return list(columns) if isinstance(columns, list) else [columns]


def _nulls_first(na_position: str) -> bool:
    if na_position not in ("first", "last"):
        raise InputError(f"expected na_position to be 'first' or 'last', found {na_position!r}")
    return na_position == "first"


def _as_frame(node: Node) -> Node:
    return Blockwise("to_frame", partial(steps.call_method, "to_frame"), (node,), (Input(0), VALUE))


def _as_series(node: Node, name: Any) -> Node:
    return Blockwise("rename", partial(steps.call_method, "rename"), (Project(node, VALUE),), (Input(0), name))


def _extremes(node: Node, method: str, n: int, **kwargs: Any) -> Any:
    step = Extremes(method, n, kwargs)
    chunk = Blockwise(method, step.chunk, (labelled(node),))
    return Frame._of(Gather(method, chunk, step.combine, step.combine, node.meta))

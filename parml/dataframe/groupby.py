"""Group-by: of a frame or a series, by columns, series or levels of the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe.aggregation import aggregated, holds_aggregation
from parml.dataframe.base import Frame
from parml.dataframe.groupby_steps import (
    KEPT,
    VALUE,
    Grouping,
    Partials,
    Returning,
    Whole,
    WholeGroups,
    order_of_groups,
)
from parml.dataframe.keys import Keys, Order
from parml.dataframe.meta import as_meta, learned, sample_of
from parml.dataframe.plan import Blockwise, Node, Project, Rows
from parml.dataframe.plan_across import labelled
from parml.dataframe.plan_shuffle import (
    Gather,
    are_together,
    gathered,
    hashed,
    joined,
    known_together,
    ranged,
    taken_home,
    with_home,
)
from parml_core.errors import InputError, NotSupported

# Methods of pandas' group-by that return one or more rows for each group, and need all rows of a group.
OF_GROUPS = (
    "median", "nunique", "idxmin", "idxmax", "quantile", "sem", "skew", "kurt", "describe", "value_counts", "cov", "corr",
    "unique",
)  # fmt: skip
# Those that return a row for each row, and those that return some of the rows.
OF_ROWS = (
    "cumsum", "cumprod", "cummin", "cummax", "cumcount", "shift", "diff", "pct_change", "rank", "ffill", "bfill",
)  # fmt: skip
SOME_ROWS = ("head", "tail", "nth")
_LOOK_AT_LABELS = frozenset({"idxmin", "idxmax", "apply", "agg"})
_LEARNED_FROM_ROWS = frozenset({"describe", "unique"})
"""Of no rows, pandas makes another dtype, or other labels."""
PARTITIONS_PER_TARGET = 8


class GroupBy:
    """
    Rows in groups of equal keys. Results are those of pandas: values, dtypes, labels, names and order.

    A sum, a count, a mean and other aggregations of `KEPT` are partial results of partitions that are merged: in a tree, or,
    where there are many partitions or `shuffle` says so, each group in one of several partitions. Other methods bring all
    rows of a group to one partition first. Where the rows of a group are together already, after a merge by the same
    columns for instance, no row moves.

    With ``sort=False``, groups are in the order in which they first appear only where the result is one partition.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"k": list("abab"), "x": [1, 2, 3, 5]}), npartitions=2)
    >>> frame.groupby("k").x.agg(["sum", "max"]).compute().loc["b"].tolist()
    [7, 5]
    """

    def __init__(self, node: Node, grouping: Grouping, series: bool, selection: Any, shuffle: bool | int | None) -> None:
        self._node, self._grouping, self._series, self._selection = node, grouping, series, selection
        self._shuffle = shuffle

    # -- choosing columns

    def __getitem__(self, key: Any) -> GroupBy:
        if self._series or self._selection is not None:
            raise InputError(f"expected to choose columns once, found {key!r} of chosen ones")
        for column in key if isinstance(key, list) else [key]:
            if column not in self._values:
                raise KeyError(f"expected a column of the frame, found {column!r}; its columns are {self._values}")
        return GroupBy(self._node, self._grouping, False, key, self._shuffle)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and not self._series and self._selection is None and name in self._values:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or column {name!r}")

    def __iter__(self) -> Any:
        raise NotSupported("expected a method of a group-by, found a loop over its groups; use apply, or get_group(key)")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(column for column in self._values if isinstance(column, str))})

    @property
    def _values(self) -> list[Any]:
        """The columns that can be aggregated."""
        return [column for column in self._node.meta.columns if column not in self._grouping.by]

    @property
    def _chosen(self) -> list[Any]:
        """The columns that are aggregated."""
        if self._series:
            return [VALUE]
        if self._selection is None:
            return self._values
        return self._selection if isinstance(self._selection, list) else [self._selection]

    @property
    def _flat(self) -> bool:
        """Whether a series is aggregated."""
        return self._series or not (self._selection is None or isinstance(self._selection, list))

    # -- aggregations

    def agg(self, func: Any = None, *args: Any, meta: Any = None, **kwargs: Any) -> Any:
        """
        Aggregations by name, as a list of names, a dict of column to names, or ``new=(column, name)``.

        Parameters
        ----------
        func : str, callable, `Aggregation`, list or dict, optional
        meta : optional
            What a function of yours makes of a partition; see `DataFrame.map_partitions`.
        """
        if holds_aggregation(func, kwargs):
            pairs = self._pairs(func, kwargs)
            node = self._needed(pairs, everything=False)
            return Frame._of(aggregated(node, self._grouping, self._series, self._selection, func, kwargs, pairs))
        wanted = None if args else self._parsed(func, kwargs)
        return self._aggregated("agg", (func, *args), kwargs, wanted=wanted, meta=meta)

    aggregate = agg

    def size(self) -> Any:
        """The number of rows of each group."""
        return self._aggregated("size", (), {}, wanted=[(None, "size")])

    def apply(self, func: Callable[..., Any], *args: Any, meta: Any = None, **kwargs: Any) -> Any:
        """
        What a function makes of each group, one after the other.

        Parameters
        ----------
        func : callable
            Takes a frame without the keys, or a series.
        meta : optional
            What comes out of a partition; see `DataFrame.map_partitions`. Default: learned from made-up rows.

        Notes
        -----
        Groups are in pandas' order. With ``group_keys=False``, pandas puts rows that the function returned with unchanged
        labels back into their places; here they stay in the order of the groups: use `transform`.
        """
        return self._aggregated("apply", (func, *args), kwargs, meta=meta)

    def transform(self, func: Any, *args: Any, meta: Any = None, **kwargs: Any) -> Any:
        """A row for each row, from all rows of its group: in the same partitions, beside the columns of the frame."""
        return self._back("transform", (func, *args), kwargs, meta=meta)

    def filter(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The rows of the groups for which a function returns True."""
        meta = self._node.meta[self._selection if self._selection is not None else self._visible] if not self._series else None
        if meta is None:
            meta = self._node.meta[VALUE].rename(self._selection)
        return self._back("filter", (func, *args), kwargs, meta=meta, all_rows=False)

    def get_group(self, name: Any) -> Any:
        """The rows of one group; none where there is no such group."""
        keys = name if isinstance(name, tuple) else (name,)
        if len(keys) != len(self._grouping.by):
            raise InputError(f"expected {len(self._grouping.by)} keys of a group, found {name!r}")
        frame = Frame._of(self._node)
        for column, key in zip(self._grouping.by, keys, strict=True):
            frame = frame[frame[column].isna() if pd.api.types.is_scalar(key) and pd.isna(key) else frame[column] == key]
        if self._series:
            return frame[VALUE].rename(self._selection)
        return frame[self._visible if self._selection is None else self._selection]

    def pipe(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``func(self, *args, **kwargs)``."""
        return func(self, *args, **kwargs)

    @property
    def _visible(self) -> list[Any]:
        grouping = self._grouping
        hidden = {column for column, name in zip(grouping.by, grouping.names, strict=True) if column != name}
        return [column for column in self._node.meta.columns if column not in hidden]

    def _parsed(self, func: Any, named: dict[str, Any]) -> list[tuple[Any, str]] | None:
        """(column, name) for each column of the result, where all of them can be merged from partial results."""
        if (func is not None and named) or (isinstance(func, dict) and self._flat):
            return None
        pairs = self._pairs(func, named)
        wanted = [(column, name) for column, name in pairs if isinstance(name, str)]
        return wanted if len(wanted) == len(pairs) and self._mergeable(wanted) else None

    def _pairs(self, func: Any, named: dict[str, Any]) -> list[tuple[Any, Any]]:
        """(column, name or function) for each column of the result, as far as pandas' forms of them are met."""
        columns = self._chosen
        if func is None and self._flat:
            return [(columns[0], name) for name in named.values()]
        if func is None:
            return [tuple(pair) for pair in named.values() if isinstance(pair, tuple) and len(pair) == 2]  # type: ignore[misc]
        if isinstance(func, dict):
            return [
                (column, name) for column, names in func.items() for name in (names if isinstance(names, list) else [names])
            ]
        return [(column, name) for column in columns for name in (func if isinstance(func, list) else [func])]

    def _mergeable(self, wanted: Sequence[tuple[Any, str]]) -> bool:
        """Whether results of partitions can be merged."""
        dtypes = self._node.meta.dtypes
        for column, name in wanted:
            if name not in KEPT or (column is not None and (column not in dtypes or isinstance(dtypes[column], pd.Series))):
                return False
            dtype = None if column is None else dtypes[column]
            numeric = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)
            if name not in ("size", "count", "min", "max", "first", "last") and not numeric:
                return False
        return bool(wanted)

    def _total(self, name: str, kwargs: dict[str, Any]) -> Any:
        """One of `KEPT`, of each column."""
        chosen = self
        kwargs = dict(kwargs)
        if kwargs.pop("numeric_only", False) and not self._flat:
            numeric = [column for column in self._chosen if pd.api.types.is_numeric_dtype(self._node.meta[column].dtype)]
            chosen = GroupBy(self._node, self._grouping, False, numeric, self._shuffle)
        wanted = [(column, name) for column in chosen._chosen]
        plain = not kwargs.keys() - ({"ddof"} if name in ("var", "std") else set()) and chosen._mergeable(wanted)
        return chosen._aggregated(name, (), kwargs, wanted=wanted if plain else None)

    def _aggregated(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        wanted: Sequence[tuple[Any, str]] | None = None,
        meta: Any = None,
    ) -> Any:
        whole = Whole(self._grouping, self._series, self._selection, name, args, kwargs)
        node = self._needed(wanted, everything=name == "apply")
        if name in _LOOK_AT_LABELS and wanted is None:
            node = labelled(node)
        meta = self._learned(whole, node.meta, meta)
        if wanted is not None and len(wanted) != _width(meta) - (0 if self._grouping.as_index else len(self._grouping.by)):
            wanted = None
        if wanted is not None and not are_together(node, self._grouping.by):
            partials = Partials(self._grouping, tuple(wanted), meta, kwargs.get("ddof", 1))
            return Frame._of(self._merged(name, node, partials, meta))
        return Frame._of(self._in_order(self._of_groups(name, node, WholeGroups(whole, meta), meta), node))

    def _merged(self, name: str, node: Node, partials: Partials, meta: Any) -> Node:
        """Groups from partial results."""
        chunk = Blockwise(name, partials.chunk, (node,), meta=partials.chunk(node.meta))
        n_targets = self._n_targets(node)
        if n_targets == 1:
            return Gather(f"groupby {name}", chunk, partials.combine, partials.finish, meta)
        counted = not self._grouping.as_index
        if self._grouping.sort:
            return ranged(chunk, Order(Keys(tuple(partials.keys))), n_targets, partials.finish, meta=meta, counted=counted)
        moved = hashed(chunk, partials.keys, n_targets)
        return self._block(name, partials.finish_one, moved, meta)

    def _of_groups(self, name: str, node: Node, whole: WholeGroups, meta: Any) -> Node:
        """Groups from all of their rows."""
        by, counted = self._grouping.by, node.rows.counted_by is not None
        if self._one_partition(node):
            node = gathered(node)
        elif not are_together(node, by):
            if self._grouping.sort and self._sortable(node):
                node = ranged(node, Order(Keys(by)), node.npartitions, partial(joined, counted), counted=counted)
            else:
                node = hashed(node, by, node.npartitions)
        return self._block(name, whole, node, meta)

    def _block(self, name: str, fn: Callable[[Any], Any], node: Node, meta: Any) -> Node:
        if self._grouping.as_index:
            return Blockwise(f"groupby {name}", fn, (node,), meta=meta, rows=Rows(f"groups {name} {node.token}"))
        return CountedBlock(f"groupby {name}", fn, (node,), meta=meta)

    def _in_order(self, result: Node, node: Node) -> Node:
        """Results of all partitions in the order of their groups."""
        below, by = result.inputs[0] if result.inputs else result, self._grouping.by
        in_order = any(known.sorted and by[: len(known.columns)] == known.columns for known in known_together(below))
        if not self._grouping.sort or in_order or result.npartitions == 1 or isinstance(result, Gather):
            return result
        put = partial(order_of_groups, self._grouping)
        return Gather("order of groups", result, put, put, result.meta)

    def _back(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, meta: Any = None, all_rows: bool = True
    ) -> Any:
        """A method whose result has rows of the frame, in their places."""
        node = self._needed(None, everything=self._selection is None or not all_rows)
        whole = Whole(self._grouping, self._series, self._selection, name, args, kwargs)
        whole_groups = WholeGroups(whole, self._learned(whole, node.meta, meta))
        meta, rows = whole_groups.meta, node.rows if all_rows else replace(node.rows, whole=False)
        if are_together(node, self._grouping.by):
            return Frame._of(Blockwise(f"groupby {name}", whole_groups, (node,), meta=meta, rows=rows))
        columns = node.meta.columns
        places = [list(columns).index(column) for column in self._grouping.by]
        moved = hashed(with_home(node), places, node.npartitions)
        returning = Returning(whole_groups, columns)
        result = Blockwise(f"groupby {name}", returning, (moved,), meta=returning(moved.meta))
        return Frame._of(taken_home(result, node, meta, all_rows=all_rows))

    def _needed(self, wanted: Sequence[tuple[Any, str]] | None, everything: bool) -> Node:
        """The frame with no more columns than needed."""
        node = self._node
        if wanted is not None:
            values = {column for column, _ in wanted} | (set() if self._selection is None else set(self._chosen))
        elif everything or self._selection is None:
            return node
        else:
            values = set(self._chosen)
        columns = [column for column in node.meta.columns if column in values or column in self._grouping.by]
        return node if len(columns) == len(node.meta.columns) else Project(node, columns)

    def _learned(self, whole: Whole, below: pd.DataFrame, meta: Any) -> Any:
        """The empty result."""
        if meta is not None:
            return as_meta(meta)
        if any(map(holds_function, (*whole.args, *whole.kwargs.values()))):
            return learned(whole, (below,), {}, what=f"the function of groupby.{whole.name}")
        if whole.name in _LEARNED_FROM_ROWS:
            return whole(sample_of(below)).iloc[:0]
        try:
            return whole(below).iloc[:0]
        except (ValueError, IndexError):  # what cannot be done with no rows, such as finding the first
            return whole(sample_of(below)).iloc[:0]

    def _sortable(self, node: Node) -> bool:
        return all(node.meta[column].dtype != object for column in self._grouping.by)

    def _one_partition(self, node: Node) -> bool:
        """Groups without rows are in the result too, once."""
        kinds = [node.meta[column].dtype for column in self._grouping.by]
        return not self._grouping.observed and any(isinstance(kind, pd.CategoricalDtype) for kind in kinds)

    def _n_targets(self, node: Node) -> int:
        if self._one_partition(node) or not (self._sortable(node) or not self._grouping.sort):
            return 1
        if self._shuffle is not None:
            return node.npartitions if self._shuffle is True else max(1, int(self._shuffle))
        dtypes = [node.meta[column].dtype for column in self._grouping.by]
        few = all(isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(dtype) for dtype in dtypes)
        return 1 if few else -(-node.npartitions // PARTITIONS_PER_TARGET)


class CountedBlock(Blockwise):
    """A step whose rows are new, and numbered from 0 in each partition."""

    def __init__(self, name: str, fn: Callable[..., Any], inputs: Sequence[Node], *, meta: Any) -> None:
        super().__init__(name, fn, inputs, meta=meta, rows=Rows(""))
        self.rows = Rows(self.token, self, whole=True)


def _width(meta: Any) -> int:
    return len(meta.columns) if isinstance(meta, pd.DataFrame) else 1


def holds_function(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(holds_function, value.values()))
    return any(map(holds_function, value)) if isinstance(value, list | tuple) else callable(value)


def _method(name: str) -> Callable[..., Any]:
    def method(self: GroupBy, *args: Any, **kwargs: Any) -> Any:
        if name in KEPT:
            if args:
                raise InputError(f"expected arguments of {name} by name, found {args!r}; write {name}(numeric_only=True)")
            return self._total(name, kwargs)
        if name in OF_GROUPS:
            return self._aggregated(name, args, kwargs)
        return self._back(name, args, kwargs, all_rows=name in OF_ROWS)

    method.__name__ = name
    method.__qualname__ = f"GroupBy.{name}"
    method.__doc__ = f"Like ``{name}`` of pandas' group-by."
    return method


for _name in (*(name for name in KEPT if name != "size"), *OF_GROUPS, *OF_ROWS, *SOME_ROWS):
    setattr(GroupBy, _name, _method(_name))

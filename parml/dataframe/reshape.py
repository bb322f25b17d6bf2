"""Tables in another shape: `melt`, `pivot_table`, and texts as categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from parml.collections import compute
from parml.dataframe import steps
from parml.dataframe.base import Frame
from parml.dataframe.meta import emptied
from parml.dataframe.plan import Blockwise, Input, Kept, Node, Project, Rows
from parml.dataframe.plan_across import labelled
from parml.dataframe.plan_concat import Concat
from parml.dataframe.plan_shuffle import gathered
from parml_core.errors import NotSupported

# What an aggregation makes of groups without rows, and hence its dtypes, does not depend on there being any.
_SURE_DTYPES = frozenset({"count", "sum", "size", "mean", "std", "var"})


class Reshapes:
    """Methods of `DataFrame` that give it another shape."""

    _node: Node

    def melt(
        self,
        id_vars: Any = None,
        value_vars: Any = None,
        var_name: Any = None,
        value_name: Any = "value",
        col_level: Any = None,
        ignore_index: bool = True,
    ) -> Any:
        """
        A row for each value of some columns, beside the name of its column and the other columns of its row.

        Rows are in pandas' order: first all those of the first column. So there are as many partitions for each column as the
        frame has; it is read once.

        Parameters
        ----------
        id_vars, value_vars : column or list of columns, optional
            Those that stay, and those whose values become rows. Default: none, and all others.
        var_name, value_name : str, optional
            Names of the new columns.
        col_level : int or str, optional
            Of column names of several levels.
        ignore_index : bool
            Number the rows anew.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"k": ["a", "b"], "x": [1, 2], "y": [3, 4]}), npartitions=2)
        >>> frame.melt("k").compute().values.tolist()
        [['a', 'x', 1], ['b', 'x', 2], ['a', 'y', 3], ['b', 'y', 4]]
        """
        named: dict[str, Any] = {"var_name": var_name, "value_name": value_name, "col_level": col_level}
        node = self._node if ignore_index else labelled(self._node)
        meta = node.meta.melt(id_vars, value_vars, ignore_index=ignore_index, **named)  # mistakes show here, in pandas' words
        names = node.meta.columns if col_level is None else node.meta.columns.get_level_values(col_level)
        ids = [] if id_vars is None else list(id_vars) if pd.api.types.is_list_like(id_vars) else [id_vars]
        fixed = list(names.get_indexer_for(ids)) if ids else []
        if value_vars is None:
            places = [place for place in range(len(names)) if place not in fixed]
        else:
            wanted = list(value_vars) if pd.api.types.is_list_like(value_vars) else [value_vars]
            places = [place for place in dict.fromkeys(names.get_indexer_for(wanted)) if place not in fixed]
        melting = Melting(ids, named, meta[value_name].dtype, value_name, ignore_index)
        blocks = [Melted(_columns_at(node, [*fixed, place]), melting) for place in places]
        return Frame._of(Concat(blocks or [Melted(_columns_at(node, fixed), melting)]))

    def pivot_table(
        self,
        values: Any = None,
        index: Any = None,
        columns: Any = None,
        aggfunc: Any = "mean",
        fill_value: Any = None,
        margins: bool = False,
        dropna: bool = True,
        observed: bool = True,
        sort: bool = True,
        **kwargs: Any,
    ) -> Any:
        """
        Groups of rows as a table: one row for each value of `index`, one column for each of `columns`. It is one partition.

        Which columns a table has depends on the rows, so the groups are computed when this is called. With ``dropna=False,
        observed=False``, `columns` of categories and counts, sums, means, variances or deviations, the columns are known
        beforehand and nothing is computed yet.

        Parameters
        ----------
        values, index, columns : column or list of columns
        aggfunc : str, callable, list of those, or dict of column to one of those
        fill_value : optional
            Takes the place of nulls.
        margins : False
        dropna, observed, sort : bool
            As in pandas.
        **kwargs
            Arguments of `aggfunc`.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> sales = pd.DataFrame({"shop": ["a", "b", "a"], "year": [2020, 2020, 2021], "x": [1, 2, 3]})
        >>> frame = pdf.from_pandas(sales, npartitions=2)
        >>> frame.pivot_table("x", "shop", "year", "sum", fill_value=0).compute().loc["a"].tolist()
        [1, 3]
        """
        if margins:
            raise NotSupported("expected margins=False, found True; add sums or means of a second pivot_table with fewer keys")
        pivot = Pivot(values, _keys(index), _keys(columns), aggfunc, fill_value, dropna, observed, sort)
        pivot.check(self._node.meta)
        groups: list[Any] = [self._groups_of(pivot, fn, kwargs) for fn in pivot.functions]
        nodes = [gathered(each._node) for each in groups]
        if pivot.known(self._node.meta):
            return Frame._of(Blockwise("pivot_table", pivot, nodes, rows=Rows(f"pivot_table {nodes[0].token}")))
        table = Blockwise("pivot_table", pivot, nodes, meta=nodes[0].meta, rows=Rows(f"pivot_table {nodes[0].token}"))
        kept: Node = Frame._of(table).persist()._node
        table.meta = Frame._of(Blockwise("meta", emptied, (kept,), meta=table.meta)).compute()
        return Frame._of(Kept(kept.futures, like=table))  # type: ignore[attr-defined]

    def _groups_of(self, pivot: Pivot, function: Any, kwargs: dict[str, Any]) -> Any:
        frame: Any = self
        keys = [*pivot.index, *pivot.columns]
        if pivot.values is not None:
            frame = frame[list(dict.fromkeys([*keys, *_keys(pivot.values)]))]
        grouped = frame.groupby(keys, observed=pivot.observed, sort=pivot.sort, dropna=pivot.dropna, shuffle=False)
        groups = (grouped if pivot.values is None else grouped[_keys(pivot.values)]).agg(function, **kwargs)
        if not pivot.sort and groups.npartitions > 1:
            raise NotSupported(f"expected sort=True for {function!r}, whose groups are not in the order of rows, found False")
        return groups

    def categorize(self, columns: Any = None) -> Any:
        """
        The frame with columns as categories: their values, in order, which are computed when this is called.

        Parameters
        ----------
        columns : column or list of columns, optional
            Default: those of texts and of objects.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"k": ["b", "a", "b"], "x": [1, 2, 3]}), npartitions=2)
        >>> frame.categorize().k.cat.categories.tolist()
        ['a', 'b']
        """
        frame: Any = self
        if columns is None:
            columns = list(self._node.meta.select_dtypes(["object", "string"]).columns)
        chosen = [column for column in _keys(columns) if not isinstance(frame[column].dtype, pd.CategoricalDtype)]
        found = compute(*(frame[column].unique() for column in chosen))
        values = (pd.Series(each, dtype=frame[column].dtype) for column, each in zip(chosen, found, strict=True))
        return frame.astype({column: each.astype("category").dtype for column, each in zip(chosen, values, strict=True)})


def melt(frame: Any, id_vars: Any = None, value_vars: Any = None, **kwargs: Any) -> Any:
    """`DataFrame.melt` as a function."""
    return frame.melt(id_vars, value_vars, **kwargs)


def pivot_table(data: Any, values: Any = None, index: Any = None, columns: Any = None, **kwargs: Any) -> Any:
    """`DataFrame.pivot_table` as a function."""
    return data.pivot_table(values, index, columns, **kwargs)


def _columns_at(node: Node, places: Sequence[int]) -> Node:
    """Columns by place: read alone where names tell them apart."""
    if node.meta.columns.is_unique:
        return Project(node, [node.meta.columns[place] for place in places])
    return Blockwise("iloc", steps.columns_at, (node,), (Input(0), list(places)))


def _keys(columns: Any) -> list[Any]:
    return [] if columns is None else list(columns) if pd.api.types.is_list_like(columns) else [columns]


@dataclass(frozen=True)
class Melting:
    """pandas' ``melt`` of a frame whose last column alone is melted, with the dtype that values have beside those of others."""

    ids: list[Any]
    named: dict[str, Any]
    dtype: Any
    value_name: Any
    ignore_labels: bool

    def __call__(self, part: pd.DataFrame) -> pd.DataFrame:
        result = part.melt(self.ids, ignore_index=self.ignore_labels, **self.named)
        return result if result[self.value_name].dtype == self.dtype else result.astype({self.value_name: self.dtype})


class Melted(Blockwise):
    """One column of a frame as rows."""

    def __init__(self, node: Node, melting: Melting) -> None:
        self.ignore_labels = melting.ignore_labels
        super().__init__("melt", melting, (node,), rows=Rows(f"melt {node.rows.origin} {list(node.meta.columns)}"))


@dataclass(frozen=True)
class Pivot:
    """
    pandas' ``pivot_table`` of groups that are aggregated already, one frame of them for each function.

    Parameters
    ----------
    values, aggfunc, fill_value, dropna, observed, sort
        As in pandas.
    index, columns : list
    """

    values: Any
    index: list[Any]
    columns: list[Any]
    aggfunc: Any
    fill_value: Any
    dropna: bool
    observed: bool
    sort: bool

    @property
    def functions(self) -> list[Any]:
        """What groups are aggregated by, one after the other."""
        return self.aggfunc if isinstance(self.aggfunc, list) else [self.aggfunc]

    def check(self, meta: pd.DataFrame) -> None:
        """Raise where groups could not be told apart from values."""
        keys, values = [*self.index, *self.columns], _keys(self.values)
        if not keys:
            raise ValueError("No group keys passed!")
        for column in [*keys, *values]:
            if not pd.api.types.is_hashable(column) or column not in meta.columns:
                raise KeyError(f"expected columns of the frame, found {column!r}; they are {list(meta.columns)}")
        rest = [column for column in meta.columns if column not in keys]
        if len(set(keys) | set(values)) < len(keys) + len(values) or not meta.columns.is_unique or not (values or rest):
            raise NotSupported(f"expected columns of different names as values and keys, found values {values}, keys {keys}")
        for fn in self.functions:
            if isinstance(fn, dict) and any(isinstance(one, list | dict) for one in fn.values()):
                raise NotSupported(f"expected one aggregation for each column, found {fn!r}; make a pivot_table of each")

    def known(self, meta: pd.DataFrame) -> bool:
        """Whether the columns of the table do not depend on the rows."""
        of_categories = all(isinstance(meta[column].dtype, pd.CategoricalDtype) for column in self.columns)
        sure = all(isinstance(fn, str) and fn in _SURE_DTYPES for fn in self.functions)
        return of_categories and sure and not self.dropna and not self.observed

    def __call__(self, *groups: pd.DataFrame) -> pd.DataFrame:
        tables = [self._table(each.reset_index()) for each in groups]
        if not isinstance(self.aggfunc, list):
            return tables[0]
        return pd.concat(tables, keys=[getattr(fn, "__name__", fn) for fn in self.functions], axis=1)

    def _table(self, groups: pd.DataFrame) -> pd.DataFrame:
        given: dict[str, Any] = {"values": self.values, "index": self.index, "columns": self.columns}
        given |= {"dropna": self.dropna, "observed": self.observed, "sort": self.sort}
        return groups.pivot_table(aggfunc="first", fill_value=self.fill_value, **given)

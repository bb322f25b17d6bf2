"""`agg` and `transform` of frames and series: methods by name, in lists, in dicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe.base import Frame, elementwise
from parml.dataframe.plan import Blockwise, Input
from parml_core.errors import InputError, NotSupported


class Aggregates:
    """`agg` and `transform`, for frames and series."""

    _meta: Any

    def agg(self, func: Any = None, axis: Any = 0, **kwargs: Any) -> Any:
        """
        Totals by name: ``"sum"``, a list of names, a dict of column to name or list, or ``new=(column, name)``.

        Parameters
        ----------
        func : str, list or dict, optional
            Names of methods that merge all rows into one value.
        axis : 0 or 1
            With 1 and a name, of each row.
        **kwargs
            Arguments of the method; without `func`, what the totals are called.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3], "b": [4.0, 5.0, 9.0]}), npartitions=2)
        >>> frame.agg({"a": "max", "b": "mean"}).compute().tolist()
        [3.0, 6.0]
        >>> frame.agg(["min", "sum"]).compute().a.tolist()
        [1, 6]
        """
        of_rows = axis in (1, "columns")
        if isinstance(func, str):
            return getattr(self, _checked(func))(**kwargs, **({"axis": 1} if of_rows else {}))
        if of_rows:
            raise NotSupported(f"expected the name of one method with axis=1, found {func!r}; call the methods one by one")
        series = isinstance(self._meta, pd.Series)
        if func is None:
            if not kwargs:
                raise TypeError("Must provide 'func' or tuples of '(column, aggfunc).")
            named, kwargs = kwargs, {}
            if series:
                return self._joined(None, [(None, list(named.values()))], [list(named)], kwargs)
            columns = list(dict.fromkeys(column for column, _ in named.values()))
            wanted = [(column, [name for of, name in named.values() if of == column]) for column in columns]
            names = [[new for new, (of, _) in named.items() if of == column] for column in columns]
            return self._joined(list(named), wanted, names, kwargs)
        if isinstance(func, dict):
            if series:
                return self._joined(None, [(None, list(func.values()))], [list(func)], kwargs)
            lists = [isinstance(names, list) for names in func.values()]
            if any(lists):
                wanted = [(column, names if isinstance(names, list) else [names]) for column, names in func.items()]
                return self._joined(None, wanted, [names for _, names in wanted], kwargs)
            return self._joined(None, [(column, [name]) for column, name in func.items()], None, kwargs)
        if not isinstance(func, list | tuple):
            raise _unknown(func)
        if series:
            return self._joined(None, [(None, list(func))], [list(func)], kwargs)
        if not self._meta.columns.is_unique or self._meta.columns.empty or not func:
            raise NotSupported(f"expected columns of different names in agg of a list, found {list(self._meta.columns)}")
        rows = [getattr(self[[column]], _checked(name))(**kwargs) for column in self._meta.columns for name in func]  # type: ignore[index]
        return self._put_together(rows, Stacked(tuple(func)), pd.Series)

    aggregate = agg

    def _joined(
        self,
        order: list[Any] | None,
        wanted: list[tuple[Any, list[Any]]],
        labels: list[list[Any]] | None,
        kwargs: dict[str, Any],
    ) -> Any:
        """Totals of columns put together."""
        totals = [getattr(self._column(column), _checked(name))(**kwargs) for column, names in wanted for name in names]
        name = self._meta.name if isinstance(self._meta, pd.Series) else None
        return self._put_together(totals, Joined(name, tuple(column for column, _ in wanted), labels, order), None)

    def _put_together(self, totals: list[Any], join: Any, kind: type | None) -> Any:
        for total in totals:
            found = type(total._meta) if isinstance(total._meta, pd.Series | pd.DataFrame | pd.Index) else None
            if not total._node.broadcast or found is not kind:
                raise NotSupported(f"expected methods that merge all rows into one value, found {total!r}; use transform")
        nodes = list(dict.fromkeys(total._node for total in totals))
        return Frame._of(Blockwise("agg", join, nodes, tuple(Input(nodes.index(total._node)) for total in totals)))

    def _column(self, column: Any) -> Any:
        return self if column is None else self[column]  # type: ignore[index]

    def transform(self, func: Any, axis: Any = 0, **kwargs: Any) -> Any:
        """
        A row for each row by methods of these names: ``"cumsum"``, a list of names, or a dict of column to name or list.

        Parameters
        ----------
        func : str, list or dict
        axis : 0 or 1
            With 1 and a name, along the columns.
        **kwargs
            Arguments of the methods.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, -2, 3]}), npartitions=2)
        >>> frame.transform(["abs", "cumsum"]).compute().values.tolist()
        [[1, 1], [2, -1], [3, 2]]
        """
        given = {**kwargs, **({"axis": axis} if axis in (1, "columns") else {})}
        if isinstance(func, str):
            result = getattr(self, _checked(func))(**given)
            self._check_rows(result, func)
            return result
        series = isinstance(self._meta, pd.Series)
        if not isinstance(func, list | tuple | dict) or (series and isinstance(func, dict)):
            raise _unknown(func)
        names: dict[Any, Any] = (
            func if isinstance(func, dict) else dict.fromkeys([None] if series else self._meta.columns, func)
        )
        columns: list[Any] = []
        results: list[Any] = []
        several = any(isinstance(each, list | tuple) for each in names.values())
        for column, each in names.items():
            for name in each if isinstance(each, list | tuple) else [each]:
                results.append(getattr(self._column(column), _checked(name))(**given))
                self._check_rows(results[-1], name)
                columns.append(name if series else (column, name) if several else column)
        labels = pd.MultiIndex.from_tuples(columns) if several and not series else pd.Index(columns)
        return elementwise("transform", partial(side_by_side, labels), results, columnwise=False)

    def _check_rows(self, result: Any, name: str) -> None:
        if not isinstance(result, Frame) or result._node.rows.origin != self._node.rows.origin:  # type: ignore[attr-defined]
            raise ValueError(f"expected a method that makes a row of each row in transform, found {name!r}; use agg")


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise _unknown(name)
    return name


def _unknown(func: Any) -> Exception:
    if callable(func):
        return NotSupported(
            f"expected names of methods, found {func!r}, which wants all rows at once; use reduction, apply or map_partitions"
        )
    return InputError(f"expected the name of a method, or a list or dict of names, found {func!r}")


def side_by_side(columns: pd.Index, /, *series: pd.Series) -> pd.DataFrame:
    """Series of the same rows as the columns of a frame."""
    frame = pd.concat(series, axis=1)
    frame.columns = columns
    return frame


@dataclass(frozen=True)
class Joined:
    """
    Totals as pandas puts them together.

    Parameters
    ----------
    name : object
        Of a series that is aggregated.
    columns : tuple
        Those that are aggregated; None stands for the series.
    labels : list of list, optional
        What the totals of each column are called. Default: there is one of each, called by the column.
    order : list, optional
        Of all labels.
    """

    name: Any
    columns: tuple[Any, ...]
    labels: list[list[Any]] | None
    order: list[Any] | None

    def __call__(self, *totals: Any) -> Any:
        if self.labels is None:
            return pd.Series(list(totals), index=pd.Index(self.columns), name=self.name)
        if self.columns == (None,):
            return pd.Series(list(totals), index=self.labels[0], name=self.name)
        parts: list[pd.Series] = []
        start = 0
        for column, labels in zip(self.columns, self.labels, strict=True):
            values: Sequence[Any] = totals[start : start + len(labels)]
            parts.append(pd.Series(list(values), index=labels, name=column))
            start += len(labels)
        frame = pd.concat(parts, axis=1, keys=self.columns)
        return frame if self.order is None else frame.reindex(self.order)


@dataclass(frozen=True)
class Stacked:
    """Totals of columns, each a series of one, as pandas 3 stacks them: a row for each method, each column in its dtype."""

    names: tuple[str, ...]

    def __call__(self, *totals: pd.Series) -> pd.DataFrame:
        pieces = []
        for start in range(0, len(totals), len(self.names)):
            of_column = totals[start : start + len(self.names)]
            rows = [total.to_frame(name).T for name, total in zip(self.names, of_column, strict=True)]
            kinds = {total.dtype.kind for total in of_column}
            if "b" in kinds and len(kinds) > 1:  # truth values stay what they are
                rows = [row.astype(object) for row in rows]
            pieces.append(pd.concat(rows))
        return pd.concat(pieces, axis=1)

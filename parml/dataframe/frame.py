"""DataFrame: pandas' names and results over a plan."""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import reductions, steps, steps_totals
from parml.dataframe.across import AcrossRows
from parml.dataframe.aggregate import Aggregates
from parml.dataframe.base import Frame, aligned, beside_labels, elementwise
from parml.dataframe.expanding import Expands
from parml.dataframe.groups import Groups
from parml.dataframe.merge import Joins
from parml.dataframe.operators import BINARY_METHODS, ROWWISE_METHODS, install_methods, install_operators
from parml.dataframe.plan import Assign, Filter, Node, Project, Rename
from parml.dataframe.resample import Resamples
from parml.dataframe.reshape import Reshapes
from parml.dataframe.rowwise import FrameRowwise
from parml.dataframe.sort import SortsFrame
from parml.dataframe.totals import FrameTotals
from parml_core.errors import InputError, NotSupported


class MissingColumn(InputError, KeyError):
    """A column that a frame does not have."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class DataFrame(
    SortsFrame, FrameRowwise, AcrossRows, FrameTotals, Groups, Joins, Reshapes, Resamples, Aggregates, Expands, of=pd.DataFrame
):
    """
    A table cut by rows into partitions, each of which is a pandas DataFrame when it is computed.

    Made by `read_csv`, `read_parquet` and `from_pandas`. Names, arguments and results are those of pandas.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"x": [1, 2, 3, 4], "k": list("abab")}), npartitions=2)
    >>> frame["y"] = frame.x * 10
    >>> frame[frame.k == "b"].y.sum().compute()
    np.int64(60)
    """

    # -- columns

    @property
    def columns(self) -> pd.Index:
        """The names of the columns."""
        return self._meta.columns

    @property
    def dtypes(self) -> pd.Series:
        """The dtype of each column, the same in every partition."""
        return self._meta.dtypes

    @property
    def ndim(self) -> int:
        return 2

    @property
    def shape(self) -> tuple[Any, int]:
        """The number of rows, which is a total to be computed, and of columns."""
        return reductions.rows_of(self._node), len(self.columns)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.columns)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def keys(self) -> pd.Index:
        """The names of the columns."""
        return self.columns

    def __getitem__(self, key: Any) -> Any:
        """A column, the columns of a list, or the rows where a series, or what a function makes of the frame, is true."""
        if callable(key) and not isinstance(key, Frame):
            key = key(self)
        if isinstance(key, Frame):
            return self._rows_where(key)
        if isinstance(key, pd.Index):
            key = list(key)
        if isinstance(key, slice):
            raise NotSupported("expected a column, a list of columns or a series of truth values, found a slice; use head()")
        for column in key if isinstance(key, list) else [key]:
            self._check_column(column)
        return Frame._of(Project(self._node, key))

    def _rows_where(self, mask: Frame) -> Any:
        if isinstance(mask._meta, pd.DataFrame):
            return elementwise("where", operator.getitem, (self, mask))
        if mask._meta.dtype not in (bool, object, "boolean", "bool[pyarrow]"):
            raise InputError(f"expected truth values to choose rows by, found a series of dtype {mask._meta.dtype}")
        node = beside_labels(self._node, mask)
        aligned([node, mask._node])
        return Frame._of(Filter(node, mask._node))

    def _check_column(self, column: Any) -> None:
        levels = self.columns.nlevels
        if levels > 1 and column in self.columns and not (isinstance(column, tuple) and len(column) == levels):
            raise NotSupported(f"expected a column by all of its {levels} levels, found {column!r}; write a tuple of them")
        if column not in self.columns:
            names = ", ".join(repr(name) for name in self.columns)
            raise MissingColumn(f"expected a column of the frame, found {column!r}; its columns are {names}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also asked for before there is a plan, by pickle for instance
            raise AttributeError(name)
        if name in self.columns:
            return self[name]
        raise AttributeError(f"a parml DataFrame has no attribute and no column {name!r}; its columns are {list(self.columns)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self.columns if isinstance(name, str) and name.isidentifier())]

    def __setitem__(self, column: Any, value: Any) -> None:
        if isinstance(column, list | Frame | slice):
            raise NotSupported(f"expected the name of one column to set, found {type(column).__name__}; set columns one by one")
        self._node = self._assigned(self._node, column, value)
        self.__dict__.pop("_planned", None)

    def __delitem__(self, column: Any) -> None:
        self._node = self.drop(columns=[column])._node
        self.__dict__.pop("_planned", None)

    def assign(self, **columns: Any) -> DataFrame:
        """
        A frame with columns added or replaced; a function is called with the frame.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"x": [1, 2]}), npartitions=2)
        >>> frame.assign(y=lambda f: f.x + 1).y.compute().tolist()
        [2, 3]
        """
        result = self
        for column, value in columns.items():
            given = value(result) if callable(value) and not isinstance(value, Frame) else value
            result = DataFrame(self._assigned(result._node, column, given))
        return result

    @staticmethod
    def _assigned(node: Node, column: Any, value: Any) -> Node:
        if isinstance(value, Frame):
            if isinstance(value._meta, pd.DataFrame):
                raise InputError(f"expected a series or one value for column {column!r}, found a DataFrame; choose one column")
            if value._node.broadcast and isinstance(value._meta, pd.Series):
                raise InputError(f"expected a series or one value for column {column!r}, found the totals of several columns")
            node = beside_labels(node, value)
            aligned([node, value._node])
            return Assign(node, column, value._node)
        if not pd.api.types.is_scalar(value):
            raise InputError(
                f"expected a parml series or one value for column {column!r}, found {type(value).__name__}, whose rows "
                "cannot be matched with partitions; add it to the data before you cut it"
            )
        return Assign(node, column, value)

    def drop(self, labels: Any = None, *, axis: Any = 0, columns: Any = None, errors: str = "raise") -> DataFrame:
        """A frame without some columns."""
        if columns is None and axis in (1, "columns"):
            columns = labels
        if columns is None:
            raise NotSupported("expected columns to drop, found labels of rows; choose rows with frame[condition]")
        names = list(columns) if isinstance(columns, list | tuple | set | pd.Index) else [columns]
        if errors != "ignore":
            for column in names:
                self._check_column(column)
        kept = [place for place, column in enumerate(self.columns) if column not in names]
        return self.iloc[:, kept]  # type: ignore[no-any-return]

    def rename(self, mapper: Any = None, *, columns: Any = None, axis: Any = 0, errors: str = "ignore") -> DataFrame:
        """A frame with other column names, given as a dict or a function."""
        if columns is None and axis in (1, "columns"):
            columns = mapper
        if columns is None:
            raise NotSupported("expected columns= to rename, found labels of rows")
        names: Mapping[Any, Any] = {old: columns(old) for old in self.columns} if callable(columns) else dict(columns)
        if errors == "raise":
            for column in names:
                self._check_column(column)
        return DataFrame(Rename(self._node, names))

    def select_dtypes(self, include: Any = None, exclude: Any = None) -> DataFrame:
        """The columns of some dtypes."""
        numbered = self._meta.set_axis(range(len(self.columns)), axis=1)
        return self.iloc[:, list(numbered.select_dtypes(include, exclude).columns)]  # type: ignore[no-any-return]

    def astype(self, dtype: Any) -> DataFrame:
        """A frame with other dtypes: one for all columns, or a dict of column to dtype."""
        for column in dtype if isinstance(dtype, dict) else ():
            self._check_column(column)
        checked_category(dtype.values() if isinstance(dtype, dict) else [dtype])
        for column, kind in (dtype if isinstance(dtype, dict) else dict.fromkeys(self.columns, dtype)).items():
            checked_texts(self._meta[column], kind)
        return elementwise("astype", steps.astype, (self, dtype))

    def dropna(self, *, how: str = "any", subset: Any = None, thresh: int | None = None) -> DataFrame:
        """The rows without nulls: in no column of `subset`, not in all of them, or with `thresh` values that are none."""
        columns = list(self.columns) if subset is None else [subset] if pd.api.types.is_scalar(subset) else list(subset)
        there = self[columns].notna()
        if thresh is not None:
            return self[there.sum(axis=1) >= thresh]
        if how not in ("any", "all"):
            raise InputError(f"expected how to be 'any' or 'all', found {how!r}")
        return self[there.all(axis=1) if how == "any" else there.any(axis=1)]

    # -- totals

    def mean(self, axis: Any = 0, skipna: bool = True, numeric_only: bool = False) -> Any:
        """The mean of each column, or with ``axis=1`` of each row."""
        return self._moment("mean", axis, numeric_only, partial(reductions.mean_of, skipna=skipna), {"skipna": skipna})

    def var(self, axis: Any = 0, skipna: bool = True, ddof: int = 1, numeric_only: bool = False) -> Any:
        """The variance of each column, or with ``axis=1`` of each row."""
        given: dict[str, Any] = {"skipna": skipna, "ddof": ddof}
        return self._moment("var", axis, numeric_only, partial(reductions.variance_of, **given), given)

    def std(self, axis: Any = 0, skipna: bool = True, ddof: int = 1, numeric_only: bool = False) -> Any:
        """The standard deviation of each column, or with ``axis=1`` of each row."""
        given: dict[str, Any] = {"skipna": skipna, "ddof": ddof}
        return self._moment("std", axis, numeric_only, partial(reductions.variance_of, root=True, **given), given)

    def _moment(self, name: str, axis: Any, numeric_only: bool, total: Callable[[Node], Any], kwargs: dict[str, Any]) -> Any:
        frame = self.iloc[:, reductions.numeric_columns(self._meta)] if numeric_only else self
        if reductions.checked_axis(axis, name):
            return elementwise_rows(frame, name, kwargs)
        if name != "var" and any(map(reductions.is_time, frame._meta.dtypes)):
            join = partial(steps_totals.joined_totals, getattr(frame._meta, name)())
            return self._each(name, frame, lambda column: getattr(column, name)(**kwargs), join, join.args[0])
        return total(frame._node)

    def _total(self, name: str, axis: Any, numeric_only: bool, kwargs: dict[str, Any]) -> Any:
        frame = self.iloc[:, reductions.numeric_columns(self._meta)] if numeric_only else self
        if reductions.checked_axis(axis, name):
            return elementwise_rows(frame, name, kwargs)
        return reductions.reduce_by(name, frame._node, **kwargs)

    # -- for people

    def __repr__(self) -> str:
        lines = [f"  {name!s:<24} {dtype}" for name, dtype in self.dtypes.items()]
        return "\n".join([f"parml DataFrame: {len(self.columns)} columns, {self.npartitions} partitions", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(dtype))}</td></tr>"
            for name, dtype in self.dtypes.items()
        )
        return (
            f"<p><b>parml DataFrame</b>: {len(self.columns)} columns, {self.npartitions} partitions</p>"
            f"<table><thead><tr><th>column</th><th>dtype</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def elementwise_rows(frame: DataFrame, name: str, kwargs: dict[str, Any]) -> Any:
    """One result for each row from all its columns."""
    return elementwise(name, partial(steps.call_method, name), (frame,), {"axis": 1, **kwargs})


def checked_category(dtypes: Any) -> None:
    """Categories have to be known before the rows are, or partitions would differ in them."""
    for dtype in dtypes:
        if dtype == "category" and getattr(dtype, "categories", None) is None:
            raise InputError(
                "expected categories that are known beforehand, found dtype 'category'; "
                "pass pandas.CategoricalDtype([...]) with the values that can occur"
            )


def checked_texts(column: Any, dtype: Any) -> None:
    """pandas writes times without hours where no time of the column has some."""
    times = isinstance(column, pd.Series) and (column.dtype.kind in "mM" or isinstance(column.dtype, pd.DatetimeTZDtype))
    if times and (dtype in (str, "str") or isinstance(pd.api.types.pandas_dtype(dtype), pd.StringDtype)):
        raise NotSupported(
            f"expected texts of each time alone, found astype({dtype!r}) of dtype {column.dtype}, which pandas writes with or "
            "without hours as all rows need; use .dt.strftime(format), or .map(str)"
        )


def _total_method(name: str) -> Callable[..., Any]:
    def method(self: DataFrame, axis: Any = 0, *, numeric_only: bool = False, **kwargs: Any) -> Any:
        return self._total(name, axis, numeric_only, kwargs)

    method.__name__ = name
    method.__doc__ = f"Like :meth:`pandas.DataFrame.{name}`: of each column, or with ``axis=1`` of each row."
    return method


for _name in reductions.MERGES:
    setattr(DataFrame, _name, _total_method(_name))
DataFrame.product = DataFrame.prod  # type: ignore[attr-defined]
install_operators(DataFrame)
install_methods(DataFrame, (*BINARY_METHODS, *ROWWISE_METHODS))

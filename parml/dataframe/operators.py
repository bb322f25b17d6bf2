"""
Methods that act on each row by itself, given to `DataFrame` and `Series` by name: what pandas does to a partition is what
they do. To support one more such method, add its name.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, elementwise
from parml.dataframe.meta import sample_of
from parml.dataframe.plan import Blockwise, Input, Rows
from parml.dataframe.plan_across import labelled
from parml_core.errors import InputError, NotSupported

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
LOGICAL = ("and", "or", "xor")

BINARY_METHODS = (
    *ARITHMETIC, "div", "divide", "multiply", "subtract", *(f"r{name}" for name in (*ARITHMETIC, "div")), *COMPARISONS,
)  # fmt: skip
ROWWISE_METHODS = (
    "abs", "clip", "combine", "combine_first", "fillna", "isin", "isna", "isnull", "mask", "notna", "notnull", "replace",
    "rename_axis", "round", "to_timestamp", "tz_convert", "tz_localize", "where",
)  # fmt: skip

_OTHER_LABELS = frozenset({"to_timestamp", "tz_convert", "tz_localize"})

# Arguments whose effect on a row depends on other rows.
_ACROSS_ROWS = {"fillna": {"limit", "method"}, "replace": {"limit", "method"}, "clip": set(), "round": set()}


def install_operators(cls: type[Frame]) -> None:
    """``+``, ``<``, ``&``, ``-x`` and so on."""
    for name in (*ARITHMETIC, *LOGICAL):
        fn = getattr(operator, f"__{name}__")
        setattr(cls, f"__{name}__", _operator(name, fn))
        setattr(cls, f"__r{name}__", _operator(f"r{name}", fn, swapped=True))
    for name in COMPARISONS:
        setattr(cls, f"__{name}__", _operator(name, getattr(operator, f"__{name}__")))
    for name in ("neg", "pos", "abs", "invert"):
        setattr(cls, f"__{name}__", _operator(name, getattr(operator, f"__{name}__")))
    cls.__hash__ = object.__hash__  # type: ignore[method-assign]


def install_methods(cls: type[Frame], names: Iterable[str]) -> None:
    """Methods of pandas by name."""
    for name in names:
        setattr(cls, name, _method(cls, name))


def _operator(name: str, fn: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    def method(self: Frame, *others: Any) -> Any:
        for other in others:
            _check_operand(self, other, name)
        args = (self, *others)
        return elementwise(name, fn, args[::-1] if swapped else args)

    method.__name__ = f"__{name}__"
    return method


def _method(cls: type[Frame], name: str) -> Callable[..., Any]:
    def method(self: Frame, *args: Any, **kwargs: Any) -> Any:
        if name in BINARY_METHODS and args:
            _check_operand(self, args[0], name, by_rows=kwargs.get("axis", "columns") in (0, "index"))
        if name in ("where", "mask"):  # as pandas does, but with all rows and not with those of a partition
            args = tuple(arg(self) if callable(arg) and not isinstance(arg, Frame) else arg for arg in args)
            kwargs = {key: arg(self) if callable(arg) and not isinstance(arg, Frame) else arg for key, arg in kwargs.items()}
        _check_plain_rows(self, name, args, kwargs)
        refused = _ACROSS_ROWS.get(name, set()) & kwargs.keys()
        if any(kwargs[argument] is not None for argument in refused):
            raise NotSupported(f"expected {name} without {', '.join(sorted(refused))}, which look at other rows")
        return elementwise(name, partial(steps.call_method, name), (self, *args), kwargs, columnwise=name not in _OTHER_LABELS)

    note = "Other frames among the arguments have the same partitions."
    return like_pandas(method, getattr(pd, cls.__name__), name, cls.__name__, note)


def like_pandas(method: Callable[..., Any], model: type, name: str, owner: str, note: str = "") -> Callable[..., Any]:
    """
    A method with the name, signature and summary of pandas' method.

    Parameters
    ----------
    method : callable
    model : type
        pandas' class.
    name, owner : str
        The method's, and its new class'.
    note : str
        What else there is to say.
    """
    theirs = getattr(model, name)
    method.__name__, method.__qualname__ = name, f"{owner}.{name}"
    summary = (inspect.getdoc(theirs) or "").split("\n\n")[0]
    method.__doc__ = "\n\n".join(part for part in (summary, note, f"As :meth:`pandas.{model.__name__}.{name}`.") if part)
    method.__signature__ = inspect.signature(theirs)  # type: ignore[attr-defined]
    return method


def check_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Values are looked for in each partition, which has to see all of them."""
    if any(isinstance(value, Frame) for value in (*args, *kwargs.values())):
        raise NotSupported(
            "expected the values to look for in isin, found a parml series, of which each partition would see a part; "
            "compute it first, or merge"
        )


def _check_plain_rows(frame: Frame, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Rows of pandas objects are matched by labels, which those of partitions are not known to have."""
    of_series = isinstance(frame._meta, pd.Series)
    by_rows = of_series or kwargs.get("axis") in (0, "index") or name in ("combine", "combine_first", "isin")
    if name == "isin" and not isinstance(frame._meta, pd.DataFrame):
        check_values(args, kwargs)
    for value in (*args, *kwargs.values()):
        if name in BINARY_METHODS or name in ("replace", "round") or (of_series and name == "isin"):
            continue
        if isinstance(value, pd.DataFrame) or (isinstance(value, pd.Series) and by_rows):
            raise InputError(
                f"expected a parml frame or one value in {name}, found a pandas {type(value).__name__}, whose rows cannot be "
                "matched with partitions; make it a column of the frame before you cut it, or merge"
            )


def _check_operand(frame: Frame, other: Any, name: str, by_rows: bool = False) -> None:
    """Rows of plain pandas or numpy objects cannot be matched with partitions; and pandas matches a series with columns."""
    rows_of_plain = isinstance(other, pd.DataFrame | np.ndarray | list | tuple) and np.ndim(other) > 0
    if rows_of_plain or (isinstance(other, pd.Series) and (by_rows or not isinstance(frame._meta, pd.DataFrame))):
        raise InputError(
            f"expected another parml frame or one value in {name}, found {type(other).__name__}, whose rows cannot be matched "
            "with partitions; make it a column of the frame before you cut it, or use parml.dataframe.from_pandas on both"
        )
    if not isinstance(other, Frame) or other._node.broadcast or frame._node.broadcast:
        return
    kinds = {type(frame._meta), type(other._meta)}
    if kinds == {pd.DataFrame, pd.Series} and not by_rows:
        raise InputError(
            f"expected rows to be matched with rows in {name}, found a frame and a series, which pandas matches by the frame's "
            f"columns; write frame.{name.strip('_')}(series, axis=0)"
        )


class Accessor:
    """
    ``.str``, ``.dt`` and ``.cat`` of a series.

    Parameters
    ----------
    series : Series
    name : str
    """

    # Their columns or categories depend on the rows of a partition, or they merge rows.
    _refused = frozenset({"freq", "get_dummies", "remove_unused_categories"})

    def __init__(self, series: Frame, name: str) -> None:
        getattr(series._meta, name)  # pandas' own error where the dtype has no such accessor
        self._series, self._name = series, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._refused:
            raise NotSupported(f"expected a result of each row alone, found .{self._name}.{name}; use map_partitions")
        found = getattr(getattr(self._series._meta, self._name), name)
        if not callable(found):
            if not isinstance(found, pd.Series | pd.DataFrame | pd.Index) or name == "categories":
                return found  # .cat.categories, .dt.tz: known without looking at rows
            return elementwise(name, partial(steps.get_accessor, self._name, name), (self._series,))
        return partial(self._call, name)

    def __getitem__(self, index: Any) -> Any:
        return self._call("__getitem__", index)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("expand") and name in ("split", "rsplit"):
            raise NotSupported(
                f"expected .{self._name}.{name} without expand=True, as its columns depend on the rows; use map_partitions"
            )
        if name == "cat" and any(isinstance(value, pd.Series | pd.DataFrame) for value in (*args, *kwargs.values())):
            raise InputError(
                "expected parml series in .str.cat, found one of pandas, whose rows cannot be matched with partitions; make it "
                "a column of the frame before you cut it"
            )
        if name in ("partition", "rpartition") and kwargs.get("expand", True):
            meta = getattr(sample_of(self._series._meta).str, name)(*args, **kwargs).iloc[:0]
            return elementwise(name, partial(steps.call_partition, name, meta), (self._series, *args), kwargs)
        step = partial(steps.call_accessor, self._name, name)
        if name == "extractall":  # other rows than before, whose labels are made of those before
            node = labelled(self._series._node)
            args = (Input(0), *args)
            return Frame._of(Blockwise(name, step, (node,), args, kwargs, rows=Rows(f"extractall {args!r} {node.rows.origin}")))
        result = elementwise(name, step, (self._series, *args), kwargs)
        if not isinstance(result._meta, pd.Series | pd.DataFrame):
            raise NotSupported(
                f"expected a result of each row, found that .{self._name}.{name} merges rows; use map_partitions"
            )
        return result

    def __dir__(self) -> list[str]:
        return dir(getattr(self._series._meta, self._name))

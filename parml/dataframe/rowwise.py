"""Steps on each row by itself that need more than pandas' name: functions, expressions, labels, random choices."""

from __future__ import annotations

import io
import itertools
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd

from parml.dataframe import reductions, steps
from parml.dataframe.base import Frame, elementwise
from parml.dataframe.meta import as_meta, learned
from parml.dataframe.plan import Blockwise, Filter, Input, Node, Numbers, Rows
from parml.dataframe.plan_across import Reduce, labelled
from parml_core.errors import InputError, NotSupported


class Rowwise(Frame):
    """Methods that `DataFrame` and `Series` have in common."""

    def get_partition(self, n: int) -> Any:
        """One of the partitions, as a collection of one."""
        return self.partitions[n]

    def copy(self, deep: bool = False) -> Self:
        """The same plan; what is set in the copy is not set here."""
        return type(self)(self._node)

    def pipe(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Call ``func(frame, *args, **kwargs)``; for chains of steps.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1, 2]), npartitions=2).pipe(lambda s, n: s * n, 3).compute().tolist()
        [3, 6]
        """
        if isinstance(func, tuple):
            return func[0](*args, **{**kwargs, func[1]: self})
        return func(self, *args, **kwargs)

    @property
    def index(self) -> Any:
        """The labels of the rows, as a collection."""
        node = labelled(self._node)
        return Frame._of(Blockwise("index", steps.labels_of, (node,), rows=node.rows))

    @property
    def axes(self) -> list[Any]:
        """The labels of the rows, and of the columns where there are some."""
        return [self.index] if isinstance(self._meta, pd.Series) else [self.index, self._meta.columns]

    @property
    def empty(self) -> bool:
        """Whether there is no value; reads as little as `head` does."""
        return 0 in self._meta.shape[1:] or len(self.head(1)) == 0

    @property
    def size(self) -> Any:
        """The number of values, which is a total to be computed."""
        columns = self._meta.shape[1] if isinstance(self._meta, pd.DataFrame) else 1
        return self._row_count() * columns

    def tail(self, n: int = 5, *, engine: Any = None) -> Any:
        """
        The last rows, as a pandas object. Computes the last partition, and more of them only where it is too short.

        Rows of files are numbered as in pandas, for which those before them are counted where the file does not tell.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.DataFrame({"a": range(10)}), npartitions=10).tail(3).a.tolist()
        [7, 8, 9]
        """
        if not isinstance(n, int) or n < 0:
            raise InputError(f"expected the number of rows to be 0 or more, found {n!r}")
        node = labelled(self._node)
        last = Frame._of(
            Blockwise("tail", partial(steps.call_method, "tail"), (node,), (Input(0), n), rows=Rows(f"tail {node.rows.origin}"))
        )
        taken = 1
        while True:
            found = last.partitions[self.npartitions - taken :].compute(engine=engine)
            if len(found) >= n or taken == self.npartitions:
                return found.tail(n)
            taken = min(taken * 4, self.npartitions)

    def explode(self, column: Any = None, ignore_index: bool = False) -> Any:
        """
        A row for each item of the lists in a column, or in a series.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([[1, 2], [3]]), npartitions=2).explode().compute().tolist()
        [1, 2, 3]
        """
        node = labelled(self._node)
        args = (Input(0),) if isinstance(self._meta, pd.Series) else (Input(0), column)
        exploded = Blockwise("explode", partial(steps.call_method, "explode"), (node,), args)
        # A row becomes several of the same label: no other frame has the same rows.
        exploded.rows = Rows(exploded.token)
        result: Any = Frame._of(exploded)
        return result.reset_index(drop=True) if ignore_index else result

    def sample(self, n: int | None = None, frac: float | None = None, replace: bool = False, random_state: Any = None) -> Any:
        """
        A share of the rows of each partition, drawn by chance. Rows keep their order.

        Parameters
        ----------
        n : None
            Not supported: how many rows there are is not known; use `frac`.
        frac : float
            The share, from 0 on; above 1 only with `replace`.
        replace : bool
            A row may be drawn more than once.
        random_state : int or numpy Generator, optional
            The same rows for the same number and partitions. They are not those that pandas draws.
        """
        if n is not None or frac is None:
            raise NotSupported("expected frac=, a share of the rows, found a number of rows; use head() for some rows")
        if frac < 0 or (frac > 1 and not replace):
            raise InputError(f"expected a share from 0 to 1, or replace=True, found {frac!r}")
        inputs = (self._node, Numbers(self.npartitions))
        args = (Input(0), Input(1), frac, replace, seed_of(random_state))
        rows = self._node.rows
        if replace:
            inputs, rows = (labelled(self._node), inputs[1]), Rows(f"sample {rows.origin} {args[2:]}")
        else:
            rows = _fewer(rows)
        return Frame._of(Blockwise("sample", steps.drawn, inputs, args, meta=self._meta, rows=rows))

    def random_split(self, frac: Sequence[float], random_state: Any = None, shuffle: bool = False) -> list[Any]:
        """
        Split the rows by chance into several frames, which together have every row once.

        Parameters
        ----------
        frac : sequence of float
            The share of each; they add up to 1.
        random_state : int or numpy Generator, optional
            The same split for the same number and partitions.
        shuffle : bool
            Mix the rows of each partition.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": range(100)}), npartitions=2)
        >>> train, test = frame.random_split([0.8, 0.2], random_state=0)
        >>> len(train) + len(test)
        100
        """
        if abs(sum(frac) - 1) > 1e-8 or min(frac) < 0:
            raise InputError(f"expected shares that add up to 1, found {list(frac)!r}")
        edges = [0.0, *np.cumsum(frac)[:-1], 1.0]
        seed = seed_of(random_state)
        source: tuple[Node, ...] = (labelled(self._node) if shuffle else self._node, Numbers(self.npartitions))
        rows = Rows(f"split {self._node.rows.origin} {seed}") if shuffle else _fewer(self._node.rows)
        return [
            Frame._of(
                Blockwise(
                    "random_split",
                    steps.split_part,
                    source,
                    (Input(0), Input(1), low, high, seed, shuffle),
                    meta=self._meta,
                    rows=rows,
                )
            )
            for low, high in itertools.pairwise(edges)
        ]

    def reduction(
        self, chunk: Callable[..., Any], aggregate: Callable[..., Any] | None = None, combine: Callable[..., Any] | None = None
    ) -> Any:
        """
        All rows merged into one value by functions of your own.

        Parameters
        ----------
        chunk : callable
            Called with each partition.
        aggregate : callable, optional
            Called once, last, with a list of what `combine` or `chunk` returned, in order. Default: `chunk` of them,
            concatenated where they are pandas objects.
        combine : callable, optional
            Called with such lists on the way. Default: they are kept until the end.

        Returns
        -------
        collection
            Of one partition.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.Series([3, 1, 2]), npartitions=2)
        >>> frame.reduction(lambda part: part.max(), max).compute()
        np.int64(3)
        """
        meta = chunk(self._meta.iloc[:0]) if aggregate is None else 0
        partials = Blockwise("reduction-chunk", chunk, (self._node,), meta=0)
        finish = Finish(chunk if aggregate is None else aggregate, combine is None, aggregate is None)
        return Frame._of(Reduce("reduction", partials, steps.packed if combine is None else combine, finish, meta))

    def to_string(self, *args: Any, **kwargs: Any) -> Any:
        """All rows as text; computes them."""
        return self.compute().to_string(*args, **kwargs)

    def to_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All rows as a dict; computes them."""
        return self.compute().to_dict(*args, **kwargs)

    def to_numpy(self, *args: Any, **kwargs: Any) -> Any:
        """All rows as an array; computes them."""
        return self.compute().to_numpy(*args, **kwargs)

    def _row_count(self) -> Any:
        return reductions.rows_of(self._node)


class Finish:
    """The last step of `Rowwise.reduction`."""

    def __init__(self, aggregate: Callable[..., Any], nested: bool, joined: bool) -> None:
        self.aggregate, self.nested, self.joined = aggregate, nested, joined

    def __call__(self, partials: list[Any]) -> Any:
        values = steps.unpacked(partials) if self.nested else partials
        if self.joined and isinstance(values[0], pd.DataFrame | pd.Series):
            return self.aggregate(steps.concat(values))
        return self.aggregate(pd.Series(values)) if self.joined else self.aggregate(values)


def _fewer(rows: Rows) -> Rows:
    return replace(rows, whole=False)


def seed_of(random_state: Any) -> int:
    """A number for `random_state`; another one each time where it is None."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    draw = random_state.integers if isinstance(random_state, np.random.Generator) else random_state.randint
    return int(draw(2**31))


def applied(frame: Frame, name: str, meta: Any, args: tuple[Any, ...], kwargs: dict[str, Any], series_name: Any = None) -> Any:
    """``apply`` or ``map`` of a user's function to each value or row; partitions without rows are what `meta` says."""
    step = partial(steps.call_method, name)
    if meta is None:
        meta = learned(step, (frame._meta, *args), kwargs, what=f"the function of {name}")
    meta = as_meta(meta)
    if isinstance(meta, pd.Series):
        meta = meta.rename(series_name)
    call = partial(steps.apply_rows, step, meta)
    return Frame._of(Blockwise(name, call, (frame._node,), (Input(0), *args), kwargs, meta=meta))


OF_EACH_ROW = frozenset({"abs", "astype", "between", "dt", "isin", "isna", "isnull", "notna", "notnull", "round", "str"})
"""Attributes of columns that an expression may name; others, like ``mean``, look at all rows."""


def check_expression(expr: str) -> None:
    """Raise NotSupported where an expression calls what may look at more than a row."""
    text = re.sub(r"`[^`]*`", "name", expr)
    tokens = ["", *(token.string for token in tokenize.generate_tokens(io.StringIO(text).readline)), ""]
    for before, at, name, after in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False):
        of_column = at == "." and name not in OF_EACH_ROW and before not in ("str", "dt")
        if name.isidentifier() and ((of_column and before != "") or (at == "@" and after == "(")):
            raise NotSupported(
                f"expected an expression of each row by itself, found {at}{name}, which may look at all rows; compute it "
                "beforehand and name the result with @, or write the step with the frame's own methods"
            )


def expression_columns(frame: Any, expr: str, depth: int) -> tuple[Any, dict[str, Any]]:
    """The frame with no more columns than `expr` names, and the caller's variables that it names with an ``@``."""
    check_expression(expr)
    names = set(re.findall(r"\w+", expr))
    if "`" not in expr:
        frame = frame[[column for column in frame.columns if str(column) in names]]
    if names & {"index", *map(str, frame._meta.index.names), *(f"ilevel_{level}" for level in range(9))}:
        frame = Frame._of(labelled(frame._node))
    caller = sys._getframe(depth + 1)
    known: Mapping[str, Any] = {**caller.f_globals, **caller.f_locals}
    return frame, {name: known[name] for name in re.findall(r"@(\w+)", expr) if name in known}


class FrameRowwise(Rowwise):
    """Methods of `DataFrame` alone."""

    def apply(self, func: Any, axis: Any = 0, args: tuple[Any, ...] = (), *, meta: Any = None, **kwargs: Any) -> Any:
        """
        Call a function with each row.

        Parameters
        ----------
        func : callable
        axis : 1
            Along the columns; with 0, a function of whole columns, use `map_partitions` or `reduction`.
        args
            Further arguments of `func`.
        meta : optional
            What comes out; see `map_partitions`. Default: learned from two made-up rows.
        **kwargs
            Further arguments of pandas' ``apply`` and of `func`.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> frame.apply(lambda row: row.a * row.b, axis=1).compute().tolist()
        [3, 8]
        """
        if axis not in (1, "columns"):
            raise NotSupported("expected axis=1 in apply, found a function of whole columns; use reduction or map_partitions")
        return applied(self, "apply", meta, (func,), {"axis": 1, "args": args, **kwargs})

    def map(self, func: Any, na_action: Any = None, *, meta: Any = None, **kwargs: Any) -> Any:
        """
        Call a function with each value.

        Parameters
        ----------
        func : callable
        na_action : None or "ignore"
        meta : optional
            What comes out; see `map_partitions`. Default: learned from two made-up rows.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> frame.map(lambda x: x + 0.5).b.compute().tolist()
        [3.5, 4.5]
        """
        return applied(self, "map", meta, (func,), {"na_action": na_action, **kwargs})

    def eval(self, expr: str, **kwargs: Any) -> Any:
        """
        What an expression of the columns' names gives; an assignment gives the frame with one more column.

        Parameters
        ----------
        expr : str
            ``@name`` is a variable of the caller, as it is now.
        **kwargs
            Further arguments of pandas' ``eval``.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> frame.eval("a + b").compute().tolist()
        [4, 6]
        """
        return self._evaluated(expr, 2, kwargs)

    def _evaluated(self, expr: str, depth: int, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("inplace"):
            raise NotSupported("expected eval without inplace=True, as frames do not change; assign what it returns")
        needed, variables = expression_columns(self, expr, depth)
        variables |= kwargs.pop("local_dict", None) or {}
        assigns = re.search(r"(?<![=!<>])=(?!=)", expr)
        frame = self if assigns else needed
        return elementwise("eval", steps.evaluated, (frame, expr, variables), kwargs, columnwise=False)

    def query(self, expr: str, **kwargs: Any) -> Any:
        """
        The rows where an expression of the columns' names is true.

        Parameters
        ----------
        expr : str
            ``@name`` is a variable of the caller, as it is now.
        **kwargs
            Further arguments of pandas' ``query``.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> least = 4
        >>> frame.query("b >= @least").a.compute().tolist()
        [2]
        """
        mask = self._evaluated(expr, 2, kwargs)
        if not isinstance(mask._meta, pd.Series) or mask._meta.dtype not in (bool, object, "boolean", "bool[pyarrow]"):
            raise InputError(f"expected an expression that is true or false for each row, found {expr!r}")
        node = self._node if mask._node.rows.origin == self._node.rows.origin else labelled(self._node)
        return Frame._of(Filter(node, mask._node))

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Names and columns."""
        frame: Any = self
        return ((name, frame[name]) for name in self._meta.columns)

    def iterrows(self) -> Iterator[tuple[Any, pd.Series]]:
        """Labels and rows, partition by partition."""
        for partition in Frame._of(labelled(self._node)).partitions:
            yield from partition.iterrows()

    def itertuples(self, index: bool = True, name: str | None = "Pandas") -> Iterator[Any]:
        """Rows as named tuples, partition by partition."""
        for partition in Frame._of(labelled(self._node)).partitions:
            yield from partition.itertuples(index=index, name=name)

    def squeeze(self, axis: Any = None) -> Any:
        """The only column as a series; the frame itself where there are more."""
        frame: Any = self
        return frame[self._meta.columns[0]] if len(self._meta.columns) == 1 and axis not in (0, "index") else self

    def pop(self, item: Any) -> Any:
        """A column, which the frame has no more afterwards."""
        frame: Any = self
        column = frame[item]
        del frame[item]
        return column

    def add_prefix(self, prefix: str) -> Any:
        """The frame with `prefix` before the name of each column."""
        return self.rename(columns=lambda name: f"{prefix}{name}")  # type: ignore[attr-defined]

    def add_suffix(self, suffix: str) -> Any:
        """The frame with `suffix` after the name of each column."""
        return self.rename(columns=lambda name: f"{name}{suffix}")  # type: ignore[attr-defined]

    @property
    def iloc(self) -> Columns:
        """
        Columns by place: ``frame.iloc[:, 2]``, ``frame.iloc[:, [0, 1]]``.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> frame.iloc[:, 1].compute().tolist()
        [3, 4]
        """
        return Columns(self)

    def to_html(self, *args: Any, **kwargs: Any) -> Any:
        """All rows as a table for browsers; computes them."""
        return self.compute().to_html(*args, **kwargs)

    def to_records(self, *args: Any, **kwargs: Any) -> Any:
        """All rows as numpy records; computes them."""
        return self.compute().to_records(*args, **kwargs)

    def dot(self, other: Any) -> Any:
        """Each row times a pandas Series, DataFrame or array that has an item for each column."""
        if isinstance(other, Frame):
            raise NotSupported("expected a pandas object or an array in dot, found a parml frame; compute it first")
        return elementwise("dot", partial(steps.call_method, "dot"), (self, other), columnwise=False)

    def align(self, other: Any, join: str = "outer", axis: Any = None, fill_value: Any = None) -> tuple[Any, Any]:
        """Two frames of the same partitions, with the same labels and columns."""
        given = {"join": join, "axis": axis, "fill_value": fill_value}
        left = elementwise("align", partial(steps.aligned_part, 0), (self, other), given)
        return left, elementwise("align", partial(steps.aligned_part, 1), (self, other), given)


class Columns:
    """Indexing of columns by place; see `FrameRowwise.iloc`."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, tuple) or len(key) != 2 or key[0] != slice(None):
            raise NotSupported(
                f"expected frame.iloc[:, columns], found rows {key!r}; choose rows with a condition, head or tail"
            )
        columns = self._frame.columns
        if columns.is_unique:
            chosen = columns[key[1]]
            return self._frame[list(chosen) if isinstance(chosen, pd.Index) else chosen]
        return elementwise("iloc", steps.columns_at, (self._frame, key[1]), columnwise=False)


class SeriesRowwise(Rowwise):
    """Methods of `Series` alone."""

    def apply(self, func: Any, args: tuple[Any, ...] = (), *, meta: Any = None, **kwargs: Any) -> Any:
        """
        Call a function with each value.

        Parameters
        ----------
        func : callable
        args
            Further arguments of `func`.
        meta : optional
            What comes out; see `map_partitions`. Default: learned from two made-up values.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.Series([1, 2]), npartitions=2).apply(lambda x, n: x * n, args=(10,)).compute().tolist()
        [10, 20]
        """
        if not callable(func) or not kwargs.get("by_row", True):
            raise NotSupported(
                f"expected a function of each value in apply, found {func!r}{'' if callable(func) else ' by name'}, which may "
                "look at all of them; call the series' own method, or map_partitions"
            )
        return applied(self, "apply", meta, (func,), {"args": args, **kwargs}, self._meta.name)

    def case_when(self, caselist: Sequence[tuple[Any, Any]]) -> Any:
        """
        Each value replaced by that of the first condition that is true.

        Parameters
        ----------
        caselist : list of (condition, replacement)

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> s = pdf.from_pandas(pd.Series([1, 5, 9]), npartitions=2)
        >>> s.case_when([(s < 3, 0), (s > 6, 10)]).compute().tolist()
        [0, 5, 10]
        """
        items = [item for pair in caselist for item in pair]
        known = (item(self) if callable(item) and not isinstance(item, Frame) else item for item in items)
        return elementwise("case_when", steps.case_when, (self, *known))

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Labels and values, partition by partition."""
        for partition in Frame._of(labelled(self._node)).partitions:
            yield from partition.items()

    def squeeze(self, axis: Any = None) -> Any:
        """The series itself."""
        return self

    def to_records(self, *args: Any, **kwargs: Any) -> Any:
        """All labels and values as numpy records; computes them."""
        return self.compute().to_frame().to_records(*args, **kwargs)

    @property
    def dtypes(self) -> Any:
        """The dtype, the same in every partition."""
        return self._meta.dtype

    def dot(self, other: Any) -> Any:
        """The sum of the products with another series of the same partitions."""
        series: Any = self
        return (series * other).sum()

    def add_prefix(self, prefix: str) -> Any:
        """The series with `prefix` before each label."""
        return elementwise("add_prefix", partial(steps.call_method, "add_prefix"), (Frame._of(labelled(self._node)), prefix))

    def add_suffix(self, suffix: str) -> Any:
        """The series with `suffix` after each label."""
        return elementwise("add_suffix", partial(steps.call_method, "add_suffix"), (Frame._of(labelled(self._node)), suffix))

    def align(self, other: Any, join: str = "outer", axis: Any = None, fill_value: Any = None) -> tuple[Any, Any]:
        """Two series of the same partitions, with the same labels."""
        given = {"join": join, "axis": axis, "fill_value": fill_value}
        left = elementwise("align", partial(steps.aligned_part, 0), (self, other), given)
        return left, elementwise("align", partial(steps.aligned_part, 1), (self, other), given)

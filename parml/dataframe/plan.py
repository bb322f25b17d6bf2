"""
The logical plan: what a frame is, as a tree of immutable nodes that share equal subtrees.

A node knows its empty result (`meta`), so that mistakes show when a step is written and not when it runs, and which
columns of its inputs it needs for given columns of its output, from which `optimise` makes the readers read less.

::

    Node
     ├─ Source        partitions made by a reader from parts: byte ranges of files, row groups, slices of a frame
     ├─ Kept          partitions that an engine already holds
     ├─ Chunks        partitions that other tasks make
     ├─ Blockwise     partition i of the result is a function of the partitions i of the inputs
     │   ├─ Columnwise     column c of the result depends on column c alone
     │   ├─ Project        some columns
     │   ├─ Filter         some rows
     │   ├─ Assign         a column set
     │   ├─ Rename         other names
     │   └─ CountRows      the length of each partition
     ├─ Reduce        all partitions merged into one, by a tree
     ├─ Select        some of the partitions
     └─ Regroup       the same rows in other partitions

Rows have labels. A file of rows has none of its own: its rows are numbered, but which number a partition begins with is
not known until all partitions before it were read. Inside a partition such rows are numbered from 0; `numbered` gives them
the numbers that pandas would, once the partitions are computed.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from parml.dataframe import steps
from parml.dataframe.predicate import EVERYTHING, Predicate
from parml_core.engine.base import Future
from parml_core.hashing import tokenize
from parml_core.typing import Key

Columns = frozenset[Any]
NO_COLUMNS: Columns = frozenset()


@dataclass(frozen=True)
class Rows:
    """
    Which rows the partitions of a node hold, and how they are labelled.

    Parameters
    ----------
    origin : str
        Nodes of equal origin can be combined: their partitions i come from the same rows.
    counted_by : Node, optional
        The rows are numbered from 0 in each partition of that node. None: labels are the rows' own.
    whole : bool
        No row of `counted_by` is missing.
    """

    origin: str
    counted_by: Node | None = None
    whole: bool = False


class Node(abc.ABC):
    """One step of a plan."""

    name: str
    inputs: tuple[Node, ...]
    meta: Any
    npartitions: int
    rows: Rows
    broadcast: bool = False
    """One partition that stands beside every partition of another node: a total, for instance."""

    @cached_property
    def token(self) -> str:
        return tokenize(type(self).__name__, self.name, *self._parameters(), *[node.token for node in self.inputs])

    @property
    def group(self) -> str:
        return f"{self.name}-{self.token}"

    def key(self, index: int) -> Key:
        return f"{self.group}:{index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)

    @abc.abstractmethod
    def _parameters(self) -> tuple[Any, ...]:
        """What tells this node from others of its type and inputs."""

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        """For each input the columns that the `wanted` columns of this node depend on; None: not even its rows."""
        return tuple(columns_of(node) for node in self.inputs)

    @abc.abstractmethod
    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        """This step on inputs with fewer columns; gives at least the `wanted` columns and no other than before."""

    def describe(self) -> str:
        """One line for people."""
        return self.name


def columns_of(node: Node) -> Columns:
    return frozenset(node.meta.columns) if isinstance(node.meta, pd.DataFrame) else NO_COLUMNS


def trimmed(node: Node, wanted: Columns) -> Node:
    """The node without columns that are not wanted, where that can be said by names."""
    if not isinstance(node.meta, pd.DataFrame) or not node.meta.columns.is_unique:
        return node
    columns = [column for column in node.meta.columns if column in wanted]
    return node if len(columns) == len(node.meta.columns) else Project(node, columns)


# ------------------------------------------------------------------------------------------------------------- leaves


class Reader(Protocol):
    """Makes partitions; knows nothing of engines."""

    @property
    def name(self) -> str: ...

    @property
    def meta(self) -> Any: ...

    @property
    def load(self) -> Callable[[Any], Any]:
        """Makes a partition of an `argument`; travels to the workers."""

    def argument(self, part: Any) -> Any:
        """What a worker is sent in the place of `part`."""

    def narrowed(self, wanted: Columns) -> Reader:
        """A reader of fewer columns, in the same order; at least one."""

    def __parml_token__(self) -> str: ...

    def describe(self) -> str: ...


@runtime_checkable
class Counting(Protocol):
    """A reader that may know how many rows there are without reading them."""

    def lengths(self, parts: Sequence[Any]) -> list[int] | None: ...


@runtime_checkable
class Pruning(Protocol):
    """A reader that knows of some rows that they do not meet a condition, without reading them."""

    def matching(self, parts: Sequence[Any], condition: Predicate) -> tuple[Sequence[Any], str]:
        """The parts without such rows, whose other rows keep their labels; and what that leaves, for people."""


@runtime_checkable
class Restricting(Protocol):
    """A reader that can leave out rows as it reads them."""

    def restricted(self, condition: Predicate) -> Reader:
        """A reader without rows of which it sees that they do not meet a condition; others keep their labels."""


class Source(Node):
    """
    Partitions made by a reader, one of each part.

    Parameters
    ----------
    reader : Reader
    parts : sequence
    origin : str
        Names the rows, whatever columns of them are read.
    counted : bool
        The rows have no labels of their own and are numbered.
    condition : Predicate
        Rows that do not meet it may be missing.
    """

    inputs = ()

    def __init__(
        self, reader: Reader, parts: Sequence[Any], *, origin: str, counted: bool, condition: Predicate = EVERYTHING
    ) -> None:
        self.reader, self.parts, self._counted, self.condition = reader, tuple(parts), counted, condition
        self._left = ""
        self.name, self.meta, self.npartitions = reader.name, reader.meta, len(self.parts)
        self.rows = Rows(origin, self if counted else None, whole=counted)

    def _parameters(self) -> tuple[Any, ...]:
        return (self.reader.__parml_token__(), self.rows.origin, *([] if self.condition == EVERYTHING else [self.condition]))

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Source:
        if not isinstance(self.meta, pd.DataFrame) or wanted >= columns_of(self):
            return self
        return self._with(self.reader.narrowed(wanted), self.parts, self.condition)

    def where(self, condition: Predicate) -> Source:
        """Without rows of which the reader knows that they do not meet a condition."""
        if condition == EVERYTHING or not isinstance(self.reader, Pruning | Restricting):
            return self
        if isinstance(self.reader, Restricting):
            source = self._with(self.reader.restricted(condition), self.parts, self.condition & condition)
            source._left = "as it is read"
            return source
        parts, left = self.reader.matching(self.parts, condition)
        source = self._with(self.reader, parts, self.condition & condition)
        source._left = left
        return source

    def _with(self, reader: Reader, parts: Sequence[Any], condition: Predicate) -> Source:
        return Source(reader, parts, origin=self.rows.origin, counted=self._counted, condition=condition)

    @staticmethod
    def of_numbers(numbers: Sequence[int]) -> Source:
        """Each partition is a number."""
        return Source(_NUMBER, numbers, origin=f"numbers {tokenize(list(numbers))}", counted=False)

    def describe(self) -> str:
        where = "" if self.condition == EVERYTHING else f" where {self.condition}: {self._left}"
        return f"{self.reader.describe()} in {self.npartitions} partitions{where}"


class Numbers(Source):
    """The numbers of the partitions: 0, 1, 2, ..."""

    def __init__(self, npartitions: int) -> None:
        super().__init__(_NUMBER, range(npartitions), origin=f"numbers {npartitions}", counted=False)


class _NumberReader:
    name, meta = "number", 0

    load = staticmethod(steps.same)

    def argument(self, part: int) -> int:
        return part

    def narrowed(self, wanted: Columns) -> _NumberReader:
        return self

    def __parml_token__(self) -> str:
        return "number"

    def describe(self) -> str:
        return "the partitions' numbers"


_NUMBER = _NumberReader()


class Kept(Node):
    """
    Partitions that an engine holds.

    Attributes
    ----------
    in_order : bool
    divisions, ends, together : tuple
        What was known of labels and of equal keys; see `plan_labels` and `plan_shuffle`.
    """

    inputs = ()
    in_order = False
    divisions: tuple[Any, ...] = ()
    ends: tuple[Any, ...] = ()
    together: tuple[Any, ...] = ()

    def __init__(self, futures: Sequence[Future[Any]], like: Node) -> None:
        self.name, self.meta, self.npartitions, self.futures = like.name, like.meta, len(futures), tuple(futures)
        self.broadcast = like.broadcast
        counted = like.rows.counted_by is not None and like.rows.whole
        self.rows = replace(like.rows, counted_by=self if counted else None, whole=counted)

    def _parameters(self) -> tuple[Any, ...]:
        return tuple(future.key for future in self.futures)

    def key(self, index: int) -> Key:
        return self.futures[index].key

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return self

    def describe(self) -> str:
        return f"{self.name} (persisted) in {self.npartitions} partitions"


class Chunks(Node):
    """
    Partitions that the tasks of other collections make.

    Parameters
    ----------
    name : str
    collections : sequence of Collection
    meta : DataFrame or Series
    """

    inputs = ()

    def __init__(self, name: str, collections: Sequence[Any], meta: Any) -> None:
        self.name, self.collections, self.meta = name, tuple(collections), meta
        self._keys = tuple(key for collection in collections for key in collection.__parml_keys__())
        self.npartitions, self.rows = len(self._keys), Rows(tokenize(name, self._keys))

    def _parameters(self) -> tuple[Any, ...]:
        return self._keys

    def key(self, index: int) -> Key:
        return self._keys[index]

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return self

    def describe(self) -> str:
        return f"{self.name}: {self.npartitions} tasks"


# ---------------------------------------------------------------------------------------------------------- blockwise


@dataclass(frozen=True)
class Input:
    """Stands in the arguments of a step for the partition of its input of that number."""

    place: int


class Blockwise(Node):
    """
    Partition i is ``fn(*args, **kwargs)`` with partition i of input n in the place of ``Input(n)``.

    Parameters
    ----------
    name : str
    fn : callable
    inputs : sequence of Node
        Of one origin, or broadcast.
    args, kwargs
        Default: the inputs in order.
    meta : optional
        Default: what `fn` makes of the inputs' metas.
    rows : Rows, optional
        Default: those of the first input that is not broadcast.
    rowwise : bool
        A row of the result depends on the rows in its place of the inputs alone.
    """

    rowwise = False

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        inputs: Sequence[Node],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        meta: Any = None,
        rows: Rows | None = None,
        rowwise: bool | None = None,
    ) -> None:
        self.name, self.fn, self.inputs = name, fn, tuple(inputs)
        self.rowwise = type(self).rowwise if rowwise is None else rowwise
        self.args = tuple(Input(place) for place in range(len(self.inputs))) if args is None else args
        self.kwargs = dict(kwargs or {})
        self.broadcast = all(node.broadcast for node in self.inputs)
        lead = next((node for node in self.inputs if not node.broadcast), self.inputs[0])
        self.npartitions, self.rows = lead.npartitions, lead.rows if rows is None else rows
        if meta is None:
            args, kwargs = self.filled([node.meta for node in self.inputs])
            with np.errstate(all="ignore"):
                meta = fn(*args, **kwargs)
        self.meta = meta

    def filled(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with one value in the place of each input."""
        args = tuple(values[arg.place] if type(arg) is Input else arg for arg in self.args)
        return args, {name: values[arg.place] if type(arg) is Input else arg for name, arg in self.kwargs.items()}

    def _parameters(self) -> tuple[Any, ...]:
        return (self.fn, self.args, self.kwargs)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        if inputs == self.inputs:
            return self
        given: dict[str, Any] = {"meta": self.meta, "rows": self.rows, "rowwise": self.rowwise}
        return Blockwise(self.name, self.fn, inputs, self.args, self.kwargs, **given)


class Columnwise(Blockwise):
    """A step whose result has the columns of its inputs, each made of the columns of that name."""

    rowwise = True

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return tuple(wanted & columns_of(node) for node in self.inputs)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        inputs = tuple(trimmed(node, wanted) for node in inputs)
        if inputs == self.inputs:
            return self
        return Columnwise(self.name, self.fn, inputs, self.args, self.kwargs, rows=self.rows)


class Project(Blockwise):
    """The columns of a list, as a frame, or one column, as a series."""

    rowwise = True

    def __init__(self, frame: Node, columns: Any) -> None:
        self.columns = columns
        super().__init__("getitem", steps.take_columns, (frame,), (Input(0), columns))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted if isinstance(self.columns, list) else frozenset([self.columns]),)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        (frame,) = inputs
        if not isinstance(self.columns, list):
            return Project(frame, self.columns)
        columns = [column for column in self.columns if column in wanted]
        same = frame.meta.columns.is_unique and columns == list(frame.meta.columns)
        return frame if same else Project(frame, columns)

    def describe(self) -> str:
        return f"columns {listed(self.columns)}" if isinstance(self.columns, list) else f"column {self.columns!r}"


class Filter(Blockwise):
    """The rows where a mask is true."""

    rowwise = True

    def __init__(self, frame: Node, mask: Node) -> None:
        super().__init__("filter", steps.take_rows, (frame, mask), rows=replace(frame.rows, whole=False))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted, NO_COLUMNS)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Filter(trimmed(inputs[0], wanted), inputs[1])


class Assign(Blockwise):
    """A frame with one column set to a series, a total or a plain value."""

    rowwise = True

    def __init__(self, frame: Node, column: Any, value: Any) -> None:
        self.column, self.value = column, value
        inputs = (frame, value) if isinstance(value, Node) else (frame,)
        super().__init__("assign", steps.set_column, inputs, (Input(0), column, Input(1) if len(inputs) > 1 else value))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        others = (wanted - {self.column}) & columns_of(self.inputs[0])
        return (others, NO_COLUMNS if self.column in wanted else None)[: len(self.inputs)]

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        frame = trimmed(inputs[0], wanted)
        if self.column not in wanted:
            return frame
        node = Assign(frame, self.column, inputs[1] if len(inputs) > 1 else self.value)
        # A column that is replaced was not read, so that the new one now comes last: put it back where it belongs.
        there = columns_of(node)
        columns = [column for column in self.meta.columns if column in there]
        return node if columns == list(node.meta.columns) else Project(node, columns)

    def describe(self) -> str:
        return f"assign {self.column!r}"


class Rename(Blockwise):
    """A frame with other column names."""

    rowwise = True

    def __init__(self, frame: Node, names: Mapping[Any, Any]) -> None:
        self.names = {old: new for old, new in names.items() if old in columns_of(frame)}
        super().__init__("rename", steps.rename_columns, (frame,), (Input(0), self.names))

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (frozenset(column for column in columns_of(self.inputs[0]) if self.names.get(column, column) in wanted),)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        (needed,) = self.needs(wanted)
        return Rename(trimmed(inputs[0], needed or NO_COLUMNS), self.names)

    def describe(self) -> str:
        return f"rename {self.names}"


class CountRows(Blockwise):
    """The length of each partition; needs no column."""

    def __init__(self, frame: Node) -> None:
        super().__init__("len", len, (frame,), meta=0)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (NO_COLUMNS,)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return CountRows(inputs[0])


def listed(items: Sequence[Any], limit: int = 6) -> str:
    """Some of the items, for people."""
    shown = [repr(item) for item in items[:limit]]
    return ", ".join(shown) + (f", … ({len(items)})" if len(items) > limit else "")

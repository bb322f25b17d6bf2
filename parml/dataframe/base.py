"""
What frames, series and totals have in common: a plan, how it is computed, and how steps are added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from parml.collections import compute, persist
from parml.dataframe import steps
from parml.dataframe.lower import drawing, explain, lower, optimise
from parml.dataframe.meta import as_meta, learned
from parml.dataframe.plan import Blockwise, Columnwise, CountRows, Input, Kept, Node, Rows
from parml.dataframe.plan_across import Reduce, Regroup, Select, labelled, numbered
from parml.dataframe.plan_labels import in_order, known_divisions
from parml.dataframe.plan_shuffle import known_together
from parml.dataframe.pushdown import known_lengths
from parml.delayed import Delayed, delayed_chunks
from parml.drawing import MOST_BOXES, Drawing, visualize
from parml_core.engine.base import Engine, Future
from parml_core.errors import InputError, NotSupported
from parml_core.graph import Graph
from parml_core.typing import Key


class Frame:
    """
    A plan for a pandas object. Immutable but for ``frame[column] = ...``, which exchanges the plan.

    Parameters
    ----------
    node : Node
    """

    _kinds: ClassVar[dict[type, type[Frame]]] = {}

    def __init__(self, node: Node) -> None:
        self._node = node

    def __init_subclass__(cls, *, of: type | None = None) -> None:
        if of is not None:
            Frame._kinds[of] = cls

    @staticmethod
    def _of(node: Node) -> Any:
        """The collection for what a node makes."""
        kind = pd.Index if isinstance(node.meta, pd.Index) else type(node.meta)
        return Frame._kinds.get(kind, Frame._kinds[object])(node)

    @property
    def _meta(self) -> Any:
        return self._node.meta

    @property
    def npartitions(self) -> int:
        """How many partitions there are."""
        return self._node.npartitions

    # -- computing

    def compute(self, *, engine: Engine | None = None) -> Any:
        """
        The pandas object, on the current Client or, without one, on the threads of this process.

        Rows that were read from files are numbered as pandas would number them.
        """
        return compute(self, engine=engine)[0]

    def persist(self, *, engine: Engine | None = None) -> Self:
        """Start computing and return at once; the partitions stay on the engine."""
        kept: Self = persist(self, engine=engine)[0]
        return kept

    def explain(self) -> str:
        """
        The optimised plan as text, from the result down to what is read.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> print((frame.a + 1).explain())
        add
          column 'a'
            from_pandas columns 'a' in 2 partitions
        """
        return explain(optimise([numbered(self._node)]))

    def visualize(self, filename: str | Path | None = None, *, tasks: bool = False, most: int = MOST_BOXES) -> Drawing:
        """
        Draw the optimised plan, or the tasks that it becomes; see `parml.visualize`.

        Parameters
        ----------
        filename : str or path, optional
            A file to write: ``.svg``, ``.png`` or ``.pdf``, drawn by graphviz, or ``.txt`` or ``.dot``.
        tasks : bool
            The tasks of all partitions rather than the steps of the plan.
        most : int
            How many boxes there may be.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), npartitions=2)
        >>> frame.a.sum().visualize()
        sum over all partitions
          sum
            column 'a'
              from_pandas columns 'a' in 2 partitions
        """
        if tasks:
            return visualize(self, filename=filename, most=most)
        drawn = drawing(optimise([numbered(self._node)]), most)
        if filename is not None:
            drawn.save(filename)
        return drawn

    @staticmethod
    def __parml_together__(collections: Sequence[Frame]) -> list[Planned]:
        nodes = [numbered(collection._node) for collection in collections]
        best = optimise(nodes)
        graph = lower(best)
        return [Planned(node, better, graph) for node, better in zip(nodes, best, strict=True)]

    @cached_property
    def _planned(self) -> Planned:
        return Frame.__parml_together__([self])[0]

    def __parml_graph__(self) -> Graph:
        return self._planned.graph

    def __parml_keys__(self) -> list[Key]:
        return self._planned.__parml_keys__()

    @property
    def __parml_finish__(self) -> Callable[[list[Any]], Any]:
        return self._planned.__parml_finish__

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Any:
        return self._planned.__parml_persisted__(futures)

    def __parml_token__(self) -> str:
        return self._node.token

    def __getstate__(self) -> dict[str, Any]:
        return {"_node": self._node}

    def __copy__(self) -> Self:
        return type(self)(self._node)

    # -- partitions

    def map_partitions(self, fn: Callable[..., Any], *args: Any, meta: Any = None, **kwargs: Any) -> Any:
        """
        Call ``fn(partition, *args, **kwargs)`` for each partition.

        Parameters
        ----------
        fn : callable
            Returns a frame or a series; or an array with one item for each row, which gets the partition's labels.
        *args, **kwargs
            Frames and series among them that have the same partitions are given partition by partition.
        meta : DataFrame, Series, dict of column to dtype, (name, dtype), or dtype, optional
            What `fn` returns. Default: learned from calling it with two made-up rows.

        Notes
        -----
        Labels of rows that were read from files begin at 0 in each partition, and stay as `fn` leaves them.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3]}), npartitions=2)
        >>> frame.map_partitions(lambda part: part.a * 10).compute().tolist()
        [10, 20, 30]
        """
        inputs, args, kwargs = placed((self, *args), kwargs)
        rows = Rows(aligned(inputs).rows.origin)
        if meta is None:
            probe = Blockwise("probe", fn, inputs, args, kwargs, meta=0)
            meta = learned(fn, *probe.filled([node.meta for node in inputs]), what="the function of map_partitions")
        meta = as_meta(meta)
        name = getattr(fn, "__name__", "map_partitions").strip("<>")
        step = partial(steps.map_partition, fn, meta)
        return Frame._of(Blockwise(name, step, inputs, args, kwargs, meta=meta, rows=rows))

    @property
    def partitions(self) -> Partitions:
        """
        Some of the partitions as a collection: ``frame.partitions[0]``, ``[1:3]`` or ``[[0, 2]]``.

        Rows that were read from files are numbered from the first of these partitions.
        """
        return Partitions(self)

    def repartition(self, npartitions: int) -> Any:
        """
        The same rows, in the same order, in another number of partitions.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"a": range(10)}), npartitions=4)
        >>> [len(part) for part in frame.repartition(2).partitions]
        [5, 5]
        """
        if not isinstance(npartitions, int) or npartitions < 1:
            raise InputError(f"expected npartitions to be 1 or more, found {npartitions!r}")
        return Frame._of(Regroup(numbered(self._node), npartitions))

    def to_delayed(self) -> list[Delayed]:
        """One `Delayed` for each partition."""
        return delayed_chunks(self)

    def head(self, n: int = 5, *, engine: Engine | None = None) -> Any:
        """
        The first rows, as a pandas object. Computes the first partition, and more of them only where it is too short.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.DataFrame({"a": range(10)}), npartitions=10).head(3).a.tolist()
        [0, 1, 2]
        """
        if not isinstance(n, int) or n < 0:
            raise InputError(f"expected the number of rows to be 0 or more, found {n!r}")
        taken = 1
        while True:
            first = Blockwise("head", steps.first_rows, (Select(self._node, range(taken)),), (Input(0), n))
            found = Frame._of(first).compute(engine=engine)
            if len(found) >= n or taken == self.npartitions:
                return found.head(n)
            taken = min(taken * 4, self.npartitions)

    def __len__(self) -> int:
        lengths = known_lengths(self._node)
        if lengths is not None:
            return sum(lengths)
        return int(Frame._of(Reduce("len", CountRows(self._node), sum, sum, 0)).compute())

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of a {type(self).__name__} is not known; compute it and use .any(), .all() or .empty")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.compute(), dtype=dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or "out" in kwargs:
            raise NotSupported(f"expected a plain call of {ufunc.__name__}, found .{method} or out=; compute the frame first")
        return elementwise(ufunc.__name__, ufunc, inputs, kwargs)


class Partitions:
    """Indexing by partition; see `Frame.partitions`."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        numbers = range(self._frame.npartitions)
        try:
            if isinstance(index, slice):
                chosen = list(numbers[index])
            else:
                chosen = [numbers[place] for place in ([index] if isinstance(index, int) else index)]
        except IndexError:
            raise IndexError(f"expected numbers of partitions below {len(numbers)}, found {index!r}") from None
        if not chosen:
            raise InputError(f"expected at least one partition, found none in {index!r} of {len(numbers)}")
        return Frame._of(Select(self._frame._node, chosen))

    def __len__(self) -> int:
        return self._frame.npartitions

    def __iter__(self) -> Iterator[Any]:
        return (self[place].compute() for place in range(len(self)))


class Planned:
    """
    A frame as it is computed: optimised, together with others, and lowered to the graph that they share.

    Parameters
    ----------
    node : Node
        As the user wrote it.
    best : Node
        The same, optimised.
    graph : Graph
    """

    def __init__(self, node: Node, best: Node, graph: Graph) -> None:
        self.node, self.best, self.graph = node, best, graph

    def __parml_graph__(self) -> Graph:
        return self.graph

    def __parml_keys__(self) -> list[Key]:
        return [self.best.key(index) for index in range(self.best.npartitions)]

    @property
    def __parml_finish__(self) -> Callable[[list[Any]], Any]:
        if not isinstance(self.node.meta, pd.DataFrame | pd.Series | pd.Index) or self.node.broadcast:
            return steps.only
        return partial(steps.concat, ignore_labels=self.node.rows.whole)

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Any:
        kept, known = Kept(futures, like=self.node), known_divisions(self.node)
        kept.in_order, kept.together = in_order(self.node), known_together(self.node)
        if known is not None:
            kept.divisions, kept.ends = known[1:-1], (known[0], known[-1])
        return Frame._of(kept)

    def __parml_token__(self) -> str:
        return self.node.token


def placed(args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[list[Node], tuple[Any, ...], dict[str, Any]]:
    """The plans of the frames among arguments, and the arguments with `Input` in their place."""
    inputs: list[Node] = []

    def place(value: Any) -> Any:
        if not isinstance(value, Frame):
            return value
        if value._node not in inputs:
            inputs.append(value._node)
        return Input(inputs.index(value._node))

    return inputs, tuple(map(place, args)), {name: place(value) for name, value in kwargs.items()}


def elementwise(
    name: str,
    fn: Callable[..., Any],
    args: Iterable[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    columnwise: bool = True,
) -> Any:
    """
    A step that makes each row of its result from the rows with the same label of the frames among its arguments.

    Parameters
    ----------
    name : str
    fn : callable
    args, kwargs
    columnwise : bool
        A column of the result depends on the columns of that name alone.
    """
    kwargs = kwargs or {}
    if kwargs.get("inplace"):
        raise NotSupported(f"expected {name} without inplace=True, as frames do not change; assign what it returns")
    inputs, args, kwargs = placed(args, kwargs)
    lead = aligned(inputs)
    counted = all(node.rows.counted_by is not None for node in inputs if not node.broadcast)
    rows = replace(
        lead.rows,
        counted_by=lead.rows.counted_by if counted else None,
        whole=counted and all(node.rows.whole for node in inputs if not node.broadcast),
    )
    # A total of each column is matched with the columns by name: then no column can be left out on one side only.
    by_name = any(node.broadcast and isinstance(node.meta, pd.Series) for node in inputs)
    if by_name and not lead.broadcast and not isinstance(lead.meta, pd.DataFrame):
        raise InputError(f"expected frames with columns beside the totals of columns in {name}, found a series; pick one total")
    node = Blockwise(name, fn, inputs, args, kwargs, rows=rows, rowwise=True)
    if isinstance(node.meta, pd.DataFrame) and columnwise and not by_name:
        node = Columnwise(name, fn, inputs, args, kwargs, meta=node.meta, rows=rows)
    return Frame._of(node)


def beside_labels(node: Node, other: Frame) -> Node:
    """The node as it can stand beside labels: where those were counted, its rows are numbered too."""
    return labelled(node) if isinstance(other._meta, pd.Index) else node


def aligned(inputs: Sequence[Node]) -> Node:
    """
    The first of the nodes that has rows; all others must have the same partitions.

    Raises
    ------
    InputError
        They have not.
    """
    frames = [node for node in inputs if not node.broadcast]
    for node in frames[1:]:
        if node.rows.origin != frames[0].rows.origin:
            raise InputError(
                "expected frames with the same partitions, which come from one frame by steps on its columns and rows, found "
                f"one of {frames[0].npartitions} partitions ({frames[0].describe()}) and another of {node.npartitions} "
                f"({node.describe()}); derive both from one frame, or compute one of them"
            )
    return frames[0] if frames else inputs[0]

"""
Any X and y as aligned partitions of rows: what the trainers and estimators are fed with.

What may stand for X, y, weights: collections (see `parml.collections`), Dask arrays and dataframes, numpy arrays, pandas,
pyarrow and polars tables, scipy.sparse matrices, and sequences of numbers. `Partitions.start` puts each into the engine as one
future per partition; nothing is joined, and a partition stays where the engine computed it. A small task beside each partition
describes it, and `parml.schema.schema_of` compares the descriptions before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from parml.collections import compute, is_collection, persist
from parml.from_dask import as_collection
from parml.schema import Description, Schema, describe, schema_of
from parml.tables import as_table, concatenate, row_count, slice_rows
from parml_core.engine.base import Engine, Future
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.hashing import tokenize
from parml_core.typing import Key, WorkerId

__all__ = ["PartitionedArray", "Partitions"]

T = TypeVar("T")


class Partitions:
    """
    Rows on an engine: for X and each further field one future per partition, in row order.

    Attributes
    ----------
    engine : Engine
    fields : dict of str to list of Future
        ``"X"`` first.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> rows = Partitions.start(InlineEngine(), X=np.zeros((4, 2)), y=[0, 1, 1, 0])
    >>> rows.schema().width
    2
    """

    def __init__(self, engine: Engine, fields: dict[str, list[Future[Any]]], descriptions: list[Future[Description]]) -> None:
        self.engine = engine
        self.fields = fields
        self._descriptions = descriptions
        self._schema: Schema | None = None

    def __len__(self) -> int:
        return len(self._descriptions)

    def __repr__(self) -> str:
        return f"Partitions({len(self)} of {', '.join(self.fields)} on {self.engine.name})"

    @classmethod
    def start(cls, engine: Engine, *, X: Any, **fields: Any) -> Partitions:
        """
        Have the engine compute what are collections and hold what is in memory; fields that are None are left out.

        Returns at once, unless something in memory has to be cut to the partitions of a collection, whose lengths it needs.
        """
        given = {"X": X} | {name: value for name, value in fields.items() if value is not None}
        given = {name: as_collection(value) for name, value in given.items()}
        given = {name: value if is_collection(value) else as_table(value, name) for name, value in given.items()}
        columns = _lay_out(engine, given)
        tasks = []
        for i, here in enumerate(zip(*columns.values(), strict=True)):
            refs = {name: Ref(future.key) for name, future in zip(columns, here, strict=True)}
            token = tokenize("describe", *(future.key for future in here))
            tasks.append(Task(f"describe-{token}:{i}", describe, (refs.pop("X"), refs)))
        graph = Graph(tasks, {future.key: future for column in columns.values() for future in column})
        return cls(engine, columns, engine.submit_graph(graph, [task.key for task in tasks]))

    def schema(self) -> Schema:
        """Wait for all partitions and compare them. Raises what computing them raised, or an InputError."""
        if self._schema is None:
            self._schema = schema_of(self.descriptions())
        return self._schema

    def descriptions(self) -> list[Description]:
        """What each partition looks like, whether or not they fit together."""
        return self.engine.gather(self._descriptions)

    def batch(self, i: int) -> dict[str, Any]:
        """The futures of partition `i` by field."""
        return {name: column[i] for name, column in self.fields.items()}

    def each(self, fn: Callable[[Any], T], name: str) -> list[Future[T]]:
        """``fn`` of each partition of a field."""
        return [self.engine.submit(fn, part) for part in self.fields[name]]

    def collection(self, name: str) -> PartitionedArray:
        """The partitions of a field as a collection."""
        return PartitionedArray.of(self.fields[name])

    def inputs(self) -> list[Future[Any]]:
        """What a rank that gets X is given."""
        return self.fields["X"]

    def holders(self) -> list[tuple[WorkerId, ...]]:
        """For each partition the workers that hold its X."""
        return self.engine.locate(self.fields["X"])


def _lay_out(engine: Engine, given: dict[str, Any]) -> dict[str, list[Future[Any]]]:
    """The partitions of each field as futures, every field in the same number of partitions."""
    chunked = {name: value for name, value in given.items() if is_collection(value)}
    columns = dict(zip(chunked, map(_futures_of, persist(*chunked.values(), engine=engine)), strict=True))
    check_counts({name: len(column) for name, column in columns.items()})
    in_memory = {name: value for name, value in given.items() if name not in chunked}
    if in_memory:
        columns |= scatter_rows(engine, in_memory, _lengths_of(engine, columns, in_memory))
    return {name: columns[name] for name in given}


def scatter_rows(engine: Engine, in_memory: Mapping[str, Any], lengths: Sequence[int]) -> dict[str, list[Future[Any]]]:
    """What is in memory, cut to partitions of these lengths and put on the engine."""
    stops = list(accumulate(lengths))
    blocks = [
        slice_rows(value, stop - length, stop)
        for value in in_memory.values()
        for length, stop in zip(lengths, stops, strict=True)
    ]
    futures = engine.scatter(blocks)
    return {name: futures[i * len(lengths) : (i + 1) * len(lengths)] for i, name in enumerate(in_memory)}


def check_counts(counts: Mapping[str, int]) -> None:
    """An InputError where fields have different numbers of partitions."""
    if len(set(counts.values())) > 1:
        raise InputError(
            f"expected the same number of partitions everywhere, found {counts}; derive all from one table, or repartition"
        )


def _futures_of(persisted: Any) -> list[Future[Any]]:
    graph = persisted.__parml_graph__()
    return [graph.futures[key] for key in persisted.__parml_keys__()]


def _lengths_of(engine: Engine, columns: Mapping[str, list[Future[Any]]], in_memory: Mapping[str, Any]) -> list[int]:
    """How to cut what is in memory: like the partitions of a collection, or evenly for the workers."""
    if columns:
        name, futures = next(iter(columns.items()))
        lengths = engine.gather([engine.submit(row_count, future) for future in futures])
        check_whole(name, sum(lengths), in_memory)
        return lengths
    rows = row_count(in_memory["X"])
    check_whole("X", rows, in_memory)
    n = max(1, min(len(engine.workers()), rows))
    return [rows // n + (i < rows % n) for i in range(n)]


def check_whole(reference: str, rows: int, in_memory: Mapping[str, Any]) -> None:
    """An InputError where what is in memory has another number of rows."""
    for name, value in in_memory.items():
        if row_count(value) != rows:
            raise InputError(
                f"expected as many rows in {name} as in {reference}, found {rows} in {reference} and {row_count(value)} in "
                f"{name}; pass the values of the same rows"
            )


class PartitionedArray:
    """
    An array in partitions, in row order: what predictions for a collection are. Itself a collection.

    Parameters
    ----------
    graph : Graph
    keys : sequence of str
        One for each partition, each an array.
    """

    def __init__(self, graph: Graph, keys: Sequence[Key]) -> None:
        self._graph = graph
        self._keys = list(keys)

    @classmethod
    def of(cls, futures: Iterable[Future[Any]]) -> PartitionedArray:
        """Of what an engine has or computes, one future for each partition."""
        kept = {future.key: future for future in futures}
        return cls(Graph((), kept), list(kept))

    @property
    def npartitions(self) -> int:
        return len(self._keys)

    def compute(self, engine: Engine | None = None) -> Any:
        """The whole as one numpy array."""
        return compute(self, engine=engine)[0]

    def persist(self, engine: Engine | None = None) -> PartitionedArray:
        """The same array, being computed and kept by the engine. Does not block."""
        kept: PartitionedArray = persist(self, engine=engine)[0]
        return kept

    def __parml_graph__(self) -> Graph:
        return self._graph

    def __parml_keys__(self) -> list[Key]:
        return self._keys

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        # A partition without rows gives an array of another shape than its siblings.
        return concatenate([part for part in results if len(part)] or list(results[:1]))

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> PartitionedArray:
        return PartitionedArray.of(futures)

    def __parml_token__(self) -> str:
        return tokenize("PartitionedArray", *self._keys)

    def __repr__(self) -> str:
        return f"PartitionedArray({self.npartitions} partitions)"

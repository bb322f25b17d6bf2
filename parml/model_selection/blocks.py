"""The data of an incremental search: blocks to train with and rows to score on, each put on the engine once."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import indexable

from parml.collections import is_collection
from parml.data import Partitions
from parml.tables import concatenate, row_count, slice_rows, take_rows
from parml_core.engine.base import Engine, Future
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task

__all__ = ["Block", "Blocks", "blocks_of", "is_by_row"]


class Block(NamedTuple):
    """Rows that one call of `partial_fit` gets, or that a scorer gets."""

    X: Any
    y: Any
    params: dict[str, Any]


class Blocks(NamedTuple):
    """
    All data of a search.

    Parameters
    ----------
    train : list of Future of Block
        None without rows.
    test : Future of Block
    classes : numpy.ndarray or None
        The labels that there are, if they were asked for and are one column.
    """

    train: list[Future[Block]]
    test: Future[Block]
    classes: Any


def is_by_row(name: str, value: Any, X: Any) -> bool:
    """Whether a parameter of `partial_fit` has an item for each row of X, and so is cut as X is."""
    if name == "classes" or value is None:
        return False
    if is_collection(value) or name == "sample_weight":
        return True
    if isinstance(value, (str, bytes, Mapping)) or not (hasattr(value, "__len__") or hasattr(value, "shape")):
        return False
    return not is_collection(X) and getattr(value, "shape", (0,)) != () and row_count(value) == row_count(X)


def blocks_of(
    engine: Engine, X: Any, y: Any, params: dict[str, Any], *, test_size: Any, n_blocks: int, seed: int, with_classes: bool
) -> Blocks:
    """
    Split into rows to train with and rows to score on, and put them on the engine.

    Parameters
    ----------
    X, y : array, table, sparse matrix or collection
        y may be None.
    params : dict
        By row, as `is_by_row` says.
    test_size : float, int or None
        A part of the rows, or a number of rows. None: one block's worth, at most a fifth.
    n_blocks : int
        For data in memory; the partitions of a collection are its blocks.
    seed : int
        What is drawn for the test is the same for the same seed, on any engine.
    with_classes : bool
    """
    fields = {"X": X, **({} if y is None else {"y": y}), **{f"params-{name}": value for name, value in params.items()}}
    if any(is_collection(value) for value in fields.values()):
        return _of_collections(engine, fields, test_size, seed, with_classes)
    fields = dict(zip(fields, indexable(*fields.values()), strict=True))
    if row_count(X) < 2:
        raise InputError(f"expected at least two rows, to train with and to score on, found {row_count(X)}; give more data")
    parts = train_test_split(*fields.values(), test_size=_fraction(test_size, n_blocks), random_state=seed)
    train, test = (dict(zip(fields, parts[which::2], strict=True)) for which in (0, 1))
    rows = row_count(train["X"])
    n_blocks = min(n_blocks, rows)
    edges = [rows * i // n_blocks for i in range(n_blocks + 1)]
    cut = [
        _block({name: slice_rows(value, start, stop) for name, value in train.items()})
        for start, stop in itertools.pairwise(edges)
    ]
    *blocks, last = engine.scatter([*cut, _block(test)])
    return Blocks(blocks, last, _labels(y) if with_classes and y is not None else None)


def _fraction(test_size: Any, n_blocks: int) -> Any:
    return min(0.2, 1 / n_blocks) if test_size is None else test_size


def _block(fields: Mapping[str, Any]) -> Block:
    params = {name.removeprefix("params-"): value for name, value in fields.items() if name.startswith("params-")}
    return Block(fields["X"], fields.get("y"), params)


def _labels(y: Any) -> Any:
    """The labels that there are; None: y has several columns."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    return np.unique(y) if y.ndim == 1 else None


# --- collections -------------------------------------------------------------------------------------------------------


def _of_collections(engine: Engine, fields: dict[str, Any], test_size: Any, seed: int, with_classes: bool) -> Blocks:
    """Each partition gives some of its rows to the test; nothing of it but its number of rows and labels comes here."""
    rows = Partitions.start(engine, **fields)
    futures = {future.key: future for column in rows.fields.values() for future in column}
    refs = [{name: Ref(column[i].key) for name, column in rows.fields.items()} for i in range(len(rows))]
    name, has_labels = uuid.uuid4().hex[:16], with_classes and "y" in fields
    look = [Task(f"rows-{name}:{i}", _look, (here, has_labels)) for i, here in enumerate(refs)]
    looked = engine.gather(engine.submit_graph(Graph(look, futures), [task.key for task in look]))
    counts = [count for count, _ in looked]
    n_test = _test_rows(counts, _fraction(test_size, len(refs)), seed)
    tasks = []
    for i, here in enumerate(refs):
        for part in ("train", "test"):
            tasks.append(Task(f"{part}-{name}:{i}", _rows_for, (here, part == "test", n_test[i], (seed, i))))
    trained_on = [f"train-{name}:{i}" for i, count in enumerate(counts) if count > n_test[i]]
    tested_on = [f"test-{name}:{i}" for i in range(len(refs)) if n_test[i]]
    tasks.append(Task(f"test-{name}", _joined, ([Ref(key) for key in tested_on],)))
    *train, test = engine.submit_graph(Graph(tasks, futures), [*trained_on, f"test-{name}"])
    labels = [labels for count, labels in looked if count and labels is not None]
    return Blocks(train, test, np.unique(np.concatenate(labels)) if labels else None)


def _test_rows(counts: list[int], size: Any, seed: int) -> list[int]:
    """How many rows of each partition are for the test: the same part of each, as far as whole rows allow."""
    total = sum(counts)
    wanted = size if isinstance(size, (int, np.integer)) else max(1, round(size * total))
    if not 0 < wanted < total:
        raise InputError(
            f"expected some rows to train with and some to score on, found test_size={size!r} of {total} rows; "
            "give more data or another test_size"
        )
    shares = [wanted * count / total for count in counts]
    rows = [int(share) for share in shares]
    rng = np.random.default_rng([seed, 1])
    for i in sorted(rng.permutation(len(counts)), key=lambda i: rows[i] - shares[i])[: wanted - sum(rows)]:
        rows[i] += 1
    return rows


def _look(fields: Mapping[str, Any], has_labels: bool) -> tuple[int, Any]:
    counts = {name.removeprefix("params-"): row_count(value) for name, value in fields.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"expected as many rows everywhere, found a partition with {counts}; pass the values of the same rows")
    return counts["X"], _labels(fields["y"]) if has_labels else None


def _rows_for(fields: Mapping[str, Any], is_test: bool, n_test: int, seed: tuple[int, int]) -> Block:
    order = np.random.default_rng(seed).permutation(row_count(fields["X"]))
    chosen = np.sort(order[:n_test] if is_test else order[n_test:])
    return _block({name: take_rows(value, chosen) for name, value in fields.items()})


def _joined(blocks: list[Block]) -> Block:
    first = blocks[0]
    y = None if first.y is None else concatenate([block.y for block in blocks])
    params = {name: concatenate([block.params[name] for block in blocks]) for name in first.params}
    return Block(concatenate([block.X for block in blocks]), y, params)

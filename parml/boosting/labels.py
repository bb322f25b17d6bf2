"""
Class labels as numbers, the same on every host: the classes are found over all partitions before any is encoded.

Labels in memory are encoded here, labels in partitions where they are, as a lazy collection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parml.collections import is_collection
from parml.data import PartitionedArray
from parml.from_dask import as_collection
from parml.tables import library_of
from parml_core.engine.base import Engine
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.graph.passes import cull
from parml_core.hashing import tokenize


@dataclass(frozen=True, slots=True)
class Classes:
    """
    The classes of all labels.

    Parameters
    ----------
    labels : numpy.ndarray
        Sorted.
    counts : numpy.ndarray
        How often each occurs.
    """

    labels: np.ndarray
    counts: np.ndarray

    def encode(self, y: Any) -> Any:
        """
        The number of each label's class: an array, or for a collection a lazy one.

        Examples
        --------
        >>> Classes(np.array(["a", "b"]), np.array([1, 1])).encode(["b", "a"])
        array([1, 0])
        """
        return map_rows(_encode, y, self.labels)

    def weights(self, class_weight: Mapping[Any, float] | str) -> np.ndarray:
        """
        The weight of each class, by scikit-learn's rules for ``class_weight``.

        Examples
        --------
        >>> Classes(np.array(["a", "b"]), np.array([1, 3])).weights("balanced")
        array([2.        , 0.66666667])
        """
        if isinstance(class_weight, Mapping):
            unknown = [label for label in class_weight if label not in self.labels]
            if unknown:
                raise InputError(f"expected class_weight for the classes {self.labels.tolist()}, found {unknown} in it")
            return np.array([float(class_weight.get(label, 1.0)) for label in self.labels.tolist()])
        if class_weight != "balanced":
            raise InputError(f"expected class_weight to be 'balanced' or a dict, found {class_weight!r}")
        return self.counts.sum() / (len(self.labels) * self.counts)


def classes_of(engine: Engine, y: Any) -> Classes:
    """
    Find the classes in labels, in memory or in partitions.

    Examples
    --------
    >>> from parml_core.engine.inline import InlineEngine
    >>> classes_of(InlineEngine(), ["no", "yes", "no"]).counts
    array([2, 1])
    """
    y = as_collection(y)
    if is_collection(y):
        counter = map_rows(_count, y)
        graph = counter.__parml_graph__()
        keys = counter.__parml_keys__()
        parts = engine.gather(engine.submit_graph(cull(graph, keys), keys))
    else:
        parts = [_count(y)]
    kinds = {str(labels.dtype.kind in "biuf") for labels, _ in parts if len(labels)}
    if len(kinds) > 1:
        raise InputError("expected labels of one type in all partitions, found numbers in some and text in others")
    if not kinds:
        raise InputError("expected labels to train on, found none; look at what was read or filtered")
    labels, places = np.unique(np.concatenate([labels for labels, _ in parts if len(labels)]), return_inverse=True)
    counts = np.bincount(places, weights=np.concatenate([counts for labels, counts in parts if len(labels)]))
    return Classes(labels, counts.astype(np.int64))


def map_rows(fn: Callable[..., Any], rows: Any, *fixed: Any) -> Any:
    """`fn(rows, *fixed)`; for a collection the lazy collection of what `fn` makes of each partition."""
    rows = as_collection(rows)
    if not is_collection(rows):
        return fn(rows, *fixed)
    keys = rows.__parml_keys__()
    token = tokenize(fn.__qualname__, keys, fixed)
    tasks = [Task(f"{fn.__name__.strip('_')}-{token}:{i}", fn, (Ref(key), *fixed)) for i, key in enumerate(keys)]
    graph: Graph = rows.__parml_graph__()
    return PartitionedArray(graph.add(tasks), [task.key for task in tasks])


def label_values(y: Any) -> np.ndarray:
    """Labels as a one-dimensional array; an InputError where some are missing."""
    values = y.to_numpy() if library_of(y) in ("pandas", "polars", "pyarrow") else np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"expected one label for each row, found labels of shape {values.shape}; pass a single column")
    if values.dtype.kind == "f":
        missing = int((~np.isfinite(values)).sum())
    elif values.dtype.kind == "O":
        missing = sum(value is None or value != value for value in values.tolist())
        if not missing:
            values = _of_one_type(values)
    else:
        missing = 0
    if missing:
        raise InputError(f"expected finite numbers or text in y, found {missing} of {values.size} values NaN or missing")
    return values


def _of_one_type(values: np.ndarray) -> np.ndarray:
    """Objects that are all text or all numbers as an array of that type."""
    kinds = {isinstance(value, str) for value in values.tolist()}
    if kinds == {True, False}:
        raise InputError("expected labels of one type, found text and other values; convert them to one of both")
    return values if kinds == {True} or not len(values) else np.array(values.tolist())


def _count(y: Any) -> tuple[np.ndarray, np.ndarray]:
    labels, counts = np.unique(label_values(y), return_counts=True)
    return labels, counts


def _encode(y: Any, labels: np.ndarray) -> np.ndarray:
    values = label_values(y)
    if not len(values):
        return np.zeros(0, np.int64)
    if (values.dtype.kind in "biuf") != (labels.dtype.kind in "biuf"):
        values = values.astype(object)  # numbers and text cannot be compared: none of them is known
        places, unseen = np.zeros(len(values), np.int64), np.ones(len(values), bool)
    else:
        places = np.minimum(np.searchsorted(labels, values), len(labels) - 1)
        unseen = labels[places] != values
    if np.any(unseen):
        raise InputError(
            f"expected labels out of the classes that training has seen, {_shown(labels)}, found "
            f"{_shown(np.unique(values[unseen]))}; leave these rows out, or train on rows of all classes"
        )
    return places


def _shown(labels: np.ndarray) -> str:
    return f"{labels[:10].tolist()}{' and more' if len(labels) > 10 else ''}"

"""The caller's Dataset: partitions on an engine, and what LightGBM has to know of their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from parml.boosting.runs import group_starts, qid_of, runs_of
from parml.collections import compute, is_collection
from parml.data import Partitions
from parml.from_dask import as_collection
from parml.lightgbm.params import Params
from parml.schema import Schema
from parml.tables import row_count
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError

Names = Sequence[str] | Literal["auto"]
Categorical = Sequence[str | int] | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Columns:
    """
    How a rank passes columns to LightGBM.

    Parameters
    ----------
    names : tuple of str, optional
        None: LightGBM makes names up.
    categorical : tuple, optional
        Names or numbers of the columns to take as categories. None: those of pandas that are unordered categories.
    width : int
    """

    names: tuple[str, ...] | None
    categorical: tuple[str | int, ...] | None
    width: int


class Dataset:
    """
    Rows in partitions on an engine, to train on or to evaluate on.

    The engine begins to compute the partitions at once, and keeps them while this object lives. Each rank bins the partitions
    of its host one by one; they are not joined, unless they are sparse or the training goes on from another model.

    Parameters
    ----------
    client : Engine or None
        None: the current engine.
    X : collection, array or table
        Two-dimensional. Collections, numpy, pandas, pyarrow, polars, scipy.sparse.
    y : optional
        Labels, numbers: of the same kinds, and of the same rows.
    weight, init_score : optional
        As in `lightgbm.Dataset`, of the same rows.
    group : array or collection, optional
        Sizes of the query groups, in the order of rows. A group may lie in several partitions; one rank trains on all of it.
    feature_name : sequence of str or "auto"
    categorical_feature : sequence of str or int, or "auto"
        "auto": unordered category columns of pandas. All partitions must share their categories.
    reference : Dataset, optional
        The training data, for data to evaluate on; `train` takes its own training data in any case.
    params : mapping, optional
        Dataset parameters; those of `train` go before them.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> Dataset(InlineEngine(), np.zeros((4, 2)), [0, 1, 0, 1])
    Dataset(1 partitions of X, y on inline)
    """

    _start: ClassVar[Callable[..., Partitions]] = staticmethod(Partitions.start)

    def __init__(
        self,
        client: Engine | None,
        X: Any,
        y: Any = None,
        *,
        weight: Any = None,
        group: Any = None,
        init_score: Any = None,
        feature_name: Names = "auto",
        categorical_feature: Categorical = "auto",
        reference: Dataset | None = None,
        params: Params | None = None,
    ) -> None:
        self.engine = resolve(client)
        X, group = as_collection(X), as_collection(group)
        self.reference = reference
        self.params = dict(params or {})
        self.feature_name = None if isinstance(feature_name, str) else tuple(feature_name)
        self.categorical_feature = None if isinstance(categorical_feature, str) else tuple(categorical_feature)
        if group is not None:  # as the number of each row's group, which can be cut with the rows
            (sizes,) = compute(group, engine=self.engine)
            group = qid_of(sizes, None if is_collection(X) else row_count(X))
        self._group_starts: list[int] | None = None
        self.partitions = self._start(self.engine, X=X, y=y, weight=weight, init_score=init_score, group=group)

    def __repr__(self) -> str:
        fields = ", ".join(self.partitions.fields)
        return f"Dataset({len(self.partitions)} partitions of {fields} on {self.engine.name})"

    def schema(self) -> Schema:
        """Wait for the partitions; an InputError tells what LightGBM could not use."""
        schema = self.partitions.schema()
        unusable = schema.unusable()
        if unusable:
            raise InputError(
                f"expected columns of numbers or pandas categories, found {unusable}; drop these columns, or convert them with "
                "astype to numbers or 'category'"
            )
        if self.feature_name is not None and len(self.feature_name) != schema.width:
            raise InputError(f"expected {schema.width} feature names, one for each column of X, found {len(self.feature_name)}")
        names = self.feature_name or schema.names or ()
        for column in self.categorical_feature or ():
            known = column in names if isinstance(column, str) else 0 <= column < schema.width
            if not known:
                raise InputError(
                    f"expected names or numbers of columns in categorical_feature, found {column!r} beside {schema.width} "
                    f"columns{f' {list(names)}' if names else ' without names'}"
                )
        return schema

    def group_starts(self) -> list[int] | None:
        """The rows at which query groups begin; None without groups. Waits for them."""
        if "group" in self.partitions.fields and self._group_starts is None:
            runs = self.engine.gather(self.partitions.each(runs_of, "group"))
            self._group_starts = group_starts(runs, self.schema().rows)
        return self._group_starts

    def columns(self) -> Columns:
        """What ranks need to know to build their part."""
        schema = self.schema()
        return Columns(self.feature_name or schema.names, self.categorical_feature, schema.width)

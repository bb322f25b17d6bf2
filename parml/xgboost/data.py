"""The caller's matrices: partitions on an engine. The ranks' matrices: xgboost's own, built from partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xgboost as xgb

from parml.boosting.recipes import Recipes
from parml.boosting.runs import group_starts, qid_of, runs_of, sizes_of
from parml.boosting.shares import Batch
from parml.collections import compute, is_collection
from parml.data import Partitions
from parml.from_dask import as_collection
from parml.schema import Schema
from parml.tables import concatenate, library_of, row_count
from parml.xgboost.categories import CategoriesByColumn, recoded
from parml.xgboost.external import Stored
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError
from parml_core.sizeof import sizeof

_FIELDS = {"X": "data", "y": "label"}  # the others have xgboost's own names
JOINED_BYTES = 64 << 20  # pandas frames of less are joined: xgboost looks at each column of each batch four times
_XGBOOST_TYPES = {"bool": "i", "int": "int", "float": "float", "category": "c"}


@dataclass(frozen=True, slots=True)
class MatrixSpec:
    """
    How a rank builds its matrix from partitions.

    Parameters
    ----------
    missing : float
    enable_categorical : bool
    feature_names, feature_types : tuple of str, optional
    max_bin : int
        For quantised matrices.
    feature_weights : array, optional
    external_memory : bool or str
        Whether rows and quantised pages are on disk, or the folder there.
    categories : dict of str to list, optional
        Those of the model that training goes on from, whose order its trees count in.
    more_categories : bool
        Whether there may be others.
    """

    missing: float
    enable_categorical: bool
    feature_names: tuple[str, ...] | None
    feature_types: tuple[str, ...] | None
    max_bin: int
    feature_weights: Any = None
    external_memory: bool | str = False
    categories: CategoriesByColumn | None = None
    more_categories: bool = False

    def build(
        self,
        batches: Sequence[Batch],
        nthread: int,
        *,
        quantised: bool,
        ref: xgb.DMatrix | None = None,
        pages: str | None = None,
    ) -> xgb.DMatrix:
        """
        One matrix of several partitions.

        A quantised one reads them one by one, and joins only small frames; with a prefix for files, `pages`, it is in these.
        One that is not has to be built from the joined rows: fed by an iterator, xgboost's other tree methods grow other trees.
        """
        options: dict[str, Any] = {"missing": self.missing, "nthread": nthread, "enable_categorical": self.enable_categorical}
        features = _features(self.feature_names, self.feature_types)
        if self.categories:
            known, more = self.categories, self.more_categories
            batches = [{**batch, "X": recoded(batch["X"], known, more=more)} for batch in batches]
        batches, set_groups = _without_groups(batches)
        matrix: xgb.DMatrix
        if pages is not None:
            matrix = xgb.ExtMemQuantileDMatrix(_BatchIter(batches, features, pages), max_bin=self.max_bin, ref=ref, **options)
        elif quantised:
            batches = [_joined(batches)] if _quickly_joined(batches) else batches
            matrix = xgb.QuantileDMatrix(_BatchIter(batches, features), max_bin=self.max_bin, ref=ref, **options)
        else:
            matrix = xgb.DMatrix(**_as_arguments(_joined(batches)), **features, **options)
        set_groups(matrix)
        if self.feature_weights is not None:
            matrix.set_info(feature_weights=self.feature_weights)
        return matrix


def _quickly_joined(batches: Sequence[Batch]) -> bool:
    frames = [batch["X"] for batch in batches]
    return library_of(frames[0]) == "pandas" and sum(sizeof(frame) for frame in frames) <= JOINED_BYTES


def _joined(batches: Sequence[Batch]) -> Batch:
    return {name: concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _without_groups(batches: Sequence[Batch]) -> tuple[Sequence[Batch], Callable[[xgb.DMatrix], None]]:
    """Batches without qid, and what gives the groups to the whole matrix: xgboost would end a group where a batch ends."""
    if "qid" not in batches[0]:
        return batches, lambda matrix: None
    ids = [np.asarray(batch["qid"]) for batch in batches]
    sizes = sizes_of(np.concatenate(ids))
    bare: list[Batch] = [{name: value for name, value in batch.items() if name != "qid"} for batch in batches]
    if "weight" not in bare[0]:
        return bare, lambda matrix: matrix.set_group(sizes)
    by_row = np.concatenate([np.asarray(batch["weight"]) for batch in batches])
    weights = by_row[np.cumsum(sizes) - sizes]
    if not (np.repeat(weights, sizes) == by_row).all():
        raise InputError("expected one weight for all rows of a query group, found several; xgboost weighs whole groups")
    # For quantiles xgboost spreads the weights of groups over rows, and gives the first row of a group the weight of the one
    # before. Quantiles that are to be the same need the same.
    for batch, mine in zip(bare, np.split(np.r_[by_row[:1], by_row[:-1]], np.cumsum([len(i) for i in ids])[:-1]), strict=True):
        batch["weight"] = mine

    def set_groups(matrix: xgb.DMatrix) -> None:
        matrix.set_group(sizes)
        matrix.set_weight(weights)

    return bare, set_groups


class _BatchIter(xgb.DataIter):
    """Shows xgboost one partition after the other, as often as it asks (four times for a quantised matrix)."""

    def __init__(self, batches: Sequence[Batch], features: Mapping[str, Any], pages: str | None = None) -> None:
        self._batches = batches
        self._features = features
        self._next = 0
        super().__init__(pages, release_data=True, on_host=False)

    def reset(self) -> None:
        self._next = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        if self._next == len(self._batches):
            return False
        batch = self._batches[self._next]
        if isinstance(batch["X"], Stored):
            batch = {**batch, "X": batch["X"].load()}
        input_data(**_as_arguments(batch), **self._features)
        self._next += 1
        return True


def _features(names: Sequence[str] | None, types: Sequence[str] | None) -> dict[str, list[str] | None]:
    return {"feature_names": list(names) if names else None, "feature_types": list(types) if types else None}


def _as_arguments(batch: Batch) -> dict[str, Any]:
    return {_FIELDS.get(name, name): value for name, value in batch.items()}


class DMatrix:
    """
    Rows in partitions on an engine, to train on, to evaluate on or to predict for.

    The engine begins to compute the partitions at once, and keeps them while this object lives. Each rank builds xgboost's
    own matrix from the partitions of its host: a quantised one where the tree method allows, without joining partitions.
    For ``tree_method`` approx and exact, for gblinear, and for going on from another model, the partitions of a host are
    joined into one table first, which costs a copy.

    Parameters
    ----------
    client : Engine or None
        None: the current engine.
    X : collection, array or table
        Two-dimensional. Collections (those of Dask, too), numpy, pandas, pyarrow, polars, scipy.sparse.
    y : optional
        Labels: of the same kinds, and of the same rows.
    weight, base_margin, label_lower_bound, label_upper_bound : optional
        As in `xgboost.DMatrix`, of the same rows. In ranking, a weight for each group, or the same for each row of a group.
    qid, group : optional
        For ranking, one of the two: for each row the query that it belongs to, or the number of rows of each query. The rows
        of a query lie one after the other, also over the border of two partitions. Whole queries go to one rank.
    missing : float
    feature_names, feature_types : sequence of str, optional
    feature_weights : array, optional
    enable_categorical : bool
        Take category columns as such. All partitions must share their categories.
    external_memory : bool or str
        For data larger than the memory of the workers: the engine keeps no partition. Each rank computes its partitions few
        at a time (as many as it has threads, four at most), writes them to its disk, in the folder for temporary files or in
        this folder, and trains from quantised pages there, with as little memory as these partitions and about a hundred
        bytes a row take. The trees are those of ``tree_method`` hist on data in memory; nothing but hist can be trained, and
        not from another model on. X is a collection, whose partitions are read or computed twice, once to describe them. What
        many partitions depend on, as on a mean of all, is computed once and kept by the engine.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> DMatrix(InlineEngine(), np.zeros((4, 2)), [0, 1, 0, 1])
    DMatrix(1 partitions of X, y on inline)
    """

    quantised: ClassVar[bool] = False

    def __init__(
        self,
        client: Engine | None,
        X: Any,
        y: Any = None,
        *,
        weight: Any = None,
        base_margin: Any = None,
        label_lower_bound: Any = None,
        label_upper_bound: Any = None,
        qid: Any = None,
        group: Any = None,
        missing: float | None = None,
        feature_names: Sequence[str] | None = None,
        feature_types: Sequence[str] | None = None,
        feature_weights: Any = None,
        enable_categorical: bool = False,
        external_memory: bool | str = False,
    ) -> None:
        self.engine = resolve(client)
        X, weight, qid, group = map(as_collection, (X, weight, qid, group))
        qid = _qid_of(self.engine, X, qid, group)
        self.missing = np.nan if missing is None else missing
        self.feature_names = tuple(feature_names) if feature_names is not None else None
        self.feature_types = tuple(feature_types) if feature_types is not None else None
        self.feature_weights = None if feature_weights is None else np.asarray(feature_weights)
        self.enable_categorical = enable_categorical
        self.external_memory = external_memory
        self.max_bin: int | None = None
        self._group_starts: list[int] | None = None
        fields = {
            "y": y,
            "weight": _weight_of_rows(weight, qid),
            "base_margin": base_margin,
            "label_lower_bound": label_lower_bound,
            "label_upper_bound": label_upper_bound,
            "qid": qid,
        }
        try:
            kind = Recipes if external_memory else Partitions
            self.partitions: Partitions = kind.start(self.engine, X=X, **fields)
        except InputError as error:
            if group is None:
                raise
            raise InputError(f"expected group sizes that add up to the rows of X; as qid they gave: {error}") from error

    def __repr__(self) -> str:
        fields = ", ".join(self.partitions.fields)
        return f"{type(self).__name__}({len(self.partitions)} partitions of {fields} on {self.engine.name})"

    def schema(self) -> Schema:
        """Wait for the partitions; an InputError tells what xgboost could not use."""
        schema = self.partitions.schema()
        unusable = schema.unusable()
        if unusable:
            raise InputError(
                f"expected columns of numbers{' or categories' if self.enable_categorical else ''}, found {unusable}; "
                "drop these columns, or convert them to numbers or categories"
            )
        categories = schema.columns_of_kind("category")
        if categories and not self.enable_categorical:
            raise InputError(
                f"expected columns of numbers, found the categories {categories}; pass enable_categorical=True or encode them"
            )
        for what in ("feature_names", "feature_types", "feature_weights"):
            given = getattr(self, what)
            if given is not None and len(given) != schema.width:
                raise InputError(f"expected {schema.width} {what}, one for each column of X, found {len(given)}")
        return schema

    def group_starts(self) -> list[int] | None:
        """The rows at which query groups begin; None without groups. Waits for them."""
        if "qid" in self.partitions.fields and self._group_starts is None:
            runs = self.engine.gather(self.partitions.each(runs_of, "qid"))
            self._group_starts = group_starts(runs, self.schema().rows)
        return self._group_starts

    def features(self) -> dict[str, list[str] | None]:
        """Names and types as the user gave them, for `xgboost.DMatrix`."""
        return _features(self.feature_names, self.feature_types)

    def spec(self, max_bin: int) -> MatrixSpec:
        """What ranks need to know to build their part; `max_bin` where this matrix has none of its own."""
        schema = self.schema()
        types = self.feature_types
        if types is None and schema.mixed and schema.names is not None:
            types = tuple(_XGBOOST_TYPES[kind] for kind in schema.kinds)
        bins = self.max_bin or max_bin
        features = self.feature_names, types, bins, self.feature_weights
        return MatrixSpec(self.missing, self.enable_categorical, *features, external_memory=self.external_memory)


def _qid_of(engine: Engine, X: Any, qid: Any, group: Any) -> Any:
    if group is None:
        return qid
    if qid is not None:
        raise InputError("expected qid or group, found both; pass one of them")
    (sizes,) = compute(group, engine=engine)
    return qid_of(sizes, None if is_collection(X) else row_count(X))


def _weight_of_rows(weight: Any, qid: Any) -> Any:
    """The weights of groups, where that is what is given, as weights of their rows."""
    if weight is None or qid is None or is_collection(weight) or is_collection(qid) or row_count(weight) == row_count(qid):
        return weight
    sizes = sizes_of(qid)
    if len(sizes) != row_count(weight):
        raise InputError(
            f"expected a weight for each of {len(sizes)} groups or {row_count(qid)} rows, found {row_count(weight)} weights"
        )
    return np.repeat(np.asarray(weight), sizes)


class QuantileDMatrix(DMatrix):
    """
    A DMatrix that is always quantised, whatever it is used for. See `xgboost.QuantileDMatrix`.

    Parameters
    ----------
    client, X, y, weight, base_margin, missing, feature_names, feature_types, enable_categorical
        As for `DMatrix`.
    max_bin : int, optional
        Default: ``max_bin`` of the training's parameters.
    ref : DMatrix, optional
        The training data, for data to evaluate on; `train` takes its own training data in any case.

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> QuantileDMatrix(InlineEngine(), np.zeros((4, 2)), [0, 1, 0, 1], max_bin=64).max_bin
    64
    """

    quantised: ClassVar[bool] = True

    def __init__(
        self,
        client: Engine | None,
        X: Any,
        y: Any = None,
        *,
        max_bin: int | None = None,
        ref: DMatrix | None = None,
        **options: Any,
    ) -> None:
        super().__init__(client, X, y, **options)
        self.max_bin = max_bin
        self.ref = ref

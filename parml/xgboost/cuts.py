"""
What several ranks have to agree on before the first tree: the values at which columns may be split.

By itself XGBoost has each rank sketch the quantiles of its own rows, and merges the sketches, so that the cuts, and with them
the model, depend on how rows are spread. Here the cuts are those that one machine would find: XGBoost sketches each column by
itself, so columns are dealt out to tasks, each of which has all rows of a few. Every rank bins by what they find.

The source of how cuts come from values is ``AddCutPoint`` and ``HostSketchContainer::MakeCuts`` in src/common/quantile.cc of
XGBoost 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xgboost as xgb

from parml.boosting.gang import wait_for_inputs
from parml.tables import library_of
from parml.xgboost.data import DMatrix, MatrixSpec
from parml_core.engine.base import Future

MOVED_BYTES = 1 << 30
"""Of more numbers than that the ranks' own sketches are merged: all of them would have to be sent once."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """
    What ranks split at.

    Parameters
    ----------
    columns : tuple of array
        For each column values whose quantiles are the cuts, at most one more than there are bins; of categories their codes.
    types : tuple of str
        For each column ``"c"`` where it has categories, otherwise ``"q"``.
    max_bin : int
    """

    columns: tuple[np.ndarray, ...]
    types: tuple[str, ...]
    max_bin: int

    def reference(self) -> xgb.QuantileDMatrix:
        """
        A small matrix that has these cuts, by which others can be binned.

        Made before ranks have met: in their communicator XGBoost would look for the quantiles of all ranks' values.
        """
        table = np.full((max(1, *map(len, self.columns)), len(self.columns)), np.nan, "f4")
        for i, values in enumerate(self.columns):
            table[: len(values), i] = values
        types = list(self.types)
        return xgb.QuantileDMatrix(table, max_bin=self.max_bin, nthread=1, feature_types=types, enable_categorical=True)


def can_be_found(data: DMatrix) -> bool:
    """Whether all ranks can have the same cuts: the rows are in memory, and few enough to be sent once."""
    schema = data.schema()
    return not data.external_memory and sum(schema.rows) * schema.width * 4 <= MOVED_BYTES


def find_cuts(data: DMatrix, spec: MatrixSpec) -> Cuts:
    """
    Have the engine find the cuts of all rows; raises what is wrong with them.

    Parameters
    ----------
    data : DMatrix
        To train on.
    spec : MatrixSpec
        Of its matrices.
    """
    engine, fields = data.engine, data.partitions.fields
    schema = data.schema()
    filled = [i for i, rows in enumerate(schema.rows) if rows]
    weighing = [{name: fields[name][i] for name in ("weight", "qid") if name in fields} for i in filled]
    slots = sum(worker.nthreads for worker in engine.workers())
    groups = [list(map(int, group)) for group in np.array_split(np.arange(schema.width), max(1, min(slots, schema.width)))]
    found: list[Future[list[tuple[str, np.ndarray]]]] = []
    for group in groups:
        blocks = [engine.submit(_columns, fields["X"][i], group) for i in filled]
        types = None if spec.feature_types is None else tuple(spec.feature_types[i] for i in group)
        of_group = replace(spec, feature_names=None, feature_types=types, feature_weights=None)
        found.append(engine.submit(_values, blocks, weighing, of_group))
    wait_for_inputs(engine, found)
    for future in found:
        if (error := future.exception()) is not None:
            raise error
    types, columns = zip(*(column for of_group in engine.gather(found) for column in of_group), strict=True)
    return Cuts(columns, types, spec.max_bin)


def _columns(part: Any, columns: Sequence[int]) -> Any:
    library = library_of(part)
    if library == "pandas":
        return part.iloc[:, columns]
    if library == "pyarrow":
        return part.select(columns)
    return part[:, columns]


def _values(blocks: Sequence[Any], weighing: Sequence[dict[str, Any]], spec: MatrixSpec) -> list[tuple[str, np.ndarray]]:
    """For each column of all rows its type, and values that have the same cuts."""
    batches = [{"X": block, **fields} for block, fields in zip(blocks, weighing, strict=True)]
    matrix = spec.build(batches, 1, quantised=True)
    types = matrix.feature_types or ["q"] * matrix.num_col()
    starts, cuts = matrix.get_quantile_cut()
    found = []
    for kind, cut in zip(types, np.split(cuts, starts[1:-1].astype(int)), strict=True):
        if kind == "c":
            found.append(("c", np.arange(cut[-1] + 1, dtype="f4")))
        else:
            found.append(("q", values_with(cut, spec.max_bin)))
    return found


_EPS = 1e-5  # kRtEps: XGBoost puts the first cut below the least value, and the last above the greatest


def values_with(cuts: np.ndarray, max_bin: int) -> np.ndarray:
    """
    Distinct values of which XGBoost makes these cuts.

    Parameters
    ----------
    cuts : array of float32
        As `xgboost.DMatrix.get_quantile_cut` gives them for one column: what lies below all values, the cuts between, which are
        values themselves, and what lies above all.
    max_bin : int

    Returns
    -------
    array of float32

    Examples
    --------
    >>> values_with(np.array([-1e-5, 1, 2, 6.00001], "f4"), 256)
    array([0., 1., 2.], dtype=float32)
    >>> values_with(np.array([-1e-5, 1, 2, 6.00001], "f4"), 3)
    array([0., 1., 2., 3.], dtype=float32)
    """
    below, *between, above = map(np.float32, cuts)
    if not between:
        if below > 0:
            return np.empty(0, "f4")  # what XGBoost says of a column without any value
        return np.array([-_nearest(-below) or _nearest(above)], "f4")
    least = min(0 - _nearest(-below), np.nextafter(between[0], np.float32(-np.inf)))
    values, greatest = [least, *between], _nearest(above)
    if len(between) == max_bin - 1 and greatest > between[-1]:  # of fewer values each is a cut, the greatest too
        values.append(greatest)
    return np.array(values, "f4")


def _nearest(cut: np.float32) -> np.float32:
    """The least value from 0 on that has this cut above it, by bisection: floats are in the order of their bits."""
    low, high = 0, int(np.float32(np.finfo("f4").max).view("u4"))
    while low < high:
        middle = (low + high) // 2
        value = float(np.uint32(middle).view("f4"))
        low, high = (low, middle) if np.float32(2 * value + _EPS) >= cut else (middle + 1, high)
    return np.uint32(low).view("f4")

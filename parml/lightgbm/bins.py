"""
What all ranks have to agree on before the first tree: the bins of columns, and the score that training starts from.

By itself each rank of LightGBM would bin by its own rows and start from the mean of all ranks' averages, so that the model
would depend on how rows are spread. Here one task bins the very sample that LightGBM would draw from all rows on one machine,
and asks LightGBM for the score of all labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np

from parml.boosting.gang import wait_for_inputs
from parml.lightgbm.blocks import Categories, array_of, build, categories_of
from parml.lightgbm.data import Columns, Dataset
from parml.lightgbm.params import Params, decide_initial_score, value_of, without
from parml.tables import concatenate, library_of, slice_rows
from parml_core.engine.base import Future
from parml_core.errors import InputError


@dataclass(frozen=True, slots=True)
class Common:
    """
    What all ranks share.

    Parameters
    ----------
    bins : bytes
        A Dataset of one row, in LightGBM's binary format.
    initial : tuple of float
        Score of each class before the first tree; empty: LightGBM starts from zero, or from the rows' own scores.
    categories : list of list, optional
    """

    bins: bytes
    initial: tuple[float, ...]
    categories: Categories

    def reference(self, params: Params) -> lgb.Dataset:
        """The Dataset whose bins are to be used."""
        with tempfile.TemporaryDirectory(prefix="parml-") as folder:
            path = Path(folder, "bins")
            path.write_bytes(self.bins)
            reference = lgb.Dataset(path, params=dict(params)).construct()
        reference.pandas_categorical = self.categories
        return reference


def find_common(data: Dataset, params: Params, *, own_start: bool) -> Future[Common]:
    """
    Have the engine find out what the ranks share; raises what is wrong with the rows.

    Parameters
    ----------
    data : Dataset
        To train on.
    params : mapping
        Of the training, with those of the Dataset.
    own_start : bool
        The rows' own scores, or another model's, are where training starts from.
    """
    engine, fields = data.engine, data.partitions.fields
    schema = data.schema()
    total = sum(schema.rows)
    if total >= 1 << 31:
        raise InputError(f"expected fewer than {1 << 31} rows for LightGBM, found {total}; sample the rows")
    chosen = lgb.Dataset(None, params=dict(params))._create_sample_indices(total_nrow=total)
    filled = [i for i, count in enumerate(schema.rows) if count]
    firsts = dict(zip(filled, accumulate((schema.rows[i] for i in filled), initial=0), strict=False))
    samples = []
    for i in filled:
        start, stop = np.searchsorted(chosen, [firsts[i], firsts[i] + schema.rows[i]])
        samples.append(engine.submit(_take, fields["X"][i], chosen[start:stop] - firsts[i]))
    decisive = None if own_start else decide_initial_score(params)
    labels: list[Any] = [fields["y"][i] for i in filled] if decisive is not None else []
    weights: list[Any] = [fields["weight"][i] for i in filled] if decisive is not None and "weight" in fields else []
    common = engine.submit(_common, samples, labels, weights, data.columns(), dict(params), decisive, total)
    wait_for_inputs(engine, [common])
    if (error := common.exception()) is not None:
        raise error
    return common


def _take(part: Any, rows: np.ndarray) -> Any:
    """These rows of a part; all of it where they are all."""
    library = library_of(part)
    if len(rows) == part.shape[0]:
        return part
    if library == "pandas":
        return part.iloc[rows]
    return part.take(rows) if library == "pyarrow" else part[rows]


def _common(
    samples: Sequence[Any],
    labels: Sequence[Any],
    weights: Sequence[Any],
    columns: Columns,
    params: dict[str, Any],
    decisive: dict[str, Any] | None,
    total: int,
) -> Common:
    categories = categories_of(samples[0]) if library_of(samples[0]) == "pandas" else None
    samples = [sample for sample in samples if sample.shape[0]]
    rows = sum(sample.shape[0] for sample in samples)
    # LightGBM leaves out columns that could never be split, and judges by the share of all rows that the sample is.
    least = int(value_of(params, "min_data_in_leaf", 20) * rows / total)
    sampling = {**without(params, "min_data_in_leaf", "objective", "num_class", "metric"), "min_data_in_leaf": least}
    batches = [{"X": sample, "y": np.zeros(sample.shape[0])} for sample in samples]
    sample = build(batches, columns, sampling, categories=categories).construct()
    first = [{"X": slice_rows(samples[0], 0, 1), "y": np.zeros(1)}]
    single = build(first, columns, sampling, reference=sample, categories=categories).construct()
    with tempfile.TemporaryDirectory(prefix="parml-") as folder:
        path = Path(folder, "bins")
        single.save_binary(path)
        bins = path.read_bytes()
    return Common(bins, _initial_scores(labels, weights, decisive) if decisive is not None else (), categories)


def _initial_scores(labels: Sequence[Any], weights: Sequence[Any], params: dict[str, Any]) -> tuple[float, ...]:
    """Of a model that can learn nothing but the score it starts from."""
    y = concatenate([array_of(label).ravel() for label in labels])
    weight = concatenate([array_of(weight).ravel() for weight in weights]) if weights else None
    nothing = lgb.Dataset(np.zeros((len(y), 1), "f4"), y, weight=weight, params={"verbosity": -1})
    model = lgb.train({**params, "verbosity": -1, "num_threads": 1}, nothing, 1)
    return tuple(model.get_leaf_output(k, 0) for k in range(model.num_trees()))

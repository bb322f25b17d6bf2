"""
Scores that trees give to rows, as training itself adds them up.

A restart goes on from the very doubles that the lost ranks had: each tree adds to what those before it have added, in their
order, to what the row started from. A prediction adds up the trees alone, which is rounded in another way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import lightgbm as lgb
import numpy as np

from parml.lightgbm.blocks import BLOCK_BYTES, Categories, number_blocks


def outputs_of(model: str) -> list[np.ndarray]:
    """
    The outputs of the leaves of each tree in the text of a model, which has them exactly.

    Examples
    --------
    >>> outputs_of("Tree=0\\nleaf_value=0.5 -1\\nTree=1\\nleaf_value=2\\n")
    [array([ 0.5, -1. ]), array([2.])]
    """
    return [np.array(line.split(), float) for line in re.findall(r"^leaf_value=(.*)$", model, re.MULTILINE)]


def add_trees(
    data: lgb.Dataset,
    parts: Sequence[Any],
    categories: Categories,
    model: lgb.Booster,
    outputs: Sequence[np.ndarray],
    first: int,
    threads: int,
) -> None:
    """
    Let the scores of a Dataset be those after the rounds from `first` on.

    Parameters
    ----------
    data : lightgbm.Dataset
        Constructed.
    parts : sequence
        The rows that it was made of.
    categories : list of list, optional
        Of the training data.
    model : lightgbm.Booster
    outputs : sequence of array
        Of the leaves of all its trees.
    first : int
    threads : int
    """
    n_scores = model.num_model_per_iteration()
    new = outputs[first * n_scores :]
    scores = data.get_field("init_score")
    scores = np.zeros((data.num_data(), n_scores)) if scores is None else np.array(scores).reshape(-1, n_scores)
    if new:
        width = max(len(new), model.num_feature())
        start = 0
        for block in number_blocks(parts, categories, max(1, BLOCK_BYTES // (8 * width))):
            stop = start + block.shape[0]
            leaves = model.predict(block, pred_leaf=True, start_iteration=first, num_iteration=-1, num_threads=threads)
            leaves = np.asarray(leaves).reshape(stop - start, len(new)).astype(np.intp)
            for t, output in enumerate(new):
                scores[start:stop, t % n_scores] += output[leaves[:, t]]
            start = stop
    data.set_init_score(scores[:, 0] if n_scores == 1 else scores)

"""What the steps of collections make, against numpy and pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml.primitives as primitives
from parml.primitives import shuffle, source
from parml_core.engine.threads import ThreadsEngine
from parml_core.graph import Graph


def parity(frame: pd.DataFrame, n: int) -> np.ndarray:
    return frame["k"].to_numpy() % n


def shuffled(chunks: list[pd.DataFrame], n_targets: int) -> list[pd.DataFrame]:
    tasks = source("chunk-1", lambda place: chunks[place], range(len(chunks)))
    graph = Graph(tasks + shuffle("shuffle-2", [task.key for task in tasks], n_targets, parity, pd.concat, n_targets))
    with ThreadsEngine(2) as engine:
        return engine.gather(engine.submit_graph(graph, [f"shuffle-2:{target}" for target in range(n_targets)]))


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=8), min_size=1, max_size=5),
    st.integers(1, 7),
    st.sampled_from([1, 3, 4096]),
)
def test_each_row_goes_to_its_target_and_rows_keep_their_order(keys: list[list[int]], n_targets: int, most_pieces: int) -> None:
    numbers = iter(range(1000))
    chunks = [
        pd.DataFrame({"k": pd.Series(part, dtype="int64"), "n": [next(numbers) for _ in part], "s": [f"{k}" for k in part]})
        for part in keys
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(primitives, "MOST_PIECES", most_pieces)
        found = shuffled(chunks, n_targets)
    whole = pd.concat(chunks)
    for target, rows in enumerate(found):
        pd.testing.assert_frame_equal(rows, whole[whole.k % n_targets == target], check_dtype=False)


def test_no_more_pieces_than_are_good() -> None:
    tasks = shuffle("shuffle-2", [f"chunk-1:{place}" for place in range(100)], 1000, parity, pd.concat)
    pieces = [task for task in tasks if task.key.startswith("piece_")]
    assert len(pieces) <= primitives.MOST_PIECES and len(pieces) >= primitives.MOST_PIECES // 2

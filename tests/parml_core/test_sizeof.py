"""Estimates of sizes: near the truth, fast, and never an error."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sparse

from parml_core.sizeof import sizeof


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    __slots__ = ("empty", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


class Hostile:
    @property
    def nbytes(self) -> int:
        raise RuntimeError("do not look at me")

    def __sizeof__(self) -> int:
        raise RuntimeError("nor weigh me")


WORDS = [f"word number {i}" * 3 for i in range(50_000)]


@pytest.mark.parametrize(
    "value",
    [
        np.ones(100_000),
        np.ones((1000, 1000))[::2, ::3],
        np.array(WORDS, dtype=object),
        pd.DataFrame({"a": np.arange(100_000), "b": np.ones(100_000)}),
        pd.DataFrame({"text": pd.Series(WORDS, dtype=object)}),
        pd.DataFrame({"text": WORDS}),
        pd.Series(WORDS).astype("category"),
        pd.Series(np.arange(100_000.0), index=pd.Index(WORDS * 2)),
        pa.table({"a": np.arange(100_000), "text": WORDS * 2}),
        pa.array(np.arange(100_000))[50_000:],
        sparse.random(1000, 1000, 0.1, format="csr"),
        [np.ones(1000)] * 1 + [np.ones(1000) for _ in range(99)],
        {i: np.ones(1000) for i in range(100)},
        {"a": [Holder(np.ones(50_000)), Slotted(np.ones(50_000))]},
        WORDS,
        b"x" * 1_000_000,
        memoryview(bytes(500_000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sizeof_large_value_is_near_its_pickled_size(value: Any) -> None:
    """Within a factor of three, whatever Python's own overhead."""
    pickled = len(pickle.dumps(bytes(value) if isinstance(value, memoryview) else value, protocol=5))
    assert pickled / 3 < sizeof(value) < pickled * 3


def test_sizeof_one_array_many_times_counts_it_about_once() -> None:
    """A list of references is no list of copies."""
    array = np.ones(100_000)
    assert array.nbytes <= sizeof([array] * 10) < 1.1 * array.nbytes
    assert array.nbytes <= sizeof([array] * 1000) < 10 * array.nbytes


def test_sizeof_cycles_and_shared_parts_end() -> None:
    """Neither depth nor sharing takes more than a bounded look."""
    cyclic: list[Any] = [np.ones(1000)]
    cyclic.append(cyclic)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep, deep]
    assert sizeof(cyclic) > 8000
    assert sizeof(deep) > 0


def test_sizeof_hostile_object_gives_a_number() -> None:
    """It never raises."""
    assert sizeof(Hostile()) > 0
    assert sizeof([Hostile()] * 3) > 0
    assert sizeof(Hostile) > 0


def test_sizeof_looks_at_a_sample_of_large_containers() -> None:
    """A million objects take no longer than a thousand (with room for noise)."""

    def seconds(count: int) -> float:
        value = [[i] for i in range(count)]
        start = time.process_time()
        for _ in range(50):
            sizeof(value)
        return time.process_time() - start

    assert seconds(1_000_000) < 20 * max(seconds(1000), 0.001)

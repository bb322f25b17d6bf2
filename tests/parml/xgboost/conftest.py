"""A collection by protocol alone, for the tests of all that takes collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from parml_core.engine.base import Future
from parml_core.graph import Graph, Task
from parml_core.hashing import tokenize


class Parts:
    """Rows of `value` in runs that end at `edges`."""

    def __init__(self, value: Any, edges: Sequence[int]) -> None:
        parts = [value[a:b] for a, b in pairwise([0, *edges])]
        self.keys = [f"part-{tokenize(value, list(edges))}:{i}" for i in range(len(parts))]
        self.graph = Graph([Task(key, _give, ([part],)) for key, part in zip(self.keys, parts, strict=True)])

    def __parml_graph__(self) -> Graph:
        return self.graph

    def __parml_keys__(self) -> list[str]:
        return self.keys

    def __parml_finish__(self, results: Sequence[Any]) -> Any:
        import numpy as np

        return np.concatenate(results)

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Parts:
        kept = object.__new__(Parts)
        kept.keys = [future.key for future in futures]
        kept.graph = Graph((), dict(zip(kept.keys, futures, strict=True)))
        return kept

    def __parml_token__(self) -> str:
        return tokenize(*self.keys)


def _give(box: list[Any]) -> Any:
    return box[0]


@pytest.fixture(scope="session")
def parts() -> Callable[..., Any]:
    """``parts(value, *edges)``: a collection with the rows of `value`, cut at `edges`."""

    def cut(value: Any, *edges: int) -> Parts:
        shape = getattr(value, "shape", None)
        return Parts(value, [*edges, shape[0] if shape else len(value)])

    return cut

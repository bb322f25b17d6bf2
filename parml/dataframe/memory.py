"""``from_pandas``: rows that are in this process already."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame
from parml.dataframe.plan import Columns, Source
from parml_core.errors import InputError
from parml_core.hashing import tokenize


def from_pandas(data: pd.DataFrame | pd.Series, npartitions: int | None = None) -> Any:
    """
    A frame of the rows of a pandas object, which keep their labels.

    Parameters
    ----------
    data : pandas DataFrame or Series
    npartitions : int, optional
        Default: one for each processor. No more than there are rows are made.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3]}), npartitions=2)
    >>> frame.npartitions, frame.a.max().compute()
    (2, np.int64(3))
    """
    if not isinstance(data, pd.DataFrame | pd.Series):
        raise InputError(f"expected a pandas DataFrame or Series, found {type(data).__name__}")
    if npartitions is not None and (not isinstance(npartitions, int) or npartitions < 1):
        raise InputError(f"expected npartitions to be 1 or more, found {npartitions!r}")
    count = max(1, min(len(data), npartitions or os.cpu_count() or 1))
    bounds = [len(data) * place // count for place in range(count + 1)]
    parts = list(itertools.pairwise(bounds))
    origin = tokenize("from_pandas", data.index, bounds)
    return Frame._of(Source(MemoryReader(data, tokenize(data)), parts, origin=origin, counted=False))


@dataclass(frozen=True)
class MemoryReader:
    """Cuts rows out of a pandas object when the graph is built, so that a task is sent no more than its own."""

    data: Any
    token: str
    name: str = field(default="from_pandas", init=False)

    load = staticmethod(steps.same)

    @property
    def meta(self) -> Any:
        return self.data.iloc[:0]

    def argument(self, part: tuple[int, int]) -> Any:
        return self.data.iloc[slice(*part)]

    def lengths(self, parts: Sequence[tuple[int, int]]) -> list[int]:
        return [stop - start for start, stop in parts]

    def narrowed(self, wanted: Columns) -> MemoryReader:
        data = self.data.loc[:, [column in wanted for column in self.data.columns]]
        return MemoryReader(data, tokenize(self.token, list(data.columns)))

    def __parml_token__(self) -> str:
        return self.token

    def describe(self) -> str:
        return f"from_pandas columns {', '.join(map(repr, self.meta.columns))}" if self.meta.ndim > 1 else "from_pandas"

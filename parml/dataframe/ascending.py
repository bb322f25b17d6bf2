"""Keys of which it is taken for granted that they ascend: found out while they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from parml.dataframe.plan import Blockwise, Node, Project
from parml.dataframe.plan_across import Reduce
from parml_core.errors import InputError


def ends_of(node: Node, on: Any, purpose: str) -> Node:
    """
    A total: the first and the last of keys, as labels, or None where there are none. Raises where they do not ascend.

    Parameters
    ----------
    node : Node
    on : column, optional
        Of the keys. None: the labels of the rows.
    purpose : str
        What the keys are for.
    """
    ends = Ends(on, purpose)
    return Reduce("ends", Blockwise("ends", ends.chunk, (with_keys(node, on),), meta=0), ends.combine, ends.combine, 0)


def with_keys(node: Node, on: Any) -> Node:
    """The node with no more columns than the keys need."""
    return node if isinstance(node.meta, pd.Series) else Project(node, [] if on is None else [on])


def keys_of(rows: Any, on: Any) -> pd.Index:
    """A column, or the labels of rows."""
    return rows.index if on is None else pd.Index(rows[on])


@dataclass(frozen=True)
class Ends:
    """The first and the last key, and whether keys ascend; see `ends_of`."""

    on: Any
    purpose: str

    def chunk(self, rows: Any) -> pd.Index | None:
        """Of a partition."""
        keys = keys_of(rows, self.on)
        if keys.hasnans or not keys.is_monotonic_increasing:
            what = "the labels" if self.on is None else f"column {self.on!r}"
            raise InputError(
                f"expected keys that ascend {self.purpose}, found a partition in which {what} do not, or have nulls; "
                "drop nulls, and use sort_index or sort_values before"
            )
        return keys[[0, -1]] if len(keys) else None

    def combine(self, parts: list[pd.Index | None]) -> pd.Index | None:
        """Of several, in order."""
        ends = [part for part in parts if part is not None]
        if not ends:
            return None
        every = ends[0].append(ends[1:])
        if not every.is_monotonic_increasing:
            raise InputError(
                f"expected keys that ascend {self.purpose}, found a partition that begins before the end of the one before; "
                "use sort_index or sort_values before"
            )
        return every[[0, -1]]

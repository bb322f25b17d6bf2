"""Which labels partitions hold, and rows of equal keys brought together: Dask's names for what the plan knows and does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, aligned
from parml.dataframe.groupby_steps import VALUE
from parml.dataframe.lower import explain, optimise
from parml.dataframe.plan import Assign, Blockwise, Columns, Input, Node, Project, trimmed
from parml.dataframe.plan_across import Reduce, labelled
from parml.dataframe.plan_labels import in_order, known_divisions, plain_label
from parml.dataframe.plan_shuffle import hashed
from parml_core.errors import InputError

_KEY = "__parml_key__"


class Divided(Blockwise):
    """
    The same rows, of whose labels something else is known than before.

    Parameters
    ----------
    node : Node
    divisions : tuple
        The label at which each partition begins, and that with which the last one ends; empty: not known.
    in_order : bool
        Labels ascend, within partitions and from one to the next.
    """

    rowwise = True

    def __init__(self, node: Node, divisions: tuple[Any, ...], in_order: bool) -> None:
        self.divisions, self.ends, self.in_order = divisions[1:-1], divisions[:1] + divisions[-1:], in_order
        super().__init__("divided", steps.same, (node,), meta=node.meta, rows=node.rows)

    def _parameters(self) -> tuple[Any, ...]:
        return (self.divisions, self.ends, self.in_order)

    def needs(self, wanted: Columns) -> tuple[Columns | None, ...]:
        return (wanted,)

    def narrowed(self, inputs: tuple[Node, ...], wanted: Columns) -> Node:
        return Divided(trimmed(inputs[0], wanted), (*self.ends[:1], *self.divisions, *self.ends[1:]), self.in_order)

    def describe(self) -> str:
        return f"divisions {self.ends[0]!r} to {self.ends[1]!r}" if self.ends else "divisions unknown"


class Divisions(Frame):
    """Methods of frames and series about their partitions."""

    @property
    def divisions(self) -> tuple[Any, ...]:
        """
        The label at which each partition begins, and that with which the last one ends; None, where they are not known.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.DataFrame({"a": [1, 2, 3, 4]}), npartitions=2).divisions
        (0, 2, 3)
        """
        return known_divisions(self._node) or (None,) * (self.npartitions + 1)

    @property
    def known_divisions(self) -> bool:
        """Whether it is known which labels each partition holds."""
        return self.divisions[0] is not None

    def clear_divisions(self) -> Self:
        """The same rows, with no knowledge of which labels a partition holds."""
        node = self._node
        return self._of(Divided(node, (), in_order(node)))  # type: ignore[no-any-return]

    def compute_current_divisions(self, col: Any = None, set_divisions: bool = False, *, engine: Any = None) -> Any:
        """
        The divisions, of labels or of a column, from the rows themselves: computes the least and greatest of each partition.

        Parameters
        ----------
        col : column, optional
            Default: the labels; where their divisions are known, nothing is computed.
        set_divisions : bool
            Return the frame, which knows its divisions.
        engine : Engine, optional

        Raises
        ------
        ValueError
            Two partitions have values in common, or are not in order, or one has no rows.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> pdf.from_pandas(pd.DataFrame({"a": [1, 3, 5, 9]}), npartitions=2).compute_current_divisions("a")
        (1, 5, 9)
        """
        node = labelled(self._node)
        known = known_divisions(node) if col is None else None
        if known is None:
            limits = Blockwise("limits", partial(_limits, col), (node if col is None else Project(node, col),), meta=0)
            found = Frame._of(Reduce("divisions", limits, steps.listed, steps.listed, [])).compute(engine=engine)
            known = _checked(found)
            in_order_inside = all(ordered for _, _, ordered in found)
        else:
            in_order_inside = True
        if not set_divisions:
            return known
        if col is not None:
            raise InputError(
                f"expected to set divisions of labels, found column {col!r}; use set_index({col!r}, divisions=...)"
            )
        if not in_order_inside:
            raise ValueError("expected labels that ascend in each partition, found some that do not; use sort_index() before")
        return self._of(Divided(node, known, True))

    def shuffle(
        self,
        on: Any = None,
        ignore_index: bool = False,
        npartitions: int | None = None,
        *,
        on_index: bool = False,
        shuffle_method: Any = None,
        force: bool = False,
    ) -> Self:
        """
        Rows with equal keys in one partition.

        Parameters
        ----------
        on : column, list of columns, or series with the same partitions
            The keys.
        ignore_index : bool
            Number the rows anew.
        npartitions : int, optional
            Default: as many as the frame has.
        on_index : bool
            The labels are the keys.
        shuffle_method, force
            Dask's, without effect here: rows that are where they belong are not moved.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"k": list("abab"), "x": [1, 2, 3, 4]}), npartitions=2)
        >>> sum(part.k.nunique() for part in frame.shuffle("k").partitions)
        2
        """
        if (on is None) != on_index:
            raise TypeError(f"expected keys in on=, or on_index=True, found {'neither' if on is None else 'both'}")
        count = npartitions or self.npartitions
        if not isinstance(count, int) or count < 1:
            raise InputError(f"expected npartitions to be 1 or more, found {npartitions!r}")
        node = self._node if ignore_index and not on_index else labelled(self._node)
        moved: Any = Frame._of(self._shuffled(node, on, count))
        return moved.reset_index(drop=True) if ignore_index else moved  # type: ignore[no-any-return]

    def _shuffled(self, node: Node, on: Any, count: int) -> Node:
        series = isinstance(node.meta, pd.Series)
        if on is None:
            return hashed(node, None, count)
        frame = Blockwise("to_frame", partial(steps.call_method, "to_frame"), (node,), (Input(0), VALUE)) if series else node
        if isinstance(on, Frame):
            aligned([node, on._node])
            if not isinstance(on._meta, pd.Series):
                raise InputError(f"expected columns or a series as keys, found {type(on).__name__}")
            moved: Node = Project(hashed(Assign(frame, _KEY, on._node), [_KEY], count), list(frame.meta.columns))
        else:
            columns = list(on) if isinstance(on, list | tuple) else [on]
            known = [node.meta.name] if series else list(node.meta.columns)
            for column in columns:
                if column not in known:
                    raise KeyError(f"expected columns of the frame, found {column!r}; they are {known}")
            moved = hashed(frame, [VALUE] if series else columns, count)
        if not series:
            return moved
        return Blockwise("rename", partial(steps.call_method, "rename"), (Project(moved, VALUE),), (Input(0), node.meta.name))

    def optimize(self, fuse: bool = True) -> Self:
        """
        The same rows by the plan that `compute` would make of this one; see `explain`.

        Parameters
        ----------
        fuse : bool
            Without effect: steps are fused when tasks are made.
        """
        return self._of(optimise([self._node])[0])  # type: ignore[no-any-return]

    def pprint(self) -> None:
        """
        Print the plan as it was written; `explain` gives the one that is computed.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> (pdf.from_pandas(pd.DataFrame({"a": [1], "b": [3]}), npartitions=1).a + 1).pprint()
        add
          column 'a'
            from_pandas columns 'a', 'b' in 1 partitions
        """
        print(explain([self._node]))


def _limits(column: Any, part: Any) -> list[tuple[Any, Any, bool] | None]:
    values = part.index if column is None else pd.Index(part)
    if isinstance(values, pd.MultiIndex):
        raise InputError(f"expected labels of one level for divisions, found {list(values.names)}")
    return [
        (plain_label(values.min()), plain_label(values.max()), bool(values.is_monotonic_increasing)) if len(values) else None
    ]


def _checked(limits: Sequence[tuple[Any, Any, bool] | None]) -> tuple[Any, ...]:
    empty = [number for number, limit in enumerate(limits) if limit is None]
    if empty:
        raise ValueError(f"expected rows in every partition, found none in partition {empty[0]}; use repartition() before")
    kept = [limit for limit in limits if limit is not None]
    for number, (before, after) in enumerate(itertools.pairwise(kept)):
        if not before[1] < after[0]:
            raise ValueError(
                f"expected each partition to begin after the one before, found {before[1]!r} in partition {number} and "
                f"{after[0]!r} in the next; use sort_index() or set_index() before"
            )
    return (*(low for low, _, _ in kept), kept[-1][1])

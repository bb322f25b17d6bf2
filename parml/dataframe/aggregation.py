"""`Aggregation`: aggregations of a user's own in a group-by, from partial results of partitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.groupby_steps import KEPT, Grouping, Partials, Whole
from parml.dataframe.meta import sample_of
from parml.dataframe.plan import Blockwise, Node
from parml.dataframe.plan_shuffle import Gather
from parml_core.errors import InputError


@dataclass(frozen=True)
class Aggregation:
    """
    An aggregation of groups for `GroupBy.agg`, alone, in lists and in dicts, also beside names.

    Parameters
    ----------
    name : str
        What its columns are called.
    chunk : callable
        Takes the column of a partition, grouped (a pandas SeriesGroupBy), and returns a series of the groups, or a tuple of
        several.
    agg : callable
        Takes these of all partitions, each concatenated and grouped again, and returns a series of the groups, or a tuple. Is
        called once.
    finalize : callable, optional
        Takes what `agg` returned and returns the series of results. Default: `agg` returned that.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> mean = pdf.Aggregation(
    ...     "mean",
    ...     chunk=lambda s: (s.count(), s.sum()),
    ...     agg=lambda count, total: (count.sum(), total.sum()),
    ...     finalize=lambda count, total: total / count,
    ... )
    >>> frame = pdf.from_pandas(pd.DataFrame({"k": list("abab"), "x": [1, 2, 3, 5]}), npartitions=2)
    >>> frame.groupby("k").x.agg(mean).compute().to_dict()
    {'a': 2.0, 'b': 3.5}
    """

    name: str
    chunk: Callable[..., Any]
    agg: Callable[..., Any]
    finalize: Callable[..., Any] | None = None


def holds_aggregation(*values: Any) -> bool:
    """Whether there is one in lists, tuples and dicts."""
    for value in values:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        if isinstance(value, Aggregation) or holds_aggregation(*inside):
            return True
    return False


def aggregated(
    node: Node,
    grouping: Grouping,
    series: bool,
    selection: Any,
    func: Any,
    named: dict[str, Any],
    pairs: Sequence[tuple[Any, Any]],
) -> Node:
    """
    A group-by with aggregations among others.

    Parameters
    ----------
    node, grouping, series, selection
        Of the group-by.
    func, named
        What `agg` was given.
    pairs : sequence of (column, name or Aggregation)
        The same, one for each column of the result.
    """
    unknown = [name for _, name in pairs if not isinstance(name, Aggregation) and name not in KEPT]
    if unknown:
        raise InputError(f"expected beside an Aggregation others or names of {', '.join(KEPT)}, found {unknown[0]!r}")
    # pandas tells what the columns are called, given functions of the same names.
    args, kwargs = ((_stood_for(func),), _stood_for(named)) if func is not None else ((), _stood_for(named))
    sample = sample_of(node.meta)
    like = Whole(replace(grouping, as_index=True), series, selection, "agg", args, kwargs)(sample).iloc[:0]
    plain = [(None if name == "size" else column, name) for column, name in pairs if isinstance(name, str)]
    dtypes = [like.dtype] if isinstance(like, pd.Series) else list(like.dtypes)
    kept = [dtype for dtype, (_, name) in zip(dtypes, pairs, strict=True) if isinstance(name, str)]
    known = pd.DataFrame({place: pd.Series([], dtype=dtype) for place, dtype in enumerate([*kept, "int64"])})
    known.index = like.index
    partials = Partials(replace(grouping, as_index=True), (*plain, (None, "size")), known)
    own = OwnPartials(grouping, partials, tuple(pairs), like)
    meta = own.finish([own.chunk(sample)]).iloc[:0]
    return Gather("groupby agg", Blockwise("agg", own.chunk, (node,), meta=0), own.combine, own.finish, meta)


def _stood_for(value: Any) -> Any:
    """A function of its name in the place of each `Aggregation`."""
    if isinstance(value, dict):
        return {key: _stood_for(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_stood_for, value))
    if not isinstance(value, Aggregation):
        return value

    def stand_in(group: pd.Series) -> int:
        return 0

    stand_in.__name__ = value.name
    return stand_in


@dataclass(frozen=True)
class OwnPartials:
    """
    Partial results of names and of aggregations: those of the names, and for each aggregation a list of its series.

    Parameters
    ----------
    grouping : Grouping
    partials : Partials
        Of the names, and last the sizes of groups, which tell what groups there are.
    wanted : tuple of (column, name or Aggregation)
    like : DataFrame or Series
        The empty result with its names.
    """

    grouping: Grouping
    partials: Partials
    wanted: tuple[tuple[Any, Any], ...]
    like: Any

    @property
    def _own(self) -> list[tuple[Any, Aggregation]]:
        return [(column, one) for column, one in self.wanted if isinstance(one, Aggregation)]

    def chunk(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[list[pd.Series]]]:
        keys = [frame[column].rename(name) for column, name in zip(self.grouping.by, self.grouping.names, strict=True)]
        how = {"sort": False, "observed": True, "dropna": self.grouping.dropna and self.grouping.observed}
        made = []
        for column, one in self._own:
            found = one.chunk(frame[column].groupby(keys, **how))
            made.append(list(found) if isinstance(found, tuple) else [found])
        return self.partials.chunk(frame), made

    def combine(self, parts: list[Any]) -> tuple[pd.DataFrame, list[list[pd.Series]]]:
        made = [
            [steps.concat(column) for column in zip(*one, strict=True)] for one in zip(*(own for _, own in parts), strict=True)
        ]
        return self.partials.combine([plain for plain, _ in parts]), made

    def finish(self, parts: list[Any]) -> Any:
        plain, made = self.combine(parts)
        known = self.partials.finish([plain])
        index, how = known.index, self.grouping
        levels = list(range(index.nlevels))
        own = []
        for (_, one), series in zip(self._own, made, strict=True):
            grouped = [each.groupby(level=levels, sort=how.sort, dropna=how.dropna, observed=how.observed) for each in series]
            found = one.agg(*grouped)
            result = one.finalize(*found if isinstance(found, tuple) else [found]) if one.finalize else found
            if not isinstance(result, pd.Series):
                raise InputError(
                    f"expected the Aggregation {one.name!r} to end in a series of the groups, found {type(result).__name__}; "
                    "see finalize="
                )
            own.append(result if result.index.equals(index) else result.reindex(index))
        names, owns = iter(range(known.shape[1])), iter(own)
        results = [next(owns) if isinstance(name, Aggregation) else known.iloc[:, next(names)] for _, name in self.wanted]
        if isinstance(self.like, pd.Series):
            return results[0].rename(self.like.name)
        frame = pd.DataFrame(dict(enumerate(results)), index=index).set_axis(self.like.columns, axis=1)
        return frame if how.as_index else frame.reset_index()

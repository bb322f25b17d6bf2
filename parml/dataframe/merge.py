"""Frames put together: `merge` and `DataFrame.join` by keys, `concat` one after the other or side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, aligned, elementwise
from parml.dataframe.memory import from_pandas
from parml.dataframe.plan import Blockwise, Node, Rename, Rows
from parml.dataframe.plan_across import Reduce, labelled
from parml.dataframe.plan_concat import Concat, Conform
from parml.dataframe.plan_merge import Match, Merge
from parml.dataframe.plan_shuffle import hashed, known_together
from parml_core.errors import InputError, NotSupported


def merge(
    left: Any,
    right: Any,
    how: str = "inner",
    on: Any = None,
    *,
    left_on: Any = None,
    right_on: Any = None,
    left_index: bool = False,
    right_index: bool = False,
    suffixes: tuple[str | None, str | None] = ("_x", "_y"),
    indicator: bool | str = False,
    validate: str | None = None,
    broadcast: bool | None = None,
    npartitions: int | None = None,
) -> Any:
    """
    Rows of one frame beside the rows of another that have the same keys, as in pandas.

    Parameters
    ----------
    left, right : DataFrame, named Series, or one of pandas
    how : {"inner", "left", "right", "outer", "cross"}
    on, left_on, right_on : column or list of columns
    left_index, right_index : bool
        Match by the labels of rows.
    suffixes, indicator, validate
        As in pandas.
    broadcast : bool, optional
        Whether all rows of one frame are brought to each partition of the other: no row of the other moves then. Default: where
        that frame has one partition, or few beside the many of the other.
    npartitions : int, optional
        Of the result, where rows of both frames move. Default: as many as the larger one has.

    Notes
    -----
    The order of rows is that of pandas where one frame is broadcast, how is "inner", "left" or "cross" and the right frame is
    broadcast, or how is "right" and the left frame is. Elsewhere rows move, those of a key stay together, and the order of the
    keys is not that of pandas: sort the result where it matters. As in pandas, integers become floats where rows have
    no match; a partition in which all have one keeps integers until it is put together with others.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> sales = pdf.from_pandas(pd.DataFrame({"shop": [1, 2, 1], "x": [5, 6, 7]}), npartitions=2)
    >>> shops = pd.DataFrame({"shop": [1, 2], "city": ["Rome", "Oslo"]})
    >>> pdf.merge(sales, shops, on="shop").compute().city.tolist()
    ['Rome', 'Oslo', 'Rome']
    """
    if how not in ("inner", "left", "right", "outer", "cross"):
        raise NotSupported(f"expected how to be inner, left, right, outer or cross, found {how!r}")
    left, right = mergeable(left), mergeable(right)
    given: dict[str, Any] = {"how": how, "on": on, "left_on": left_on, "right_on": right_on, "left_index": left_index}
    given |= {"right_index": right_index, "suffixes": suffixes, "indicator": indicator, "validate": validate}
    meta = left._meta.merge(right._meta, **given)  # mistakes show here, in pandas' words
    left_keys, right_keys = _key_columns(left._meta, right._meta, how, on, left_on, right_on, left_index, right_index)
    nodes, keys = _without_overlap(left._node, right._node, left_keys, right_keys, suffixes)
    match = Match(how, keys[0], keys[1], indicator, validate)
    if (match.left_on is None and how not in ("inner", "right") and match.right_on is not None) or (
        match.right_on is None and how not in ("inner", "left") and match.left_on is not None
    ):
        raise NotSupported(
            f"expected labels on both sides, or rows without a match on the side of the columns alone, found how={how!r}; "
            "use reset_index() and merge on columns"
        )
    if match.labelled:
        nodes = [_with_own_labels(node) for node in nodes]
    beside, other = _beside_each_other(nodes, match, broadcast, npartitions)
    result = Merge(beside, other, match)
    if list(result.meta.columns) != list(meta.columns):
        raise NotSupported(
            f"expected keys whose columns in the result can be told apart, found {list(meta.columns)}; rename columns before"
        )
    return Frame._of(result)


def _with_own_labels(node: Node) -> Node:
    """The node with labels that its rows keep where they move, also where it is one partition of numbered ones."""
    node = labelled(node)
    if node.rows.counted_by is None:
        return node
    return Blockwise("own_labels", steps.same, (node,), rows=Rows(f"numbered {node.rows.origin}"))


def mergeable(value: Any) -> Any:
    """A frame of what can be merged."""
    frame = from_pandas(value, 1) if isinstance(value, pd.DataFrame | pd.Series) else value
    if isinstance(frame, Frame) and isinstance(frame._meta, pd.Series):
        if frame._meta.name is None:
            raise InputError("expected a series with a name to merge, found one without; use series.to_frame(name)")
        frame = frame.to_frame()  # type: ignore[attr-defined]
    if not isinstance(frame, Frame) or not isinstance(frame._meta, pd.DataFrame):
        raise InputError(f"expected a frame of parml or pandas to merge, found {type(value).__name__}")
    return frame


def _key_columns(
    left: pd.DataFrame, right: pd.DataFrame, how: str, on: Any, left_on: Any, right_on: Any, left_index: bool, right_index: bool
) -> list[tuple[Any, ...] | None]:
    """The columns of the keys on both sides; None: labels."""
    if how == "cross":
        return [(), ()]
    if on is None and left_on is None and right_on is None and not left_index and not right_index:
        on = [column for column in left.columns if column in right.columns]
    found: list[tuple[Any, ...] | None] = []
    for frame, columns, index in (
        (left, left_on if on is None else on, left_index),
        (right, right_on if on is None else on, right_index),
    ):
        listed = None if index else tuple(columns) if isinstance(columns, list | tuple) else (columns,)
        for column in listed or ():
            if not pd.api.types.is_hashable(column) or column not in frame.columns:
                raise NotSupported(f"expected columns to merge on, found {column!r}; make it a column of the frame first")
        found.append(listed)
    return found


def _without_overlap(
    left: Node, right: Node, left_on: tuple[Any, ...] | None, right_on: tuple[Any, ...] | None, suffixes: Sequence[str | None]
) -> tuple[list[Node], list[tuple[Any, ...] | None]]:
    """Both sides with the names that columns have in the result, and the keys under these names."""
    one_column = {a for a, b in zip(left_on or (), right_on or (), strict=False) if a == b}
    overlap = [column for column in left.meta.columns if column in right.meta.columns and column not in one_column]
    nodes: list[Node] = []
    keys: list[tuple[Any, ...] | None] = []
    for node, on, suffix in zip((left, right), (left_on, right_on), suffixes, strict=True):
        names = {column: f"{column}{suffix}" for column in overlap} if suffix else {}
        nodes.append(Rename(node, names) if names else node)
        keys.append(None if on is None else tuple(names.get(column, column) for column in on))
    return nodes, keys


def _beside_each_other(nodes: Sequence[Node], match: Match, broadcast: bool | None, npartitions: int | None) -> list[Node]:
    """Both sides with matching rows in partitions of one number, or all rows of one side beside each partition of the other."""
    left, right = nodes
    if left.npartitions == right.npartitions == 1:
        return [left, right]
    how = match.how
    can_be = [how in ("inner", "right"), how in ("inner", "left", "cross")]
    if broadcast is not False and (match.validate is None or how == "cross"):
        sides = sorted((node.npartitions, 1 - place) for place, node in enumerate(nodes) if can_be[place])
        for size, right_first in sides:
            place, other = 1 - right_first, nodes[right_first]
            few = size == 1 or size < 0.5 * math.log2(other.npartitions)
            if few or broadcast or how == "cross":
                whole = Reduce("broadcast", nodes[place], steps.concat, steps.concat, nodes[place].meta)
                return [whole, right] if place == 0 else [left, whole]
    if broadcast or how == "cross":
        raise NotSupported(
            f"expected a merge that can be done with one side broadcast, found how={how!r}, validate={match.validate!r}"
        )
    places, n = _best_cut(nodes, match, npartitions)
    return [
        hashed(node, None if on is None else [on[place] for place in places], n)
        for node, on in zip(nodes, (match.left_on, match.right_on), strict=True)
    ]


def _best_cut(nodes: Sequence[Node], match: Match, npartitions: int | None) -> tuple[list[int], int]:
    """By which of the keys rows go to how many partitions, so that the fewest have to move."""
    n = npartitions or max(node.npartitions for node in nodes)
    every = (list(range(len(match.left_on or match.right_on or ()))), n)
    if match.left_on is None or match.right_on is None:
        return every
    cuts = []
    for node, on in zip(nodes, (match.left_on, match.right_on), strict=True):
        for known in known_together(node):
            if known.how == "hash" and set(known.columns) <= set(on) and npartitions in (None, known.npartitions):
                cuts.append(([on.index(column) for column in known.columns], known.npartitions, node.npartitions))
    if not cuts:
        return every
    best = max(cuts, key=lambda cut: (sum(other[:2] == cut[:2] for other in cuts), cut[2]))
    return best[:2]


def concat(frames: Sequence[Any], *, axis: Any = 0, join: str = "outer", ignore_index: bool = False) -> Any:
    """
    Frames one after the other, or with ``axis=1`` side by side.

    Parameters
    ----------
    frames : sequence of DataFrame, or of Series
        Also of pandas. Side by side: with the same partitions.
    axis : {0, 1}
    join : {"outer", "inner"}
        Columns of any of the frames, or of all.
    ignore_index : bool
        Number the rows anew.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> frame = pdf.from_pandas(pd.DataFrame({"a": [1, 2]}), npartitions=2)
    >>> pdf.concat([frame, frame], ignore_index=True).a.compute().tolist()
    [1, 2, 1, 2]
    """
    given = [from_pandas(one, 1) if isinstance(one, pd.DataFrame | pd.Series) else one for one in frames]
    kinds = {type(one._meta) if isinstance(one, Frame) else type(one) for one in given}
    if not given or (axis in (0, "index") and len(kinds) != 1) or not kinds <= {pd.DataFrame, pd.Series}:
        raise InputError(f"expected frames, or series, to put together, found {sorted(kind.__name__ for kind in kinds)}")
    if axis in (1, "columns"):
        aligned([one._node for one in given])
        return elementwise("concat", _side_by_side, given)
    nodes = [one._node if ignore_index else labelled(one._node) for one in given]
    metas = [node.meta for node in nodes]
    return Frame._of(Concat([Conform(node, metas, place, join, ignore_index) for place, node in enumerate(nodes)]))


def _side_by_side(*parts: Any) -> pd.DataFrame:
    return pd.concat(parts, axis=1)


class Joins:
    """`merge` and `join`, for frames."""

    def merge(self, right: Any, how: str = "inner", on: Any = None, **kwargs: Any) -> Any:
        """Rows beside the rows of another frame with the same keys; see `parml.dataframe.merge`."""
        return merge(self, right, how, on, **kwargs)

    def join(self, other: Any, on: Any = None, how: str = "left", lsuffix: str = "", rsuffix: str = "", **kwargs: Any) -> Any:
        """Rows beside the rows of another frame with the same labels, or whose labels are in the columns `on`."""
        keys: dict[str, Any] = {"left_index": True} if on is None else {"left_on": on}
        return merge(self, other, how, **keys, right_index=True, suffixes=(lsuffix, rsuffix), **kwargs)

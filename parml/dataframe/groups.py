"""`groupby` of frames and series: what the keys are."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.base import Frame, aligned
from parml.dataframe.groupby import GroupBy
from parml.dataframe.groupby_steps import VALUE, Grouping
from parml.dataframe.plan import Assign, Blockwise, Input, Node, Project
from parml.dataframe.plan_across import labelled
from parml_core.errors import InputError, NotSupported

_KEY = "__parml_key_{}__"


class Groups:
    """`groupby`, for frames and series."""

    _node: Node

    def groupby(
        self,
        by: Any = None,
        *,
        level: Any = None,
        as_index: bool = True,
        sort: bool = True,
        group_keys: bool = True,
        observed: bool = True,
        dropna: bool = True,
        shuffle: bool | int | None = None,
    ) -> GroupBy:
        """
        Rows in groups of equal keys.

        Parameters
        ----------
        by : column, series with the same partitions, or list of those
        level : int, str or list of those, optional
            Levels of the labels, in the place of `by`.
        as_index, sort, group_keys, observed, dropna : bool
            As in pandas.
        shuffle : bool or int, optional
            Into how many partitions the groups of an aggregation go: True, as many as the frame has; False, one. Default:
            one for each 8 partitions of the frame; one where all keys are categories or truth values.

        Examples
        --------
        >>> import pandas as pd, parml.dataframe as pdf
        >>> frame = pdf.from_pandas(pd.DataFrame({"k": [1, 2, 1], "x": [1.0, 2.0, 4.0]}), npartitions=2)
        >>> frame.groupby("k").x.mean().compute().tolist()
        [2.5, 2.0]
        """
        node = self._node
        series = isinstance(node.meta, pd.Series)
        selection = node.meta.name if series else None
        if level is not None:
            if by is not None:
                raise InputError("expected by or level, found both; give one")
            node = labelled(node)
            by = [_level(node, one) for one in (level if isinstance(level, list) else [level])]
            single = not isinstance(level, list)
        else:
            single = not isinstance(by, list)
        given = by if isinstance(by, list) else [by]
        if series:
            node = Blockwise("to_frame", partial(steps.call_method, "to_frame"), (node,), (Input(0), VALUE))
        columns, names = [], []
        for place, key in enumerate(given):
            if isinstance(key, Frame) and isinstance(key._meta, pd.Series):
                column = _column_of(node, key._node) or _KEY.format(place)
                if column not in node.meta.columns:
                    aligned([node, key._node])
                    node = Assign(node, column, key._node)
                names.append(key._meta.name)
            elif not series and pd.api.types.is_hashable(key) and not callable(key) and key in node.meta.columns:
                if isinstance(node.meta[key], pd.DataFrame):
                    raise InputError(f"expected one column {key!r} to group by, found several of that name; rename them")
                column = key
                names.append(key)
            elif pd.api.types.is_scalar(key) and key is not None:
                raise KeyError(f"expected columns to group by, found {key!r}; the columns are {list(node.meta.columns)}")
            else:
                raise NotSupported(
                    f"expected columns or series to group by, found {type(key).__name__}; make it a column of the frame first"
                )
            columns.append(column)
        grouping = Grouping(tuple(columns), tuple(names), single, sort, dropna, observed, as_index, group_keys)
        if not as_index and series:
            raise TypeError("as_index=False only valid with DataFrame")
        return GroupBy(node, grouping, series, selection, shuffle)


def _column_of(node: Node, key: Node) -> Any:
    """The column that a series is, where it is one of the frame."""
    return key.columns if isinstance(key, Project) and key.inputs[0] == node else None


def _level(node: Node, level: Any) -> Any:
    """A level of the labels as a series."""
    return Frame._of(Blockwise("level", _level_values, (node,), (Input(0), level)))


def _level_values(frame: Any, level: Any) -> pd.Series:
    values = frame.index.get_level_values(level)
    return pd.Series(values, index=frame.index, name=values.name)

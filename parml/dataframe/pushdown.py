"""
What is known of rows before they are read: how many there are, and which of them nobody needs.

A condition on the columns of a source goes to its reader when all that is made of the source passes through filters: then
rows that no filter lets through need not be read. Partitions keep their number and the rows of each their labels, so that
nothing else in the plan notices.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import pandas as pd

from parml.dataframe import steps
from parml.dataframe.plan import Assign, Blockwise, Counting, CountRows, Filter, Input, Node, Project, Rename, Source
from parml.dataframe.plan_across import Select
from parml.dataframe.predicate import COMPARISONS, EVERYTHING, Compare, IsIn, IsNull, Predicate

_BY_FUNCTION = {fn: op for op, fn in COMPARISONS.items()}
_BY_METHOD = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_SWAPPED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_NULLS = {"isna": True, "isnull": True, "notna": False, "notnull": False}


def known_lengths(node: Node) -> list[int] | None:
    """The number of rows of each partition, where it is known without reading them."""
    if isinstance(node, Source):
        return node.reader.lengths(node.parts) if isinstance(node.reader, Counting) else None
    if isinstance(node, Select):
        lengths = known_lengths(node.inputs[0])
        return lengths and [lengths[index] for index in node.indices]
    if isinstance(node, Blockwise) and node.rowwise and not isinstance(node, Filter):
        found = [known_lengths(below) for below in node.inputs if not below.broadcast]
        return found[0] if found and all(lengths == found[0] for lengths in found) else None
    return None


def known_counts(order: Sequence[Node]) -> dict[Node, Source]:
    """Sources of numbers that take the place of counting rows."""
    counts: dict[Node, Source] = {}
    for node in order:
        if isinstance(node, CountRows) and (lengths := known_lengths(node.inputs[0])) is not None:
            counts[node] = Source.of_numbers(lengths)
    return counts


def row_conditions(order: Sequence[Node], roots: Collection[Node], without: Collection[Node]) -> dict[Source, Predicate]:
    """
    For each source a condition that every row which somebody needs meets.

    Parameters
    ----------
    order : sequence of Node
        Inputs before those that use them.
    roots : collection of Node
    without : collection of Node
        These are not computed from their inputs.
    """
    met = _conditions_met(order)
    needed: dict[Node, Predicate] = dict.fromkeys(roots, EVERYTHING)
    for node in reversed(order):
        if node not in needed or node in without:
            continue
        passing: Predicate = EVERYTHING
        if isinstance(node, Blockwise) and node.rowwise:
            passing = needed[node] & met[node][1] if isinstance(node, Filter) and node in met else needed[node]
        for below in node.inputs:
            rows: Predicate = EVERYTHING if below.broadcast else passing
            needed[below] = needed[below] | rows if below in needed else rows
    return {node: rows for node, rows in needed.items() if isinstance(node, Source) and rows != EVERYTHING}


def _conditions_met(order: Sequence[Node]) -> dict[Node, tuple[Source, Predicate]]:
    """For each node that is made of one source row by row, that source and a condition that all of its rows meet."""
    met: dict[Node, tuple[Source, Predicate]] = {}
    for node in order:
        if isinstance(node, Source):
            met[node] = (node, EVERYTHING)
        below = [other for other in node.inputs if not other.broadcast]
        if not isinstance(node, Blockwise) or not node.rowwise or not below or not all(other in met for other in below):
            continue
        source, rows = met[below[0]]
        if any(met[other][0] != source for other in below):
            continue
        if isinstance(node, Filter):
            rows = rows & condition_of(node.inputs[1])
        else:  # rows that only one of the inputs has are matched with nothing
            for other in below[1:]:
                rows = rows | met[other][1]
        met[node] = (source, rows)
    return met


def condition_of(mask: Node) -> Predicate:
    """The condition on columns of the source that a series of truth values stands for, as far as it is one."""
    if not isinstance(mask, Blockwise):
        return EVERYTHING
    if isinstance(mask, Project):
        column = _column_of(mask)
        return EVERYTHING if column is None or mask.meta.dtype != bool else Compare(column, "==", True)
    name, fn = _method_of(mask), mask.fn
    if mask.args == (Input(0), Input(1)) and not mask.kwargs and fn in (operator.and_, operator.or_):
        return fn(*map(condition_of, mask.inputs))
    if fn is operator.invert and mask.meta.dtype in (bool, "boolean"):
        return condition_of(mask.inputs[0]).opposite()
    column = _column_of(mask.inputs[0])
    others = [arg for arg in mask.args if arg != Input(0)] if all(_is_plain(arg) for arg in mask.args) else None
    if column is None or others is None or len(mask.inputs) > 1:
        return EVERYTHING
    if name in _NULLS and not others and not mask.kwargs:
        return IsNull(column, _NULLS[name])
    if name == "isin" and len(others) == 1 and not mask.kwargs and isinstance(others[0], list | tuple | set | frozenset):
        values = tuple(others[0])
        return IsIn(column, values) if all(map(pd.api.types.is_scalar, values)) else EVERYTHING
    if name == "between" and len(others) == 2:
        return Compare(column, ">=", others[0]) & Compare(column, "<=", others[1])
    op = _BY_METHOD.get(name) if name else _BY_FUNCTION.get(fn)
    if op is None or mask.kwargs or len(others) != 1 or not pd.api.types.is_scalar(others[0]):
        return EVERYTHING
    return Compare(column, op if mask.args[0] == Input(0) else _SWAPPED[op], others[0])


def _is_plain(arg: Any) -> bool:
    return not isinstance(arg, Input) or arg == Input(0)


def _method_of(node: Blockwise) -> str | None:
    """The pandas method that a step calls."""
    fn = node.fn
    return fn.args[0] if isinstance(fn, partial) and fn.func is steps.call_method and len(fn.args) == 1 else None


def _column_of(node: Node) -> Any:
    """The column of a source that a series is, unchanged."""
    if isinstance(node, Filter):
        return _column_of(node.inputs[0])
    if not isinstance(node, Project) or not isinstance(node.meta, pd.Series):
        return None
    column, below = node.columns, node.inputs[0]
    while not isinstance(below, Source):
        if isinstance(below, Rename):
            olds = [old for old in below.inputs[0].meta.columns if below.names.get(old, old) == column]
            if len(olds) != 1:
                return None
            column = olds[0]
        elif (isinstance(below, Assign) and below.column == column) or not isinstance(below, Assign | Filter | Project):
            return None
        below = below.inputs[0]
    return column

"""
Conditions on columns, and which groups of rows can hold one that meets them, from the least and greatest value of each group.

A group is left out only where no row of it can match, by the comparisons that pandas would do on the rows: the bounds are
pandas series of the dtype that the column has, and what cannot be compared, or is not known, may match.
"""

from __future__ import annotations

import abc
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
import pandas as pd

from parml_core.errors import InputError

COMPARISONS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MOST_COMPARED = 64  # of more values only the least and the greatest are compared


@dataclass(frozen=True)
class Bounds:
    """
    What is known of one column in each group of rows.

    Parameters
    ----------
    known : array of bool, shape (n_groups,)
        Whether the group's bounds are.
    low, high : Series, shape (n_known,)
        No value of the group is less than `low` or greater than `high`. A text may begin with `high` and go on.
    nulls, values : array of bool, shape (n_groups,)
        Whether a missing value, or one that is not missing, may be there.
    """

    known: np.ndarray
    low: pd.Series
    high: pd.Series
    nulls: np.ndarray
    values: np.ndarray


class Statistics(Protocol):
    """The bounds of columns in each of several groups of rows."""

    def __len__(self) -> int: ...

    def bounds(self, column: Any) -> Bounds | None: ...


class Values(Protocol):
    """The values of columns in each of several rows."""

    def __len__(self) -> int: ...

    def column(self, name: Any) -> pd.Series | None: ...


class Predicate(abc.ABC):
    """A condition on rows."""

    @abc.abstractmethod
    def may_match(self, statistics: Statistics) -> np.ndarray:
        """For each group whether it can hold a row for which the condition is true."""

    @abc.abstractmethod
    def holds(self, rows: Values) -> np.ndarray:
        """For each row whether the condition may be true; of columns that are not there nothing is known."""

    def opposite(self) -> Predicate:
        """A condition that is true at least where this one is false."""
        return EVERYTHING

    def terms(self) -> list[Predicate]:
        """The conditions all of which have to be met."""
        return [self]

    def __and__(self, other: Predicate) -> Predicate:
        new = [term for term in other.terms() if term not in self.terms()]
        return reduce(Both, new, self)

    def __or__(self, other: Predicate) -> Predicate:
        if self == other:
            return self
        return Either(self, other) if not isinstance(other, Everything) else EVERYTHING


@dataclass(frozen=True)
class Everything(Predicate):
    """Any row: nothing is known of it."""

    def may_match(self, statistics: Statistics) -> np.ndarray:
        return np.ones(len(statistics), bool)

    def holds(self, rows: Values) -> np.ndarray:
        return np.ones(len(rows), bool)

    def terms(self) -> list[Predicate]:
        return []

    def __and__(self, other: Predicate) -> Predicate:
        return other

    def __or__(self, other: Predicate) -> Predicate:
        return self

    def __str__(self) -> str:
        return "any row"


EVERYTHING = Everything()


@dataclass(frozen=True)
class Both(Predicate):
    """Two conditions at once."""

    one: Predicate
    other: Predicate

    def terms(self) -> list[Predicate]:
        return [*self.one.terms(), *self.other.terms()]

    def may_match(self, statistics: Statistics) -> np.ndarray:
        return self.one.may_match(statistics) & self.other.may_match(statistics)

    def holds(self, rows: Values) -> np.ndarray:
        return self.one.holds(rows) & self.other.holds(rows)

    def opposite(self) -> Predicate:
        return self.one.opposite() | self.other.opposite()

    def __str__(self) -> str:
        return f"({self.one} and {self.other})"


@dataclass(frozen=True)
class Either(Predicate):
    """One of two conditions."""

    one: Predicate
    other: Predicate

    def may_match(self, statistics: Statistics) -> np.ndarray:
        return self.one.may_match(statistics) | self.other.may_match(statistics)

    def holds(self, rows: Values) -> np.ndarray:
        return self.one.holds(rows) | self.other.holds(rows)

    def opposite(self) -> Predicate:
        return self.one.opposite() & self.other.opposite()

    def __str__(self) -> str:
        return f"({self.one} or {self.other})"


@dataclass(frozen=True)
class Compare(Predicate):
    """A column compared with a value; missing values are unequal to every value, as in numpy."""

    column: Any
    op: str
    value: Any

    def may_match(self, statistics: Statistics) -> np.ndarray:
        bounds = statistics.bounds(self.column)
        result = np.ones(len(statistics), bool)
        if bounds is None or pd.isna(self.value):
            return result
        try:
            result[bounds.known] = _true(self._within(bounds.low, bounds.high))
        except Exception:  # whatever pandas says of such a comparison it shall say of the rows
            return np.ones(len(statistics), bool)
        result &= bounds.values
        return result | bounds.nulls if self.op == "!=" else result

    def holds(self, rows: Values) -> np.ndarray:
        return _holds(rows, self.column, lambda values: COMPARISONS[self.op](values, self.value))

    def _within(self, low: pd.Series, high: pd.Series) -> Any:
        value = self.value
        text = isinstance(value, str | bytes) and all(isinstance(bound, type(value)) for bound in high)
        above = np.array([text and value.startswith(bound) for bound in high], bool)  # cut short: the value may lie beyond
        match self.op:
            case "<" | "<=":
                return COMPARISONS[self.op](low, value)
            case ">" | ">=":
                return _true(COMPARISONS[self.op](high, value)) | above
            case "==":
                return _true(low <= value) & (_true(high >= value) | above)
        return ~(_true(low == value) & _true(high == value)) | text

    def opposite(self) -> Predicate:
        return Compare(self.column, _OPPOSITE[self.op], self.value) | IsNull(self.column, True)

    def __str__(self) -> str:
        return f"{self.column} {self.op} {self.value!r}"


@dataclass(frozen=True)
class IsIn(Predicate):
    """A column with one of several values."""

    column: Any
    values: tuple[Any, ...]

    def may_match(self, statistics: Statistics) -> np.ndarray:
        values = [value for value in self.values if not pd.isna(value)]
        result = np.zeros(len(statistics), bool)
        if len(values) < len(self.values):
            result |= IsNull(self.column, True).may_match(statistics)
        if len(values) > _MOST_COMPARED:
            try:
                least, greatest = min(values), max(values)
            except TypeError:  # of several kinds
                return np.ones(len(statistics), bool)
            between = Compare(self.column, ">=", least) & Compare(self.column, "<=", greatest)
            return result | between.may_match(statistics)
        for value in values:
            result |= Compare(self.column, "==", value).may_match(statistics)
        return result

    def holds(self, rows: Values) -> np.ndarray:
        return _holds(rows, self.column, lambda values: values.isin(self.values))

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.values[:6])) + (", …" if len(self.values) > 6 else "")
        return f"{self.column} in [{shown}]"


@dataclass(frozen=True)
class IsNull(Predicate):
    """A column without a value, or with one."""

    column: Any
    null: bool

    def may_match(self, statistics: Statistics) -> np.ndarray:
        bounds = statistics.bounds(self.column)
        if bounds is None:
            return np.ones(len(statistics), bool)
        return bounds.nulls if self.null else bounds.values

    def holds(self, rows: Values) -> np.ndarray:
        return _holds(rows, self.column, lambda values: values.isna() if self.null else values.notna())

    def opposite(self) -> Predicate:
        return IsNull(self.column, not self.null)

    def __str__(self) -> str:
        return f"{self.column} is {'' if self.null else 'not '}null"


def _holds(rows: Values, column: Any, test: Callable[[pd.Series], Any]) -> np.ndarray:
    values = rows.column(column)
    if values is None:
        return np.ones(len(rows), bool)
    try:
        return _true(test(values))
    except Exception:  # whatever pandas says of such a comparison it shall say of the rows
        return np.ones(len(rows), bool)


def _true(values: Any) -> np.ndarray:
    """Truth values as an array; what is missing may be true."""
    return pd.Series(values).astype("boolean").fillna(True).to_numpy(bool)


def of_filters(filters: Any) -> tuple[Predicate, set[str]]:
    """
    The condition that ``filters=`` of pandas and pyarrow means, and its columns.

    Parameters
    ----------
    filters : list of (column, op, value), or list of such lists
        All of a list, any of the lists. `op` is one of ``= == != < <= > >= in "not in"``.

    Raises
    ------
    InputError
        It has another form.
    """
    lists = [filters] if isinstance(filters, list) and filters and isinstance(filters[0], tuple) else filters
    columns: set[str] = set()
    result: Predicate | None = None
    try:
        for conditions in lists:
            every: Predicate = EVERYTHING
            for column, op, value in conditions:
                columns.add(column)
                every = every & _of_filter(column, op, value)
            result = every if result is None else result | every
        if result is None or not isinstance(lists, list):
            raise ValueError("no condition")
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            "expected filters= to be a list of (column, op, value) with op one of =, ==, !=, <, <=, >, >=, in, not in, or a "
            f"list of such lists, found {filters!r}; or choose rows with frame[condition], which reads as little"
        ) from error
    return result, columns


def _of_filter(column: str, op: str, value: Any) -> Predicate:
    if op == "in":
        return IsIn(column, tuple(value))
    if op == "not in":
        return EVERYTHING
    op = "==" if op == "=" else op
    if op not in COMPARISONS:
        raise ValueError(op)
    return Compare(column, op, value)

"""
How many models are trained until when: pure arithmetic, known before anything is trained.

A schedule is a list of rungs. On each rung the models train until they have had a number of calls of `partial_fit`, and the
best of them go on to the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Rung", "calls_of", "decaying", "hyperband", "summary"]


class Rung(NamedTuple):
    """
    A decision.

    Parameters
    ----------
    n_models : int
        How many models train here.
    calls : int
        How many calls of `partial_fit` each has had at the end, those of earlier rungs counted.
    """

    n_models: int
    calls: int


def hyperband(max_iter: int, eta: int) -> dict[int, list[Rung]]:
    """
    The brackets of Hyperband: Algorithm 1 of Li et al. (2016), https://arxiv.org/abs/1603.06560.

    Parameters
    ----------
    max_iter : int
        The most calls that a model gets, R in the paper.
    eta : int
        One model in `eta` goes on.

    Returns
    -------
    dict of int to list of Rung
        By bracket: 0 trains few models to the end, the highest stops most of its many models early. First calls are rounded
        down to whole ones.

    Examples
    --------
    >>> {bracket: rungs[0] for bracket, rungs in hyperband(81, 3).items()}  # doctest: +NORMALIZE_WHITESPACE
    {4: Rung(n_models=81, calls=1), 3: Rung(n_models=34, calls=3), 2: Rung(n_models=15, calls=9),
     1: Rung(n_models=8, calls=27), 0: Rung(n_models=5, calls=81)}
    """
    s_max = 0
    while eta ** (s_max + 1) <= max_iter:
        s_max += 1
    brackets = {}
    for s in range(s_max, -1, -1):
        n_models, calls = -(-(s_max + 1) * eta**s // (s + 1)), max_iter // eta**s
        brackets[s] = [Rung(n_models // eta**i, calls * eta**i) for i in range(s + 1)]
    return brackets


def decaying(n_models: int, max_iter: int, *, rate: float = 0.0, fits_per_score: int = 1) -> list[Rung]:
    """
    Of `n_models`, ``n_models / (1 + k) ** rate`` are left after `k` calls, at least one; the last trains to the end.

    Examples
    --------
    >>> [tuple(rung) for rung in decaying(10, 20, rate=1.0)]
    [(10, 1), (5, 2), (3, 3), (2, 5), (1, 20)]
    >>> [tuple(rung) for rung in decaying(10, 5, fits_per_score=2)]
    [(10, 1), (10, 3), (10, 5)]
    """

    def left(calls: int) -> int:
        return max(1, int(n_models / (1 + calls) ** rate))

    rungs = [Rung(n_models, 1)]
    while (calls := rungs[-1].calls) < max_iter:
        n, until = left(calls), calls + 1 if rate else calls + fits_per_score
        while rate and left(until) == n and until < max_iter:
            until += 1
        rungs.append(Rung(n, min(until, max_iter)))
    return rungs


def calls_of(rungs: list[Rung], n_models: int | None = None) -> int:
    """
    How many calls of `partial_fit` a schedule makes.

    Parameters
    ----------
    n_models : int, optional
        How many models there are, where that is fewer than the schedule would take.

    Examples
    --------
    >>> sum(calls_of(rungs) for rungs in hyperband(81, 3).values())
    1581
    """
    total, before = 0, 0
    for rung in rungs:
        total += (rung.n_models if n_models is None else min(rung.n_models, n_models)) * (rung.calls - before)
        before = rung.calls
    return total


def summary(brackets: dict[int, list[Rung]]) -> dict[str, Any]:
    """
    What a search over `brackets` will do, as its `metadata` says it.

    Examples
    --------
    >>> summary({0: [Rung(2, 4)]})["brackets"]
    [{'bracket': 0, 'n_models': 2, 'partial_fit_calls': 8, 'decisions': [4]}]
    """
    each = [
        {
            "bracket": bracket,
            "n_models": rungs[0].n_models,
            "partial_fit_calls": calls_of(rungs),
            "decisions": [rung.calls for rung in rungs],
        }
        for bracket, rungs in sorted(brackets.items())
    ]
    return {
        "n_models": sum(info["n_models"] for info in each),
        "partial_fit_calls": sum(info["partial_fit_calls"] for info in each),
        "brackets": each,
    }

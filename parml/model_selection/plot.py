"""Pictures of a search, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from parml_core.errors import InputError

__all__ = ["Plotted"]


class Plotted:
    """A search that can be drawn."""

    cv_results_: dict[str, Any]

    def plot(
        self,
        kind: str | None = None,
        *,
        parameters: Sequence[str] | None = None,
        metric: str | None = None,
        axes: Any = None,
    ) -> Any:
        """
        Draw the scores; needs ``pip install 'parml[plot]'``.

        Parameters
        ----------
        kind : {"parameters", "rungs"}, optional
            Scores against each parameter that varies, or each candidate's score on its way through the rungs. Default: rungs
            where the search has some.
        parameters : sequence of str, optional
            Which, for ``kind="parameters"``.
        metric : str, optional
            Which of several scores. Default: the one of `refit`.
        axes : sequence of matplotlib Axes, optional
            Where to draw. Default: a new figure.

        Returns
        -------
        list of matplotlib Axes
        """
        check_is_fitted(self, "cv_results_")
        if kind not in (None, "parameters", "rungs"):
            raise InputError(f"expected kind 'parameters' or 'rungs', found {kind!r}; choose one of them")
        curves = _curves(self, _metric_of(self, metric))
        if kind == "rungs" and not curves:
            raise InputError(f"expected a search with rungs, found {type(self).__name__}; use kind='parameters'")
        if kind == "rungs" or (kind is None and curves):
            return _draw_rungs(self, curves, axes)
        return _draw_parameters(self, _metric_of(self, metric), parameters, axes)


def _metric_of(search: Any, metric: str | None) -> str:
    results = search.cv_results_
    if "test_score" in results:
        return "test_score"
    if metric is None:
        metric = search.refit if isinstance(search.refit, str) else "score"
    if f"mean_test_{metric}" not in results:
        known = [name.removeprefix("mean_test_") for name in results if name.startswith("mean_test_")]
        raise InputError(f"expected one of the scores {known}, found {metric!r}; give one as metric")
    return f"mean_test_{metric}"


def _curves(search: Any, metric: str) -> list[tuple[list[float], list[float]]]:
    """For each candidate that had several resources, or could have, these and its scores."""
    results = search.cv_results_
    if hasattr(search, "model_history_"):
        histories = search.model_history_.values()
        return [([r["partial_fit_calls"] for r in records], [r["score"] for r in records]) for records in histories]
    if "iter" not in results:
        return []
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for params, resources, score in zip(results["params"], results["n_resources"], results[metric], strict=True):
        of = repr({name: value for name, value in params.items() if name != search.resource})
        xs, ys = curves.setdefault(of, ([], []))
        xs.append(float(resources))
        ys.append(float(score))
    return list(curves.values())


def _draw_rungs(search: Any, curves: list[tuple[list[float], list[float]]], axes: Any) -> list[Any]:
    (ax,) = _axes(1, axes)
    for xs, ys in curves:
        ax.plot(xs, ys, marker="o", markersize=3, linewidth=1, alpha=0.6, color="tab:blue")
    xs = [x for curve, _ in curves for x in curve]
    if max(xs) > 10 * min(xs) > 0:
        ax.set_xscale("log")
    if hasattr(search, "best_score_"):
        ax.axhline(search.best_score_, color="tab:red", linewidth=1, linestyle="--")
    ax.set_xlabel("partial_fit calls" if hasattr(search, "model_history_") else search.resource)
    ax.set_ylabel("score")
    return [ax]


def _draw_parameters(search: Any, metric: str, parameters: Sequence[str] | None, axes: Any) -> list[Any]:
    results = search.cv_results_
    known = [name.removeprefix("param_") for name in results if name.startswith("param_")]
    for name in parameters or ():
        if name not in known:
            raise InputError(f"expected parameters among {known}, found {name!r}; choose from them")
    chosen = list(
        parameters or [name for name in known if len({repr(value) for value in results[f"param_{name}"]}) > 1] or known
    )
    drawn = _axes(len(chosen), axes)
    scores = np.asarray(results[metric], float)
    spread = results.get(metric.replace("mean_", "std_", 1)) if metric.startswith("mean_") else None
    for ax, name in zip(drawn, chosen, strict=True):
        values = results[f"param_{name}"]
        here = ~np.ma.getmaskarray(values)
        xs = _places(ax, [value for value, shown in zip(np.ma.getdata(values), here, strict=True) if shown])
        ax.errorbar(xs, scores[here], None if spread is None else spread[here], fmt="o", markersize=4, alpha=0.6)
        best = getattr(search, "best_index_", None)
        if best is not None and here[best]:
            ax.plot(xs[int(here[:best].sum())], scores[best], "*", markersize=12, color="tab:red")
        ax.set_xlabel(name)
        ax.set_ylabel("score")
    return drawn


def _places(ax: Any, values: list[Any]) -> Any:
    """Where the values stand on the axis: numbers as they are, all else in a row."""
    if values and all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, float)
        if numbers.min() > 0 and numbers.max() / numbers.min() > 50:
            ax.set_xscale("log")
        return numbers
    texts = [str(value) for value in values]
    different = list(dict.fromkeys(texts))
    ax.set_xticks(range(len(different)), different)
    return np.array([different.index(text) for text in texts], float)


def _axes(n: int, given: Any) -> list[Any]:
    if given is not None:
        axes = list(np.ravel(given))
        if len(axes) != n:
            raise InputError(f"expected {n} axes, one for each picture, found {len(axes)}; give as many, or none")
        return axes
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("expected matplotlib to be installed for plot, found it is not; pip install 'parml[plot]'") from error
    _, grid = plt.subplots(1, n, figsize=(4 * n, 3.5), sharey=True, squeeze=False, layout="constrained")
    return list(grid[0])

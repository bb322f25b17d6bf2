"""What a search draws is what its results say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import SGDClassifier
from sklearn.tree import DecisionTreeClassifier

from parml.model_selection import GridSearchCV, HalvingGridSearchCV, HyperbandSearchCV
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'parml[plot]'")
X, Y = make_classification(120, 6, n_informative=4, random_state=0)
TREE = DecisionTreeClassifier(random_state=0)


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_plot_of_a_grid_has_a_panel_for_each_parameter_that_varies() -> None:
    """Points stand at the values of the parameter and the mean scores; the best is marked; words stand in a row."""
    grid = {"max_depth": [1, 3], "criterion": ["gini", "entropy"], "min_samples_leaf": [1, 1000], "splitter": ["best"]}
    search = GridSearchCV(TREE, grid, cv=3, client=InlineEngine()).fit(X, Y)
    axes = search.plot()
    assert [ax.get_xlabel() for ax in axes] == ["criterion", "max_depth", "min_samples_leaf"]
    points, star = axes[1].lines[0], axes[1].lines[-1]
    assert points.get_xdata().tolist() == [params["max_depth"] for params in search.cv_results_["params"]]
    np.testing.assert_array_equal(points.get_ydata(), search.cv_results_["mean_test_score"])
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (search.best_params_["max_depth"], search.best_score_)
    assert axes[2].get_xscale() == "log" and axes[1].get_xscale() == "linear"
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["gini", "entropy"]
    (only,) = search.plot(parameters=["splitter"])
    assert search.plot(parameters=["max_depth"], axes=[only]) == [only]


def test_plot_of_rungs_has_a_line_for_each_candidate() -> None:
    """Of successive halving against the resource, of Hyperband against the calls."""
    grid = {"max_depth": [1, 2, 3], "min_samples_split": [2, 9]}
    halving = HalvingGridSearchCV(TREE, grid, cv=3, random_state=0).fit(X, Y)
    (ax,) = halving.plot()
    lengths = [len(line.get_xdata()) for line in ax.lines[:-1]]
    assert len(lengths) == 6 and sum(lengths) == sum(halving.n_candidates_) and max(lengths) == halving.n_iterations_
    assert ax.get_xlabel() == "n_samples" and len(halving.plot("parameters")) == 2
    band = HyperbandSearchCV(SGDClassifier(), {"alpha": np.logspace(-5, 1, 20)}, max_iter=9, random_state=0).fit(X, Y)
    (ax,) = band.plot()
    assert len(ax.lines) == band.metadata["n_models"] + 1 and ax.get_xlabel() == "partial_fit calls"
    assert max(line.get_xdata()[-1] for line in ax.lines[:-1]) == 9
    (ax,) = band.plot("parameters")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), band.cv_results_["test_score"])


def test_plot_refuses_what_it_cannot_draw() -> None:
    """With what there is."""
    scores: dict[str, Any] = {"scoring": ["accuracy", "f1"], "refit": "f1"}
    search = GridSearchCV(TREE, {"max_depth": [1, 3]}, cv=3, client=InlineEngine(), **scores).fit(X, Y)
    np.testing.assert_array_equal(search.plot()[0].lines[0].get_ydata(), search.cv_results_["mean_test_f1"])
    accuracy = search.plot(metric="accuracy")[0].lines[0].get_ydata()
    np.testing.assert_array_equal(accuracy, search.cv_results_["mean_test_accuracy"])
    for options in ({"metric": "r2"}, {"kind": "rungs"}, {"kind": "bars"}, {"parameters": ["depth"]}, {"axes": []}):
        with pytest.raises(InputError):
            search.plot(**options)


def test_without_matplotlib_plot_says_what_to_install() -> None:
    """The search itself needs none."""
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.pyplot'] = None\n"
        "from parml.model_selection import GridSearchCV\n"
        "from sklearn.naive_bayes import GaussianNB\n"
        "search = GridSearchCV(GaussianNB(), {'var_smoothing': [1e-9, 1e-8]}, cv=2).fit([[0], [1], [2], [3]], [0, 1, 0, 1])\n"
        "try: search.plot()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'parml[plot]'" in done.stdout

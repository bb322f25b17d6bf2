"""Classifiers over three hosts, of which one has no row of a class, one has a single class, or one has nothing at all."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from sklearn.metrics import accuracy_score, log_loss

import parml.lightgbm as pl
import parml.xgboost as px
from tests.hosts.network import Cluster, Host
from tests.hosts.placed import Placed

pytestmark = pytest.mark.slow

ROWS = 1500
_rng = np.random.default_rng(7)
X = _rng.normal(size=(ROWS, 4)).round(1)
SCORE = X[:, 0] + np.abs(X[:, 1]) + 0.5 * _rng.normal(size=ROWS)
LABELS = {
    "text": np.array(["no", "perhaps", "yes"], object),
    "1, 2": np.array([1, 2]),
    "0, 2, 4": np.array([0, 2, 4]),
}
TREES = 15


def codes_of(labels: np.ndarray) -> np.ndarray:
    """The true class of each row as a number, with so many classes."""
    return np.digitize(SCORE, np.quantile(SCORE, [0.35, 0.6] if len(labels) == 3 else [0.6]))


def order_of(rows: str, codes: np.ndarray) -> np.ndarray:
    """In which order the rows come: the first third goes to the first host."""
    zeros, ones = (np.flatnonzero(codes == code) for code in (0, 1))
    first = {
        "no last class on a host": np.sort(np.r_[zeros[:250], ones[:250]]),
        "a single class on a host": zeros[:500],
        "an empty host": np.arange(500),
    }[rows]
    return np.r_[first, np.setdiff1d(np.arange(ROWS), first)]


def plain(library: str) -> Any:
    if library == "lightgbm":
        return lgb.LGBMClassifier(n_estimators=TREES, n_jobs=1, verbosity=-1)
    return xgb.XGBClassifier(n_estimators=TREES, n_jobs=1)


def ours(library: str, client: Any) -> Any:
    if library == "lightgbm":
        return pl.LGBMClassifier(n_estimators=TREES, n_jobs=1, verbosity=-1, client=client)
    return px.XGBClassifier(n_estimators=TREES, n_jobs=1, client=client)


def check(model: Any, library: str, labels: np.ndarray, codes: np.ndarray) -> None:
    """Classes, and predictions in the labels that were given, as right as those of one machine."""
    expected = plain(library).fit(X, codes)
    assert model.classes_.tolist() == labels.tolist() and model.n_classes_ == len(labels)
    predicted = model.predict(X)
    assert set(predicted) <= set(labels) and predicted.shape == (ROWS,)
    assert accuracy_score(labels[codes], predicted) == pytest.approx(accuracy_score(codes, expected.predict(X)), abs=0.01)
    found, wanted = (one.predict_proba(X) for one in (model, expected))
    if library == "xgboost":  # of so few values it cuts columns alike on any number of hosts
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert log_loss(codes, found) == pytest.approx(log_loss(codes, wanted), rel=0.03)
    assert predicted.tolist() == labels[found.argmax(axis=1)].tolist()


@pytest.mark.parametrize("rows", ["no last class on a host", "a single class on a host", "an empty host"])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_classifier_over_hosts_learns_what_one_machine_does(
    three_hosts: Cluster, hosts: list[Host], library: str, kind: str, rows: str
) -> None:
    """However classes are spread over hosts and partitions; some of these have no rows at all."""
    labels = LABELS[kind]
    codes = codes_of(labels)
    order = order_of(rows, codes)
    n_on_first = len(set(codes[order][: ROWS // 3]))
    assert n_on_first == {"no last class on a host": 2, "a single class on a host": 1, "an empty host": len(labels)}[rows]
    where = [three_hosts.workers_of(host)[0] for host in hosts]
    where = where[:2] if rows == "an empty host" else where
    edges = (0, 0, 40, 500, 500, 1100, 1499, ROWS, ROWS)
    parts = [Placed(three_hosts.client, value[order], edges, where) for value in (X, labels[codes])]
    model = ours(library, three_hosts.client).fit(*parts)
    check(model, library, labels, codes)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_classifier_with_fewer_rows_than_hosts_is_trained_on_as_many(three_hosts: Cluster, library: str) -> None:
    """Two rows are trained on by two hosts: a rank without rows would have nothing to agree on."""
    model = ours(library, three_hosts.client).fit(X[:2], ["yes", "no"])
    assert model.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(model.predict_proba(X[:2]), plain(library).fit(X[:2], [1, 0]).predict_proba(X[:2]), atol=1e-6)

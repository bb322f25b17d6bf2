"""A line says how far a training is, where it is asked for."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import parml.lightgbm as pl
import parml.xgboost as px
from parml.boosting.checkpoints import Checkpoints, Sender
from parml.boosting.progress import news_of, progress_line
from parml_core.engine.inline import InlineEngine
from parml_core.errors import NotSupported

X = np.arange(200.0).reshape(100, 2)


def test_news_are_heard_in_order_not_too_often_and_are_no_checkpoint() -> None:
    """The first one at once, those of the next moment not; the caller keeps none of them."""
    heard: list[tuple[int, Any]] = []
    with Checkpoints(["127.0.0.1"], lambda rounds, news: heard.append((rounds, json.loads(news)))) as kept:
        assert kept.depot.news
        with Sender(kept.depot) as sender:
            sender.send(1, b"trees")
            for i in range(2, 5):
                sender.tell(i, lambda i=i: news_of({"t": {"rmse": [9.0, i / 2]}}))
    assert heard[0] == (2, {"t": {"rmse": 1.0}}) and len(heard) < 3
    assert kept.latest is not None and kept.latest.rounds == 1


def test_news_that_nobody_wants_are_not_sent() -> None:
    """What it costs is nothing, not even making them."""
    with Checkpoints(["127.0.0.1"]) as kept, Sender(kept.depot) as sender:
        sender.tell(1, lambda: pytest.fail("made"))


def test_line_has_rounds_and_metrics() -> None:
    """Names with brackets are not taken for colours."""
    out = io.StringIO()
    with progress_line(12, shown=True, file=out) as line:
        assert line is not None
        line(7, news_of({"held[0]": {"auc": [0.5, 0.875]}}))
    assert "7/12" in out.getvalue() and "held[0] auc 0.875" in out.getvalue()


def test_line_without_rich_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is needed where no line is asked for."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with progress_line(3, shown=False) as line:
        assert line is None
    with pytest.raises(NotSupported, match="pip install rich"), progress_line(3, shown=True):
        pass


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("where", ["here", "on a cluster"])
def test_train_shows_its_progress(where: str, library: str, cluster_client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The metrics of a round that was trained, also where there are no checkpoints; the model is the same."""
    engine = InlineEngine() if where == "here" else cluster_client
    options: dict[str, Any] = {"progress": True, "max_restarts": 0}
    if library == "xgboost":
        dtrain = px.DMatrix(engine, X, X[:, 0])
        result = px.train(engine, {}, dtrain, 3, evals=[(dtrain, "seen")], verbose_eval=False, **options)
        values = result["history"]["seen"]["rmse"]
    else:
        train_set = pl.Dataset(engine, X, X[:, 0])
        result = pl.train(engine, {"verbosity": -1}, train_set, 3, valid_sets=[train_set], valid_names="seen", **options)
        values = result["history"]["seen"]["l2"]
    out = " ".join(capsys.readouterr().out.split())
    assert "/3" in out
    assert any(f"{value:.5g}" in out for value in values), (out, values)


@pytest.mark.parametrize("model", [px.XGBRegressor(n_estimators=3), pl.LGBMRegressor(n_estimators=3, verbosity=-1)])
def test_estimator_shows_its_progress(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The option reaches the training."""
    with InlineEngine() as engine:
        clone(model).set_params(client=engine, progress=True).fit(X, X[:, 0])
        assert "/3" in capsys.readouterr().out
        clone(model).set_params(client=engine).fit(X, X[:, 0])
        assert "/3" not in capsys.readouterr().out

"""What parml's estimators for XGBoost have that xgboost's own have not; what is alike stands in boosting/ and in the suite."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.model_selection import GridSearchCV

import parml.xgboost as px
from parml.dataframe import from_pandas
from parml_core.engine.base import Engine
from parml_core.errors import InputError, NotSupported

ROWS = 600
_rng = np.random.default_rng(2)
X = pd.DataFrame(_rng.normal(size=(ROWS, 4)), columns=list("abcd"))
TARGET = (X.a + X.b * X.c + 0.3 * _rng.normal(size=ROWS)).to_numpy()
CODES = np.digitize(TARGET, [-0.7, 0.5])
WEIGHT = _rng.random(ROWS)
QID = np.repeat(np.arange(60), 10)


def _dump(model: xgb.XGBModel) -> list[str]:
    return model.get_booster().get_dump(with_stats=True, dump_format="json")


def _threads(engine: Engine) -> int:
    return sum(worker.nthreads for worker in engine.workers())


def _labels(kind: str) -> Any:
    return {
        "text": np.array(["low", "middle", "up"])[CODES],
        "pandas text": pd.Series(np.array(["low", "middle", "up"])[CODES]),
        "categories": pd.Series(pd.Categorical(np.array(["low", "middle", "up"])[CODES])),
        "1 2": np.where(CODES > 0, 2, 1),
        "0 2 4": CODES * 2,
        "floats": CODES.astype("f4"),
        "bool": CODES > 0,
    }[kind]


@pytest.mark.parametrize("kind", ["text", "pandas text", "categories", "1 2", "0 2 4", "floats", "bool"])
@pytest.mark.parametrize("chunked", [False, True])
def test_classifier_labels_of_any_kind_are_those_of_the_codes(engine: Engine, parts: Any, kind: str, chunked: bool) -> None:
    """The trees are those of codes 0 … n-1, `classes_` are the labels, and labels are what is predicted."""
    labels = _labels(kind)
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    rows = np.argsort(codes, kind="stable")  # no partition has all classes
    Xs, ys = X.iloc[rows], labels.iloc[rows] if isinstance(labels, pd.Series) else labels[rows]
    plain = xgb.XGBClassifier(n_estimators=4, n_jobs=_threads(engine)).fit(Xs, codes[rows])
    ours = px.XGBClassifier(n_estimators=4, client=engine)
    ours.fit(*([parts(Xs, 90, 200), parts(ys, 90, 200)] if chunked else [Xs, ys]), eval_set=[(Xs, ys)], verbose=False)
    assert _dump(ours) == _dump(plain)
    np.testing.assert_array_equal(ours.classes_, classes)
    np.testing.assert_array_equal(ours.predict(X), classes[plain.predict(X)])
    np.testing.assert_array_equal(ours.predict(parts(X, 80)).compute(engine), classes[plain.predict(X)])
    np.testing.assert_array_equal(ours.predict_proba(parts(X, 80)).compute(engine), plain.predict_proba(X))
    assert ours.score(parts(Xs, 80), parts(ys, 80)) == pytest.approx(plain.score(Xs, codes[rows]))


def test_classifier_over_ranks_that_lack_classes_learns_all(cluster_client: Any) -> None:
    """Sorted by label each of two ranks lacks a class, one has a single one: as good as xgboost on all rows."""
    for cuts in ([-0.7, 0.5], [0.0]):
        labels = np.array(["low", "middle", "up"])[np.digitize(np.sort(TARGET), cuts)]
        Xs = X.iloc[np.argsort(TARGET)]
        codes = np.unique(labels, return_inverse=True)[1]
        plain = xgb.XGBClassifier(n_estimators=10).fit(Xs, codes)
        ours = px.XGBClassifier(n_estimators=10, client=cluster_client, ranks="worker").fit(Xs, labels)
        assert list(ours.classes_) == sorted(set(labels))
        assert ours.score(Xs, labels) == pytest.approx(plain.score(Xs, codes), abs=0.02)


def test_regressor_base_margin_reaches_training_and_partitions(engine: Engine, parts: Any) -> None:
    """A margin in partitions beside partitions, also for predictions."""
    margin = np.linspace(-1, 1, ROWS)
    plain = xgb.XGBRegressor(n_estimators=3, n_jobs=_threads(engine)).fit(X, TARGET, base_margin=margin)
    ours = px.XGBRegressor(n_estimators=3, client=engine).fit(X, TARGET, base_margin=margin)
    lazy = ours.predict(parts(X, 100), base_margin=parts(margin, 100))
    np.testing.assert_array_equal(lazy.compute(engine), plain.predict(X, base_margin=margin))
    with pytest.raises(InputError, match="in partitions beside partitions"):
        ours.predict(parts(X, 100), base_margin=margin)


def test_estimator_goes_on_from_another(engine: Engine) -> None:
    """`xgb_model` may be an estimator; its trees see values, which quantiles of other rows would blur."""
    first = xgb.XGBRegressor(n_estimators=2).fit(X[:300], TARGET[:300])
    params = {"nthread": _threads(engine)}
    plain = xgb.train(params, xgb.DMatrix(X, TARGET), 2, xgb_model=first.get_booster())
    ours = px.XGBRegressor(n_estimators=2, client=engine).fit(X, TARGET, xgb_model=first)
    assert _dump(ours) == plain.get_dump(with_stats=True, dump_format="json")


def test_ranker_takes_groups_as_sizes_ids_or_a_column(engine: Engine) -> None:
    """Three ways to say the same; a weight belongs to a group, and may be given for each row of it."""
    plain = xgb.XGBRanker(n_estimators=3, n_jobs=_threads(engine)).fit(X, CODES, qid=QID, sample_weight=WEIGHT[:60])
    ways: list[tuple[Any, dict[str, Any]]] = [(X, {"group": [10] * 60}), (X, {"qid": QID}), (X.assign(qid=QID), {})]
    for data, how in ways:
        for weight in (WEIGHT[:60], np.repeat(WEIGHT[:60], 10)):
            ours = px.XGBRanker(n_estimators=3, client=engine).fit(data, CODES, sample_weight=weight, **how)
            assert _dump(ours) == _dump(plain)
        np.testing.assert_array_equal(ours.predict(data), plain.predict(X))
    with pytest.raises(InputError, match="found neither"):
        px.XGBRanker(client=engine).fit(X, CODES)


def test_ranker_takes_queries_as_a_column_of_a_chunked_table(engine: Engine) -> None:
    """To train on, to evaluate on and to predict for; queries begin in one partition and end in another."""
    table = X.assign(qid=QID)
    plain = xgb.XGBRanker(n_estimators=3, n_jobs=_threads(engine))
    plain.fit(table, CODES, eval_set=[(table, CODES)], verbose=False)
    frame = from_pandas(table.assign(y=CODES), npartitions=7)
    rows = frame[[*X.columns, "qid"]]
    ours = px.XGBRanker(n_estimators=3, client=engine).fit(rows, frame["y"], eval_set=[(rows, frame["y"])], verbose=False)
    assert (_dump(ours), ours.evals_result()) == (_dump(plain), plain.evals_result())
    np.testing.assert_array_equal(ours.predict(rows).compute(engine), plain.predict(X))


def test_ranker_score_is_that_of_the_table_with_queries(engine: Engine, parts: Any) -> None:
    """A score of partitions, whose groups may begin in one and end in another, is refused."""
    plain = xgb.XGBRanker(n_estimators=3, n_jobs=_threads(engine)).fit(X, CODES, qid=QID)
    ours = px.XGBRanker(n_estimators=3, client=engine).fit(X, CODES, qid=QID)
    assert ours.score(X.assign(qid=QID), CODES) == plain.score(X.assign(qid=QID), CODES)
    with pytest.raises(NotSupported, match="expected rows in memory"):
        ours.score(parts(X, 100), parts(CODES, 100))


# --- as an estimator ---------------------------------------------------------------------------------------------------


def test_estimator_in_a_search_finds_what_the_plain_one_finds() -> None:
    """Inside scikit-learn's own search it is an estimator like any other."""
    grid = {"max_depth": [2, 4]}
    found = [
        GridSearchCV(module.XGBRegressor(n_estimators=4, n_jobs=1), grid, cv=3).fit(X, TARGET).cv_results_["mean_test_score"]
        for module in (px, xgb)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_classifier_saved_and_loaded_knows_its_labels(engine: Engine, tmp_path: Any) -> None:
    """The file has the labels, and plain xgboost reads it."""
    ours = px.XGBClassifier(n_estimators=3, client=engine).fit(X, _labels("text"))
    ours.save_model(tmp_path / "model.json")
    loaded = px.XGBClassifier()
    loaded.load_model(tmp_path / "model.json")
    np.testing.assert_array_equal(loaded.predict(X), ours.predict(X))
    assert list(loaded.classes_) == ["low", "middle", "up"]
    plain = xgb.XGBClassifier()
    plain.load_model(tmp_path / "model.json")
    np.testing.assert_array_equal(loaded.classes_[plain.predict(X)], ours.predict(X))
    copy = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(copy.predict(X), ours.predict(X))


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_classifier_label_in_evals_only_is_refused_before_training(engine: Engine, parts: Any) -> None:
    """A label that training has not seen has no code."""
    labels = _labels("text")
    for evals in ([(X, np.where(labels == "up", "upper", labels))], [(parts(X, 9), parts(np.full(ROWS, "upper"), 9))]):
        with pytest.raises(InputError, match="'upper'"):
            px.XGBClassifier(n_estimators=2, client=engine).fit(X, labels, eval_set=evals)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.r_[np.nan, np.ones(ROWS - 1)], "1 of 600"),
        (pd.Series([None, *["a"] * (ROWS - 1)]), "1 of 600"),
        (np.array([1, "a"] * (ROWS // 2), object), "of one type"),
        (np.ones(ROWS - 1), "as many rows"),
    ],
)
def test_classifier_labels_that_are_none_are_refused(engine: Engine, labels: Any, match: str) -> None:
    """Missing labels, labels of several kinds, and another number of them."""
    with pytest.raises(InputError, match=match):
        px.XGBClassifier(n_estimators=2, client=engine).fit(X, labels)


def test_classifier_labels_of_two_kinds_in_two_partitions_are_refused(engine: Engine, parts: Any) -> None:
    """numpy would turn the numbers to text."""
    mixed = pd.Series([1, "a"], dtype=object).repeat(ROWS // 2)
    with pytest.raises(InputError, match="of one type"):
        px.XGBClassifier(n_estimators=2, client=engine).fit(parts(X, ROWS // 2), parts(mixed, ROWS // 2))


def test_estimator_evals_fields_of_another_number_are_refused(engine: Engine) -> None:
    """One weight array for each pair."""
    with pytest.raises(InputError, match="expected sample_weight_eval_set for each of 1 pairs"):
        px.XGBRegressor(client=engine).fit(X, TARGET, eval_set=[(X, TARGET)], sample_weight_eval_set=[WEIGHT, WEIGHT])


def test_forest_with_early_stopping_is_refused(engine: Engine) -> None:
    """As in xgboost."""
    forest = px.XGBRFRegressor(client=engine).set_params(early_stopping_rounds=3)
    with pytest.raises(NotSupported, match="one round"):
        forest.fit(X, TARGET)

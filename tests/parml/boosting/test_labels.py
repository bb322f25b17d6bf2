"""Classes are found over all partitions, and labels mean the same in each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.class_weight import compute_class_weight

from parml.boosting.labels import classes_of, label_values
from parml.testing.parts import Parts
from parml_core.engine.inline import InlineEngine
from parml_core.errors import InputError

LABELS = [["b", "a", "c", "a"], [2, 1, 2, 2], [4, 0, 2, 0], [1.0, 3.0, 3.0, 1.0], [True, False, True, True]]
FORMS = {
    "list": list,
    "numpy": np.array,
    "pandas": pd.Series,
    "column": lambda y: pd.DataFrame({"y": y}),
    "categories": lambda y: pd.Series(pd.Categorical(y)),
    "objects": lambda y: np.array(y, object),
    "pyarrow": lambda y: pa.chunked_array([y[:2], y[2:]]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("y", LABELS, ids=str)
def test_classes_and_codes_are_those_of_scikit_learn(y: list[Any], form: str) -> None:
    """Of labels in memory and in partitions, in any form, also where a partition has one class or none."""
    encoder = LabelEncoder().fit(y)
    whole, parts = FORMS[form](y), Parts(FORMS[form](y[:1]), FORMS[form](y)[:0], FORMS[form](y[1:]))
    with InlineEngine() as engine:
        for given in (whole, parts):
            classes = classes_of(engine, given)
            assert classes.labels.tolist() == encoder.classes_.tolist()
            assert classes.counts.sum() == 4
            codes = classes.encode(given)
            codes = codes.compute(engine) if given is parts else codes
            assert codes.tolist() == encoder.transform(y).tolist()


def test_class_weights_are_those_of_scikit_learn() -> None:
    """Balanced, or by label; a class that is not named weighs one."""
    with InlineEngine() as engine:
        classes = classes_of(engine, Parts(["a", "a"], ["b", "a", "c"]))
    expected = compute_class_weight("balanced", classes=classes.labels, y=["a", "a", "b", "a", "c"])
    np.testing.assert_array_equal(classes.weights("balanced"), expected)
    np.testing.assert_array_equal(classes.weights({"b": 3}), [1, 3, 1])
    with pytest.raises(InputError, match=r"\['z'\] in it"):
        classes.weights({"z": 1})
    with pytest.raises(InputError, match="'balanced' or a dict"):
        classes.weights("even")


@pytest.mark.parametrize("unseen", [["d"], ["A"], [1], [""]], ids=str)
def test_encode_label_that_was_not_seen_names_it(unseen: list[Any]) -> None:
    """Before, between and after the known ones, and of another type."""
    with InlineEngine() as engine:
        classes = classes_of(engine, ["a", "c"])
    with pytest.raises(InputError, match=r"out of the classes that training has seen, \['a', 'c'\], found"):
        classes.encode(unseen)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        ([1.0, np.nan], "1 of 2 values NaN"),
        (np.array(["a", None], object), "1 of 2 values NaN or missing"),
        (pd.Series(["a", None]), "1 of 2 values NaN or missing"),
        (np.array(["a", 1], object), "one type"),
        (np.zeros((2, 2)), "a single column"),
    ],
)
def test_labels_that_are_none_are_refused(y: Any, match: str) -> None:
    """Missing values, mixed types and several columns are no labels."""
    with pytest.raises(InputError, match=match):
        label_values(y)


def test_labels_text_in_one_partition_and_numbers_in_another_are_refused() -> None:
    """They could not be told apart from labels that look alike."""
    with InlineEngine() as engine, pytest.raises(InputError, match="numbers in some and text in others"):
        classes_of(engine, Parts(["1"], [1]))
    with InlineEngine() as engine, pytest.raises(InputError, match="found none"):
        classes_of(engine, Parts([], np.array([])))

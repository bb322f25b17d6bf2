"""The categories of a model to go on from: its trees count them in its own order, so new rows must count them so as well."""

from __future__ import annotations

from typing import Any

import xgboost as xgb

from parml.tables import library_of
from parml_core.errors import InputError

CategoriesByColumn = dict[str, list[Any]]


def categories_of(model: Any) -> CategoriesByColumn:
    """
    The categories of each column of categories that a model was trained on.

    Examples
    --------
    >>> import pandas as pd
    >>> X = pd.DataFrame({"size": pd.Categorical(["s", "l"], categories=["s", "l"])})
    >>> categories_of(xgb.train({}, xgb.DMatrix(X, [0, 1], enable_categorical=True), 1))
    {'size': ['s', 'l']}
    """
    if model is None:
        return {}
    booster = model if isinstance(model, xgb.Booster) else xgb.Booster(model_file=model)
    columns = booster.get_categories(export_to_arrow=True).to_arrow()
    return {name: values.to_pylist() for name, values in columns if values is not None}


def recoded(X: Any, known: CategoriesByColumn, *, more: bool = False) -> Any:
    """
    A table with the categories of its columns in the order of the model.

    Parameters
    ----------
    X : table
    known : dict of str to list
    more : bool
        Whether there may be others, which then come last. Data to evaluate on may have some, data to train on may not: the
        model has no place for them.

    Examples
    --------
    >>> import pandas as pd
    >>> recoded(pd.DataFrame({"size": pd.Categorical(["s", "l"])}), {"size": ["s", "l"]})["size"].cat.codes.tolist()
    [0, 1]
    """
    for name in [name for name in known if name in getattr(X, "columns", ())]:
        if library_of(X) != "pandas":
            raise InputError(
                f"expected pandas tables to go on from a model with categories, found {type(X).__name__}; convert them with "
                "to_pandas"
            )
        if X[name].dtype.name != "category":
            continue  # which is refused where all columns are looked at
        column = X[name].cat
        unseen = [value for value in column.categories if value not in known[name]]
        if unseen and not more:
            raise InputError(
                f"expected in column {name!r} the categories of the model to go on from, {known[name]}, found {unseen}; leave "
                "these rows out, or train a new model"
            )
        X = X.assign(**{name: column.set_categories([*known[name], *unseen])})
    return X

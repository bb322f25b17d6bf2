"""
scikit-learn's model selection, drop-in: the same names, arguments and results, on an engine, with equal work done once.

Examples
--------
>>> from sklearn.datasets import load_iris
>>> from sklearn.ensemble import RandomForestClassifier
>>> X, y = load_iris(return_X_y=True)
>>> grid = {"n_estimators": [5, 10, 20], "max_depth": [2, 4]}
>>> search = GridSearchCV(RandomForestClassifier(random_state=0), grid, cv=3).fit(X, y)  # 6 fits for 18 scores
>>> float(search.best_score_.round(2))
0.97
"""

from parml.model_selection.halving import HalvingGridSearchCV, HalvingRandomSearchCV
from parml.model_selection.incremental import HyperbandSearchCV, IncrementalSearchCV
from parml.model_selection.optuna import OptunaSearchCV
from parml.model_selection.search import GridSearchCV, RandomizedSearchCV
from parml.model_selection.validation import (
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)

__all__ = [
    "GridSearchCV",
    "HalvingGridSearchCV",
    "HalvingRandomSearchCV",
    "HyperbandSearchCV",
    "IncrementalSearchCV",
    "OptunaSearchCV",
    "RandomizedSearchCV",
    "cross_val_predict",
    "cross_val_score",
    "cross_validate",
    "learning_curve",
    "validation_curve",
]

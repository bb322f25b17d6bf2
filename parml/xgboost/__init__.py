"""
XGBoost on data in partitions: the model that xgboost trains on one machine, from all the hosts that hold the data.

Examples
--------
>>> import numpy as np
>>> import parml.xgboost as px
>>> from parml_core.engine.inline import InlineEngine
>>> X = np.arange(20.0).reshape(10, 2)
>>> dtrain = px.DMatrix(InlineEngine(), X, X[:, 0])
>>> result = px.train(None, {"max_depth": 2}, dtrain, 2)
>>> px.predict(None, result, X).shape
(10,)
"""

from __future__ import annotations

from parml.xgboost.cv import cv
from parml.xgboost.data import DMatrix, QuantileDMatrix
from parml.xgboost.predict import inplace_predict, predict
from parml.xgboost.sklearn import XGBClassifier, XGBRanker, XGBRegressor, XGBRFClassifier, XGBRFRegressor
from parml.xgboost.train import train
from parml_core.engine.registry import foresee

__all__ = [
    "DMatrix",
    "QuantileDMatrix",
    "XGBClassifier",
    "XGBRFClassifier",
    "XGBRFRegressor",
    "XGBRanker",
    "XGBRegressor",
    "cv",
    "inplace_predict",
    "predict",
    "train",
]

foresee("parml.xgboost")

"""
LightGBM on data in partitions: the model that lightgbm trains on one machine, from all the hosts that hold the data.

Examples
--------
>>> import numpy as np
>>> import parml.lightgbm as pl
>>> from parml_core.engine.inline import InlineEngine
>>> X = np.arange(200.0).reshape(100, 2)
>>> train_set = pl.Dataset(InlineEngine(), X, X[:, 0])
>>> result = pl.train(None, {"verbosity": -1}, train_set, 2)
>>> pl.predict(None, result, X).shape
(100,)
"""

from __future__ import annotations

from parml.lightgbm.cv import cv
from parml.lightgbm.data import Dataset
from parml.lightgbm.predict import predict
from parml.lightgbm.sklearn import LGBMClassifier, LGBMRanker, LGBMRegressor
from parml.lightgbm.train import train
from parml_core.engine.registry import foresee

__all__ = ["Dataset", "LGBMClassifier", "LGBMRanker", "LGBMRegressor", "cv", "predict", "train"]

foresee("parml.lightgbm")

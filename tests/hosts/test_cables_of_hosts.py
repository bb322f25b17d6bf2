"""A host whose cable is cut in the middle of a training: the others go on, soon, and it comes back when the cable does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb

import parml.lightgbm as pl
import parml.xgboost as px
from tests.hosts.conftest import workers_on
from tests.hosts.network import Cluster, Host, Network
from tests.hosts.placed import Placed

pytestmark = pytest.mark.slow

ROWS = 2400
_rng = np.random.default_rng(11)
X = _rng.normal(size=(ROWS, 4)).round(1)
Y = X[:, 0] + np.abs(X[:, 1]) + 0.5 * _rng.normal(size=ROWS)
ROUNDS = 12
LIMIT_S = 30.0
SETTINGS = {
    "PARML_SCHEDULER__WORKER_TIMEOUT_S": "3",
    "PARML_WORKER__HEARTBEAT_S": "0.5",
    "PARML_COMM__CONNECT_TIMEOUT_S": "3",
}


def until(path: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < deadline, f"expected {path} within {LIMIT_S} s"
        time.sleep(0.01)

"""Ranks meet on the network that their hosts share, although each has another one, which leads nowhere, as its default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xgboost as xgb

import parml.lightgbm as pl
import parml.xgboost as px
from tests.hosts.holding import Hold, HoldInXgboost, held, until
from tests.hosts.network import BOUND_S, Cluster, Host, Network

pytestmark = pytest.mark.slow

_rng = np.random.default_rng(1)
X = _rng.normal(size=(601, 3))  # of three ranks the first has one row more
Y = X[:, 0] + X[:, 1]


def train(library: str, client: Any, folder: Path) -> Any:
    if library == "lightgbm":
        options = {"callbacks": [Hold(folder)], "checkpoint_every": 1}
        return pl.train(client, {"verbosity": -1, "num_threads": 1}, pl.Dataset(client, X, Y), 9, **options)
    options = {"callbacks": [HoldInXgboost(folder)], "checkpoint_every": 1, "verbose_eval": False}
    return px.train(client, {"nthread": 1}, px.DMatrix(client, X, Y), 9, **options)


def listening() -> set[str]:
    """The addresses of this machine at which this process can be reached."""
    connections = psutil.Process().net_connections("tcp")
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_ranks_and_caller_meet_at_addresses_of_the_network_that_they_share(
    three_hosts: Cluster, hosts: list[Host], network: Network, tmp_path: Path, library: str
) -> None:
    """
    Each rank is connected with the other two, and with nobody at an address of another network.

    This process is reached at its address on the bridge alone: there the ranks have met, and rank 0 sends checkpoints.
    """
    before = listening()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, library, three_hosts.client, tmp_path)
        try:
            until(lambda: len(held(tmp_path)) == 3 or training.done(), "the ranks to be in the middle")
            ranks = held(tmp_path)
            mine = listening() - before
            found = {host.address: [one for one in host.connections() if one.pid in ranks] for host in hosts}
        finally:
            (tmp_path / "go").touch()
        training.result(BOUND_S)
    assert mine == {network.address}
    for address, connections in found.items():
        others = found.keys() - {address}
        open_ones = [one for one in connections if one.state == "ESTAB"]
        assert {one.local for one in open_ones} == {address}
        assert {one.peer for one in open_ones} >= others
        assert {one.peer for one in open_ones} <= {*others, address, network.address}
    to_caller = [one.pid for ones in found.values() for one in ones if one.peer == network.address and one.state == "ESTAB"]
    assert to_caller == [pid for pid, what in ranks.items() if what in (0, 201)]


CALLER = """
import sys
import numpy as np, xgboost as xgb
import parml.lightgbm as pl, parml.xgboost as px
from parml_core.client import Client

file, rows, out = sys.argv[1:]
X, y = np.load(rows)["X"], np.load(rows)["y"]
with Client(file) as client:
    train_set = pl.Dataset(client, X, y)
    by_lightgbm = pl.train(client, {"verbosity": -1, "num_threads": 1}, train_set, 5, checkpoint_every=1)["booster"]
    dtrain = px.DMatrix(client, X, y)
    by_xgboost = px.train(client, {"nthread": 1}, dtrain, 5, checkpoint_every=1, verbose_eval=False)["booster"]
np.savez(out, lightgbm=by_lightgbm.predict(X), xgboost=by_xgboost.predict(xgb.DMatrix(X)))
"""


def test_caller_on_one_of_the_hosts_is_reached_by_the_ranks_on_the_others(
    three_hosts: Cluster, hosts: list[Host], tmp_path: Path
) -> None:
    """Its own host is among those that it looks for a way to. No checkpoint is lost, and the models are those of any caller."""
    (tmp_path / "caller.py").write_text(CALLER)
    np.savez(tmp_path / "rows.npz", X=X, y=Y)
    done = hosts[0].run(tmp_path / "caller.py", str(three_hosts.file), str(tmp_path / "rows.npz"), str(tmp_path / "out.npz"))
    assert done.returncode == 0, done.stdout
    client = three_hosts.client
    by_lightgbm = pl.train(client, {"verbosity": -1, "num_threads": 1}, pl.Dataset(client, X, Y), 5)["booster"]
    by_xgboost = px.train(client, {"nthread": 1}, px.DMatrix(client, X, Y), 5, verbose_eval=False)["booster"]
    found = np.load(tmp_path / "out.npz")
    assert (found["lightgbm"] == by_lightgbm.predict(X)).all()
    assert (found["xgboost"] == by_xgboost.predict(xgb.DMatrix(X))).all()
    assert "no checkpoint can be kept" not in three_hosts.log()

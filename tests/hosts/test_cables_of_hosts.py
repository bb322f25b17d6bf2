"""A host whose cable is cut in the middle of a training: the others go on, soon, and so does the next training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb

import parml.lightgbm as pl
import parml.xgboost as px
from parml_core.errors import GangError
from parml_core.graph import Hints
from tests.hosts.conftest import workers_on
from tests.hosts.holding import Hold, HoldInXgboost, held, until
from tests.hosts.network import Cluster, Host, Network
from tests.hosts.placed import Parts

pytestmark = pytest.mark.slow

ROWS = 2401  # of three ranks the first has one row more
_rng = np.random.default_rng(11)
X = _rng.normal(size=(ROWS, 4)).round(1)
Y = X[:, 0] + np.abs(X[:, 1]) + 0.5 * _rng.normal(size=ROWS)
ROUNDS = 12
LIMIT_S = 45.0
SETTINGS = {
    "PARML_SCHEDULER__WORKER_TIMEOUT_S": "2",
    "PARML_WORKER__HEARTBEAT_S": "0.5",
}


@pytest.fixture(scope="module")
def cluster(network: Network, hosts_to_lose: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One that notices losses soon; also the client's process goes by these settings."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SETTINGS.items():
            patched.setenv(name, value)
        with Cluster(tmp_path_factory.mktemp("cables"), network.hosts[0], workers_on(hosts_to_lose)) as cluster:
            yield cluster


def train(library: str, client: Any, data: tuple[Any, Any], callback: Any = None, **options: Any) -> Any:
    options |= {"callbacks": [callback] if callback else [], "checkpoint_every": 3}
    if library == "lightgbm":
        params = {"verbosity": -1, "num_threads": 1}
        return pl.train(client, params, pl.Dataset(client, *data), ROUNDS, **options)["booster"]
    return px.train(client, {"nthread": 1}, px.DMatrix(client, *data), ROUNDS, verbose_eval=False, **options)["booster"]


def check(library: str, booster: Any) -> None:
    """All rounds are there, and they have learned what one machine learns."""
    if library == "lightgbm":
        plain = lgb.train({"verbosity": -1, "num_threads": 1}, lgb.Dataset(X, Y), ROUNDS)
        found, expected = booster.predict(X), plain.predict(X)
        assert booster.num_trees() == ROUNDS
    else:
        plain = xgb.train({"nthread": 1}, xgb.DMatrix(X, Y), ROUNDS)
        found, expected = booster.predict(xgb.DMatrix(X)), plain.predict(xgb.DMatrix(X))
        assert booster.num_boosted_rounds() == ROUNDS
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("library", "cut"),
    [
        ("lightgbm", "of rank 0"),
        ("lightgbm", "before they meet"),
        ("xgboost", "of rank 0"),
        ("xgboost", "of another rank"),
        ("xgboost", "before they meet"),
    ],
)
def test_cable_cut_in_a_training_the_other_hosts_go_on(
    cluster: Cluster, hosts_to_lose: list[Host], tmp_path: Path, library: str, cut: str
) -> None:
    """
    The model is that of one machine, by those that are left; so is the next one. However many workers a host has had, and
    although they are not noticed at once, it is one loss.

    The partitions are made again where their host is gone: by their tasks, or by this process where it has scattered them.
    """
    client = cluster.client
    data = tuple(Parts(value, (700, 701, 2000, ROWS)) for value in (X, Y)) if cut == "of rank 0" else (X, Y)
    hold = {"lightgbm": Hold, "xgboost": HoldInXgboost}[library](tmp_path, meeting=cut == "before they meet")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, library, client, data, hold, max_restarts=1)
        until(lambda: len(held(tmp_path)) == 3 or training.done(), "the ranks to be there")
        firsts = {pid for pid, what in held(tmp_path).items() if what in (0, ROWS // 3 + 1)}
        victim = next(host for host in hosts_to_lose if (cut == "of rank 0") == bool(firsts & set(host.processes())))
        victim.cut_cable()
        try:
            (tmp_path / "go").touch()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that fewer are left
                check(library, training.result(timeout=LIMIT_S))
            assert victim.address not in {worker.host for worker in client.workers()}
            check(library, train(library, client, (X, Y)))
        finally:
            (tmp_path / "go").touch()
            victim.mend_cable()
            cluster.restart(victim)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_cable_out_for_a_moment_costs_that_moment_alone(
    three_hosts: Cluster, hosts: list[Host], tmp_path: Path, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was under way is sent again, by the system: no rank is taken for lost, and no round is done twice."""
    hold = {"lightgbm": Hold, "xgboost": HoldInXgboost}[library](tmp_path)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, library, three_hosts.client, (X, Y), hold)
        until(lambda: len(held(tmp_path)) == 3 or training.done(), "the ranks to be in the middle")
        hosts[2].cut_cable()
        try:
            (tmp_path / "go").touch()
            assert not wait([training], timeout=1.0).done
        finally:
            (tmp_path / "go").touch()
            hosts[2].mend_cable()
        check(library, training.result(timeout=LIMIT_S))
    assert not [record for record in caplog.records if "restart" in record.message]


def test_cable_cut_without_restarts_raises_soon_and_names_the_worker(
    cluster: Cluster, hosts_to_lose: list[Host], tmp_path: Path
) -> None:
    """Silence is what tells: an error after the time of silence that was asked for, and a few seconds."""
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, "xgboost", cluster.client, (X, Y), HoldInXgboost(tmp_path), max_restarts=0)
        until(lambda: len(held(tmp_path)) == 3 or training.done(), "the ranks to be in the middle")
        hosts_to_lose[2].cut_cable()
        began = time.monotonic()
        try:
            (tmp_path / "go").touch()
            with pytest.raises(GangError, match=r"'c' was lost .*silent for more than 2 s.*or allow max_restarts"):
                training.result(timeout=LIMIT_S)
            assert time.monotonic() - began < 10
        finally:
            (tmp_path / "go").touch()
            hosts_to_lose[2].mend_cable()
            cluster.restart(hosts_to_lose[2])


def test_worker_whose_cable_is_mended_comes_back_by_itself(cluster: Cluster, hosts_to_lose: list[Host]) -> None:
    """As another incarnation of the same name, since what it held was computed anew elsewhere; and it works again."""
    victim = hosts_to_lose[1]
    before = cluster.workers_of(victim)
    victim.cut_cable()
    try:
        until(lambda: not cluster.workers_of(victim), "the worker to be taken for lost")
    finally:
        victim.mend_cable()
    until(lambda: len(cluster.workers_of(victim)) == len(before), "the worker to come back")
    after = cluster.workers_of(victim)
    assert not {*before} & {*after}
    assert cluster.client.submit(pow, 2, 5, hints=Hints(where=tuple(after))).result(20) == 32

"""The status page in a real browser: what it shows while a cluster works, and that nothing in it is taken for markup."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from parml_core.client import Client, LocalCluster
from tests.browser.chromium import Chromium

pytestmark = pytest.mark.browser

BOUND_S = 20.0
HOSTILE = "<img src=x onerror=document.title='taken'>"

ROW = "[...document.querySelectorAll('#%s tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, 1, dashboard_port=0, name="work") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def hold_until(release: Path) -> None:
    while not release.exists():
        threading.Event().wait(0.005)


def refuse(x: int) -> None:
    raise ValueError(x)


def rows_of(browser: Chromium, table: str) -> list[list[str]]:
    found: list[list[str]] = browser.evaluate(ROW % table)
    return found


def test_page_shows_workers_and_follows_tasks(browser: Chromium, client: Client, tmp_path: Path) -> None:
    """Workers by name, a task while it runs, its group when it has ended, failures in their own colour: without a reload."""
    assert client.dashboard_url is not None
    browser.open(client.dashboard_url)
    browser.wait_for("document.getElementById('connection').innerText === 'live'")
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 2")
    assert [row[0] for row in rows_of(browser, "workers")] == ["work-0", "work-1"]
    held = client.map(hold_until, [tmp_path / "go"] * 2)
    browser.wait_for_text("hold_until")
    browser.wait_for("document.querySelectorAll('#groups .bar .running').length === 1")
    browser.wait_for("document.getElementById('legend').innerText.includes('running 2')")
    browser.wait_for("[...document.querySelectorAll('#workers tbody tr')].every((row) => row.innerText.includes('1 of 1'))")
    (tmp_path / "go").touch()
    client.wait(held, timeout_s=BOUND_S)
    browser.wait_for("document.getElementById('legend').innerText.includes('memory 2')")
    (row,) = (row for row in rows_of(browser, "groups") if row[0].startswith("hold_until"))
    assert row[2:6] == ["2", "0", "0", "0"] and row[6].endswith("s")
    failed = client.map(refuse, range(3))
    client.wait(failed, timeout_s=BOUND_S)
    browser.wait_for("document.querySelectorAll('#states .erred').length === 1")
    browser.wait_for_text("3 erred")
    assert browser.complaints == []


def test_page_shows_a_gang_while_it_runs(browser: Chromium, client: Client, tmp_path: Path) -> None:
    """Its ranks and its state, and then that it is over."""
    assert client.dashboard_url is not None
    browser.open(client.dashboard_url)
    ranks = client.gang(hold_until, [(tmp_path / "go",)] * 2)
    browser.wait_for("document.getElementById('gangs').innerText.includes('running')")
    ((name, n_ranks, state),) = rows_of(browser, "gangs")
    assert name.startswith("hold_until") and (n_ranks, state) == ("2", "running")
    (tmp_path / "go").touch()
    client.wait(ranks, timeout_s=BOUND_S)
    browser.wait_for("!document.getElementById('gangs').innerText.includes('running')")


def test_page_tells_of_lost_workers(browser: Chromium, client: Client, cluster: LocalCluster) -> None:
    """A worker that dies is counted, and the one that takes its place is shown."""
    assert client.dashboard_url is not None
    browser.open(client.dashboard_url)
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 2")
    os.kill(cluster.worker_pids()["work-0"], signal.SIGKILL)
    browser.wait_for_text("1 worker lost")
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 2")


@pytest.mark.parametrize("hostile", [HOSTILE, "<script>document.title='taken'</script>", "a&lt;b>\"'`${x}"])
def test_names_from_tasks_and_workers_are_shown_as_text(browser: Chromium, hostile: str) -> None:
    """Whoever may name a function or a worker puts neither markup nor script into the page."""

    def task(x: int) -> int:
        return x

    task.__name__ = hostile
    with LocalCluster(1, 1, dashboard_port=0, name=hostile) as cluster, Client(cluster) as client:
        assert client.dashboard_url is not None
        browser.open(client.dashboard_url)
        futures = client.map(task, range(3))
        client.wait(futures, timeout_s=BOUND_S)
        browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 1")
        browser.wait_for("document.getElementById('legend').innerText.includes('memory 3')")
        assert hostile in rows_of(browser, "workers")[0][0]
        assert hostile in rows_of(browser, "groups")[0][0]
        assert browser.evaluate("document.querySelectorAll('img, td script').length") == 0
        assert browser.evaluate("document.title") == "parml status"
    assert browser.complaints == []


def test_page_says_when_its_scheduler_has_gone(browser: Chromium) -> None:
    """What it then shows is the past, and it says so."""
    with LocalCluster(1, 1, dashboard_port=0) as cluster:
        assert cluster.dashboard_url is not None
        browser.open(cluster.dashboard_url)
        browser.wait_for("document.getElementById('connection').innerText === 'live'")
    browser.wait_for("document.getElementById('connection').innerText === 'lost'")


def test_errors_of_the_server_are_shown_as_text(browser: Chromium, client: Client) -> None:
    """An address that does not exist is not repeated, let alone run."""
    assert client.dashboard_url is not None
    browser.open(client.dashboard_url.replace("/status", "/%3Cscript%3Edocument.title='taken'%3C/script%3E"))
    browser.wait_for_text("404")
    assert browser.evaluate("document.title") != "taken" and "script" not in browser.text()

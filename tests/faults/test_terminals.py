"""The README's cluster in three terminals, typed as it stands there, while a browser looks at the status page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from parml_core.client import Client
from tests.browser.chromium import Chromium
from tests.faults.marks import MARK, marked

BOUND_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
(LINES,) = re.findall(r"## A cluster in three terminals\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SCHEDULER, WORKER, DEMO = (line.partition("#")[0].split() for line in LINES.splitlines())

ROWS = 3000


class Desk:
    """A directory of a user's own, and the terminals that are open in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PARML_SCHEDULER")}
        self.environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "160", MARK: str(folder)}
        self.terminals: list[subprocess.Popen[str]] = []

    def type(self, line: list[str], *more: str) -> subprocess.Popen[str]:
        """Start what the line says, in a terminal of its own."""
        command = {
            "parml": [sys.executable, "-m", "parml_core.cli", *line[1:]],
            "python": [sys.executable, str(ROOT / line[1]), *line[2:]],
        }[line[0]]
        terminal = subprocess.Popen(
            [*command, *more],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.terminals.append(terminal)
        return terminal

    def close(self) -> None:
        for terminal in self.terminals:
            if terminal.poll() is None:
                os.killpg(terminal.pid, signal.SIGKILL)
            print(*terminal.args, terminal.communicate(timeout=BOUND_S)[0], sep="\n")  # shown where the test has failed


def read_to(terminal: subprocess.Popen[str], mark: str) -> str:
    """What a terminal shows, up to the line with `mark`."""
    assert terminal.stdout is not None
    text = ""
    while mark not in text:
        line = terminal.stdout.readline()
        assert line, f"expected {mark!r}, found {text!r}"
        text += line
    return text


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def write_flights(folder: Path) -> None:
    """Two months in the shape of the demo's data, so that it need not unpack all of a year."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    codes = {"carrier": ["AA", "B6", "UA"], "origin": ["EWR", "JFK", "LGA"], "dest": ["ATL", "BOS", "LAX", "SFO"]}
    (folder / "codes.json").write_text(json.dumps(codes))
    for month in (1, 2):
        frame = pd.DataFrame({name: rng.choice(values, ROWS) for name, values in codes.items()})
        frame["dep_delay"] = rng.exponential(20, ROWS).round() - 8
        frame["sched_dep_time"] = rng.integers(500, 2300, ROWS)
        frame["sched_arr_time"] = rng.integers(500, 2300, ROWS)
        frame["distance"] = rng.integers(200, 2600, ROWS)
        frame["arr_delay"] = frame["dep_delay"] + rng.normal(0, 12, ROWS).round()
        frame.loc[::50, "arr_delay"] = np.nan
        frame.to_csv(folder / f"flights-{month:02d}.csv", index=False)


@pytest.mark.browser
def test_three_terminals_train_the_demo_and_the_page_shows_it(desk: Desk, browser: Chromium) -> None:
    """Scheduler, two workers and the demo from the README's lines: the page has the workers and the training as it runs."""
    write_flights(desk.folder / "data")
    said = read_to(desk.type(SCHEDULER, "--port", "0", "--dashboard-port", "0"), "Connect with")
    url = re.search(r"http://127\.0\.0\.1:\d+/status", said)
    assert url is not None
    browser.open(url[0])
    browser.wait_for_text("no worker has joined yet")
    first = desk.type(WORKER, "--nthreads", "1")
    second = desk.type([word.replace("work-01", "work-02") for word in WORKER], "--nthreads", "1")
    for terminal in (first, second):
        read_to(terminal, "works for")
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 2")
    names = browser.evaluate("[...document.querySelectorAll('#workers tbody tr')].map((row) => row.cells[0].innerText)")
    assert names == ["work-01", "work-02"]
    demo = desk.type(DEMO, "--data", "data", "--months", "2", "--rounds", "150", "--only", "parml.xgboost")
    browser.wait_for("document.getElementById('gangs').innerText.includes('running')")
    assert browser.evaluate("document.querySelectorAll('#groups .bar .running').length") > 0
    out, _ = demo.communicate(timeout=BOUND_S)
    assert demo.returncode == 0, out
    said_by_demo = {
        name: value for line in out.splitlines() if line.startswith("{") for name, value in json.loads(line).items()
    }
    assert said_by_demo["rows"] == 2 * ROWS * 49 / 50 and 0.7 < said_by_demo["auc"] < 1
    browser.wait_for("!document.getElementById('gangs').innerText.includes('running')")
    assert browser.complaints == []


def test_three_terminals_close_in_any_order_and_leave_nothing(desk: Desk) -> None:
    """Ctrl-C in a worker's terminal costs that worker; in the scheduler's it ends the rest; the file goes with it."""
    scheduler = desk.type(SCHEDULER, "--port", "0", "--no-dashboard")
    read_to(scheduler, "Connect with")
    workers = [desk.type([*WORKER[:-1], name], "--nthreads", "1") for name in ("work-01", "work-02")]
    for terminal in workers:
        read_to(terminal, "works for")
    with Client(desk.folder / "s.json", set_default=False) as client:
        futures = client.map(abs, range(100))
        client.wait(futures, timeout_s=BOUND_S)
        os.killpg(workers[0].pid, signal.SIGINT)
        assert workers[0].wait(BOUND_S) == 130
        assert client.gather(futures, timeout_s=BOUND_S) == list(range(100))
        assert [worker.name for worker in client.workers()] == ["work-02"]
    os.killpg(scheduler.pid, signal.SIGINT)
    assert scheduler.wait(BOUND_S) == 130
    assert workers[1].wait(BOUND_S) == 0
    assert not (desk.folder / "s.json").exists() and marked(desk.folder) == []

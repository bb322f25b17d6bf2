"""What the README, the demo and the benchmark promise, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=[re.sub(r"\W+", "-", block.split("\n")[0]) for block in BLOCKS])
def test_readme_block_runs_and_prints_what_it_says(code: str, tmp_path: Path) -> None:
    """Each block of the README is a program; where a line says what it prints, it prints that."""
    (tmp_path / "block.py").write_text(code)
    done = run([sys.executable, "block.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    for promised in re.findall(r"print\(.*\) +# (.+)$", code, re.MULTILINE):
        assert promised in done.stdout.splitlines()


@pytest.mark.slow
def test_demo_on_three_months_agrees_with_the_plain_libraries(tmp_path: Path) -> None:
    """The demo ends with exit code 0, which it does only if AUC and all scores are those of the plain libraries."""
    done = run([sys.executable, str(ROOT / "examples" / "flights.py"), "--months", "3", "--rounds", "10"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("yes  ") == 3
    assert [line for line in done.stdout.splitlines() if line.split()[:1] == ["parml.xgboost"] and "0." in line]


def test_demo_judges_a_difference_as_failure() -> None:
    """A model or a score that differs by more than the tolerance makes the demo fail."""
    code = """if True:
        import copy, io, sys
        import rich.console
        from examples import flights
        from examples.measure import Report
        scores = {"auc": [0.8, 0.9], "accuracy": [0.7, 0.8]}
        model = {"rows": 10, "auc": 0.9, "accuracy": 0.8}
        def judge(change=lambda values: None):
            reports = {n: Report(copy.deepcopy({"scores": scores} if "scikit" in n else model)) for n in flights.PROGRAMS}
            change({name: report.values for name, report in reports.items()})
            return flights.judge(rich.console.Console(file=io.StringIO()), reports)
        assert judge() == 0
        assert judge(lambda v: v["parml.xgboost"].update(auc=0.9 + 9e-7)) == 0
        assert judge(lambda v: v["parml.xgboost"].update(auc=0.9 + 2e-6)) == 1
        assert judge(lambda v: v["parml.xgboost"].update(auc=float("nan"))) == 1
        assert judge(lambda v: v["parml.xgboost"].update(rows=9)) == 1
        assert judge(lambda v: v["scikit-learn on parml"]["scores"].update(auc=[0.8, 0.9 + 1e-11])) == 1
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_memory_of_counts_children_and_shared_pages_once() -> None:
    """A forked child that shares 64 MiB with its parent does not add them again; its own 64 MiB do count."""
    code = """if True:
        import os
        from examples.measure import memory_of
        MIB = 2**20
        before = memory_of([os.getpid()])
        shared = bytearray(os.urandom(MIB)) * 64
        ready, tell = os.pipe()
        wait, end = os.pipe()
        alone = memory_of([os.getpid()])
        def child(own_bytes):
            pid = os.fork()
            if pid == 0:
                own = bytearray(os.urandom(MIB)) * (own_bytes // MIB)
                os.write(tell, b"1")
                os.read(wait, 1)
                os._exit(0)
            os.read(ready, 1)
            return pid
        def end_of(pid):
            os.write(end, b"1")
            os.waitpid(pid, 0)
        pid = child(0)
        sharing = memory_of([os.getpid()])
        end_of(pid)
        pid = child(64 * MIB)
        owning = memory_of([os.getpid()])
        end_of(pid)
        print([round(x / MIB) for x in (alone - before, sharing - alone, owning - alone)])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    grown, shared, owned = json.loads(done.stdout)
    assert grown in range(60, 70)
    assert shared in range(-2, 12)
    assert owned in range(60, 80)


@pytest.mark.slow
def test_overhead_benchmark_measures_parml_and_writes_json(tmp_path: Path) -> None:
    """The benchmark runs from the command line and its file holds a figure for each system that was asked for."""
    command = [sys.executable, str(ROOT / "benchmarks" / "overhead.py"), "--tasks", "100", "--rounds", "2", "--singles", "3"]
    done = run([*command, "--only", "parml,loky,threads,inline", "--json", "figures.json"], tmp_path)
    assert done.returncode == 0, done.stderr
    systems = json.loads((tmp_path / "figures.json").read_text())["systems"]
    assert list(systems) == ["parml", "loky, batched", "parml, threads", "parml, inline"]
    assert all(row["task_us"] > 0 and row["single_us"] > 0 and len(row["task_us_rounds"]) == 2 for row in systems.values())
    assert systems["parml"]["task_over_parml"] == 1

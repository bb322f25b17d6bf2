"""The plan: which columns are read, what is done once, what is one task, and what people see of it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parml.dataframe as pdf
from parml.dataframe.lower import optimise, topological
from parml.dataframe.plan import Source
from parml.dataframe.plan_across import numbered
from parml_core.engine.inline import InlineEngine
from parml_core.graph import Graph, evaluate
from parml_core.graph.task import Task

WHOLE = pd.DataFrame({name: range(place, place + 10) for place, name in enumerate("abcdefgh")})


def frame(npartitions: int = 3) -> pdf.DataFrame:
    made: pdf.DataFrame = pdf.from_pandas(WHOLE, npartitions=npartitions)
    return made


def columns_read(*results: pdf.Frame) -> list[list[str]]:
    """The columns of each reader of the optimised plan."""
    best = optimise([numbered(result._node) for result in results])
    return [list(node.meta.columns) for node in topological(best) if isinstance(node, Source) and hasattr(node.meta, "columns")]


PROJECTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "column": (lambda f: f.c, "c"),
    "columns": (lambda f: f[["c", "a"]], "ac"),
    "filter": (lambda f: f[f.a > 3].b, "ab"),
    "filter of a filter": (lambda f: f[f.a > 3][["b", "c"]][f.d > 5].c, "acd"),
    "columnwise steps": (lambda f: (f + 1).fillna(0).round().astype("float32")["e"], "e"),
    "assigned and not used": (lambda f: f.assign(x=f.a + f.b)[["c"]], "c"),
    "assigned over an old column": (lambda f: f.assign(a=f.b * 2)[["a"]], "b"),
    "rename": (lambda f: f.rename(columns={"a": "z"})[["z", "b"]], "ab"),
    "rename onto another": (lambda f: f[["a", "b"]].rename(columns={"a": "b", "b": "a"})["b"], "a"),
    "drop": (lambda f: f.drop(columns=list("defgh")).sum(), "abc"),
    "dropna subset": (lambda f: f.dropna(subset=["h"]).a.mean(), "ah"),
    "two frames": (lambda f: (f[["a", "b"]] + f[["b", "c"]])["b"], "b"),
    "row totals": (lambda f: f[["a", "b"]].sum(axis=1), "ab"),
    "totals beside columns": (lambda f: (f[["a", "b"]] - f[["a", "b"]].mean())["a"], "ab"),
    "repartition": (lambda f: f.repartition(2).g, "g"),
    "partitions": (lambda f: f.partitions[1:].g, "g"),
    "map_partitions needs all": (lambda f: f[["a", "b"]].map_partitions(lambda part: part.a), "ab"),
    "number of rows": (lambda f: f.shape[0], ""),
}


@pytest.mark.filterwarnings("ignore:Boolean Series key")
@pytest.mark.parametrize("name", PROJECTIONS)
def test_only_needed_columns_are_read(name: str) -> None:
    """The reader makes the columns that the result depends on, and the result is that of pandas."""
    step, columns = PROJECTIONS[name]
    result = step(frame())
    assert columns_read(result) == ([] if name == "number of rows" else [list(columns)])  # known without reading
    got = result.compute(engine=InlineEngine())
    if name == "partitions":
        pd.testing.assert_series_equal(got, WHOLE.g[3:])
    elif name == "number of rows":
        assert got == 10
    elif name == "repartition":
        pd.testing.assert_series_equal(got, WHOLE.g)
    elif name == "map_partitions needs all":
        pd.testing.assert_series_equal(got, WHOLE.a)
    elif isinstance(got, pd.DataFrame | pd.Series):
        assert got.equals(step(WHOLE))
    else:
        assert got == step(WHOLE)


def test_frames_computed_together_are_read_once() -> None:
    """Features and label from one pass over the data, and equal steps once."""
    whole = frame()
    late = whole[whole.a > 3]
    assert columns_read(late[["b", "c"]], late.d, late.b.mean()) == [["a", "b", "c", "d"]]
    x, y, mean = pdf.compute(late[["b", "c"]], late.d, late.b.mean())
    want = WHOLE[WHOLE.a > 3]
    pd.testing.assert_frame_equal(x, want[["b", "c"]])
    pd.testing.assert_series_equal(y, want.d)
    assert mean == want.b.mean()


def test_a_result_that_another_result_needs_is_given_too() -> None:
    """What is wanted has tasks of its own, also where only one other step uses it."""
    doubled = frame() * 2
    x, y = pdf.compute(doubled, doubled.a + 1)
    pd.testing.assert_frame_equal(x, WHOLE * 2)
    pd.testing.assert_series_equal(y, WHOLE.a * 2 + 1)


def test_chain_of_steps_is_one_task_per_partition() -> None:
    """From reading to the last step; what two results need is a task of its own."""
    whole = frame()
    chain = (whole[whole.a + whole.b > 3].c * 2).fillna(0)
    assert len(chain.__parml_graph__()) == 3
    x, _ = pdf.Frame.__parml_together__([whole[["a", "b"]], whole.c])
    assert len(x.__parml_graph__()) == 3 + 3 + 3
    total = whole.a.sum()
    assert len(total.__parml_graph__()) == 3 + 1


def test_graph_means_what_evaluate_says() -> None:
    """The chunks of a frame are the wanted keys of its graph, in the order of its rows."""
    chain = frame().a * 2
    parts = evaluate(chain.__parml_graph__(), chain.__parml_keys__())
    assert chain.__parml_finish__(parts).tolist() == [2 * value for value in range(10)]
    assert len(chain.__parml_keys__()) == chain.npartitions


def test_every_task_and_finish_travels_small(tmp_path: Path) -> None:
    """Tasks of files hold no rows, those of a pandas frame only their own; what finishes a result holds no plan."""
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n" * 5000)
    read = pdf.read_csv(tmp_path, blocksize=1000)
    graph = read[read.a > 0].b.sum().__parml_graph__()
    sizes = [len(pickle.dumps((task.fn, task.args))) for task in graph.values()]
    assert max(sizes) < 5000
    big = pdf.from_pandas(pd.DataFrame({"a": range(100_000)}), npartitions=10)
    sizes = [len(pickle.dumps((task.fn, task.args))) for task in (big.a + 1).__parml_graph__().values()]
    assert max(sizes) < 1.2 * 8 * 100_000 / 10
    assert len(pickle.dumps(big.__parml_finish__)) < 1000
    task: Task = pickle.loads(pickle.dumps(next(iter(graph.values()))))
    assert task.fn(*task.args) is not None


def test_pickled_frame_computes_the_same() -> None:
    """A frame, with the rows of its sources, can be sent to another process."""
    again = pickle.loads(pickle.dumps(frame()[["b"]] * 2))
    pd.testing.assert_frame_equal(again.compute(), WHOLE[["b"]] * 2)


def test_keys_are_equal_in_every_process(tmp_path: Path) -> None:
    """Equal plans over equal files have equal keys, whatever the hash seed; a changed file has others."""
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    script = (
        "import sys, parml.dataframe as pdf; f = pdf.read_csv(sys.argv[1]); "
        "print(f[f.a > 1][['b']].fillna({'b': 0}).sum().__parml_keys__()[0])"
    )

    def key(seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True, text=True, timeout=60, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""},
        )  # fmt: skip
        return done.stdout

    before = key("0")
    assert key("1") == before
    path.write_text("a,b\n1,2\n3,4\n5,6\n")
    assert key("0") != before


def test_persisted_partitions_are_kept_and_used() -> None:
    """Nothing is read again; what follows starts from the futures."""
    engine = InlineEngine()
    calls: list[int] = []

    def noted(part: pd.DataFrame) -> pd.DataFrame:
        calls.append(len(part))
        return part

    kept = frame().map_partitions(noted, meta=WHOLE).persist(engine=engine)
    assert len(calls) == 3
    assert isinstance(kept.__parml_graph__(), Graph)
    assert len(kept.__parml_graph__()) == 0
    assert len(kept.__parml_graph__().futures) == 3
    assert kept[kept.a > 5].b.sum().compute(engine=engine) == WHOLE[WHOLE.a > 5].b.sum()
    kept["z"] = kept.a + frame().map_partitions(lambda part: part.b)
    assert kept.z.compute(engine=engine).tolist() == (WHOLE.a + WHOLE.b).tolist()
    total = kept.a.sum().persist(engine=engine)
    assert (total + 1).compute(engine=engine) == WHOLE.a.sum() + 1
    assert len(calls) == 3


def test_setting_a_column_changes_this_frame_alone() -> None:
    """Frames that were derived before keep their plan."""
    first = frame()
    second = first[["a", "b"]]
    _ = first.__parml_keys__()
    first["a"] = 0
    assert first.a.sum().compute() == 0
    assert len(first.compute()) == 10
    assert second.a.sum().compute() == WHOLE.a.sum()


def test_explain_shows_the_optimised_plan(tmp_path: Path) -> None:
    """From the result down to what is read, shared steps once."""
    (tmp_path / "x.csv").write_text("a,b,c\n1,2,3\n")
    read = pdf.read_csv(tmp_path)
    assert read[read.a > 0].b.mean().explain().splitlines() == [
        "mean over all partitions",
        "  mean",
        "    column 'b'",
        "      filter",
        "        columns 'b'",
        "          #1 read_csv columns 'a', 'b' in 1 partitions where a > 0: as it is read",
        "        gt",
        "          column 'a'",
        "            #1",
    ]


def test_representations_show_columns_dtypes_and_partitions() -> None:
    """And escape what comes from the data."""
    odd = pdf.from_pandas(pd.DataFrame({"<script>": [1], "b": ["x"]}), npartitions=1)
    assert "2 columns, 1 partitions" in repr(odd)
    assert "int64" in repr(odd)
    html = odd._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "'b' of dtype str" in repr(odd.b)
    assert "<script>" not in odd["<script>"]._repr_html_()
    assert repr(odd.b.count()) == "parml Scalar: count over all partitions, not computed"


def test_partitions_are_chosen_by_number_slice_or_list() -> None:
    """Others are an IndexError."""
    whole = frame(5)
    assert whole.partitions[0].a.compute().tolist() == [0, 1]
    assert whole.partitions[-1].a.compute().tolist() == [8, 9]
    assert whole.partitions[1:3].npartitions == 2
    assert whole.partitions[[4, 0]].a.compute().tolist() == [8, 9, 0, 1]
    assert len(whole.partitions) == 5
    assert [len(part) for part in whole.partitions] == [2] * 5
    with pytest.raises(IndexError, match="below 5"):
        whole.partitions[5]

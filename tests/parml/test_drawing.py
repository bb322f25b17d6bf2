"""Graphs and plans drawn: what is in a drawing against the graph, and what graphviz makes of it against an XML parser."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest

import parml
import parml.dataframe as pdf
from parml.drawing import Drawing
from parml_core.errors import CycleError, InputError, NotSupported
from parml_core.graph import Graph, Ref, Task

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")


def boxes_and_arrows(svg: str) -> tuple[list[str], int]:
    """The labels of the boxes of a picture, and how many arrows there are."""
    found: dict[str, list[str]] = {"node": [], "edge": []}
    for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        if element.get("class") in found:
            texts = [text.text or "" for text in element.iter("{http://www.w3.org/2000/svg}text")]
            found[str(element.get("class"))].append("".join(texts))
    return sorted(found["node"]), len(found["edge"])


def frame() -> pdf.DataFrame:
    return pdf.from_pandas(pd.DataFrame({"a": range(6), 'b & "c" <\\n>': range(6), "d": range(6)}), npartitions=3)


@needs_dot
def test_picture_of_a_plan_shows_each_step_once_and_what_it_reads() -> None:
    """Names of columns are shown as they are, whatever they mean to graphviz or in XML."""
    x = frame()
    column = x['b & "c" <\\n>']
    boxes, arrows = boxes_and_arrows((column + column.sum()).visualize().svg)
    reads = r"""from_pandas columns 'b & "c" <\\n>' in 3 partitions"""
    takes = r"""column 'b & "c" <\\n>'"""
    assert boxes == sorted([reads, takes, "sum", "sum over all partitions", "add"])
    assert arrows == 5


@needs_dot
@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"digraph")])
def test_file_is_written_in_the_form_that_its_name_tells(tmp_path: Path, suffix: str, begins: bytes) -> None:
    """Also for the tasks of a frame."""
    path = tmp_path / f"drawn.{suffix}"
    frame().a.sum().visualize(path, tasks=True)
    assert path.read_bytes().startswith(begins)


@needs_dot
def test_tasks_are_boxes_and_their_needs_arrows() -> None:
    """Of delayed values, and of a plain graph: as many as the graph has."""
    one = parml.delayed(int, pure=True)("1")
    assert boxes_and_arrows((one + one * 2).visualize().svg) == (["add", "int", "mul"], 3)
    graph = Graph([Task("a", int), Task("b-0123456789abcdef:3", max, ([Ref("a")],)), Task("c", abs, (Ref("a"),))])
    assert boxes_and_arrows(parml.visualize(graph)._repr_svg_() or "") == (["a", "b:3", "c"], 2)


def test_text_is_there_without_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is refused with what to do; a notebook shows the text."""
    monkeypatch.setenv("PATH", str(tmp_path))
    drawn = frame().a.sum().visualize(tmp_path / "plan.txt")
    assert (tmp_path / "plan.txt").read_text() == f"{drawn!r}\n" == frame().a.sum().explain() + "\n"
    assert drawn._repr_svg_() is None
    with pytest.raises(NotSupported, match="install graphviz"):
        frame().visualize(tmp_path / "plan.svg")
    assert not (tmp_path / "plan.svg").exists()


def test_many_chunks_of_a_step_are_one_box() -> None:
    """600 chunks are merged by 38, 3 and 1 tasks. Where there are too many steps too, it is said how many."""
    total = pdf.from_pandas(pd.DataFrame({"a": range(600)}), npartitions=600).a.sum()
    assert parml.visualize(total).text.splitlines() == ["sum × 42", "  sum × 600"]
    kept = pdf.from_pandas(pd.DataFrame({"a": range(600)}), npartitions=600).persist()
    assert kept.visualize(tasks=True).text == "from_pandas × 600"
    assert kept.partitions[[0]].visualize(tasks=True).text == "from_pandas:0 (future)"
    one = parml.delayed(0)
    for _ in range(30):
        one = one + 1
    with pytest.raises(InputError, match="most=31"):
        one.visualize(most=30)
    assert len(one.visualize(most=31).text.splitlines()) == 31


def test_deep_and_wrong_graphs() -> None:
    """Depth has no limit of its own; tasks that wait for each other are told."""
    chain = Drawing([0], lambda n: [n + 1] if n < 5000 else [], str, most=10_000)
    assert len(chain.text.splitlines()) == 5001
    with pytest.raises(CycleError):
        parml.visualize(Graph([Task("a", abs, (Ref("b"),)), Task("b", abs, (Ref("a"),))]))
    with pytest.raises(InputError, match="ends in"):
        frame().visualize("plan.gif")
    with pytest.raises(InputError, match="found none"):
        parml.visualize()

"""
Pictures of graphs: of the tasks of collections, and of the plan of a frame. Graphviz's program ``dot`` draws where it is
installed; the text of a drawing is always there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from parml.collections import graph_of
from parml_core.errors import InputError, NotSupported
from parml_core.graph import Graph
from parml_core.graph.passes import cull
from parml_core.typing import Key, group_of

MOST_BOXES = 500
"""So many boxes are drawn, unless told otherwise: ``dot`` takes minutes for some thousands."""

DRAWN = (".svg", ".png", ".pdf")
_LONGEST_S = 120.0


def visualize(*values: Any, filename: str | Path | None = None, most: int = MOST_BOXES) -> Drawing:
    """
    Draw the tasks of graphs and collections, from the results down to what they are made of.

    Parameters
    ----------
    *values : Graph, Delayed, DataFrame or another collection
        Drawn as one graph.
    filename : str or path, optional
        A file to write: ``.svg``, ``.png`` or ``.pdf``, drawn by graphviz; ``.txt``, the text; ``.dot``, graphviz's input.
    most : int
        Where there are more tasks than that, those that are chunks of one step are one box.

    Returns
    -------
    Drawing
        Shows itself in notebooks, as a picture where graphviz is installed and as text elsewhere.

    Raises
    ------
    InputError
        There are more boxes than `most`, or `filename` is of another kind.
    NotSupported
        A picture is to be written and graphviz is not installed.

    Examples
    --------
    >>> import parml
    >>> one = parml.delayed(int, pure=True)("1")
    >>> print(parml.visualize(one + one * 2))
    add
      #1 int
      mul
        #1
    """
    if not values:
        raise InputError("expected graphs or collections to draw, found none")
    graphs = [value for value in values if isinstance(value, Graph)]
    for given in graphs:
        given.topological()  # raises where tasks wait for each other
    graph, groups = graph_of(*(value for value in values if not isinstance(value, Graph)))
    wants = [key for keys in groups for key in keys]
    graph = cull(graph, [key for key in wants if key in graph])
    wants += [key for each in graphs for key in last_tasks(each)]
    drawing = drawing_of_tasks(Graph.merge([graph, *graphs]), wants, most)
    if filename is not None:
        drawing.save(filename)
    return drawing


def last_tasks(graph: Graph) -> list[Key]:
    """The tasks that no other task needs."""
    needed = {dep for task in graph.values() for dep in task.deps}
    return [key for key in graph if key not in needed]


def drawing_of_tasks(graph: Graph, wants: Sequence[Key], most: int = MOST_BOXES) -> Drawing:
    """
    A graph with a box for each task and each future, or where these are more than `most`, for the chunks of each step.

    Parameters
    ----------
    graph : Graph
    wants : sequence of str
        The keys at the top.
    most : int
    """
    keys = list(dict.fromkeys([*wants, *graph, *graph.futures]))
    if len(keys) <= most:
        return Drawing(wants, lambda key: graph[key].deps if key in graph else (), lambda key: _task_label(key, graph), most)
    members: dict[str, list[Key]] = {}
    for key in keys:
        members.setdefault(_step_of(key), []).append(key)

    def inputs(step: str) -> list[str]:
        below = (_step_of(dep) for key in members[step] if key in graph for dep in graph[key].deps)
        return [other for other in dict.fromkeys(below) if other != step]

    return Drawing(map(_step_of, wants), inputs, lambda step: f"{group_of(step)} × {len(members[step])}", most)


def _step_of(key: Key) -> str:
    return key.partition(":")[0]


def _task_label(key: Key, graph: Graph) -> str:
    label = group_of(key) + "".join(key.partition(":")[1:])
    return label if key in graph else f"{label} (future)"


class Drawing:
    """
    Boxes above those that they are made of.

    Parameters
    ----------
    roots : sequence
        The boxes at the top.
    inputs : callable
        ``inputs(box)``: the boxes below one, in order.
    label : callable
        ``label(box)``: what stands in it.
    most : int
        How many boxes there may be.

    Examples
    --------
    >>> below = {"sum": ["a", "b"], "a": ["read"], "b": ["read"], "read": []}
    >>> print(Drawing(["sum"], below.get, str))
    sum
      a
        #1 read
      b
        #1
    """

    def __init__(
        self,
        roots: Iterable[Hashable],
        inputs: Callable[[Any], Iterable[Hashable]],
        label: Callable[[Any], str],
        most: int = MOST_BOXES,
    ) -> None:
        self._roots = list(dict.fromkeys(roots))
        self._below: dict[Hashable, list[Hashable]] = {}
        waiting = self._roots[::-1]
        while waiting:
            box = waiting.pop()
            if box not in self._below:
                self._below[box] = list(inputs(box))
                waiting.extend(reversed(self._below[box]))
        if len(self._below) > most:
            raise InputError(
                f"expected at most {most} boxes to draw, found {len(self._below)}; draw a part, or pass most={len(self._below)}"
            )
        self._labels = {box: label(box) for box in self._below}

    @property
    def text(self) -> str:
        """
        A line for each box, those below it further in. What stands below several is shown once, and by its number again.
        """
        above: dict[Hashable, int] = {}
        for boxes in self._below.values():
            for box in boxes:
                above[box] = above.get(box, 0) + 1
        numbers: dict[Hashable, int] = {}
        lines: list[str] = []
        waiting = [(root, 0) for root in reversed(self._roots)]
        while waiting:
            box, depth = waiting.pop()
            indent = "  " * depth
            if box in numbers:
                lines.append(f"{indent}#{numbers[box]}")
                continue
            mark = ""
            if above.get(box, 0) > 1:
                numbers[box] = len(numbers) + 1
                mark = f"#{numbers[box]} "
            lines.append(f"{indent}{mark}{self._labels[box]}")
            waiting.extend((below, depth + 1) for below in reversed(self._below[box]))
        return "\n".join(lines)

    @property
    def dot(self) -> str:
        """The graph in graphviz's language; arrows show where data goes."""
        places = {box: place for place, box in enumerate(self._below)}
        lines = [f"  {place} [label={_quoted(self._labels[box])}];" for box, place in places.items()]
        for box, boxes in self._below.items():
            lines += [f"  {places[below]} -> {places[box]};" for below in dict.fromkeys(boxes)]
        style = ["  rankdir=BT;", '  node [shape=box, style=rounded, fontname="Helvetica", fontsize=11];']
        return "\n".join(["digraph {", *style, *lines, "}"]) + "\n"

    @cached_property
    def svg(self) -> str:
        """The picture."""
        return self._drawn("svg").decode()

    def save(self, filename: str | Path) -> Path:
        """
        Write a file.

        Parameters
        ----------
        filename : str or path
            ``.svg``, ``.png`` or ``.pdf``, drawn by graphviz; ``.txt``, the text; ``.dot``, graphviz's input.
        """
        path = Path(filename)
        if path.suffix in DRAWN:
            path.write_bytes(self._drawn(path.suffix[1:]))
        elif path.suffix in (".txt", ".dot"):
            path.write_text(self.text + "\n" if path.suffix == ".txt" else self.dot, encoding="utf-8")
        else:
            raise InputError(f"expected a file that ends in {', '.join(DRAWN)}, .txt or .dot, found {str(filename)!r}")
        return path

    def _drawn(self, form: str) -> bytes:
        program = shutil.which("dot")
        if program is None:
            raise NotSupported(
                f"expected graphviz's program dot, which draws {form}, found none on the PATH; install graphviz, or write .txt"
            )
        try:
            done = subprocess.run(
                [program, f"-T{form}"], check=False, input=self.dot.encode(), capture_output=True, timeout=_LONGEST_S
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"expected graphviz to draw {len(self._below)} boxes within {_LONGEST_S:.0f} s, found that it takes longer; "
                "draw a part, or write .txt"
            ) from error
        if done.returncode:
            raise RuntimeError(f"graphviz failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def _repr_svg_(self) -> str | None:
        return self.svg if shutil.which("dot") else None

    def __repr__(self) -> str:
        return self.text


def _quoted(label: str) -> str:
    """As one of graphviz's strings, in which nothing has a meaning of its own."""
    plain = label.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + plain.replace("\r", "").replace("\n", "\\n") + '"'

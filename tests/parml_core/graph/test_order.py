"""The order of tasks keeps few results alive."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from parml_core.graph import Graph, Ref, Task
from parml_core.graph.order import order
from parml_core.testing.strategies import graphs


def peak(graph: Graph, keys: Sequence[str]) -> int:
    """How many results are alive at most when tasks run in this order: a task's inputs live until it has ended."""
    left = {key: 0 for key in graph}
    for task in graph.values():
        for dep in task.deps:
            left[dep] += 1
    alive, most = 0, 0
    for key in keys:
        alive += 1
        most = max(most, alive)
        for dep in graph[key].deps:
            left[dep] -= 1
            alive -= left[dep] == 0
    return most


def all_orders(graph: Graph, done: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if len(done) == len(graph):
        yield done
    for key in graph:
        if key not in done and all(dep in done for dep in graph[key].deps):
            yield from all_orders(graph, (*done, key))


def in_order(graph: Graph) -> list[str]:
    places = order(graph)
    return sorted(places, key=places.__getitem__)


@st.composite
def trees(draw: st.DrawFn) -> Graph:
    """Each task but the last has exactly one user."""
    size = draw(st.integers(1, 7))
    user_of = {i: draw(st.integers(i + 1, size - 1)) for i in range(size - 1)}
    return Graph([Task(f"t:{i}", max, tuple(Ref(f"t:{j}") for j in user_of if user_of[j] == i)) for i in range(size)])


@given(case=graphs(max_tasks=20))
def test_order_random_graph_is_topological_and_complete(case: Any) -> None:
    """Positions are 0, 1, 2, …, dependencies first."""
    graph, _ = case
    places = order(graph)
    assert sorted(places.values()) == list(range(len(graph)))
    assert all(places[dep] < places[key] for key in graph for dep in graph[key].deps)


@given(tree=trees())
def test_order_tree_keeps_as_few_alive_as_any_order_can(tree: Graph) -> None:
    """Compared with all orders there are."""
    assert peak(tree, in_order(tree)) == min(peak(tree, keys) for keys in all_orders(tree))


def test_order_tree_reduction_keeps_logarithmically_many_alive() -> None:
    """1024 sources, summed in pairs of pairs."""
    tasks = [Task(f"s:{i}", int) for i in range(1024)]
    level, width = "s", 1024
    for depth in range(10):
        width //= 2
        tasks += [Task(f"r{depth}:{i}", max, (Ref(f"{level}:{2 * i}"), Ref(f"{level}:{2 * i + 1}"))) for i in range(width)]
        level = f"r{depth}"
    graph = Graph(tasks)
    assert peak(graph, in_order(graph)) <= 12


def test_order_chains_end_before_others_begin() -> None:
    """Wide and shallow: each source is used up before the next is read."""
    tasks = [Task(f"read:{i}", int) for i in range(50)]
    tasks += [Task(f"clean:{i}", abs, (Ref(f"read:{i}"),)) for i in range(50)]
    tasks += [Task(f"size:{i}", abs, (Ref(f"clean:{i}"),)) for i in range(50)]
    graph = Graph([*tasks, Task("total", max, tuple(Ref(f"size:{i}") for i in range(50)))])
    assert peak(graph, in_order(graph)) <= 52


def test_order_two_uses_of_each_source_are_made_together() -> None:
    """Where two results are made of each partition, no partition waits for the second one."""
    tasks = [Task(f"read:{i}", int) for i in range(50)]
    tasks += [Task(f"{use}:{i}", abs, (Ref(f"read:{i}"),)) for use in ("low", "high") for i in range(50)]
    tasks += [
        Task(use, max, tuple(Ref(f"{part}:{i}") for i in range(50))) for use, part in (("lows", "low"), ("highs", "high"))
    ]
    graph = Graph(tasks)
    places = order(graph)
    assert all(max(places[f"low:{i}"], places[f"high:{i}"]) < places[f"read:{i + 1}"] for i in range(49))


def test_order_futures_are_no_tasks() -> None:
    """They have no position."""
    assert order(Graph([Task("a", abs, (Ref("f"),))], {"f": object()})) == {"a": 0}


def test_order_hundred_thousand_tasks_takes_linear_time() -> None:
    """A chain and a fan: ten times as many tasks take about ten times as long (processor time, with room for noise)."""

    def seconds(size: int) -> float:
        chain = [Task(f"c:{i}", abs, (Ref(f"c:{i - 1}"),) if i else ()) for i in range(size)]
        fan = [Task(f"f:{i}", abs, (Ref("c:0"),)) for i in range(size)]
        graph = Graph([*chain, *fan, Task("end", max, tuple(Ref(task.key) for task in fan))])
        start = time.process_time()
        places = order(graph)
        assert len(places) == len(graph)
        return time.process_time() - start

    assert seconds(50_000) < 40 * max(seconds(5_000), 0.01)

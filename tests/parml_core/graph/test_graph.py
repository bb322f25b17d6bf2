"""Tasks, graphs and what they mean."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given

from parml_core.errors import CycleError, GraphError, MissingKeyError
from parml_core.graph import Graph, Ref, Task, evaluate
from parml_core.graph.task import substitute
from parml_core.testing.strategies import graphs


def interpret(graph: Graph, key: str) -> Any:
    """A second interpreter, recursive and without memory, to compare with."""

    def value_of(item: Any) -> Any:
        if isinstance(item, Ref):
            return interpret(graph, item.key)
        if isinstance(item, dict):
            return {name: value_of(inner) for name, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(map(value_of, item))
        return item

    task = graph[key]
    return task.fn(*map(value_of, task.args), **{name: value_of(item) for name, item in task.kwargs.items()})


@given(case=graphs(max_tasks=6))
def test_evaluate_random_graph_equals_recursive_interpreter(case: Any) -> None:
    """Refs at any depth become results, strings that equal keys do not."""
    graph, wants = case
    assert evaluate(graph, wants) == [interpret(graph, key) for key in wants]


@given(case=graphs())
def test_topological_random_graph_puts_dependencies_first(case: Any) -> None:
    """And holds exactly what the wanted keys need."""
    graph, wants = case
    found = graph.topological(wants)
    needed: set[str] = set()
    stack = list(wants)
    while stack:
        key = stack.pop()
        if key not in needed:
            needed.add(key)
            stack.extend(graph[key].deps)
    assert sorted(found) == sorted(needed)
    place = {key: index for index, key in enumerate(found)}
    assert all(place[dep] < place[key] for key in found for dep in graph[key].deps)


def test_topological_deep_chain_does_not_recurse_and_stays_linear() -> None:
    """A hundred thousand tasks in a row, wanted by the last."""
    size = 100_000
    graph = Graph([Task(f"c:{i}", abs, (Ref(f"c:{i - 1}") if i else -1,)) for i in range(size)])
    assert graph.topological([f"c:{size - 1}"]) == [f"c:{i}" for i in range(size)]
    assert evaluate(graph, [f"c:{size - 1}"]) == [1]


def test_topological_cycle_raises_with_the_path() -> None:
    """The message shows the tasks in the order in which they wait for each other."""
    graph = Graph(
        [Task("a", abs, (Ref("b"),)), Task("b", abs, (Ref("c"),)), Task("c", abs, (Ref("b"),)), Task("s", abs, (Ref("s"),))]
    )
    with pytest.raises(CycleError, match="b → c → b"):
        graph.topological(["a"])
    with pytest.raises(CycleError, match="s → s"):
        graph.topological(["s"])


def test_topological_long_cycle_message_stays_short() -> None:
    """Nobody reads a cycle of a thousand tasks."""
    graph = Graph([Task(f"c:{i}", abs, (Ref(f"c:{(i + 1) % 1000}"),)) for i in range(1000)])
    with pytest.raises(CycleError) as caught:
        graph.topological()
    assert len(str(caught.value)) < 400


def test_topological_missing_key_names_it_and_who_needs_it() -> None:
    """For a dependency and for a wanted key."""
    graph = Graph([Task("a", abs, (Ref("gone"),))])
    with pytest.raises(MissingKeyError, match=r"'gone'.*'a'"):
        graph.topological(["a"])
    with pytest.raises(MissingKeyError, match="'never'"):
        graph.topological(["never"])


def test_graph_equal_keys_in_one_list_raise() -> None:
    """Two tasks of one name are a mistake."""
    with pytest.raises(GraphError, match="two named 'a'"):
        Graph([Task("a", int), Task("a", int)])


def test_graph_pickle_gives_equal_graph() -> None:
    """Graphs travel."""
    graph = Graph([Task("a", int, ("3",)), Task("b", abs, ([Ref("a")],))])
    assert dict(pickle.loads(pickle.dumps(graph))) == dict(graph)


def test_deps_are_in_order_of_first_appearance_and_unique() -> None:
    """Over args and kwargs, at any depth."""
    task = Task("t", print, ([Ref("c"), (Ref("a"), {"x": Ref("b")})], Ref("a")), {"k": {"z": [Ref("d"), Ref("c")]}})
    assert task.deps == ("c", "a", "b", "d")


def test_substitute_container_without_refs_stays_itself() -> None:
    """So that a task that changes its argument in place does so in all engines alike, and nothing is copied in vain."""
    plain = [1, {"a": (2,)}]
    value = {"plain": plain, "ref": [Ref("x")]}
    replaced = substitute(value, {"x": 5})
    assert replaced == {"plain": [1, {"a": (2,)}], "ref": [5]}
    assert replaced["plain"] is plain
    assert value["ref"] == [Ref("x")]

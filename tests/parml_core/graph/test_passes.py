"""Passes keep results."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given

from parml_core.errors import CycleError, MissingKeyError
from parml_core.graph import Graph, Hints, Ref, Task, evaluate
from parml_core.graph.passes import cull, fuse
from parml_core.testing.strategies import graphs


class Known:
    """A future that has a result."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


def chain_of(size: int) -> Graph:
    return Graph([Task(f"c:{i}", abs, (Ref(f"c:{i - 1}") if i else -7,)) for i in range(size)])


@given(case=graphs())
def test_cull_random_graph_keeps_results_and_nothing_else(case: Any) -> None:
    """What remains is what `wants` need."""
    graph, wants = case
    culled = cull(graph, wants)
    assert evaluate(culled, wants) == evaluate(graph, wants)
    assert set(culled) == set(graph.topological(wants))


def test_cull_keeps_only_futures_that_are_needed() -> None:
    """Whether a task refers to them or they are wanted themselves."""
    graph = Graph([Task("a", abs, (Ref("f"),)), Task("b", abs, (Ref("g"),))], {"f": Known(1), "g": Known(2), "h": Known(3)})
    assert set(cull(graph, ["a", "h"]).futures) == {"f", "h"}


def test_cull_faulty_graph_raises() -> None:
    """As topological does, but only for what is wanted."""
    graph = Graph([Task("a", abs, (Ref("a"),)), Task("b", abs, (Ref("gone"),)), Task("c", int)])
    assert list(cull(graph, ["c"])) == ["c"]
    with pytest.raises(CycleError):
        cull(graph, ["a"])
    with pytest.raises(MissingKeyError):
        cull(graph, ["b"])


@given(case=graphs(max_tasks=15))
def test_fuse_random_graph_keeps_results_of_kept_keys(case: Any) -> None:
    """Also after a journey through pickle."""
    graph, wants = case
    fused = fuse(graph, wants)
    expected = evaluate(graph, wants)
    assert evaluate(fused, wants) == expected
    assert evaluate(pickle.loads(pickle.dumps(fused)), wants) == expected


@given(case=graphs(max_tasks=15))
def test_fuse_random_graph_leaves_no_chain_to_fuse(case: Any) -> None:
    """A second pass finds nothing more to do."""
    graph, wants = case
    fused = fuse(graph, wants)
    assert set(fuse(fused, wants)) == set(fused)


def test_fuse_chain_becomes_one_task_without_recursion() -> None:
    """However long it is."""
    fused = fuse(chain_of(100_000), ["c:99999"])
    assert list(fused) == ["c:99999"]
    assert evaluate(fused, ["c:99999"]) == [7]


def test_fuse_kept_key_in_the_middle_survives() -> None:
    """The chain is cut behind it."""
    fused = fuse(chain_of(6), ["c:2", "c:5"])
    assert list(fused) == ["c:2", "c:5"]
    assert fused["c:5"].deps == ("c:2",)


def test_fuse_shared_key_survives() -> None:
    """A result that several tasks use is computed once."""
    graph = Graph([Task("a", abs, (-3,)), Task("b", abs, (Ref("a"),)), Task("c", abs, (Ref("a"),))])
    assert set(fuse(graph, ["b", "c"])) == {"a", "b", "c"}


def test_fuse_other_hints_end_the_chain() -> None:
    """A task that may run only here or there is not joined with one that may run anywhere."""
    twice = Hints(retries=2)
    tasks = [Task("a", abs, (-3,)), Task("b", abs, (Ref("a"),), hints=twice), Task("c", abs, (Ref("b"),), hints=twice)]
    graph = Graph(tasks)
    fused = fuse(graph, ["c"])
    assert set(fused) == {"a", "c"}
    assert fused["c"].hints == twice


def test_fuse_futures_become_inputs_of_the_chain() -> None:
    """Each step finds the futures it refers to."""
    graph = Graph([Task("a", max, (Ref("f"), 1)), Task("b", max, (Ref("a"), Ref("g")))], {"f": Known(5), "g": Known(9)})
    fused = fuse(graph, ["b"])
    assert set(fused["b"].deps) == {"f", "g"}
    assert evaluate(fused, ["b"]) == [9]


def test_fuse_error_in_a_step_is_raised_as_it_is() -> None:
    """Fusing does not change what a task raises."""
    fused = fuse(Graph([Task("a", int, ("7",)), Task("b", divmod, (Ref("a"), 0))]), ["b"])
    with pytest.raises(ZeroDivisionError):
        evaluate(fused, ["b"])

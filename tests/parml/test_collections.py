"""compute and persist over anything that is a collection, and what `import parml` does."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import parml
from parml.collections import Collection, compute, is_collection, persist
from parml.delayed import Delayed
from parml.primitives import map_blocks, source, tree_reduce
from parml_core.engine.inline import InlineEngine
from parml_core.graph import Graph, Ref, evaluate


class Numbers:
    """A collection of a few numbers, written against the protocol alone."""

    def __init__(self, name: str, values: list[int], calls: list[int] | None = None) -> None:
        self.name, self.calls = name, calls if calls is not None else []
        self.tasks = source(f"numbers-{name}", self._noted, values)

    def _noted(self, value: int) -> int:
        self.calls.append(value)
        return value

    def __parml_graph__(self) -> Graph:
        return Graph(self.tasks)

    def __parml_keys__(self) -> list[str]:
        return [task.key for task in self.tasks]

    def __parml_finish__(self, results: list[int]) -> list[int]:
        return results

    def __parml_persisted__(self, futures: Any) -> Any:
        return ("persisted", [future.result() for future in futures])

    def __parml_token__(self) -> str:
        return self.name


def test_whatever_has_the_methods_is_a_collection() -> None:
    """The protocol is all; a class, or an object that answers to every name, is none."""

    class Anything:
        def __getattr__(self, name: str) -> str:
            return name

    assert is_collection(Numbers("a", [1]))
    assert isinstance(Numbers("a", [1]), Collection)
    assert not is_collection(Numbers)
    assert not is_collection(Anything())


def test_compute_keeps_the_structure_of_what_it_is_given() -> None:
    """Collections are found in lists, tuples and dicts; all else comes back as it went in."""
    numbers, marker = Numbers("a", [1, 2]), object()
    got = compute(1, [numbers, {"k": (numbers, marker)}], {"plain": None}, numbers, engine=InlineEngine())
    assert got == (1, [[1, 2], {"k": ([1, 2], marker)}], {"plain": None}, [1, 2])
    assert compute(marker) == (marker,)
    assert compute() == ()


def test_compute_does_shared_work_once() -> None:
    """Equal keys of several collections are computed once."""
    calls: list[int] = []
    engine = InlineEngine()
    assert compute(Numbers("a", [1, 2], calls), Numbers("a", [1, 2], calls), engine=engine) == ([1, 2], [1, 2])
    assert calls == [1, 2]


def test_persist_replaces_collections_by_persisted_ones() -> None:
    """The same structure with collections of futures."""
    assert persist([Numbers("a", [1, 2])], "x", engine=InlineEngine()) == ([("persisted", [1, 2])], "x")


def test_persist_does_not_wait_for_the_work() -> None:
    """The work ends only after persist has returned."""
    gate = threading.Event()
    kept = parml.delayed(gate.wait)(30).persist()
    gate.set()
    assert kept.compute() is True


def test_compute_refuses_what_is_no_engine() -> None:
    """With an error that says what was expected."""
    with pytest.raises(TypeError, match="ngine"):
        compute(Numbers("a", [1]), engine="threads")  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=3), min_size=1, max_size=60), st.integers(2, 7))
def test_tree_reduce_merges_neighbours_in_order(texts: list[str], fan_in: int) -> None:
    """Joining texts, which is not commutative, gives them joined in order, whatever the shape of the tree."""
    leaves = source("leaf-1", str, texts)
    tree = tree_reduce("join-2", [task.key for task in leaves], "".join, lambda parts: "".join(parts) + "!", fan_in=fan_in)
    assert all(len(task.deps) <= fan_in for task in tree)
    assert evaluate(Graph(leaves + tree), ["join-2:0"]) == ["".join(texts) + "!"]


def test_map_blocks_refuses_columns_of_other_length() -> None:
    """Chunks that have no partner are a mistake of the caller."""
    assert [task.key for task in map_blocks("add-1", max, [Ref("a:0"), Ref("a:1")], [1, 2])] == ["add-1:0", "add-1:1"]
    with pytest.raises(ValueError, match="longer"):
        map_blocks("add-1", max, [Ref("a:0")], [1, 2])


def test_import_parml_loads_nothing_heavy_and_registers_the_backend() -> None:
    """Neither the cluster nor pandas nor a model library; and joblib knows the backend by name."""
    script = (
        "import sys, parml; "
        "print([m for m in ('tornado', 'pandas', 'pyarrow', 'sklearn', 'xgboost', 'lightgbm') if m in sys.modules]); "
        "from joblib.parallel import BACKENDS; print('parml' in BACKENDS, parml.__version__, callable(parml.delayed)); "
        "import parml.delayed, parml.collections; print(callable(parml.delayed))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "True 0.1.0 True", "True"]


def test_unknown_name_of_parml_says_what_there_is() -> None:
    """A misspelled name is an AttributeError that lists the names."""
    with pytest.raises(AttributeError, match="delayed"):
        _ = parml.comptue
    assert {"Client", "compute", "delayed"} <= set(dir(parml))
    assert isinstance(parml.delayed(1), Delayed)

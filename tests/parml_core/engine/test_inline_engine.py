"""What the inline engine does beyond EngineSuite."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest

from parml_core.engine.inline import InlineEngine
from parml_core.errors import NotSupported
from parml_core.graph import Graph, Ref, Task


class Value:
    """Something whose end can be watched."""


def test_task_runs_at_submit_in_the_calling_thread() -> None:
    """A breakpoint in it stops where the caller is."""
    threads: list[int] = []
    future = InlineEngine().submit(lambda: threads.append(threading.get_ident()))
    assert threads == [threading.get_ident()]
    assert future.status == "finished"


def test_intermediate_results_are_dropped_while_the_graph_runs() -> None:
    """A chain holds two results at a time, not all."""
    values: list[weakref.ref[Value]] = []
    alive: list[int] = []

    def link(before: Value | None) -> Value:
        value = Value()
        values.append(weakref.ref(value))
        alive.append(sum(reference() is not None for reference in values))
        return value

    tasks = [Task(f"link:{i}", link, (Ref(f"link:{i - 1}") if i else None,)) for i in range(30)]
    (future,) = InlineEngine().submit_graph(Graph(tasks), ["link:29"])
    assert max(alive) <= 2
    assert sum(reference() is not None for reference in values) == 1
    del future
    assert sum(reference() is not None for reference in values) == 0


def test_interrupt_goes_to_the_caller() -> None:
    """Ctrl-C means the caller, whose thread it is."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InlineEngine().submit(interrupted)


def test_gang_of_several_ranks_is_not_supported_and_says_what_to_use() -> None:
    """There is one thread."""
    with pytest.raises(NotSupported, match="ThreadsEngine"):
        InlineEngine().gang(abs, [(1,), (2,)])


def test_traceback_of_an_error_ends_in_the_users_function() -> None:
    """And holds no frame of the engine between result and that function but the call itself."""

    def fails() -> None:
        raise ValueError("here")

    error: Any = InlineEngine().submit(fails).exception()
    names = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert names == ["run", "fails"]

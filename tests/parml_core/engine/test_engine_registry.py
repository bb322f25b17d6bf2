"""Which engine serves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from parml_core.engine import registry
from parml_core.engine.inline import InlineEngine
from parml_core.engine.registry import current_engine, explicit_engine, resolve, set_default, use
from parml_core.engine.threads import ThreadsEngine


@pytest.fixture(autouse=True)
def no_default() -> Iterator[None]:
    before = registry._default
    set_default(None)
    yield
    set_default(before)


def test_current_engine_without_choice_is_one_pool_of_threads() -> None:
    """The same for all of the process, and nobody chose it."""
    engine = current_engine()
    assert isinstance(engine, ThreadsEngine)
    assert current_engine() is engine
    assert explicit_engine() is None
    assert engine.submit(explicit_engine).result(20) is None


def test_use_goes_before_the_default_and_the_innermost_counts() -> None:
    """And ends with its block, whatever happens inside."""
    default, outer, inner = InlineEngine(), InlineEngine(), InlineEngine()
    set_default(default)
    assert current_engine() is explicit_engine() is default
    with use(outer):
        with pytest.raises(ValueError, match="inside"), use(inner):
            assert current_engine() is inner
            raise ValueError("inside")
        assert current_engine() is explicit_engine() is outer
    assert current_engine() is default


def test_use_does_not_reach_into_other_threads_tasks() -> None:
    """A task sees the engine that runs it, not the one of some caller."""
    with ThreadsEngine(1) as threads, use(InlineEngine()):
        assert threads.submit(current_engine).result(20) is threads
        assert InlineEngine().submit(current_engine).result().name == "inline"


def test_resolve_gives_the_argument_or_the_current_engine() -> None:
    """Anything else is an error that says what could stand there."""
    engine = InlineEngine()
    assert resolve(engine) is engine
    with use(engine):
        assert resolve(None) is engine
    with pytest.raises(TypeError, match=r"expected an engine \(a parml Client.*found str: '127"):
        resolve("127.0.0.1:8786")  # type: ignore[arg-type]


def test_process_with_running_tasks_ends_when_its_main_thread_does() -> None:
    """Pending work is cancelled at exit, and what runs is waited for."""
    code = (
        "from parml_core.engine.registry import current_engine\n"
        "import threading\n"
        "started, never = threading.Event(), threading.Event()\n"
        "running = current_engine().submit(lambda: (started.set(), never.wait(0.2), print('ended well')))\n"
        "pending = current_engine().submit(print, running)\n"
        "started.wait(20)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout == "ended well\n"
    assert run.stderr == ""

"""Every engine does what EngineSuite says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine
from parml_core.engine.threads import ThreadsEngine
from parml_core.testing.engine_suite import EngineSuite

_RUNS_AT_SUBMIT = "submit returns when the task has ended, so nothing can be pending"
_ONE_THREAD = "ranks run at the same time, and there is one thread"


class TestInline(EngineSuite):
    engine_name = "inline"
    unsupported = {
        "test_submit_pending_argument_does_not_block": _RUNS_AT_SUBMIT,
        "test_wait_first_returns_while_others_are_pending": _RUNS_AT_SUBMIT,
        "test_wait_first_error_returns_at_the_error": _RUNS_AT_SUBMIT,
        "test_result_timeout_raises_and_the_task_goes_on": _RUNS_AT_SUBMIT,
        "test_as_completed_yields_in_order_of_completion": _RUNS_AT_SUBMIT,
        "test_cancel_pending_task_takes_its_dependants_along": _RUNS_AT_SUBMIT,
        "test_cancel_running_task_drops_its_result": _RUNS_AT_SUBMIT,
        "test_blocked_inside_tasks_frees_their_slots": _RUNS_AT_SUBMIT,
        "test_gang_ranks_run_at_the_same_time": _ONE_THREAD,
        "test_gang_rank_that_raises_ends_all": _ONE_THREAD,
        "test_gang_without_room_raises_after_its_timeout": _ONE_THREAD,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        with InlineEngine() as engine:
            yield engine


class TestThreads(EngineSuite):
    engine_name = "threads"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        with ThreadsEngine(2) as engine:
            yield engine


class TestThreadsWithOneSlot(EngineSuite):
    """One slot is where nested work deadlocks first."""

    engine_name = "threads"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        with ThreadsEngine(1) as engine:
            yield engine


class TestCluster(EngineSuite):
    engine_name = "cluster"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        from parml_core.client import Client, LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_port=None) as cluster, Client(cluster) as client:
            yield client

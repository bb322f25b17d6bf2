"""Who trains on which partitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml.boosting.ranks import Rank, cut_rows, plan_ranks, share_out
from parml.boosting.rendezvous import address_towards
from parml_core.engine.base import WorkerInfo
from parml_core.errors import AddressError, ClusterError

WORKERS = [
    WorkerInfo("id-3", "work-03", "host-b", 2),
    WorkerInfo("id-1", "work-01", "host-a", 1),
    WorkerInfo("id-2", "work-02", "host-a", 1),
]


def test_plan_by_host_joins_workers_and_sums_threads() -> None:
    """One rank for each host, with all its workers' threads, and equal runs of the rows in their order."""
    plan = plan_ranks(WORKERS, [("id-2",), ("id-1",), ("id-3",)], [5, 5, 6])
    assert plan == [
        Rank("host-a", ("id-1", "id-2"), 2, ((0, 0, 5), (1, 0, 3))),
        Rank("host-b", ("id-3",), 2, ((1, 3, 5), (2, 0, 6))),
    ]


def test_plan_by_worker_makes_one_rank_each() -> None:
    """With ranks per worker each worker that has as many threads as the others takes what it holds."""
    workers = [WorkerInfo(f"id-{i}", f"work-{i}", "host", 1) for i in range(3)]
    plan = plan_ranks(workers, [("id-2",), ("id-0",), ("id-1",)], [5, 5, 5], per="worker")
    assert [(rank.workers, rank.pieces) for rank in plan] == [
        (("id-2",), ((0, 0, 5),)),
        (("id-0",), ((1, 0, 5),)),
        (("id-1",), ((2, 0, 5),)),
    ]


def test_plan_moves_nothing_that_lies_right() -> None:
    """Each host takes the run that it holds most of, whatever its name."""
    plan = plan_ranks(WORKERS, [("id-3",), ("id-3", "id-1"), ("id-1",)], [5, 6, 5])
    assert [rank.host for rank in plan] == ["host-b", "host-a"]


def test_plan_hosts_with_other_threads_keep_the_order_of_their_names() -> None:
    """Where threads differ, where the data lies must not decide who adds up which histogram."""
    workers = [WorkerInfo("id-1", "a", "host-a", 1), WorkerInfo("id-2", "b", "host-b", 2)]
    assert [rank.host for rank in plan_ranks(workers, [("id-2",), ("id-1",)], [5, 5])] == ["host-a", "host-b"]


def test_plan_fewer_rows_than_hosts_leaves_hosts_out() -> None:
    """Every rank has a row."""
    assert [rank.pieces for rank in plan_ranks(WORKERS, [()], [2], per="worker")] == [((0, 0, 1),), ((0, 1, 2),)]


def test_plan_at_most_is_kept() -> None:
    """A training goes on with as many ranks as it had, also where more workers have joined."""
    assert len(plan_ranks(WORKERS, [("id-1",)], [9], per="worker", at_most=2)) == 2


def test_plan_without_workers_says_what_to_do() -> None:
    """No workers is an error at once."""
    with pytest.raises(ClusterError, match="start workers"):
        plan_ranks([], [()], [1])


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[list[WorkerInfo], list[tuple[str, ...]], list[int]]:
    n = draw(st.integers(1, 6))
    workers = [WorkerInfo(f"id-{i}", f"work-{i:02d}", draw(st.sampled_from("abc")), draw(st.integers(1, 2))) for i in range(n)]
    ids = [worker.id for worker in workers] + ["gone"]
    holders = draw(st.lists(st.lists(st.sampled_from(ids), unique=True, max_size=3).map(tuple), min_size=1, max_size=12))
    rows = draw(st.lists(st.integers(0, 50), min_size=len(holders), max_size=len(holders)))
    return workers, holders, rows


@given(_layouts(), st.randoms(use_true_random=False), st.sampled_from(["host", "worker"]))
def test_plan_any_layout_gives_runs_that_depend_on_the_rows_alone(layout, random, per) -> None:
    """Equal runs in row order, on as many places as there are; neither joining order nor where data lies changes a run."""
    workers, holders, rows = layout
    if not sum(rows):
        rows = [*rows[:-1], 1]
    plan = plan_ranks(workers, holders, rows, per=per)
    places = {worker.host if per == "host" else worker.id for worker in workers}
    assert len(plan) == min(len(places), sum(rows))
    flat = [(i, row) for rank in plan for i, start, stop in rank.pieces for row in range(start, stop)]
    assert flat == [(i, row) for i, count in enumerate(rows) for row in range(count)]
    lengths = [sum(stop - start for _, start, stop in rank.pieces) for rank in plan]
    assert max(lengths) - min(lengths) <= 1
    by_id = {worker.id: worker for worker in workers}
    for rank in plan:
        assert rank.threads == sum(by_id[worker].nthreads for worker in rank.workers)
        assert {by_id[worker].host for worker in rank.workers} == {rank.host}
    assert len({rank.workers for rank in plan}) == len(plan)
    shuffled = random.sample(workers, len(workers))
    assert plan_ranks(shuffled, holders, rows, per=per) == plan
    elsewhere = plan_ranks(workers, [()] * len(rows), rows, per=per)
    assert [rank.pieces for rank in elsewhere] == [rank.pieces for rank in plan]
    assert [rank.threads for rank in elsewhere] == [rank.threads for rank in plan]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.data())
def test_cut_rows_with_groups_cuts_no_group_and_leaves_no_run_empty(rows, data) -> None:
    """Every cut is where a group begins, every run has a group, and no cut is farther off than the nearest group needs."""
    total = sum(rows)
    if not total:
        return
    starts = [0, *sorted(data.draw(st.sets(st.integers(1, total - 1)) if total > 1 else st.just(set())))]
    n = data.draw(st.integers(1, len(starts)))
    runs = cut_rows(rows, n, starts)
    flat = [[(i, row) for i, start, stop in run for row in range(start, stop)] for run in runs]
    everything = [(i, row) for i, count in enumerate(rows) for row in range(count)]
    assert [place for run in flat for place in run] == everything
    firsts = [everything.index(run[0]) for run in flat]
    assert set(firsts) <= set(starts)
    assert len(set(firsts)) == n


@given(st.integers(1, 5), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_share_out_gives_every_rank_rows_and_every_row_a_rank(n_ranks, rows) -> None:
    """No rank evaluates on nothing, and no row counts more often than another."""
    times: dict[tuple[int, int], int] = {}
    shares = share_out(n_ranks, rows)
    assert len(shares) == n_ranks
    for i, start, stop in (piece for share in shares for piece in share):
        for row in range(start, stop):
            times[i, row] = times.get((i, row), 0) + 1
    assert set(times) == {(i, row) for i, count in enumerate(rows) for row in range(count)}
    assert len(set(times.values())) <= 1
    assert all(shares) or not sum(rows)


def test_address_towards_loopback_workers_is_loopback() -> None:
    """A cluster on this machine alone meets on loopback and nowhere else."""
    assert address_towards(["127.0.0.1", "localhost"]).startswith(("127.", "::1"))


def test_address_towards_unknown_host_names_it() -> None:
    """A name that resolves to nothing is an error that names it."""
    with pytest.raises(AddressError, match=r"no-such-host\.invalid"):
        address_towards(["no-such-host.invalid"])

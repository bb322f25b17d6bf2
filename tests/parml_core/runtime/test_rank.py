"""Ranks with real processes: outcomes, inputs, and every way in which a process can be lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from parml_core.comm import Comm, Credentials, connect, listen, my_versions
from parml_core.errors import GangError
from parml_core.graph import Ref
from parml_core.protocol.messages import Failure, GetValues, Hello, Input, ToData, Values, decoder_of, encoder
from parml_core.protocol.serialize import Serialized, dumps, dumps_call, dumps_function, exception_of, failure_of, loads
from parml_core.runtime.nanny_link import NannyLink
from parml_core.runtime.rank import RankNotStarted, RankProcess
from parml_core.runtime.specs import RankSpec

SECRET = b"s" * 32
BOUND_S = 15.0

assert connect


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spec_of(fn: Callable[..., Any], *args: Any, inputs: list[Input] | None = None, **options: Any) -> RankSpec:
    return RankSpec(
        key="train-1:0",
        attempt=1,
        fn=dumps_function(fn)[1],
        args=dumps_call(args, {}),
        inputs=inputs or [],
        secret=SECRET,
        gang="g1",
        worker="work-01",
        **options,
    )


def with_nanny(scene: Callable[[NannyLink], Coroutine[Any, Any, None]]) -> None:
    """Play a scene with a nanny of its own, in bounded time; nothing is left of either."""

    async def play() -> None:
        link = await NannyLink.start_own()
        try:
            async with asyncio.timeout(BOUND_S):
                await scene(link)
        finally:
            await link.close()

    before, family = psutil.Process().num_fds(), set(psutil.Process().children(recursive=True))
    asyncio.run(play())
    assert set(psutil.Process().children(recursive=True)) <= family
    assert psutil.Process().num_fds() == before


async def outcome_of(link: NannyLink, spec: RankSpec, **options: Any) -> Any:
    rank = await RankProcess.start(link, spec, timeout_s=10, **options)
    outcome = await rank.wait()
    if isinstance(outcome, Failure):
        raise exception_of(outcome)
    return loads(outcome.head, outcome.buffers)


async def lost(link: NannyLink, fn: Callable[..., Any], *args: Any, silence_s: float = 10.0) -> Failure:
    """The failure of a rank that has no outcome; its process is gone."""
    rank = await RankProcess.start(link, spec_of(fn, *args), timeout_s=10, silence_s=silence_s)
    outcome = await rank.wait()
    assert isinstance(outcome, Failure)
    assert outcome.kind == "GangError" and outcome.worker == "work-01" and outcome.key == "train-1:0"
    assert all(part in outcome.text for part in ("work-01", "train-1:0", str(rank.pid)))
    await link_forgot(rank.pid)
    return outcome


async def link_forgot(pid: int) -> None:
    """Wait until the process is gone: the nanny reaps it, and no event of ours tells."""
    while psutil.pid_exists(pid):
        await asyncio.sleep(0.005)


# --- functions that ranks run ------------------------------------------------------------------------------------------


def where_am_i() -> tuple[int, int, str | None]:
    return os.getpid(), os.getppid(), os.environ.get("OMP_NUM_THREADS")


def raise_error(kind: type[BaseException]) -> None:
    raise kind("on purpose")


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(3600)


def leave(code: int) -> None:
    os._exit(code)


def sleep_for_ever() -> None:
    time.sleep(3600)


def hold_the_lock() -> None:
    sum(range(10**12))  # compiled code that never lets another thread run


def train_xgboost(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    import xgboost

    booster = xgboost.train({"nthread": 2, "verbosity": 0}, xgboost.DMatrix(X, y), 5)
    return np.asarray(booster.predict(xgboost.DMatrix(X)))


def is_loaded(module: str) -> bool:
    return module in sys.modules


def read_arrow() -> int:
    import io

    from pyarrow import csv

    return csv.read_csv(io.BytesIO(b"a,b\n" + b"1,2\n" * 100_000)).num_rows


def threads_of_blas() -> set[int]:
    import threadpoolctl

    np.ones((64, 64)) @ np.ones((64, 64))
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


# --- outcomes ----------------------------------------------------------------------------------------------------------


def test_rank_runs_the_function_in_a_process_forked_by_the_nanny() -> None:
    """The rank is neither this process nor its child, and may use the threads of its spec."""

    async def scene(link: NannyLink) -> None:
        pid, parent, threads = await outcome_of(link, spec_of(where_am_i, threads=3))
        assert pid != os.getpid() and parent != os.getpid() and threads == "3"
        await link_forgot(pid)

    with_nanny(scene)


def test_rank_gives_a_large_array_unchanged() -> None:
    """Buffers of many megabytes stream over the channel."""
    rng = np.random.default_rng(1)
    array = rng.random(4_000_000)

    async def scene(link: NannyLink) -> None:
        result = await outcome_of(link, spec_of(lambda seed: np.random.default_rng(seed).random(4_000_000), 1))
        assert np.array_equal(result, array)

    with_nanny(scene)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_rank_that_raises_fails_with_its_exception(kind: type[BaseException]) -> None:
    """The user's exception keeps its type and text, also one that would end a process."""

    async def scene(link: NannyLink) -> None:
        rank = await RankProcess.start(link, spec_of(raise_error, kind), timeout_s=10)
        outcome = await rank.wait()
        assert isinstance(outcome, Failure) and outcome.kind == "raised" and "raise_error" in outcome.traceback
        error = exception_of(outcome)
        assert type(error) is kind and str(error) == "on purpose"

    with_nanny(scene)


def test_rank_whose_result_cannot_be_pickled_fails() -> None:
    """The error says what could not be pickled."""

    async def scene(link: NannyLink) -> None:
        with pytest.raises(Exception, match="pickle"):
            await outcome_of(link, spec_of(lambda: (value for value in [1])))

    with_nanny(scene)


def test_rank_trains_xgboost_in_a_fork_that_has_it_loaded() -> None:
    """OpenMP and Arrow work in the fork, with several threads; the model is that of the plain library."""
    rng = np.random.default_rng(0)
    X, y = rng.random((500, 4)), rng.random(500)

    async def scene(link: NannyLink) -> None:
        spec = spec_of(train_xgboost, X, y, threads=2, preload=["xgboost", "pyarrow.csv"])
        assert np.array_equal(await outcome_of(link, spec), train_xgboost(X, y))
        assert await outcome_of(link, spec_of(read_arrow)) == 100_000
        assert await outcome_of(link, spec_of(is_loaded, "xgboost")), "the next rank finds it loaded, asked for or not"

    with_nanny(scene)


def test_rank_caps_numerical_libraries_at_its_threads() -> None:
    """Also where the nanny had loaded them before the fork."""

    async def scene(link: NannyLink) -> None:
        for threads in (2, 1):
            spec = spec_of(threads_of_blas, threads=threads, preload=["numpy"])
            assert await outcome_of(link, spec) == {threads}

    with_nanny(scene)


def test_rank_with_a_library_that_is_missing_does_not_start() -> None:
    """The failure names the module, the rank and the worker."""

    async def scene(link: NannyLink) -> None:
        with pytest.raises(RankNotStarted) as caught:
            await RankProcess.start(link, spec_of(where_am_i, preload=["no_such_library"]), timeout_s=10)
        assert isinstance(caught.value, GangError)
        assert all(part in caught.value.failure.text for part in ("no_such_library", "train-1:0", "work-01"))

    with_nanny(scene)


# --- inputs ------------------------------------------------------------------------------------------------------------


def holder_of(values: dict[str, Any], failures: dict[str, Failure] | None = None) -> Callable[[Comm], Awaitable[None]]:
    """Serves values as a worker does."""

    async def serve(comm: Comm) -> None:
        header, _ = await comm.read()
        (asked,) = decoder_of(ToData).decode(header)
        assert isinstance(asked, GetValues)
        found = [dumps(values[key]) if key in values else None for key in asked.keys]
        heads = [value.head if value else None for value in found]
        counts = [len(value.buffers) if value else 0 for value in found]
        buffers = [buffer for value in found if value for buffer in value.buffers]
        comm.write(encoder.encode([Values(asked.request, heads, counts, failures or {})]), buffers)
        await comm.close()

    return serve


async def play_with_holders(
    link: NannyLink, holders: list[Callable[[Comm], Awaitable[None]]], scene: Callable[..., Coroutine[Any, Any, Any]]
) -> Any:
    hello = Hello("worker", "w", my_versions())
    listeners = [await listen("tcp://127.0.0.1:0", serve, credentials=Credentials(SECRET), hello=hello) for serve in holders]
    try:
        return await scene(link, *(listener.address for listener in listeners))
    finally:
        for listener in listeners:
            await listener.stop()


def test_rank_fetches_its_inputs_from_several_holders() -> None:
    """Refs become values, wherever they lie in the arguments."""
    big = np.arange(300_000.0)

    async def fetch(link: NannyLink, first: str, second: str) -> Any:
        inputs = [Input("a", 8, (first,)), Input("b", 8, (second, first)), Input("c", 8, (second,))]
        spec = spec_of(
            lambda a, rest: a.sum() + rest["b"][0] + rest["c"], Ref("a"), {"b": [Ref("b")], "c": Ref("c")}, inputs=inputs
        )
        return await outcome_of(link, spec)

    async def scene(link: NannyLink) -> None:
        assert await play_with_holders(link, [holder_of({"a": big}), holder_of({"b": 1, "c": 2})], fetch) == big.sum() + 3

    with_nanny(scene)


def test_rank_asks_the_next_holder_where_one_has_no_such_value_or_is_gone() -> None:
    """One copy is enough."""

    async def fetch(link: NannyLink, empty: str, full: str) -> Any:
        inputs = [Input("a", 8, (empty, full)), Input("b", 8, ("tcp://127.0.0.1:1", full))]
        return await outcome_of(link, spec_of(lambda a, b: a + b, Ref("a"), Ref("b"), inputs=inputs))

    async def scene(link: NannyLink) -> None:
        assert await play_with_holders(link, [holder_of({}), holder_of({"a": 1, "b": 2})], fetch) == 3

    with_nanny(scene)


def test_rank_whose_input_nobody_holds_fails_with_its_name() -> None:
    """The error says which input, and who was asked."""

    async def fetch(link: NannyLink, empty: str) -> Any:
        with pytest.raises(LookupError, match=f"'a' at {empty}"):
            await outcome_of(link, spec_of(abs, Ref("a"), inputs=[Input("a", 8, (empty,))]))

    async def scene(link: NannyLink) -> None:
        await play_with_holders(link, [holder_of({})], fetch)

    with_nanny(scene)


def test_rank_whose_input_cannot_be_sent_fails_with_that_reason() -> None:
    """The holder's failure is the rank's."""
    failure = failure_of(TypeError("cannot be pickled"), key="a", worker="w")

    async def fetch(link: NannyLink, holder: str) -> Any:
        with pytest.raises(TypeError, match="cannot be pickled"):
            await outcome_of(link, spec_of(abs, Ref("a"), inputs=[Input("a", 8, (holder,))]))

    async def scene(link: NannyLink) -> None:
        await play_with_holders(link, [holder_of({}, {"a": failure})], fetch)

    with_nanny(scene)


# --- lost processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_rank_ended_by_a_signal_fails_with_its_name(number: signal.Signals) -> None:
    """The failure tells the signal."""

    async def scene(link: NannyLink) -> None:
        assert f"killed by {number.name}" in (await lost(link, end_by, int(number))).text

    with_nanny(scene)


def test_rank_that_leaves_without_an_outcome_fails_with_its_exit_code() -> None:
    """os._exit in user code is no result."""

    async def scene(link: NannyLink) -> None:
        assert "exit code 7" in (await lost(link, leave, 7)).text

    with_nanny(scene)


def test_rank_that_is_stopped_is_killed_after_its_silence() -> None:
    """SIGSTOP ends no connection; only silence tells."""

    async def scene(link: NannyLink) -> None:
        assert "silent for 2 s" in (await lost(link, end_by, int(signal.SIGSTOP), silence_s=2)).text

    with_nanny(scene)


def test_rank_that_holds_the_interpreter_is_killed_after_its_silence() -> None:
    """Compiled code that spins cannot be interrupted in any other way."""

    async def scene(link: NannyLink) -> None:
        assert "silent for 2 s" in (await lost(link, hold_the_lock, silence_s=2)).text

    with_nanny(scene)


def test_rank_that_is_long_but_alive_is_not_silent() -> None:
    """Heartbeats come from a thread of their own."""

    async def scene(link: NannyLink) -> None:
        assert await outcome_of(link, spec_of(lambda: time.sleep(3) or "done"), silence_s=2) == "done"

    with_nanny(scene)


def test_rank_is_not_silent_because_the_worker_was_held_up() -> None:
    """A worker whose own loop stood still for longer than the silence looks again before it kills."""

    async def scene(link: NannyLink) -> None:
        rank = await RankProcess.start(link, spec_of(lambda: time.sleep(4) or "done"), timeout_s=10, silence_s=2)
        waiting = asyncio.create_task(rank.wait())
        await asyncio.sleep(0)
        time.sleep(3)
        assert isinstance(await waiting, Serialized)

    with_nanny(scene)


def test_rank_kill_ends_the_process_whatever_it_does() -> None:
    """kill is SIGKILL, and wait hears of it."""

    async def scene(link: NannyLink) -> None:
        for fn in (sleep_for_ever, hold_the_lock):
            rank = await RankProcess.start(link, spec_of(fn), timeout_s=10)
            waiting = asyncio.create_task(rank.wait())
            await asyncio.sleep(0)
            rank.kill()
            outcome = await waiting
            assert isinstance(outcome, Failure) and "killed by SIGKILL" in outcome.text
            await link_forgot(rank.pid)

    with_nanny(scene)


def test_rank_wait_that_is_cancelled_kills_the_process() -> None:
    """Who gives up on a rank does not leave it running."""

    async def scene(link: NannyLink) -> None:
        rank = await RankProcess.start(link, spec_of(sleep_for_ever), timeout_s=10)
        waiting = asyncio.create_task(rank.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await link_forgot(rank.pid)

    with_nanny(scene)


def test_rank_start_in_too_little_time_fails_and_leaves_nothing() -> None:
    """The time to start is bounded, the import of its libraries included."""

    async def scene(link: NannyLink) -> None:
        with pytest.raises(RankNotStarted, match="no sign of life"):
            await RankProcess.start(link, spec_of(where_am_i, preload=["xgboost"]), timeout_s=0.05)
        assert (await outcome_of(link, spec_of(where_am_i)))[0]

    with_nanny(scene)


def test_rank_dies_with_the_link_of_its_worker() -> None:
    """A worker that closes leaves no rank behind."""

    async def scene() -> None:
        link = await NannyLink.start_own()
        rank = await RankProcess.start(link, spec_of(sleep_for_ever), timeout_s=10)
        waiting = asyncio.create_task(rank.wait())
        await asyncio.sleep(0)
        await link.close()
        outcome = await waiting
        assert isinstance(outcome, Failure)
        await link_forgot(rank.pid)

    asyncio.run(asyncio.wait_for(scene(), BOUND_S))


def test_rank_whose_nanny_is_killed_is_lost_at_once() -> None:
    """The kernel kills it, and the worker hears that its nanny is gone."""

    async def scene() -> None:
        link = await NannyLink.start_own()
        rank = await RankProcess.start(link, spec_of(sleep_for_ever), timeout_s=10)
        os.kill(psutil.Process(rank.pid).ppid(), signal.SIGKILL)
        outcome = await rank.wait()
        assert isinstance(outcome, Failure) and "nanny" in outcome.text
        await link.lost
        with pytest.raises(RankNotStarted, match="nanny"):
            await RankProcess.start(link, spec_of(sleep_for_ever), timeout_s=10)
        await link.close()

    asyncio.run(asyncio.wait_for(scene(), BOUND_S))

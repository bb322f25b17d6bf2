"""The engine without concurrency: a task runs when it is submitted, in the thread that submits it. Good for debugging."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from parml_core.engine.base import Future
from parml_core.engine.context import inside_task
from parml_core.engine.local import FINISHED, LocalEngine, Run, raised_in
from parml_core.errors import NotSupported
from parml_core.graph import Task
from parml_core.graph.task import run as call
from parml_core.typing import Key, WorkerId

T = TypeVar("T")

__all__ = ["InlineEngine"]


class InlineEngine(LocalEngine):
    """
    Run every task at once in the calling thread. What a task raises is kept in its Future; only Ctrl-C goes to the caller.

    Examples
    --------
    >>> engine = InlineEngine()
    >>> engine.submit(pow, engine.submit(int, "3"), 2).result()
    9
    """

    name = "inline"

    def __init__(self) -> None:
        super().__init__(nthreads=1)

    def _launch(
        self,
        tasks: Sequence[Task],
        wants: Sequence[Key],
        sources: dict[Key, Run],
        positions: Mapping[Key, int] | None = None,
    ) -> list[Run]:
        if positions is not None:
            tasks = self._not_known(tasks, wants, sources)
        if positions:
            tasks = sorted(tasks, key=lambda task: positions[task.key])
        runs = {task.key: Run.of_task(task) for task in tasks}
        for task in tasks:
            runs[task.key].inputs = {dep: runs.get(dep) or sources[dep] for dep in task.deps}
        wanted = [runs.get(key) or sources[key] for key in wants]
        with inside_task(self):
            for task in tasks:
                run = runs.pop(task.key)  # lives on only where another run or the caller needs it
                _perform(run)
                self._runs[run.key] = run
        return wanted

    def _source(self, future: Future[Any]) -> Run:
        error = future.exception()
        if error is not None:
            return Run.of_error(future.key, error)
        return Run.of_value(future.key, future.result())

    def _when_ended(self, run: Run, callback: Callable[[], None]) -> None:
        callback()

    def _forget_callback(self, run: Run, callback: Callable[..., None]) -> None: ...

    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        """Nothing: every task has ended."""

    def gang(
        self,
        fn: Callable[..., T],
        args_by_rank: Sequence[tuple[Any, ...]],
        *,
        where: Sequence[Sequence[WorkerId]] | None = None,
        timeout_s: float | None = None,
    ) -> list[Future[T]]:
        if len(args_by_rank) > 1:
            raise NotSupported(
                f"expected one rank, found {len(args_by_rank)}: ranks run at the same time, and the inline engine has one "
                "thread; use ThreadsEngine or a Client"
            )
        return [self.submit(fn, *args) for args in args_by_rank]

    def blocked(self) -> AbstractContextManager[None]:
        return nullcontext()


def _perform(run: Run) -> None:
    failed = next((source for source in run.inputs.values() if source.error is not None), None)
    if failed is not None:
        run.clear()
        run.fail_like(failed)
        return
    results = {key: source.value for key, source in run.inputs.items()}
    for left in range(run.retries, -1, -1):
        try:
            run.value = call(run.fn, run.args, run.kwargs, tuple(results), results)
            run.state = FINISHED
            break
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not left or not isinstance(error, Exception):
                run.fail(raised_in(run.key, InlineEngine.name, error))
                break
    run.clear()

"""A batch of joblib's calls on its way to a task: pickled without its large arrays, run there with them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import cloudpickle
import threadpoolctl
from joblib.parallel import ParallelBackendBase

from parml_core.errors import SerializationError

SHARED_FROM_BYTES = 64 * 1024
"""Arrays of this size and more travel once to each worker, not once with each task."""

READ_ONLY_NOTE = (
    "large arrays among the arguments of joblib calls are shared by the tasks of a worker and therefore read-only: "
    "copy the array before writing to it, or call Parallel(..., max_nbytes=None), which gives each task its own"
)


# --- where the call is made ----------------------------------------------------------------------------------------------


class PicklingError(SerializationError, pickle.PicklingError):
    """A function or argument of a joblib call that cannot be pickled, under the name that loky's callers look for, too."""


class Packed:
    """
    A pickled batch.

    Parameters
    ----------
    name : str
        What people call the function that it calls.
    data : bytes
        The pickle, in which numbers stand for large arrays.
    large : dict of int to object
        Values that others hold too, so that they may be arguments of other batches.
    private : dict of int to object
        Large values that pickling has made and only this batch knows.
    """

    __slots__ = ("data", "large", "name", "private")

    def __init__(self, name: str, data: bytes, large: dict[int, Any], private: dict[int, Any]) -> None:
        self.name, self.data, self.large, self.private = name, data, large, private


def pack(batch: Callable[[], Any], *, share_from_bytes: float = SHARED_FROM_BYTES) -> Packed:
    """
    Pickle a batch of calls.

    Raises
    ------
    PicklingError
        A SerializationError that names the function or argument that cannot be pickled.

    Examples
    --------
    >>> from functools import partial
    >>> run_batch(pack(partial(max, 3, 4)).data, {}, {})[1]
    4
    """
    file = io.BytesIO()
    pickler = _Pickler(file, share_from_bytes)
    try:
        pickler.dump(batch)
    except Exception as exc:
        raise PicklingError(
            f"expected functions and arguments that can be pickled, found {_culprit(batch)}: {type(exc).__name__}: {exc}; "
            "pass what it is made from, and make it inside the function"
        ) from exc
    pickler.clear_memo()  # holds what pickling has made, which would look like held by others
    large, private = pickler.found()
    return Packed(_name_of(batch), file.getvalue(), large, private)


def _name_of(batch: Any) -> str:
    function = batch.items[0][0] if getattr(batch, "items", None) else batch
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


_REDUCERS: Any = cloudpickle.Pickler.dispatch_table


class _Pickler(cloudpickle.Pickler):
    """Leaves shareable values out, wherever they stand: in arguments, partials, closures, attributes of estimators."""

    dispatch_table = ChainMap({memoryview: lambda view: (_view, (view.tobytes(), view.format, view.shape))}, _REDUCERS)

    def __init__(self, file: io.BytesIO, share_from_bytes: float) -> None:
        super().__init__(file, protocol=5)
        self._share_from_bytes = share_from_bytes
        self._values: list[Any] = []  # also keeps them alive, so that their ids stay theirs
        self._numbers: dict[int, int] = {}

    def reducer_override(self, value: Any) -> Any:
        """Called for what is no plain number, text or container, unlike `persistent_id`, which would see each of many calls."""
        cls = type(value)
        kind = _kinds[cls] if cls in _kinds else kind_of(cls)
        if kind is None or kind.nbytes(value) < self._share_from_bytes:
            return super().reducer_override(value)
        number = self._numbers.setdefault(id(value), len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return left_out, (number, value.format, value.shape) if cls is memoryview else (number,)

    def found(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """What was left out: values that somebody else holds too, and those that only pickling has made."""
        shared, private = {}, {}
        for number, (value, count) in enumerate(zip(self._values, references_beside(self._values), strict=True)):
            if count:
                shared[number] = value
            else:
                private[number] = value.tobytes() if type(value) is memoryview else value
        self._values = []  # the pickler itself may live on for a while, in a cycle
        return shared, private


def references_beside(values: list[Any]) -> list[int]:
    """How many references there are to each item of a list, beside that of the list."""
    values.append(object())
    *counts, base = [sys.getrefcount(value) for value in values]
    values.pop()
    return [count - base for count in counts]


class Kind(NamedTuple):
    """
    Values that tasks may share.

    Parameters
    ----------
    nbytes : callable
        Tells about how large a value is.
    twin : callable
        Makes another object with the same content, which can be pickled, without a copy where that is possible.
    """

    nbytes: Callable[[Any], float]
    twin: Callable[[Any], Any]


_kinds: dict[type, Kind | None] = {}


def kind_of(cls: type) -> Kind | None:
    """How values of a type are shared; None where tasks cannot share them."""
    if cls not in _kinds:
        _kinds[cls] = _find_kind(cls)
    return _kinds[cls]


def twin_of(value: Any) -> Any:
    """What an engine is given to keep in the place of a value that it shares."""
    kind = kind_of(type(value))
    assert kind is not None
    return kind.twin(value)


def _find_kind(cls: type) -> Kind | None:
    if cls is memoryview:  # a view in a format that cast() does not know is sent as bytes
        return Kind(lambda view: view.nbytes if len(view.format) == 1 else 0, memoryview.tobytes)
    numpy, pandas, pyarrow = (sys.modules.get(name) for name in ("numpy", "pandas", "pyarrow"))
    if numpy and cls in (numpy.ndarray, numpy.memmap):
        return Kind(lambda array: 0 if array.dtype.hasobject else array.nbytes, _read_only)
    if pandas and issubclass(cls, (pandas.DataFrame, pandas.Series)):
        return Kind(lambda frame: 8 * frame.size, lambda frame: frame.copy(deep=False))
    if pyarrow and issubclass(cls, (pyarrow.Table, pyarrow.RecordBatch, pyarrow.Array, pyarrow.ChunkedArray)):
        return Kind(attrgetter("nbytes"), lambda data: data.slice(0))
    return None


def _culprit(batch: Any) -> str:
    """Which part of a batch cannot be pickled."""
    for function, args, kwargs in getattr(batch, "items", ()):
        name = getattr(function, "__qualname__", repr(function))
        parts = [(f"the function {name}", function)]
        parts += [(f"argument {i} of {name}", arg) for i, arg in enumerate(args)]
        parts += [(f"argument {key!r} of {name}", arg) for key, arg in kwargs.items()]
        for what, value in parts:
            try:
                _Pickler(io.BytesIO(), SHARED_FROM_BYTES).dump(value)
            except Exception:
                return f"{what} (a {type(value).__module__}.{type(value).__qualname__})"
    return f"a {type(batch).__qualname__}"


# --- where the task runs -------------------------------------------------------------------------------------------------


class Initial:
    """
    What a process calls before the first of a call's batches: joblib's ``initializer(*initargs)``, pickled.

    As long as no other was called in between, a process that has called it does not call it again, in later calls either.
    """

    _made_here: bytes = b""  # the last that this process called
    _making = threading.Lock()

    def __init__(self, initializer: Callable[..., Any], initargs: tuple[Any, ...]) -> None:
        self.data = pack(partial(initializer, *initargs), share_from_bytes=math.inf).data

    def make(self) -> None:
        with Initial._making:
            if Initial._made_here != self.data:
                Initial._made_here = b""  # what fails now is called again by the next batch
                pickle.loads(self.data)()
                Initial._made_here = self.data


class RunBatch:
    """`run_batch` by the name of the function that the batch calls: engines show it, and learn by it how long tasks take."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: Any) -> tuple[float, Any]:
        return run_batch(*args)


def run_batch(
    data: bytes,
    shared: Mapping[int, Any],
    private: Mapping[int, Any],
    inner_threads: int | None = None,
    initial: Initial | None = None,
) -> tuple[float, Any]:
    """Call the batch; how long it took in seconds, and what it returned."""
    if initial is not None:
        initial.make()
    start = time.perf_counter()
    try:
        with capped_threads(inner_threads):
            results = _Unpickler(io.BytesIO(data), shared, private).read()()
    except (ValueError, TypeError, BufferError) as exc:
        if shared and "read-only" in str(exc):
            exc.add_note(READ_ONLY_NOTE)
        raise
    return time.perf_counter() - start, results


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: Mapping[int, Any], private: Mapping[int, Any]) -> None:
        super().__init__(file)
        self._shared, self._private = shared, private
        self._seen: dict[int, Any] = {}

    def read(self) -> Any:
        try:
            return self.load()
        finally:
            self.memo.clear()  # has _put_back, which has this: a cycle, in which the values would outlive the call

    def find_class(self, module: str, name: str) -> Any:
        return self._put_back if (module, name) == (__name__, left_out.__name__) else super().find_class(module, name)

    def _put_back(self, number: int, *layout: Any) -> Any:
        if number not in self._seen:
            value = self._private[number] if number in self._private else _guarded(self._shared[number])
            self._seen[number] = _view(value, *layout) if layout else value
        return self._seen[number]


def left_out(number: int, *layout: Any) -> Any:
    """Stands in a pickled batch for a large value; whoever unpickles it has the values."""
    raise SerializationError("expected a batch of joblib's calls to be unpickled by parml's task, found another reader")


def _view(data: bytes, layout: Any, shape: tuple[int, ...]) -> memoryview:
    return memoryview(data).cast("B").cast(layout, shape)


def _guarded(value: Any) -> Any:
    """A shared value in a form that a task cannot change for the others."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy and isinstance(value, numpy.ndarray):
        return _read_only(value)
    if pandas and isinstance(value, (pandas.DataFrame, pandas.Series)):
        copies_on_write = int(pandas.__version__.partition(".")[0]) >= 3
        return value.copy(deep=not copies_on_write)
    return value


def _read_only(array: Any) -> Any:
    view = array.view()
    view.setflags(write=False)
    return view


# --- threads of compiled libraries ---------------------------------------------------------------------------------------

_lock = threading.Lock()
_caps: list[int] = []  # of the batches that run in this process now
_uncapped: dict[str, str | None] = {}  # the environment before the first of them
_blas_limiter: Any = None
_controller: tuple[int, Any] = (0, None)


@contextlib.contextmanager
def capped_threads(limit: int | None) -> Iterator[None]:
    """
    Let OpenMP and BLAS use at most `limit` threads in this context; None: as they are.

    OpenMP keeps its limit for each thread, BLAS one for the process: that of the strictest batch holds while any runs. The
    environment is for libraries that are loaded inside the context.
    """
    if limit is None:
        yield
        return
    controller = _enter_cap(limit)
    try:
        with controller.select(user_api="openmp").limit(limits=limit):
            yield
    finally:
        _leave_cap(limit)


def _enter_cap(limit: int) -> Any:
    global _controller, _blas_limiter
    with _lock:
        if _controller[0] != len(sys.modules):  # looking for libraries takes milliseconds
            _controller = (len(sys.modules), threadpoolctl.ThreadpoolController())
        controller = _controller[1]
        blas = controller.select(user_api="blas")
        if not _caps:
            _uncapped.update({name: os.environ.get(name) for name in ParallelBackendBase.MAX_NUM_THREADS_VARS})
            _blas_limiter = _own_blas(lambda: blas.limit(limits=limit))
        _caps.append(limit)
        _apply_environment(min(_caps))
        _own_blas(lambda: blas.limit(limits=min(_caps)))
        return controller


def _leave_cap(limit: int) -> None:
    global _blas_limiter
    with _lock:
        _caps.remove(limit)
        if _caps:
            return
        _own_blas(_blas_limiter.restore_original_limits)
        _blas_limiter = None
        for name, value in _uncapped.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _own_blas(change: Callable[[], Any]) -> Any:
    """
    Change the limits of BLAS on whatever thread this is.

    Since 3.7 threadpoolctl lets only one thread do so, the first to come (in a worker that is its main thread), and leaves
    those of others without effect. Here the limits have an order of their own: `_lock`, and the strictest holds.
    """
    release = getattr(getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", lambda force: None)
    release(force=True)
    try:
        return change()
    finally:
        release(force=True)


def _apply_environment(limit: int) -> None:
    os.environ.update({name: str(limit) for name in ParallelBackendBase.MAX_NUM_THREADS_VARS})

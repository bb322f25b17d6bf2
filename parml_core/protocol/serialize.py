"""
Values, functions, calls and exceptions as bytes, and back.

A value is a pickle-5 head and the large buffers in it, uncopied: memory, disk, shared memory and wire all keep this layout.
What the receiver cannot import (it comes from ``__main__``, or is a lambda or a closure) goes by value, with cloudpickle.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import io
import pickle
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle

from parml_core import errors
from parml_core.errors import RemoteError, SerializationError
from parml_core.protocol.messages import Failure
from parml_core.typing import Buffer, Key

__all__ = [
    "MAYBE_SMALL_BYTES",
    "SMALL_BYTES",
    "RemoteTraceback",
    "Serialized",
    "dumps",
    "dumps_call",
    "dumps_function",
    "dumps_small",
    "exception_of",
    "failure_of",
    "loads",
]

SMALL_BYTES = 1024
"""A result that is pickled to at most this size travels with the news of it."""

MAYBE_SMALL_BYTES = 16 * SMALL_BYTES
"""What takes more memory is not pickled so small: a number in a list takes 36 bytes there, and 3 in a pickle."""

_IN_BAND_BYTES = 1024  # smaller buffers cost less inside the head than beside it
_MAX_BUFFERS = 4096
_PLAIN = frozenset({int, float, complex, bool, type(None), str, bytes})
_LARGE_HEAD_BYTES = 64 * 1024
_MAX_TEXT = 64 * 1024
_MAX_EXCEPTION_BYTES = 1024 * 1024
_MAIN = b"\x8c\x08__main__"  # how pickle writes the module of a class or function: it means another module elsewhere


class Serialized:
    """
    A pickled value.

    Attributes
    ----------
    head : bytes
        The pickle; empty when it is large, and then it is the first of the buffers.
    buffers : list of buffer
        The memory of the value's arrays itself, not a copy.
    segment : object or None
        The shared memory that the buffers lie in, where they lie in some (`store.shared`).
    nbytes : int
    """

    __slots__ = ("buffers", "head", "nbytes", "segment")

    def __init__(self, head: bytes, buffers: list[Buffer], segment: Any = None) -> None:
        self.head = head
        self.buffers = buffers
        self.segment = segment
        self.nbytes = len(head) + sum(map(_nbytes, buffers))

    def __repr__(self) -> str:
        return f"Serialized({self.nbytes} bytes, {len(self.buffers)} buffers)"


class RemoteTraceback(Exception):
    """Shows the traceback of a task as the cause of the exception that its result raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


# --- values ------------------------------------------------------------------------------------------------------------


def dumps(value: Any) -> Serialized:
    """
    Pickle a value, the large buffers in it uncopied beside the pickle.

    Raises
    ------
    SerializationError
        Names the part of the value that cannot be pickled.

    Examples
    --------
    >>> s = dumps({"a": [1, 2]})
    >>> loads(s.head, s.buffers)
    {'a': [1, 2]}
    """
    buffers: list[Buffer] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _IN_BAND_BYTES or len(buffers) == _MAX_BUFFERS:
            return True
        buffers.append(view)
        return False

    try:
        head = _pickled(value, keep_in_band)
        by_reference = _MAIN not in head
    except Exception:
        by_reference = False
    if not by_reference:
        buffers.clear()
        try:
            head = cloudpickle.dumps(value, 5, buffer_callback=keep_in_band)
        except Exception as exc:
            raise _cannot_pickle(value, exc) from exc
    if len(head) > _LARGE_HEAD_BYTES:
        return Serialized(b"", [head, *buffers])
    return Serialized(head, buffers)


def _pickled(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    """As `pickle.dumps`, but that no large array is put into the pickle, as numpy does with those with gaps, and with times."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return pickle.dumps(value, 5, buffer_callback=buffer_callback)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=buffer_callback)
    pickler.dispatch_table = {**copyreg.dispatch_table, numpy.ndarray: _reduce_array}
    pickler.dump(value)
    return file.getvalue()


def _reduce_array(array: Any) -> Any:
    if array.dtype.hasobject:
        return array.__reduce_ex__(5)
    if not array.flags.forc:
        array = array.copy()
    if array.dtype.kind in "mMV" and array.nbytes >= _IN_BAND_BYTES:  # times have no buffer
        order = "C" if array.flags.c_contiguous else "F"
        return _array_of, (array.ravel(order).view("u1"), array.dtype, array.shape, order)
    return array.__reduce_ex__(5)


def _array_of(data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    return data.view(dtype).reshape(shape, order=order)


def dumps_small(value: Any) -> bytes:
    """
    Pickle plain data of at most `SMALL_BYTES`: numbers, text, arrays of numbers, and lists, tuples and dicts of them.

    What a value of another class costs to pickle, and how large it becomes, only pickling it would tell.

    Returns
    -------
    bytes
        For `loads`; empty where the value is no plain data or is larger.

    Examples
    --------
    >>> loads(dumps_small([1, 2.5])), dumps_small(object()), dumps_small(bytes(10_000))
    ([1, 2.5], b'', b'')
    """
    if type(value) not in _PLAIN and not _is_plain(value, 4):
        return b""
    data = pickle.dumps(value, 5)
    return data if len(data) <= SMALL_BYTES else b""


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if depth and (kind is list or kind is tuple):
        return all(_is_plain(item, depth - 1) for item in value)
    if depth and kind is dict:
        return all(_is_plain(item, depth - 1) for pair in value.items() for item in pair)
    return kind.__module__ == "numpy" and not getattr(getattr(value, "dtype", None), "hasobject", True)


def loads(head: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """
    The value that `dumps` was given. Its arrays use the memory of `buffers`, and are read-only where that is.

    Raises
    ------
    SerializationError
    """
    try:
        if head:
            return pickle.loads(head, buffers=buffers)
        return pickle.loads(buffers[0], buffers=buffers[1:])
    except Exception as exc:
        raise SerializationError(
            f"expected a pickle that can be loaded in this process, found {_type_name(exc)}: {_text_of(exc)}; install the "
            "modules that the value needs here too, in the same versions, and check the __setstate__ and __init__ of its class"
        ) from exc


def dumps_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """
    Pickle the arguments of a task in one piece, Refs included; `loads` gives ``(args, kwargs)``.

    Examples
    --------
    >>> loads(dumps_call((1, "a"), {"b": 2}))
    ((1, 'a'), {'b': 2})
    """
    return _dumps_in_band((args, kwargs))


def _dumps_in_band(value: Any, by_value: bool = False) -> bytes:
    if not by_value:
        with contextlib.suppress(Exception):  # cloudpickle can do more, and if not its error is the one to tell
            data = pickle.dumps(value, 5)
            if _MAIN not in data:
                return data
    try:
        return bytes(cloudpickle.dumps(value, 5))
    except Exception as exc:
        raise _cannot_pickle(value, exc) from exc


def _nbytes(buffer: Buffer) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


# --- functions ---------------------------------------------------------------------------------------------------------

_Binding = tuple[Any, str, Any]  # (namespace or cell, name, the object found there)
_functions: dict[int, tuple[weakref.ref[Any], list[_Binding], tuple[str, bytes]]] = {}
_CACHED_TYPES = (types.FunctionType, types.BuiltinFunctionType, type, functools.partial)


def dumps_function(fn: Callable[..., Any]) -> tuple[str, bytes]:
    """
    Pickle a function.

    Parameters
    ----------
    fn : callable

    Returns
    -------
    id : str
        A digest of the bytes.
    pickled : bytes
        For `loads`. The last result is kept for each function object, as long as the names that a function passed by value
        uses still mean the same objects. A change inside such an object (a list that grew) is not noticed.

    Examples
    --------
    >>> name, data = dumps_function(len)
    >>> loads(data)("abc")
    3
    """
    known = _functions.get(id(fn))
    if known is not None and known[0]() is fn and _still_bound(known[1]):
        return known[2]
    data = _dumps_in_band(fn, by_value=_goes_by_value(fn))
    result = (hashlib.blake2b(data, digest_size=16).hexdigest(), data)
    if isinstance(fn, _CACHED_TYPES):  # other callables may hold state that changes between two calls
        with contextlib.suppress(TypeError):
            _functions[id(fn)] = (weakref.ref(fn, functools.partial(_forget, id(fn))), list(_bindings(fn)), result)
    return result


def _forget(address: int, reference: weakref.ref[Any]) -> None:
    known = _functions.get(address)
    if known is not None and known[0] is reference:
        del _functions[address]


def _goes_by_value(fn: Any) -> bool:
    return isinstance(fn, types.FunctionType) and (
        fn.__module__ == "__main__" or "<" in fn.__qualname__ or fn.__module__ in cloudpickle.list_registry_pickle_by_value()
    )


def _bindings(fn: Any) -> Iterator[_Binding]:
    """What cloudpickle reads through the function's global names and closure, functions that it calls included."""
    seen = {id(fn)}
    stack = [fn]
    while stack:
        function = stack.pop()
        if not _goes_by_value(function):
            continue
        scope = function.__globals__
        found: list[_Binding] = [(scope, name, scope[name]) for name in _global_names(function.__code__) if name in scope]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # the cell is still empty
                found.append((cell, "", cell.cell_contents))
        for binding in found:
            if id(binding[2]) not in seen:
                seen.add(id(binding[2]))
                stack.append(binding[2])
                yield binding


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _still_bound(bindings: list[_Binding]) -> bool:
    for scope, name, value in bindings:
        try:
            now = scope.cell_contents if not name else scope[name]
        except (KeyError, ValueError):
            return False
        if now is not value:
            return False
    return True


# --- what cannot be pickled --------------------------------------------------------------------------------------------


def _cannot_pickle(value: Any, cause: BaseException) -> SerializationError:
    path, part = _culprit(value)
    where = f" at {path}" if path else ""
    return SerializationError(
        f"expected a value that can be pickled, found {_repr_of(part)} of type {_type_name(part)}{where}: {_text_of(cause)}; "
        "make it inside the task, pass what is needed to make it, or give its class a __reduce__ method"
    )


def _culprit(value: Any, tries: int = 500) -> tuple[str, Any]:
    """The smallest part of `value` found that cannot be pickled, and the path to it; best effort within so many tries."""
    path = ""
    while True:
        for step, child in _children(value):
            tries -= 1
            if tries < 0:
                return path, value
            try:
                cloudpickle.dumps(child, 5)
            except Exception:
                path, value = path + step, child
                break
        else:
            return path, value


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        yield from ((f"[{i}]", child) for i, child in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((f"[{_repr_of(name)}]", child) for name, child in value.items())
    elif isinstance(value, set | frozenset):
        yield from (("{…}", child) for child in value)
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        names = {id(cell): name for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)}
        yield from ((f"<{name or names.get(id(scope), '…')}>", child) for scope, name, child in _bindings(value))
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type | types.ModuleType):
        yield from ((f".{name}", child) for name, child in vars(value).items())


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _repr_of(value: Any, limit: int = 200) -> str:
    try:
        text = repr(value)
    except Exception as exc:
        return f"<{_type_name(value)}, whose repr raises {_type_name(exc)}>"
    return text if len(text) <= limit else text[:limit] + "…"


# --- failures ----------------------------------------------------------------------------------------------------------


def failure_of(exc: BaseException, *, key: Key, worker: str) -> Failure:
    """
    What is told about an exception. Never raises, whatever the exception does when it is pickled or shown.

    Parameters
    ----------
    exc : BaseException
    key : str
        The task that raised it.
    worker : str
        Name of the worker.

    Examples
    --------
    >>> failure_of(ValueError("no"), key="a", worker="w1").text
    'ValueError: no'
    """
    kind = type(exc).__name__ if type(exc) is getattr(errors, type(exc).__name__, None) else "raised"
    text = _text_of(exc)
    if kind == "raised":
        text = f"{_type_name(exc)}: {text}" if text else _type_name(exc)
    return Failure(kind, _bounded(text), _traceback_of(exc), _pickled_exception(exc), key, worker)


def exception_of(failure: Failure) -> BaseException:
    """
    The exception that a failure tells of, of the type that was raised, with the traceback of the task as its cause.

    Examples
    --------
    >>> exception_of(failure_of(ValueError("no"), key="a", worker="w1"))
    ValueError('no')
    """
    exc: BaseException | None = None
    if failure.pickled:
        with contextlib.suppress(Exception):
            loaded = loads(failure.pickled)
            exc = loaded if isinstance(loaded, BaseException) else None
    if exc is None:
        kind = getattr(errors, failure.kind, None) if failure.kind in errors.__all__ else None
        exc = (kind or RemoteError)(failure.text)
    with contextlib.suppress(Exception):  # a class may refuse attributes
        if failure.traceback:
            exc.__cause__ = RemoteTraceback(failure.traceback)
        note = f"raised in task {failure.key} on worker {failure.worker}"
        if failure.key and note not in getattr(exc, "__notes__", ()):
            BaseException.add_note(exc, note)
    return exc


def _bounded(text: str) -> str:
    """`text` in at most 64 KiB, its middle left out: both ends of a traceback matter."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be sent
    if len(text) * 4 > _MAX_TEXT and len(text.encode()) > _MAX_TEXT:
        half = _MAX_TEXT // 2 - 64
        data = text.encode()
        head, tail = data[:half].decode("utf-8", "ignore"), data[-half:].decode("utf-8", "ignore")
        return f"{head}\n… {len(data) - 2 * half} bytes left out …\n{tail}"
    return text


def _text_of(exc: BaseException) -> str:
    try:
        return _bounded(str(exc))
    except BaseException as problem:
        return f"<str() of this exception raises {type(problem).__name__}>"


def _traceback_of(exc: BaseException) -> str:
    """The formatted traceback, from the first frame that is not parml's own."""
    try:
        tb = exc.__traceback__
        while tb is not None and tb.tb_frame.f_globals.get("__name__", "").startswith("parml_core."):
            tb = tb.tb_next
        return _bounded("".join(traceback.format_exception(type(exc), exc, tb or exc.__traceback__)))
    except BaseException as problem:
        return f"<no traceback: showing this exception raises {type(problem).__name__}>\n{_type_name(exc)}"


def _pickled_exception(exc: BaseException) -> bytes:
    """A pickle that is known to give an exception of the same type with a text, or nothing."""
    kind = type(exc)
    for candidate in (
        lambda: exc,
        lambda: _Rebuilt(kind, exc.args, vars(exc)),  # __init__ wants other arguments than args
        lambda: _Rebuilt(kind, (_text_of(exc),), {}),  # args or attributes cannot be pickled, or are huge
    ):
        try:
            data = _dumps_in_band(candidate())
            if len(data) <= _MAX_EXCEPTION_BYTES:
                loaded = loads(data)
                str(loaded)
                if type(loaded) is kind:
                    return data
        except BaseException:
            continue
    return b""


class _Rebuilt:
    """Pickles as an exception that is made without a call of its __init__."""

    def __init__(self, kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self._made_of = (kind, args, state)

    def __reduce__(self) -> Any:
        return _rebuild, self._made_of


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    exc = kind.__new__(kind, *args)
    exc.args = args
    exc.__dict__.update(state)
    return exc

"""
Functions called later: `delayed` builds a graph from ordinary-looking Python.

A `Delayed` is immutable. It knows its own task and the collections that its arguments came from; the graph is gathered
when it is needed, so building long chains takes time and memory in proportion to their length.
"""

from __future__ import annotations

import functools
import operator
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parml.collections import Collection, compute, is_collection, persist
from parml.drawing import MOST_BOXES, Drawing, visualize
from parml_core.engine.base import Engine, Future
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.hashing import tokenize
from parml_core.typing import Key


def delayed(obj: Any, *, pure: bool = False, nout: int | None = None, name: str | None = None) -> Any:
    """
    Make a function lazy, or a value the start of lazy work.

    Parameters
    ----------
    obj : callable or object
        A callable becomes a function whose calls give `Delayed`. Anything else becomes a `Delayed` of that value;
        collections in it (also in lists, tuples and dicts) become their results.
    pure : bool
        The result depends on nothing but the arguments: equal calls are done once. Default: each call is done.
    nout : int, optional
        The result is a sequence of that length, so that the Delayed can be unpacked.
    name : str, optional
        What diagnostics call it. Default: the function's name.

    Examples
    --------
    >>> from parml import delayed
    >>> @delayed
    ... def double(x):
    ...     return 2 * x
    >>> (double(3) + double(4)).compute()
    14
    >>> quotient, rest = delayed(divmod, nout=2)(7, 2)
    >>> rest.compute()
    1
    >>> delayed([1, double(1)])[1].compute()
    2
    """
    if nout is not None and not (isinstance(nout, int) and nout >= 0):
        raise InputError(f"expected nout to be None or the number of results, found {nout!r}")
    if isinstance(obj, Delayed):
        return obj
    if callable(obj):
        return DelayedFunction(obj, pure, nout, name)
    if is_collection(obj):
        return _call(_value, (obj,), {}, name=name or "value", pure=True, nout=nout)
    return _call(_value, (obj,), {}, name=name or type(obj).__name__, pure=pure, nout=nout)


class DelayedFunction:
    """A function whose calls are tasks. Made by `delayed`."""

    def __init__(self, fn: Callable[..., Any], pure: bool, nout: int | None, name: str | None) -> None:
        self._fn, self._pure, self._nout, self._name = fn, pure, nout, name or _name_of(fn)
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Delayed:
        return _call(self._fn, args, kwargs, name=self._name, pure=self._pure, nout=self._nout)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """A decorated method gets its self like any other."""
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"delayed({self._fn!r})"


class Delayed:
    """
    The result of a call that was not made yet. Made by `delayed`.

    Operators, indexing, attributes and calls of methods give more Delayed.
    """

    __slots__ = ("__weakref__", "_nout", "_parents", "_source")

    def __init__(self, source: Task | Future[Any], parents: tuple[Collection, ...] = (), nout: int | None = None) -> None:
        self._source, self._parents, self._nout = source, parents, nout

    @property
    def key(self) -> Key:
        """The name of the task."""
        return self._source.key

    def compute(self, *, engine: Engine | None = None) -> Any:
        """The value, now."""
        return compute(self, engine=engine)[0]

    def persist(self, *, engine: Engine | None = None) -> Delayed:
        """Start computing; the Delayed that is returned keeps the result on the engine."""
        kept: Delayed = persist(self, engine=engine)[0]
        return kept

    def visualize(self, filename: str | Path | None = None, *, most: int = MOST_BOXES) -> Drawing:
        """Draw the tasks; see `parml.visualize`."""
        return visualize(self, filename=filename, most=most)

    def __parml_graph__(self) -> Graph:
        tasks: dict[Key, Task] = {}
        futures: dict[Key, Future[Any]] = {}
        others: list[Graph] = []
        seen: set[int] = set()
        stack: list[Collection] = [self]
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            if not isinstance(item, Delayed):
                others.append(item.__parml_graph__())
            elif isinstance(item._source, Task):
                tasks[item.key] = item._source
                stack.extend(item._parents)
            else:
                futures[item.key] = item._source
        return Graph.merge([*others, Graph(tasks, futures)])

    def __parml_keys__(self) -> list[Key]:
        return [self.key]

    @property
    def __parml_finish__(self) -> Callable[[list[Any]], Any]:
        return _only

    def __parml_persisted__(self, futures: Sequence[Future[Any]]) -> Delayed:
        return Delayed(futures[0], nout=self._nout)

    def __parml_token__(self) -> str:
        return self.key

    def __getattr__(self, name: str) -> Delayed:
        if name.startswith("_"):
            raise AttributeError(f"a Delayed has no attribute {name!r}, and names that begin with _ are not looked up later")
        return _DelayedAttribute(self, name)

    def __getitem__(self, index: Any) -> Delayed:
        return _operator(operator.getitem, self, index)

    def __call__(self, *args: Any, pure: bool = False, nout: int | None = None, **kwargs: Any) -> Delayed:
        return _call(_apply, (self, *args), kwargs, name="call", pure=pure, nout=nout)

    def __iter__(self) -> Iterator[Delayed]:
        if self._nout is None:
            raise TypeError("expected the length of a Delayed to unpack or iterate, found none; pass nout= to delayed()")
        return iter([self[place] for place in range(self._nout)])

    def __len__(self) -> int:
        if self._nout is None:
            raise TypeError("expected the length of a Delayed to be known, found none; pass nout= to delayed()")
        return self._nout

    def __bool__(self) -> bool:
        raise TypeError(
            "expected a value to test for truth, found a Delayed, which has none yet; call .compute() first, "
            "or move the test into a function that you wrap in delayed()"
        )

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("a Delayed cannot be changed; do the assignment in a function that you wrap in delayed()")

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Delayed({self.key!r})"

    def __reduce__(self) -> Any:
        return Delayed, (self._source, self._parents, self._nout)


class _DelayedAttribute(Delayed):
    """``value.name``; when it is called, one task looks the method up and calls it, so that no bound method travels."""

    __slots__ = ("_name", "_value")

    def __init__(self, value: Delayed, name: str) -> None:
        lookup = _call(getattr, (value, name), {}, name=f"getattr_{name}", pure=True, nout=None)
        super().__init__(lookup._source, lookup._parents)
        self._value, self._name = value, name

    def __call__(self, *args: Any, pure: bool = False, nout: int | None = None, **kwargs: Any) -> Delayed:
        return _call(_call_method, (self._value, self._name, *args), kwargs, name=self._name, pure=pure, nout=nout)


def _call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str, pure: bool, nout: int | None
) -> Delayed:
    parents: list[Collection] = []
    args = _with_refs(args, parents)
    kwargs = _with_refs(kwargs, parents)
    token = tokenize(fn, args, kwargs) if pure else uuid.uuid4().hex
    return Delayed(Task(f"{name}-{token}", fn, args, kwargs), tuple(parents), nout)


def _with_refs(value: Any, parents: list[Collection]) -> Any:
    """`value` with a Ref in the place of every collection in it, each of which is added to `parents`."""
    if is_collection(value):
        item = value if isinstance(value, Delayed) else _finished(value)
        parents.append(item)
        return Ref(item.key)
    if isinstance(value, DelayedFunction):
        return value._fn
    if type(value) is list or type(value) is tuple:
        return type(value)(_with_refs(item, parents) for item in value)
    if type(value) is dict:
        return {name: _with_refs(item, parents) for name, item in value.items()}
    return value


def _finished(collection: Collection) -> Delayed:
    """One task that makes the value of a collection from its chunks."""
    refs = [Ref(key) for key in collection.__parml_keys__()]
    key = f"finish-{collection.__parml_token__()}"
    return Delayed(Task(key, collection.__parml_finish__, (refs,)), (collection,))


def delayed_chunks(collection: Collection) -> list[Delayed]:
    """One `Delayed` for each chunk of a collection."""
    group = f"chunk-{collection.__parml_token__()}"
    keys = collection.__parml_keys__()
    return [Delayed(Task(f"{group}:{place}", _value, (Ref(key),)), (collection,)) for place, key in enumerate(keys)]


def _operator(fn: Callable[..., Any], *args: Any) -> Delayed:
    return _call(fn, args, {}, name=_name_of(fn), pure=True, nout=None)


def _name_of(fn: Callable[..., Any]) -> str:
    inner = fn.func if isinstance(fn, functools.partial) else fn
    name = getattr(inner, "__name__", type(inner).__name__)
    return "lambda" if name == "<lambda>" else name


def _value(value: Any) -> Any:
    return value


def _only(results: list[Any]) -> Any:
    return results[0]


def _apply(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


def _call_method(value: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    return getattr(value, name)(*args, **kwargs)


def _install_operators() -> None:
    def unary(fn: Callable[..., Any]) -> Callable[..., Delayed]:
        return lambda self: _operator(fn, self)

    def binary(fn: Callable[..., Any]) -> Callable[..., Delayed]:
        return lambda self, other: _operator(fn, self, other)

    def reflected(fn: Callable[..., Any]) -> Callable[..., Delayed]:
        return lambda self, other: _operator(fn, other, self)

    for name in ("neg", "pos", "abs", "invert"):
        setattr(Delayed, f"__{name}__", unary(getattr(operator, f"__{name}__")))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Delayed, f"__{name}__", binary(getattr(operator, f"__{name}__")))
    for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
        setattr(Delayed, f"__{name}__", binary(getattr(operator, f"__{name}__")))
        setattr(Delayed, f"__r{name}__", reflected(getattr(operator, f"__{name}__")))


_install_operators()

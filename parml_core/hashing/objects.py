"""Normal forms of what Python itself is made of: functions, methods, classes, and any object that pickle can write."""

from __future__ import annotations

import copyreg
import dis
import functools
import sys
import types
from collections.abc import Mapping
from typing import Any

from parml_core.hashing.forms import Attributes, Unique, normal_form_of

_REDUCE_PROTOCOL = 4


def reduced(value: Any) -> tuple[Any, ...]:
    """What pickle would write: a constructor, its arguments, state, items."""
    if type(value) is object:
        return (Unique(),)
    reduce = copyreg.dispatch_table.get(type(value))
    parts = reduce(value) if reduce is not None else value.__reduce_ex__(_REDUCE_PROTOCOL)
    if isinstance(parts, str):
        module = getattr(value, "__module__", None) or "builtins"
        return (module, parts) if imported(module, parts) is value else (Unique(),)
    make, args, state, items, pairs = (*parts, None, None, None)[:5]
    return make, args, _without_order(value, state), list(items or ()), list(pairs or ())


def _without_order(value: Any, state: Any) -> Any:
    """The state of an object; where it is the object's attributes, their order is dropped."""
    if type(state) is tuple and len(state) == 2 and copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        return tuple(Attributes(part) if type(part) is dict else part for part in state)
    if type(state) is not dict:
        return state
    own = getattr(value, "__dict__", None)
    return Attributes(state) if own and own.keys() <= state.keys() else state


def imported(module: str, qualname: str) -> Any:
    """What ``module.qualname`` names now, or None where it is of this process's script or not there."""
    found: Any = sys.modules.get(module) if module not in ("__main__", "__mp_main__") else None
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


@normal_form_of("builtins.function")
def _function(function: types.FunctionType) -> tuple[Any, ...]:
    if imported(function.__module__, function.__qualname__) is function:
        return function.__module__, function.__qualname__
    named = {name: function.__globals__[name] for name in _globals_of(function.__code__) if name in function.__globals__}
    return (
        function.__code__, function.__defaults__, function.__kwdefaults__, function.__closure__,
        Attributes(named), Attributes(vars(function)),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    names.update(*(_globals_of(const) for const in code.co_consts if isinstance(const, types.CodeType)))
    return tuple(sorted(names))


@normal_form_of("builtins.code")
def _code(code: types.CodeType) -> tuple[Any, ...]:
    return (
        code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
        code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        getattr(code, "co_exceptiontable", b""),
    )  # fmt: skip


@normal_form_of("builtins.cell")
def _cell(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()


@normal_form_of("builtins.method")
def _method(method: types.MethodType) -> tuple[Any, ...]:
    return method.__func__, method.__self__


@normal_form_of("builtins.builtin_function_or_method")
def _builtin(function: types.BuiltinFunctionType) -> tuple[Any, ...]:
    owner = function.__self__
    return function.__qualname__, owner.__name__ if isinstance(owner, types.ModuleType) else owner, function.__module__


@normal_form_of("builtins.module")
def _module(module: types.ModuleType) -> tuple[Any, ...]:
    return (module.__name__,)


@normal_form_of("builtins.mappingproxy")
def _mapping_proxy(proxy: Mapping[Any, Any]) -> tuple[Any, ...]:
    return (dict(proxy),)


@normal_form_of("builtins.staticmethod", "builtins.classmethod")
def _wrapped(method: Any) -> tuple[Any, ...]:
    return (method.__func__,)


@normal_form_of("functools._lru_cache_wrapper")
def _cached(function: Any) -> tuple[Any, ...]:
    return function.__wrapped__, function.cache_parameters()


@normal_form_of("builtins.property")
def _property(value: property) -> tuple[Any, ...]:
    return value.fget, value.fset, value.fdel


@normal_form_of("builtins.getset_descriptor", "builtins.member_descriptor", "builtins.wrapper_descriptor")
def _descriptor(value: Any) -> tuple[Any, ...]:
    return value.__objclass__, value.__name__


_IS_MADE_BY_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_INCIDENTAL = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__slotnames__",
        "_abc_impl",
    }
)


@normal_form_of("builtins.type")
def _class(cls: type) -> tuple[Any, ...]:
    if imported(cls.__module__, cls.__qualname__) is cls or not cls.__flags__ & _IS_MADE_BY_PYTHON:
        return cls.__module__, cls.__qualname__
    content = {name: value for name, value in vars(cls).items() if name not in _INCIDENTAL}
    return cls.__qualname__, cls.__bases__, Attributes(content)

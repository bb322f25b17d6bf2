"""
Rows that are kept nowhere: for each partition the recipe to compute it, wherever and as often as it is needed.

What more than `_MOST_TIMES` partitions depend on (a mean over all rows, a fitted encoder) is computed once and kept by the
engine; what two neighbours need is computed for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from parml.boosting.shares import Batch
from parml.collections import graph_of, is_collection
from parml.data import PartitionedArray, Partitions, check_counts, check_whole, scatter_rows
from parml.from_dask import as_collection
from parml.schema import Description, describe
from parml.tables import as_table, row_count
from parml_core.engine.base import Engine, Future
from parml_core.errors import InputError
from parml_core.graph import Graph, Ref, Task
from parml_core.graph.passes import cull, fuse
from parml_core.graph.task import run
from parml_core.hashing import tokenize
from parml_core.typing import Key, WorkerId

T = TypeVar("T")

_MOST_TIMES = 2


class Recipe:
    """
    How to compute one partition. Opaque to whoever looks for Refs: those inside are about its own tasks.

    Parameters
    ----------
    tasks : sequence of Task
        Dependencies before dependants.
    wants : dict of str to str
        The key of each field.

    Examples
    --------
    >>> Recipe([Task("a", abs, (-3,)), Task("b", pow, (Ref("a"), 2))], {"X": "b"}).cook({})
    {'X': 9}
    """

    __slots__ = ("tasks", "wants")

    def __init__(self, tasks: Sequence[Task], wants: dict[str, Key]) -> None:
        self.tasks = tasks
        self.wants = wants

    def __reduce__(self) -> Any:
        return Recipe, (self.tasks, self.wants)

    def needs(self) -> list[Key]:
        """The keys of the inputs."""
        own = {task.key for task in self.tasks}
        return list(dict.fromkeys(key for key in [*_deps(self.tasks), *self.wants.values()] if key not in own))

    def only(self, name: str) -> Recipe:
        """The recipe of one field alone."""
        wants = [self.wants[name]]
        graph = Graph(self.tasks, dict.fromkeys(self.needs()))
        return Recipe([graph[key] for key in graph.topological(wants)], {name: wants[0]})

    def cook(self, inputs: Mapping[Key, Any]) -> Batch:
        """The partition itself. No result in between lives longer than it is needed."""
        left: dict[Key, int] = {}
        for key in [*_deps(self.tasks), *self.wants.values()]:
            left[key] = left.get(key, 0) + 1
        results = {key: inputs[key] for key in self.needs()}
        for task in self.tasks:
            results[task.key] = run(task.fn, task.args, task.kwargs, task.deps, results)
            for key in task.deps:
                left[key] -= 1
                if not left[key]:
                    del results[key]
        return {name: results[key] for name, key in self.wants.items()}


def _deps(tasks: Sequence[Task]) -> list[Key]:
    return [key for task in tasks for key in task.deps]


class Recipes(Partitions):
    """
    `Partitions` that the engine does not keep: each is computed once to describe it, and then again by the rank that needs it.

    Parameters
    ----------
    engine : Engine
    recipes : sequence of Recipe
    kept : dict of str to Future
        What the recipes need besides: what most partitions depend on, and fields that were given in memory.
    """

    def __init__(self, engine: Engine, recipes: Sequence[Recipe], kept: dict[Key, Future[Any]]) -> None:
        self._recipes = list(recipes)
        self._kept = kept
        names = self._recipes[0].wants if self._recipes else {"X": ""}
        super().__init__(engine, {name: [] for name in names}, _submit(engine, recipes, kept, _describe, "describe"))

    @classmethod
    def start(cls, engine: Engine, *, X: Any, **fields: Any) -> Recipes:
        """
        Plan, and have the engine describe each partition; fields that are None are left out.

        X has to be a collection. Other fields may be in memory: then the engine computes X once more, to count its rows.
        """
        X = as_collection(X)
        if not is_collection(X):
            raise InputError(
                f"expected X for external memory as a collection, whose partitions can be read or computed one by one, found "
                f"{type(X).__module__}.{type(X).__qualname__}, which is in memory as a whole; leave external_memory out, or "
                "write it to files for parml.dataframe.read_parquet"
            )
        given = {"X": X} | {name: as_collection(value) for name, value in fields.items() if value is not None}
        chunked = {name: value for name, value in given.items() if is_collection(value)}
        graph, groups = graph_of(*chunked.values())
        check_counts({name: len(keys) for name, keys in zip(chunked, groups, strict=True)})
        wanted = [dict(zip(chunked, keys, strict=True)) for keys in zip(*groups, strict=True)]
        made, shared = _recipes_of(graph, wanted)
        futures = dict(graph.futures)
        if shared:
            rest = fuse(cull(graph, shared), shared)
            futures |= zip(shared, engine.submit_graph(rest, shared), strict=True)
        in_memory = {name: as_table(value, name) for name, value in given.items() if name not in chunked}
        if in_memory:
            lengths = engine.gather(_submit(engine, [recipe.only("X") for recipe in made], futures, _apply, "rows", row_count))
            check_whole("X", sum(lengths), in_memory)
            for name, column in scatter_rows(engine, in_memory, lengths).items():
                futures |= {future.key: future for future in column}
                for recipe, future in zip(made, column, strict=True):
                    recipe.wants[name] = future.key
        made = [Recipe(recipe.tasks, {name: recipe.wants[name] for name in given}) for recipe in made]
        return cls(engine, made, {key: futures[key] for recipe in made for key in recipe.needs()})

    def __len__(self) -> int:
        return len(self._recipes)

    def __repr__(self) -> str:
        return f"Recipes({len(self)} of {', '.join(self.fields)} on {self.engine.name})"

    def batch(self, i: int) -> dict[str, Any]:
        """The recipe of partition `i`, and the futures that it needs by key."""
        recipe = self._recipes[i]
        return {"recipe": recipe, "inputs": {key: self._kept[key] for key in recipe.needs()}}

    def each(self, fn: Callable[[Any], T], name: str) -> list[Future[T]]:
        """``fn`` of each partition of a field, which is computed for that."""
        return _submit(self.engine, [recipe.only(name) for recipe in self._recipes], self._kept, _apply, fn.__name__, fn)

    def collection(self, name: str) -> PartitionedArray:
        """A field as a lazy collection."""
        tasks = {task.key: task for recipe in self._recipes for task in recipe.tasks}
        return PartitionedArray(Graph(tasks, self._kept), [recipe.wants[name] for recipe in self._recipes])

    def inputs(self) -> list[Future[Any]]:
        return list(self._kept.values())

    def holders(self) -> list[tuple[WorkerId, ...]]:
        return [()] * len(self)


def _submit(
    engine: Engine, recipes: Sequence[Recipe], kept: Mapping[Key, Future[Any]], fn: Callable[..., Any], what: str, *fixed: Any
) -> list[Future[Any]]:
    """``fn(recipe, inputs, *fixed)`` for each recipe, as a task."""
    tasks = []
    for i, recipe in enumerate(recipes):
        token = tokenize(what, recipe.wants, fixed)
        tasks.append(Task(f"{what}-{token}:{i}", fn, (recipe, {key: Ref(key) for key in recipe.needs()}, *fixed)))
    return engine.submit_graph(Graph(tasks, kept), [task.key for task in tasks])


def _describe(recipe: Recipe, inputs: Mapping[Key, Any]) -> Description:
    batch = recipe.cook(inputs)
    return describe(batch.pop("X"), batch)


def _apply(recipe: Recipe, inputs: Mapping[Key, Any], fn: Callable[[Any], T]) -> T:
    (value,) = recipe.cook(inputs).values()
    return fn(value)


def _recipes_of(graph: Graph, wanted: Sequence[dict[str, Key]]) -> tuple[list[Recipe], list[Key]]:
    """
    The recipe of each partition, and the keys of the tasks that are to be computed once for all.

    From the partitions down to the sources: a task belongs to the recipes of those that need it, through tasks of their
    recipes, while these are few. The tasks below one that is computed once belong to it, unless a recipe needs them too.
    """
    needed_by: dict[Key, set[int]] = {}
    for i, wants in enumerate(wanted):
        for key in wants.values():
            needed_by.setdefault(key, set()).add(i)
    order = graph.topological([key for wants in wanted for key in wants.values()])
    own: list[list[Task]] = [[] for _ in wanted]
    shared: list[Key] = []
    for key in reversed(order):
        partitions = needed_by.pop(key, set())
        if len(partitions) > _MOST_TIMES:
            shared.append(key)
            continue
        for i in sorted(partitions):
            own[i].append(graph[key])
            for dep in graph[key].deps:
                needed_by.setdefault(dep, set()).add(i)
    return [Recipe(tasks[::-1], wants) for tasks, wants in zip(own, wanted, strict=True)], shared

"""
From the calls that a search would make to a graph in which each piece of work stands once.

scikit-learn's search and validation functions call one function for each candidate and split. `plan` takes these calls and
gives a Graph and where in it the result of each call is:

- a *fold* cuts the data, once for all candidates;
- a *stage* fits a transformer of a Pipeline on a fold and transforms the fold's rows: candidates with equal settings up to
  there share it; a *part* does so for one transformer of a ColumnTransformer or FeatureUnion;
- an *evaluation* fits what is left and scores it, for all candidates on a path (see `paths`) together.

Equal work is found by content: keys are made of the transformer's own token and the key of what it gets. Nothing is computed
here, and no engine is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from parml.model_selection.fit import Job, Member, Surroundings, call, evaluate, fit_part, fit_stage, last_of, run
from parml.model_selection.paths import effort, path_of
from parml.model_selection.split import cut, without_data
from parml.model_selection.traits import (
    is_plain_pipeline,
    is_transformer,
    last_name,
    last_params,
    names_are_plain,
    output_is_set,
    sees_model,
    starts_ready,
    writes,
)
from parml_core.engine.base import Future
from parml_core.graph import Graph, Ref, Task
from parml_core.graph.passes import cull, fuse
from parml_core.hashing import tokenize
from parml_core.typing import Key

__all__ = ["Call", "Plan", "plan"]


class Call(NamedTuple):
    """One call of the function that scikit-learn runs in parallel."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """
    A graph, and for each call the key of the task that answers it, with the position in that task's list of results.

    The position is None where the task's result is the answer itself. `wants` has the keys of the answers, each once, in the
    order in which to begin them.
    """

    graph: Graph
    answers: list[tuple[Key, int | None]]
    wants: list[Key]


def plan(
    calls: Sequence[Call],
    shared: Sequence[tuple[Any, Future[Any]]],
    surroundings: Surroundings,
    name: str,
    *,
    share: bool = True,
) -> Plan:
    """
    The graph for `calls`.

    Parameters
    ----------
    calls : sequence of Call
    shared : sequence of (value, Future)
        The data, and what the engine has of it.
    surroundings : Surroundings
    name : str
        A token for these data: keys are unique to it.
    share : bool
        Whether work that is equal is done once. Otherwise each call is a task as it is.
    """
    refs = {id(value): Ref(future.key) for value, future in shared}
    futures = {future.key: future for _, future in shared}
    builder = _Builder(refs, surroundings, name)
    answers: list[tuple[Key, int | None]] = []
    for i, one in enumerate(calls):
        evaluation = _as_evaluation(one, refs) if share else None
        planned = builder.evaluation(evaluation) if evaluation is not None else None
        answers.append(planned or (builder.call(i, one), None))
    wants = builder.longest_first(dict.fromkeys(key for key, _ in answers))
    return Plan(fuse(cull(Graph(builder.finished(), futures), wants), wants), answers, wants)


# --- what a call means ---------------------------------------------------------------------------------------------------

_FUNCTION = "_fit_and_score"
_NEEDED = frozenset({"train", "test", "scorer", "fit_params", "score_params", "parameters"})
_OPTIONS = frozenset(
    {
        "verbose", "return_train_score", "return_parameters", "return_n_test_samples", "return_times", "return_estimator",
        "split_progress", "candidate_progress", "error_score", "parameters",
    }
)  # fmt: skip
_IGNORED = frozenset({"caller", "callback_ctx"})


class _Evaluation(NamedTuple):
    function: Callable[..., Any]
    estimator: Any
    X: Ref
    y: Ref | None
    kwargs: dict[str, Any]


def _as_evaluation(one: Call, refs: Mapping[int, Ref]) -> _Evaluation | None:
    """None where the call is another than is known here (of another release, say): it is then made as it is."""
    known = _NEEDED | _OPTIONS | _IGNORED
    if getattr(one.function, "__name__", "") != _FUNCTION or len(one.args) != 3 or not _NEEDED <= one.kwargs.keys() <= known:
        return None
    estimator, X, y = one.args
    if one.kwargs.get("callback_ctx") is not None or id(X) not in refs or (y is not None and id(y) not in refs):
        return None
    return _Evaluation(one.function, estimator, refs[id(X)], None if y is None else refs[id(y)], one.kwargs)


# --- tasks ---------------------------------------------------------------------------------------------------------------


class _Fold(NamedTuple):
    key: Key
    light: Key
    params: frozenset[str]
    with_train: bool
    routed: bool


@dataclass
class _Candidate:
    """An estimator with its parameters set, and its tokens: with and without the one along its path."""

    estimator: Any
    token: str
    writes: bool
    token_beside_path: str | None = None


@dataclass
class _Group:
    """Evaluations that one fit can serve."""

    fold: _Fold
    stages: dict[str, Key]
    parameter: str | None
    members: list[Member] = field(default_factory=list)
    longest: Any = None
    longest_value: int = 0
    first: _Evaluation | None = None
    sources: dict[str, str | None] = field(default_factory=dict)


class _Builder:
    def __init__(self, refs: Mapping[int, Ref], surroundings: Surroundings, name: str) -> None:
        self._refs, self._surroundings, self._name = refs, surroundings, name
        self._tasks: dict[Key, Task] = {}
        self._folds: dict[Any, _Fold] = {}
        self._candidates: dict[Any, _Candidate] = {}
        self._groups: dict[Key, _Group] = {}
        self._tokens: dict[int, str] = {}  # by id of a part of a candidate's estimator, which lives as long as this

    def _token(self, part: Any) -> str:
        if id(part) not in self._tokens:
            self._tokens[id(part)] = tokenize(part)
        return self._tokens[id(part)]

    def _add(self, kind: str, what: Any, function: Callable[..., Any], *args: Any) -> Key:
        key = f"{kind}-{tokenize(self._name, what)}"
        if key not in self._tasks:
            self._tasks[key] = Task(key, run, (self._surroundings, function, *args))
        return key

    def call(self, number: int, one: Call) -> Key:
        key = f"{getattr(one.function, '__name__', 'call').strip('_')}-{tokenize(self._name)}:{number}"
        args = tuple(self._refs.get(id(value), value) for value in one.args)
        self._tasks[key] = Task(key, call, (one.function, args, one.kwargs))
        return key

    # --- folds and candidates ---

    def _fold(self, one: _Evaluation) -> _Fold:
        kwargs = one.kwargs
        ident = (id(kwargs["train"]), id(kwargs["test"]), one.X, one.y)  # the calls hold these objects
        if ident not in self._folds:
            fit_params, score_params = kwargs["fit_params"] or {}, kwargs["score_params"] or {}
            how = (kwargs["train"], kwargs["test"], fit_params, score_params)
            key = self._add("fold", (one.X, one.y, how), cut, one.function, one.estimator, one.X, one.y, *how)
            light = self._add("labels", key, without_data, Ref(key))
            routed = bool(self._surroundings.config.get("enable_metadata_routing")) and bool(fit_params)
            self._folds[ident] = _Fold(key, light, frozenset(fit_params), bool(kwargs.get("return_train_score")), routed)
        return self._folds[ident]

    def _candidate(self, one: _Evaluation) -> _Candidate:
        parameters = one.kwargs["parameters"]
        ident = id(one.estimator) if parameters is None else id(parameters)
        if ident not in self._candidates:
            estimator = clone(one.estimator)
            if parameters is not None:
                estimator.set_params(**clone(parameters, safe=False))
            self._candidates[ident] = _Candidate(estimator, tokenize(estimator), writes(estimator))
        return self._candidates[ident]

    # --- evaluations ---

    def evaluation(self, one: _Evaluation) -> tuple[Key, int] | None:
        """Where the result will be; None: the estimator is told to write into its data, so nobody can share them."""
        fold, candidate = self._fold(one), self._candidate(one)
        if candidate.writes:
            return None
        sources, stages = self._inside(candidate.estimator, fold, None, ())
        kwargs = one.kwargs
        options = {name: value for name, value in kwargs.items() if name in _OPTIONS}
        path, parameter, token = None, None, candidate.token
        if not sees_model(kwargs["scorer"]) and not options.get("return_estimator"):
            path = path_of(last_of(candidate.estimator), len(kwargs["train"]), last_params(candidate.estimator, fold.params))
        if path is not None:
            parameter = last_name(candidate.estimator) + path.parameter
            if candidate.token_beside_path is None:
                candidate.token_beside_path = tokenize(clone(candidate.estimator).set_params(**{parameter: None}))
            token = candidate.token_beside_path
        key = f"evaluate-{tokenize(self._name, fold.key, token, parameter, path and path.kind, id(kwargs['scorer']))}"
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(fold, stages, parameter, first=one, sources=sources)
        value = path.value if path is not None else 0
        if value >= group.longest_value:
            group.longest, group.longest_value = candidate.estimator, value
        group.members.append(Member(value, options))
        return key, len(group.members) - 1

    def finished(self) -> list[Task]:
        """All tasks."""
        for key, group in self._groups.items():
            one = group.first
            assert one is not None
            job = Job(
                one.function, group.longest, group.sources, one.kwargs["scorer"], sees_model(one.kwargs["scorer"]),
                group.parameter, tuple(group.members),
            )  # fmt: skip
            light = not job.sees_model and starts_ready(group.longest, group.sources)
            data = Ref(group.fold.light if light else group.fold.key)
            self._tasks[key] = Task(key, run, (self._surroundings, evaluate, job, data, _refs(group.stages)))
        return list(self._tasks.values())

    def longest_first(self, answers: Iterable[Key]) -> list[Key]:
        """In this order they run: so no worker begins with a long fit when the others have nothing left."""
        efforts = {key: effort(last_of(group.longest)) for key, group in self._groups.items()}
        return sorted(answers, key=lambda key: -efforts.get(key, 0))

    # --- what can be fitted before ---

    def _inside(
        self, estimator: Any, fold: _Fold, source: Key | None, steps: tuple[str, ...], prefix: str = "", source_name: str = ""
    ) -> tuple[dict[str, str | None], dict[str, Key]]:
        """
        The parts of `estimator` that are tasks of their own.

        Parameters
        ----------
        source : str or None
            The stage whose output the estimator gets; None: it gets the fold's data.
        steps : tuple of str
            The way to the estimator through Pipelines, for parameters of fit.
        prefix, source_name : str
            Inside the estimator whose task is made: what stands before the names of its parts, and the part before it.

        Returns
        -------
        sources, stages : dict
            By name as in ``set_params``: whose output each part gets (see `prepared`), and its task.
        """
        sources: dict[str, str | None] = {}
        stages: dict[str, Key] = {}
        if fold.routed or not names_are_plain(estimator):
            return sources, stages
        if type(estimator) is Pipeline and is_plain_pipeline(estimator):
            for name, step in estimator.steps[:-1]:
                if step is not None and step != "passthrough":
                    sources[prefix + name] = source_name
                    source, source_name = self._stage(step, fold, source, (*steps, name)), prefix + name
                    stages[source_name] = source
            name, last = estimator.steps[-1]
            inner = self._inside(last, fold, source, (*steps, name), f"{prefix}{name}__", source_name)
            return sources | inner[0], stages | inner[1]
        if any(_leads_to(steps, param) for param in fold.params) or output_is_set(estimator, self._surroundings.config):
            return sources, stages
        if type(estimator) is FeatureUnion and not estimator.verbose:
            for name, part in estimator.transformer_list:
                if is_transformer(part):
                    sources[prefix + name] = source_name
                    stages[prefix + name] = self._stage(part, fold, source, (*steps, name))
        elif type(estimator) is ColumnTransformer and not estimator.verbose:
            for name, part, columns in estimator.transformers:
                if is_transformer(part):
                    sources[prefix + name] = None
                    stages[prefix + name] = self._part(estimator, name, part, columns, fold, source)
        return sources, stages

    def _stage(self, step: Any, fold: _Fold, source: Key | None, steps: tuple[str, ...]) -> Key:
        sources, stages = self._inside(step, fold, source, steps)
        params = sorted(param for param in fold.params if _leads_to(steps, param))
        return self._add(
            "stage", (fold.key, fold.with_train, source, self._token(step), params),
            fit_stage, step, sources, steps if params else None, fold.with_train,
            Ref(fold.key if source is None else fold.light), source and Ref(source), _refs(stages),
        )  # fmt: skip

    def _part(self, whole: Any, name: str, part: Any, columns: Any, fold: _Fold, source: Key | None) -> Key:
        return self._add(
            "part", (fold.key, source, self._token(part), tokenize(columns)),
            fit_part, whole, name, Ref(fold.key if source is None else fold.light), source and Ref(source),
        )  # fmt: skip


def _refs(keys: Mapping[str, Key]) -> dict[str, Ref]:
    return {name: Ref(key) for name, key in keys.items()}


def _leads_to(steps: tuple[str, ...], param: str) -> bool:
    return param.startswith("__".join(steps) + "__") if steps else True

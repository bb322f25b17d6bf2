"""
What would go wrong in a training, said before it: look at the partitions, the labels, the parameters, the workers.

The data is looked at partition by partition and not kept. What the trainers refuse is found by their own checks.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from parml.collections import is_collection
from parml.from_dask import as_collection
from parml_core.engine.base import Engine
from parml_core.engine.registry import resolve
from parml_core.errors import InputError, NotSupported, ParmlError
from parml_core.graph import Hints

if TYPE_CHECKING:
    from parml.boosting.ranks import Rank
    from parml.schema import Description, Schema

Severity = Literal["error", "warning", "note"]
Trainer = Literal["xgboost", "lightgbm"]

_SKEW = 4  # a partition that has so many times the rows of the median one
_MOST_CLASSES = 100
_MOST_FAULTS = 10  # of one kind that are told one by one
_TIGHT = 0.7  # of the memory
_RANK_BYTES = 240 * 2**20  # a process with the libraries in it and what they need whatever the data
_WORKER_BYTES = 64 * 2**20
_ROW_BYTES = 40  # label, weight, prediction, gradient, and the places of a row in a tree; more for each further output
_OUTPUT_BYTES = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Parameters
    ----------
    severity : {"error", "warning", "note"}
        Training would fail or be wrong; it would be worse or slower than it need be; good to know.
    what : str
    do : str
        What to do about it; empty: nothing.
    """

    severity: Severity
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.severity:8}{self.what}{f'; {self.do}' if self.do else ''}"


class Report:
    """
    What `doctor` has found, the worst first. True where nothing stands in the way of training.

    Attributes
    ----------
    findings : tuple of Finding
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        order = ("error", "warning", "note")
        self.findings = tuple(sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity)))

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def __bool__(self) -> bool:
        return not self.of("error")

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of(severity))} {severity}s" for severity in ("error", "warning", "note"))
        return "\n".join([f"Report: {counts}", *map(str, self.findings)])


def doctor(
    client: Engine | None,
    X: Any,
    y: Any = None,
    *,
    params: Mapping[str, Any] | None = None,
    trainer: Trainer = "xgboost",
    ranks: Literal["host", "worker"] = "host",
    **fields: Any,
) -> Report:
    """
    Say what would go wrong in a training, and how much memory it needs.

    Collections are computed once or twice, partition by partition, and not kept.

    Parameters
    ----------
    client : Engine or None
    X, y : collection, array or table
    params : mapping, optional
        What would be passed to `train`.
    trainer : {"xgboost", "lightgbm"}
    ranks : {"host", "worker"}
        As for `train`.
    **fields
        What would be passed to `parml.xgboost.DMatrix` or `parml.lightgbm.Dataset`: weight, qid, group, enable_categorical, …

    Returns
    -------
    Report

    Examples
    --------
    >>> import numpy as np
    >>> from parml_core.engine.inline import InlineEngine
    >>> report = doctor(InlineEngine(), np.zeros((4, 2)), [0.0, 1.0, np.nan, 1.0])
    >>> bool(report), report.findings[0].what
    (False, 'expected finite numbers in y, found 1 of 4 values NaN or infinite in partition 0')
    """
    if trainer not in ("xgboost", "lightgbm"):
        raise InputError(f"expected trainer to be 'xgboost' or 'lightgbm', found {trainer!r}")
    case = _Case(resolve(client), trainer, dict(params or {}), ranks)
    X = as_collection(X)
    with case.noted():
        case.data = _matrix(case, X, y, fields)
    case.look_at_workers()
    if case.data is not None and case.look_at_partitions():
        case.look_at_ranks(external=bool(fields.get("external_memory")), chunked=is_collection(X))
    return Report(case.findings)


def _matrix(case: _Case, X: Any, y: Any, fields: dict[str, Any]) -> Any:
    """The trainer's own matrix, of partitions that are not kept."""
    from parml.boosting.recipes import Recipes

    if case.trainer == "xgboost":
        from parml.xgboost.data import DMatrix

        outside = fields.get("external_memory") or is_collection(X)
        return DMatrix(case.engine, X, y, **{**fields, "external_memory": outside})
    from parml.lightgbm.data import Dataset

    class NotKept(Dataset):
        _start = staticmethod(Recipes.start)

    kind = NotKept if is_collection(X) else Dataset
    return kind(case.engine, X, y, params=case.params, **fields)


class _Case:
    """One visit: what was found so far."""

    def __init__(self, engine: Engine, trainer: Trainer, params: dict[str, Any], per: Literal["host", "worker"]) -> None:
        self.engine = engine
        self.trainer = trainer
        self.params = params
        self.per = per
        self.data: Any = None
        self.findings: list[Finding] = []

    def add(self, severity: Severity, what: str, do: str = "") -> None:
        self.findings.append(Finding(severity, what, do))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What is raised in this context is an error to tell, and what is warned of a warning."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                yield
            except (InputError, NotSupported) as error:
                self.add("error", *_split(str(error)))
        for warning in warned:
            self.add("warning", *_split(str(warning.message)))

    # --- workers

    def look_at_workers(self) -> None:
        """Whether all have the libraries, in the versions that are here."""
        mine = _versions(self.trainer)
        workers = self.engine.workers()
        if not workers:
            self.add("error", "expected workers to train on, found none", "start workers")
        asked = [self.engine.submit(_versions, self.trainer, hints=Hints(where=(worker.id,))) for worker in workers]
        for worker, theirs in zip(workers, self.engine.gather(asked), strict=True):
            for library, version in theirs.items():
                if not version:
                    self.add("error", f"worker {worker.name} has no {library}", "install it there")
                elif version != mine[library]:
                    severity: Severity = "error" if library in ("python", self.trainer) else "warning"
                    what = f"worker {worker.name} has {library} {version}, and this process {mine[library] or 'none'}"
                    self.add(severity, what, "install the same version everywhere")

    # --- partitions

    def look_at_partitions(self) -> bool:
        """Whether they can be computed, and fit together."""
        try:
            parts = self.data.partitions.descriptions()
        except Exception as error:
            if isinstance(error, ParmlError):
                raise
            self.add("error", f"a partition cannot be computed: {type(error).__name__}: {error}", "look at what makes it")
            return False
        self._look_at_sizes([part.rows["X"] for part in parts])
        before = len(self.findings)
        with self.noted():
            self.data.schema()
            self.data.group_starts()
        if len(self.findings) > before and len(parts) > 1:
            self.findings += _faults(parts)
        return not any(finding.severity == "error" for finding in self.findings[before:])

    def _look_at_sizes(self, rows: Sequence[int]) -> None:
        filled = [count for count in rows if count]
        if filled and len(filled) < len(rows):
            self.add("note", f"{len(rows) - len(filled)} of {len(rows)} partitions are empty", "they are left out")
        if len(filled) > 1 and max(filled) > _SKEW * statistics.median(filled):
            what = f"the largest partition has {max(filled)} rows, the median one {statistics.median(filled):.0f}"
            self.add("warning", what, "repartition: its worker is the last to be ready, and needs the memory")

    # --- ranks

    def look_at_ranks(self, *, external: bool, chunked: bool) -> None:
        """What is about who trains on what."""
        from parml.boosting.ranks import places_of, plan_ranks

        data = self.data
        schema, starts, workers = data.schema(), data.group_starts(), self.engine.workers()
        if not workers:
            return
        plan = plan_ranks(workers, data.partitions.holders(), schema.rows, per=self.per, starts=starts)
        if len(plan) < len(places_of(workers, self.per)):
            what = f"there are rows, or query groups, for {len(plan)} of {len(places_of(workers, self.per))} ranks"
            self.add("note", what)
        if len({rank.threads for rank in plan}) > 1:
            what = f"ranks have {sorted({rank.threads for rank in plan})} threads, but the same number of rows"
            self.add("warning", what, "start as many threads on every host: all wait for the slowest")
        outputs = 1
        if "y" in data.partitions.fields:
            outputs = self._look_at_labels(schema, plan)
        with self.noted():
            self._check_params(len(plan), external)
        self._try_params(schema)
        self._estimate(schema, plan, outputs, external=external, chunked=chunked)

    def _look_at_labels(self, schema: Schema, plan: Sequence[Rank]) -> int:
        """Classes: how many, how often, and where. Returns how many outputs a model of them has."""
        found = self.engine.gather(self.data.partitions.each(_classes, "y"))
        if any(classes is None for classes in found):
            return 1  # numbers to regress on
        counts: dict[float, int] = {}
        for classes in found:
            for label, (count, _, _) in classes.items():
                counts[label] = counts.get(label, 0) + count
        objective = str(self.params.get("objective", ""))
        multi = len(counts) if objective.startswith("multi") else 1
        if len(counts) > _MOST_CLASSES or objective.startswith(("reg", "count", "rank", "lambdarank", "survival", "poisson")):
            return multi
        if len(counts) == 1:
            self.add("warning", f"all labels are {_number(next(iter(counts)))}", "there is nothing to learn; look at y")
            return multi
        once = [_number(label) for label, count in sorted(counts.items()) if count == 1]
        if not objective and 2 * len(once) > len(counts):
            return 1  # whole numbers to regress on, as it seems
        if once:
            self.add("warning", f"classes that occur once: {once[:10]}", "leave them out, or join classes")
        self._look_at_range(objective, counts)
        for r, rank in enumerate(plan):
            here = {
                label
                for i, start, stop in rank.pieces
                for label, (_, first, last) in found[i].items()
                if first < stop and last >= start
            }
            missing = [_number(label) for label in sorted(counts.keys() - here)]
            if missing:
                self.add(
                    "warning",
                    f"rank {r} has no row with the labels {missing[:10]}",
                    "the model is right all the same, but an objective or metric of yours sees the rank's rows only: "
                    "shuffle the rows",
                )
        return multi

    def _look_at_range(self, objective: str, counts: Mapping[float, int]) -> None:
        n_classes = int(self.params.get("num_class") or self.params.get("num_classes") or 0)
        if objective.startswith("binary") and not all(0 <= label <= 1 for label in counts):
            what = f"expected labels 0 and 1 for {objective}, found {[_number(label) for label in sorted(counts)[:10]]}"
            self.add("error", what, "encode them, or use a classifier of parml, which does")
        if objective.startswith("multi") and n_classes:
            beyond = [_number(label) for label in sorted(counts) if label != int(label) or not 0 <= label < n_classes]
            if beyond:
                what = f"expected labels 0 to {n_classes - 1} for num_class={n_classes}, found {beyond[:10]}"
                self.add("error", what, "encode them, or use a classifier of parml, which does")

    # --- parameters

    def _check_params(self, n_ranks: int, external: bool) -> None:
        if self.trainer == "xgboost":
            from parml.xgboost.train import check_external_memory, refuse_what_cannot_be_distributed

            refuse_what_cannot_be_distributed(self.params, n_ranks)
            if external:
                check_external_memory(self.params, self.data, (), None)
        else:
            from parml.lightgbm.params import check, check_for_ranks

            check(self.params)
            check_for_ranks(self.params, n_ranks)

    def _try_params(self, schema: Schema) -> None:
        """Parameters that the library does not know or take: a round on a handful of rows, all labelled 1, tells."""
        if callable(self.params.get("objective")):
            return
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                _train_one_round(self.trainer, self.params, schema.width)
            except Exception as error:
                text = str(error).splitlines()[0] if str(error) else ""
                self.add("error", f"{self.trainer} does not take the parameters: {text}", "correct them")
        for warning in warned:
            if "are not used" in str(warning.message):
                text = " ".join(str(warning.message).split("\n", 1)[-1].split())
                self.add("warning", text, "correct the names, or leave them out")
        if self.trainer == "lightgbm":
            unknown = _unknown_to_lightgbm(self.params)
            if unknown:
                self.add("warning", f"LightGBM ignores the parameters {unknown}", "correct the names, or leave them out")

    # --- memory

    def _estimate(self, schema: Schema, plan: Sequence[Rank], outputs: int, *, external: bool, chunked: bool) -> None:
        """What the fullest host needs at most: partitions in its workers, and then once more in its ranks beside the bins."""
        sizes = [part.nbytes for part in self.data.partitions.descriptions()]
        by_id = {worker.id: worker for worker in self.engine.workers()}
        bins = 1 if int(self.params.get("max_bin") or 255) <= 256 else 2
        joins = self.trainer == "xgboost" and self.params.get("tree_method") in ("approx", "exact")
        hosts: dict[str, tuple[float, float]] = {}
        for rank in plan:
            rows = sum(stop - start for _, start, stop in rank.pieces)
            own = sum(sizes[i] * (stop - start) / schema.rows[i] for i, start, stop in rank.pieces)
            needs: float = _RANK_BYTES + _WORKER_BYTES * len(rank.workers) + rows * (_ROW_BYTES + _OUTPUT_BYTES * outputs)
            if external:
                needs += (2 + min(rank.threads, 4)) * max(sizes)
            else:
                copies = (
                    2 if self.trainer == "xgboost" else 3
                )  # in the workers, in the rank, and LightGBM's own on the way to bins
                needs += copies * own + (own + rows * schema.width * 8 if joins else rows * schema.width * bins)
            before, limit = hosts.get(rank.host, (0.0, 0.0))
            hosts[rank.host] = before + needs, limit + sum(by_id[worker].memory_bytes for worker in rank.workers)
        host, (needed, has) = max(hosts.items(), key=lambda item: item[1][0] / (item[1][1] or 1))
        what = f"the fit needs about {_size(needed)} on host {host}, for {_size(sum(sizes))} of rows in all"
        if not has:
            self.add("note", f"{what}; its workers have no memory limit")
            return
        severity: Severity = "error" if needed > has else "warning" if needed > _TIGHT * has else "note"
        do = ""
        if severity != "note":
            more = "use more hosts, fewer columns or smaller dtypes"
            do = f"pass external_memory=True, or {more}" if self.trainer == "xgboost" and chunked and not external else more
        self.add(severity, f"{what}; its workers may have {_size(has)}", do)


# --- what is looked at where it is -------------------------------------------------------------------------------------


def _versions(trainer: str) -> dict[str, str]:
    """Versions of what a training depends on; empty where it is not there."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for library in ("parml", "numpy", "pandas", "scikit-learn", trainer):
        try:
            found[library] = str(importlib.import_module("sklearn" if library == "scikit-learn" else library).__version__)
        except ImportError:
            found[library] = ""
    return found


def _classes(y: Any) -> dict[float, tuple[int, int, int]] | None:
    """For each label how often it occurs, in which row first and in which last; None for labels that are no classes."""
    import numpy as np

    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        return None
    values = values.astype("f8")
    if (values != np.floor(values)).any():
        return None
    labels, first, counts = np.unique(values, return_index=True, return_counts=True)
    if len(labels) > _MOST_CLASSES:
        return None
    last = len(values) - 1 - np.unique(values[::-1], return_index=True)[1]
    rows = zip(labels, counts, first, last, strict=True)
    return {float(label): (int(count), int(begin), int(end)) for label, count, begin, end in rows}


# --- pure ---------------------------------------------------------------------------------------------------------------


def _faults(parts: Sequence[Description]) -> list[Finding]:
    """What of each partition does not fit the first: the trainers' own check, of two at a time, stops at the first fault."""
    from parml.schema import Description, schema_of

    def fault_of(*kept: int) -> None:
        seen = [replace(part, label_fault=label) if i in kept else blank for i, part in enumerate(parts)]
        try:
            schema_of(seen)
        except InputError as error:
            found.append(Finding("error", *_split(str(error))))

    found: list[Finding] = []
    blank = Description({"X": 0}, 0, None, ())
    first = next((i for i, part in enumerate(parts) if part.rows["X"]), 0)
    for i, part in enumerate(parts):
        if len(found) >= _MOST_FAULTS:
            break
        for label in dict.fromkeys([part.label_fault, ""]):
            if i != first or label:
                fault_of(first, i)
    return found


def _split(text: str) -> tuple[str, str]:
    """«expected …, found …; do …» in two."""
    what, mark, do = text.rpartition("; ")
    return (what, do) if mark else (text, "")


def _train_one_round(trainer: Trainer, params: Mapping[str, Any], width: int) -> None:
    import numpy as np

    rows = 20
    X, ones = np.random.default_rng(0).random((rows, width)), np.ones(rows)
    if trainer == "xgboost":
        import xgboost as xgb

        known = {
            name: value for name, value in params.items() if name not in ("n_jobs", "nthread", "device") and value is not None
        }
        data = xgb.DMatrix(X, ones, label_lower_bound=ones, label_upper_bound=ones)
        booster = xgb.Booster({**known, "nthread": 1, "verbosity": 1}, [data])
        booster.update(data, 0)
        booster.eval(data)
        return
    import lightgbm as lgb

    from parml.lightgbm.params import without

    known = without(params, "num_threads", "verbosity", "categorical_feature")
    options = {**known, "num_threads": 1, "verbosity": -1}
    lgb.train(options, lgb.Dataset(X, ones, group=[rows]), 1)


def _unknown_to_lightgbm(params: Mapping[str, Any]) -> list[str]:
    from lightgbm.basic import _ConfigAliases

    aliases = _ConfigAliases._get_all_param_aliases()
    known = {*aliases, *(alias for names in aliases.values() for alias in names)}
    return sorted(set(params) - known)


def _number(label: float) -> Any:
    return int(label) if label == int(label) else label


def _size(nbytes: float) -> str:
    return f"{nbytes / 2**20:,.0f} MiB" if nbytes < 10 * 2**30 else f"{nbytes / 2**30:,.1f} GiB"

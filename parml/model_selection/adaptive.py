"""What searches over estimators with `partial_fit` have in common: all but their schedules."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import ParameterSampler
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from parml.collections import compute, is_collection
from parml.data import PartitionedArray
from parml.model_selection.backend import surroundings, surroundings_on
from parml.model_selection.blocks import blocks_of, is_by_row
from parml.model_selection.fit import run
from parml.model_selection.follow import Progress
from parml.model_selection.race import Bracket, Entrant, Patience, race
from parml.model_selection.schedule import Rung, calls_of, summary
from parml.model_selection.search import OnEngine
from parml.tables import row_count
from parml_core.engine.registry import resolve
from parml_core.errors import InputError
from parml_core.graph import Ref, Task
from parml_core.hashing import tokenize

__all__ = ["AdaptiveSearch"]

_SEEDS = 2**31 - 1


def _best_has(method: str) -> Callable[[Any], bool]:
    def check(search: Any) -> bool:
        return hasattr(getattr(search, "best_estimator_", search.estimator), method)

    return check


class AdaptiveSearch(OnEngine, MetaEstimatorMixin, BaseEstimator):
    """A search whose models train block by block on an engine; a subclass says how many of them until when."""

    estimator: Any
    parameters: Any
    max_iter: int
    patience: bool | int
    tol: float | None
    test_size: Any
    random_state: Any
    scoring: Any
    verbose: bool
    prefix: str
    error_score: Any
    n_blocks: int
    progress: bool

    def _brackets(self) -> dict[int, list[Rung]]:
        raise NotImplementedError

    def _candidates(self, n: int, seed: int) -> Iterable[dict[str, Any]]:
        return ParameterSampler(self.parameters, n, random_state=seed)

    def _calls_of_patience(self) -> int:
        """0: none."""
        if not isinstance(self.patience, (bool, int, np.integer)) or self.patience < 0 or self.patience is np.True_:
            raise InputError(
                f"expected patience as a number of calls, or False, found {self.patience!r}; give an int of 2 or more"
            )
        if self.patience and self.patience is not True and self.patience < 2:
            raise InputError(f"expected patience of at least 2 calls, found {self.patience}: one score alone is no plateau")
        return int(self.patience)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the search will do, if no patience and no small space of parameters makes it less."""
        return summary(self._brackets())

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """
        Search. The best model is not fitted again: it has seen the rows that were not for the test.

        Parameters
        ----------
        X, y : array, table, scipy.sparse matrix or collection
            A collection's partitions are the blocks; see `n_blocks` for all else.
        **fit_params
            For each call of `partial_fit`. What has an item for each row, such as `sample_weight`, is cut as X is. The
            `classes` of a classifier are found in y where they are not given.

        Returns
        -------
        self
        """
        engine, brackets = resolve(self.client), self._brackets()
        patience = self._calls_of_patience()
        self._check_estimator()
        scorer = check_scoring(self.estimator, scoring=self.scoring)
        if isinstance(self.scoring, (list, tuple, set, dict)):
            raise InputError(f"expected one scorer, by which models are compared, found {self.scoring!r}; name one")
        seed = int(check_random_state(self.random_state).randint(_SEEDS))
        by_row = {name: value for name, value in fit_params.items() if is_by_row(name, value, X)}
        whole = {name: value for name, value in fit_params.items() if name not in by_row}
        wants_classes = "classes" in inspect.signature(self.estimator.partial_fit).parameters and "classes" not in fit_params
        data = blocks_of(
            engine, X, y, by_row, test_size=self.test_size, n_blocks=self.n_blocks, seed=seed,
            with_classes=wants_classes and is_classifier(self.estimator),
        )  # fmt: skip
        if data.classes is not None:
            whole["classes"] = data.classes
        running = {
            bracket: Bracket(
                rungs,
                self._entrants(bracket, rungs[0].n_models, seed, named=len(brackets) > 1),
                Patience(patience, self.tol) if patience and self.tol is not None and not np.isnan(self.tol) else None,
                priority=-bracket,
            )
            for bracket, rungs in sorted(brackets.items())
        }
        order = _Order(seed, len(data.train))
        with ExitStack() as followed:
            line = followed.enter_context(Progress(type(self).__name__)) if self.progress else None
            if line is not None:
                line.expect(sum(calls_of(rungs, len(running[b].entrants)) for b, rungs in brackets.items()))
            race(
                engine, list(running.values()), data, order=order, fit_params=whole, scorer=scorer,
                surroundings=surroundings_on(engine), failing_score=self.error_score,
                heard=lambda entrant: self._hear(entrant, line),
            )  # fmt: skip
        self.scorer_ = scorer
        self._keep(running)
        return self

    def _check_estimator(self) -> None:
        if not hasattr(self.estimator, "partial_fit"):
            raise TypeError(
                f"expected an estimator with partial_fit, found {self.estimator!r:.200}; "
                "use HalvingRandomSearchCV or RandomizedSearchCV for one that has none"
            )
        if self.n_blocks < 1:
            raise InputError(f"expected n_blocks of at least 1, found {self.n_blocks}")

    def _entrants(self, bracket: int, n: int, seed: int, named: bool) -> list[Entrant]:
        seeds = np.random.default_rng([seed, 3, bracket])
        entrants = []
        for number, params in enumerate(self._candidates(n, (seed + bracket) % _SEEDS)):
            model = clone(self.estimator).set_params(**clone(params, safe=False))
            if self.random_state is not None:
                _seed_what_is_free(model, params, seeds)
            entrants.append(Entrant(f"bracket={bracket}-{number}" if named else number, params, model))
        if not entrants:
            raise InputError(f"expected at least one candidate, found none in parameters={self.parameters!r}; give some")
        return entrants

    def _hear(self, entrant: Entrant, line: Progress | None) -> None:
        if line is not None:
            before = entrant.records[-2]["partial_fit_calls"] if len(entrant.records) > 1 else 0
            line.step(entrant.score, entrant.calls - before)
        if self.verbose:
            record = entrant.records[-1]
            failed = " (failed)" if entrant.failure is not None else ""
            print(
                f"[CV{self.prefix}] model {entrant.id}: score {record['score']:.4f}{failed} "
                f"after {record['partial_fit_calls']} partial_fit calls"
            )

    # --- results ---

    def _keep(self, running: Mapping[int, Bracket]) -> None:
        brackets = sorted(running.items(), reverse=True)
        entrants = [(number, entrant) for number, bracket in brackets for entrant in bracket.entrants]
        failures = [entrant for _, entrant in entrants if entrant.failure is not None]
        self._warn_of(failures, len(entrants))
        best = max((bracket.best for _, bracket in brackets), key=lambda entrant: entrant.score)
        self.model_history_ = {entrant.id: entrant.records for _, entrant in entrants}
        for number, entrant in entrants:
            if len(running) > 1:
                for record in entrant.records:
                    record["bracket"] = number
        self.history_ = [record for records in self.model_history_.values() for record in records]
        self.cv_results_ = _results([entrant for _, entrant in entrants])
        if len(running) > 1:
            self.cv_results_["bracket"] = np.array([number for number, _ in entrants])
        made = [_made(number, bracket) for number, bracket in sorted(running.items())]
        self.metadata_ = {
            "n_models": len(entrants),
            "partial_fit_calls": sum(info["partial_fit_calls"] for info in made),
            "brackets": made,
        }
        self.best_index_ = next(i for i, (_, entrant) in enumerate(entrants) if entrant is best)
        self.best_score_ = self.cv_results_["test_score"][self.best_index_]
        self.best_params_ = best.params
        assert best.future is not None
        self.best_estimator_ = best.future.result().model
        self.n_splits_, self.multimetric_ = 1, False
        for name in ("classes_", "n_features_in_", "feature_names_in_"):
            if hasattr(self.best_estimator_, name):
                setattr(self, name, getattr(self.best_estimator_, name))

    def _warn_of(self, failures: list[Entrant], n_models: int) -> None:
        if not failures:
            return
        first = failures[0].failure
        assert first is not None
        if len(failures) == n_models:
            raise ValueError(f"All the {n_models} models failed; the first with:\n{first.text}") from first.error
        warnings.warn(
            f"{len(failures)} of {n_models} models failed and have scored error_score={self.error_score}; "
            f"cv_results_['error'] says why. The first, {failures[0].params}:\n{first.text}",
            FitFailedWarning,
            stacklevel=3,
        )

    # --- the best model ---

    def __sklearn_tags__(self) -> Any:
        tags, theirs = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.estimator_type = theirs.estimator_type
        tags.classifier_tags, tags.regressor_tags = theirs.classifier_tags, theirs.regressor_tags
        tags.input_tags.sparse = theirs.input_tags.sparse
        return tags

    def _ask(self, method: str, X: Any) -> Any:
        """At once for what is in memory, a lazy collection with the same partitions for a collection."""
        check_is_fitted(self, "best_estimator_")
        if not is_collection(X):
            return getattr(self.best_estimator_, method)(X)
        name = tokenize(method, self.best_estimator_, X.__parml_token__())
        model, sources = f"model-{name}", X.__parml_keys__()
        tasks = [Task(model, _same, (self.best_estimator_,))]
        keys = [f"{method}-{name}:{i}" for i in range(len(sources))]
        for key, source in zip(keys, sources, strict=True):
            tasks.append(Task(key, run, (surroundings(), _call, Ref(model), method, Ref(source))))
        return PartitionedArray(X.__parml_graph__().add(tasks), keys)

    @available_if(_best_has("predict"))
    def predict(self, X: Any) -> Any:
        """What the best model predicts; a lazy collection for a collection."""
        return self._ask("predict", X)

    @available_if(_best_has("predict_proba"))
    def predict_proba(self, X: Any) -> Any:
        """As `predict`, the probability of each class."""
        return self._ask("predict_proba", X)

    @available_if(_best_has("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> Any:
        """As `predict`, the logarithm of the probability of each class."""
        return self._ask("predict_log_proba", X)

    @available_if(_best_has("decision_function"))
    def decision_function(self, X: Any) -> Any:
        """As `predict`, the decision function."""
        return self._ask("decision_function", X)

    @available_if(_best_has("transform"))
    def transform(self, X: Any) -> Any:
        """What the best model makes of X; a lazy collection for a collection."""
        return self._ask("transform", X)

    @available_if(_best_has("inverse_transform"))
    def inverse_transform(self, X: Any) -> Any:
        """What `transform` would have made X of."""
        return self._ask("inverse_transform", X)

    def score(self, X: Any, y: Any = None) -> float:
        """The score of the best model on these rows, collections being fetched whole."""
        check_is_fitted(self, "best_estimator_")
        X, y = compute(X, y, engine=resolve(self.client))
        return float(self.scorer_(self.best_estimator_, X, *(() if y is None else (y,))))


class _Order:
    """Which block the n-th call gets: all blocks once, in an order that was drawn, before any comes again."""

    def __init__(self, seed: int, n_blocks: int) -> None:
        self._rng, self._n_blocks = np.random.default_rng([seed, 2]), n_blocks
        self._drawn: list[int] = []

    def __call__(self, call: int) -> int:
        while call >= len(self._drawn):
            self._drawn += self._rng.permutation(self._n_blocks).tolist()
        return self._drawn[call]


def _seed_what_is_free(model: Any, params: Mapping[str, Any], seeds: np.random.Generator) -> None:
    """Seeds where the estimator has none, so that the search repeats."""
    free = [
        name
        for name, value in sorted(model.get_params().items())
        if name.rpartition("__")[2] == "random_state" and value is None
    ]
    model.set_params(**{name: int(seeds.integers(_SEEDS)) for name in free if name not in params})


def _results(entrants: list[Entrant]) -> dict[str, Any]:
    lasts = [entrant.records[-1] for entrant in entrants]
    results: dict[str, Any] = {}
    for column in ("partial_fit_time", "score_time"):
        for word, average in (("mean", np.mean), ("std", np.std)):
            results[f"{word}_{column}"] = np.array([average([r[column] for r in entrant.records]) for entrant in entrants])
    results["test_score"] = np.array([record["score"] for record in lasts])
    results["rank_test_score"] = rankdata([-entrant.score for entrant in entrants], method="min").astype(np.int32)
    results["model_id"] = np.array([entrant.id for entrant in entrants])
    results["partial_fit_calls"] = np.array([record["partial_fit_calls"] for record in lasts])
    for name in dict.fromkeys(name for entrant in entrants for name in entrant.params):
        values = np.ma.MaskedArray(np.empty(len(entrants), object), mask=True)
        for i, entrant in enumerate(entrants):
            if name in entrant.params:
                values[i] = entrant.params[name]
        results[f"param_{name}"] = values
    results["params"] = [entrant.params for entrant in entrants]
    results["error"] = np.array([record["error"] for record in lasts])
    return results


def _made(number: int, bracket: Bracket) -> dict[str, Any]:
    calls = [entrant.calls for entrant in bracket.entrants]
    decisions = {record["partial_fit_calls"] for entrant in bracket.entrants for record in entrant.records}
    return {"bracket": number, "n_models": len(calls), "partial_fit_calls": sum(calls), "decisions": sorted(decisions)}


def _same(value: Any) -> Any:
    return value


def _call(model: Any, method: str, X: Any) -> Any:
    return getattr(model, method)(X) if row_count(X) else np.empty(0)

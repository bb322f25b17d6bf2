"""LightGBM's parameters under all their names, and what several ranks can do with them: told before a training starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from lightgbm.basic import _ConfigAliases

from parml_core.errors import InputError, NotSupported

Params = Mapping[str, Any]

_OURS = ("machines", "num_machines", "machine_list_filename", "local_listen_port", "pre_partition")
_NEEDS_ONE_HOST = {
    "linear_tree": "LightGBM fits linear leaves on one machine only",
    "forcedsplits_filename": "LightGBM forces splits on one machine only",
    "interaction_constraints": "LightGBM's ranks lose track of each other with them and crash or hang",
}
_MEDIANS = {"regression_l1", "l1", "mean_absolute_error", "mae", "quantile", "mape", "mean_absolute_percentage_error"}
_RANKING = {"lambdarank", "rank_xendcg", "xendcg", "xe_ndcg", "xe_ndcg_mart", "xendcg_mart"}
_DECIDE_INITIAL_SCORE = (
    "objective", "num_class", "boost_from_average", "reg_sqrt", "alpha", "fair_c", "sigmoid", "is_unbalance",
    "scale_pos_weight", "poisson_max_delta_step", "tweedie_variance_power",
)  # fmt: skip
_LEARNERS = {"data": "data", "data_parallel": "data", "voting": "voting", "voting_parallel": "voting"}
_DEFAULT_MINUTES = 10


def names_of(*params: str) -> set[str]:
    """These parameters' names, main ones and aliases."""
    return set(_ConfigAliases.get(*params))


def value_of(params: Params, name: str, default: Any = None) -> Any:
    """
    The value of a parameter, whichever of its names it was given under.

    Examples
    --------
    >>> value_of({"n_jobs": 3}, "num_threads")
    3
    """
    if params.get(name) is not None:
        return params[name]
    return next((params[alias] for alias in sorted(names_of(name)) if params.get(alias) is not None), default)


def without(params: Params, *names: str) -> dict[str, Any]:
    """All but these parameters, under any of their names."""
    left_out = names_of(*names)
    return {name: value for name, value in params.items() if name not in left_out}


def check(params: Params) -> None:
    """Raise for what no training of ours can do, whatever the number of ranks."""
    ours = sorted(names_of(*_OURS) & params.keys())
    if ours:
        raise InputError(f"expected parameters without {ours}, which parml finds out itself; leave them out")
    if str(value_of(params, "tree_learner")).startswith("feature"):
        raise NotSupported(
            "expected tree_learner 'data' or 'voting', found 'feature': it needs all rows on every rank, but each has the "
            "rows of its own partitions"
        )


def check_for_ranks(params: Params, n_ranks: int) -> None:
    """Raise for what LightGBM cannot do over several ranks, and warn of what it does otherwise there."""
    if n_ranks == 1:
        return
    here = f"over {n_ranks} ranks"
    for name, reason in _NEEDS_ONE_HOST.items():
        if value_of(params, name):
            raise NotSupported(f"expected a training on one host, found {name} {here}: {reason}; leave it out or use one host")
    if value_of(params, "min_data_in_leaf", 20) < 1:
        raise NotSupported(
            f"expected min_data_in_leaf of at least 1 {here}, found {value_of(params, 'min_data_in_leaf')}: LightGBM counts "
            "rows by their Hessians there, and fails at a leaf that it counts as empty"
        )
    if value_of(params, "boosting") in ("rf", "random_forest") and value_of(params, "boost_from_average", True):
        raise NotSupported(
            f"expected boost_from_average=False for a random forest {here}: LightGBM would start from the mean of each rank's "
            "average, which is not that of all rows"
        )
    learner(params)
    if value_of(params, "objective") in _MEDIANS:
        _warn(
            f"objective {value_of(params, 'objective')!r} {here}: LightGBM takes as the value of a leaf the mean of the ranks' "
            "percentiles; shuffle the rows, or use one host, for the model of one machine"
        )
    if value_of(params, "monotone_constraints_method") in ("intermediate", "advanced"):
        _warn(f"monotone_constraints_method {here}: LightGBM uses 'basic' instead")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def learner(params: Params) -> str:
    """The tree learner for several ranks."""
    given = value_of(params, "tree_learner", "data")
    if given not in _LEARNERS:
        raise InputError(f"expected tree_learner 'data' or 'voting' over several ranks, found {given!r}; choose one of them")
    return _LEARNERS[given]


def minutes(params: Params) -> int:
    """How long LightGBM's sockets may be silent; a lost rank is noticed by the gang long before."""
    return max(1, int(value_of(params, "time_out", _DEFAULT_MINUTES)))


def decide_initial_score(params: Params) -> dict[str, Any] | None:
    """The parameters on which the score before the first tree depends; None where LightGBM starts from zero."""
    objective = value_of(params, "objective", "regression")
    if callable(objective) or objective in (*_RANKING, "none", "null", "custom", "na"):
        return None
    if not value_of(params, "boost_from_average", True) or value_of(params, "boosting") in ("rf", "random_forest"):
        return None
    kept = names_of(*_DECIDE_INITIAL_SCORE)
    return {name: value for name, value in params.items() if name in kept}


def is_ranking(params: Params) -> bool:
    """Whether rows are trained on in query groups."""
    return value_of(params, "objective") in _RANKING


def resumable(params: Params) -> bool:
    """
    Whether a training can go on from its trees alone.

    Dart weighs its trees anew each round, a forest averages them, linear leaves see more than a leaf's number, and penalties
    for features remember which of them were used.

    Examples
    --------
    >>> resumable({}), resumable({"boosting_type": "dart"})
    (True, False)
    """
    booster = value_of(params, "boosting", "gbdt")
    remembers = ("linear_tree", "cegb_penalty_feature_coupled", "cegb_penalty_feature_lazy")
    return booster in ("gbdt", "gbrt", "goss") and not any(value_of(params, name) for name in remembers)


def draws(params: Params) -> bool:
    """
    Whether rounds draw something at random: rows, columns, thresholds.

    Examples
    --------
    >>> draws({}), draws({"subsample": 0.5, "subsample_freq": 1})
    (False, True)
    """
    of_rows = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
    of_columns = ("feature_fraction", "feature_fraction_bynode")
    return (
        (float(value_of(params, "bagging_freq", 0)) > 0 and any(float(value_of(params, name, 1)) < 1 for name in of_rows))
        or any(float(value_of(params, name, 1)) < 1 for name in of_columns)
        or bool(value_of(params, "extra_trees", False))
        or "goss" in (value_of(params, "boosting"), value_of(params, "data_sample_strategy"))
        or bool(value_of(params, "use_quantized_grad", False) and value_of(params, "stochastic_rounding", True))
        or (is_ranking(params) and value_of(params, "objective") != "lambdarank")
    )


def other_seeds(params: Params, done: int) -> dict[str, int]:
    """
    Seeds of what rounds draw, other ones after each number of rounds.

    Examples
    --------
    >>> other_seeds({"bagging_seed": 5, "seed": 1}, 10)["bagging_seed"]
    15
    """
    common = value_of(params, "seed")
    return {name: int(value_of(params, name, own if common is None else common)) + done for name, own in _SEEDS.items()}


_SEEDS = {"bagging_seed": 3, "feature_fraction_seed": 2, "extra_seed": 6, "objective_seed": 5}  # LightGBM's defaults

"""What a plan wants to know of an estimator or a scorer before it shares its work. Nothing is fitted, nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

__all__ = [
    "is_plain_pipeline",
    "is_transformer",
    "last_name",
    "last_params",
    "names_are_plain",
    "output_is_set",
    "sees_model",
    "starts_ready",
    "writes",
]


def last_name(estimator: Any) -> str:
    """What stands before the parameters of the estimator at the end."""
    prefix = ""
    while isinstance(estimator, Pipeline):
        name, estimator = estimator.steps[-1]
        prefix += name + "__"
    return prefix


def last_params(estimator: Any, params: frozenset[str]) -> frozenset[str]:
    """The names of what the fit of the estimator at the end gets."""
    prefix = last_name(estimator)
    return frozenset(param[len(prefix) :] for param in params if param.startswith(prefix))


def starts_ready(estimator: Any, sources: Mapping[str, str | None]) -> bool:
    """Whether nobody looks at the data themselves: the first that would is a part that is fitted already."""
    prefix = ""
    while type(estimator) is Pipeline:
        looking = [(name, step) for name, step in estimator.steps if step is not None and step != "passthrough"]
        if not looking:
            return False
        name, estimator = looking[0]
        prefix += name
        if prefix in sources:
            return True
        prefix += "__"
    return False


def writes(estimator: Any) -> bool:
    """Whether some part has ``copy=False``. scikit-learn then scores on what the fit has left of the data."""
    return any(
        value is False and name.rpartition("__")[2] in ("copy", "copy_X") for name, value in estimator.get_params().items()
    )


def is_transformer(part: Any) -> bool:
    """Whether it can be cloned, fitted and asked to transform, which is what a shared stage needs."""
    return all(hasattr(part, name) for name in ("get_params", "fit", "transform"))


def is_plain_pipeline(pipeline: Pipeline) -> bool:
    """Whether it does nothing between its steps that would be missed, or seen, if they were fitted elsewhere."""
    return (
        pipeline.memory is None
        and getattr(pipeline, "transform_input", None) is None
        and not pipeline.verbose
        and all(step is None or step == "passthrough" or is_transformer(step) for _, step in pipeline.steps[:-1])
    )


def names_are_plain(estimator: Any) -> bool:
    """Whether the parts can be set by their names; where they cannot, scikit-learn's own fit will say so."""
    attribute = {Pipeline: "steps", FeatureUnion: "transformer_list", ColumnTransformer: "transformers"}.get(type(estimator))
    if attribute is None:
        return False
    parts = getattr(estimator, attribute)
    if not isinstance(parts, list) or not parts or not all(isinstance(part, tuple) and len(part) in (2, 3) for part in parts):
        return False
    names = [part[0] for part in parts]
    own = estimator.get_params(deep=False)
    return len({*names}) == len(names) and all(isinstance(n, str) and "__" not in n and n not in own for n in names)


def output_is_set(estimator: Any, config: Mapping[str, Any]) -> bool:
    """Whether a container other than the default was asked for: its columns are named after the parts' classes."""
    return config.get("transform_output", "default") != "default" or hasattr(estimator, "_sklearn_output_config")


def sees_model(scorer: Any) -> bool:
    """Whether a scorer may look at more than predictions: all but scikit-learn's own, which ask for these alone."""
    members = getattr(scorer, "_scorers", None)
    if isinstance(members, dict):
        return any(sees_model(member) for member in members.values())
    return isinstance(scorer, FunctionType) or not type(scorer).__module__.startswith("sklearn.")

"""
Scikit-learn, XGBoost and LightGBM work on all the cores and machines you have.

Importing parml registers the joblib backend ``"parml"`` and loads nothing heavier than joblib; the cluster, pandas and the
model libraries are loaded by the parts that use them.

Examples
--------
>>> import parml
>>> parml.delayed(sum)([1, 2, parml.delayed(abs)(-3)]).compute()
6
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parml.collections import compute, persist
from parml.delayed import delayed  # not lazily: the import system would later put the module in the place of the function
from parml.doctor import doctor  # the same; what it needs is loaded when it is called
from parml.drawing import visualize
from parml_core.engine.registry import foresee

if TYPE_CHECKING:
    from parml.client import Client
    from parml_core.client import LocalCluster
    from parml_core.engine.derived import as_completed

__version__ = "0.1.0"
__all__ = ["Client", "LocalCluster", "__version__", "as_completed", "compute", "delayed", "doctor", "persist", "visualize"]

_LAZY = {"Client": "parml.client", "LocalCluster": "parml_core.client", "as_completed": "parml_core.engine.derived"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'parml' has no attribute {name!r}; it has {', '.join(__all__)} and its submodules")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_joblib_backend() -> None:
    try:
        from parml import joblib
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "joblib":
            raise
    else:
        joblib.register()


_register_joblib_backend()
foresee("parml", everywhere=True)

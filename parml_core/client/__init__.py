"""
The cluster as an engine.

Client is loaded when it is asked for: a LocalCluster can start meanwhile.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parml_core.client.local import LocalCluster

if TYPE_CHECKING:
    from parml_core.client.client import Client

__all__ = ["Client", "LocalCluster"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        return importlib.import_module("parml_core.client.client").Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)} and its submodules")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

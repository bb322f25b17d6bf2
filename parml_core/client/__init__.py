"""The cluster as an engine."""

from parml_core.client.client import Client
from parml_core.client.local import LocalCluster

__all__ = ["Client", "LocalCluster"]

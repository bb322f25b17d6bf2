"""Client: a cluster's client that knows collections."""

from __future__ import annotations

from typing import Any

from parml import collections
from parml_core import client as core


class Client(core.Client):
    __doc__ = core.Client.__doc__

    def compute(self, *values: Any) -> Any:
        """
        Results of collections, computed together on this cluster.

        Parameters
        ----------
        *values : collection, or list, tuple or dict that contains some

        Returns
        -------
        object or tuple
            One result where one value was given, else a tuple of them.
        """
        return collections.compute(*values, engine=self)

    def persist(self, *values: Any) -> Any:
        """The same collections, whose partitions are being computed and will be kept on the workers. Never blocks."""
        return collections.persist(*values, engine=self)

"""``--engines=inline,threads,cluster``: which engines to check."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the suites of engines that were not asked for."""
    chosen = set(config.getoption("--engines", default="inline,threads,cluster").split(","))
    left_out = [item for item in items if getattr(getattr(item, "cls", None), "engine_name", None) not in {*chosen, None}]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

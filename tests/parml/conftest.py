"""What the tests of all that takes collections share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from parml.testing.parts import cut
from parml_core.engine.base import Engine
from parml_core.engine.inline import InlineEngine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """For tests to which one engine is as good as another."""
    with InlineEngine() as engine:
        yield engine


@pytest.fixture(scope="session")
def parts() -> Callable[..., Any]:
    """``parts(value, *edges)``: a collection with the rows of `value`, cut at `edges`."""
    return cut

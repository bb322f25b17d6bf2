"""How many examples a test draws that compares with something independent on random input."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(n: int, **options: Any) -> settings:
    """`n` examples in each run of the tests, ten times as many with ``--hypothesis-profile soak``, as `make soak` asks."""
    return settings(max_examples=n * settings().max_examples // 100, **options)

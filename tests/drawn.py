"""How often a test does what it does, and how many random examples it draws: ten times as many in `make soak`."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(n: int, **options: Any) -> settings:
    """The settings of hypothesis for `n` examples."""
    return settings(max_examples=often(n), **options)


def often(n: int) -> int:
    """`n`; or ``10 * n`` with ``--hypothesis-profile soak``. Mark what asks for it outside of hypothesis with `soak`."""
    return n * settings().max_examples // 100

"""Named steps at which a test can stop the process. Nothing is set but by tests."""

from __future__ import annotations

from collections.abc import Callable

on_step: Callable[[str], None] | None = None


def reached(step: str) -> None:
    """Say that a step is done."""
    if on_step is not None:
        on_step(step)

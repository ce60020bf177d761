"""Evaluations to record in tests."""

from __future__ import annotations

from typing import Any

from tiny_registry import TinyRegistry, digest

from loradock.registry.resources import Direction, Evaluation, Metric


def record(
    tiny: TinyRegistry,
    number: int | None,
    accuracy: float = 0.5,
    spread: float | None = 0.1,
    **more: Any,
) -> Evaluation:
    """Record accuracy and loss of a version of triage, or of the base alone."""
    low, high = (None, None) if spread is None else (accuracy - spread, accuracy + spread)
    fields: dict[str, Any] = {
        "suite": "held-out",
        "dataset_digest": digest("rows"),
        "base_name": "tiny",
        "base_digests": tiny.base.digests,
        "adapter": None if number is None else "triage",
        "version_number": number,
        "metrics": (
            Metric("loss", 1 - accuracy, 100, None, None, Direction.LOWER),
            Metric("accuracy", accuracy, 100, low, high),
        ),
        "cost": {"tokens": 12.0, "seconds": 0.5},
        "harness": "loradock 0.1.0",
        "engine_profile": "cpu/float32",
        "by": "ann",
        **more,
    }
    return tiny.registry.evaluations.record(tiny.project, **fields)

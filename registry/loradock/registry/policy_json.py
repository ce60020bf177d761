"""A policy's demands as JSON and back, and what no policy may say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loradock.registry.errors import InvalidArgument
from loradock.registry.limits import Limits
from loradock.registry.names import check_digest, check_name, check_text
from loradock.registry.policy import Demands, MetricDemand, SuiteDemand
from loradock.registry.resources import Direction

MAX_SECONDS = 100 * 365 * 86_400.0
MAX_APPROVALS = 100


def check_demands(demands: Demands, limits: Limits) -> Demands:
    """Return the demands, or raise InvalidArgument or InvalidName."""
    if len(demands.suites) > limits.max_suites:
        raise InvalidArgument("suites", f"more than {limits.max_suites} suites")
    _refuse_twice("suites", [suite.suite for suite in demands.suites])
    for suite in demands.suites:
        _check_suite(suite, limits)
    if demands.max_age_s is not None:
        _check_seconds("max_age", demands.max_age_s)
    _check_seconds("rollback_window", demands.rollback_window_s)
    if not 0 <= demands.num_approvals <= MAX_APPROVALS:
        why = f"{demands.num_approvals} is not in 0..{MAX_APPROVALS}"
        raise InvalidArgument("num_approvals", why)
    return demands


def _check_suite(suite: SuiteDemand, limits: Limits) -> None:
    field = f"suites[{check_name('suite', suite.suite)}]"
    if suite.dataset_digest is not None:
        check_digest(f"{field}.dataset_digest", suite.dataset_digest)
    if len(suite.metrics) > limits.max_metrics:
        raise InvalidArgument(field, f"more than {limits.max_metrics} metrics")
    _refuse_twice(field, [metric.metric for metric in suite.metrics])
    for metric in suite.metrics:
        _check_metric(f"{field}.metrics[{metric.metric!r:.80}]", metric)


def _check_metric(field: str, metric: MetricDemand) -> None:
    if not metric.metric:
        raise InvalidArgument(field, "has no name")
    check_text(field, metric.metric, 128)
    if metric.threshold is not None and not math.isfinite(metric.threshold):
        raise InvalidArgument(f"{field}.threshold", "is not finite")
    if metric.margin is not None and not (math.isfinite(metric.margin) and metric.margin >= 0):
        raise InvalidArgument(f"{field}.margin", f"{metric.margin} is not a margin")


def _check_seconds(field: str, seconds: float) -> None:
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidArgument(field, f"{seconds} s is not in 0..{MAX_SECONDS:.0f}")


def _refuse_twice(field: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise InvalidArgument(field, "a name is there twice")


def demands_to_json(demands: Demands) -> dict[str, object]:
    """Spell out a policy."""
    return {
        "suites": [_suite_to_json(suite) for suite in demands.suites],
        "max_age_s": demands.max_age_s,
        "rollback_window_s": demands.rollback_window_s,
        "num_approvals": demands.num_approvals,
        "is_protected": demands.is_protected,
    }


def _suite_to_json(suite: SuiteDemand) -> dict[str, object]:
    metrics = [
        {
            "metric": metric.metric,
            "direction": metric.direction.value,
            "threshold": metric.threshold,
            "margin": metric.margin,
        }
        for metric in suite.metrics
    ]
    return {"suite": suite.suite, "dataset_digest": suite.dataset_digest, "metrics": metrics}


def demands_from_json(document: Mapping[str, Any]) -> Demands:
    """Invert demands_to_json; what was written before a demand was known lacks it."""
    return Demands(
        suites=tuple(_suite_from_json(suite) for suite in document["suites"]),
        max_age_s=_number(document["max_age_s"]),
        rollback_window_s=float(document["rollback_window_s"]),
        num_approvals=document.get("num_approvals", 0),
        is_protected=document.get("is_protected", False),
    )


def _suite_from_json(document: Mapping[str, Any]) -> SuiteDemand:
    metrics = tuple(
        MetricDemand(
            metric["metric"],
            Direction(metric["direction"]),
            _number(metric["threshold"]),
            _number(metric["margin"]),
        )
        for metric in document["metrics"]
    )
    return SuiteDemand(document["suite"], document["dataset_digest"], metrics)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)

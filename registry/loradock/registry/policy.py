"""What an alias demands of a version before it may point there, and whether a version meets it.

Decides on evaluations that somebody else found; knows no SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from loradock.registry.resources import BaseDigests, Direction, Evaluation, Metric

DEFAULT_ROLLBACK_WINDOW_S = 86_400.0
_ROUNDING = 1e-9  # 0.9 - 0.05 is a little more than 0.85


@dataclass(frozen=True, slots=True)
class MetricDemand:
    """What one metric has to be: on the right side of a bound, not far behind the incumbent."""

    metric: str
    direction: Direction
    threshold: float | None = None  # at least, or where lower is better at most
    margin: float | None = None  # how much worse than the incumbent's it may be


@dataclass(frozen=True, slots=True)
class SuiteDemand:
    """A suite that a version must have been measured in, on its own base."""

    suite: str
    dataset_digest: str | None = None  # None: on any rows, the same for the incumbent
    metrics: tuple[MetricDemand, ...] = ()


@dataclass(frozen=True, slots=True)
class Demands:
    """The content of a policy. Without suites it demands nothing."""

    suites: tuple[SuiteDemand, ...] = ()
    max_age_s: float | None = None
    rollback_window_s: float = DEFAULT_ROLLBACK_WINDOW_S


@dataclass(frozen=True, slots=True)
class AliasPolicy:
    """What an alias demands, since when, and who says so."""

    project: str
    adapter: str
    alias: str
    demands: Demands
    revision: int
    set_by: str
    reason: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One demand, and how a version meets it. The metric is empty where a suite names none."""

    suite: str
    metric: str
    code: str  # "PASSED", or why not
    message: str
    value: float | None = None
    wanted: float | None = None  # the threshold, or the least that the incumbent leaves room for

    @property
    def passed(self) -> bool:
        """Whether the demand is met."""
        return self.code == PASSED

    @property
    def subject(self) -> str:
        """`suite/metric`, or the suite alone."""
        return f"{self.suite}/{self.metric}" if self.metric else self.suite


PASSED = "PASSED"


@dataclass(frozen=True, slots=True)
class GateReport:
    """Every demand of a policy, met or not."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether the version may be pointed at."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[GateCheck, ...]:
        """The demands that are not met."""
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True, slots=True)
class Measured:
    """A version's evaluations in the demanded suites, the newest first, and its own base."""

    base: BaseDigests
    evaluations: Sequence[Evaluation]


def judge(
    demands: Demands, candidate: Measured, incumbent: Measured | None, at: datetime
) -> GateReport:
    """Check every demand; none is left out because another one failed."""
    checks = (
        check
        for demand in demands.suites
        for check in _suite_checks(demand, demands.max_age_s, candidate, incumbent, at)
    )
    return GateReport(tuple(checks))


def _suite_checks(
    demand: SuiteDemand,
    max_age_s: float | None,
    candidate: Measured,
    incumbent: Measured | None,
    at: datetime,
) -> Iterator[GateCheck]:
    found, code, why = _usable(demand, candidate)
    if found is not None and max_age_s is not None:
        age = at - found.created_at
        if age > timedelta(seconds=max_age_s):
            age_s = age.total_seconds()
            code, why = "TOO_OLD", f"was measured {age_s:.0f} s ago, over {max_age_s:.0f} s"
    if found is None or code != PASSED:
        names = [metric.metric for metric in demand.metrics] or [""]
        yield from (GateCheck(demand.suite, name, code, why) for name in names)
        return
    if not demand.metrics:
        yield GateCheck(demand.suite, "", PASSED, "was measured")
    for metric in demand.metrics:
        yield from _metric_checks(demand.suite, metric, found, incumbent)


def _usable(demand: SuiteDemand, measured: Measured) -> tuple[Evaluation | None, str, str]:
    """Find the newest evaluation that counts: newer ones hide older ones, good or bad."""
    of_suite = [found for found in measured.evaluations if found.suite == demand.suite]
    if not of_suite:
        return None, "MISSING", "was never measured"
    on_base = [found for found in of_suite if found.base_digests == measured.base]
    if not on_base:
        return None, "OTHER_BASE", "was measured on another base only"
    wanted = demand.dataset_digest
    on_rows = [found for found in on_base if wanted in (None, found.dataset_digest)]
    if not on_rows:
        return None, "OTHER_DATASET", f"was measured on other rows than {wanted} only"
    return on_rows[0], PASSED, ""


def _metric_checks(
    suite: str, demand: MetricDemand, found: Evaluation, incumbent: Measured | None
) -> Iterator[GateCheck]:
    name = demand.metric
    metric = _metric_of(found, name)
    if metric is None:
        yield GateCheck(suite, name, "METRIC_MISSING", "was not among what was measured")
        return
    value = metric.value
    if metric.direction is not demand.direction:
        why = f"was recorded as better where {metric.direction.value}"
        yield GateCheck(suite, name, "DIRECTION_DIFFERS", why, value)
        return
    if demand.threshold is not None:
        yield _against_threshold(suite, demand, value, demand.threshold)
    if demand.margin is not None and incumbent is not None:
        yield _against_incumbent(suite, demand, value, demand.margin, found, incumbent)
    elif demand.threshold is None:
        yield GateCheck(suite, name, PASSED, "was measured", value)


def _metric_of(found: Evaluation, name: str) -> Metric | None:
    return next((metric for metric in found.metrics if metric.name == name), None)


def _against_threshold(
    suite: str, demand: MetricDemand, value: float, threshold: float
) -> GateCheck:
    higher = demand.direction is Direction.HIGHER
    met = value >= threshold if higher else value <= threshold
    bound = "at least" if higher else "at most"
    why = f"is {value:g}, {'' if met else 'not '}{bound} {threshold:g}"
    code = PASSED if met else "THRESHOLD_MISSED"
    return GateCheck(suite, demand.metric, code, why, value, threshold)


def _against_incumbent(
    suite: str,
    demand: MetricDemand,
    value: float,
    margin: float,
    found: Evaluation,
    incumbent: Measured,
) -> GateCheck:
    same_rows = SuiteDemand(suite, found.dataset_digest)
    earlier = _usable(same_rows, incumbent)[0]
    metric = None if earlier is None else _metric_of(earlier, demand.metric)
    if metric is None:
        why = "can't be compared: the incumbent was not measured on the same rows"
        return GateCheck(suite, demand.metric, "INCUMBENT_NOT_MEASURED", why, value)
    sign = 1 if demand.direction is Direction.HIGHER else -1
    room = margin + _ROUNDING * max(1.0, math.fabs(metric.value))
    met = sign * (metric.value - value) <= room
    why = f"is {value:g}, the incumbent's {metric.value:g}, and {margin:g} is the margin"
    code = PASSED if met else "WORSE_THAN_INCUMBENT"
    wanted = metric.value - sign * margin
    return GateCheck(suite, demand.metric, code, why, value, wanted)

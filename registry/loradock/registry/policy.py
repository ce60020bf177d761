"""What an alias demands of a version before it may point there, and whether a version meets it.

Decides on evaluations that somebody else found; knows no SQL.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from loradock.registry.comparison import LEVEL, Comparison, Method, Scored, compare
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
    max_age_s: float | None = None  # of evaluations and approvals
    rollback_window_s: float = DEFAULT_ROLLBACK_WINDOW_S
    num_approvals: int = 0  # by others than who moves the alias and who published the version
    is_protected: bool = False  # only who may say what the alias demands may move it


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
class Approval:
    """Somebody's word that a version may become an alias."""

    version_number: int
    approver: str
    reason: str
    approved_at: datetime


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One demand, and how a version meets it. The metric is empty where a suite names none.

    Where the approvals are checked, there is no suite.
    """

    suite: str
    metric: str
    code: str  # "PASSED", or why not
    message: str
    value: float | None = None
    wanted: float | None = None  # the threshold, or the least that the incumbent leaves room for
    comparison: Comparison | None = None  # with the incumbent

    @property
    def passed(self) -> bool:
        """Whether the demand is met."""
        return self.code == PASSED

    @property
    def subject(self) -> str:
        """`suite/metric`, or the suite alone, or what is no suite's."""
        if not self.suite:
            return APPROVALS
        return f"{self.suite}/{self.metric}" if self.metric else self.suite


PASSED = "PASSED"
APPROVALS = "approvals"


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


def judge_approvals(
    demands: Demands, approvals: Sequence[Approval], not_counted: Collection[str], at: datetime
) -> GateCheck:
    """Count whose approval is not too old, and who is not to approve of his own doing."""
    oldest = at - timedelta(seconds=demands.max_age_s or 0.0)
    counted, told = set(), []
    for approval in approvals:
        if approval.approver in not_counted:
            told.append(f"{approval.approver}'s own does not count")
        elif demands.max_age_s is not None and approval.approved_at < oldest:
            told.append(f"{approval.approver}'s is over {demands.max_age_s:.0f} s old")
        else:
            counted.add(approval.approver)
    num_found, num_wanted = len(counted), demands.num_approvals
    by = f" (by {', '.join(sorted(counted))})" if counted else ""
    why = "; ".join([f"{num_found} of {num_wanted} are given{by}", *told])
    code = PASSED if num_found >= num_wanted else "APPROVALS_MISSING"
    return GateCheck("", "", code, why, float(num_found), float(num_wanted))


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
    metric = found.metric(name)
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
        yield _against_incumbent(suite, demand, metric, demand.margin, found, incumbent)
    elif demand.threshold is None:
        yield GateCheck(suite, name, PASSED, "was measured", value)


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
    metric: Metric,
    margin: float,
    found: Evaluation,
    incumbent: Measured,
) -> GateCheck:
    name, value = demand.metric, metric.value
    same_rows = SuiteDemand(suite, found.dataset_digest)
    earlier = _usable(same_rows, incumbent)[0]
    theirs = None if earlier is None else earlier.metric(name)
    if earlier is None or theirs is None:
        why = "can't be compared: the incumbent was not measured on the same rows"
        return GateCheck(suite, name, "INCUMBENT_NOT_MEASURED", why, value)
    mine, other = Scored(metric, found.items), Scored(theirs, earlier.items)
    comparison = compare(mine, other, demand.direction)
    room = margin + _ROUNDING * max(1.0, math.fabs(theirs.value))
    code = PASSED if -comparison.bound <= room else "WORSE_THAN_INCUMBENT"
    why = f"is {value:g}, the incumbent's {theirs.value:g}; {_shown(comparison)}"
    why += f", and {margin:g} is the margin"
    sign = 1 if demand.direction is Direction.HIGHER else -1
    return GateCheck(suite, name, code, why, value, theirs.value - sign * margin, comparison)


def _shown(comparison: Comparison) -> str:
    """Say what a comparison shows, and by what."""
    if comparison.method is Method.POINTS:
        return "without intervals or items, the values alone are compared"
    by = "their intervals"
    if comparison.method is Method.PAIRED:
        by = f"{comparison.num_items} items, paired"
    worst = max(0.0, -comparison.bound)
    return f"by {by}, it is worse by no more than {worst:.4g} ({LEVEL:.0%} one-sided)"

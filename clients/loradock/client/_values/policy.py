"""What an alias demands of a version, and what a version makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from loradock.client._values.evaluation import MetricDirection


@dataclass(frozen=True, slots=True)
class MetricDemand:
    """What one metric has to be; with neither threshold nor margin, only measured."""

    metric: str
    threshold: float | None = None  # at least, or where lower is better at most
    margin: float | None = None  # how much worse than the incumbent's, on the same rows, it may be
    direction: MetricDirection = MetricDirection.HIGHER


@dataclass(frozen=True, slots=True)
class SuiteDemand:
    """A suite that a version must have been measured in, on its own base."""

    suite: str
    metrics: tuple[MetricDemand, ...] = ()
    dataset_digest: str | None = None  # None: on any rows


@dataclass(frozen=True, slots=True)
class AliasPolicy:
    """What an alias demands of a version before it may point there."""

    project: str
    adapter: str
    alias: str
    suites: tuple[SuiteDemand, ...]
    max_age_s: float | None  # how old an evaluation may be
    rollback_window_s: float  # how long a rollback needs no evaluations
    etag: str
    set_by: str
    reason: str
    set_at: datetime | None


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """One demand, and how the version meets it; no metric where the suite demands none."""

    suite: str
    metric: str
    passed: bool
    code: str  # "PASSED", "MISSING", "THRESHOLD_MISSED", …
    message: str
    value: float | None
    wanted: float | None


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """Whether a version would be let in, demand by demand."""

    passed: bool
    checks: tuple[PolicyCheck, ...]

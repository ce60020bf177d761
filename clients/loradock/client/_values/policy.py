"""What an alias demands of a version, and what a version makes of it."""

from __future__ import annotations

import enum
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
    num_approvals: int = 0  # by others than who moves the alias and who published the version
    is_protected: bool = False  # only who may set policies may move it


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody's word that a version may become an alias."""

    version_number: int
    approver: str
    reason: str
    approved_at: datetime | None


class ComparisonMethod(enum.Enum):
    """What a comparison with the incumbent rests on."""

    UNSPECIFIED = "unspecified"
    PAIRED = "paired"  # the same items, scored one by one
    INTERVALS = "intervals"
    POINTS = "points"  # the values alone


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better a version is than the incumbent; negative is worse."""

    method: ComparisonMethod
    difference: float
    bound: float  # the difference is at least this, with 95 % confidence
    num_items: int  # that were paired


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """One demand, and how the version meets it; no metric where the suite demands none.

    Where approvals are checked, there is no suite.
    """

    suite: str
    metric: str
    passed: bool
    code: str  # "PASSED", "MISSING", "THRESHOLD_MISSED", …
    message: str
    value: float | None
    wanted: float | None
    comparison: Comparison | None = None  # with the incumbent


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """Whether a version would be let in, demand by demand."""

    passed: bool
    checks: tuple[PolicyCheck, ...]

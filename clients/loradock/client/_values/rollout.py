"""A version on its way to an alias, and what the servers have seen of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from loradock.client._values.policy import PolicyReport


@dataclass(frozen=True, slots=True)
class RolloutStage:
    """The candidate's share of the alias's requests, and how long it is held."""

    percent: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class RolloutGuards:
    """When a rollout is taken back; None leaves it to the registry."""

    max_error_increase: float | None = None  # of the share of failed calls: 0.01 is 1 %
    max_latency_ratio: float | None = None  # at the median and at the 95th percentile
    min_calls: int | None = None  # of each arm
    confidence: float | None = None  # one-sided


class RolloutState(enum.Enum):
    """Where a rollout is."""

    UNSPECIFIED = "unspecified"
    RUNNING = "running"
    PAUSED = "paused"  # at its stage; the guards go on
    PROMOTED = "promoted"  # the alias points at the candidate
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class ArmReport:
    """What the servers counted of one arm in the present stage."""

    arm: str  # "incumbent", "candidate" or "shadow"
    num_calls: int
    num_errors: int
    latency_p50_s: float | None  # None without calls
    latency_p95_s: float | None
    num_agreed: int  # shadows that gave the caller's answer
    first_difference_tokens: float | None  # of those that did not, on average
    num_dropped: int  # shadows that a busy server did not compute


@dataclass(frozen=True, slots=True)
class GuardReport:
    """How near a guard is to its limit."""

    guard: str  # "errors", "latency_p50", "latency_p95" or "shadow_errors"
    state: str  # "WAITING", "PASSED" or "BROKEN"
    value: float | None  # as measured
    bound: float | None  # what is exceeded with the demanded confidence
    limit: float
    message: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One version on its way to an alias."""

    project: str
    adapter: str
    alias: str
    id: str
    state: RolloutState
    incumbent_number: int
    candidate_number: int
    stages: tuple[RolloutStage, ...]
    guards: RolloutGuards
    shadow_percent: float
    stage: int  # counted from 0
    stage_started_at: datetime | None
    waits_for: str  # why the stage goes on
    reason: str  # what it was started for
    state_reason: str  # why it was paused, resumed, aborted or promoted
    state_by: str  # who did that; empty as long as nobody did
    arms: tuple[ArmReport, ...]
    guard_reports: tuple[GuardReport, ...]
    started_by: str
    started_at: datetime | None
    ended_at: datetime | None  # None while it goes on
    etag: str

    @property
    def is_going_on(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in (RolloutState.RUNNING, RolloutState.PAUSED)


@dataclass(frozen=True, slots=True)
class StartedRollout:
    """A rollout as it begins, and what the alias's policy says of the candidate."""

    rollout: Rollout
    report: PolicyReport

"""Rollouts: a version's way to an alias in stages, and when the next step is due. Knows no SQL."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loradock.registry.arm_counts import ArmCounts
from loradock.registry.errors import InvalidArgument
from loradock.registry.guards import GuardReport, Guards, GuardState, judge_arms
from loradock.registry.policy import GateReport
from loradock.registry.split import WHOLE, Arm, Split

MAX_STAGES = 100
MAX_HOLD_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Stage:
    """The candidate's share, and how long it is held."""

    weight: int  # basis points
    hold_s: float


DEFAULT_STAGES = tuple(Stage(weight, 600.0) for weight in (100, 1000, 5000, WHOLE))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollout is to do."""

    stages: tuple[Stage, ...] = DEFAULT_STAGES
    guards: Guards = Guards()
    shadow: int = 0  # basis points of what the incumbent answers


class RolloutState(enum.Enum):
    """Where a rollout is."""

    RUNNING = "running"
    PAUSED = "paused"  # at its stage; the guards go on
    PROMOTED = "promoted"
    ABORTED = "aborted"


GOING_ON = (RolloutState.RUNNING, RolloutState.PAUSED)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One version on its way to an alias."""

    id: str
    project: str
    adapter: str
    alias: str
    state: RolloutState
    plan: Plan
    incumbent_number: int
    candidate_number: int
    candidate_digest: str
    stage: int
    stage_at: datetime
    generation: int  # the alias's, at this stage
    reason: str
    started_by: str
    started_at: datetime
    ended_at: datetime | None

    @property
    def is_going_on(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in GOING_ON

    @property
    def split(self) -> Split:
        """How its stage shares the alias's requests out."""
        weight = self.plan.stages[self.stage].weight
        return Split(
            self.candidate_number, self.candidate_digest, weight, self.plan.shadow, self.id
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What the servers have reported of a rollout."""

    arms: Mapping[Arm, ArmCounts]  # in this stage
    reference: ArmCounts  # the incumbent's, in the last stage in which it had calls enough
    lagging: str = ""  # why not all servers are at this stage


class Step(enum.Enum):
    """What is due."""

    WAIT = "wait"
    ADVANCE = "advance"  # to the next stage
    PROMOTE = "promote"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is due, why, and what the guards say."""

    step: Step
    why: str
    guards: tuple[GuardReport, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """A rollout as it begins, and what the alias's policy says of the candidate."""

    rollout: Rollout
    report: GateReport


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout, what the servers have seen of it, and what is due."""

    rollout: Rollout
    arms: Mapping[Arm, ArmCounts]
    decision: Decision


def decide(rollout: Rollout, seen: Seen, at: datetime) -> Decision:
    """Say what is due now. Where nothing is, `why` says what is waited for."""
    reports = judge_arms(rollout.plan.guards, seen.arms[Arm.CANDIDATE], seen.reference)
    broken = [report for report in reports if report.state is GuardState.BROKEN]
    if broken:
        return Decision(Step.ABORT, "; ".join(map(_told, broken)), reports)
    why = _waits_for(rollout, seen, at)
    if why:
        return Decision(Step.WAIT, why, reports)
    is_last = rollout.stage == len(rollout.plan.stages) - 1
    return Decision(Step.PROMOTE if is_last else Step.ADVANCE, "", reports)


def _told(report: GuardReport) -> str:
    what = "the share of failed calls" if report.guard == "errors" else report.guard
    return (
        f"{what}: {report.message}; the bound {report.bound:.4g} is over the limit {report.limit:g}"
    )


def _waits_for(rollout: Rollout, seen: Seen, at: datetime) -> str:
    if rollout.state is RolloutState.PAUSED:
        return "it is paused"
    if seen.lagging:
        return seen.lagging
    stage, needed = rollout.plan.stages[rollout.stage], rollout.plan.guards.min_calls
    ends_at = rollout.stage_at + timedelta(seconds=stage.hold_s)
    if at < ends_at:
        return f"the stage is held for another {(ends_at - at).total_seconds():.0f} s"
    calls = seen.arms[Arm.CANDIDATE].num_calls
    if stage.weight and calls < needed:
        return f"{calls} of {needed} calls that are needed of the candidate"
    return ""


def check_plan(plan: Plan) -> Plan:
    """Return the plan, or raise InvalidArgument."""
    if not 1 <= len(plan.stages) <= MAX_STAGES:
        raise InvalidArgument("stages", f"give 1 to {MAX_STAGES}")
    weights = [stage.weight for stage in plan.stages]
    for index, stage in enumerate(plan.stages):
        _check_share(f"stages[{index}].weight_basis_points", stage.weight)
        if not 0 <= stage.hold_s <= MAX_HOLD_S:
            raise InvalidArgument(f"stages[{index}].hold", f"{stage.hold_s} s is no time to hold")
    if any(later <= earlier for earlier, later in zip(weights, weights[1:], strict=False)):
        raise InvalidArgument("stages", "each weight must be over the one before")
    _check_share("shadow_basis_points", plan.shadow)
    _check_guards(plan.guards)
    return plan


def _check_share(field: str, share: int) -> None:
    if not 0 <= share <= WHOLE:
        raise InvalidArgument(field, f"{share} is not in 0..{WHOLE}")


def _check_guards(guards: Guards) -> None:
    if not 0 <= guards.max_error_increase <= 1:
        raise InvalidArgument("guards.max_error_increase", "is not in 0..1")
    if not (guards.max_latency_ratio >= 1 and math.isfinite(guards.max_latency_ratio)):
        raise InvalidArgument("guards.max_latency_ratio", "is not 1 or more")
    if not 0 <= guards.min_calls <= 1_000_000:
        raise InvalidArgument("guards.min_calls", "is not in 0..1000000")
    if not 0.5 <= guards.confidence < 1:
        raise InvalidArgument("guards.confidence", "is not in 0.5..1")


def plan_to_json(plan: Plan) -> dict[str, object]:
    """Spell out a plan."""
    return {
        "stages": [[stage.weight, stage.hold_s] for stage in plan.stages],
        "shadow": plan.shadow,
        "max_error_increase": plan.guards.max_error_increase,
        "max_latency_ratio": plan.guards.max_latency_ratio,
        "min_calls": plan.guards.min_calls,
        "confidence": plan.guards.confidence,
    }


def plan_from_json(document: Mapping[str, Any]) -> Plan:
    """Invert plan_to_json."""
    stages: Sequence[tuple[int, float]] = document["stages"]
    return Plan(
        stages=tuple(Stage(weight, float(hold_s)) for weight, hold_s in stages),
        guards=Guards(
            float(document["max_error_increase"]),
            float(document["max_latency_ratio"]),
            int(document["min_calls"]),
            float(document["confidence"]),
        ),
        shadow=int(document["shadow"]),
    )

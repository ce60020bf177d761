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
from loradock.registry.guards import (
    GuardReport,
    Guards,
    GuardState,
    judge_arms,
    judge_shadow,
)
from loradock.registry.policy import GateReport
from loradock.registry.split import WHOLE, Arm, Split

MAX_STAGES = 100
MAX_HOLD_S = 365 * 86_400.0
PATIENCE = timedelta(days=1)  # with calls and servers that a stage waits for after its time


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
    reason: str  # what it was begun for
    state_reason: str  # why it was paused, resumed, aborted or promoted
    state_by: str  # who did that; empty as long as nobody did
    started_by: str
    started_at: datetime
    ended_at: datetime | None

    @property
    def is_going_on(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in GOING_ON

    @property
    def stage_ends_at(self) -> datetime:
        """When its stage has been held long enough."""
        return self.stage_at + timedelta(seconds=self.plan.stages[self.stage].hold_s)

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
    STOP = "stop"  # pause: it can't go on by itself
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
    """Say what is due now. Where nothing is, `why` says what is waited for.

    No stage ends before the guards have concluded: what was compared with nothing goes nowhere.
    """
    reports = judge_arms(rollout.plan.guards, seen.arms[Arm.CANDIDATE], seen.reference)
    shown = (*reports, *_of_shadows(rollout, seen))
    broken = [report for report in shown if report.state is GuardState.BROKEN]
    if broken:
        return Decision(Step.ABORT, "; ".join(map(_told, broken)), shown)
    if rollout.state is RolloutState.PAUSED:
        return Decision(Step.WAIT, "it is paused", shown)
    if why := _waits_for(rollout, seen, reports, at):
        is_overdue = at >= rollout.stage_ends_at + PATIENCE
        return Decision(Step.STOP if is_overdue else Step.WAIT, why, shown)
    is_last = rollout.stage == len(rollout.plan.stages) - 1
    return Decision(Step.PROMOTE if is_last else Step.ADVANCE, "", shown)


def _of_shadows(rollout: Rollout, seen: Seen) -> Sequence[GuardReport]:
    """Judge the shadows, where there are any: they hold nothing up, for they come as they can."""
    split = rollout.split
    if not split.shadow or split.weight == WHOLE:
        return ()
    return (judge_shadow(rollout.plan.guards, seen.arms[Arm.SHADOW], seen.reference),)


_WHAT = {"errors": "the share of failed calls", "shadow_errors": "the share of failed shadows"}


def _told(report: GuardReport) -> str:
    what = _WHAT.get(report.guard, report.guard)
    return (
        f"{what}: {report.message}; the bound {report.bound:.4g} is over the limit {report.limit:g}"
    )


def _waits_for(rollout: Rollout, seen: Seen, reports: Sequence[GuardReport], at: datetime) -> str:
    if seen.lagging:
        return seen.lagging
    if at < rollout.stage_ends_at:
        left_s = (rollout.stage_ends_at - at).total_seconds()
        return f"the stage is held for another {left_s:.0f} s"
    if rollout.split.weight:
        waiting = (report for report in reports if report.state is GuardState.WAITING)
        return next((f"{report.guard}: {report.message}" for report in waiting), "")
    # The candidate answers nobody yet, but later ones are held against what the incumbent does.
    calls, needed = seen.arms[Arm.INCUMBENT].num_calls, rollout.plan.guards.min_calls
    if not seen.reference.num_calls:
        return f"{calls} of {needed} calls that are needed of the incumbent"
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
    if weights[0] == WHOLE or weights[-1] == 0:
        why = "give each arm requests in one of them: guards compare what both do"
        raise InvalidArgument("stages", why)
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
    if not 1 <= guards.min_calls <= 1_000_000:
        why = "is not in 1..1000000: a guard that needs no calls compares nothing"
        raise InvalidArgument("guards.min_calls", why)
    if not 0.5 <= guards.confidence < 1:
        why = f"{guards.confidence:g} is not from 0.5 to below 1: nothing is ever certain"
        raise InvalidArgument("guards.confidence", why)


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
            max(1, int(document["min_calls"])),  # an earlier release let 0 pass
            float(document["confidence"]),
        ),
        shadow=int(document["shadow"]),
    )

"""Rollouts and what is known of them, to messages; plans back."""

from __future__ import annotations

from google.protobuf import duration_pb2

from loradock.registry import rollout as nouns
from loradock.registry.arm_counts import ArmCounts
from loradock.registry.guards import GuardReport, Guards
from loradock.registry.split import Arm
from loradock.server.services import names
from loradock.server.services.convert_registry import timestamp
from loradock.server.services.fields import seconds_of
from loradock.v1 import rollout_service_pb2 as wire

_STATES = {
    nouns.RolloutState.RUNNING: wire.ROLLOUT_STATE_RUNNING,
    nouns.RolloutState.PAUSED: wire.ROLLOUT_STATE_PAUSED,
    nouns.RolloutState.PROMOTED: wire.ROLLOUT_STATE_PROMOTED,
    nouns.RolloutState.ABORTED: wire.ROLLOUT_STATE_ABORTED,
}


def rollout(noun: nouns.Rollout) -> wire.Rollout:
    """Write a rollout."""
    return wire.Rollout(
        name=names.rollout_name(noun.project, noun.adapter, noun.alias),
        id=noun.id,
        state=_STATES[noun.state],
        incumbent_number=noun.incumbent_number,
        candidate_number=noun.candidate_number,
        stages=[_stage(stage) for stage in noun.plan.stages],
        guards=_guards(noun.plan.guards),
        shadow_basis_points=noun.plan.shadow,
        stage=noun.stage,
        stage_started_at=timestamp(noun.stage_at),
        reason=noun.reason,
        state_reason=noun.state_reason,
        state_by=noun.state_by,
        started_by=noun.started_by,
        started_at=timestamp(noun.started_at),
        ended_at=None if noun.ended_at is None else timestamp(noun.ended_at),
        etag=str(noun.generation) if noun.is_going_on else "",
    )


def standing(noun: nouns.Standing) -> wire.Rollout:
    """Write a rollout with what the servers have seen of it."""
    message = rollout(noun.rollout)
    message.waits_for = noun.decision.why
    message.arms.extend(_arm(arm, noun.arms[arm]) for arm in Arm)
    message.guard_reports.extend(_guard_report(report) for report in noun.decision.guards)
    return message


def _stage(noun: nouns.Stage) -> wire.RolloutStage:
    hold = duration_pb2.Duration()
    hold.FromMicroseconds(round(noun.hold_s * 1e6))
    return wire.RolloutStage(weight_basis_points=noun.weight, hold=hold)


def _guards(noun: Guards) -> wire.RolloutGuards:
    return wire.RolloutGuards(
        max_error_increase=noun.max_error_increase,
        max_latency_ratio=noun.max_latency_ratio,
        min_calls=noun.min_calls,
        confidence=noun.confidence,
    )


def _arm(arm: Arm, counts: ArmCounts) -> wire.ArmReport:
    differed, tokens = counts.num_differed, counts.tokens_before_difference
    return wire.ArmReport(
        arm=arm.value,
        num_calls=counts.num_calls,
        num_errors=counts.num_errors,
        latency_p50_seconds=counts.quantile_s(0.5),
        latency_p95_seconds=counts.quantile_s(0.95),
        num_agreed=counts.num_agreed,
        first_difference_tokens=tokens / differed if differed else None,
        num_dropped=counts.num_dropped,
    )


def _guard_report(noun: GuardReport) -> wire.GuardReport:
    return wire.GuardReport(
        guard=noun.guard,
        state=noun.state.name,
        value=noun.value,
        bound=noun.bound,
        limit=noun.limit,
        message=noun.message,
    )


def read_plan(message: wire.StartRolloutRequest) -> nouns.Plan:
    """Read what a rollout is to do; what is absent is as by default."""
    stages = tuple(
        nouns.Stage(stage.weight_basis_points, seconds_of(f"stages[{index}].hold", stage.hold))
        for index, stage in enumerate(message.stages)
    )
    return nouns.Plan(
        stages=stages or nouns.DEFAULT_STAGES,
        guards=_read_guards(message.guards),
        shadow=message.shadow_basis_points,
    )


def _read_guards(message: wire.RolloutGuards) -> Guards:
    usual = Guards()
    return Guards(
        max_error_increase=(
            message.max_error_increase
            if message.HasField("max_error_increase")
            else usual.max_error_increase
        ),
        max_latency_ratio=(
            message.max_latency_ratio
            if message.HasField("max_latency_ratio")
            else usual.max_latency_ratio
        ),
        min_calls=message.min_calls if message.HasField("min_calls") else usual.min_calls,
        confidence=message.confidence if message.HasField("confidence") else usual.confidence,
    )

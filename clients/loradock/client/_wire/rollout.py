"""Rollouts, from and to messages."""

from __future__ import annotations

from collections.abc import Sequence

from loradock.client._names import part_after
from loradock.client._values import rollout as values
from loradock.client._values.policy import PolicyReport
from loradock.client._wire.built import built
from loradock.client._wire.policy import policy_check_of
from loradock.client._wire.scalars import duration, enum_of, time_of
from loradock.v1 import rollout_service_pb2 as wire


def basis_points(percent: float) -> int:
    """Give a share as the wire has it."""
    return round(percent * 100)


def rollout_of(message: wire.Rollout) -> values.Rollout:
    """Read a rollout."""
    return values.Rollout(
        project=part_after(message.name, "projects"),
        adapter=part_after(message.name, "adapters"),
        alias=part_after(message.name, "aliases"),
        id=message.id,
        state=enum_of(values.RolloutState, wire.RolloutState, message.state, "ROLLOUT_STATE_"),
        incumbent_number=message.incumbent_number,
        candidate_number=message.candidate_number,
        stages=tuple(_stage_of(stage) for stage in message.stages),
        guards=_guards_of(message.guards),
        shadow_percent=message.shadow_basis_points / 100,
        stage=message.stage,
        stage_started_at=time_of(message, "stage_started_at"),
        waits_for=message.waits_for,
        reason=message.reason,
        state_reason=message.state_reason,
        state_by=message.state_by,
        arms=tuple(_arm_of(arm) for arm in message.arms),
        guard_reports=tuple(_guard_report_of(report) for report in message.guard_reports),
        started_by=message.started_by,
        started_at=time_of(message, "started_at"),
        ended_at=time_of(message, "ended_at"),
        etag=message.etag,
    )


def _stage_of(message: wire.RolloutStage) -> values.RolloutStage:
    hold_s = message.hold.seconds + message.hold.nanos / 1e9
    return values.RolloutStage(message.weight_basis_points / 100, hold_s)


def _guards_of(message: wire.RolloutGuards) -> values.RolloutGuards:
    return values.RolloutGuards(
        message.max_error_increase,
        message.max_latency_ratio,
        message.min_calls,
        message.confidence,
    )


def _arm_of(message: wire.ArmReport) -> values.ArmReport:
    p50 = message.latency_p50_seconds if message.HasField("latency_p50_seconds") else None
    p95 = message.latency_p95_seconds if message.HasField("latency_p95_seconds") else None
    tokens = message.first_difference_tokens
    return values.ArmReport(
        arm=message.arm,
        num_calls=message.num_calls,
        num_errors=message.num_errors,
        latency_p50_s=p50,
        latency_p95_s=p95,
        num_agreed=message.num_agreed,
        first_difference_tokens=tokens if message.HasField("first_difference_tokens") else None,
        num_dropped=message.num_dropped,
    )


def _guard_report_of(message: wire.GuardReport) -> values.GuardReport:
    return values.GuardReport(
        guard=message.guard,
        state=message.state,
        value=message.value if message.HasField("value") else None,
        bound=message.bound if message.HasField("bound") else None,
        limit=message.limit,
        message=message.message,
    )


def started_rollout_of(message: wire.StartRolloutResponse) -> values.StartedRollout:
    """Read a rollout as it begins."""
    checks = tuple(policy_check_of(check) for check in message.checks)
    report = PolicyReport(all(check.passed for check in checks), checks)
    return values.StartedRollout(rollout_of(message.rollout), report)


def stage_messages(stages: Sequence[values.RolloutStage]) -> list[wire.RolloutStage]:
    """Write stages."""
    return [
        built(
            wire.RolloutStage,
            weight_basis_points=basis_points(stage.percent),
            hold=duration(stage.hold_s),
        )
        for stage in stages
    ]


def guards_message(guards: values.RolloutGuards) -> wire.RolloutGuards:
    """Write guards; what is None is left to the registry."""
    return built(
        wire.RolloutGuards,
        max_error_increase=guards.max_error_increase,
        max_latency_ratio=guards.max_latency_ratio,
        min_calls=guards.min_calls,
        confidence=guards.confidence,
    )

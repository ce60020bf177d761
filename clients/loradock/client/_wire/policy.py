"""Alias policies, from and to messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from loradock.client._names import part_after
from loradock.client._values import policy as values
from loradock.client._values.evaluation import MetricDirection
from loradock.client._wire.built import built
from loradock.client._wire.scalars import duration, enum_of, time_of
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1 import resources_pb2


def policy_of(message: wire.AliasPolicy) -> values.AliasPolicy:
    """Read a policy."""
    return values.AliasPolicy(
        project=part_after(message.name, "projects"),
        adapter=part_after(message.name, "adapters"),
        alias=part_after(message.name, "aliases"),
        suites=tuple(_suite_of(suite) for suite in message.suites),
        max_age_s=_seconds(message.max_age) if message.HasField("max_age") else None,
        rollback_window_s=_seconds(message.rollback_window),
        etag=message.etag,
        set_by=message.set_by,
        reason=message.reason,
        set_at=time_of(message, "set_at"),
        num_approvals=message.num_approvals,
        is_protected=message.protected,
    )


def approval_of(message: wire.Approval) -> values.Approval:
    """Read somebody's word."""
    return values.Approval(
        version_number=message.version_number,
        approver=message.approver,
        reason=message.reason,
        approved_at=time_of(message, "approved_at"),
    )


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


def _suite_of(message: wire.SuiteDemand) -> values.SuiteDemand:
    return values.SuiteDemand(
        suite=message.suite,
        metrics=tuple(_metric_of(metric) for metric in message.metrics),
        dataset_digest=message.dataset_digest or None,
    )


def _metric_of(message: wire.MetricDemand) -> values.MetricDemand:
    kinds = resources_pb2.MetricDirection
    return values.MetricDemand(
        metric=message.metric,
        threshold=message.threshold if message.HasField("threshold") else None,
        margin=message.margin if message.HasField("margin") else None,
        direction=enum_of(MetricDirection, kinds, message.direction, "METRIC_DIRECTION_"),
    )


def policy_message(
    name: str,
    suites: tuple[values.SuiteDemand, ...],
    max_age_s: float | None,
    rollback_window_s: float | None,
    num_approvals: int,
    is_protected: bool,
) -> wire.AliasPolicy:
    """Write what an alias is to demand."""
    return built(
        wire.AliasPolicy,
        name=name,
        suites=[_suite_message(suite) for suite in suites],
        max_age=None if max_age_s is None else duration(max_age_s),
        rollback_window=None if rollback_window_s is None else duration(rollback_window_s),
        num_approvals=num_approvals,
        protected=is_protected,
    )


def _suite_message(suite: values.SuiteDemand) -> wire.SuiteDemand:
    metrics = [
        built(
            wire.MetricDemand,
            metric=demand.metric,
            threshold=demand.threshold,
            margin=demand.margin,
            direction=resources_pb2.MetricDirection.Value(
                f"METRIC_DIRECTION_{demand.direction.name}"
            ),
        )
        for demand in suite.metrics
    ]
    return built(
        wire.SuiteDemand,
        suite=suite.suite,
        dataset_digest=suite.dataset_digest or "",
        metrics=metrics,
    )


def policy_report_of(message: wire.CheckAliasPolicyResponse) -> values.PolicyReport:
    """Read what a version makes of a policy."""
    return values.PolicyReport(
        passed=message.passed,
        checks=tuple(policy_check_of(check) for check in message.checks),
    )


def policy_check_of(message: wire.PolicyCheck) -> values.PolicyCheck:
    """Read one demand, and how the version meets it."""
    return values.PolicyCheck(
        suite=message.suite,
        metric=message.metric,
        passed=message.passed,
        code=message.code,
        message=message.message,
        value=message.value if message.HasField("value") else None,
        wanted=message.wanted if message.HasField("wanted") else None,
        comparison=_comparison_of(message.comparison) if message.HasField("comparison") else None,
    )


def _comparison_of(told: wire.Comparison) -> values.Comparison:
    kinds, prefix = wire.ComparisonMethod, "COMPARISON_METHOD_"
    method = enum_of(values.ComparisonMethod, kinds, told.method, prefix)
    return values.Comparison(method, told.difference, told.bound, told.num_items)

"""Alias policies and what a version makes of them, to messages and back."""

from __future__ import annotations

from google.protobuf import duration_pb2

from loradock.registry import policy as nouns
from loradock.registry.comparison import Comparison, Method
from loradock.registry.errors import InvalidArgument
from loradock.registry.resources import Direction
from loradock.server.services import names
from loradock.server.services.convert_registry import timestamp
from loradock.server.services.fields import seconds_of
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1 import resources_pb2

_DIRECTIONS = {
    Direction.HIGHER: resources_pb2.METRIC_DIRECTION_HIGHER,
    Direction.LOWER: resources_pb2.METRIC_DIRECTION_LOWER,
}

_METHODS = {
    Method.PAIRED: wire.COMPARISON_METHOD_PAIRED,
    Method.INTERVALS: wire.COMPARISON_METHOD_INTERVALS,
    Method.POINTS: wire.COMPARISON_METHOD_POINTS,
}


def policy(noun: nouns.AliasPolicy) -> wire.AliasPolicy:
    """Write a policy; its etag is its revision as text."""
    demands = noun.demands
    age_s = demands.max_age_s
    return wire.AliasPolicy(
        name=names.policy_name(noun.project, noun.adapter, noun.alias),
        suites=[_suite(suite) for suite in demands.suites],
        max_age=None if age_s is None else _duration(age_s),
        rollback_window=_duration(demands.rollback_window_s),
        etag=str(noun.revision),
        set_by=noun.set_by,
        reason=noun.reason,
        set_at=timestamp(noun.set_at),
        num_approvals=demands.num_approvals,
        protected=demands.is_protected,
    )


def approval(noun: nouns.Approval) -> wire.Approval:
    """Write somebody's word."""
    return wire.Approval(
        version_number=noun.version_number,
        approver=noun.approver,
        reason=noun.reason,
        approved_at=timestamp(noun.approved_at),
    )


def _suite(noun: nouns.SuiteDemand) -> wire.SuiteDemand:
    metrics = [
        wire.MetricDemand(
            metric=demand.metric,
            direction=_DIRECTIONS[demand.direction],
            threshold=demand.threshold,
            margin=demand.margin,
        )
        for demand in noun.metrics
    ]
    return wire.SuiteDemand(
        suite=noun.suite, dataset_digest=noun.dataset_digest or "", metrics=metrics
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    message = duration_pb2.Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def read_demands(message: wire.AliasPolicy) -> nouns.Demands:
    """Read what a policy demands."""
    demands = nouns.Demands(suites=tuple(_read_suite(suite) for suite in message.suites))
    age_s, window_s = None, demands.rollback_window_s
    if message.HasField("max_age"):
        age_s = seconds_of("max_age", message.max_age)
    if message.HasField("rollback_window"):
        window_s = seconds_of("rollback_window", message.rollback_window)
    return nouns.Demands(demands.suites, age_s, window_s, message.num_approvals, message.protected)


def _read_suite(message: wire.SuiteDemand) -> nouns.SuiteDemand:
    return nouns.SuiteDemand(
        suite=message.suite,
        dataset_digest=message.dataset_digest or None,
        metrics=tuple(_read_metric(demand) for demand in message.metrics),
    )


def _read_metric(message: wire.MetricDemand) -> nouns.MetricDemand:
    directions = {value: noun for noun, value in _DIRECTIONS.items()}
    if message.direction not in directions:
        raise InvalidArgument(f"metrics[{message.metric}].direction", "say HIGHER or LOWER")
    return nouns.MetricDemand(
        metric=message.metric,
        direction=directions[message.direction],
        threshold=message.threshold if message.HasField("threshold") else None,
        margin=message.margin if message.HasField("margin") else None,
    )


def report(noun: nouns.GateReport) -> wire.CheckAliasPolicyResponse:
    """Write what a version makes of a policy."""
    return wire.CheckAliasPolicyResponse(passed=noun.passed, checks=checks(noun))


def checks(noun: nouns.GateReport) -> list[wire.PolicyCheck]:
    """Write every demand, met or not."""
    return [
        wire.PolicyCheck(
            suite=check.suite,
            metric=check.metric,
            passed=check.passed,
            code=check.code,
            message=check.message,
            value=check.value,
            wanted=check.wanted,
            comparison=None if check.comparison is None else _comparison(check.comparison),
        )
        for check in noun.checks
    ]


def _comparison(noun: Comparison) -> wire.Comparison:
    return wire.Comparison(
        method=_METHODS[noun.method],
        difference=noun.difference,
        bound=noun.bound,
        num_items=noun.num_items,
    )

"""Small request fields that several services read: page sizes, moments, durations, filters."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf import duration_pb2, timestamp_pb2

from loradock.registry.errors import InvalidArgument
from loradock.registry.search import MetricFilter
from loradock.v1 import registry_service_pb2 as wire

DEFAULT_PAGE_SIZE = 50
MAX_SECONDS = 10 * 365 * 86400


def page_size(given: int) -> int:
    """Give the page size; 0 asks for the default."""
    if given < 0:
        raise InvalidArgument("page_size", "is negative")
    return given or DEFAULT_PAGE_SIZE


def seconds_of(field: str, duration: duration_pb2.Duration) -> float:
    """Read a duration that is not negative."""
    seconds = duration.seconds + duration.nanos / 1e9
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidArgument(field, f"{seconds} s is not a time to wait")
    return seconds


def moment_of(field: str, stamp: timestamp_pb2.Timestamp) -> datetime:
    """Read a moment."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(field, "is no moment that a calendar has") from error


def metric_filter(message: wire.Filter) -> MetricFilter | None:
    """Read a filter on a metric, if there is one."""
    if not message.HasField("metric"):
        return None
    comparisons = {
        wire.METRIC_COMPARISON_AT_LEAST: ">=",
        wire.METRIC_COMPARISON_AT_MOST: "<=",
    }
    metric = message.metric
    if metric.comparison not in comparisons:
        raise InvalidArgument("filter.metric.comparison", "say AT_LEAST or AT_MOST")
    return MetricFilter(metric.suite, metric.metric, comparisons[metric.comparison], metric.value)

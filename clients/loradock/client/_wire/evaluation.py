"""Evaluations and lineage, from and to messages."""

from __future__ import annotations

from loradock.client._names import part_after
from loradock.client._values import evaluation as values
from loradock.client._wire.built import built
from loradock.client._wire.registry import base_digests_of
from loradock.client._wire.scalars import enum_of, time_of
from loradock.v1 import evaluation_service_pb2 as service
from loradock.v1 import resources_pb2 as wire


def evaluation_of(message: wire.Evaluation) -> values.Evaluation:
    """Read an evaluation."""
    number = part_after(message.version, "versions")
    return values.Evaluation(
        project=part_after(message.name, "projects"),
        id=part_after(message.name, "evaluations"),
        suite=message.suite,
        dataset_digest=message.dataset_digest,
        base_model=message.base_model,
        base_digests=base_digests_of(message.base_digests),
        adapter=part_after(message.version, "adapters") or None,
        version_number=int(number) if number else None,
        version_digest=message.version_digest or None,
        metrics=tuple(_metric_of(metric) for metric in message.metrics),
        cost=dict(sorted(message.cost.items())),
        harness=message.harness,
        engine_profile=message.engine_profile,
        created_by=message.created_by,
        created_at=time_of(message, "created_at"),
    )


def _metric_of(message: wire.Metric) -> values.Metric:
    return values.Metric(
        name=message.name,
        value=message.value,
        num_items=message.num_items,
        low=message.low if message.HasField("low") else None,
        high=message.high if message.HasField("high") else None,
        direction=enum_of(
            values.MetricDirection, wire.MetricDirection, message.direction, "METRIC_DIRECTION_"
        ),
    )


def metric_message(metric: values.Metric) -> wire.Metric:
    """Write a metric."""
    return built(
        wire.Metric,
        name=metric.name,
        value=metric.value,
        num_items=metric.num_items,
        low=metric.low,
        high=metric.high,
        direction=wire.MetricDirection.Value(f"METRIC_DIRECTION_{metric.direction.name}"),
    )


def lineage_graph_of(message: service.GetLineageResponse) -> values.LineageGraph:
    """Read what a walk found."""
    return values.LineageGraph(
        root=message.root,
        nodes=tuple(
            values.LineageNode(
                enum_of(values.LineageKind, service.LineageKind, node.kind, "LINEAGE_KIND_"),
                node.id,
                node.label,
            )
            for node in message.nodes
        ),
        edges=tuple(
            values.LineageEdge(
                enum_of(
                    values.LineageKind, service.LineageEdgeKind, edge.kind, "LINEAGE_EDGE_KIND_"
                ),
                edge.child,
                edge.parent,
            )
            for edge in message.edges
        ),
    )

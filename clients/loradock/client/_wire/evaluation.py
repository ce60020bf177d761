"""Evaluations and lineage, from and to messages."""

from __future__ import annotations

from loradock.client._names import part_after
from loradock.client._values import evaluation as values
from loradock.client._values.registry import VersionState
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
        items=_items_of(message) if message.item_ids else None,
    )


def _items_of(message: wire.Evaluation) -> values.ItemScores:
    scores = {told.metric: tuple(told.scores) for told in message.item_scores}
    return values.ItemScores(tuple(message.item_ids), scores)


def item_messages(items: values.ItemScores | None) -> list[wire.ItemScores]:
    """Write what each item was worth."""
    told = {} if items is None else items.scores
    return [built(wire.ItemScores, metric=name, scores=scores) for name, scores in told.items()]


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


def affected_of(message: service.ListAffectedResponse) -> values.Affected:
    """Read what something has come into, and where that answers."""
    return values.Affected(message.root, tuple(map(_affected_version_of, message.versions)))


def _affected_version_of(message: service.AffectedVersion) -> values.AffectedVersion:
    return values.AffectedVersion(
        adapter=part_after(message.name, "adapters"),
        number=int(part_after(message.name, "versions")),
        digest=message.digest,
        state=enum_of(VersionState, wire.VersionState, message.state, "VERSION_STATE_"),
        aliases=tuple(
            values.AffectedAlias(
                part_after(alias.name, "adapters"),
                part_after(alias.name, "aliases"),
                time_of(alias, "left_at"),
            )
            for alias in message.aliases
        ),
        servers=tuple(message.server_ids),
    )

"""Evaluations and lineage graphs to messages and back."""

from __future__ import annotations

from loradock.registry import resources as nouns
from loradock.registry.affected import Affected
from loradock.registry.errors import InvalidArgument
from loradock.server.services import names
from loradock.server.services.convert_registry import (
    STATES,
    base_digests,
    read_base_digests,
    timestamp,
)
from loradock.v1 import evaluation_service_pb2 as lineage_wire
from loradock.v1 import resources_pb2 as wire

_DIRECTIONS = {
    nouns.Direction.HIGHER: wire.METRIC_DIRECTION_HIGHER,
    nouns.Direction.LOWER: wire.METRIC_DIRECTION_LOWER,
}
_NODE_KINDS = {
    nouns.NodeKind.BASE: lineage_wire.LINEAGE_KIND_BASE,
    nouns.NodeKind.VERSION: lineage_wire.LINEAGE_KIND_VERSION,
    nouns.NodeKind.DATASET: lineage_wire.LINEAGE_KIND_DATASET,
    nouns.NodeKind.TRAINING: lineage_wire.LINEAGE_KIND_TRAINING,
}
_EDGE_KINDS = {
    nouns.EdgeKind.BASE: lineage_wire.LINEAGE_EDGE_KIND_BASE,
    nouns.EdgeKind.PARENT: lineage_wire.LINEAGE_EDGE_KIND_PARENT,
    nouns.EdgeKind.DATASET: lineage_wire.LINEAGE_EDGE_KIND_DATASET,
    nouns.EdgeKind.TRAINING: lineage_wire.LINEAGE_EDGE_KIND_TRAINING,
    nouns.EdgeKind.MERGE_OF: lineage_wire.LINEAGE_EDGE_KIND_MERGE_OF,
    nouns.EdgeKind.DISTILLED_FROM: lineage_wire.LINEAGE_EDGE_KIND_DISTILLED_FROM,
}


def evaluation(noun: nouns.Evaluation) -> wire.Evaluation:
    """Write an evaluation."""
    return wire.Evaluation(
        name=names.evaluation_name(noun.project, noun.id),
        suite=noun.suite,
        dataset_digest=noun.dataset_digest,
        base_model=names.base_name(noun.base_name),
        base_digests=base_digests(noun.base_digests),
        version=_version_name(noun),
        version_digest=noun.version_digest or "",
        metrics=[_metric(metric) for metric in noun.metrics],
        cost=dict(noun.cost),
        harness=noun.harness,
        engine_profile=noun.engine_profile,
        created_by=noun.created_by,
        created_at=timestamp(noun.created_at),
        item_ids=noun.items.ids if noun.items else (),
        item_scores=_item_scores(noun.items) if noun.items else (),
    )


def _item_scores(noun: nouns.ItemScores) -> list[wire.ItemScores]:
    return [wire.ItemScores(metric=m, scores=scores) for m, scores in noun.scores.items()]


def read_items(message: wire.Evaluation) -> nouns.ItemScores | None:
    """Read what each item was worth, if that was recorded."""
    if not message.item_ids and not message.item_scores:
        return None
    scores = {told.metric: tuple(told.scores) for told in message.item_scores}
    if len(scores) < len(message.item_scores):
        raise InvalidArgument("item_scores", "a metric is there twice")
    return nouns.ItemScores(tuple(message.item_ids), scores)


def _version_name(noun: nouns.Evaluation) -> str:
    if noun.adapter is None or noun.version_number is None:
        return ""
    return names.version_name(noun.project, noun.adapter, noun.version_number)


def _metric(noun: nouns.Metric) -> wire.Metric:
    return wire.Metric(
        name=noun.name,
        value=noun.value,
        num_items=noun.num_items,
        low=noun.low,
        high=noun.high,
        direction=_DIRECTIONS[noun.direction],
    )


def read_measured_base(message: wire.Evaluation) -> nouns.BaseDigests | None:
    """Read which base was measured exactly, if the caller says."""
    return read_base_digests(message.base_digests) if message.HasField("base_digests") else None


def read_metrics(message: wire.Evaluation) -> tuple[nouns.Metric, ...]:
    """Read what was measured."""
    return tuple(_read_metric(metric) for metric in message.metrics)


def _read_metric(message: wire.Metric) -> nouns.Metric:
    directions = {value: noun for noun, value in _DIRECTIONS.items()}
    if message.direction not in directions:
        raise InvalidArgument(f"metrics[{message.name}].direction", "say HIGHER or LOWER")
    return nouns.Metric(
        name=message.name,
        value=message.value,
        num_items=message.num_items,
        low=message.low if message.HasField("low") else None,
        high=message.high if message.HasField("high") else None,
        direction=directions[message.direction],
    )


def affected(project: str, noun: Affected) -> lineage_wire.ListAffectedResponse:
    """Write what something has come into, and where that answers."""
    return lineage_wire.ListAffectedResponse(
        root=noun.root,
        versions=[
            lineage_wire.AffectedVersion(
                name=names.version_name(project, found.adapter, found.number),
                digest=found.digest,
                state=STATES[found.state],
                aliases=[
                    lineage_wire.AffectedAlias(
                        name=names.alias_name(project, alias.adapter, alias.alias),
                        left_at=timestamp(alias.left_at),
                    )
                    for alias in found.aliases
                ],
                server_ids=found.servers,
            )
            for found in noun.versions
        ],
    )


def lineage_graph(graph: nouns.LineageGraph) -> lineage_wire.GetLineageResponse:
    """Write a lineage graph."""
    return lineage_wire.GetLineageResponse(
        root=graph.root,
        nodes=[
            lineage_wire.LineageNode(kind=_NODE_KINDS[n.kind], id=n.id, label=n.label)
            for n in graph.nodes
        ],
        edges=[
            lineage_wire.LineageEdge(kind=_EDGE_KINDS[e.kind], child=e.child, parent=e.parent)
            for e in graph.edges
        ],
    )

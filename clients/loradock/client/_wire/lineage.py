"""A walk through lineage, as it is asked for."""

from __future__ import annotations

from typing import Any, Literal

from loradock.client._errors import InvalidRequest
from loradock.client._names import base_name, parse_reference, project_name
from loradock.client._wire.built import built
from loradock.v1 import evaluation_service_pb2 as wire


def lineage_request(
    reference: str | None,
    dataset: str | None,
    base: str | None,
    direction: Literal["upstream", "downstream"],
    max_depth: int,
    project: str,
) -> wire.GetLineageRequest:
    """Write a walk; exactly one start is given."""
    project, start = _start(reference, dataset, base, project)
    return built(
        wire.GetLineageRequest,
        parent=project_name(project),
        direction=(
            wire.LINEAGE_DIRECTION_UPSTREAM
            if direction == "upstream"
            else wire.LINEAGE_DIRECTION_DOWNSTREAM
        ),
        max_depth=max_depth,
        **start,
    )


def affected_request(
    reference: str | None, dataset: str | None, base: str | None, project: str
) -> wire.ListAffectedRequest:
    """Write whose descendants are asked for; exactly one start is given."""
    project, start = _start(reference, dataset, base, project)
    return built(wire.ListAffectedRequest, parent=project_name(project), **start)


def _start(
    reference: str | None, dataset: str | None, base: str | None, project: str
) -> tuple[str, dict[str, Any]]:
    if sum(start is not None for start in (reference, dataset, base)) != 1:
        raise InvalidRequest(
            "name one start: a version's reference, dataset='sha256:…' or base='…'",
            reason="INVALID_FIELD",
            metadata={"field": "start"},
        )
    if reference is not None:
        wanted = parse_reference(reference, project)
        return wanted.project, {"reference": wanted.text}
    if dataset is not None:
        return project, {"dataset_digest": dataset}
    return project, {"base_model": base_name(base or "")}

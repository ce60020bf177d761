"""The one transaction in which a version comes to be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from loradock.registry.catalog.adapters import insert_adapter, lock_adapter
from loradock.registry.catalog.bases import id_of
from loradock.registry.catalog.journal import Deed, record_change, record_deed
from loradock.registry.catalog.lineage import Origin, record_lineage
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.possessions import find_gone, record_possession
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.tables import adapters, versions
from loradock.registry.catalog.types import now
from loradock.registry.catalog.versions import all_versions, row_by_number
from loradock.registry.errors import NotAdmitted, NotFound, Problem
from loradock.registry.manifest import Manifest, lineage_to_json, profile_to_json
from loradock.registry.resources import BaseModel, LoraModule, VersionState


@dataclass(frozen=True, slots=True)
class Candidate:
    """An admitted version that waits for its number."""

    project: str
    adapter: str
    digest: str
    manifest: Manifest
    manifest_size: int
    base: BaseModel
    modules: tuple[LoraModule, ...]
    by: str
    yanked: str | None = None  # why, if it is from its first moment
    manifest_born: datetime | None = None  # of its held blob; None: a rehearsal puts no manifest


class ManifestCollected(Exception):
    """The hold on the manifest was too short: put it again."""


def find_twin(c: Connection, project: str, adapter: str, digest: str) -> AnyRow | None:
    """Find the adapter's version of the same content, yanked ones too."""
    return c.execute(
        all_versions(project).where(
            adapters.c.name == adapter,
            versions.c.digest == digest,
            versions.c.state != VersionState.DELETED.value,
        )
    ).one_or_none()


def find_unknown_parents(
    c: Connection, project: str, parents: tuple[str, ...], *, keep: bool = False
) -> list[str]:
    """Find which parents are no version of the project; `keep` holds off their deletion."""
    query = (
        select(versions.c.digest)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(adapters.c.project == project, versions.c.digest.in_(parents))
        .where(versions.c.state != VersionState.DELETED.value)
        .order_by(versions.c.id)
    )
    if keep:
        query = query.with_for_update(read=True, of=versions)
    known = set(c.execute(query).scalars())
    return [parent for parent in parents if parent not in known]


def parent_problems(unknown: list[str]) -> list[Problem]:
    """Say of each parent that it isn't known."""
    return [
        Problem("lineage", "PARENT_UNKNOWN", f"the project has no version {parent}")
        for parent in unknown
    ]


def publish(
    c: Connection, candidate: Candidate, request: Request, *, create_adapter: bool
) -> tuple[AnyRow, bool]:
    """Give the candidate its number, or find its twin; tell whether it is new."""
    project, adapter = candidate.project, candidate.adapter
    earlier = request.earlier_outcome(c)
    if earlier is not None:
        return row_by_number(c, project, adapter, earlier["number"]), earlier["created"]
    if not create_adapter or not insert_adapter(c, project, adapter, candidate.by, {}):
        lock_adapter(c, project, adapter)
    row = find_twin(c, project, adapter, candidate.digest)
    created = row is None
    if row is None:
        row = _insert(c, candidate)
    request.settle(c, number=row.number, created=created)
    return row, created


def _insert(c: Connection, candidate: Candidate) -> AnyRow:
    project, adapter, digest = candidate.project, candidate.adapter, candidate.digest
    parents = candidate.manifest.lineage.versions
    if gone := find_unknown_parents(c, project, parents, keep=True):
        raise NotAdmitted(parent_problems(gone))
    _keep_blobs(c, candidate)
    adapter_id, number = _next_number(c, project, adapter)
    values = {**_row(c, candidate), "adapter_id": adapter_id, "number": number}
    c.execute(insert(versions).values(values))
    if candidate.yanked is not None:
        of_it = (versions.c.adapter_id == adapter_id) & (versions.c.number == number)
        state = {"state": VersionState.YANKED.value, "state_reason": candidate.yanked}
        c.execute(update(versions).where(of_it).values(state))
    label, lineage = f"{adapter}@{number}", candidate.manifest.lineage
    record_lineage(c, Origin(project, digest, label, candidate.base, lineage))
    record_change(c, "version", project, adapter, digest)
    record_deed(c, Deed(project, candidate.by, "version.publish", label, "", {"digest": digest}))
    if candidate.yanked is not None:
        record_deed(c, Deed(project, candidate.by, "version.yank", label, candidate.yanked))
    return row_by_number(c, project, adapter, number)


def _keep_blobs(c: Connection, candidate: Candidate) -> None:
    """Make sure that what the version is made of is there, and stays to the commit."""
    delta, born = candidate.manifest.delta, candidate.manifest_born
    for gone in find_gone(c, candidate.project, (delta.weights, delta.config)):
        raise NotFound("blob", f"{gone.digest} of {gone.size_bytes} bytes")
    if born and not record_possession(c, candidate.project, candidate.digest, born):
        raise ManifestCollected


def _next_number(c: Connection, project: str, adapter: str) -> tuple[int, int]:
    counted = {
        "last_number": adapters.c.last_number + 1,
        "num_versions": adapters.c.num_versions + 1,
    }
    mine = (adapters.c.project == project) & (adapters.c.name == adapter) & ~adapters.c.deleted
    row = c.execute(
        update(adapters)
        .where(mine)
        .values(counted)
        .returning(adapters.c.id, adapters.c.last_number)
    ).one_or_none()
    if row is None:
        raise NotFound("adapter", adapter)
    return row.id, row.last_number


def _row(c: Connection, candidate: Candidate) -> dict[str, object]:
    manifest = candidate.manifest
    weights, config = manifest.delta.weights, manifest.delta.config
    return {
        "digest": candidate.digest,
        "state": VersionState.READY.value,
        "state_reason": "",
        "base_id": id_of(c, candidate.base.name),
        "weights_digest": weights.digest,
        "weights_size": weights.size_bytes,
        "config_digest": config.digest,
        "config_size": config.size_bytes,
        "manifest_size": candidate.manifest_size,
        "profile": profile_to_json(manifest.profile),
        "lineage": lineage_to_json(manifest.lineage),
        "modules": [[m.module, m.rank, m.scaling, m.a_key, m.b_key] for m in candidate.modules],
        "max_rank": max(module.rank for module in candidate.modules),
        "created_by": candidate.by,
        "created_at": now(),
    }

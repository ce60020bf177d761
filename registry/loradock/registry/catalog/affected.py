"""Where the versions that came of something are live, in a bounded number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from loradock.registry.affected import Affected, AffectedAlias, AffectedVersion
from loradock.registry.catalog.fleet import live_heartbeats
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import (
    adapters,
    alias_moves,
    alias_policies,
    alias_splits,
    aliases,
    versions,
)
from loradock.registry.catalog.types import now
from loradock.registry.policy import Demands
from loradock.registry.policy_json import demands_from_json
from loradock.registry.resources import VersionState


def find_affected(c: Connection, project: str, root: str, digests: Select[Any]) -> Affected:
    """Find the versions of some digests, the aliases that answer by them, and the servers."""
    query = (
        select(versions.c.id, versions.c.number, versions.c.digest, versions.c.state)
        .add_columns(adapters.c.name.label("adapter"))
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(adapters.c.project == project, versions.c.digest.in_(digests))
        .where(versions.c.state != VersionState.DELETED.value)
        .order_by(adapters.c.name, versions.c.number)
    )
    found = c.execute(query).all()
    pointing = _aliases(c, project, digests)
    for version_id, alias in _candidacies(c, project, digests):
        pointing.setdefault(version_id, []).append(alias)
    resident = _servers(c, project)
    return Affected(root, tuple(_affected(row, pointing, resident) for row in found))


def _affected(
    row: AnyRow,
    pointing: Mapping[int, Sequence[AffectedAlias]],
    resident: Mapping[str, Sequence[str]],
) -> AffectedVersion:
    return AffectedVersion(
        adapter=row.adapter,
        number=row.number,
        digest=row.digest,
        state=VersionState(row.state),
        aliases=tuple(pointing.get(row.id, ())),
        servers=tuple(resident.get(row.digest, ())),
    )


def _aliases(c: Connection, project: str, digests: Select[Any]) -> dict[int, list[AffectedAlias]]:
    """Find each version's aliases: those that point there, and when the others left."""
    was, then = alias_moves.alias("was"), alias_moves.alias("then")
    follows = and_(then.c.alias_id == was.c.alias_id, then.c.generation == was.c.generation + 1)
    policy = _policies()
    query = (
        select(
            versions.c.id,
            versions.c.number,
            adapters.c.name.label("adapter"),
            aliases.c.name,
            aliases.c.version_id,
            policy.c.demands,
            func.max(then.c.moved_at).label("left_at"),
        )
        .join(was, was.c.version_id == versions.c.id)
        .join(aliases, aliases.c.id == was.c.alias_id)
        .join(adapters, adapters.c.id == aliases.c.adapter_id)
        .outerjoin(then, follows)
        .outerjoin(policy, policy.c.alias_id == aliases.c.id)
        .where(adapters.c.project == project, versions.c.digest.in_(digests))
        .group_by(versions.c.id, versions.c.number, adapters.c.name, aliases.c.name)
        .group_by(aliases.c.version_id, policy.c.demands)
        .order_by(aliases.c.name)
    )
    found: dict[int, list[AffectedAlias]] = defaultdict(list)
    for row in c.execute(query):
        points = row.version_id == row.id
        if points or _is_in_window(row):
            left_at = None if points else row.left_at
            found[row.id].append(AffectedAlias(row.adapter, row.name, row.number, left_at))
    return dict(found)


def _candidacies(
    c: Connection, project: str, digests: Select[Any]
) -> Iterator[tuple[int, AffectedAlias]]:
    """Find the aliases that share their requests out to a version."""
    split = and_(
        alias_splits.c.alias_id == aliases.c.id, alias_splits.c.generation == aliases.c.generation
    )
    query = (
        select(versions.c.id, versions.c.number, adapters.c.name.label("adapter"), aliases.c.name)
        .join(alias_splits, alias_splits.c.candidate_id == versions.c.id)
        .join(aliases, split)
        .join(adapters, adapters.c.id == aliases.c.adapter_id)
        .where(adapters.c.project == project, versions.c.digest.in_(digests))
    )
    for row in c.execute(query):
        yield row.id, AffectedAlias(row.adapter, row.name, row.number, None)


def _policies() -> Any:  # noqa: ANN401 - a subquery, whose type tells nothing
    last = select(alias_policies.c.alias_id, func.max(alias_policies.c.revision).label("revision"))
    last_of = last.group_by(alias_policies.c.alias_id).subquery()
    same = and_(
        alias_policies.c.alias_id == last_of.c.alias_id,
        alias_policies.c.revision == last_of.c.revision,
    )
    return (
        select(alias_policies.c.alias_id, alias_policies.c.demands).join(last_of, same).subquery()
    )


def _is_in_window(row: Any) -> bool:  # noqa: ANN401 - a row of _aliases
    demands = demands_from_json(row.demands) if row.demands else Demands()
    ends_at: bool = row.left_at + timedelta(seconds=demands.rollback_window_s) > now()
    return ends_at


def _servers(c: Connection, project: str) -> dict[str, Sequence[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for beat in live_heartbeats(c):
        held = {
            residency.digest
            for residency in beat.residencies
            if residency.state == "resident" and residency.project in ("", project)
        }
        for digest in sorted(held):
            found[digest].append(beat.server_id)
    return dict(found)

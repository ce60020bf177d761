"""What keeps a version from being deleted."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, FromClause, func, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog.demands import demands_of
from loradock.registry.catalog.fleet import live_heartbeats
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.rollout_rows import all_rollouts
from loradock.registry.catalog.tables import (
    adapters,
    alias_moves,
    aliases,
    lineage_edges,
    rollouts,
    version_holds,
    versions,
)
from loradock.registry.catalog.types import now
from loradock.registry.resources import EdgeKind, VersionState

# How a version comes from another.
_DESCENT = tuple(
    kind.value for kind in (EdgeKind.PARENT, EdgeKind.MERGE_OF, EdgeKind.DISTILLED_FROM)
)


def referrers_of(c: Connection, project: str, row: AnyRow) -> list[str]:
    """Name everything that points at a version."""
    pointing = _aliases(c, row)
    return [
        *pointing.values(),
        *(said for name, said in _windows(c, row).items() if name not in pointing),
        *_rollouts(c, row),
        *_children(c, project, row),
        *_holds(c, row),
        *_servers(c, project, row),
    ]


def _aliases(c: Connection, row: AnyRow) -> dict[str, str]:
    """Name the aliases that point at a version, or would after a rollback."""
    top, beneath = alias_moves.alias("top"), alias_moves.alias("beneath")
    current = (top.c.alias_id == aliases.c.id) & (top.c.generation == aliases.c.generation)
    earlier = (beneath.c.alias_id == aliases.c.id) & (beneath.c.generation == top.c.beneath)
    query = (
        select(aliases.c.name, top.c.version_id)
        .join(top, current)
        .outerjoin(beneath, earlier)
        .where(aliases.c.adapter_id == row.adapter_id)
        .where((top.c.version_id == row.id) | (beneath.c.version_id == row.id))
        .order_by(aliases.c.name)
    )
    return {
        found.name: f"alias {row.adapter}:{found.name}"
        + ("" if found.version_id == row.id else " (a rollback would go there)")
        for found in c.execute(query)
    }


def _windows(c: Connection, row: AnyRow) -> dict[str, str]:
    """Name the aliases that were moved away from the version within their rollback windows."""
    was, then = alias_moves.alias("was"), alias_moves.alias("then")
    follows = (then.c.alias_id == was.c.alias_id) & (then.c.generation == was.c.generation + 1)
    query = (
        select(aliases.c.id, aliases.c.name, func.max(then.c.moved_at).label("left_at"))
        .join(was, was.c.alias_id == aliases.c.id)
        .join(then, follows)
        .where(aliases.c.adapter_id == row.adapter_id, was.c.version_id == row.id)
        .where(then.c.version_id.is_distinct_from(row.id))
        .group_by(aliases.c.id, aliases.c.name)
        .order_by(aliases.c.name)
    )
    found = {}
    for left in c.execute(query):
        ends_at = left.left_at + timedelta(seconds=demands_of(c, left.id).rollback_window_s)
        if ends_at > now():
            until = f"{ends_at:%Y-%m-%d %H:%M} UTC"
            found[left.name] = f"rollback window of {row.adapter}:{left.name} until {until}"
    return found


def _rollouts(c: Connection, row: AnyRow) -> list[str]:
    """Name the rollouts that go on; their incumbent's own rollback lies beneath their split."""
    whole = alias_moves.alias("whole")
    query = (
        all_rollouts()
        .add_columns(whole.c.beneath)
        .join(alias_moves, _at(alias_moves, rollouts.c.generation))
        .join(whole, _at(whole, alias_moves.c.beneath))
        .where(rollouts.c.ended_at.is_(None), aliases.c.adapter_id == row.adapter_id)
    )
    found = []
    for rollout in c.execute(query):
        name = f"{rollout.adapter}:{rollout.alias}"
        if rollout.candidate_id == row.id:
            found.append(f"rollout of {name} (its candidate)")
        elif rollout.beneath and _entry_version(c, rollout) == row.id:
            found.append(f"alias {name} (a rollback would go there after its rollout)")
    return found


def _at(move: FromClause, generation: ColumnElement[int]) -> ColumnElement[bool]:
    return (move.c.alias_id == rollouts.c.alias_id) & (move.c.generation == generation)


def _entry_version(c: Connection, rollout: AnyRow) -> int | None:
    return ledger.entry(c, rollout.alias_id, rollout.beneath).version_id


def _children(c: Connection, project: str, row: AnyRow) -> list[str]:
    query = (
        select(adapters.c.name, versions.c.number)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(lineage_edges, lineage_edges.c.child == versions.c.digest)
        .where(
            adapters.c.project == project,
            versions.c.state != VersionState.DELETED.value,
            lineage_edges.c.project == project,
            lineage_edges.c.parent == row.digest,
            lineage_edges.c.kind.in_(_DESCENT),
        )
        .distinct()
        .order_by(adapters.c.name, versions.c.number)
        .limit(20)
    )
    return [f"child {found.name}@{found.number}" for found in c.execute(query)]


def _holds(c: Connection, row: AnyRow) -> list[str]:
    lasting = version_holds.c.expires_at.is_(None) | (version_holds.c.expires_at > now())
    query = select(version_holds).where(version_holds.c.version_id == row.id, lasting)
    return [
        f"hold of {hold.held_by}"
        + ("" if hold.expires_at is None else f" until {hold.expires_at:%Y-%m-%d %H:%M} UTC")
        + f": {hold.reason}"
        for hold in c.execute(query)
    ]


def _servers(c: Connection, project: str, row: AnyRow) -> list[str]:
    return [
        f"server {beat.server_id}"
        for beat in live_heartbeats(c)
        if any(told.is_of(project, row.adapter, row.digest) for told in beat.residencies)
    ]

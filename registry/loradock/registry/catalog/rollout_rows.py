"""The rows of rollouts, and what every move of an alias does to them.

A rollout goes on exactly as long as the alias's last move is its own: whoever moves the alias, or
yanks the candidate, ends it in the same transaction.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, select, update

from loradock.registry.catalog import ledger
from loradock.registry.catalog.journal import Deed, record_change, record_deed
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import adapters, aliases, rollouts, versions
from loradock.registry.catalog.types import now
from loradock.registry.errors import NotFound
from loradock.registry.resources import MoveKind
from loradock.registry.rollout import Rollout, RolloutState, plan_from_json


def all_rollouts() -> Select[Any]:
    """Select rollouts with the names and numbers that a row itself lacks."""
    incumbent, candidate = versions.alias("incumbent"), versions.alias("candidate")
    return (
        select(
            rollouts,
            adapters.c.project,
            adapters.c.name.label("adapter"),
            aliases.c.name.label("alias"),
            incumbent.c.number.label("incumbent_number"),
            candidate.c.number.label("candidate_number"),
            candidate.c.digest.label("candidate_digest"),
        )
        .join(aliases, aliases.c.id == rollouts.c.alias_id)
        .join(adapters, adapters.c.id == aliases.c.adapter_id)
        .join(incumbent, incumbent.c.id == rollouts.c.incumbent_id)
        .join(candidate, candidate.c.id == rollouts.c.candidate_id)
    )


def read_rollout(row: AnyRow) -> Rollout:
    """Make a rollout of a row of `all_rollouts`."""
    return Rollout(
        id=row.id,
        project=row.project,
        adapter=row.adapter,
        alias=row.alias,
        state=RolloutState(row.state),
        plan=plan_from_json(row.plan),
        incumbent_number=row.incumbent_number,
        candidate_number=row.candidate_number,
        candidate_digest=row.candidate_digest,
        stage=row.stage,
        stage_at=row.stage_at,
        generation=row.generation,
        reason=row.reason,
        state_reason=row.state_reason or "",
        state_by=row.state_by or "",
        started_by=row.started_by,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def last_of(c: Connection, project: str, adapter: str, alias: str) -> AnyRow:
    """Find the rollout of an alias that goes on, or else the last one."""
    # By generation: the clocks of the processes that began them may disagree.
    query = _all_of(project, adapter, alias).order_by(rollouts.c.generation.desc()).limit(1)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound("rollout", f"{adapter}:{alias}")
    return row


def _all_of(project: str, adapter: str, alias: str) -> Select[Any]:
    return all_rollouts().where(
        adapters.c.project == project, adapters.c.name == adapter, aliases.c.name == alias
    )


def by_id(c: Connection, rollout_id: str) -> AnyRow:
    """Find a rollout."""
    return c.execute(all_rollouts().where(rollouts.c.id == rollout_id)).one()


def going_on(c: Connection, alias_id: int) -> AnyRow | None:
    """Find the rollout of an alias that has not ended."""
    query = all_rollouts().where(rollouts.c.alias_id == alias_id, rollouts.c.ended_at.is_(None))
    return c.execute(query).one_or_none()


def change_rollout(c: Connection, row: AnyRow, **values: object) -> None:
    """Change a rollout's row."""
    c.execute(update(rollouts).where(rollouts.c.id == row.id).values(values))


def bring_to(
    c: Connection, row: AnyRow, state: RolloutState, by: str, reason: str, **more: object
) -> None:
    """Bring a rollout into a state; its row keeps why, and who did it."""
    change_rollout(c, row, state=state.value, state_reason=reason, state_by=by, **more)


def end_rollout(
    c: Connection, row: AnyRow, state: RolloutState, by: str, reason: str, **details: str
) -> None:
    """Let a rollout end, and tell the audit log."""
    bring_to(c, row, state, by, reason, ended_at=now())
    verb = "promote" if state is RolloutState.PROMOTED else "abort"
    tell(c, row, f"rollout.{verb}", by, reason, **details)


def end_of_moved(c: Connection, top: ledger.Entry, to: int | None, by: str, kind: MoveKind) -> None:
    """End the rollout of an alias that somebody moved himself."""
    row = going_on(c, top.alias_id) if top.is_split else None
    if row is not None:
        reached = to == row.candidate_id
        state = RolloutState.PROMOTED if reached else RolloutState.ABORTED
        end_rollout(c, row, state, by, f"the alias was moved by {by} ({kind.value})")


def abort_of_yanked(c: Connection, version: AnyRow, by: str, reason: str) -> None:
    """Give all requests back to the incumbent where a yanked version is the candidate."""
    query = all_rollouts().where(
        rollouts.c.candidate_id == version.id, rollouts.c.ended_at.is_(None)
    )
    for row in c.execute(query).all():
        why = f"the candidate was yanked: {reason or 'no reason given'}"
        abort_rollout(c, row, by, why)


def abort_rollout(c: Connection, row: AnyRow, by: str, reason: str, **details: str) -> None:
    """Take the split from the alias. The adapter must be locked."""
    top = ledger.entry(c, row.alias_id, row.generation)
    whole = ledger.unsplit(c, top)
    why = f"the rollout was aborted: {reason or 'no reason given'}"
    kind, version_id = MoveKind.ROLLBACK, whole.version_id
    generation = ledger.append(c, top, kind, version_id, whole.beneath, by, why)
    record_change(c, "alias", row.project, row.adapter, row.alias)
    details |= {"generation": str(generation)}
    end_rollout(c, row, RolloutState.ABORTED, by, reason, **details)


def tell(
    c: Connection, row: AnyRow, action: str, by: str, reason: str = "", **details: str
) -> None:
    """Write into the audit log what became of a rollout."""
    facts = {"rollout": row.id, "candidate": f"{row.adapter}@{row.candidate_number}", **details}
    resource = f"{row.adapter}:{row.alias}"
    record_deed(c, Deed(row.project, by, action, resource, reason, facts))

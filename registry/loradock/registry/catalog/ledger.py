"""An alias's ledger: append-only, each entry pointing at the entry beneath it.

generation  kind      version  beneath
1           set       v1       -
2           set       v2       1
3           set       v3       2
4           rollback  v2       1         what generation 2 said, with what lay beneath it
5           rollback  v1       -         twice walks back twice; it never toggles
6           set       v3       5
7           split     v3       6         a share goes to a candidate; a rollback ends the split
8           split     v3       6
9           set       v4       6         past the splits
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    insert,
    select,
    update,
)

from loradock.registry.catalog.adapters import lock_adapter
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import (
    adapters,
    alias_moves,
    alias_splits,
    aliases,
    versions,
)
from loradock.registry.catalog.types import insert_new, now
from loradock.registry.errors import NotFound
from loradock.registry.resources import Alias, AliasMove, MoveKind
from loradock.registry.split import Split

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger's entry. Generation 0 stands for the empty ledger's ground."""

    alias_id: int
    generation: int
    kind: MoveKind
    version_id: int | None
    beneath: int | None
    moved_at: datetime

    @property
    def is_split(self) -> bool:
        """Whether a candidate has a share."""
        return self.kind is MoveKind.SPLIT

    @property
    def live_generation(self) -> int:
        """The generation that a caller has to expect: 0 if the alias doesn't exist."""
        return 0 if self.version_id is None else self.generation


def lock_top(c: Connection, project: str, adapter: str, name: str) -> Entry:
    """Find the last entry of an alias that may not exist yet, and keep others from appending."""
    adapter_id = lock_adapter(c, project, adapter).id
    insert_new(c, aliases, {"adapter_id": adapter_id, "name": name, "generation": 0})
    row = c.execute(
        select(aliases).where(aliases.c.adapter_id == adapter_id, aliases.c.name == name)
    ).one()
    return top_of(c, row)


def top_of(c: Connection, row: AnyRow) -> Entry:
    """Find the last entry of an alias's row."""
    if row.generation == 0:
        return Entry(row.id, 0, MoveKind.DELETE, None, None, now() - _TICK)
    return entry(c, row.id, row.generation)


def entry(c: Connection, alias_id: int, generation: int) -> Entry:
    """Find one entry."""
    row = c.execute(
        select(alias_moves, alias_splits.c.salt)
        .outerjoin(alias_splits, _splits(alias_moves))
        .where(alias_moves.c.alias_id == alias_id, alias_moves.c.generation == generation)
    ).one()
    return Entry(alias_id, generation, _kind(row), row.version_id, row.beneath, row.moved_at)


def _splits(move: FromClause) -> ColumnElement[bool]:
    return (alias_splits.c.alias_id == move.c.alias_id) & (
        alias_splits.c.generation == move.c.generation
    )


def _kind(row: AnyRow) -> MoveKind:
    return MoveKind(row.kind) if row.salt is None else MoveKind.SPLIT


def append(
    c: Connection,
    top: Entry,
    kind: MoveKind,
    version_id: int | None,
    beneath: int | None,
    by: str,
    reason: str,
    split: Split | None = None,
    candidate_id: int | None = None,
) -> int:
    """Append an entry and let the alias point there; give its generation."""
    generation = top.generation + 1
    c.execute(
        insert(alias_moves).values(
            alias_id=top.alias_id,
            generation=generation,
            kind=(MoveKind.SET if split else kind).value,
            version_id=version_id,
            beneath=beneath,
            moved_by=by,
            reason=reason,
            moved_at=max(now(), top.moved_at + _TICK),  # a clock set back can't reorder history
        )
    )
    if split is not None:
        c.execute(
            insert(alias_splits).values(
                alias_id=top.alias_id,
                generation=generation,
                candidate_id=candidate_id,
                weight=split.weight,
                shadow=split.shadow,
                salt=split.salt,
            )
        )
    c.execute(
        update(aliases)
        .where(aliases.c.id == top.alias_id)
        .values(generation=generation, version_id=version_id)
    )
    return generation


def beneath_of_set(c: Connection, top: Entry, version_id: int) -> int | None:
    """Say where a rollback of a set goes: past splits, and entries of the same version."""
    if top.version_id is None:
        return None
    whole = unsplit(c, top)
    return whole.beneath if whole.version_id == version_id else whole.generation


def unsplit(c: Connection, top: Entry) -> Entry:
    """Give the entry that a split was laid on; any other is its own."""
    return entry(c, top.alias_id, top.beneath) if top.is_split and top.beneath else top


def left_at(c: Connection, alias_id: int, generation: int) -> datetime:
    """Tell when an alias was moved away from an entry."""
    query = (
        select(alias_moves.c.moved_at)
        .outerjoin(alias_splits, _splits(alias_moves))
        .where(alias_moves.c.alias_id == alias_id, alias_moves.c.generation > generation)
        .where(alias_splits.c.salt.is_(None))
        .order_by(alias_moves.c.generation)
        .limit(1)
    )
    found: datetime | None = c.execute(query).scalar_one_or_none()
    return found or now()


def alias_id(c: Connection, project: str, adapter: str, name: str) -> int:
    """Find an alias that exists or has existed."""
    found = c.execute(
        select(aliases.c.id)
        .join(adapters, adapters.c.id == aliases.c.adapter_id)
        .where(adapters.c.project == project, adapters.c.name == adapter)
        .where(aliases.c.name == name, aliases.c.generation > 0)
    ).scalar_one_or_none()
    if found is None:
        raise NotFound("alias", f"{adapter}:{name}")
    return int(found)


def moves() -> Select[Any]:
    """Select ledger entries with the version they point at."""
    candidate = versions.alias("candidate")
    return (
        select(
            alias_moves,
            versions.c.number.label("version_number"),
            versions.c.digest,
            *_split_columns(candidate),
        )
        .outerjoin(versions, versions.c.id == alias_moves.c.version_id)
        .outerjoin(alias_splits, _splits(alias_moves))
        .outerjoin(candidate, candidate.c.id == alias_splits.c.candidate_id)
    )


def _split_columns(candidate: FromClause) -> tuple[ColumnElement[Any], ...]:
    return (
        candidate.c.number.label("candidate_number"),
        candidate.c.digest.label("candidate_digest"),
        alias_splits.c.weight,
        alias_splits.c.shadow,
        alias_splits.c.salt,
    )


def read_move(row: AnyRow) -> AliasMove:
    """Make a move of a row of `moves`."""
    return AliasMove(
        generation=row.generation,
        kind=_kind(row),
        version_number=row.version_number,
        version_digest=row.digest,
        moved_by=row.moved_by,
        reason=row.reason,
        moved_at=row.moved_at,
        split=_read_split(row),
    )


def _read_split(row: AnyRow) -> Split | None:
    if row.salt is None:
        return None
    return Split(row.candidate_number, row.candidate_digest, row.weight, row.shadow, row.salt)


def standing(project: str, generation: int | None = None) -> Select[Any]:
    """Select aliases as they stand, or as they stood at a generation."""
    top, beneath = alias_moves.alias("top"), alias_moves.alias("beneath")
    at, earlier = versions.alias("at"), versions.alias("earlier")
    candidate = versions.alias("candidate")
    when = aliases.c.generation if generation is None else generation
    return (
        select(
            adapters.c.project,
            adapters.c.name.label("adapter"),
            aliases.c.id,
            aliases.c.name,
            top.c.generation,
            top.c.moved_by,
            top.c.moved_at,
            at.c.id.label("version_id"),
            at.c.number.label("version_number"),
            at.c.digest.label("version_digest"),
            earlier.c.number.label("previous_number"),
            earlier.c.digest.label("previous_digest"),
            *_split_columns(candidate),
        )
        .join(adapters, adapters.c.id == aliases.c.adapter_id)
        .join(top, (top.c.alias_id == aliases.c.id) & (top.c.generation == when))
        .join(at, at.c.id == top.c.version_id)
        .outerjoin(
            beneath, (beneath.c.alias_id == aliases.c.id) & (beneath.c.generation == top.c.beneath)
        )
        .outerjoin(earlier, earlier.c.id == beneath.c.version_id)
        .outerjoin(alias_splits, _splits(top))
        .outerjoin(candidate, candidate.c.id == alias_splits.c.candidate_id)
        .where(adapters.c.project == project)
    )


def read_alias(row: AnyRow) -> Alias:
    """Make an alias of a row of `standing`."""
    return Alias(
        project=row.project,
        adapter=row.adapter,
        name=row.name,
        version_number=row.version_number,
        version_digest=row.version_digest,
        previous_number=row.previous_number,
        previous_digest=row.previous_digest,
        generation=row.generation,
        moved_by=row.moved_by,
        moved_at=row.moved_at,
        split=_read_split(row),
    )

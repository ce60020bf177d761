"""What of the catalog's blobs nothing refers to, and how a row goes: see `possessions.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.tables import adapters, blobs, possessions, versions
from loradock.registry.catalog.types import insert_new, now
from loradock.registry.resources import BlobRef, VersionState
from loradock.registry.steps import reached

_PAGE = 500


def unreferenced(database: Database, before: datetime) -> Iterator[BlobRef]:
    """Find blobs that no version has, and that nobody held since, in the order of digests."""
    after = ""
    while True:
        query = select(blobs.c.digest, blobs.c.size_bytes).where(
            blobs.c.digest > after, _is_loose(before)
        )
        with database.read() as c:
            rows = c.execute(query.order_by(blobs.c.digest).limit(_PAGE)).all()
        yield from (BlobRef(row.digest, row.size_bytes) for row in rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1].digest


def lapsed(database: Database, before: datetime) -> Iterator[tuple[str, BlobRef]]:
    """Find projects that have a blob that only others' versions still have."""
    after = ("", "")
    key = (possessions.c.digest, possessions.c.project)
    while True:
        query = (
            select(*key, blobs.c.size_bytes)
            .join(blobs, blobs.c.digest == possessions.c.digest)
            .where(_follows(after), _is_lapsed(before), _is_referred())
        )
        with database.read() as c:
            rows = c.execute(query.order_by(*key).limit(_PAGE)).all()
        yield from ((row.project, BlobRef(row.digest, row.size_bytes)) for row in rows)
        if len(rows) < _PAGE:
            return
        after = (rows[-1].digest, rows[-1].project)


def _follows(after: tuple[str, str]) -> ColumnElement[bool]:
    digest, project = after
    same = and_(possessions.c.digest == digest, possessions.c.project > project)
    return or_(possessions.c.digest > digest, same)


def drop_possession(database: Database, project: str, digest: str, before: datetime) -> bool:
    """Forget that a project has a blob, unless something changed meanwhile."""
    mine = and_(possessions.c.project == project, possessions.c.digest == digest)

    def work(c: Connection) -> bool:
        if not _lock(c, digest):
            return False
        joined = select(possessions.c.digest).join(blobs, blobs.c.digest == possessions.c.digest)
        if c.execute(joined.where(mine, _is_lapsed(before))).first() is None:
            return False
        c.execute(delete(possessions).where(mine))
        return True

    return database.write(work, nudge=False)


def reclaim(
    database: Database, digest: str, before: datetime, take_bytes: Callable[[str], None]
) -> bool:
    """Take a blob's bytes and its row away, unless something changed meanwhile.

    First nobody has it any more; then the bytes go, and only then the row: what is killed in
    between is found, and finished, by the next run.
    """
    mine = and_(blobs.c.digest == digest, _is_loose(before))

    def forget(c: Connection) -> bool:
        if not _lock(c, digest) or c.execute(select(blobs.c.digest).where(mine)).first() is None:
            return False
        c.execute(delete(possessions).where(possessions.c.digest == digest))
        return True

    def take(c: Connection) -> bool:
        if not _lock(c, digest):
            return False
        had = exists().where(possessions.c.digest == blobs.c.digest)
        if c.execute(select(blobs.c.digest).where(mine, ~had)).first() is None:
            return False
        take_bytes(digest)
        reached("gc.bytes_gone")
        c.execute(delete(blobs).where(blobs.c.digest == digest))
        return True

    if not database.write(forget, nudge=False):
        return False
    reached("gc.forgotten")
    taken = database.write(take, nudge=False)
    reached("gc.reclaimed")
    return taken


def reclaim_stranger(database: Database, digest: str, take_bytes: Callable[[str], None]) -> bool:
    """Take bytes away that no row speaks of, unless somebody holds them by now."""
    at = now()
    row = {"digest": digest, "size_bytes": 0, "created_at": at, "held_at": at}

    def work(c: Connection) -> bool:
        if not insert_new(c, blobs, row):
            return False
        take_bytes(digest)
        c.execute(delete(blobs).where(blobs.c.digest == digest))
        return True

    return database.write(work, nudge=False)


def known_digests(c: Connection, digests: Sequence[str]) -> set[str]:
    """Find which digests have a row."""
    return set(c.execute(select(blobs.c.digest).where(blobs.c.digest.in_(digests))).scalars())


def _lock(c: Connection, digest: str) -> bool:
    # A statement of its own: what is asked afterwards sees what others committed before this.
    mine = select(blobs.c.digest).where(blobs.c.digest == digest).with_for_update()
    return c.execute(mine).first() is not None


def _is_loose(before: datetime) -> ColumnElement[bool]:
    return and_(_was_held_before(before), ~_is_referred())


def _is_lapsed(before: datetime) -> ColumnElement[bool]:
    own = select(versions.c.id).join(adapters, adapters.c.id == versions.c.adapter_id)
    own = own.where(adapters.c.project == possessions.c.project, _has_blob())
    return and_(_was_held_before(before), ~own.exists())


def _was_held_before(before: datetime) -> ColumnElement[bool]:
    held: ColumnElement[bool] = func.coalesce(blobs.c.held_at, blobs.c.created_at) < before
    return held


def _is_referred() -> ColumnElement[bool]:
    # Three conditions of their own, so that each finds its index.
    states = versions.c.state != VersionState.DELETED.value
    columns = (versions.c.digest, versions.c.weights_digest, versions.c.config_digest)
    return or_(*(exists().where(column == blobs.c.digest, states) for column in columns))


def _has_blob() -> ColumnElement[bool]:
    states = versions.c.state != VersionState.DELETED.value
    columns = (versions.c.digest, versions.c.weights_digest, versions.c.config_digest)
    return and_(states, or_(*(column == possessions.c.digest for column in columns)))

"""Which blobs there are, which projects have sent them, and what keeps garbage collection away.

A blob's row comes before its bytes: who is about to send bytes holds the row first. Garbage
collection takes bytes away only under the row's lock, and only if nobody held the row for a while;
so bytes that are found, or were put, while a row is held stay until they are referred to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from loradock.registry.catalog.tables import blobs, possessions
from loradock.registry.catalog.types import insert_new, now, upsert
from loradock.registry.resources import BlobRef


@dataclass(frozen=True, slots=True)
class Held:
    """A row that is held."""

    born: datetime  # the moment of the row's birth
    is_damaged: bool  # the bytes are not what they should be


def hold(c: Connection, ref: BlobRef) -> Held:
    """Keep a blob from being collected for a while."""
    at = now()
    row = {"digest": ref.digest, "size_bytes": ref.size_bytes, "created_at": at, "held_at": at}
    held = upsert(c, blobs, row, {"held_at": at})
    return Held(held.created_at, held.damaged_at is not None)


def mark_damaged(c: Connection, digest: str) -> None:
    """Note that a blob's bytes are corrupt or gone: who has them is asked to send them again."""
    c.execute(update(blobs).where(blobs.c.digest == digest).values(damaged_at=now()))


def mark_whole(c: Connection, digest: str) -> None:
    """Note that a blob's bytes are what they should be (again)."""
    c.execute(update(blobs).where(blobs.c.digest == digest).values(damaged_at=None))


def is_damaged(c: Connection, digest: str) -> bool:
    """Tell whether a blob was found damaged and not yet sent again."""
    damaged = (blobs.c.digest == digest) & blobs.c.damaged_at.is_not(None)
    return c.execute(select(blobs.c.digest).where(damaged)).first() is not None


def record_possession(c: Connection, project: str, digest: str, born: datetime) -> bool:
    """Note that a project has sent (or the registry made for it) what it held.

    False if the hold was too short, and the bytes may be gone: hold, and put them, again.
    """
    mine = (blobs.c.digest == digest) & (blobs.c.created_at == born)
    if c.execute(update(blobs).where(mine).values(held_at=now())).rowcount == 0:
        return False
    insert_new(c, possessions, {"project": project, "digest": digest, "since": now()})
    return True


def hold_possessed(c: Connection, project: str, digests: Collection[str]) -> dict[str, int]:
    """Find which of the blobs a project has undamaged, with their sizes, and hold those."""
    sent = select(possessions.c.digest).where(
        possessions.c.project == project, possessions.c.digest.in_(digests)
    )
    c.execute(update(blobs).where(blobs.c.digest.in_(sent)).values(held_at=now()))
    found = possessed(c, project, digests)  # of which none can go any more: the rows are locked
    damaged = (blobs.c.digest.in_(list(found))) & blobs.c.damaged_at.is_not(None)
    for row in c.execute(select(blobs.c.digest).where(damaged)):
        del found[row.digest]
    return found


def find_gone(c: Connection, project: str, refs: Iterable[BlobRef]) -> list[BlobRef]:
    """Find which blobs a project does not have (any more); the others stay to the commit."""
    wanted = list(refs)
    digests = sorted({ref.digest for ref in wanted})
    locked = select(blobs.c.digest).where(blobs.c.digest.in_(digests)).order_by(blobs.c.digest)
    c.execute(locked.with_for_update(read=True)).all()
    known = possessed(c, project, digests)
    return [ref for ref in wanted if known.get(ref.digest) != ref.size_bytes]


def possessed(c: Connection, project: str, digests: Iterable[str]) -> dict[str, int]:
    """Find which of the blobs a project has, with their sizes."""
    query = (
        select(blobs.c.digest, blobs.c.size_bytes)
        .join(possessions, possessions.c.digest == blobs.c.digest)
        .where(possessions.c.project == project, blobs.c.digest.in_(list(digests)))
    )
    return {row.digest: row.size_bytes for row in c.execute(query)}

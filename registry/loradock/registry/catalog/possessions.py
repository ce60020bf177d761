"""Which blobs there are, and which projects have sent them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from loradock.registry.catalog.tables import blobs, possessions
from loradock.registry.catalog.types import insert_new, now
from loradock.registry.resources import BlobRef


def record_possession(c: Connection, project: str, ref: BlobRef) -> None:
    """Note that a project has sent (or the registry made for it) these bytes."""
    row = {"digest": ref.digest, "size_bytes": ref.size_bytes, "created_at": now()}
    insert_new(c, blobs, row)
    insert_new(c, possessions, {"project": project, "digest": ref.digest, "since": now()})


def possessed(c: Connection, project: str, digests: Iterable[str]) -> dict[str, int]:
    """Find which of the blobs a project has, with their sizes."""
    query = (
        select(blobs.c.digest, blobs.c.size_bytes)
        .join(possessions, possessions.c.digest == blobs.c.digest)
        .where(possessions.c.project == project, blobs.c.digest.in_(list(digests)))
    )
    return {row.digest: row.size_bytes for row in c.execute(query)}

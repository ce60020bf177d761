"""Holds what is stored against what the catalog says: every byte is read and hashed again."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, or_, select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.possessions import mark_damaged, mark_whole
from loradock.registry.catalog.tables import adapters, blobs, possessions, versions
from loradock.registry.catalog.types import now
from loradock.registry.errors import NotFound
from loradock.registry.garbage import strangers
from loradock.registry.resources import BlobRef, VersionState
from loradock.registry.stores import BlobStore

_PAGE = 100
_MAX_REFERRERS = 20


class DamageKind(enum.Enum):
    """What is wrong with stored bytes."""

    CORRUPT = "corrupt"  # they do not hash to their name
    MISSING = "missing"  # the catalog speaks of them, and they are not there
    ORPHAN = "orphan"  # the catalog does not speak of them; garbage collection takes them
    STRANGER = "stranger"  # no blob would be called so; nobody touches it


@dataclass(frozen=True, slots=True)
class Damage:
    """One object that is not as the catalog says."""

    kind: DamageKind
    name: str  # a digest, or a stranger's key
    detail: str
    referrers: tuple[str, ...] = ()  # "acme/support-triage@2"; the first ones


@dataclass(frozen=True, slots=True)
class Verified:
    """How far a verification is, and what it found since it last told."""

    num_blobs: int
    size_bytes: int
    damages: tuple[Damage, ...]


class Integrity:
    """Finds flipped bytes, and what is missing or nobody's.

    It touches no bytes; it notes which blobs are damaged, so that who pushes them again is asked
    for their bytes, and those replace the damaged ones.
    """

    def __init__(self, database: Database, store: BlobStore) -> None:
        self._database = database
        self._store = store

    def verify(self) -> Iterator[Verified]:
        """Read everything; tell after each page how far it is. Sums go on from page to page."""
        num_blobs, size_bytes, begun = 0, 0, now()
        for known in self._pages():
            damages = tuple(damage for ref, noted in known if (damage := self._damage(ref, noted)))
            num_blobs += len(known)
            size_bytes += sum(ref.size_bytes for ref, _ in known)
            yield Verified(num_blobs, size_bytes, damages)
        yield Verified(num_blobs, size_bytes, tuple(self._strangers(begun)))

    def _pages(self) -> Iterator[list[tuple[BlobRef, bool]]]:
        """Give all blobs, and whether damage of them was noted."""
        after = ""
        while True:
            query = select(blobs).where(blobs.c.digest > after)
            with self._database.read() as c:
                rows = c.execute(query.order_by(blobs.c.digest).limit(_PAGE)).all()
            yield [
                (BlobRef(row.digest, row.size_bytes), row.damaged_at is not None) for row in rows
            ]
            if len(rows) < _PAGE:
                return
            after = rows[-1].digest

    def _damage(self, ref: BlobRef, noted: bool) -> Damage | None:
        damage = self._found_damage(ref)
        if noted != (damage is not None):
            mark = mark_damaged if damage else mark_whole
            self._database.write(lambda c: mark(c, ref.digest), nudge=False)
        return damage

    def _found_damage(self, ref: BlobRef) -> Damage | None:
        try:
            found = self._hashed(ref.digest)
        except NotFound:
            return self._missing(ref)
        if found == ref:
            return None
        detail = f"its bytes hash to {found.digest}"
        if found.size_bytes != ref.size_bytes:
            detail = (
                f"has {found.size_bytes} bytes, not {ref.size_bytes}; they hash to {found.digest}"
            )
        with self._database.read() as c:
            return Damage(DamageKind.CORRUPT, ref.digest, detail, _referrers(c, ref.digest))

    def _hashed(self, digest: str) -> BlobRef:
        sha256, size_bytes = hashlib.sha256(), 0
        for chunk in self._store.read(digest):
            sha256.update(chunk)
            size_bytes += len(chunk)
        return BlobRef(f"sha256:{sha256.hexdigest()}", size_bytes)

    def _missing(self, ref: BlobRef) -> Damage | None:
        """Tell a blob that somebody has; a row alone is an upload that goes on, or broke off."""
        had = select(possessions.c.digest).where(possessions.c.digest == ref.digest)
        with self._database.read() as c:
            referrers = _referrers(c, ref.digest)
            if not referrers and c.execute(had.limit(1)).first() is None:
                return None
        detail = f"{ref.size_bytes} bytes are not in the store"
        return Damage(DamageKind.MISSING, ref.digest, detail, referrers)

    def _strangers(self, begun: datetime) -> Iterator[Damage]:
        for found in strangers(self._database, self._store, begun):
            detail = f"{found.size_bytes} bytes, last changed at {found.modified_at.isoformat()}"
            if found.digest is None:
                yield Damage(DamageKind.STRANGER, found.key, detail)
            else:
                yield Damage(DamageKind.ORPHAN, found.digest, detail)


def _referrers(c: Connection, digest: str) -> tuple[str, ...]:
    columns = (versions.c.digest, versions.c.weights_digest, versions.c.config_digest)
    query = (
        select(adapters.c.project, adapters.c.name, versions.c.number)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(
            and_(
                versions.c.state != VersionState.DELETED.value,
                or_(*(column == digest for column in columns)),
            )
        )
        .order_by(adapters.c.project, adapters.c.name, versions.c.number)
        .limit(_MAX_REFERRERS)
    )
    return tuple(f"{row.project}/{row.name}@{row.number}" for row in c.execute(query))

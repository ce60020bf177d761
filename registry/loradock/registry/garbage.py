"""Garbage collection: takes away what nothing refers to, beside everything that goes on.

Safe beside uploads and publishes: see `catalog/possessions.py`. Killed at any moment, it leaves
nothing that the next run does not find.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, islice

from loradock.registry.catalog import sweep
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.retention import Retention, check_retention, expired
from loradock.registry.catalog.types import now
from loradock.registry.catalog.versions import VersionTable
from loradock.registry.errors import InvalidArgument, NotFound, StillReferenced
from loradock.registry.names import check_name, check_text
from loradock.registry.stores import BlobStore, StoredObject

DEFAULT_GRACE_S = 86_400.0
MAX_GRACE_S = 10 * 365 * 86_400.0
_BATCH = 500


class GarbageKind(enum.Enum):
    """What was left over."""

    BLOB = "blob"  # bytes that no version has
    POSSESSION = "possession"  # a project's claim to bytes that only other projects' versions have
    ORPHAN = "orphan"  # bytes that the catalog never heard of
    UNFINISHED = "unfinished"  # a write that was begun and never ended
    VERSION = "version"  # one that the retention does not keep; its bytes go with a later run


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that was, or would be, taken away."""

    kind: GarbageKind
    name: str  # a digest, "project/digest", a key of the store, or "adapter@number"
    size_bytes: int  # that are free afterwards


_Finding = tuple[Garbage, Callable[[], bool]]  # and what takes it away, if it still is garbage


class Collector:
    """Takes garbage away. Several may run at once; each thing goes once."""

    def __init__(self, database: Database, store: BlobStore, versions: VersionTable) -> None:
        self._database = database
        self._store = store
        self._versions = versions

    def collect(
        self,
        project: str,
        *,
        grace_s: float = DEFAULT_GRACE_S,
        retention: Retention | None = None,
        dry_run: bool = False,
        by: str,
    ) -> Generator[Garbage, None, None]:
        """Take away what has been garbage for longer than the grace, and tell it; lazily.

        With a retention, delete the project's versions that it does not keep, too. A dry run tells
        the same and takes nothing. The bytes are those of all projects; the deed goes to the audit
        log of the one that asked. Closed early, it has taken what it told.
        """
        check_name("project", project)
        check_text("by", by, 256)
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise InvalidArgument("grace", f"{grace_s} s is not in 0..{MAX_GRACE_S:.0f}")
        found = self._found(now() - timedelta(seconds=grace_s))
        if retention is not None:
            check_retention(retention)
            found = chain(found, self._expired(project, retention, by))
        since = f"what was garbage before {(now() - timedelta(seconds=grace_s)).isoformat()}"
        return self._collect(project, found, since, dry_run, by)

    def _collect(
        self, project: str, found: Iterator[_Finding], since: str, dry_run: bool, by: str
    ) -> Generator[Garbage, None, None]:
        count, size_bytes = 0, 0
        try:
            for garbage, take in found:
                if dry_run or take():
                    count, size_bytes = count + 1, size_bytes + garbage.size_bytes
                    yield garbage
        finally:
            if count and not dry_run:
                details = {"count": str(count), "size_bytes": str(size_bytes)}
                deed = Deed(project, by, "gc.collect", "blobs", since, details)
                self._database.write(lambda c: record_deed(c, deed), nudge=False)

    def _found(self, before: datetime) -> Iterator[_Finding]:
        database, take = self._database, self._store.delete
        for project, ref in sweep.lapsed(database, before):
            garbage = Garbage(GarbageKind.POSSESSION, f"{project}/{ref.digest}", 0)
            yield garbage, partial(sweep.drop_possession, database, project, ref.digest, before)
        for ref in sweep.unreferenced(database, before):
            garbage = Garbage(GarbageKind.BLOB, ref.digest, ref.size_bytes)
            yield garbage, partial(sweep.reclaim, database, ref.digest, before, take)
        for found in strangers(database, self._store, before):
            if (digest := found.digest) is not None:
                garbage = Garbage(GarbageKind.ORPHAN, digest, found.size_bytes)
                yield garbage, partial(sweep.reclaim_stranger, database, digest, take)
        for left in self._store.leftovers(before):
            garbage = Garbage(GarbageKind.UNFINISHED, left.key, left.size_bytes)
            yield garbage, partial(self._store.discard, left)

    def _expired(self, project: str, retention: Retention, by: str) -> Iterator[_Finding]:
        """Find versions to delete: all before the first goes, so that a dry run finds the same."""
        reason = f"retention: {retention}"
        for adapter, number in expired(self._database, project, retention):
            garbage = Garbage(GarbageKind.VERSION, f"{adapter}@{number}", 0)
            yield garbage, partial(self._delete, project, adapter, number, reason, by)

    def _delete(self, project: str, adapter: str, number: int, reason: str, by: str) -> bool:
        try:
            return self._versions.delete(project, adapter, number, reason=reason, by=by)
        except (StillReferenced, NotFound):  # somebody came to need it meanwhile, or was faster
            return False


def strangers(database: Database, store: BlobStore, before: datetime) -> Iterator[StoredObject]:
    """List what lies among the blobs without a row, and is no upload of a moment ago."""
    objects = store.list()
    while batch := list(islice(objects, _BATCH)):
        digests = [found.digest for found in batch if found.digest is not None]
        with database.read() as c:
            known = sweep.known_digests(c, digests)
        for found in batch:
            if found.modified_at < before and found.digest not in known:
                yield found

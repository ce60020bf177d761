"""Makes a backup beside everything that goes on: the catalog at one moment, and its blobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select, update

from loradock.registry.backup.dump import Dump, write_dump
from loradock.registry.backup.folder import claim, copy_blob, dump_name
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import check_schema, known_schema
from loradock.registry.catalog.tables import audit_events, blobs, versions
from loradock.registry.catalog.types import now
from loradock.registry.errors import DigestMismatch, NotFound
from loradock.registry.resources import BlobRef, VersionState
from loradock.registry.stores import BlobStore
from loradock.registry.stores.disk import disk_errors, sync_folder
from loradock.registry.stores.folder import FolderBlobStore

OnBlob = Callable[[int], None]  # how many there were


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds now."""

    catalog: Path
    num_rows: int
    num_blobs: int
    size_bytes: int
    num_copied: int  # blobs that it did not hold whole before
    num_mended: int  # of these, what it held damaged
    damaged: tuple[str, ...]  # digests of versions' blobs that could not be read: see `verify`


def back_up(
    database: Database,
    store: BlobStore,
    folder: Path,
    on_blob: OnBlob = lambda count: None,
    *,
    verify: bool = False,
) -> BackedUp:
    """Add a catalog to a folder, and the blobs that it lacks; each is hashed on its way.

    What is there already is taken at its size; with `verify` it is hashed too, and mended.
    Publishes may go on. The catalog appears last, so that one that is there has its blobs. A folder
    takes the backups of one catalog only (AlreadyExists).
    """
    check_schema(database)
    claim(folder, _catalog_id(database))
    target = FolderBlobStore(folder)
    _hold_everything(database)
    path = folder / dump_name(datetime.now(UTC))
    with _whole(path) as (part, file):
        with database.snapshot() as c:
            num_rows = write_dump(c, file, known_schema())
        file.flush()
        needed = _needed(Dump(part))
        copied, mended, damaged, size_bytes = 0, 0, list[str](), 0
        for count, (ref, is_needed) in enumerate(needed.items(), 1):
            try:
                was_there = target.size(ref.digest) is not None
                is_new = copy_blob(store, target, ref, hashes_target=verify)
                copied, mended = copied + is_new, mended + (is_new and was_there)
                size_bytes += ref.size_bytes
            except (NotFound, DigestMismatch):
                damaged += [ref.digest] if is_needed else []
            on_blob(count)
    return BackedUp(path, num_rows, len(needed), size_bytes, copied, mended, tuple(damaged))


def _catalog_id(database: Database) -> str:
    """Tell a catalog from others by where its audit log begins, also once it was restored."""
    begun = select(audit_events.c.hash).order_by(audit_events.c.sequence).limit(1)
    with database.read() as c:
        return c.execute(begun).scalar_one_or_none() or ""


def _hold_everything(database: Database) -> None:
    """Keep garbage collection from what is there, for as long as its grace is."""
    database.write(lambda c: c.execute(update(blobs).values(held_at=now())), nudge=False)


def _needed(dump: Dump) -> dict[BlobRef, bool]:
    """Give all blobs of a catalog, and whether a version has them: those have to be there."""
    refs: dict[str, int] = {}
    needed: set[str] = set()
    for table, row in dump.rows():
        if table == blobs.name:
            refs[row["digest"]] = row["size_bytes"]
        elif table == versions.name and row["state"] != VersionState.DELETED.value:
            needed |= {row["digest"], row["weights_digest"], row["config_digest"]}
    return {BlobRef(digest, size): digest in needed for digest, size in refs.items()}


@contextmanager
def _whole(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a file that appears when it is whole and on disk."""
    part = path.with_name(f".{path.name}.partial")
    try:
        with part.open("wb") as file:
            yield part, file
            with disk_errors("the backup"):
                os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)

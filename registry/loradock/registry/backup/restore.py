"""Brings a backup into an empty catalog, of either engine, and a store: blobs first, rows last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Integer, Table, func, insert, inspect, select, text, update

from loradock.registry.backup.dump import LEFT_OUT, Dump, values_of
from loradock.registry.backup.folder import catalogs_of, copy_blob
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import found_schema, known_revisions, upgrade
from loradock.registry.catalog.tables import blobs, counters, metadata
from loradock.registry.catalog.types import now
from loradock.registry.errors import (
    AlreadyExists,
    DigestMismatch,
    InvalidArgument,
    NotFound,
    UnknownSchema,
)
from loradock.registry.resources import BlobRef
from loradock.registry.stores import BlobStore
from loradock.registry.stores.folder import FolderBlobStore

OnBlob = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back."""

    catalog: Path
    made_at: str
    num_rows: int
    num_blobs: int
    damaged: tuple[str, ...]  # digests that the backup lacks; pushing them again mends them


def restore(
    database: Database,
    store: BlobStore,
    folder: Path,
    catalog: Path | None = None,
    on_blob: OnBlob = lambda count: None,
) -> Restored:
    """Bring a folder's latest catalog back, or the one that is named. Broken off, do it again.

    The catalog's schema is first the one of the backup, and then this release's.
    """
    dump = Dump(catalog or _latest(folder))
    if dump.revision not in known_revisions():
        raise UnknownSchema(dump.revision, "an earlier one")
    if found_schema(database) is None:
        upgrade(database, dump.revision)
    refs = [_ref(row) for table, row in dump.rows() if table == blobs.name]
    damaged = _copy(FolderBlobStore(folder), store, refs, on_blob)
    num_rows = database.write(lambda c: _fill(c, dump, damaged))
    upgrade(database)
    return Restored(dump.path, dump.made_at, num_rows, len(refs), damaged)


def _latest(folder: Path) -> Path:
    found = catalogs_of(folder)
    if not found:
        raise NotFound("backup", str(folder))
    return found[-1]


def _ref(row: dict[str, object]) -> BlobRef:
    return BlobRef(str(row["digest"]), int(str(row["size_bytes"])))


def _copy(
    source: BlobStore, target: BlobStore, refs: list[BlobRef], on_blob: OnBlob
) -> tuple[str, ...]:
    damaged = []
    for count, ref in enumerate(refs, 1):
        try:
            copy_blob(source, target, ref, hashes_target=True)
        except (NotFound, DigestMismatch):
            damaged.append(ref.digest)
        on_blob(count)
    return tuple(damaged)


def _fill(c: Connection, dump: Dump, damaged: tuple[str, ...]) -> int:
    """Insert all rows, all or none, into a catalog that has none."""
    tables = {table.name: table for table in metadata.sorted_tables}
    _check_empty(c, dump.revision, tables)
    c.execute(counters.delete())
    count = 0
    for name, rows in dump.batches():
        if name not in tables:
            raise InvalidArgument("backup", f"has a table {name}, unknown here")
        c.execute(insert(tables[name]), values_of(tables[name], rows))
        count += len(rows)
    for digest in damaged:
        mine = blobs.c.digest == digest
        if "damaged_at" in _columns(c, blobs):
            c.execute(update(blobs).where(mine).values(damaged_at=now()))
    if c.dialect.name == "postgresql":
        for table in tables.values():
            _go_on_counting(c, table)
    return count


def _check_empty(c: Connection, revision: str, tables: dict[str, Table]) -> None:
    found = c.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    there = {name for name in _tables(c) if name in tables}
    filled = [
        name
        for name in sorted(there - LEFT_OUT - {counters.name})
        if c.execute(select(text("1")).select_from(tables[name]).limit(1)).first() is not None
    ]
    if filled or found != revision:
        what = "the database has a catalog already; a backup goes into an empty one"
        raise AlreadyExists("catalog", "of the database", what)


def _tables(c: Connection) -> set[str]:
    return set(inspect(c).get_table_names())


def _columns(c: Connection, table: Table) -> set[str]:
    return {column["name"] for column in inspect(c).get_columns(table.name)}


def _go_on_counting(c: Connection, table: Table) -> None:
    """Let PostgreSQL hand out keys behind those that were inserted."""
    key = list(table.primary_key.columns)
    if len(key) != 1 or type(key[0].type) is not Integer or key[0].foreign_keys:
        return
    last = c.execute(select(func.max(key[0]))).scalar_one()
    name = c.execute(
        text("SELECT pg_get_serial_sequence(:table, :column)"),
        {"table": table.name, "column": key[0].name},
    ).scalar_one()
    if last is not None and name is not None:
        c.execute(text("SELECT setval(:name, :last)"), {"name": name, "last": last})

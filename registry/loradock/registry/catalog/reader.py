"""The narrow reader of inference servers, on SQL."""

from __future__ import annotations

from sqlalchemy import Connection, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog.aliases import standing
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import adapters, aliases, changes, counters, versions
from loradock.registry.catalog.versions import (
    VersionTable,
    all_versions,
    check_resolvable,
    row_by_number,
)
from loradock.registry.errors import NotFound
from loradock.registry.names import DEFAULT_ALIAS, Reference, check_name
from loradock.registry.resources import Alias, Change, Resolved


class SqlCatalogReader:
    """A CatalogReader on the catalog itself."""

    def __init__(self, database: Database, table: VersionTable) -> None:
        self._database = database
        self._table = table

    def resolve(self, project: str, reference: Reference) -> Resolved:
        project = check_name("project", reference.project or project)
        check_name("adapter", reference.adapter)
        with self._database.read() as c:
            row, alias = _find(c, project, reference)
            check_resolvable(row)
            version = self._table.read(c, row)
        if alias is None:
            return Resolved(version, None, None)
        return Resolved(version, alias.name, alias.generation)

    def alias(self, project: str, adapter: str, alias: str) -> Alias:
        with self._database.read() as c:
            return standing(c, project, adapter, alias)

    def changes_since(self, sequence: int, limit: int = 1000) -> list[Change]:
        query = select(changes).where(changes.c.sequence > sequence)
        with self._database.read() as c:
            rows = c.execute(query.order_by(changes.c.sequence).limit(limit)).all()
        return [Change(r.sequence, r.kind, r.project, r.adapter, r.name) for r in rows]

    def latest_sequence(self) -> int:
        with self._database.read() as c:
            query = select(counters.c.value).where(counters.c.name == "changes")
            return int(c.execute(query).scalar_one())


def _find(c: Connection, project: str, reference: Reference) -> tuple[AnyRow, Alias | None]:
    if reference.number is not None:
        return row_by_number(c, project, reference.adapter, reference.number), None
    if reference.digest is not None:
        return _by_digest(c, project, reference.adapter, reference.digest), None
    query = ledger.standing(project).where(
        adapters.c.name == reference.adapter,
        aliases.c.name == check_name("alias", reference.alias or DEFAULT_ALIAS),
    )
    found = c.execute(query).one_or_none()
    if found is None:
        raise NotFound("alias", f"{reference.adapter}:{reference.alias or DEFAULT_ALIAS}")
    row = c.execute(all_versions(project).where(versions.c.id == found.version_id)).one()
    return row, ledger.read_alias(found)


def _by_digest(c: Connection, project: str, adapter: str, digest: str) -> AnyRow:
    query = all_versions(project).where(adapters.c.name == adapter, versions.c.digest == digest)
    row = c.execute(query.order_by(versions.c.number.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFound("version", f"{adapter}@{digest}")
    return row

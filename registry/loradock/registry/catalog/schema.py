"""Which schema the catalog has, and how it gets the one that this release knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.tables import metadata
from loradock.registry.errors import CatalogUnavailable, UnknownSchema

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_ADVISORY_LOCK = 0x10AD0C  # held while a PostgreSQL catalog is migrated
_WAL_ATTEMPTS = 100


def known_schema() -> str:
    """Name the revision that this release works with."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def found_schema(database: Database) -> str | None:
    """Find the catalog's revision; None if it is empty."""
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check_schema(database: Database) -> None:
    """Raise UnknownSchema unless the catalog's revision is the known one."""
    found, known = found_schema(database), known_schema()
    if found != known:
        raise UnknownSchema(found, known)


def upgrade(database: Database, revision: str = "head") -> str | None:
    """Bring the catalog up in one transaction; others that try meanwhile wait, then find it done.

    Give the revision that it had; None if it was empty. A schema from a later release is refused,
    not touched.
    """
    if database.path is not None:
        _prepare_file(database, database.path)
    found = _known(found_schema(database))
    database.write(lambda c: _migrate(c, lambda config: command.upgrade(config, revision)))
    return found


def downgrade(database: Database, revision: str) -> None:
    """Bring the catalog down in one transaction."""
    database.write(lambda c: _migrate(c, lambda config: command.downgrade(config, revision)))


def differences(database: Database) -> list[object]:
    """List what the tables here and those in the catalog disagree about."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def _migrate(connection: Connection, act: Callable[[Config], None]) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
    config = _config()
    config.attributes["connection"] = connection
    act(config)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_revisions() -> list[str]:
    """List this release's schema and all earlier ones, the first first."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in scripts][::-1]


def _known(found: str | None) -> str | None:
    if found is not None and found not in known_revisions():
        raise UnknownSchema(found, known_schema())
    return found


def _prepare_file(database: Database, path: Path) -> None:
    """Set write-ahead logging, a property of the file; SQLite doesn't wait for others to do so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_WAL_ATTEMPTS):
        try:
            database.use_write_ahead_log()
            return
        except CatalogUnavailable:
            time.sleep(0.05)
    database.use_write_ahead_log()

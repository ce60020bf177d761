"""The registry as a whole: one catalog, one blob store, a noun each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loradock.registry.blobs import Blobs
from loradock.registry.bundle.exporting import Exporter
from loradock.registry.bundle.importing import Importer
from loradock.registry.catalog.adapters import Adapters
from loradock.registry.catalog.aliases import Aliases
from loradock.registry.catalog.approvals import Approvals
from loradock.registry.catalog.audit import Audit
from loradock.registry.catalog.bases import Bases
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.evaluation_import import EvaluationImport
from loradock.registry.catalog.evaluations import Evaluations
from loradock.registry.catalog.fleet import Fleet
from loradock.registry.catalog.lineage import LineageReader
from loradock.registry.catalog.policies import Policies
from loradock.registry.catalog.reader import SqlCatalogReader
from loradock.registry.catalog.rollouts import Rollouts
from loradock.registry.catalog.schema import check_schema, upgrade
from loradock.registry.diagnosis import Diagnosis
from loradock.registry.garbage import Collector
from loradock.registry.integrity import Integrity
from loradock.registry.limits import Limits
from loradock.registry.reader import CatalogReader
from loradock.registry.stores import BlobStore, open_store
from loradock.registry.versions import Versions


class Registry:
    """What exists, what it is, where it came from, which version is live. Safe to share."""

    def __init__(self, database: Database, store: BlobStore, limits: Limits) -> None:
        self._database = database
        self._store = store
        self.bases = Bases(database)
        self.adapters = Adapters(database, limits)
        self.blobs = Blobs(database, store, limits)
        self.versions = Versions(database, store, self.bases, self.blobs, limits)
        self.aliases = Aliases(database, limits)
        self.policies = Policies(database, limits)
        self.approvals = Approvals(database, limits)
        self.rollouts = Rollouts(database, limits)
        self.evaluations = Evaluations(database, limits)
        self.lineage = LineageReader(database)
        self.fleet = Fleet(database)
        self.audit = Audit(database)
        self.garbage = Collector(database, store, self.versions)
        self.integrity = Integrity(database, store)
        self.reader: CatalogReader = SqlCatalogReader(database, self.versions)
        self.exporter = Exporter(
            self.versions, self.adapters, self.aliases, self.evaluations, self.reader, self.blobs
        )
        self.importer = Importer(
            self.bases,
            self.adapters,
            self.versions,
            self.aliases,
            EvaluationImport(database, limits),
            self.blobs,
        )
        self.diagnosis = Diagnosis(database, store, self.audit)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call after each change that this process committed, on the thread that did it."""
        self._database.on_commit(callback)

    def close(self) -> None:
        """Give connections back."""
        self._database.close()
        self._store.close()


def open_registry(
    database_url: str,
    blob_url: str,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    migrate: bool = False,
    spool: Path | None = None,
) -> Registry:
    """Open a catalog and a blob store.

    The catalog's schema must be the one that this release knows (UnknownSchema); with `migrate`
    it is brought there first. Uploads to S3 wait in `spool` on this host until they are whole.
    """
    database = Database(database_url)
    try:
        if migrate:
            upgrade(database)
        check_schema(database)
        return Registry(database, open_store(blob_url, spool), limits)
    except BaseException:
        database.close()
        raise

"""The audit log: who did what, when and why. Rows never change."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.tables import audit_events
from loradock.registry.names import check_text
from loradock.registry.resources import AuditEvent, Page


class Audit:
    """What was done. The registry's own mutations are here by themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self,
        project: str,
        subject: str,
        action: str,
        resource: str,
        reason: str,
        details: Mapping[str, str] | None = None,
    ) -> AuditEvent:
        """Add what the registry can't know by itself, e.g. an override on a server."""
        deed = Deed(project, subject, action, resource, reason, dict(details or {}))
        _check(deed)
        sequence = self._database.write(lambda c: record_deed(c, deed), nudge=False)
        query = select(audit_events).where(audit_events.c.sequence == sequence)
        with self._database.read() as c:
            return _read(c.execute(query).one())

    def list(self, project: str, page_size: int = 50, page_token: str = "") -> Page[AuditEvent]:
        """List a project's events, newest first."""
        request = page_request(int, ["audit", project], page_size, page_token)
        query = select(audit_events).where(audit_events.c.project == project)
        with self._database.read() as c:
            rows, token = fetch_page(c, query, request, audit_events.c.sequence, newest_first=True)
        return page(rows, token, _read)


def _check(deed: Deed) -> None:
    check_text("project", deed.project, 63)
    check_text("subject", deed.subject, 256)
    check_text("action", deed.action, 64)
    check_text("resource", deed.resource)
    check_text("reason", deed.reason, 16 * 1024)
    for name, value in deed.details.items():
        check_text("details", name)
        check_text("details", value, 16 * 1024)


def _read(row: AnyRow) -> AuditEvent:
    return AuditEvent(
        sequence=row.sequence,
        at=row.at,
        project=row.project,
        subject=row.subject,
        action=row.action,
        resource=row.resource,
        reason=row.reason,
        details=row.details,
    )

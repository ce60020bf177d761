"""The audit log: who did what, when and why. Rows never change, and are chained by their hashes."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from loradock.registry.audit_chain import (
    GENESIS,
    AuditBreak,
    AuditEvent,
    AuditReport,
    link,
)
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.tables import audit_events, counters
from loradock.registry.catalog.types import microseconds
from loradock.registry.names import check_text
from loradock.registry.resources import Page

_PAGE = 1000
_MAX_BREAKS = 100


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
        request_id: str = "",
    ) -> AuditEvent:
        """Add what the registry can't know by itself, e.g. an override on a server.

        A request id that comes again, for the same action, gives the event of the first time.
        """
        deed = Deed(project, subject, action, resource, reason, dict(details or {}))
        _check(deed)
        request = Request(project, request_id, {"do": "audit", "action": action, "to": resource})

        def work(c: Connection) -> int:
            earlier = request.earlier_outcome(c)
            if earlier is not None:
                return int(earlier["sequence"])
            sequence = record_deed(c, deed)
            request.settle(c, sequence=sequence)
            return sequence

        sequence = self._database.write(work, nudge=False)
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

    def verify(self, known: tuple[int, str] | None = None) -> AuditReport:
        """Follow the chain through all projects' events, and tell where it is broken.

        `known` is a head that was told earlier: its event has to be there, and unchanged. Without
        one, a log that somebody wrote anew from some event on looks like one.
        """
        walk = _Walk()
        while True:
            query = select(audit_events).where(audit_events.c.sequence > walk.sequence)
            with self._database.read() as c:
                # First how far the log goes: the rows that follow may tell of more, never of less.
                counted = select(counters.c.value).where(counters.c.name == "audit")
                last = c.execute(counted).scalar_one()
                rows = c.execute(query.order_by(audit_events.c.sequence).limit(_PAGE)).all()
            for row in rows:
                walk.follow(row)
                if known is not None and known[0] == row.sequence:
                    walk.compare(row.hash, known[1])
            if len(rows) < _PAGE:
                break
        walk.end(last, None if known is None else known[0])
        return walk.report()


class _Walk:
    """A walk along the chain. A broken link is told once: what follows it is held against it."""

    def __init__(self) -> None:
        self.sequence = 0
        self._hash = GENESIS
        self._num_events = 0
        self._breaks: list[AuditBreak] = []

    def follow(self, row: AnyRow) -> None:
        for missing in range(self.sequence + 1, min(row.sequence, self.sequence + _MAX_BREAKS)):
            self._break(missing, "missing")
        is_next = row.sequence == self.sequence + 1
        fields = (row.project, row.subject, row.action, row.resource, row.reason, row.details)
        wanted = link(self._hash, row.sequence, microseconds(row.at), *fields)
        if is_next and row.hash != wanted:
            self._break(row.sequence, "edited")
        self.sequence, self._hash = row.sequence, row.hash or ""
        self._num_events += 1

    def compare(self, found: str, known: str) -> None:
        if found != known:
            self._break(self.sequence, "rewritten")

    def end(self, last: int, known: int | None) -> None:
        for missing in range(self.sequence + 1, min(last + 1, self.sequence + _MAX_BREAKS)):
            self._break(missing, "missing")
        if known is not None and known > max(self.sequence, last):
            self._break(known, "missing")

    def report(self) -> AuditReport:
        breaks = tuple(self._breaks[:_MAX_BREAKS])
        return AuditReport(self._num_events, self.sequence, self._hash, breaks)

    def _break(self, sequence: int, what: str) -> None:
        self._breaks.append(AuditBreak(sequence, what))


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
        hash=row.hash or "",
    )

"""What happened, written in the transaction in which it happens.

Both sequences are counted in a row that stays locked until the commit, so that numbers become
visible in their order: who has read up to n will never see a number below n appear. The rows are
locked last in every transaction, changes before audit, so that writers can't lock each other out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, insert, select, update

from loradock.registry.audit_chain import GENESIS, link
from loradock.registry.catalog.tables import audit_events, changes, counters
from loradock.registry.catalog.types import microseconds, now


@dataclass(frozen=True, slots=True)
class Deed:
    """Who did what to which resource, and why."""

    project: str
    subject: str
    action: str
    resource: str
    reason: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


def record_change(connection: Connection, kind: str, project: str, adapter: str, name: str) -> int:
    """Append to the catalog-wide change sequence; give the change's number."""
    sequence = _next(connection, "changes")
    connection.execute(
        insert(changes).values(
            sequence=sequence,
            kind=kind,
            project=project,
            adapter=adapter,
            name=name,
            at=now(),
        )
    )
    return sequence


def record_deed(connection: Connection, deed: Deed) -> int:
    """Append to the audit log."""
    sequence, at = _next(connection, "audit"), now()
    before = select(audit_events.c.hash).where(audit_events.c.sequence == sequence - 1)
    previous = connection.execute(before).scalar_one_or_none() or GENESIS
    fields = asdict(deed) | {"details": dict(deed.details)}
    connection.execute(
        insert(audit_events).values(
            sequence=sequence,
            at=at,
            hash=link(previous, sequence, microseconds(at), **fields),
            **fields,
        )
    )
    return sequence


def _next(connection: Connection, counter: str) -> int:
    where = counters.c.name == counter
    connection.execute(update(counters).where(where).values(value=counters.c.value + 1))
    return int(connection.execute(select(counters.c.value).where(where)).scalar_one())

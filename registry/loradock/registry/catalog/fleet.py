"""The running servers, as their heartbeats tell."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from loradock.registry.catalog.arms import record_tallies
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import heartbeats
from loradock.registry.catalog.types import now
from loradock.registry.names import check_text
from loradock.registry.resources import BaseDigests, Heartbeat, Residency

LIVE_S = 30.0
_TOLD = {field.name for field in fields(Residency)}
_KEPT_S = 86_400.0  # the word of a server that never said goodbye


class Fleet:
    """Who serves what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, heartbeat: Heartbeat) -> None:
        """Keep a server's latest word."""
        check_text("server_id", heartbeat.server_id, 128)
        values = _row(heartbeat)
        mine = heartbeats.c.server_id == heartbeat.server_id

        def work(c: Connection) -> None:
            if c.execute(update(heartbeats).where(mine).values(values)).rowcount == 0:
                c.execute(insert(heartbeats).values(values))
                since = now() - timedelta(seconds=_KEPT_S)
                c.execute(delete(heartbeats).where(heartbeats.c.seen_at < since))
            record_tallies(c, heartbeat.server_id, heartbeat.tallies)

        self._database.write(work, nudge=False)

    def list(self, seen_within_s: float = LIVE_S) -> list[Heartbeat]:
        """List the servers heard of lately."""
        with self._database.read() as c:
            return live_heartbeats(c, seen_within_s)

    def forget(self, server_id: str) -> None:
        """Drop a server that said goodbye."""
        mine = heartbeats.c.server_id == server_id
        self._database.write(lambda c: c.execute(delete(heartbeats).where(mine)), nudge=False)


def live_heartbeats(c: Connection, seen_within_s: float = LIVE_S) -> list[Heartbeat]:
    """Find the heartbeats that are recent."""
    since = now() - timedelta(seconds=seen_within_s)
    query = select(heartbeats).where(heartbeats.c.seen_at >= since)
    return [_read(row) for row in c.execute(query.order_by(heartbeats.c.server_id))]


def _row(beat: Heartbeat) -> dict[str, object]:
    return {
        "server_id": beat.server_id,
        "address": beat.address,
        "base_name": beat.base_name,
        "base_digests": asdict(beat.base_digests),
        "sequence": beat.sequence,
        "residencies": [asdict(residency) for residency in beat.residencies],
        "divergences": list(beat.divergences),
        "started_at": beat.started_at,
        "seen_at": now(),
        "drained": beat.drained,
    }


def _residency(told: dict[str, Any]) -> Residency:
    """Read what a server told; one of a later release may tell more than is known here."""
    return Residency(**{name: value for name, value in told.items() if name in _TOLD})


def _read(row: AnyRow) -> Heartbeat:
    return Heartbeat(
        server_id=row.server_id,
        address=row.address,
        base_name=row.base_name,
        base_digests=BaseDigests(**row.base_digests),
        sequence=row.sequence,
        residencies=tuple(_residency(told) for told in row.residencies),
        divergences=tuple(row.divergences),
        started_at=row.started_at,
        seen_at=row.seen_at,
        drained=bool(row.drained),
    )

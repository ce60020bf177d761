"""Request ids: the same id and payload give the same outcome, in the mutation's own transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update

from loradock.registry.catalog.tables import requests
from loradock.registry.catalog.types import insert_new, now
from loradock.registry.errors import InvalidArgument, RequestReused
from loradock.registry.manifest import canonical_json, digest_bytes
from loradock.registry.names import check_text

MAX_ID_CHARS = 128


@dataclass(frozen=True, slots=True)
class Request:
    """A mutation as its caller named it. Without an id it is never recognised again."""

    project: str
    id: str
    payload: Mapping[str, object]

    def __post_init__(self) -> None:
        check_text("request_id", self.id, MAX_ID_CHARS)

    @property
    def _where(self) -> ColumnElement[bool]:
        return (requests.c.project == self.project) & (requests.c.request_id == self.id)

    def earlier_outcome(self, connection: Connection) -> dict[str, Any] | None:
        """Claim the id; give the outcome if it was claimed, with the same payload, before."""
        if not self.id:
            return None
        claim = {
            "project": self.project,
            "request_id": self.id,
            "payload_digest": digest_bytes(canonical_json(self.payload)),
            "at": now(),
        }
        if insert_new(connection, requests, claim):
            return None
        return self._known(connection, claim["payload_digest"])

    def peek(self, connection: Connection) -> dict[str, Any] | None:
        """Give the outcome of an earlier request, and claim nothing."""
        digest = digest_bytes(canonical_json(self.payload))
        return self._known(connection, digest) if self.id else None

    def settle(self, connection: Connection, **outcome: object) -> None:
        """Keep the outcome."""
        if self.id:
            connection.execute(update(requests).where(self._where).values(outcome=outcome))

    def _known(self, connection: Connection, payload_digest: object) -> dict[str, Any] | None:
        row = connection.execute(
            select(requests.c.payload_digest, requests.c.outcome).where(self._where)
        ).one_or_none()
        if row is None:
            return None
        if row.payload_digest != payload_digest:
            raise RequestReused(self.id)
        if row.outcome is None:
            raise InvalidArgument("request_id", "was claimed, but its outcome was never written")
        return dict(row.outcome)

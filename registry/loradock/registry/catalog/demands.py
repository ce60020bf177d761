"""What an alias demands now."""

from __future__ import annotations

from sqlalchemy import Connection, select

from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import alias_policies
from loradock.registry.policy import Demands
from loradock.registry.policy_json import demands_from_json


def demands_of(c: Connection, alias_id: int) -> Demands:
    """Find what an alias demands now; nothing unless somebody said so."""
    row = policy_row(c, alias_id)
    return Demands() if row is None else demands_from_json(row.demands)


def policy_row(c: Connection, alias_id: int) -> AnyRow | None:
    """Find the policy in force."""
    query = select(alias_policies).where(alias_policies.c.alias_id == alias_id)
    return c.execute(query.order_by(alias_policies.c.revision.desc()).limit(1)).one_or_none()

"""A hash for each audit event that covers it and all before it.

Revision ID: 0004
Revises: 0003
"""

import json

import sqlalchemy as sa
from alembic import op

from loradock.registry.audit_chain import GENESIS, link
from loradock.registry.migrations.triggers import refuse, sqlite

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

EVENTS = sa.table(
    "audit_events",
    *(
        sa.column(name)
        for name in (
            *("sequence", "at", "project", "subject", "action", "resource", "reason", "details"),
            "hash",
        )
    ),
)
PAGE = 1000


def upgrade() -> None:
    """Add the column, and chain what is there."""
    op.add_column("audit_events", sa.Column("hash", sa.String(length=71), nullable=True))
    let_update()
    chain()
    refuse_update()


def downgrade() -> None:
    """Take it away."""
    op.drop_column("audit_events", "hash")


def let_update() -> None:
    """Let rows change for a moment, within this transaction."""
    on_table = "" if sqlite() else " ON audit_events"
    op.execute(f"DROP TRIGGER tr_audit_events_update{on_table}")
    if not sqlite():
        op.execute("DROP FUNCTION tr_audit_events_update() CASCADE")  # and the one on TRUNCATE


def refuse_update() -> None:
    """Refuse changes again, as before."""
    refuse("audit_events", "UPDATE", "a row of audit_events")


def chain() -> None:
    """Give each event its hash, in order."""
    connection, previous, last = op.get_bind(), GENESIS, 0
    while True:
        query = sa.select(EVENTS).where(EVENTS.c.sequence > last)
        rows = connection.execute(query.order_by(EVENTS.c.sequence).limit(PAGE)).all()
        for row in rows:
            sequence, *fields, details, _ = row
            previous = link(previous, sequence, *fields, json.loads(details))
            mine = EVENTS.c.sequence == sequence
            connection.execute(sa.update(EVENTS).where(mine).values(hash=previous))
            last = sequence
        if len(rows) < PAGE:
            return

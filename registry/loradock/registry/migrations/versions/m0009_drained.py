"""Whether a server refuses what is new, as its heartbeat tells.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what servers of the release before leave out."""
    op.add_column("heartbeats", sa.Column("drained", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("heartbeats", "drained")

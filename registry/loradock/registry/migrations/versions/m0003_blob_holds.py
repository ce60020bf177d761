"""What keeps garbage collection away from a blob, and finds who refers to it.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

REFERRING = ("weights_digest", "config_digest")


def upgrade() -> None:
    """Add the moment of the last hold; a row without one counts from its creation."""
    op.add_column("blobs", sa.Column("held_at", sa.BigInteger(), nullable=True))
    for column in REFERRING:
        op.create_index(op.f(f"ix_versions_{column}"), "versions", [column], unique=False)


def downgrade() -> None:
    """Take it away."""
    for column in REFERRING:
        op.drop_index(op.f(f"ix_versions_{column}"), table_name="versions")
    op.drop_column("blobs", "held_at")

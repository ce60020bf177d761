"""The ready versions of an adapter, newest last, without a look at each one's row.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

INDEX = "ix_versions_adapter_id_state_id"


def upgrade() -> None:
    """Add the index."""
    op.create_index(INDEX, "versions", ["adapter_id", "state", "id"])


def downgrade() -> None:
    """Take it away."""
    op.drop_index(INDEX, "versions")

"""When verification found a blob's bytes corrupt or gone.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the moment of the finding; a row without one is not known to be damaged."""
    op.add_column("blobs", sa.Column("damaged_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("blobs", "damaged_at")

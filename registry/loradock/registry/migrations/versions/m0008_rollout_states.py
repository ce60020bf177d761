"""Why a rollout is where it is, who brought it there, and whether it may move what is protected.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; a rollout of the release before has neither told, and has no right."""
    op.add_column("rollouts", sa.Column("state_reason", sa.Text(), nullable=True))
    op.add_column("rollouts", sa.Column("state_by", sa.String(length=256), nullable=True))
    op.add_column("rollouts", sa.Column("may_move_protected", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("rollouts", "may_move_protected")
    op.drop_column("rollouts", "state_by")
    op.drop_column("rollouts", "state_reason")

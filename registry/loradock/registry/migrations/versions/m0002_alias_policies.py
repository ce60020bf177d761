"""What aliases demand of the versions that they point at.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

from loradock.registry.migrations.triggers import append_only, drop_triggers

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of policies, of which nothing changes and nothing goes."""
    op.create_table(
        "alias_policies",
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("demands", sa.Text(), nullable=False),
        sa.Column("set_by", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alias_id"], ["aliases.id"], name=op.f("fk_alias_policies_alias_id_aliases")
        ),
        sa.PrimaryKeyConstraint("alias_id", "revision", name=op.f("pk_alias_policies")),
    )
    append_only("alias_policies", "alias_id, revision")


def downgrade() -> None:
    """Take it away."""
    drop_triggers("alias_policies")
    op.drop_table("alias_policies")

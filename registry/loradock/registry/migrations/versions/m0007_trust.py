"""Holds on versions, approvals of moves, and what evaluations measured item by item.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from loradock.registry.migrations.triggers import append_only, drop_triggers

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; of approvals and items nothing changes and nothing goes."""
    make_holds()
    make_approvals()
    op.create_table(
        "evaluation_items",
        sa.Column("evaluation", sa.Integer(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation"],
            ["evaluations.ordinal"],
            name=op.f("fk_evaluation_items_evaluation_evaluations"),
        ),
        sa.PrimaryKeyConstraint("evaluation", name=op.f("pk_evaluation_items")),
    )
    append_only("evaluation_items", "evaluation")
    op.create_index(
        op.f("ix_evaluation_metrics_name_value"), "evaluation_metrics", ["name", "value"]
    )


def make_holds() -> None:
    """Make the table of holds: of a version, one at a time."""
    op.create_table(
        "version_holds",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_by", sa.String(length=256), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_holds_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version_holds")),
    )


def make_approvals() -> None:
    """Make the ledger of approvals and of their withdrawals."""
    op.create_table(
        "alias_approvals",
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("approver", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alias_id"], ["aliases.id"], name=op.f("fk_alias_approvals_alias_id_aliases")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_alias_approvals_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("ordinal", name=op.f("pk_alias_approvals")),
    )
    op.create_index(
        op.f("ix_alias_approvals_alias_id_version_id_ordinal"),
        "alias_approvals",
        ["alias_id", "version_id", "ordinal"],
    )
    append_only("alias_approvals", "ordinal")


def downgrade() -> None:
    """Take them away."""
    op.drop_index(op.f("ix_evaluation_metrics_name_value"), table_name="evaluation_metrics")
    drop_triggers("alias_approvals")
    op.drop_index(
        op.f("ix_alias_approvals_alias_id_version_id_ordinal"), table_name="alias_approvals"
    )
    op.drop_table("alias_approvals")
    op.drop_table("version_holds")
    drop_triggers("evaluation_items")
    op.drop_table("evaluation_items")

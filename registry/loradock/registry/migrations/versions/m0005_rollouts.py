"""Splits of aliases, rollouts, what is counted of their arms, and who steps them.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from loradock.registry.migrations.triggers import append_only, drop_triggers

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    make_splits()
    make_rollouts()
    make_arm_counts()
    op.create_table(
        "duties",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("holder", sa.String(length=128), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duties")),
    )


def make_splits() -> None:
    """Make the ledger's second table, of which nothing changes and nothing goes."""
    op.create_table(
        "alias_splits",
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("shadow", sa.Integer(), nullable=False),
        sa.Column("salt", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["versions.id"], name=op.f("fk_alias_splits_candidate_id_versions")
        ),
        sa.ForeignKeyConstraint(
            ["alias_id", "generation"],
            ["alias_moves.alias_id", "alias_moves.generation"],
            name=op.f("fk_alias_splits_alias_id_generation_alias_moves"),
        ),
        sa.PrimaryKeyConstraint("alias_id", "generation", name=op.f("pk_alias_splits")),
    )
    append_only("alias_splits", "alias_id, generation")


def make_rollouts() -> None:
    """Make the table of rollouts: of an alias, one at a time."""
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("incumbent_id", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("stage_at", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started_by", sa.String(length=256), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["alias_id"], ["aliases.id"], name=op.f("fk_rollouts_alias_id_aliases")
        ),
        sa.ForeignKeyConstraint(
            ["incumbent_id"], ["versions.id"], name=op.f("fk_rollouts_incumbent_id_versions")
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["versions.id"], name=op.f("fk_rollouts_candidate_id_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_alias_id_started_at"), "rollouts", ["alias_id", "started_at"])
    op.create_index(
        "uq_rollouts_going_on",
        "rollouts",
        ["alias_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def make_arm_counts() -> None:
    """Make the table of what servers count."""
    op.create_table(
        "arm_counts",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("server_id", sa.String(length=128), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_arm_counts_rollout_id_rollouts")
        ),
        sa.PrimaryKeyConstraint(
            "rollout_id", "generation", "server_id", "arm", name=op.f("pk_arm_counts")
        ),
    )


def downgrade() -> None:
    """Take it away; aliases stay with their incumbents."""
    op.drop_table("duties")
    op.drop_table("arm_counts")
    op.drop_index("uq_rollouts_going_on", table_name="rollouts")
    op.drop_index(op.f("ix_rollouts_alias_id_started_at"), table_name="rollouts")
    op.drop_table("rollouts")
    drop_triggers("alias_splits")
    op.drop_table("alias_splits")

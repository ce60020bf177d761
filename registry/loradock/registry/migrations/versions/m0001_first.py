"""The first schema.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

from loradock.registry.migrations.triggers import (
    drop_triggers,
    is_not,
    keep_on_insert,
    refuse,
    sqlite,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Rows of these never change and never go.
APPEND_ONLY = (
    "base_models",
    "alias_moves",
    "evaluations",
    "evaluation_metrics",
    "lineage_nodes",
    "lineage_edges",
    "audit_events",
)
# All of a version but its state.
FROZEN = (
    "id",
    "adapter_id",
    "number",
    "digest",
    "base_id",
    "weights_digest",
    "weights_size",
    "config_digest",
    "config_size",
    "manifest_size",
    "profile",
    "lineage",
    "modules",
    "max_rank",
    "created_by",
    "created_at",
)
# What tells rows apart. SQLite's INSERT OR REPLACE takes the old row away without a DELETE.
KEYS = {
    "base_models": ("id", "name", "structural, weights, tokenizer"),
    "versions": ("id", "adapter_id, number"),
    "alias_moves": ("alias_id, generation",),
    "evaluations": ("ordinal", "id"),
    "evaluation_metrics": ("evaluation, name",),
    "lineage_nodes": ("project, id",),
    "lineage_edges": ("project, child, parent, kind",),
    "audit_events": ("sequence",),
}
LIVE_DIGEST = (
    "adapter_id = NEW.adapter_id AND digest = NEW.digest "
    "AND state <> 'deleted' AND NEW.state <> 'deleted'"
)
# What is recorded again and again; to come again is no attempt to change it.
REPEATED = ("base_models", "lineage_nodes", "lineage_edges")
MOVES = "('ready', 'yanked'), ('yanked', 'ready'), ('ready', 'deleted'), ('yanked', 'deleted')"


def upgrade() -> None:
    """Make tables, counters and triggers."""
    create_tables()
    counters = sa.table("counters", sa.column("name"), sa.column("value"))
    op.bulk_insert(counters, [{"name": "changes", "value": 0}, {"name": "audit", "value": 0}])
    for table in APPEND_ONLY:
        refuse(table, "UPDATE", f"a row of {table}")
        refuse(table, "DELETE", f"a row of {table}")
    refuse("versions", "DELETE", "a version")
    frozen = " OR ".join(f"NEW.{column} {is_not()} OLD.{column}" for column in FROZEN)
    refuse("versions", "UPDATE", "a version", frozen, "frozen")
    moved = f"NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN ({values()})"
    refuse("versions", "UPDATE", "a version in this state", moved, "state")
    if sqlite():
        for table, keys in KEYS.items():
            also = LIVE_DIGEST if table == "versions" else ""
            keep_on_insert(table, keys, also=also, again=table in REPEATED)


def downgrade() -> None:
    """Take all of it away."""
    for table in (*APPEND_ONLY, "versions"):
        drop_all_triggers(table)
    drop_tables()


def values() -> str:
    """Give the allowed moves, as this engine writes a list of rows."""
    return f"VALUES {MOVES}" if sqlite() else MOVES


def drop_all_triggers(table: str) -> None:
    """Drop a table's triggers."""
    drop_triggers(table, "update", "delete", "update_frozen", "update_state")


def create_tables() -> None:
    """Make the tables."""
    op.create_table(
        "adapters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.String(length=256), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("num_versions", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_adapters_project_name")),
    )
    op.create_table(
        "audit_events",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_events")),
    )
    op.create_index(
        op.f("ix_audit_events_project_sequence"),
        "audit_events",
        ["project", "sequence"],
        unique=False,
    )
    op.create_table(
        "base_models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("structural", sa.String(length=71), nullable=False),
        sa.Column("weights", sa.String(length=71), nullable=False),
        sa.Column("tokenizer", sa.String(length=71), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("modules", sa.Text(), nullable=False),
        sa.Column("context_length", sa.Integer(), nullable=False),
        sa.Column("num_parameters", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_models")),
        sa.UniqueConstraint("name", name=op.f("uq_base_models_name")),
        sa.UniqueConstraint(
            "structural",
            "weights",
            "tokenizer",
            name=op.f("uq_base_models_structural_weights_tokenizer"),
        ),
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "changes",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_changes")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "heartbeats",
        sa.Column("server_id", sa.String(length=128), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("base_name", sa.String(length=63), nullable=False),
        sa.Column("base_digests", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("residencies", sa.Text(), nullable=False),
        sa.Column("divergences", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "lineage_nodes",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=71), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_lineage_nodes")),
    )
    op.create_table(
        "requests",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("payload_digest", sa.String(length=71), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "request_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "adapter_tags",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"],
            ["adapters.id"],
            name=op.f("fk_adapter_tags_adapter_id_adapters"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("adapter_id", "tag", name=op.f("pk_adapter_tags")),
    )
    op.create_index(op.f("ix_adapter_tags_tag"), "adapter_tags", ["tag"], unique=False)
    op.create_table(
        "lineage_edges",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("child", sa.String(length=71), nullable=False),
        sa.Column("parent", sa.String(length=71), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "child"],
            ["lineage_nodes.project", "lineage_nodes.id"],
            name=op.f("fk_lineage_edges_project_child_lineage_nodes"),
        ),
        sa.ForeignKeyConstraint(
            ["project", "parent"],
            ["lineage_nodes.project", "lineage_nodes.id"],
            name=op.f("fk_lineage_edges_project_parent_lineage_nodes"),
        ),
        sa.PrimaryKeyConstraint(
            "project", "child", "parent", "kind", name=op.f("pk_lineage_edges")
        ),
    )
    op.create_index(
        op.f("ix_lineage_edges_project_parent"),
        "lineage_edges",
        ["project", "parent"],
        unique=False,
    )
    op.create_table(
        "possessions",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"], ["blobs.digest"], name=op.f("fk_possessions_digest_blobs")
        ),
        sa.PrimaryKeyConstraint("project", "digest", name=op.f("pk_possessions")),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("weights_digest", sa.String(length=71), nullable=False),
        sa.Column("weights_size", sa.BigInteger(), nullable=False),
        sa.Column("config_digest", sa.String(length=71), nullable=False),
        sa.Column("config_size", sa.BigInteger(), nullable=False),
        sa.Column("manifest_size", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("lineage", sa.Text(), nullable=False),
        sa.Column("modules", sa.Text(), nullable=False),
        sa.Column("max_rank", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name=op.f("fk_versions_adapter_id_adapters")
        ),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base_models.id"], name=op.f("fk_versions_base_id_base_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("adapter_id", "number", name=op.f("uq_versions_adapter_id_number")),
    )
    op.create_index(op.f("ix_versions_base_id"), "versions", ["base_id"], unique=False)
    op.create_index(op.f("ix_versions_digest"), "versions", ["digest"], unique=False)
    op.create_index(
        "uq_versions_live_digest",
        "versions",
        ["adapter_id", "digest"],
        unique=True,
        sqlite_where=sa.text("state <> 'deleted'"),
        postgresql_where=sa.text("state <> 'deleted'"),
    )
    op.create_table(
        "aliases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name=op.f("fk_aliases_adapter_id_adapters")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_aliases_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sa.UniqueConstraint("adapter_id", "name", name=op.f("uq_aliases_adapter_id_name")),
    )
    op.create_index(op.f("ix_aliases_version_id"), "aliases", ["version_id"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("suite", sa.String(length=63), nullable=False),
        sa.Column("dataset_digest", sa.String(length=71), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("cost", sa.Text(), nullable=False),
        sa.Column("harness", sa.Text(), nullable=False),
        sa.Column("engine_profile", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base_models.id"], name=op.f("fk_evaluations_base_id_base_models")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_evaluations_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("ordinal", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("id", name=op.f("uq_evaluations_id")),
    )
    op.create_index(
        op.f("ix_evaluations_project_ordinal"), "evaluations", ["project", "ordinal"], unique=False
    )
    op.create_index(
        op.f("ix_evaluations_version_id_suite_ordinal"),
        "evaluations",
        ["version_id", "suite", "ordinal"],
        unique=False,
    )
    op.create_table(
        "alias_moves",
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("beneath", sa.Integer(), nullable=True),
        sa.Column("moved_by", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("moved_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alias_id"], ["aliases.id"], name=op.f("fk_alias_moves_alias_id_aliases")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_alias_moves_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("alias_id", "generation", name=op.f("pk_alias_moves")),
    )
    op.create_index(
        op.f("ix_alias_moves_alias_id_moved_at"),
        "alias_moves",
        ["alias_id", "moved_at"],
        unique=False,
    )
    op.create_table(
        "evaluation_metrics",
        sa.Column("evaluation", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.Column("num_items", sa.Integer(), nullable=False),
        sa.Column("low", sa.Float(precision=53), nullable=True),
        sa.Column("high", sa.Float(precision=53), nullable=True),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation"],
            ["evaluations.ordinal"],
            name=op.f("fk_evaluation_metrics_evaluation_evaluations"),
        ),
        sa.PrimaryKeyConstraint("evaluation", "name", name=op.f("pk_evaluation_metrics")),
    )


def drop_tables() -> None:
    """Drop the tables."""
    op.drop_table("evaluation_metrics")
    op.drop_index(op.f("ix_alias_moves_alias_id_moved_at"), table_name="alias_moves")
    op.drop_table("alias_moves")
    op.drop_index(op.f("ix_evaluations_version_id_suite_ordinal"), table_name="evaluations")
    op.drop_index(op.f("ix_evaluations_project_ordinal"), table_name="evaluations")
    op.drop_table("evaluations")
    op.drop_index(op.f("ix_aliases_version_id"), table_name="aliases")
    op.drop_table("aliases")
    op.drop_index(
        "uq_versions_live_digest",
        table_name="versions",
        sqlite_where=sa.text("state <> 'deleted'"),
        postgresql_where=sa.text("state <> 'deleted'"),
    )
    op.drop_index(op.f("ix_versions_digest"), table_name="versions")
    op.drop_index(op.f("ix_versions_base_id"), table_name="versions")
    op.drop_table("versions")
    op.drop_table("possessions")
    op.drop_index(op.f("ix_lineage_edges_project_parent"), table_name="lineage_edges")
    op.drop_table("lineage_edges")
    op.drop_index(op.f("ix_adapter_tags_tag"), table_name="adapter_tags")
    op.drop_table("adapter_tags")
    op.drop_table("requests")
    op.drop_table("lineage_nodes")
    op.drop_table("heartbeats")
    op.drop_table("counters")
    op.drop_table("changes")
    op.drop_table("blobs")
    op.drop_table("base_models")
    op.drop_index(op.f("ix_audit_events_project_sequence"), table_name="audit_events")
    op.drop_table("audit_events")
    op.drop_table("adapters")

"""The tables. Migrations make them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from loradock.registry.catalog.types import Json, Moment

NAME = String(63)
DIGEST = String(71)  # "sha256:" and 64 hex digits
WHO = String(256)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Rows that are locked to hand out gapless numbers: "changes", "audit".
counters = Table(
    "counters",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

base_models = Table(
    "base_models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("structural", DIGEST, nullable=False),
    Column("weights", DIGEST, nullable=False),
    Column("tokenizer", DIGEST, nullable=False),
    Column("architecture", Text, nullable=False),
    Column("modules", Json, nullable=False),
    Column("context_length", Integer, nullable=False),
    Column("num_parameters", BigInteger, nullable=False),
    Column("description", Text, nullable=False),
    Column("created_by", WHO, nullable=False),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("structural", "weights", "tokenizer"),
)

# A deleted adapter keeps its row, and so its counter: `a@7` never means two things.
adapters = Table(
    "adapters",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project", NAME, nullable=False),
    Column("name", NAME, nullable=False),
    Column("owner", WHO, nullable=False),
    Column("description", Text, nullable=False),
    Column("last_number", Integer, nullable=False),  # the counter of version numbers
    Column("num_versions", Integer, nullable=False),  # those not deleted
    Column("revision", Integer, nullable=False),  # bumped by each update: the etag
    Column("deleted", Boolean, nullable=False),
    Column("created_by", WHO, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    UniqueConstraint("project", "name"),
)

adapter_tags = Table(
    "adapter_tags",
    metadata,
    Column("adapter_id", ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", NAME, primary_key=True),
    Index(None, "tag"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("base_id", ForeignKey("base_models.id"), nullable=False),
    Column("weights_digest", DIGEST, nullable=False),
    Column("weights_size", BigInteger, nullable=False),
    Column("config_digest", DIGEST, nullable=False),
    Column("config_size", BigInteger, nullable=False),
    Column("manifest_size", BigInteger, nullable=False),
    Column("profile", Json, nullable=False),
    Column("lineage", Json, nullable=False),
    Column("modules", Json, nullable=False),
    Column("max_rank", Integer, nullable=False),
    Column("created_by", WHO, nullable=False),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("adapter_id", "number"),
    Index(None, "adapter_id", "state", "id"),  # what a search by tag or text reads of each adapter
    Index(None, "digest"),
    Index(None, "base_id"),
    Index(None, "weights_digest"),
    Index(None, "config_digest"),
)
# The same content is one version of an adapter, unless it was deleted in between.
Index(
    "uq_versions_live_digest",
    versions.c.adapter_id,
    versions.c.digest,
    unique=True,
    sqlite_where=text("state <> 'deleted'"),
    postgresql_where=text("state <> 'deleted'"),
)

# What keeps a version from being deleted though nothing points at it.
version_holds = Table(
    "version_holds",
    metadata,
    Column("version_id", ForeignKey("versions.id"), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("held_by", WHO, nullable=False),
    Column("held_at", Moment, nullable=False),
    Column("expires_at", Moment),  # null: until it is taken back
)

# A deleted alias keeps its row, and so its generation and its ledger.
aliases = Table(
    "aliases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    Column("name", NAME, nullable=False),
    Column("generation", Integer, nullable=False),  # of the ledger's last entry
    Column("version_id", ForeignKey("versions.id")),  # null: deleted, or not yet set
    UniqueConstraint("adapter_id", "name"),
    Index(None, "version_id"),
)

alias_moves = Table(
    "alias_moves",
    metadata,
    Column("alias_id", ForeignKey("aliases.id"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("version_id", ForeignKey("versions.id")),  # null: the alias was deleted
    Column("beneath", Integer),  # the generation that a rollback goes to
    Column("moved_by", WHO, nullable=False),
    Column("reason", Text, nullable=False),
    Column("moved_at", Moment, nullable=False),  # strictly rising within an alias
    PrimaryKeyConstraint("alias_id", "generation"),
    Index(None, "alias_id", "moved_at"),
)

# What a move says beside where it points: a share for a candidate. Releases before rollouts see a
# move to the version where the alias points already.
alias_splits = Table(
    "alias_splits",
    metadata,
    Column("alias_id", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("candidate_id", ForeignKey("versions.id"), nullable=False),
    Column("weight", Integer, nullable=False),  # basis points, as is the shadow
    Column("shadow", Integer, nullable=False),
    Column("salt", String(36), nullable=False),
    PrimaryKeyConstraint("alias_id", "generation"),
    ForeignKeyConstraint(
        ["alias_id", "generation"], ["alias_moves.alias_id", "alias_moves.generation"]
    ),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("alias_id", ForeignKey("aliases.id"), nullable=False),
    Column("incumbent_id", ForeignKey("versions.id"), nullable=False),
    Column("candidate_id", ForeignKey("versions.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("plan", Json, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("stage_at", Moment, nullable=False),
    Column("generation", Integer, nullable=False),  # the alias's, at this stage
    Column("sequence", BigInteger, nullable=False),  # the change that servers have to follow
    Column("reason", Text, nullable=False),  # what it was begun for
    Column("started_by", WHO, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),  # null: it goes on
    Column("state_reason", Text),  # null: it is as it was begun
    Column("state_by", WHO),
    Column("may_move_protected", Boolean),  # who began or resumed it; null: not known, so no
    Index(None, "alias_id", "started_at"),
)
_GOES_ON = text("ended_at IS NULL")
Index(
    "uq_rollouts_going_on",
    rollouts.c.alias_id,
    unique=True,
    sqlite_where=_GOES_ON,
    postgresql_where=_GOES_ON,
)

# What a server process has counted of an arm since the alias came to a generation.
arm_counts = Table(
    "arm_counts",
    metadata,
    Column("rollout_id", ForeignKey("rollouts.id"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("server_id", String(128), nullable=False),
    Column("arm", String(16), nullable=False),
    Column("counts", Json, nullable=False),
    PrimaryKeyConstraint("rollout_id", "generation", "server_id", "arm"),
)

# Work that exactly one process does at a time: who, and until when unless it says so again.
duties = Table(
    "duties",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("until", Moment, nullable=False),
)

# The last revision is in force; the others tell what was.
alias_policies = Table(
    "alias_policies",
    metadata,
    Column("alias_id", ForeignKey("aliases.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("demands", Json, nullable=False),
    Column("set_by", WHO, nullable=False),
    Column("reason", Text, nullable=False),
    Column("set_at", Moment, nullable=False),
    PrimaryKeyConstraint("alias_id", "revision"),
)

# Who approved of a version for an alias, and who took that back; a person's last word counts.
alias_approvals = Table(
    "alias_approvals",
    metadata,
    Column("ordinal", Integer, primary_key=True),
    Column("alias_id", ForeignKey("aliases.id"), nullable=False),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("approver", WHO, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Index(None, "alias_id", "version_id", "ordinal"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("ordinal", Integer, primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("project", NAME, nullable=False),
    Column("suite", NAME, nullable=False),
    Column("dataset_digest", DIGEST, nullable=False),
    Column("base_id", ForeignKey("base_models.id"), nullable=False),
    Column("version_id", ForeignKey("versions.id")),  # null: the base alone
    Column("cost", Json, nullable=False),
    Column("harness", Text, nullable=False),
    Column("engine_profile", Text, nullable=False),
    Column("created_by", WHO, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index(None, "version_id", "suite", "ordinal"),
    Index(None, "project", "ordinal"),
)
# By when it was measured: what a bundle brings is older than when it came.
NEWEST_EVALUATION_FIRST = (evaluations.c.created_at.desc(), evaluations.c.ordinal.desc())

evaluation_metrics = Table(
    "evaluation_metrics",
    metadata,
    Column("evaluation", ForeignKey("evaluations.ordinal"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("num_items", Integer, nullable=False),
    Column("low", Float(53)),
    Column("high", Float(53)),
    Column("direction", String(16), nullable=False),
    Index(None, "name", "value"),
)

# What each row of the dataset was worth; read only where versions are compared.
evaluation_items = Table(
    "evaluation_items",
    metadata,
    Column("evaluation", ForeignKey("evaluations.ordinal"), primary_key=True),
    Column("items", Json, nullable=False),
)

lineage_nodes = Table(
    "lineage_nodes",
    metadata,
    Column("project", NAME, primary_key=True),
    Column("id", DIGEST, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("label", Text, nullable=False),
)

lineage_edges = Table(
    "lineage_edges",
    metadata,
    Column("project", NAME, primary_key=True),
    Column("child", DIGEST, primary_key=True),
    Column("parent", DIGEST, primary_key=True),
    Column("kind", String(16), primary_key=True),
    ForeignKeyConstraint(["project", "child"], ["lineage_nodes.project", "lineage_nodes.id"]),
    ForeignKeyConstraint(["project", "parent"], ["lineage_nodes.project", "lineage_nodes.id"]),
    Index(None, "project", "parent"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("held_at", Moment),  # when somebody last sent it, or was about to refer to it
    Column("damaged_at", Moment),  # when verification found its bytes corrupt or gone
)

# Who has sent a blob's bytes. Others have to send them too: a digest alone proves nothing.
possessions = Table(
    "possessions",
    metadata,
    Column("project", NAME, primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    Column("since", Moment, nullable=False),
)

# Outcomes of mutations by request id, written in the mutation's own transaction.
requests = Table(
    "requests",
    metadata,
    Column("project", NAME, primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("payload_digest", DIGEST, nullable=False),
    Column("outcome", Json),
    Column("at", Moment, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("project", NAME, nullable=False),
    Column("adapter", NAME, nullable=False),
    Column("name", String(128), nullable=False),
    Column("at", Moment, nullable=False),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("server_id", String(128), primary_key=True),
    Column("address", Text, nullable=False),
    Column("base_name", NAME, nullable=False),
    Column("base_digests", Json, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("residencies", Json, nullable=False),
    Column("divergences", Json, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("drained", Boolean),  # null: its release doesn't tell
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("project", NAME, nullable=False),
    Column("subject", WHO, nullable=False),
    Column("action", String(64), nullable=False),
    Column("resource", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", Json, nullable=False),
    Column("hash", DIGEST),  # of the event and its predecessor's hash
    Index(None, "project", "sequence"),
)

"""The registry's nouns: immutable values, as the catalog gives them. They know no SQL, no wire."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from loradock.registry.arm_counts import ArmTally
from loradock.registry.split import Split

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BaseDigests:
    """The three digests by which a base is known, each `sha256:<hex>`."""

    structural: str
    weights: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """A linear module that an adapter may target."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base that versions are admitted for. Shared by all projects."""

    name: str  # "smollm2-135m-instruct"
    digests: BaseDigests
    architecture: str
    modules: Mapping[str, ModuleShape]
    context_length: int
    num_parameters: int
    description: str = ""
    created_by: str = ""
    created_at: datetime | None = None  # set by the catalog


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named series, one per task."""

    project: str
    name: str
    owner: str
    description: str
    tags: frozenset[str]
    num_versions: int
    etag: str
    created_by: str
    created_at: datetime
    updated_at: datetime


class VersionState(enum.Enum):
    """READY is born by a publish; YANKED is auditable, not resolvable; DELETED is a tombstone."""

    READY = "ready"
    YANKED = "yanked"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes by their digest."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The weights part of a version."""

    weights: BlobRef  # adapter_model.safetensors
    config: BlobRef  # adapter_config.json


@dataclass(frozen=True, slots=True)
class Decoding:
    """Defaults of a profile; None leaves it to the server."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """How a version is asked: template around the content, decoding defaults, labels."""

    template: str | None = None  # Jinja with names only, rendered with `content`
    system: str | None = None
    labels: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that a version was trained on, known by digest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version came from, as its publisher says. Part of its identity."""

    parents: tuple[str, ...] = ()  # digests of versions of the same project, as the next two
    datasets: tuple[Dataset, ...] = ()
    training: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    merge_of: tuple[str, ...] = ()  # whose weights were merged into this
    distilled_from: tuple[str, ...] = ()  # whose answers it was trained on

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that this one came from, each once."""
        return tuple(dict.fromkeys((*self.parents, *self.merge_of, *self.distilled_from)))


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One module's share of a version: `y += scaling * (x @ A.T) @ B.T`."""

    module: str
    rank: int
    scaling: float
    a_key: str
    b_key: str


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps a version from being deleted though nothing points at it."""

    reason: str
    held_by: str
    held_at: datetime
    expires_at: datetime | None  # None: until it is taken back


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable numbered state of an adapter, known by its digest."""

    project: str
    adapter: str
    number: int
    digest: str  # of the canonical manifest
    state: VersionState
    base: BaseModel
    delta: Delta
    profile: Profile
    lineage: Lineage
    modules: tuple[LoraModule, ...]
    max_rank: int
    created_by: str
    created_at: datetime
    state_reason: str = ""
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did."""

    version: Version
    created: bool


class MoveKind(enum.Enum):
    """How an alias came to point where it does."""

    SET = "set"
    ROLLBACK = "rollback"
    DELETE = "delete"
    SPLIT = "split"  # a share goes to a candidate; the version stays


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of an alias's ledger."""

    generation: int
    kind: MoveKind
    version_number: int | None  # None after a delete
    version_digest: str | None
    moved_by: str
    reason: str
    moved_at: datetime
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version."""

    project: str
    adapter: str
    name: str
    version_number: int
    version_digest: str
    previous_number: int | None  # where a rollback would go
    previous_digest: str | None
    generation: int
    moved_by: str
    moved_at: datetime
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference meant at one moment."""

    version: Version
    alias: str | None  # None for `@7` and `@sha256:…`
    generation: int | None


class Direction(enum.Enum):
    """Which way of a metric is better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured value with how sure it is."""

    name: str
    value: float
    num_items: int
    low: float | None  # 95 % interval
    high: float | None
    direction: Direction = Direction.HIGHER


@dataclass(frozen=True, slots=True)
class ItemScores:
    """What each item of the dataset was worth; the scores' mean is the metric's value."""

    ids: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]  # by metric, in the order of the ids


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An append-only record of one measurement of a version, or of a base alone."""

    id: str
    project: str
    suite: str
    dataset_digest: str
    base_digests: BaseDigests
    base_name: str
    adapter: str | None  # None: the base alone
    version_number: int | None
    version_digest: str | None
    metrics: tuple[Metric, ...]
    cost: Mapping[str, float]  # tokens, seconds
    harness: str  # "loradock 0.1.0"
    engine_profile: str  # the precision it ran in: "cpu/float32"
    created_by: str
    created_at: datetime
    items: ItemScores | None = None  # not in lists

    def metric(self, name: str) -> Metric | None:
        """Find what was measured under a name."""
        return next((metric for metric in self.metrics if metric.name == name), None)


class NodeKind(enum.Enum):
    """What a node of the lineage graph stands for."""

    BASE = "base"
    VERSION = "version"
    DATASET = "dataset"
    TRAINING = "training"


class EdgeKind(enum.Enum):
    """What one node is to another: `child` <kind> `parent`."""

    BASE = "base"
    PARENT = "parent"
    DATASET = "dataset"
    TRAINING = "training"
    MERGE_OF = "merge-of"
    DISTILLED_FROM = "distilled-from"


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A thing that versions come from, or a version."""

    kind: NodeKind
    id: str  # a digest; for a training run the digest of its canonical facts
    label: str  # "support-triage@2", "smollm2-135m-instruct", a dataset's name


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """`child` came from `parent` in the way `kind` says."""

    kind: EdgeKind
    child: str
    parent: str


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """What is up- or downstream of one node."""

    root: str
    nodes: Sequence[LineageNode]
    edges: Sequence[LineageEdge]


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the catalog-wide change sequence, in commit order without gaps for a reader."""

    sequence: int
    kind: str  # "alias", "version", "adapter", "base"
    project: str
    adapter: str
    name: str  # the alias, or the version's digest


@dataclass(frozen=True, slots=True)
class Residency:
    """One version on one server."""

    digest: str
    state: str  # "resident", "loading", "failed", …
    size_bytes: int
    leases: int
    reason: str = ""
    project: str = ""  # empty, as the adapter, if an earlier release told it
    adapter: str = ""

    def is_of(self, project: str, adapter: str, digest: str) -> bool:
        """Say whether it may be this version: content alone is not, another adapter may have it."""
        return (
            self.digest == digest
            and self.project in ("", project)
            and self.adapter in ("", adapter)
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a running server says of itself every few seconds."""

    server_id: str
    address: str
    base_name: str
    base_digests: BaseDigests
    sequence: int  # the last change it has applied
    residencies: tuple[Residency, ...]
    divergences: tuple[str, ...]  # desired is not live: why, a sentence each
    started_at: datetime
    seen_at: datetime | None = None  # set by the catalog
    tallies: tuple[ArmTally, ...] = ()  # of the arms of splits; not given back
    drained: bool = False  # it refuses what is new


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; an empty token ends it."""

    items: Sequence[T]
    next_page_token: str

"""What the registry holds: bases, adapters, versions and aliases."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class BaseDigests:
    """The three digests by which a base is known, each `sha256:<hex>`."""

    structural: str
    weights: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """A linear module of a base that an adapter may target."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base that versions are admitted for. Shared by all projects."""

    name: str  # "baseModels/smollm2-135m-instruct"
    digests: BaseDigests
    architecture: str
    modules: Mapping[str, ModuleShape]  # empty in lists
    context_length_tokens: int
    num_parameters: int
    description: str
    created_by: str
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class RegisteredBase:
    """A base after its registration; `created` is False if the same was there already."""

    base_model: BaseModel
    created: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named series of versions, one per task."""

    project: str
    name: str  # "support-triage"
    owner: str
    description: str
    tags: tuple[str, ...]
    num_versions: int
    etag: str
    created_by: str
    created_at: datetime | None
    updated_at: datetime | None


class VersionState(enum.Enum):
    """Whether a version can be resolved."""

    UNSPECIFIED = "unspecified"
    READY = "ready"
    YANKED = "yanked"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes, known by their digest."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding defaults of a profile; None leaves it to the server."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """How a version is asked."""

    template: str | None = None  # text around `{{ content }}`, the same as in training
    system: str | None = None
    labels: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows, known by their digest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version came from. Part of its identity."""

    parents: tuple[str, ...] = ()  # digests of versions
    datasets: tuple[Dataset, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    merge_of: tuple[str, ...] = ()  # digests of versions whose weights were merged into this
    distilled_from: tuple[str, ...] = ()  # digests of versions whose answers it was trained on


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps a version from being deleted though nothing points at it."""

    reason: str
    held_by: str
    held_at: datetime | None
    expires_at: datetime | None  # None: until it is taken back


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable numbered state of an adapter; `digest` is its identity everywhere."""

    project: str
    adapter: str
    number: int
    digest: str
    state: VersionState
    state_reason: str
    base_model: str  # "baseModels/smollm2-135m-instruct"
    base_digests: BaseDigests
    weights: Blob
    config: Blob
    profile: Profile
    lineage: Lineage
    num_modules: int
    max_rank: int
    created_by: str
    created_at: datetime | None
    hold: Hold | None = None

    @property
    def reference(self) -> str:
        """What to write to mean exactly this version: `support-triage@2`."""
        return f"{self.adapter}@{self.number}"


@dataclass(frozen=True, slots=True)
class Published:
    """A version after its push; `created` is False if the adapter had this content already."""

    version: Version
    created: bool
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference means now; no alias for a reference by number or digest."""

    version: Version
    alias: str | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class Split:
    """How an alias's requests are shared out while a rollout goes on."""

    candidate_number: int
    candidate_digest: str
    percent: float  # of the requests, to the candidate
    shadow_percent: float  # of the others, which it computes too, unseen


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version."""

    project: str
    adapter: str
    name: str  # "production"
    version_number: int
    version_digest: str
    previous_number: int | None  # where a rollback would go
    previous_digest: str | None
    etag: str
    generation: int
    moved_by: str
    moved_at: datetime | None
    split: Split | None = None


class MoveKind(enum.Enum):
    """How an alias came to point where it does."""

    UNSPECIFIED = "unspecified"
    SET = "set"
    ROLLBACK = "rollback"
    DELETE = "delete"
    SPLIT = "split"  # a share goes to a candidate; the version stays


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of an alias's ledger; no version after a delete."""

    generation: int
    kind: MoveKind
    version_number: int | None
    version_digest: str | None
    moved_by: str
    reason: str
    moved_at: datetime | None
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """How far the live servers have followed an alias; `reasons` tell why the others have not."""

    num_servers: int
    num_following: int
    reasons: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Tell whether every live server answers with the new version."""
        return self.num_following == self.num_servers


@dataclass(frozen=True, slots=True)
class AliasChange:
    """An alias after its move; `following` is None unless the call waited."""

    alias: Alias
    following: Following | None


@dataclass(frozen=True, slots=True)
class MetricFilter:
    """Lets through what has a version whose latest evaluation in a suite compares so."""

    suite: str
    metric: str
    comparison: Literal["at_least", "at_most"]
    value: float


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far one file of a push or pull is."""

    file: str
    done_bytes: int
    total_bytes: int

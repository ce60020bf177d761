"""How good a version is, and where it came from."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loradock.client._values.registry import BaseDigests, VersionState


class MetricDirection(enum.Enum):
    """Which way of a metric is better."""

    UNSPECIFIED = "unspecified"
    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured value; `low` and `high` bound the 95 % interval."""

    name: str
    value: float
    num_items: int
    low: float | None = None
    high: float | None = None
    direction: MetricDirection = MetricDirection.HIGHER


@dataclass(frozen=True, slots=True)
class ItemScores:
    """What each item of the dataset was worth; the scores' mean is the metric's value."""

    ids: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]  # by metric, in the order of the ids


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An append-only record of one measurement of a version, or of a base alone."""

    project: str
    id: str
    suite: str
    dataset_digest: str
    base_model: str
    base_digests: BaseDigests
    adapter: str | None  # None where the base alone was measured
    version_number: int | None
    version_digest: str | None
    metrics: tuple[Metric, ...]
    cost: Mapping[str, float]  # "tokens", "seconds", …
    harness: str
    engine_profile: str
    created_by: str
    created_at: datetime | None
    items: ItemScores | None = None  # if they were recorded; not in lists


class LineageKind(enum.Enum):
    """What a node stands for, or what the parent is to the child."""

    UNSPECIFIED = "unspecified"
    BASE = "base"
    VERSION = "version"
    PARENT = "parent"
    DATASET = "dataset"
    TRAINING = "training"
    MERGE_OF = "merge-of"
    DISTILLED_FROM = "distilled-from"


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A version, a base, a dataset or a training run."""

    kind: LineageKind
    id: str  # a digest
    label: str


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """`child` came from `parent`; both are ids of nodes."""

    kind: LineageKind
    child: str
    parent: str


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """What a walk from `root` found."""

    root: str
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]


@dataclass(frozen=True, slots=True)
class AffectedAlias:
    """An alias that sends requests to an affected version, or did within its rollback window."""

    adapter: str
    alias: str
    left_at: datetime | None  # None while requests go there


@dataclass(frozen=True, slots=True)
class AffectedVersion:
    """A version that came of what was asked for, and where it answers."""

    adapter: str
    number: int
    digest: str
    state: VersionState
    aliases: tuple[AffectedAlias, ...]
    servers: tuple[str, ...]  # ids of those that have it resident


@dataclass(frozen=True, slots=True)
class Affected:
    """All that came of `root`."""

    root: str
    versions: tuple[AffectedVersion, ...]

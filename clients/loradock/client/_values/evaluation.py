"""How good a version is, and where it came from."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loradock.client._values.registry import BaseDigests


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


class LineageKind(enum.Enum):
    """What a node stands for, or what the parent is to the child."""

    UNSPECIFIED = "unspecified"
    BASE = "base"
    VERSION = "version"
    PARENT = "parent"
    DATASET = "dataset"
    TRAINING = "training"


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

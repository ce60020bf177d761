"""What lists can be narrowed by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loradock.registry.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class MetricFilter:
    """Lets through versions whose latest evaluation in a suite compares so."""

    suite: str
    name: str
    op: str  # ">=" or "<="
    value: float

    def __post_init__(self) -> None:
        if self.op not in (">=", "<="):
            raise InvalidArgument("metric.op", f"{self.op!r} is neither '>=' nor '<='")
        if not math.isfinite(self.value):
            raise InvalidArgument("metric.value", f"{self.value} is not finite")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list lets through; what is empty lets everything through."""

    base: str = ""
    tag: str = ""
    text: str = ""
    metric: MetricFilter | None = None
    derived_from: str = ""  # the digest of a dataset, a version, or a base's identity

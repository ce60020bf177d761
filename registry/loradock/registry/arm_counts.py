"""What is counted of one arm of a split: calls, errors, and latencies in a histogram.

Counts add up over servers and stages. A bucket is a fifth wide: its lower edge times 2^(1/4) is its
upper one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loradock.registry.split import Arm

SHORTEST_S = 1e-4
STEPS_A_DOUBLING = 4
LAST_BUCKET = 100  # over an hour


@dataclass(frozen=True, slots=True)
class ArmTally:
    """What one server process counted of an arm since the alias came to a generation."""

    rollout_id: str
    generation: int
    arm: Arm
    counts: ArmCounts


@dataclass(slots=True)
class ArmCounts:
    """Counters of one arm. Whoever fills them owns them."""

    num_calls: int = 0
    num_errors: int = 0
    latencies: dict[int, int] = field(default_factory=dict)  # bucket to calls that did not fail
    num_agreed: int = 0  # shadows that gave the caller's answer
    num_differed: int = 0
    tokens_before_difference: int = 0  # summed over those that differed
    num_dropped: int = 0  # shadows that a busy server did not compute

    def add_call(self, seconds: float, *, failed: bool) -> None:
        """Count one call; how long a failure took says nothing of answers."""
        self.num_calls += 1
        if failed:
            self.num_errors += 1
        else:
            bucket = bucket_of(seconds)
            self.latencies[bucket] = self.latencies.get(bucket, 0) + 1

    def quantile_s(self, share: float) -> float | None:
        """Give about the latency that a share of the calls stayed below; None without calls."""
        total = sum(self.latencies.values())
        if not total:
            return None
        return middle_of(bucket_at(self.latencies, max(1, math.ceil(share * total))))


def total_of(counts: Iterable[ArmCounts]) -> ArmCounts:
    """Add counts up."""
    total = ArmCounts()
    for one in counts:
        total.num_calls += one.num_calls
        total.num_errors += one.num_errors
        total.num_agreed += one.num_agreed
        total.num_differed += one.num_differed
        total.tokens_before_difference += one.tokens_before_difference
        total.num_dropped += one.num_dropped
        for bucket, calls in one.latencies.items():
            total.latencies[bucket] = total.latencies.get(bucket, 0) + calls
    return total


def bucket_of(seconds: float) -> int:
    """Find a latency's bucket."""
    if seconds <= SHORTEST_S:
        return 0
    return min(LAST_BUCKET, math.floor(math.log2(seconds / SHORTEST_S) * STEPS_A_DOUBLING))


def lower_edge(bucket: int) -> float:
    """Give the shortest latency of a bucket."""
    return SHORTEST_S * math.pow(2.0, bucket / STEPS_A_DOUBLING)


def upper_edge(bucket: int) -> float:
    """Give the latency above a bucket."""
    return lower_edge(bucket + 1)


def middle_of(bucket: int) -> float:
    """Give a bucket's geometric middle."""
    return math.sqrt(lower_edge(bucket) * upper_edge(bucket))


def bucket_at(latencies: Mapping[int, int], rank: int) -> int:
    """Find the bucket of the call that is `rank`-th by latency, counted from 1."""
    seen = 0
    for bucket in sorted(latencies):
        seen += latencies[bucket]
        if seen >= rank:
            return bucket
    raise IndexError(rank)

"""Guards: whether a candidate is worse than the incumbent, and how sure that is.

A guard breaks on a one-sided bound, not on what happens to be measured: with few calls the bound is
far from the measurement, so that chance aborts nothing.

* Errors: the lower bound of the difference of two shares, by Newcombe's hybrid of Wilson's score
  intervals (method 10 in R. G. Newcombe, Statistics in Medicine 17, 1998, pages 873-890).
* Latency: the lower bound of the candidate's quantile over the upper bound of the incumbent's, each
  free of any distribution, from the ranks that the binomial law leaves for a quantile
  (W. J. Conover, Practical Nonparametric Statistics, 3rd edition, 1999, section 3.2).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from loradock.registry.arm_counts import ArmCounts, bucket_at, lower_edge, upper_edge

QUANTILES = {"latency_p50": 0.5, "latency_p95": 0.95}


@dataclass(frozen=True, slots=True)
class Guards:
    """When a rollout is taken back."""

    max_error_increase: float = 0.01  # of the share of calls that fail
    max_latency_ratio: float = 1.5  # at the median and at the 95th percentile
    min_calls: int = 20  # of each arm
    confidence: float = 0.999  # one-sided


class GuardState(enum.Enum):
    """What a guard concludes."""

    WAITING = "waiting"  # too few calls
    PASSED = "passed"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class GuardReport:
    """How near a guard is to its limit."""

    guard: str
    state: GuardState
    value: float | None  # as measured
    bound: float | None  # what is exceeded with the demanded confidence
    limit: float
    message: str


def judge_arms(
    guards: Guards, candidate: ArmCounts, incumbent: ArmCounts
) -> tuple[GuardReport, ...]:
    """Hold a candidate against the incumbent, guard by guard."""
    z = NormalDist().inv_cdf(guards.confidence)
    return (
        _judge_errors(guards, "errors", candidate, incumbent, z),
        *(
            _judge_latency(guards, name, share, candidate, incumbent, z)
            for name, share in QUANTILES.items()
        ),
    )


def judge_shadow(guards: Guards, shadow: ArmCounts, incumbent: ArmCounts) -> GuardReport:
    """Hold what failed of a candidate's shadows against the incumbent.

    Of their latency nothing is concluded: they have what callers leave over.
    """
    z = NormalDist().inv_cdf(guards.confidence)
    return _judge_errors(guards, "shadow_errors", shadow, incumbent, z)


def _judge_errors(
    guards: Guards, name: str, candidate: ArmCounts, incumbent: ArmCounts, z: float
) -> GuardReport:
    limit, few = guards.max_error_increase, min(candidate.num_calls, incumbent.num_calls)
    if few < guards.min_calls:
        return _waiting(name, few, guards, limit)
    ours = candidate.num_errors / candidate.num_calls
    theirs = incumbent.num_errors / incumbent.num_calls
    bound = difference_bound(
        candidate.num_errors, candidate.num_calls, incumbent.num_errors, incumbent.num_calls, z
    )
    told = (
        f"{candidate.num_errors} of {candidate.num_calls} calls fail, against "
        f"{incumbent.num_errors} of {incumbent.num_calls}"
    )
    return _concluded(name, ours - theirs, bound, limit, told)


def _judge_latency(
    guards: Guards,
    name: str,
    share: float,
    candidate: ArmCounts,
    incumbent: ArmCounts,
    z: float,
) -> GuardReport:
    limit = guards.max_latency_ratio
    few = min(sum(candidate.latencies.values()), sum(incumbent.latencies.values()))
    if few < guards.min_calls:
        return _waiting(name, few, guards, limit)
    ours, theirs = candidate.quantile_s(share), incumbent.quantile_s(share)
    assert ours is not None and theirs is not None
    bound = quantile_floor(candidate.latencies, share, z) / quantile_ceiling(
        incumbent.latencies, share, z
    )
    told = f"{ours:.3g} s, against {theirs:.3g} s"
    return _concluded(name, ours / theirs, bound, limit, told)


def _waiting(name: str, few: int, guards: Guards, limit: float) -> GuardReport:
    told = f"{few} of {guards.min_calls} calls that are needed of each arm"
    return GuardReport(name, GuardState.WAITING, None, None, limit, told)


def _concluded(name: str, value: float, bound: float, limit: float, told: str) -> GuardReport:
    state = GuardState.BROKEN if bound > limit else GuardState.PASSED
    return GuardReport(name, state, value, bound, limit, told)


def difference_bound(ours: int, num_ours: int, theirs: int, num_theirs: int, z: float) -> float:
    """Give what the difference of two shares, ours less theirs, exceeds."""
    share, other = ours / num_ours, theirs / num_theirs
    low, _ = wilson(ours, num_ours, z)
    _, high = wilson(theirs, num_theirs, z)
    return share - other - math.hypot(share - low, high - other)


def wilson(count: int, total: int, z: float) -> tuple[float, float]:
    """Give Wilson's score interval of a share."""
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def quantile_floor(latencies: Mapping[int, int], share: float, z: float) -> float:
    """Give what a quantile of latencies exceeds; 0 where there are too few to say."""
    total = sum(latencies.values())
    rank = math.floor(total * share - z * math.sqrt(total * share * (1 - share)))
    return 0.0 if rank < 1 else lower_edge(bucket_at(latencies, rank))


def quantile_ceiling(latencies: Mapping[int, int], share: float, z: float) -> float:
    """Give what a quantile of latencies stays below; infinite where there are too few to say."""
    total = sum(latencies.values())
    rank = math.ceil(total * share + z * math.sqrt(total * share * (1 - share))) + 1
    return math.inf if rank > total else upper_edge(bucket_at(latencies, rank))

"""Whether a version is shown to be not much worse than another: a test of non-inferiority.

Shown means: the one-sided 95 % bound of the difference does not lie beyond the margin. The burden
of proof is the candidate's, as is usual where a margin says how much worse is bearable: see the ICH
guideline E9, "Statistical Principles for Clinical Trials" (1998), section 3.3.2. Three ways, the
first that the records allow:

* paired, if both were scored item by item on the same items. The spread of the items' own
  differences is what counts, and most of it cancels out. For scores of 0 and 1 the bound is that of
  Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
  Based on Paired Data" (Journal of Educational and Behavioral Statistics 37, 2012), which also
  holds for few items and few disagreements; for other scores it is Student's paired t.
* intervals, if both have one: as if of two independent samples, which is wider than need be.
* points, if nothing is known of the spread: the values alone are compared, and the check says so.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

from loradock.registry.resources import Direction, ItemScores, Metric

LEVEL = 0.95
MIN_ITEMS = 5  # fewer pairs say nothing about their spread
_Z = NormalDist().inv_cdf(LEVEL)
_Z_OF_INTERVALS = NormalDist().inv_cdf(0.975)


class Method(enum.Enum):
    """What a comparison rests on."""

    PAIRED = "paired"
    INTERVALS = "intervals"
    POINTS = "points"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better a version is than another; negative is worse, whichever way is better."""

    method: Method
    difference: float
    bound: float  # the difference is at least this, with 95 % confidence; the difference of points
    num_items: int  # that were paired


@dataclass(frozen=True, slots=True)
class Scored:
    """A metric with the scores that it is the mean of, where they were recorded."""

    metric: Metric
    items: ItemScores | None


def compare(candidate: Scored, incumbent: Scored, direction: Direction) -> Comparison:
    """Compare two records of one metric on one dataset."""
    sign = 1.0 if direction is Direction.HIGHER else -1.0
    pairs = _pairs(candidate, incumbent)
    if len(pairs) >= MIN_ITEMS:
        return _paired([sign * (mine - other) for mine, other in pairs], _are_shares(pairs))
    difference = sign * (candidate.metric.value - incumbent.metric.value)
    errors = [_standard_error(scored.metric) for scored in (candidate, incumbent)]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return Comparison(Method.POINTS, difference, difference, 0)
    bound = difference - _Z * math.hypot(*known)
    return Comparison(Method.INTERVALS, difference, bound, 0)


def _pairs(candidate: Scored, incumbent: Scored) -> list[tuple[float, float]]:
    """Pair the scores by item; none unless both have the very same items."""
    mine, other = _scores(candidate), _scores(incumbent)
    if mine.keys() != other.keys():
        return []
    return [(score, other[item]) for item, score in mine.items()]


def _scores(scored: Scored) -> Mapping[str, float]:
    if scored.items is None:
        return {}
    scores = scored.items.scores.get(scored.metric.name, ())
    return dict(zip(scored.items.ids, scores, strict=False))


def _are_shares(pairs: Sequence[tuple[float, float]]) -> bool:
    return all(score in (0.0, 1.0) for pair in pairs for score in pair)


def _paired(differences: Sequence[float], are_shares: bool) -> Comparison:
    count, mean = len(differences), fmean(differences)
    if are_shares:
        bound = _bonett_price_bound(differences)
    else:
        bound = mean - _t_quantile(count - 1) * math.sqrt(variance(differences) / count)
    return Comparison(Method.PAIRED, mean, bound, count)


def _bonett_price_bound(differences: Sequence[float]) -> float:
    size = len(differences) + 2
    better = (sum(difference > 0 for difference in differences) + 1) / size
    worse = (sum(difference < 0 for difference in differences) + 1) / size
    middle = better - worse
    return middle - _Z * math.sqrt((better + worse - middle**2) / size)


def _t_quantile(freedom: int) -> float:
    """Expand Student's quantile around the normal one (Abramowitz and Stegun, 26.7.5).

    Off by less than 2e-3 from four degrees of freedom on.
    """
    z, n = _Z, freedom
    terms = (
        z,
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
    )
    return sum(terms)


def _standard_error(metric: Metric) -> float | None:
    if metric.low is None or metric.high is None:
        return None
    return (metric.high - metric.low) / (2 * _Z_OF_INTERVALS)

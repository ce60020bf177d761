"""How sure a measured value is. Intervals are at 95 %."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, fmean

Z_95 = NormalDist().inv_cdf(0.975)
NUM_RESAMPLES = 2000


def wilson_interval(num_right: int, num_items: int) -> tuple[float, float]:
    """Give the Wilson score interval of a share; it holds at 0 and 1 too."""
    share, square = num_right / num_items, Z_95 * Z_95
    middle = share + square / (2 * num_items)
    half = Z_95 * math.sqrt(share * (1 - share) / num_items + square / (4 * num_items**2))
    scale = 1 + square / num_items
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Give the percentile bootstrap interval of a mean, the same at every call."""
    draw = random.Random(0)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    edge = round(NUM_RESAMPLES * 0.025)
    return means[edge], means[-1 - edge]

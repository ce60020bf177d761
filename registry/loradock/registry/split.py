"""Splits: which arm of an alias answers a key. Deterministic over servers, and monotone.

A key has a point that depends on the rollout's salt alone, and the candidate takes the points below
its weight: raising the weight moves keys from the incumbent to the candidate, and none back.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

WHOLE = 10_000  # basis points: a weight is a share in hundredths of a per cent


class Arm(enum.Enum):
    """Who computes a request that asks an alias."""

    INCUMBENT = "incumbent"
    CANDIDATE = "candidate"
    SHADOW = "shadow"  # the candidate too, where nobody sees or waits for it


@dataclass(frozen=True, slots=True)
class Split:
    """How an alias's requests are shared out, in basis points."""

    candidate_number: int
    candidate_digest: str
    weight: int
    shadow: int  # of the requests that the incumbent answers
    salt: str  # the rollout's id

    def arm_of(self, key: str) -> Arm:
        """Say which arm answers a key."""
        return Arm.CANDIDATE if point_of("arm", self.salt, key) < self.weight else Arm.INCUMBENT

    def is_shadowed(self, request_id: str) -> bool:
        """Whether the candidate computes a copy of a request that the incumbent answers."""
        return point_of("shadow", self.salt, request_id) < self.shadow


def point_of(*parts: str) -> int:
    """Give the point of some text, uniform over 0 to 9999."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8]) * WHOLE >> 64

"""What is stored, and whether it is as the catalog says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class GarbageKind(enum.Enum):
    """What was left over."""

    UNSPECIFIED = "unspecified"
    BLOB = "blob"  # bytes that no version has
    POSSESSION = "possession"  # a project's claim to bytes that only others' versions have
    ORPHAN = "orphan"  # bytes that the catalog never heard of
    UNFINISHED = "unfinished"  # a write that was begun and never ended


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that was, or would be, taken away."""

    kind: GarbageKind
    name: str  # a digest, "project/digest", or a key of the store
    size_bytes: int


class DamageKind(enum.Enum):
    """What is wrong with stored bytes."""

    UNSPECIFIED = "unspecified"
    CORRUPT = "corrupt"  # they do not hash to their name
    MISSING = "missing"  # the catalog speaks of them, and they are not there
    ORPHAN = "orphan"  # the catalog does not speak of them; garbage collection takes them
    STRANGER = "stranger"  # no blob would be called so; nobody touches it


@dataclass(frozen=True, slots=True)
class Damage:
    """One object that is not as the catalog says."""

    kind: DamageKind
    name: str
    detail: str
    referrers: tuple[str, ...]  # the first versions that it belongs to


@dataclass(frozen=True, slots=True)
class Verification:
    """How far a verification is; `damages` are those found since it last told."""

    num_blobs: int
    size_bytes: int
    damages: tuple[Damage, ...]

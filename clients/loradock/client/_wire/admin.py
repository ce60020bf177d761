"""Garbage and damage, from messages."""

from __future__ import annotations

from loradock.client._values import admin as values
from loradock.client._wire.scalars import enum_of
from loradock.v1 import admin_service_pb2 as wire


def garbage_of(message: wire.Garbage) -> values.Garbage:
    """Read what was taken away."""
    kind = enum_of(values.GarbageKind, wire.GarbageKind, message.kind, "GARBAGE_KIND_")
    return values.Garbage(kind, message.name, message.size_bytes)


def verification_of(message: wire.VerifyBlobsResponse) -> values.Verification:
    """Read how far a verification is, and what it found."""
    return values.Verification(
        num_blobs=message.num_blobs,
        size_bytes=message.size_bytes,
        damages=tuple(_damage_of(damage) for damage in message.damages),
    )


def _damage_of(message: wire.Damage) -> values.Damage:
    kind = enum_of(values.DamageKind, wire.DamageKind, message.kind, "DAMAGE_KIND_")
    return values.Damage(kind, message.name, message.detail, tuple(message.referrers))

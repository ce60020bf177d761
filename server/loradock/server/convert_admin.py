"""Garbage and damage to messages."""

from __future__ import annotations

from loradock.registry import garbage as garbage_nouns
from loradock.registry import integrity as integrity_nouns
from loradock.v1 import admin_service_pb2 as wire

_GARBAGE = {
    garbage_nouns.GarbageKind.BLOB: wire.GARBAGE_KIND_BLOB,
    garbage_nouns.GarbageKind.POSSESSION: wire.GARBAGE_KIND_POSSESSION,
    garbage_nouns.GarbageKind.ORPHAN: wire.GARBAGE_KIND_ORPHAN,
    garbage_nouns.GarbageKind.UNFINISHED: wire.GARBAGE_KIND_UNFINISHED,
}
_DAMAGE = {
    integrity_nouns.DamageKind.CORRUPT: wire.DAMAGE_KIND_CORRUPT,
    integrity_nouns.DamageKind.MISSING: wire.DAMAGE_KIND_MISSING,
    integrity_nouns.DamageKind.ORPHAN: wire.DAMAGE_KIND_ORPHAN,
    integrity_nouns.DamageKind.STRANGER: wire.DAMAGE_KIND_STRANGER,
}


def garbage(noun: garbage_nouns.Garbage) -> wire.Garbage:
    """Write what was taken away."""
    return wire.Garbage(kind=_GARBAGE[noun.kind], name=noun.name, size_bytes=noun.size_bytes)


def verified(noun: integrity_nouns.Verified) -> wire.VerifyBlobsResponse:
    """Write how far a verification is, and what it found."""
    return wire.VerifyBlobsResponse(
        num_blobs=noun.num_blobs,
        size_bytes=noun.size_bytes,
        damages=[
            wire.Damage(
                kind=_DAMAGE[damage.kind],
                name=damage.name,
                detail=damage.detail,
                referrers=damage.referrers,
            )
            for damage in noun.damages
        ],
    )

"""Garbage, damage and audit events to messages."""

from __future__ import annotations

from loradock.registry import garbage as garbage_nouns
from loradock.registry import integrity as integrity_nouns
from loradock.registry.resources import AuditEvent, AuditReport
from loradock.server.convert_registry import timestamp
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


def audit_event(noun: AuditEvent) -> wire.AuditEvent:
    """Write what was done."""
    return wire.AuditEvent(
        sequence=noun.sequence,
        at=timestamp(noun.at),
        project=noun.project,
        subject=noun.subject,
        action=noun.action,
        resource=noun.resource,
        reason=noun.reason,
        details=dict(noun.details),
        hash=noun.hash,
    )


def audit_report(noun: AuditReport) -> wire.VerifyAuditResponse:
    """Write what following the chain came to."""
    return wire.VerifyAuditResponse(
        num_events=noun.num_events,
        head=wire.AuditHead(sequence=noun.head_sequence, hash=noun.head_hash),
        breaks=[wire.AuditBreak(sequence=b.sequence, what=b.what) for b in noun.breaks],
    )

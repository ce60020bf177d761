"""Garbage, damage, findings and audit events to messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version as release_of

from loradock.registry import garbage as garbage_nouns
from loradock.registry import integrity as integrity_nouns
from loradock.registry.audit_chain import AuditEvent, AuditReport
from loradock.registry.bundle.importing import Imported
from loradock.registry.diagnosis import Finding, Level
from loradock.server.services.convert_registry import timestamp
from loradock.v1 import admin_service_pb2 as wire

_GARBAGE = {
    garbage_nouns.GarbageKind.BLOB: wire.GARBAGE_KIND_BLOB,
    garbage_nouns.GarbageKind.POSSESSION: wire.GARBAGE_KIND_POSSESSION,
    garbage_nouns.GarbageKind.ORPHAN: wire.GARBAGE_KIND_ORPHAN,
    garbage_nouns.GarbageKind.UNFINISHED: wire.GARBAGE_KIND_UNFINISHED,
    garbage_nouns.GarbageKind.VERSION: wire.GARBAGE_KIND_VERSION,
}
_DAMAGE = {
    integrity_nouns.DamageKind.CORRUPT: wire.DAMAGE_KIND_CORRUPT,
    integrity_nouns.DamageKind.MISSING: wire.DAMAGE_KIND_MISSING,
    integrity_nouns.DamageKind.ORPHAN: wire.DAMAGE_KIND_ORPHAN,
    integrity_nouns.DamageKind.STRANGER: wire.DAMAGE_KIND_STRANGER,
}


_LEVEL = {
    Level.OK: wire.FINDING_LEVEL_OK,
    Level.WARN: wire.FINDING_LEVEL_WARN,
    Level.FAIL: wire.FINDING_LEVEL_FAIL,
}


def diagnosis(findings: Sequence[Finding], at: datetime) -> wire.DiagnoseResponse:
    """Write what a look at a server came to."""
    return wire.DiagnoseResponse(
        findings=[
            wire.Finding(
                subject=finding.subject,
                level=_LEVEL[finding.level],
                message=finding.message,
                facts=finding.facts,
            )
            for finding in findings
        ],
        at=timestamp(at),
        release=release_of("loradock"),
    )


def imported(noun: Imported) -> wire.ImportBundleResponse:
    """Write what an import did."""
    return wire.ImportBundleResponse(
        versions=[
            wire.ImportedVersion(
                digest=version.digest,
                source=version.source,
                reference=version.reference,
                created=version.created,
            )
            for version in noun.versions
        ],
        base_models=noun.base_models,
        num_evaluations=noun.num_evaluations,
        aliases=noun.aliases,
    )


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

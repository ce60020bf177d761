"""Garbage, damage and audit events, from and to messages."""

from __future__ import annotations

from loradock.client._values import admin as values
from loradock.client._wire.built import built
from loradock.client._wire.scalars import duration, enum_of, time_of
from loradock.v1 import admin_service_pb2 as wire


def garbage_of(message: wire.Garbage) -> values.Garbage:
    """Read what was taken away."""
    kind = enum_of(values.GarbageKind, wire.GarbageKind, message.kind, "GARBAGE_KIND_")
    return values.Garbage(kind, message.name, message.size_bytes)


def retention_message(keep_last: int | None, keep_younger_s: float | None) -> wire.Retention | None:
    """Write which versions are kept; None if none are to go."""
    if keep_last is None and keep_younger_s is None:
        return None
    younger = None if keep_younger_s is None else duration(keep_younger_s)
    return built(wire.Retention, keep_last=keep_last, keep_younger=younger)


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


def diagnosis_of(message: wire.DiagnoseResponse) -> values.Diagnosis:
    """Read what a server found."""
    return values.Diagnosis(
        findings=tuple(
            values.Finding(
                finding.subject,
                enum_of(values.FindingLevel, wire.FindingLevel, finding.level, "FINDING_LEVEL_"),
                finding.message,
                dict(sorted(finding.facts.items())),
            )
            for finding in message.findings
        ),
        at=time_of(message, "at"),
        release=message.release,
    )


def imported_of(message: wire.ImportBundleResponse) -> values.Imported:
    """Read what an import did."""
    return values.Imported(
        versions=tuple(
            values.ImportedVersion(v.digest, v.source, v.reference, v.created)
            for v in message.versions
        ),
        base_models=tuple(message.base_models),
        num_evaluations=message.num_evaluations,
        aliases=tuple(message.aliases),
    )


def audit_event_of(message: wire.AuditEvent) -> values.AuditEvent:
    """Read what was done."""
    return values.AuditEvent(
        sequence=message.sequence,
        at=time_of(message, "at"),
        project=message.project,
        subject=message.subject,
        action=message.action,
        resource=message.resource,
        reason=message.reason,
        details=dict(sorted(message.details.items())),
        hash=message.hash,
    )


def audit_report_of(message: wire.VerifyAuditResponse) -> values.AuditReport:
    """Read what following the chain came to."""
    return values.AuditReport(
        num_events=message.num_events,
        head=values.AuditHead(message.head.sequence, message.head.hash),
        breaks=tuple(values.AuditBreak(b.sequence, b.what) for b in message.breaks),
    )


def audit_head_message(head: values.AuditHead | None) -> wire.AuditHead | None:
    """Write a head that was told earlier."""
    return None if head is None else built(wire.AuditHead, sequence=head.sequence, hash=head.hash)

"""Audit events, and how each one's hash covers it and, through its predecessor's, all before it.

How `link` writes them is on disk in every catalog: it can't change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loradock.registry.manifest import canonical_json, digest_bytes

GENESIS = "sha256:" + "0" * 64  # what comes before the first event


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who did what, when and why. Append-only."""

    sequence: int
    at: datetime
    project: str
    subject: str
    action: str  # "alias.set", "version.yank", "alias.override"
    resource: str
    reason: str
    details: Mapping[str, str]
    hash: str  # covers the event and, through its predecessor's, all before it


@dataclass(frozen=True, slots=True)
class AuditBreak:
    """A place where the audit log is not as it was written."""

    sequence: int
    what: str  # "edited", "missing", or "rewritten": not what it was when its hash was noted


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The whole log, followed from its first event to its last."""

    num_events: int
    head_sequence: int
    head_hash: str  # who keeps it elsewhere can tell later that nothing up to here was changed
    breaks: tuple[AuditBreak, ...]  # the first ones


def link(
    previous: str,
    sequence: int,
    at_us: int,  # microseconds since 1970
    project: str,
    subject: str,
    action: str,
    resource: str,
    reason: str,
    details: Mapping[str, str],
) -> str:
    """Give the hash of an event that follows another."""
    fields = [sequence, at_us, project, subject, action, resource, reason, dict(details)]
    return digest_bytes(canonical_json([previous, *fields]))

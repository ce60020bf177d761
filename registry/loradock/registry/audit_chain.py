"""How an audit event's hash covers the event and, through its predecessor's, all before it.

What is written here is on disk in every catalog: it can't change.
"""

from __future__ import annotations

from collections.abc import Mapping

from loradock.registry.manifest import canonical_json, digest_bytes

GENESIS = "sha256:" + "0" * 64  # what comes before the first event


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

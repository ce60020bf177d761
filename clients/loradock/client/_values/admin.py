"""What is stored, whether it is as the catalog says, and what was done."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


class GarbageKind(enum.Enum):
    """What was left over."""

    UNSPECIFIED = "unspecified"
    BLOB = "blob"  # bytes that no version has
    POSSESSION = "possession"  # a project's claim to bytes that only others' versions have
    ORPHAN = "orphan"  # bytes that the catalog never heard of
    UNFINISHED = "unfinished"  # a write that was begun and never ended
    VERSION = "version"  # one that the retention does not keep


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that was, or would be, taken away."""

    kind: GarbageKind
    name: str  # a digest, "project/digest", a key of the store, or "adapter@number"
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


class FindingLevel(enum.Enum):
    """What a finding calls for."""

    UNSPECIFIED = "unspecified"
    OK = "ok"
    WARN = "warn"  # it works, and somebody should know
    FAIL = "fail"  # it does not work, or soon won't


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one thing came to."""

    subject: str  # "catalog", "store", …
    level: FindingLevel
    message: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a server found when it looked at all that it stands on."""

    findings: tuple[Finding, ...]
    at: datetime | None  # the server's clock
    release: str


@dataclass(frozen=True, slots=True)
class ImportedVersion:
    """A version of a bundle, and what it is here."""

    digest: str
    source: str  # "support-triage@7", where it comes from
    reference: str  # here; empty if nothing was published
    created: bool


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, or would do."""

    versions: tuple[ImportedVersion, ...]
    base_models: tuple[str, ...]  # made known here
    num_evaluations: int  # not here before
    aliases: tuple[str, ...]  # moved


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who did what, when and why. It can't be changed."""

    sequence: int  # over all projects
    at: datetime | None
    project: str
    subject: str
    action: str  # "alias.set", "version.yank", …
    resource: str
    reason: str
    details: Mapping[str, str]
    hash: str  # covers the event and, through its predecessor's, all before it


@dataclass(frozen=True, slots=True)
class AuditHead:
    """An event by place and hash; kept elsewhere, it proves that nothing up to it was changed."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class AuditBreak:
    """A place where the log is not as it was written."""

    sequence: int
    what: str  # "edited", "missing" or "rewritten"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The whole log, followed from its first event to its last; whole if nothing breaks it."""

    num_events: int
    head: AuditHead
    breaks: tuple[AuditBreak, ...]

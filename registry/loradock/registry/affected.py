"""What a dataset, a base or a version has come into, and where that answers now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from loradock.registry.resources import VersionState


@dataclass(frozen=True, slots=True)
class AffectedAlias:
    """An alias that points at an affected version, or did so within its rollback window."""

    adapter: str
    alias: str
    version_number: int
    left_at: datetime | None  # None: it points there


@dataclass(frozen=True, slots=True)
class AffectedVersion:
    """A version that came of what was asked for."""

    adapter: str
    number: int
    digest: str
    state: VersionState
    aliases: tuple[AffectedAlias, ...]
    servers: tuple[str, ...]  # that have it resident, by their heartbeats


@dataclass(frozen=True, slots=True)
class Affected:
    """All of it."""

    root: str
    versions: tuple[AffectedVersion, ...]

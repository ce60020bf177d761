"""What an inference server needs of the catalog, and all it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from loradock.registry.names import Reference
from loradock.registry.resources import Alias, Change, Resolved


class CatalogReader(Protocol):
    """Reads; raises CatalogUnavailable, never anything else, when the catalog does not answer."""

    def resolve(self, project: str, reference: Reference) -> Resolved:
        """Say what a reference means now. NotFound, VersionYanked or CatalogUnavailable."""

    def alias(self, project: str, adapter: str, alias: str) -> Alias:
        """Give an alias as it stands. NotFound or CatalogUnavailable."""

    def changes_since(self, sequence: int, limit: int = 1000) -> Sequence[Change]:
        """List what happened after a change, in order; none is ever skipped."""

    def latest_sequence(self) -> int:
        """Give the number of the last change."""

"""Moves an alias on this server alone, while the catalog is down; reconciles when it is back.

The decision is on disk before it takes effect, is reported as divergent while it stands, and ends
in the catalog's audit: applied, if the alias was not moved meanwhile; otherwise the catalog wins.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import replace
from datetime import UTC, datetime

from loradock.registry.errors import CatalogUnavailable, InvalidArgument, NotFound, RegistryError
from loradock.registry.registry import Registry
from loradock.server.errors import CatalogAnswers, NotResidentHere
from loradock.server.follow import Follower
from loradock.server.live import AliasKey, Live, LiveAlias
from loradock.server.names import alias_name
from loradock.server.override_log import Override, OverrideLog
from loradock.server.residency import Residencies
from loradock.server.threads import Threads

log = logging.getLogger(__name__)


class Overrides:
    """Takes and reconciles overrides. Belongs to the event loop's thread."""

    def __init__(
        self,
        registry: Registry,
        live: Live,
        residencies: Residencies,
        follower: Follower,
        threads: Threads,
        decisions: OverrideLog,
    ) -> None:
        self._registry = registry
        self._live = live
        self._residencies = residencies
        self._follower = follower
        self._threads = threads
        self._log = decisions
        self._reconciling = asyncio.Lock()

    async def override(
        self, key: AliasKey, digest: str | None, reason: str, subject: str
    ) -> LiveAlias:
        """Answer an alias with another resident version; None is the alias's previous one."""
        if not reason.strip():
            raise InvalidArgument("reason", "is needed: it is audited")
        current = self._live.get(key)
        await self._refuse_if_catalog_answers(key)
        if current is None:
            raise CatalogUnavailable(f"{alias_name(*key)} was never asked for on this server")
        wanted = digest or current.previous_digest
        if wanted is None:
            raise InvalidArgument("previous", "the alias has nothing earlier to go back to")
        version = self._residencies.version(wanted)
        if version is None or (version.project, version.adapter) != key[:2]:
            raise NotResidentHere(wanted)
        decision = Override(
            id=uuid.uuid4().hex,
            at=datetime.now(UTC).isoformat(),
            subject=subject,
            project=key[0],
            adapter=key[1],
            alias=key[2],
            from_digest=current.version.digest,
            to_digest=version.digest,
            to_number=version.number,
            generation=current.generation,
            reason=reason,
        )
        await self._threads.run(self._log.append, decision)
        why = f"overridden by {subject}: {reason}"
        live = replace(current, version=version, is_overridden=True, reason=why)
        self._live.put(key, live)
        log.warning("alias overridden", extra={"facts": {"alias": alias_name(*key), "why": why}})
        return live

    async def _refuse_if_catalog_answers(self, key: AliasKey) -> None:
        try:
            await self._threads.run(self._registry.reader.latest_sequence)
        except CatalogUnavailable:
            return
        raise CatalogAnswers(alias_name(*key))

    async def reconcile(self) -> None:
        """Bring every open decision to its end; what the catalog can't take now stays open."""
        async with self._reconciling:
            for decision in await self._threads.run(self._log.open_ones):
                try:
                    outcome = await self._threads.run(self._settle, decision)
                except CatalogUnavailable:
                    return
                await self._threads.run(self._log.close, decision, outcome)
                self._clear((decision.project, decision.adapter, decision.alias))
                log.warning("override reconciled: %s", outcome)

    def _settle(self, decision: Override) -> str:
        self._audit(decision, "alias.override", decision.reason, {})
        outcome = self._apply(decision)
        self._audit(decision, "alias.override.reconcile", decision.reason, {"outcome": outcome})
        return outcome

    def _apply(self, decision: Override) -> str:
        """Make the decision the catalog's, if the alias is where the decision found it."""
        key = (decision.project, decision.adapter, decision.alias)
        try:
            alias = self._registry.aliases.get(*key)
            if alias.generation != decision.generation:
                return f"the catalog wins: it is at generation {alias.generation} by now"
            self._move(key, alias.previous_digest == decision.to_digest, decision)
        except CatalogUnavailable:
            raise
        except NotFound:
            return "the catalog wins: the alias is gone"
        except RegistryError as error:
            return f"the catalog wins: {error}"
        return "applied"

    def _move(self, key: AliasKey, is_rollback: bool, decision: Override) -> None:
        reason = f"override on a server while the catalog was down: {decision.reason}"
        if is_rollback:
            self._registry.aliases.rollback(
                *key,
                expected_generation=decision.generation,
                reason=reason,
                by=decision.subject,
                request_id=decision.id,
            )
        else:
            self._registry.aliases.set(
                *key,
                version_number=decision.to_number,
                expected_generation=decision.generation,
                reason=reason,
                by=decision.subject,
                request_id=decision.id,
            )

    def _audit(self, decision: Override, action: str, reason: str, details: dict[str, str]) -> None:
        known = {
            "override_id": decision.id,
            "decided_at": decision.at,
            "from": decision.from_digest,
            "to": decision.to_digest,
        }
        resource = alias_name(decision.project, decision.adapter, decision.alias)
        self._registry.audit.append(
            decision.project, decision.subject, action, resource, reason, known | details
        )

    def _clear(self, key: AliasKey) -> None:
        current = self._live.get(key)
        if current is not None:
            self._live.put(key, replace(current, is_overridden=False))
            self._follower.follow(key)

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

from loradock.registry.errors import (
    CatalogUnavailable,
    InvalidArgument,
    NotFound,
    RegistryError,
    VersionYanked,
)
from loradock.registry.names import check_text
from loradock.registry.registry import Registry
from loradock.registry.resources import VersionState
from loradock.server.aliases.follow import Follower
from loradock.server.aliases.live import ANSWER_S, AliasKey, Live, LiveAlias
from loradock.server.aliases.override_log import Override, OverrideLog
from loradock.server.errors import CatalogAnswers, NotResidentHere
from loradock.server.residency.residencies import Residencies
from loradock.server.services.names import alias_name
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

MAX_REASON_CHARS = 4096
SETTLE_S = 5.0  # what did not come to its end by then stays open


class Overrides:
    """Takes and reconciles overrides. Belongs to the event loop's thread."""

    def __init__(
        self,
        registry: Registry,
        live: Live,
        residencies: Residencies,
        follower: Follower,
        threads: Threads,
        own_threads: Threads,
        decisions: OverrideLog,
    ) -> None:
        """Ask the catalog on `threads`; write on the others, which no catalog can hold up."""
        self._registry = registry
        self._live = live
        self._residencies = residencies
        self._follower = follower
        self._threads = threads
        self._own_threads = own_threads
        self._log = decisions
        self._turn = asyncio.Lock()  # of what writes decisions
        self._has_open = True  # as far as is known: an earlier process may have left some
        self._reconciling: asyncio.Task[None] | None = None

    async def override(
        self, key: AliasKey, digest: str | None, reason: str, subject: str
    ) -> LiveAlias:
        """Answer an alias with another resident version; None is the alias's previous one."""
        if not check_text("reason", reason, MAX_REASON_CHARS).strip():
            raise InvalidArgument("reason", "is needed: it is audited")
        async with self._turn:
            await self._refuse_if_catalog_answers(key)
            return await self._override(key, digest, reason, subject)

    async def _override(
        self, key: AliasKey, digest: str | None, reason: str, subject: str
    ) -> LiveAlias:
        current = self._live.get(key)
        if current is None:
            raise CatalogUnavailable(f"{alias_name(*key)} was never asked for on this server")
        wanted = digest or current.previous_digest
        if wanted is None:
            raise InvalidArgument("previous", "the alias has nothing earlier to go back to")
        version = self._residencies.version(key[0], key[1], wanted)
        if version is None:
            raise NotResidentHere(wanted)
        if version.state is VersionState.YANKED:
            raise VersionYanked(f"{version.adapter}@{version.number}", version.state_reason)
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
        self._has_open = True
        await self._own_threads.run(self._log.append, decision)
        why = f"overridden by {subject}: {reason}"
        live = replace(current, version=version, is_overridden=True, reason=why, split=None)
        self._live.put(key, live)
        log.warning("alias overridden", extra={"facts": {"alias": alias_name(*key), "why": why}})
        return live

    async def _refuse_if_catalog_answers(self, key: AliasKey) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._threads.run(self._registry.reader.latest_sequence)
        except (CatalogUnavailable, TimeoutError):
            return
        raise CatalogAnswers(alias_name(*key))

    async def start(self) -> None:
        """Reconcile what an earlier process left; what fails is tried again, beside requests."""
        try:
            await self.reconcile()
        except Exception:
            log.exception("overrides were not reconciled")

    def catalog_answers(self) -> None:
        """Reconcile what is open, beside everything else. Cheap where nothing is."""
        if self._has_open and self._reconciling is None:
            self._reconciling = asyncio.create_task(self.reconcile())
            self._reconciling.add_done_callback(self._reconciled)

    def _reconciled(self, task: asyncio.Task[None]) -> None:
        self._reconciling = None
        if not task.cancelled() and task.exception() is not None:
            log.error("overrides were not reconciled", exc_info=task.exception())

    async def reconcile(self) -> None:
        """Bring every open decision to its end; what the catalog can't take now stays open."""
        async with self._turn:
            open_ones = await self._own_threads.run(self._log.open_ones)
            last = {decision.key: decision for decision in open_ones}
            for decision in open_ones:
                is_last = decision is last[decision.key]
                try:
                    async with asyncio.timeout(SETTLE_S):
                        outcome = await self._threads.run(self._settle, decision, is_last)
                except (CatalogUnavailable, TimeoutError):
                    return
                await self._own_threads.run(self._log.close, decision, outcome)
                log.warning("override reconciled: %s", outcome)
                if is_last:
                    self._clear(decision.key)
            self._has_open = False

    def _settle(self, decision: Override, is_last: bool) -> str:
        self._audit(decision, "alias.override", decision.reason, {})
        outcome = self._apply(decision) if is_last else "superseded by a later override"
        self._audit(decision, "alias.override.reconcile", decision.reason, {"outcome": outcome})
        return outcome

    def _apply(self, decision: Override) -> str:
        """Make the decision the catalog's, if the alias is where the decision found it."""
        try:
            alias = self._registry.aliases.get(*decision.key)
            if alias.version_digest == decision.to_digest and alias.split is None:
                return "applied"  # by an attempt that broke off, or by somebody else
            if alias.generation != decision.generation:
                return f"the catalog wins: it is at generation {alias.generation} by now"
            self._move(alias.previous_digest == decision.to_digest, decision)
        except CatalogUnavailable:
            raise
        except NotFound:
            return "the catalog wins: the alias is gone"
        except RegistryError as error:
            return f"the catalog wins: {error}"
        return "applied"

    def _move(self, is_rollback: bool, decision: Override) -> None:
        # The one who decided had the role and gave a reason, as it takes to override a policy, and
        # to move what one protects.
        reason = f"override on a server while the catalog was down: {decision.reason}"
        if is_rollback:
            self._registry.aliases.rollback(
                *decision.key,
                expected_generation=decision.generation,
                reason=reason,
                by=decision.subject,
                request_id=decision.id,
                override_gate=True,
                may_move_protected=True,
            )
        else:
            self._registry.aliases.set(
                *decision.key,
                version_number=decision.to_number,
                expected_generation=decision.generation,
                reason=reason,
                by=decision.subject,
                request_id=decision.id,
                override_gate=True,
                may_move_protected=True,
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
            decision.project,
            decision.subject,
            action,
            resource,
            reason,
            known | details,
            request_id=f"{decision.id}.{action}",  # an attempt that broke off may come again
        )

    def _clear(self, key: AliasKey) -> None:
        current = self._live.get(key)
        if current is not None:
            self._live.put(key, replace(current, is_overridden=False))
            self._follower.follow(key)

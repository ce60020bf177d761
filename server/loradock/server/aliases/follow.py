"""Follows the catalog's changes: brings a new version in beside the old one, and only then flips.

What can't be brought in leaves the live table as it is, with the reason, and is tried again. Knows
nothing of requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from loradock.registry.errors import (
    CatalogUnavailable,
    NotFound,
    RegistryError,
    VersionYanked,
)
from loradock.registry.reader import CatalogReader
from loradock.registry.resources import Alias, Change, Version, VersionState
from loradock.server.aliases.candidates import Candidates
from loradock.server.aliases.live import ANSWER_S, AliasKey, Live, LiveAlias, LiveSplit, live_alias
from loradock.server.errors import ServerError
from loradock.server.residency.residencies import Residencies
from loradock.server.services.names import alias_name
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

RETRY_S = 1.0
ROOM_WAIT_S = 5.0  # then it is told, and tried again
CHANGES_A_TIME = 1000


class Follower:
    """Keeps the live table at the catalog's word. Belongs to the event loop's thread."""

    def __init__(
        self,
        reader: CatalogReader,
        live: Live,
        residencies: Residencies,
        threads: Threads,
        *,
        interval_s: float,
        rollback_window_s: float,
    ) -> None:
        self._reader = reader
        self._live = live
        self._residencies = residencies
        self._candidates = Candidates(residencies)
        self._threads = threads
        self._interval_s = interval_s
        self._rollback_window_s = rollback_window_s
        self._seen = 0
        self._pending: dict[AliasKey, int] = {}  # the first change not yet applied
        self._tasks: dict[AliasKey, asyncio.Task[None]] = {}
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._nudge = asyncio.Event()
        self._asking: asyncio.Task[Sequence[Change]] | None = None
        self.catalog = live.catalog
        self.on_applied: Callable[[], None] = lambda: None
        self.on_catalog_answers: Callable[[], None] = lambda: None  # again and again
        live.on_first_use = self._keep_previous

    @property
    def catalog_answers(self) -> bool:
        """Whether the catalog answered when it was last asked."""
        return not self.catalog.goes_on

    @property
    def applied_sequence(self) -> int:
        """The last change up to which everything was applied, or has failed and is reported."""
        return min(self._pending.values(), default=self._seen + 1) - 1

    def nudge(self) -> None:
        """Look for changes now. From the event loop's thread."""
        self._nudge.set()

    async def start(self) -> None:
        """Begin at the present: what was never asked for needs no following."""
        self._seen = await self._threads.run(self._reader.latest_sequence)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._nudge.wait()
                self._nudge.clear()
                await self._look()
        finally:
            asking = () if self._asking is None else (self._asking,)
            for task in (*self._tasks.values(), *self._side_tasks, *asking):
                task.cancel()

    async def _look(self) -> None:
        """Look once. Whatever goes wrong, the next look comes."""
        try:
            await self._poll()
            self._residencies.sweep()
        except Exception:
            log.exception("looking for changes failed")

    async def _poll(self) -> None:
        try:
            changes = await self._changes()
        except RegistryError as error:
            self.catalog.begin(str(error))
            return
        self.catalog.end()
        self.on_catalog_answers()
        before = self.applied_sequence
        for change in changes:
            self._seen = change.sequence
            self._take(change)
        if len(changes) == CHANGES_A_TIME:
            self._nudge.set()
        if self.applied_sequence != before:
            self.on_applied()

    async def _changes(self) -> Sequence[Change]:
        """Ask what is new; `CatalogUnavailable` also if the answer is long in coming.

        It is waited for again the next time: a catalog that hangs holds up one thread, not all.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(
                self._threads.run(self._reader.changes_since, self._seen, CHANGES_A_TIME)
            )
        await asyncio.wait({self._asking}, timeout=ANSWER_S)
        if not self._asking.done():
            raise CatalogUnavailable(f"it has not answered for {ANSWER_S:g} seconds")
        asking, self._asking = self._asking, None
        return asking.result()

    def _take(self, change: Change) -> None:
        if change.kind == "alias":
            key = (change.project, change.adapter, change.name)
            if self._live.is_tracked(key):
                self._pending.setdefault(key, change.sequence)
                self.follow(key)
        elif change.kind == "version":
            self._live.forget_version(change.name)
            for version in self._residencies.remembered(change.project, change.name):
                self._beside(partial(self._read_again, version))
            for key in self._live.aliases_of(change.name):
                self._pending.setdefault(key, change.sequence)
                self.follow(key)

    def follow(self, key: AliasKey) -> None:
        """Bring one alias up to date, dropping what an earlier attempt still waits for."""
        earlier = self._tasks.pop(key, None)
        if earlier is not None:
            earlier.cancel()
        self._tasks[key] = task = asyncio.create_task(self._follow(key))
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: AliasKey, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and task.exception() is not None:
            log.error("following %s failed", key, exc_info=task.exception())

    async def _follow(self, key: AliasKey) -> None:
        while True:
            try:
                async with self._live.turn(key):
                    await self._bring_up_to_date(key)
            except CatalogUnavailable:
                await asyncio.sleep(self._interval_s)
            except Exception as error:
                self._diverge(key, error)
                self._applied(key)
                await asyncio.sleep(getattr(error, "retry_after_s", RETRY_S))
            else:
                self._applied(key)
                return

    async def _bring_up_to_date(self, key: AliasKey) -> None:
        try:
            alias = await self._threads.run(self._reader.alias, *key)
        except NotFound:
            self._live.drop(key)
            await self._candidates.let_go(key)
            return
        current = self._live.get(key)
        if current is None or current.is_overridden:
            return
        aimed = replace(current, desired_digest=alias.version_digest, desired_split=alias.split)
        self._live.put(key, aimed)
        await self._bring_version(key, alias, current)
        await self._bring_candidate(key, alias)

    async def _bring_version(self, key: AliasKey, alias: Alias, current: LiveAlias) -> None:
        if alias.version_digest == current.version.digest:
            self._flip(key, alias, await self._present_state(current.version))
            return
        version = await self._live.version(key[0], key[1], alias.version_digest)
        async with self._residencies.lease(version, room_wait_s=ROOM_WAIT_S):
            version = await self._live.version(key[0], key[1], version.digest)  # yanked meanwhile?
            self._flip(key, alias, version)

    async def _bring_candidate(self, key: AliasKey, alias: Alias) -> None:
        """Give a candidate its share once it is resident; until then all goes to the incumbent."""
        if alias.split is None:
            await self._candidates.let_go(key)
            return
        try:
            candidate = await self._live.version(key[0], key[1], alias.split.candidate_digest)
            await self._candidates.bring_in(key, candidate, room_wait_s=ROOM_WAIT_S)
        except Exception:
            self._share(key, None)
            raise
        self._share(key, LiveSplit(candidate, alias.split))

    def _share(self, key: AliasKey, split: LiveSplit | None) -> None:
        current = self._live.get(key)
        if current is not None and not current.is_overridden:
            self._live.put(key, replace(current, split=split))
        if split is not None:
            candidate, weight = split.candidate.digest, split.split.weight
            facts = {"alias": "/".join(key), "candidate": candidate, "basis_points": weight}
            log.info("alias split", extra={"facts": facts})

    def _flip(self, key: AliasKey, alias: Alias, version: Version) -> None:
        current = self._live.get(key)
        if current is None or current.is_overridden:
            return
        self._live.put(key, live_alias(alias, version, _carried(current, alias)))
        if version.digest == current.version.digest:
            return
        if not self._live.is_live(current.version):
            self._residencies.keep(current.version, self._rollback_window_s)
        facts = {
            "alias": "/".join(key),
            "generation": alias.generation,
            "digest": version.digest,
            "from_digest": current.version.digest,
        }
        log.info("alias flipped", extra={"facts": facts})

    async def _present_state(self, version: Version) -> Version:
        try:
            return await self._live.version(version.project, version.adapter, version.digest)
        except VersionYanked as error:
            return replace(version, state=VersionState.YANKED, state_reason=error.reason)

    def _diverge(self, key: AliasKey, error: Exception) -> None:
        current = self._live.get(key)
        if current is None:
            return
        is_known = isinstance(error, RegistryError | ServerError)
        why = str(error) if is_known else "unexpected error; see the server's log"
        self._live.put(key, replace(current, reason=why))
        facts = {"alias": "/".join(key)}
        log.warning(
            "alias can't follow: %s",
            why,
            extra={"facts": facts},
            exc_info=None if is_known else error,
        )

    def _applied(self, key: AliasKey) -> None:
        if self._pending.pop(key, None) is not None:
            self.on_applied()

    def _keep_previous(self, key: AliasKey, alias: Alias) -> None:
        """Hold, for the rest of its rollback window, what a freshly used alias may go back to.

        Of one that is split, the candidate is brought in.
        """
        if alias.split is not None:
            self.follow(key)
        self._beside(partial(self._bring_previous, key, alias))

    def _beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(self._until_answered(work))
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    async def _until_answered(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Try what asks the catalog until it answers: nobody else may ask for it again."""
        with suppress(RegistryError, ServerError):
            while True:
                with suppress(CatalogUnavailable):
                    return await work()
                await asyncio.sleep(self._interval_s)

    async def _read_again(self, version: Version) -> None:
        """See whether what is here was yanked: an override asks when the catalog can't be asked."""
        self._residencies.renew(await self._present_state(version))

    async def _bring_previous(self, key: AliasKey, alias: Alias) -> None:
        age_s = (datetime.now(UTC) - alias.moved_at).total_seconds()
        left_s = self._rollback_window_s - age_s
        if alias.previous_digest is None or left_s <= 0:
            return
        version = await self._live.version(key[0], key[1], alias.previous_digest)
        async with self._residencies.lease(version, room_wait_s=ROOM_WAIT_S):
            self._residencies.keep(version, left_s)


def _carried(current: LiveAlias, alias: Alias) -> LiveSplit | None:
    """Keep the shares as they are while the candidate stays: no key leaves its arm in between."""
    split, wanted = current.split, alias.split
    if split is None or wanted is None or split.split.salt != wanted.salt:
        return None
    return split


def divergence(key: AliasKey, live: LiveAlias, table: Live) -> str:
    """Say in a sentence, after its name, why an alias is not answered as the catalog wants."""
    name, why = alias_name(*key), live.reason or "it is being brought in"
    number = table.number(key[0], key[1], live.desired_digest)
    wants = live.desired_digest if number is None else f"@{number} ({live.desired_digest})"
    serves = f"@{live.version.number} ({live.version.digest})"
    if live.desired_split is not None:
        wanted = live.desired_split
        wants += f" and {wanted.weight / 100:g} % by @{wanted.candidate_number}"
    if live.split is not None:
        serves += f" and {live.split.split.weight / 100:g} % by @{live.split.candidate.number}"
    return f"{name}: wants {wants}, serves {serves}: {why}"

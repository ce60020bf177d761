"""Which versions are in memory, and who holds them there.

A version's way: LOADING (fetched to disk, room taken, verified and made resident, all off the step
loop; single flight) to RESIDENT, or to FAILED with a reason and a back-off; DRAINING while it is
let go but still leased. Knows neither aliases nor the wire.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from loradock.engine.protocol import Engine
from loradock.registry.resources import Residency as ReportedResidency
from loradock.registry.resources import Version
from loradock.server.errors import (
    AdapterLoadFailed,
    AdapterMemoryFull,
    AdapterTooLarge,
    QueueFull,
    ServerError,
)
from loradock.server.residency.disk_cache import DiskCache
from loradock.server.residency.eviction import GreedyDual
from loradock.server.residency.integrity import violations
from loradock.server.residency.loader import Loader
from loradock.server.residency.place import (
    ABSENT,
    CACHED,
    DRAINING,
    FAILED,
    LOADING,
    RESIDENT,
    Lease,
    Place,
    is_known,
    key_of,
    told,
)
from loradock.server.residency.room import Key, Room
from loradock.server.telemetry import spans
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

MAX_PLACES = 1024  # remembered of what is not in memory
FORGET_S = 600.0  # a failure that nobody asked about again
ROOM_POLL_S = 0.1
WAITING = "requests for versions not here yet"

__all__ = ["ABSENT", "CACHED", "DRAINING", "FAILED", "LOADING", "RESIDENT", "Lease", "Residencies"]


class Residencies:
    """The versions of one engine, within a budget of bytes. Belongs to the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        cache: DiskCache,
        threads: Threads,
        *,
        budget_bytes: int,
        max_waiting: int,
        is_live: Callable[[Version], bool],
        is_pinned: Callable[[Version], bool],
    ) -> None:
        """Let at most `max_waiting` requests, but always one, wait for versions not here yet."""
        self._engine = engine
        self.cache = cache
        self.room = Room(budget_bytes, self._make_free)
        self._loader = Loader(engine, cache, self.room, threads)
        self._max_waiting = max_waiting
        self._is_live = is_live
        self.is_pinned = is_pinned
        self._places: dict[Key, Place] = {}
        self._greedy_dual = GreedyDual()
        self._num_waiting = 0
        self._num_leases = 0
        self.num_loads = 0
        self.num_failed_loads = 0
        self.num_evictions = 0
        self.load_seconds = dict.fromkeys(("fetch", "verify", "activate"), 0.0)  # of all loads

    def version(self, project: str, adapter: str, digest: str) -> Version | None:
        """Give a version that the next step can use."""
        place = self._places.get((project, adapter, digest))
        return place.version if place is not None and place.is_in_engine else None

    def versions(self, project: str, digest: str) -> list[Version]:
        """List a project's versions of one content that the next step can use."""
        return [
            place.version
            for (owner, _, content), place in self._places.items()
            if (owner, content) == (project, digest) and place.is_in_engine
        ]

    def remembered(self, project: str, digest: str) -> list[Version]:
        """List a project's versions of one content that are here, or were."""
        return [
            place.version
            for (owner, _, content), place in self._places.items()
            if (owner, content) == (project, digest)
        ]

    def renew(self, version: Version) -> None:
        """Note the present state of a version that is remembered here."""
        place = self._places.get(key_of(version))
        if place is not None:
            place.version = version

    def place(self, version: Version) -> Place:
        """Tell one version's place, also of one that was never here."""
        return self._places.get(key_of(version)) or Place(version)

    def places(self) -> list[Place]:
        """List what is in memory, on its way, on disk or has failed, as far as is remembered."""
        return [place for place in self._places.values() if self.state_of(place) != ABSENT]

    def state_of(self, place: Place) -> str:
        """Say how near a version is to the next step."""
        if place.state == ABSENT and self.cache.has(place.version.delta.weights.digest):
            return CACHED
        return place.state

    def report(self) -> tuple[ReportedResidency, ...]:
        """Tell the catalog what is in memory, on its way, or has failed."""
        return tuple(
            ReportedResidency(
                p.digest,
                p.state,
                p.size_bytes,
                p.num_leases,
                p.reason,
                p.version.project,
                p.version.adapter,
            )
            for p in self._places.values()
            if p.state != ABSENT
        )

    @asynccontextmanager
    async def lease(self, version: Version, *, room_wait_s: float = 0.0) -> AsyncIterator[Lease]:
        """Hold a version resident, bringing it in if need be. The one place that gives back.

        Where there is no room, wait so long for somebody else's hold to end; then raise
        `AdapterMemoryFull`.
        """
        started = time.monotonic()
        place = self._known(version)
        place.num_leases += 1
        self._num_leases += 1
        lease = Lease(place)
        try:
            await self._usable(place, started + room_wait_s)
            lease.waited_s = time.monotonic() - started
            yield lease
        finally:
            place.touch()
            lease.when_over(lambda: self._give_back(place))

    async def bring_in(self, version: Version, *, room_wait_s: float = 0.0) -> None:
        """Make a version resident. Idempotent."""
        async with self.lease(version, room_wait_s=room_wait_s):
            pass

    async def prefetch(self, version: Version) -> None:
        """Have a version's weights on disk. Idempotent; changes nothing in memory."""
        place = self._known(version)
        if place.is_in_engine or place.loading is not None:
            return
        self._refuse_early(place)
        try:
            async with self.cache.held(version.delta.weights):
                pass
        except Exception as error:
            if place.loading is not None or place.is_in_engine:
                return  # a load that began meanwhile tells for itself
            raise self._failed(place, error) from error
        if place.state == FAILED:
            place.state = ABSENT

    def keep(self, version: Version, seconds: float) -> None:
        """Keep a version from eviction for so long: an alias may roll back to it."""
        place = self._places.get(key_of(version))
        if place is not None:
            place.kept_until = max(place.kept_until, time.monotonic() + seconds)

    def let_go(self, version: Version) -> None:
        """Release a version as soon as its last lease ends."""
        place = self._places.get(key_of(version))
        if place is not None and place.is_in_engine:
            place.kept_until = 0.0
            place.state = DRAINING
            self._settle(place)

    def sweep(self) -> None:
        """Let go what was held for a rollback window that has closed; see who has room now."""
        now = time.monotonic()
        for place in list(self._places.values()):
            if 0.0 < place.kept_until <= now:
                place.kept_until = 0.0
                if not self._is_live(place.version) and not self.is_pinned(place.version):
                    self.let_go(place.version)
        self.room.serve()
        self._forget_oldest()

    def check(self) -> list[str]:
        """Say what does not add up: leased + idle + loading + free is the budget, to the byte."""
        places = list(self._places.values())
        return list(violations(places, self.room, self._engine.state(), self._num_leases))

    def _known(self, version: Version) -> Place:
        return self._places.setdefault(key_of(version), Place(version))

    async def _usable(self, place: Place, give_up_at: float) -> None:
        place.num_hits += 1
        place.touch()
        self._greedy_dual.used(place.worth)
        if place.state == DRAINING:
            place.state = RESIDENT
        if place.state == RESIDENT:
            return
        if self._num_waiting and self._num_waiting >= self._max_waiting:
            raise QueueFull(self._num_waiting, self._max_waiting, WAITING)
        if place.loading is None:
            self._refuse_early(place)
            place.loading = asyncio.create_task(self._load(place))
            place.loading.add_done_callback(_retrieved)
            place.state = LOADING
        self._num_waiting += 1
        try:
            await self._arrival(place, place.loading, give_up_at)
        finally:
            self._num_waiting -= 1

    async def _arrival(self, place: Place, loading: asyncio.Task[None], give_up_at: float) -> None:
        while not loading.done():
            left_s = give_up_at - time.monotonic()
            if left_s <= 0 and place.waits_for_room:
                raise self._no_room(place)
            await asyncio.wait({loading}, timeout=max(left_s, ROOM_POLL_S))
        loading.result()

    def _refuse_early(self, place: Place) -> None:
        """Raise what is known without trying."""
        if place.back_off_s:
            raise AdapterLoadFailed(place.digest, place.last_error, place.back_off_s)
        size = self._loader.size_of(place.version)
        if size > self.room.budget_bytes:
            raise AdapterTooLarge(size, self.room.budget_bytes)

    async def _load(self, place: Place) -> None:
        try:
            with spans.span("load", **{"loradock.digest": place.digest}):
                loaded = await self._loader.load(place)
        except Exception as error:
            raise self._failed(place, error) from error
        finally:
            if place.loading is asyncio.current_task():
                place.loading = None
                if place.state == LOADING:
                    place.state = ABSENT
        self.room.resize(place.key, loaded.size_bytes)
        place.arrive(loaded)
        self._greedy_dual.renew(place.worth)
        self.num_loads += 1
        for phase, seconds in loaded.seconds.items():
            self.load_seconds[phase] += seconds
        log.info("adapter is resident", extra={"facts": {"digest": place.digest} | loaded.facts})
        self._settle(place)

    def _failed(self, place: Place, error: Exception) -> AdapterLoadFailed:
        self._empty(place)
        back_off_s = place.fail(told(error))
        self.num_failed_loads += 1
        log.warning(
            "adapter could not be brought in",
            extra={"facts": {"digest": place.digest, "reason": place.last_error}},
            exc_info=None if is_known(error) else error,
        )
        self.room.serve()
        return AdapterLoadFailed(place.digest, place.last_error, back_off_s)

    def _make_free(self, missing_bytes: int) -> bool:
        """Evict until so much more is free; evict nothing if that can't be done."""
        victims = self._victims()
        if self.room.freed_by([place.key for place in victims]) < missing_bytes:
            return False
        enough = self.room.free_bytes + missing_bytes
        for place in victims:
            if self.room.free_bytes >= enough:
                break
            self._evict(place)
            self.num_evictions += 1
        return True

    def _victims(self) -> list[Place]:
        """List what may go: first what is live nowhere, then what is worth least."""
        idle = [
            place
            for place in self._places.values()
            if place.is_in_engine and not place.num_leases and not place.is_kept
        ]
        free_to_go = [place for place in idle if not self.is_pinned(place.version)]
        return sorted(free_to_go, key=lambda p: (self._is_live(p.version), p.worth.credit))

    def _evict(self, place: Place) -> None:
        assert not place.num_leases, "a leased version is never a victim"
        self._empty(place)
        place.state, place.size_bytes = ABSENT, 0
        self._greedy_dual.let_go(place.worth)
        log.info("adapter was let go", extra={"facts": {"digest": place.digest}})

    def _empty(self, place: Place) -> None:
        """Give a place's memory back, unless somebody else holds the same content."""
        if self.room.give_back(place.key):
            self._engine.release(place.digest)

    def _no_room(self, place: Place) -> AdapterMemoryFull:
        needed = self._loader.size_of(place.version)
        freeable = self.room.free_bytes + self.room.freed_by([p.key for p in self._victims()])
        return AdapterMemoryFull(needed, max(0, freeable), self.room.budget_bytes)

    def _give_back(self, place: Place) -> None:
        place.num_leases -= 1
        self._num_leases -= 1
        self._settle(place)

    def _settle(self, place: Place) -> None:
        """Drop what drains without leases, and who waits for room for nobody; let others in."""
        if place.num_leases:
            return
        if place.state == DRAINING:
            self._evict(place)
        elif place.waits_for_room and place.loading is not None:
            loading, place.loading, place.state = place.loading, None, ABSENT
            loading.cancel()
        self.room.serve()

    def _forget_oldest(self) -> None:
        now = time.monotonic()
        rest = [p for p in self._places.values() if not p.num_leases and p.loading is None]
        for place in rest:
            if place.state == FAILED and place.retry_at + FORGET_S < now:
                place.state, place.num_failures = ABSENT, 0
        absent = [place for place in rest if place.state == ABSENT]
        for place in sorted(absent, key=_last_use)[: max(0, len(absent) - MAX_PLACES)]:
            del self._places[place.key]


def _last_use(place: Place) -> float:
    return place.last_used_at.timestamp() if place.last_used_at else 0.0


def _retrieved(task: asyncio.Task[None]) -> None:
    """Take a failed load's error; who waited for it has it too."""
    if not task.cancelled() and not isinstance(task.exception(), ServerError | None):
        log.error("unexpected error in a load", exc_info=task.exception())

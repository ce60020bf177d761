"""Which versions the engine holds, and who holds them there.

A version's way: LOADING (fetched, verified, made resident, all off the step loop; single flight) to
RESIDENT, or to FAILED with a reason and a back-off; DRAINING while it is let go but still leased.
Knows neither aliases nor the wire.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loradock.engine.errors import EngineError
from loradock.engine.protocol import Engine, ResidentAdapter
from loradock.registry.errors import RegistryError
from loradock.registry.resources import Residency as ReportedResidency
from loradock.registry.resources import Version
from loradock.server.errors import AdapterLoadFailed, AdapterMemoryFull, ServerError
from loradock.server.fetch import Fetcher
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
MAX_RETRY_S = 30.0
FORGET_S = 600.0  # a failure that nobody asked about again
BYTES_PER_WEIGHT = 4

LOADING, RESIDENT, DRAINING, FAILED = "loading", "resident", "draining", "failed"


@dataclass(slots=True)
class _Entry:
    """One version's place."""

    version: Version
    state: str = LOADING
    size_bytes: int = 0  # reserved while LOADING
    num_leases: int = 0
    held_until: float = 0.0  # by a rollback window
    last_used: float = 0.0
    reason: str = ""
    num_failures: int = 0
    retry_at: float = 0.0
    loading: asyncio.Task[None] | None = None

    @property
    def digest(self) -> str:
        return self.version.digest

    @property
    def is_in_engine(self) -> bool:
        return self.state in (RESIDENT, DRAINING)


@dataclass(slots=True)
class Lease:
    """One request's hold on a resident version; it outlives the request by its unfinished rows."""

    version: Version
    waited_s: float
    rows: list[asyncio.Future[None]] = field(default_factory=list)


class Residencies:
    """The versions of one engine, within a budget of bytes. Belongs to the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        fetcher: Fetcher,
        threads: Threads,
        *,
        budget_bytes: int,
        is_live: Callable[[str], bool],
    ) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._threads = threads
        self._budget_bytes = budget_bytes
        self._is_live = is_live
        self._entries: dict[str, _Entry] = {}

    def version(self, digest: str) -> Version | None:
        """Give a version that the next step can use."""
        entry = self._entries.get(digest)
        return entry.version if entry is not None and entry.is_in_engine else None

    def report(self) -> tuple[ReportedResidency, ...]:
        """Tell every version's place."""
        return tuple(
            ReportedResidency(e.digest, e.state, e.size_bytes, e.num_leases, e.reason)
            for e in self._entries.values()
        )

    def report_of(self, digest: str) -> ReportedResidency:
        """Tell one version's place; one that is gone is reported as draining, of no size."""
        found = {residency.digest: residency for residency in self.report()}
        return found.get(digest, ReportedResidency(digest, DRAINING, 0, 0))

    @asynccontextmanager
    async def lease(self, version: Version) -> AsyncIterator[Lease]:
        """Hold a version resident, bringing it in if need be. The one place that gives back."""
        started = time.monotonic()
        entry = self._entries.setdefault(version.digest, _Entry(version))
        entry.num_leases += 1
        lease = Lease(version, 0.0)
        try:
            await self._usable(entry)
            lease.waited_s = time.monotonic() - started
            yield lease
        finally:
            rows = [row for row in lease.rows if not row.done()]
            _when_all_done(rows, lambda: self._give_back(entry))

    async def bring_in(self, version: Version) -> None:
        """Make a version resident. Idempotent."""
        async with self.lease(version):
            pass

    def hold(self, digest: str, seconds: float) -> None:
        """Keep a version from eviction for so long: an alias may roll back to it."""
        entry = self._entries.get(digest)
        if entry is not None:
            entry.held_until = max(entry.held_until, time.monotonic() + seconds)

    def let_go(self, digest: str) -> None:
        """Release a version as soon as its last lease ends."""
        entry = self._entries.get(digest)
        if entry is not None and entry.is_in_engine:
            entry.held_until = 0.0
            entry.state = DRAINING
            self._settle(entry)

    def sweep(self) -> None:
        """Let go what was held for a rollback window that has closed; forget old failures."""
        now = time.monotonic()
        for entry in list(self._entries.values()):
            if entry.state == FAILED and not entry.num_leases and entry.retry_at + FORGET_S < now:
                del self._entries[entry.digest]
            if 0.0 < entry.held_until <= now:
                entry.held_until = 0.0
                if not self._is_live(entry.digest):
                    self.let_go(entry.digest)

    async def _usable(self, entry: _Entry) -> None:
        entry.last_used = time.monotonic()
        if entry.state == DRAINING:
            entry.state = RESIDENT
        if entry.state == RESIDENT:
            return
        if entry.loading is None:
            self._start_loading(entry)
        assert entry.loading is not None
        await asyncio.shield(entry.loading)
        entry.last_used = time.monotonic()

    def _start_loading(self, entry: _Entry) -> None:
        wait_s = entry.retry_at - time.monotonic()
        if entry.state == FAILED and wait_s > 0:
            raise AdapterLoadFailed(entry.digest, entry.reason, wait_s)
        size = size_of(entry.version)
        self._make_room(size)
        entry.state, entry.size_bytes = LOADING, size
        entry.loading = asyncio.create_task(self._load(entry))
        entry.loading.add_done_callback(_retrieved)

    async def _load(self, entry: _Entry) -> None:
        started = time.monotonic()
        try:
            resident = await self._threads.run(self._load_on_thread, entry.version)
        except Exception as error:
            self._fail(entry, error)
            raise AdapterLoadFailed(entry.digest, entry.reason, self._back_off(entry)) from error
        finally:
            entry.loading = None
        entry.state, entry.size_bytes = RESIDENT, resident.size_bytes
        entry.num_failures, entry.reason = 0, ""
        facts = {"digest": entry.digest, "seconds": round(time.monotonic() - started, 4)}
        log.info("adapter is resident", extra={"facts": facts})
        self._settle(entry)

    def _load_on_thread(self, version: Version) -> ResidentAdapter:
        with self._fetcher.source(version) as source:
            return self._engine.make_resident(source)

    def _fail(self, entry: _Entry, error: Exception) -> None:
        entry.state, entry.size_bytes = FAILED, 0
        entry.num_failures += 1
        entry.reason = _told(error)
        entry.retry_at = time.monotonic() + self._back_off(entry)
        facts = {"digest": entry.digest, "reason": entry.reason}
        known = isinstance(error, RegistryError | EngineError)
        log.warning(
            "adapter could not be brought in",
            extra={"facts": facts},
            exc_info=None if known else error,
        )

    def _back_off(self, entry: _Entry) -> float:
        return min(FIRST_RETRY_S * 2.0 ** (entry.num_failures - 1), MAX_RETRY_S)

    def _make_room(self, needed: int) -> None:
        free = self._budget_bytes - sum(e.size_bytes for e in self._entries.values())
        victims = self._victims()
        if free + sum(entry.size_bytes for entry in victims) < needed:
            freeable = max(0, free + sum(entry.size_bytes for entry in victims))
            raise AdapterMemoryFull(needed, freeable, self._budget_bytes)
        for entry in victims:
            if free >= needed:
                return
            free += entry.size_bytes
            self._evict(entry)

    def _victims(self) -> list[_Entry]:
        """List what may go: first what is live nowhere, then the longest unused."""
        now = time.monotonic()
        idle = [
            entry
            for entry in self._entries.values()
            if entry.is_in_engine and not entry.num_leases and entry.held_until <= now
        ]
        return sorted(idle, key=lambda entry: (self._is_live(entry.digest), entry.last_used))

    def _evict(self, entry: _Entry) -> None:
        assert not entry.num_leases, "a leased version is never a victim"
        self._engine.release(entry.digest)
        del self._entries[entry.digest]
        log.info("adapter was let go", extra={"facts": {"digest": entry.digest}})

    def _give_back(self, entry: _Entry) -> None:
        entry.num_leases -= 1
        self._settle(entry)

    def _settle(self, entry: _Entry) -> None:
        """Drop what drains without leases, and what never came to be loaded."""
        if entry.num_leases or self._entries.get(entry.digest) is not entry:
            return
        if entry.state == DRAINING:
            self._evict(entry)
        elif entry.state == LOADING and entry.loading is None:
            del self._entries[entry.digest]


def size_of(version: Version) -> int:
    """Give what a version takes in memory, at most."""
    shapes = version.base.modules
    weights = sum(
        module.rank * (shapes[module.module].in_features + shapes[module.module].out_features)
        for module in version.modules
        if module.module in shapes
    )
    return weights * BYTES_PER_WEIGHT


def _told(error: Exception) -> str:
    """Say why a load failed, to callers too: nothing from inside."""
    if isinstance(error, RegistryError | EngineError):
        return str(error) or type(error).__name__
    return "unexpected error; see the server's log"


def _when_all_done(rows: list[asyncio.Future[None]], then: Callable[[], None]) -> None:
    """Call `then` once, when the last of the rows has ended; at once if all have."""
    left = len(rows)
    if not left:
        then()

    def one_done(row: asyncio.Future[None]) -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for row in rows:
        row.add_done_callback(one_done)


def _retrieved(task: asyncio.Task[None]) -> None:
    """Take a failed load's error; who waited for it has it too."""
    if not task.cancelled() and not isinstance(task.exception(), ServerError | None):
        log.error("unexpected error in a load", exc_info=task.exception())

"""One version's place on this server: how near it is to the next step, and what is known of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from loradock.engine.errors import EngineError
from loradock.engine.protocol import LoraModule
from loradock.registry.errors import RegistryError
from loradock.registry.resources import Version
from loradock.server.residency.disk_cache import CacheUnusable, NotCached
from loradock.server.residency.eviction import Worth
from loradock.server.residency.room import Key

FIRST_RETRY_S = 0.5
MAX_RETRY_S = 30.0

ABSENT, CACHED = "absent", "cached"  # not in memory; on disk or not, as the disk cache knows
LOADING, RESIDENT, DRAINING, FAILED = "loading", "resident", "draining", "failed"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What bringing a version in has taken."""

    size_bytes: int
    verify_s: float
    activate_s: float
    fetch_s: float = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """What each phase has taken."""
        return {"fetch": self.fetch_s, "verify": self.verify_s, "activate": self.activate_s}

    @property
    def facts(self) -> dict[str, object]:
        """Say for a log line what took how long."""
        return {f"{name}_s": round(taken, 4) for name, taken in self.seconds.items()}


@dataclass(slots=True)
class Place:
    """A version's place. Changed by `Residencies` alone."""

    version: Version
    state: str = ABSENT
    size_bytes: int = 0  # while it is in memory
    num_leases: int = 0
    num_hits: int = 0  # leases so far
    num_output_tokens: int = 0  # of all answers so far
    last_used_at: datetime | None = None
    kept_until: float = 0.0  # by a rollback window
    load_s: float = 0.0  # what the latest load took
    last_error: str = ""
    num_failures: int = 0  # in a row
    retry_at: float = 0.0
    loading: asyncio.Task[None] | None = None
    waits_for_room: bool = False
    worth: Worth = field(default_factory=Worth)

    @property
    def key(self) -> Key:
        """Whose it is, and what: a place is one adapter's, though its content be shared."""
        return key_of(self.version)

    @property
    def digest(self) -> str:
        """The version's."""
        return self.version.digest

    @property
    def is_in_engine(self) -> bool:
        """Whether rows can use it."""
        return self.state in (RESIDENT, DRAINING)

    @property
    def is_kept(self) -> bool:
        """Whether an alias may roll back to it."""
        return self.kept_until > time.monotonic()

    @property
    def reason(self) -> str:
        """Say why it is where it is, if that is not as wanted."""
        if self.state == FAILED:
            return self.last_error
        return "waits for room" if self.waits_for_room else ""

    @property
    def back_off_s(self) -> float:
        """Seconds until it may be tried again."""
        return max(0.0, self.retry_at - time.monotonic()) if self.state == FAILED else 0.0

    @property
    def retry_time(self) -> datetime | None:
        """When it may be tried again."""
        return datetime.now(UTC) + timedelta(seconds=self.back_off_s) if self.back_off_s else None

    def touch(self) -> None:
        """Note a use."""
        self.last_used_at = datetime.now(UTC)

    def fail(self, why: str) -> float:
        """Note that it could not be brought in; give the seconds until it may be tried again."""
        self.state, self.size_bytes = FAILED, 0
        self.last_error = why
        self.num_failures += 1
        back_off_s = min(FIRST_RETRY_S * 2.0 ** min(self.num_failures - 1, 16), MAX_RETRY_S)
        self.retry_at = time.monotonic() + back_off_s
        return back_off_s

    def arrive(self, loaded: Loaded) -> None:
        """Note that it is resident."""
        self.state, self.size_bytes = RESIDENT, loaded.size_bytes
        self.load_s = loaded.fetch_s + loaded.verify_s + loaded.activate_s
        self.num_failures, self.retry_at = 0, 0.0
        self.worth.load_s = loaded.verify_s + loaded.activate_s  # it is on disk from now on
        self.worth.size_bytes = loaded.size_bytes


@dataclass(slots=True)
class Lease:
    """One request's hold on a resident version; it outlives the request by its unfinished rows."""

    place: Place
    waited_s: float = 0.0
    rows: list[asyncio.Future[None]] = field(default_factory=list)

    def count(self, num_tokens: int) -> None:
        """Note what the version has answered with."""
        self.place.num_output_tokens += num_tokens

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then` once, when the last of the rows has ended; at once if all have."""
        left = [row for row in self.rows if not row.done()]
        num_left = len(left)
        if not num_left:
            then()

        def one_done(row: asyncio.Future[None]) -> None:
            nonlocal num_left
            num_left -= 1
            if not num_left:
                then()

        for row in left:
            row.add_done_callback(one_done)


def key_of(version: Version) -> Key:
    """Name a version among all projects'."""
    return version.project, version.adapter, version.digest


def modules_of(version: Version) -> tuple[LoraModule, ...]:
    """Say what a version changes, as the engine wants it."""
    return tuple(LoraModule(m.module, m.rank, m.scaling, m.a_key, m.b_key) for m in version.modules)


def told(error: Exception) -> str:
    """Say why a load failed, to callers too: nothing from inside."""
    if is_known(error):
        return str(error) or type(error).__name__
    return "unexpected error; see the server's log"


def is_known(error: Exception) -> bool:
    """Whether an error says for itself what is wrong."""
    return isinstance(error, RegistryError | EngineError | NotCached | CacheUnusable)

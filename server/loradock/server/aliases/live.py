"""What this server answers a reference with: the live table, and the versions known by pin.

An alias is answered from the table and from nowhere else, so a catalog that is down changes nothing
for what was asked for before. A table is never changed: a new one takes its place in one
assignment. Knows neither residency nor the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from loradock.registry.errors import CatalogUnavailable, VersionYanked
from loradock.registry.names import Reference
from loradock.registry.reader import CatalogReader
from loradock.registry.resources import Alias, Version, VersionState
from loradock.registry.split import Arm, Split
from loradock.server.telemetry.outage import Outage
from loradock.server.threads import Threads

AliasKey = tuple[str, str, str]  # project, adapter, alias
PinKey = tuple[str, str, int | str]  # project, adapter, number or digest
ReadKey = AliasKey | PinKey
T = TypeVar("T")

MAX_PINS = 10_000
ANSWER_S = 2.0  # a catalog that takes longer does not answer, as callers and health are told


@dataclass(frozen=True, slots=True)
class LiveSplit:
    """A candidate that is resident here, and its share."""

    candidate: Version
    split: Split


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a reference means for one request."""

    version: Version
    alias: str | None = None  # None for `@7` and `@sha256:…`
    generation: int | None = None
    arm: Arm | None = None  # the incumbent also where nothing is split
    split: LiveSplit | None = None


@dataclass(frozen=True, slots=True)
class LiveAlias:
    """What an alias is answered with, and where the catalog says it should point."""

    version: Version
    generation: int
    desired_digest: str
    previous_digest: str | None = None  # where the alias would roll back to
    is_overridden: bool = False
    reason: str = ""  # why live is not desired
    split: LiveSplit | None = None
    desired_split: Split | None = None

    @property
    def is_divergent(self) -> bool:
        """Whether the catalog wants another version, or other shares."""
        live_split = None if self.split is None else self.split.split
        return (
            self.is_overridden
            or self.version.digest != self.desired_digest
            or live_split != self.desired_split
        )

    @property
    def versions(self) -> tuple[Version, ...]:
        """Who may answer: the incumbent, and a candidate beside it."""
        return (self.version,) if self.split is None else (self.version, self.split.candidate)

    def arm_of(self, key: str) -> tuple[Arm, Version]:
        """Choose who answers a key."""
        if self.split is not None and self.split.split.arm_of(key) is Arm.CANDIDATE:
            return Arm.CANDIDATE, self.split.candidate
        return Arm.INCUMBENT, self.version


@dataclass(slots=True)
class _Turn:
    """Lets one at a time read an alias from the catalog and write it here."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    num_users: int = 0


class Live:
    """The live table. Belongs to the event loop's thread."""

    def __init__(self, reader: CatalogReader, threads: Threads) -> None:
        self._reader = reader
        self._threads = threads
        self._table: dict[AliasKey, LiveAlias] = {}
        self._pins: dict[PinKey, Version] = {}
        self._num_forgotten = 0
        self._turns: dict[AliasKey, _Turn] = {}
        self._readings: dict[ReadKey, asyncio.Task[Any]] = {}
        self._live_versions: frozenset[tuple[str, str]] = frozenset()
        self.catalog = Outage("the catalog")  # as its follower finds it
        self.on_first_use: Callable[[AliasKey, Alias], None] = lambda key, alias: None

    @property
    def table(self) -> Mapping[AliasKey, LiveAlias]:
        """The table as it is now; it never changes."""
        return MappingProxyType(self._table)

    def get(self, key: AliasKey) -> LiveAlias | None:
        """Give one line of the table."""
        return self._table.get(key)

    def is_live(self, version: Version) -> bool:
        """Whether an alias is answered with a version."""
        return (version.project, version.digest) in self._live_versions

    def number(self, project: str, adapter: str, digest: str) -> int | None:
        """Give a version's number, if it is known here."""
        known = self._pins.get((project, adapter, digest))
        return None if known is None else known.number

    def is_tracked(self, key: AliasKey) -> bool:
        """Whether changes of an alias matter here: it is live, or being read for the first time."""
        return key in self._table or key in self._turns

    async def resolve(self, project: str, reference: Reference, key: str = "") -> Chosen:
        """Say what a reference means now. Raises what the catalog raises; nothing is guessed.

        Of an alias that is split the key chooses the arm; without one it is the incumbent.
        """
        if reference.alias is None:
            return Chosen(await self._pinned(project, reference))
        name = (project, reference.adapter, reference.alias)
        live = self._table.get(name) or await self._first_use(name)
        arm, version = live.arm_of(key) if key else (Arm.INCUMBENT, live.version)
        if version.state is VersionState.YANKED:
            raise VersionYanked(f"{version.adapter}@{version.number}", version.state_reason)
        return Chosen(version, reference.alias, live.generation, arm, live.split)

    async def _first_use(self, key: AliasKey) -> LiveAlias:
        return await self._read_once(key, partial(self._read_first, key))

    async def _read_first(self, key: AliasKey) -> LiveAlias:
        async with self.turn(key):
            if key not in self._table:
                alias = await self._threads.run(self._reader.alias, *key)
                version = await self.version(key[0], key[1], alias.version_digest)
                self.put(key, live_alias(alias, version))
                self.on_first_use(key, alias)
            return self._table[key]

    async def _read_once(self, key: ReadKey, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Read the catalog, once for all who ask for it meanwhile: they share what comes of it.

        `CatalogUnavailable` also if the answer is long in coming, and at once while none is to be
        expected. A reading goes on, and is waited for again: one that hangs holds up one thread.
        """
        if self.catalog.goes_on:
            raise CatalogUnavailable(str(self.catalog))
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = asyncio.create_task(read())
            reading.add_done_callback(lambda done: self._was_read(key, done))
        await asyncio.wait({reading}, timeout=ANSWER_S)
        if not reading.done():
            raise CatalogUnavailable(f"the catalog has not answered for {ANSWER_S:g} seconds")
        result: T = reading.result()
        return result

    def _was_read(self, key: ReadKey, reading: asyncio.Task[Any]) -> None:
        del self._readings[key]
        if not reading.cancelled():
            reading.exception()  # everybody who asked has it, if anybody still waits

    @asynccontextmanager
    async def turn(self, key: AliasKey) -> AsyncIterator[None]:
        """Take turns for one alias: what is read from the catalog inside is not overtaken."""
        turn = self._turns.setdefault(key, _Turn())
        turn.num_users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.num_users -= 1
            if not turn.num_users:
                del self._turns[key]

    def put(self, key: AliasKey, live: LiveAlias) -> None:
        """Flip: one assignment, seen by every request that is admitted afterwards."""
        self._replace({**self._table, key: live})

    def drop(self, key: AliasKey) -> None:
        """Forget an alias that the catalog no longer has."""
        self._replace({k: live for k, live in self._table.items() if k != key})

    def _replace(self, table: dict[AliasKey, LiveAlias]) -> None:
        self._table = table
        versions = (version for live in table.values() for version in live.versions)
        self._live_versions = frozenset((v.project, v.digest) for v in versions)

    async def version(self, project: str, adapter: str, digest: str) -> Version:
        """Give a version by its digest, from the catalog only if it was never seen."""
        return await self._pinned(project, Reference(adapter, digest=digest))

    async def _pinned(self, project: str, reference: Reference) -> Version:
        pin = reference.digest if reference.number is None else reference.number
        assert pin is not None
        key = (project, reference.adapter, pin)
        known = self._pins.get(key)
        if known is None:
            return await self._read_once(key, partial(self._read_pinned, project, reference))
        return known

    async def _read_pinned(self, project: str, reference: Reference) -> Version:
        while True:
            num_forgotten = self._num_forgotten
            resolved = await self._threads.run(self._reader.resolve, project, reference)
            if num_forgotten == self._num_forgotten:  # else it may have been yanked meanwhile
                self._remember(resolved.version)
                return resolved.version

    def _remember(self, version: Version) -> None:
        while len(self._pins) >= MAX_PINS:
            del self._pins[next(iter(self._pins))]
        self._pins[version.project, version.adapter, version.number] = version
        self._pins[version.project, version.adapter, version.digest] = version

    def forget_version(self, digest: str) -> None:
        """Drop what is known of a version that changed its state."""
        self._num_forgotten += 1
        self._pins = {k: v for k, v in self._pins.items() if v.digest != digest}

    def aliases_of(self, digest: str) -> list[AliasKey]:
        """List the aliases that are answered with a version."""
        return [
            key
            for key, live in self._table.items()
            if any(version.digest == digest for version in live.versions)
        ]


def live_alias(alias: Alias, version: Version, split: LiveSplit | None = None) -> LiveAlias:
    """Make the line of the table by which an alias is answered as the catalog wants it."""
    return LiveAlias(
        version,
        alias.generation,
        alias.version_digest,
        alias.previous_digest,
        split=split,
        desired_split=alias.split,
    )

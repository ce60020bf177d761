"""Brings a version from the object store to the engine, off the step loop."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

from loradock.engine.protocol import AdapterSource, Engine
from loradock.registry.resources import Version
from loradock.server.residency.disk_cache import DiskCache, NotCached
from loradock.server.residency.place import Loaded, Place, modules_of
from loradock.server.residency.room import Room
from loradock.server.telemetry import spans
from loradock.server.threads import Threads

CACHE_TRIES = 3  # a file may be found corrupt, or be removed by another process


class Loader:
    """Fetch, take room, verify, activate. What is still on its way takes no memory."""

    def __init__(self, engine: Engine, cache: DiskCache, room: Room, threads: Threads) -> None:
        """Verify and activate on `threads`; downloads have their own, and can't hold these up."""
        self._engine = engine
        self._cache = cache
        self._room = room
        self._threads = threads

    def size_of(self, version: Version) -> int:
        """Say what a version takes in memory."""
        return self._engine.size_of(modules_of(version))

    async def load(self, place: Place) -> Loaded:
        """Bring a version in. The room that it takes is the caller's to give back."""
        weights, fetch_s = place.version.delta.weights, 0.0
        for tries_left in reversed(range(CACHE_TRIES)):
            async with AsyncExitStack() as held:
                with spans.span("fetch"):
                    fetch_s += await held.enter_async_context(self._cache.held(weights))
                await self._take_room(place)
                try:
                    loaded = await self._threads.run(self._activate, place.version)
                    return replace(loaded, fetch_s=fetch_s)
                except NotCached:
                    if not tries_left:
                        raise
        raise AssertionError("the last try returns or raises")

    async def _take_room(self, place: Place) -> None:
        place.waits_for_room = True
        try:
            await self._room.take(place.key, self.size_of(place.version))
        finally:
            place.waits_for_room = False

    def _activate(self, version: Version) -> Loaded:
        started = time.monotonic()
        with ExitStack() as held:
            with spans.span("verify"):
                path = held.enter_context(self._cache.verified(version.delta.weights.digest))
            verified = time.monotonic()
            source = AdapterSource(version.digest, path, modules_of(version))
            with spans.span("activate"):
                resident = self._engine.make_resident(source)
        ended = time.monotonic()
        return Loaded(resident.size_bytes, verified - started, ended - verified)

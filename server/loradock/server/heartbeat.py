"""What this server tells the catalog every few seconds, and when it has followed a change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from loradock.registry.errors import RegistryError
from loradock.registry.registry import Registry
from loradock.registry.resources import Heartbeat
from loradock.server.aliases.arm_traffic import ArmTraffic
from loradock.server.aliases.follow import Follower, divergence
from loradock.server.aliases.live import Live
from loradock.server.identity import Identity
from loradock.server.residency.residencies import Residencies
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

FORGET_S = 3.0  # for the last word to a catalog that may not answer


class Pulse:
    """Writes heartbeats; a catalog that is down only makes them late."""

    def __init__(
        self,
        identity: Identity,
        live: Live,
        residencies: Residencies,
        follower: Follower,
        arm_traffic: ArmTraffic,
        registry: Registry,
        threads: Threads,
        *,
        interval_s: float,
    ) -> None:
        self._identity = identity
        self._live = live
        self._residencies = residencies
        self._follower = follower
        self._arm_traffic = arm_traffic
        self._registry = registry
        self._threads = threads
        self._interval_s = interval_s
        self.is_drained: Callable[[], bool] = lambda: False
        self._nudge = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None  # goes on though its beat is cancelled

    def nudge(self) -> None:
        """Tell now."""
        self._nudge.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self.beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._nudge.wait()
            self._nudge.clear()

    async def beat(self) -> None:
        """Tell once."""
        tallies = self._arm_traffic.take_untold()
        beat = replace(self.heartbeat(), tallies=tallies)
        self._writing = asyncio.create_task(self._write(beat))
        await asyncio.shield(self._writing)

    async def _write(self, beat: Heartbeat) -> None:
        tallies = beat.tallies
        try:
            await self._threads.run(self._registry.fleet.beat, beat)
        except RegistryError as error:
            self._arm_traffic.was_not_told(tallies)
            log.debug("heartbeat not written: %s", error)
        except Exception:  # the next one may be written
            self._arm_traffic.was_not_told(tallies)
            log.exception("heartbeat not written")

    async def forget(self) -> None:
        """Tell the catalog what was still to tell, and that this server is gone."""
        with suppress(RegistryError, TimeoutError):
            async with asyncio.timeout(FORGET_S):
                if self._writing is not None:  # or it would come back after its goodbye
                    await asyncio.wait({self._writing})
                if self._arm_traffic.has_untold:
                    await self.beat()
                await self._threads.run(self._registry.fleet.forget, self._identity.server_id)

    def divergences(self) -> tuple[str, ...]:
        """Say where desired is not live, a sentence each."""
        return tuple(
            divergence(key, live, self._live)
            for key, live in self._live.table.items()
            if live.is_divergent
        )

    def heartbeat(self) -> Heartbeat:
        """Say what this server is and has now."""
        identity = self._identity
        return Heartbeat(
            server_id=identity.server_id,
            address=identity.address,
            base_name=identity.base.name,
            base_digests=identity.base_digests,
            sequence=self._follower.applied_sequence,
            residencies=self._residencies.report(),
            divergences=self.divergences(),
            started_at=identity.started_at,
            drained=self.is_drained(),
        )

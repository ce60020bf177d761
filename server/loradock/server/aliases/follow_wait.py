"""Waits until the live servers have followed a change, as their heartbeats tell.

Not for drained ones, which answer nobody new.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from loradock.registry.registry import Registry
from loradock.registry.resources import Heartbeat
from loradock.server.threads import Threads

POLL_S = 0.05
SHARE_OF_DEADLINE = 0.9  # leaves time to say how far it came


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the live servers came."""

    num_servers: int
    num_following: int
    reasons: tuple[str, ...]  # why the others do not follow


class FollowWait:
    """Reads the fleet's heartbeats until all have followed."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads

    async def until_followed(self, alias_name: str, wait_s: float) -> Followed:
        """Wait for the change that was just committed to an alias; give up after `wait_s`."""
        sequence = await self._threads.run(self._registry.reader.latest_sequence)
        give_up_at = time.monotonic() + wait_s
        while True:
            told = await self._threads.run(self._registry.fleet.list)
            beats = [beat for beat in told if not beat.drained]
            behind = [beat.server_id for beat in beats if beat.sequence < sequence]
            if not behind or time.monotonic() >= give_up_at:
                return _followed(beats, behind, alias_name)
            await asyncio.sleep(min(POLL_S, max(0.0, give_up_at - time.monotonic())))


def _followed(beats: Sequence[Heartbeat], behind: list[str], alias_name: str) -> Followed:
    reasons = [f"{server_id} has not seen the change yet" for server_id in behind]
    for beat in beats:
        told = [d for d in beat.divergences if d.startswith(f"{alias_name}:")]
        if told and beat.server_id not in behind:
            reasons.append(f"{beat.server_id}: {told[0]}")
    return Followed(len(beats), len(beats) - len(reasons), tuple(reasons))

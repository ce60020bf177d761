"""Keeps the candidates of live splits resident: by a lease each, for as long as the split lasts."""

from __future__ import annotations

from contextlib import AsyncExitStack

from loradock.registry.resources import Version
from loradock.server.aliases.live import AliasKey
from loradock.server.residency.residencies import Residencies


class Candidates:
    """The candidates of one server. Belongs to the event loop's thread."""

    def __init__(self, residencies: Residencies) -> None:
        self._residencies = residencies
        self._held: dict[AliasKey, tuple[str, AsyncExitStack]] = {}

    async def bring_in(self, key: AliasKey, version: Version, *, room_wait_s: float) -> None:
        """Hold a version for an alias, once it is resident, instead of an earlier one."""
        held = self._held.get(key)
        if held is not None and held[0] == version.digest:
            return
        stack = AsyncExitStack()
        lease = self._residencies.lease(version, room_wait_s=room_wait_s)
        await stack.enter_async_context(lease)
        await self.let_go(key)
        self._held[key] = version.digest, stack

    async def let_go(self, key: AliasKey) -> None:
        """Hold nothing for an alias any more."""
        held = self._held.pop(key, None)
        if held is not None:
            await held[1].aclose()

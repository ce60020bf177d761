"""Takes the steps of rollouts that are due, in whichever registry process has the duty."""

from __future__ import annotations

import asyncio
import logging

from loradock.registry.errors import CatalogUnavailable, RegistryError
from loradock.registry.registry import Registry
from loradock.registry.rollout import Step
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

LAPSES_AFTER = 10  # looks, in which a process that is gone can't have taken the duty again
LAY_DOWN_S = 3.0  # for a catalog that may not answer


class RolloutController:
    """One process's part in it. Belongs to the event loop's thread."""

    def __init__(
        self, registry: Registry, threads: Threads, holder: str, *, interval_s: float
    ) -> None:
        self._rollouts = registry.rollouts
        self._threads = threads
        self._interval_s = interval_s
        self._duty = self._rollouts.duty(holder, lasts_s=LAPSES_AFTER * interval_s)

    async def run(self) -> None:
        """Look until cancelled; then leave the duty to the others."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(self._interval_s)
        finally:
            await asyncio.shield(self._lay_down())

    async def _look(self) -> None:
        """Look once. Whatever goes wrong, the next look comes."""
        try:
            going_on = await self._threads.run(self._rollouts.going_on)
            has_duty = bool(going_on) and await self._threads.run(self._duty.take)
            for rollout_id in going_on if has_duty else ():
                await self._step(rollout_id)
        except RegistryError as error:
            log.debug("rollouts were not stepped: %s", error)
        except Exception:
            log.exception("rollouts were not stepped")

    async def _step(self, rollout_id: str) -> None:
        """Step one rollout. What is wrong with it keeps no other from being watched."""
        facts = {"rollout": rollout_id}
        try:
            step = await self._threads.run(self._rollouts.step, rollout_id, self._duty)
        except CatalogUnavailable:
            raise
        except Exception:
            log.exception("a rollout was not stepped", extra={"facts": facts})
            return
        if step is not Step.WAIT:
            log.info("rollout stepped", extra={"facts": facts | {"step": step.value}})

    async def _lay_down(self) -> None:
        try:
            async with asyncio.timeout(LAY_DOWN_S):
                await self._threads.run(self._duty.lay_down)
        except (RegistryError, TimeoutError) as error:
            log.debug("the duty lapses by itself: %s", error)

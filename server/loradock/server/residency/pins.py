"""Which versions stay in memory whatever else is asked for: as configured, and as told since."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from loradock.registry.errors import RegistryError
from loradock.registry.names import Reference
from loradock.registry.resources import Version
from loradock.server.aliases.live import Live
from loradock.server.errors import ServerError

log = logging.getLogger(__name__)

TEND_S = 1.0

BringIn = Callable[[Version], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pin:
    """What shall stay: a version, or whatever an alias is answered with."""

    project: str
    reference: Reference

    def __str__(self) -> str:
        return f"{self.project}/{replace(self.reference, project=None)}"


class Pins:
    """All pins of one server. Belongs to the event loop's thread."""

    def __init__(self, live: Live, configured: Iterable[Pin]) -> None:
        self._live = live
        self._pins = set(configured)
        self._problems: dict[Pin, str] = {}
        self.all_resident = asyncio.Event()  # set once, for readiness

    def add(self, pin: Pin) -> None:
        """Keep what a pin stands for from now on."""
        self._pins.add(pin)

    def remove(self, pin: Pin) -> None:
        """Let it go when its memory is needed."""
        self._pins.discard(pin)
        self._problems.pop(pin, None)

    def is_pinned(self, version: Version) -> bool:
        """Whether a pin stands for a version now."""
        return any(self._means(pin, version) for pin in self._pins)

    def problems(self, project: str) -> list[str]:
        """Say which of a project's pins are not resident, and why."""
        found = sorted(
            (str(pin), why) for pin, why in self._problems.items() if pin.project == project
        )
        return [f"pinned {pin} is not resident: {why}" for pin, why in found]

    async def keep(self, bring_in: BringIn) -> None:
        """Bring in what is pinned and not here, again and again, until cancelled."""
        while True:
            await asyncio.gather(*(self._tend(pin, bring_in) for pin in list(self._pins)))
            if not self._problems:
                self.all_resident.set()
            await asyncio.sleep(TEND_S)

    async def _tend(self, pin: Pin, bring_in: BringIn) -> None:
        try:
            await bring_in((await self._live.resolve(pin.project, pin.reference)).version)
        except Exception as error:
            is_known = isinstance(error, RegistryError | ServerError)
            self._note(pin, str(error) if is_known else "unexpected error; see the server's log")
            if not is_known:
                log.exception("tending a pin failed")
        else:
            self._problems.pop(pin, None)

    def _note(self, pin: Pin, why: str) -> None:
        if pin in self._pins and self._problems.get(pin) != why:
            self._problems[pin] = why
            facts = {"pin": str(pin)}
            log.warning("what is pinned is not resident: %s", why, extra={"facts": facts})

    def _means(self, pin: Pin, version: Version) -> bool:
        reference = pin.reference
        if (pin.project, reference.adapter) != (version.project, version.adapter):
            return False
        if reference.alias is None:
            return version.digest == reference.digest or version.number == reference.number
        live = self._live.get((pin.project, reference.adapter, reference.alias))
        return live is not None and live.version.digest == version.digest

"""Which versions stay in memory whatever else is asked for: as configured, and as told since."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from loradock.registry.errors import NotFound, RegistryError
from loradock.registry.names import Reference
from loradock.registry.resources import Version
from loradock.server.aliases.live import Live
from loradock.server.errors import ServerError

log = logging.getLogger(__name__)

TEND_S = 1.0
REMIND_S = 60.0  # from one line of the log to the next, of what does not change

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
        self._logged_at: dict[Pin, float] = {}
        self.all_tried = asyncio.Event()  # once each, for the word at the start
        self.all_resident = asyncio.Event()  # set once, for readiness

    def add(self, pin: Pin) -> None:
        """Keep what a pin stands for from now on."""
        self._pins.add(pin)

    def remove(self, pin: Pin) -> None:
        """Let it go when its memory is needed."""
        self._pins.discard(pin)
        self._forget_problem(pin)

    def is_pinned(self, version: Version) -> bool:
        """Whether a pin stands for a version now."""
        return any(self._means(pin, version) for pin in self._pins)

    def problems(self, project: str | None = None) -> list[str]:
        """Say which of a project's pins, or of all, are not resident, and why."""
        told = (self._told(pin) for pin in self._problems if project in (None, pin.project))
        return sorted(told)

    async def keep(self, bring_in: BringIn) -> None:
        """Bring in what is pinned and not here, again and again, until cancelled."""
        while True:
            await asyncio.gather(*(self._tend(pin, bring_in) for pin in list(self._pins)))
            self.all_tried.set()
            if not self._problems:
                self.all_resident.set()
            await asyncio.sleep(TEND_S)

    async def _tend(self, pin: Pin, bring_in: BringIn) -> None:
        try:
            await bring_in((await self._live.resolve(pin.project, pin.reference)).version)
        except NotFound as error:  # it may be published, or moved there, later
            self._note(pin, f"the catalog has {error}, which is waited for")
        except Exception as error:
            is_known = isinstance(error, RegistryError | ServerError)
            self._note(pin, str(error) if is_known else "unexpected error; see the server's log")
            if not is_known:
                log.exception("tending a pin failed")
        else:
            self._forget_problem(pin)

    def _note(self, pin: Pin, why: str) -> None:
        """Keep why a pin is not resident; log what is new, and now and then what goes on."""
        if pin not in self._pins:
            return
        is_new = self._problems.get(pin) != why
        self._problems[pin] = why
        if is_new or time.monotonic() - self._logged_at[pin] >= REMIND_S:
            self._logged_at[pin] = time.monotonic()
            log.warning(self._told(pin), extra={"facts": {"pin": str(pin)}})

    def _forget_problem(self, pin: Pin) -> None:
        self._problems.pop(pin, None)
        self._logged_at.pop(pin, None)

    def _told(self, pin: Pin) -> str:
        unready = "" if self.all_resident.is_set() else "; this server is not ready before it is"
        return f"pinned {pin} is not resident: {self._problems[pin]}{unready}"

    def _means(self, pin: Pin, version: Version) -> bool:
        reference = pin.reference
        if (pin.project, reference.adapter) != (version.project, version.adapter):
            return False
        if reference.alias is None:
            return version.digest == reference.digest or version.number == reference.number
        live = self._live.get((pin.project, reference.adapter, reference.alias))
        return live is not None and live.version.digest == version.digest

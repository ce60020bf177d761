"""What is not as it should be, though requests are answered all the same."""

from __future__ import annotations

from loradock.registry.resources import VersionState
from loradock.server.aliases.follow import divergence
from loradock.server.aliases.live import Live
from loradock.server.residency.pins import Pins
from loradock.server.residency.residencies import Residencies
from loradock.server.services.names import alias_name
from loradock.server.telemetry.outage import Outage
from loradock.server.upkeep import Upkeep


class Health:
    """Collects reasons from all over the server. Belongs to the event loop's thread."""

    def __init__(
        self,
        live: Live,
        residencies: Residencies,
        pins: Pins,
        catalog: Outage,
        store: Outage,
        upkeep: Upkeep,
    ) -> None:
        self._live = live
        self._residencies = residencies
        self._pins = pins
        self._outages = (catalog, store)
        self._upkeep = upkeep

    def degraded(self, project: str) -> list[str]:
        """Say what is wrong, a sentence each: with the server, and with a project's adapters."""
        return [
            *(str(outage) for outage in self._outages if outage.goes_on),
            *self._divergences(project),
            *self._yanked(project),
            *self._pins.problems(project),
            *self._failures(project),
            *(f"a fault of this program: {violation}" for violation in self._upkeep.violations),
        ]

    def _divergences(self, project: str) -> list[str]:
        return [
            divergence(key, live, self._live)
            for key, live in self._live.table.items()
            if live.is_divergent and key[0] == project
        ]

    def _yanked(self, project: str) -> list[str]:
        """Tell which aliases answer nobody until they are moved."""
        mine = [(alias_name(*key), at.version) for key, at in self._live.table.items()]
        return [
            f"{name}: answers nobody, for {v.adapter}@{v.number} was yanked: {v.state_reason}"
            for name, v in mine
            if v.project == project and v.state is VersionState.YANKED
        ]

    def _failures(self, project: str) -> list[str]:
        """Tell what callers are refused for now; once the back-off is over, they are let try."""
        refused = [place for place in self._residencies.places() if place.back_off_s]
        mine = [(place.version, place.reason) for place in refused if place.key[0] == project]
        return [f"{v.adapter}@{v.number} could not be brought in: {why}" for v, why in mine]

"""What an inference server has inside, for those who look at it and steer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loradock.engine.protocol import Engine
from loradock.registry.resources import Version
from loradock.server.aliases.live import Live
from loradock.server.aliases.override import Overrides
from loradock.server.heartbeat import Pulse
from loradock.server.residency.pins import Pins
from loradock.server.residency.residencies import Residencies
from loradock.server.telemetry.health import Health
from loradock.server.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Inside:
    """The parts of an inference server."""

    engine: Engine
    live: Live
    residencies: Residencies
    pins: Pins
    pulse: Pulse
    overrides: Overrides
    upkeep: Upkeep
    health: Health
    check_base: Callable[[Version], None]

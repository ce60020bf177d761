"""Whether this server takes part in traffic: ready, drained, or going for good."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from loradock.server.gate import Gate
from loradock.server.listen import Listener

log = logging.getLogger(__name__)

SILENCE_S, MAX_SILENCE_S = 0.3, 2.0  # callers on a busy machine hear late of what health says


class Traffic:
    """Keeps what health says and whom the gate lets in together. Of the event loop's thread."""

    def __init__(self, gate: Gate, listener: Listener) -> None:
        self._gate = gate
        self._listener = listener
        self.ready = asyncio.Event()
        self.exit_asked = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def is_drained(self) -> bool:
        """Whether new requests are refused."""
        return self._gate.is_draining

    async def begin(self) -> None:
        """Be ready: everything that was to be resident is."""
        self.ready.set()
        if not self.is_drained:
            await self._listener.say_serving(True)

    async def drain(self, wait_s: float) -> int:
        """Refuse what is new, and wait so long for the rest; give how many still run."""
        log.info("draining", extra={"facts": {"num_inside": self._gate.num_inside}})
        await self._listener.say_serving(False)
        self.on_change()
        await self._gate.drain(wait_s)
        return self._gate.num_inside

    async def undrain(self) -> None:
        """Take part again."""
        self._gate.reopen()
        self.on_change()
        await self._listener.say_serving(True, is_ready=self.ready.is_set())

    async def end(self, grace_s: float) -> bool:
        """Take no part any more; tell whether everybody left within the grace."""
        log.info("draining", extra={"facts": {"num_inside": self._gate.num_inside}})
        await self._listener.say_not_serving()
        self.on_change()
        finished = await self._gate.close(grace_s)
        # gRPC ends a call that comes in the moment in which it stops without a word that would
        # let its caller try elsewhere: stop once those who still came have gone.
        await self._gate.silence(SILENCE_S, min(grace_s, MAX_SILENCE_S))
        if not finished:
            log.warning("the grace is over", extra={"facts": {"cut_off": self._gate.num_inside}})
        return finished

    async def is_ready_before_exit(self) -> bool:
        """Wait until this server is ready, or is asked to end before it ever was."""
        waits = [asyncio.create_task(event.wait()) for event in (self.ready, self.exit_asked)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self.ready.is_set()

"""What a server looks after by itself: its accounts, and whether the store answers."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

from loradock.registry.blobs import Blobs
from loradock.registry.errors import StoreUnavailable
from loradock.server.residency.residencies import Residencies
from loradock.server.telemetry.outage import Outage

log = logging.getLogger(__name__)

CHECK_S = 2.0


class WatchedStore:
    """The object store as the disk cache reads it, with an eye on whether it answers."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.outage = Outage("the object store")

    def fetch(self, digest: str, path: Path) -> None:
        """Bring a blob to a file."""
        with self.outage.watching(StoreUnavailable):
            self._blobs.fetch(digest, path)

    def probe(self) -> None:
        """Find out whether it answers."""
        try:
            with self.outage.watching(StoreUnavailable):
                self._blobs.reach()
        except Exception as error:  # also of a client that is being closed
            log.debug("the object store was probed: %s", error)


class Upkeep:
    """Runs beside traffic, cheaply. Belongs to the event loop's thread."""

    def __init__(self, residencies: Residencies, store: WatchedStore) -> None:
        self._residencies = residencies
        self._store = store
        self._probing: threading.Thread | None = None
        self.violations: list[str] = []
        self.num_violations = 0

    async def run(self) -> None:
        """Look after everything until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.check()
            self._probe()

    def check(self) -> None:
        """Hold the accounts against each other; what does not add up is a fault of this program."""
        found = self._residencies.check()
        self.num_violations += len(found)
        for violation in found:
            log.error("the accounts of memory do not add up: %s", violation)
        self.violations = found

    def _probe(self) -> None:
        """Ask the store on a thread that may hang as long as it does; nobody waits for its end."""
        if self._probing is not None and self._probing.is_alive():
            self._store.outage.begin(f"it has not answered for {CHECK_S:g} seconds")
        else:
            self._probing = threading.Thread(target=self._store.probe, name="probe", daemon=True)
            self._probing.start()

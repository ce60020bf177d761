"""The door of the server: counts who is inside, and lets nobody in while the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from loradock.server.errors import Draining


class Gate:
    """One door for all calls. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.num_inside = 0
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is let in."""
        return self._draining

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Be inside; refused while draining."""
        if self._draining:
            raise Draining
        self.num_inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.num_inside -= 1
            if not self.num_inside:
                self._empty.set()

    async def drain(self, grace_s: float) -> bool:
        """Let nobody in any more; tell whether everybody left within the grace."""
        self._draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

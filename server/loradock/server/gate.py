"""The door of the server: counts who is inside, and lets nobody in while the server drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loradock.server.errors import Draining


class Gate:
    """One door for all calls. Belongs to the event loop's thread.

    Who steers the server itself, or examines it, passes by the side: is let in while it is drained,
    and not waited for. Once the door is closed it stays closed, to everybody.
    """

    def __init__(self) -> None:
        self.num_inside = 0
        self._num_steering = 0
        self._draining = False
        self._closed = False
        self._left = asyncio.Event()
        self._knocked_at = 0.0

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is let in."""
        return self._draining or self._closed

    @contextmanager
    def passage(self, *, is_steering: bool = False) -> Iterator[None]:
        """Be inside; refused while draining."""
        self._knocked_at = time.monotonic()
        if self._closed or (self._draining and not is_steering):
            raise Draining
        self._count(1, is_steering)
        try:
            yield
        finally:
            self._count(-1, is_steering)

    async def drain(self, grace_s: float) -> bool:
        """Let nobody in any more; tell whether everybody left within the grace."""
        self._draining = True
        return await self._until(lambda: not self.num_inside, grace_s)

    async def close(self, grace_s: float) -> bool:
        """Do so for good; who steers has to leave too."""
        self._closed = True
        return await self._until(lambda: not self.num_inside + self._num_steering, grace_s)

    async def silence(self, seconds: float, most_s: float) -> None:
        """Wait until nobody has knocked for so long, from now on: until callers are elsewhere."""
        began = time.monotonic()
        give_up_at = began + most_s
        while (left := max(began, self._knocked_at) + seconds - time.monotonic()) > 0:
            if time.monotonic() >= give_up_at:
                return
            await asyncio.sleep(left)

    def reopen(self) -> None:
        """Let everybody in again. Refused once the door is closed."""
        if self._closed:
            raise Draining
        self._draining = False

    def _count(self, change: int, is_steering: bool) -> None:
        if is_steering:
            self._num_steering += change
        else:
            self.num_inside += change
        self._left.set()

    async def _until(self, holds: Callable[[], bool], grace_s: float) -> bool:
        try:
            async with asyncio.timeout(grace_s):
                while not holds():
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return False
        return True

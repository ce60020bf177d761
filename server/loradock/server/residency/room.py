"""Memory for adapters: a budget of bytes, and a queue of those who wait for a part of it.

A content is counted once, however many adapters and projects hold it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

Key = tuple[str, str, str]  # project, adapter, digest


@dataclass(slots=True)
class _Slot:
    """One content's bytes."""

    size_bytes: int
    holders: set[Key] = field(default_factory=set)


@dataclass(slots=True)
class _Turn:
    """Who waits, for how much."""

    key: Key
    size_bytes: int
    granted: asyncio.Future[None]


class Room:
    """Who holds how much. Belongs to the event loop's thread."""

    def __init__(self, budget_bytes: int, make_free: Callable[[int], bool]) -> None:
        """`make_free` frees at least so many bytes more, if that can be done now, or nothing."""
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._make_free = make_free
        self._slots: dict[str, _Slot] = {}
        self._queue: deque[_Turn] = deque()

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody holds."""
        return self.budget_bytes - self.used_bytes

    @property
    def slot_bytes(self) -> dict[str, int]:
        """What each content takes."""
        return {digest: slot.size_bytes for digest, slot in self._slots.items()}

    async def take(self, key: Key, size_bytes: int) -> None:
        """Hold so much, after all who asked earlier; wait until it is free. Idempotent."""
        held = self._slots.get(key[-1])
        if held is not None and key in held.holders:
            return
        if not self._queue and self._try_to_hold(key, size_bytes):
            return
        turn = _Turn(key, size_bytes, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        try:
            await turn.granted
        except asyncio.CancelledError:
            if not turn.granted.cancelled():  # it was let in at the same moment
                self.give_back(key)
            self.serve()
            raise

    def serve(self) -> None:
        """Let those in who fit now, in their order: a big one is not overtaken for ever."""
        # Who was cancelled may not have run since, to see it.
        self._queue = deque(turn for turn in self._queue if not turn.granted.cancelled())
        while self._queue and self._try_to_hold(self._queue[0].key, self._queue[0].size_bytes):
            self._queue.popleft().granted.set_result(None)

    def resize(self, key: Key, size_bytes: int) -> None:
        """Note what something takes in fact, now that it is there."""
        slot = self._slots[key[-1]]
        self.used_bytes += size_bytes - slot.size_bytes
        slot.size_bytes = size_bytes

    def give_back(self, key: Key) -> bool:
        """Hold it no more; tell whether nobody else does, so that its bytes are free."""
        slot = self._slots.get(key[-1])
        if slot is None or key not in slot.holders:
            return False
        slot.holders.remove(key)
        if slot.holders:
            return False
        del self._slots[key[-1]]
        self.used_bytes -= slot.size_bytes
        return True

    def freed_by(self, keys: Collection[Key]) -> int:
        """Say how many bytes would be free if these held nothing any more."""
        gone = set(keys)
        return sum(slot.size_bytes for slot in self._slots.values() if slot.holders <= gone)

    def _try_to_hold(self, key: Key, size_bytes: int) -> bool:
        slot = self._slots.get(key[-1])
        if slot is None:
            missing = size_bytes - self.free_bytes
            if missing > 0 and not self._make_free(missing):
                return False
            slot = self._slots[key[-1]] = _Slot(size_bytes)
            self.used_bytes += size_bytes
        slot.holders.add(key)
        return True

"""Who may wait: how many requests are inside, of all and of one project; and when to come again.

A request is inside from its admission to its end, so while its version is brought in too. Whoever
is turned away is told when there will be room for it, from how fast requests lately ended: of
several, each is told a moment of its own, so that they don't all come back at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from loradock.engine.protocol import Generate, Priority, Work
from loradock.server.errors import QueueFull

LOW_SHARE = 0.5  # of all places, that requests of low priority may fill
PROJECT_SHARE = 0.75  # that one project may fill, unless told otherwise
MEMORIES = 16  # how often the tokens that are asked for may fill key/value memory
NUM_ENDS, LATELY_S = 64, 30.0  # what the rate is measured by
UNKNOWN_S = 0.5  # what a request takes, as long as none has ended
MIN_RETRY_S, MAX_RETRY_S = 0.05, 30.0


class Places:
    """So many of something: what is taken, and how fast it comes back."""

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        self.num_taken = 0
        self._ends: deque[tuple[float, int]] = deque(maxlen=NUM_ENDS)  # when, how many
        self._promised_at = 0.0  # when what was promised so far will have been used

    def check(self, amount: int, priority: Priority) -> None:
        """Raise `QueueFull` unless so many more may be taken, or nothing is."""
        limit = int(self.limit * LOW_SHARE) if priority is Priority.LOW else self.limit
        if self.num_taken and self.num_taken + amount > limit:
            now = time.monotonic()
            self._promised_at = max(self._promised_at, now) + amount * self._seconds_each(now)
            retry_s = min(max(self._promised_at - now, MIN_RETRY_S), MAX_RETRY_S)
            raise QueueFull(self.num_taken, limit, self.what, retry_s)

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Hold so many."""
        self.num_taken += amount
        try:
            yield
        finally:
            self.num_taken -= amount
            self._ends.append((time.monotonic(), amount))

    def _seconds_each(self, now: float) -> float:
        while self._ends and self._ends[0][0] < now - LATELY_S:
            self._ends.popleft()
        if len(self._ends) < 2:
            return UNKNOWN_S / max(1, self.num_taken)
        return (now - self._ends[0][0]) / sum(amount for _, amount in self._ends)


class Admission:
    """The places of one server. Belongs to the event loop's thread."""

    def __init__(self, *, max_requests: int, max_per_project: int, max_tokens: int) -> None:
        """Allow so many; 0 a project leaves others a quarter."""
        self._requests = Places("requests", max_requests)
        self._tokens = Places("tokens", max_tokens)
        self._max_own = max_per_project or max(1, int(max_requests * PROJECT_SHARE))
        self._projects: dict[str, Places] = {}

    @contextmanager
    def request(self, project: str, priority: Priority) -> Iterator[None]:
        """Be inside. Raises `QueueFull`."""
        own = self._projects.get(project)
        if own is None:
            own = self._projects[project] = Places("requests of this project", self._max_own)
        for places in (own, self._requests):
            places.check(1, priority)
        with own.taken(1), self._requests.taken(1):
            yield

    @contextmanager
    def work(self, work: Work) -> Iterator[None]:
        """Hold the memory that work may come to need. Raises `QueueFull`."""
        amount = tokens_of(work)
        self._tokens.check(amount, work.priority)
        with self._tokens.taken(amount):
            yield


def tokens_of(work: Work) -> int:
    """Count the tokens that work may come to keep."""
    if isinstance(work, Generate):
        return len(work.prompt) + work.sampling.max_tokens
    return len(work.prompt) + sum(map(len, work.continuations))

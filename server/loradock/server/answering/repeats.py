"""Who answered a request, for when the same one comes again: its alias may have moved meanwhile.

Kept in this process's memory alone, for a bounded number of requests, for so long.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loradock.server.aliases.live import Chosen
from loradock.server.services.call import Call

MAX_REMEMBERED = 10_000  # of one project, so that no other's are pushed out


@dataclass(slots=True)
class _First:
    """Who answers a request, and then all that repeat it."""

    chosen: Chosen
    until: float  # on the clock of time.monotonic
    num_running: int = 0
    is_answered: bool = False


class Repeats:
    """Remembers who answers each request. Belongs to the event loop's thread."""

    def __init__(self, *, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._known: defaultdict[str, OrderedDict[bytes, _First]]
        self._known = defaultdict(OrderedDict)  # by project; the oldest first

    def first(self, call: Call) -> Chosen | None:
        """Say who answers or answered the same request, if that is remembered."""
        known = self._known[call.principal.project]
        while known and next(iter(known.values())).until <= time.monotonic():
            known.popitem(last=False)
        found = None if call.repeat_key is None else known.get(call.repeat_key)
        return None if found is None else found.chosen

    @contextmanager
    def kept(self, call: Call, chosen: Chosen) -> Iterator[None]:
        """Remember who answers a call from now on; not if it and all like it break off.

        A repetition keeps nothing longer, so no alias is held back by what is asked for ever.
        """
        known, key = self._known[call.principal.project], call.repeat_key
        if key is None:
            yield
            return
        if key not in known:
            while len(known) >= MAX_REMEMBERED:
                known.popitem(last=False)
            known[key] = _First(chosen, time.monotonic() + self._max_age_s)
        first = known[key]
        first.num_running += 1
        try:
            yield
            first.is_answered = True
        finally:
            first.num_running -= 1
            if not (first.num_running or first.is_answered) and known.get(key) is first:
                del known[key]

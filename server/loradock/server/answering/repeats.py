"""Who answered a request, for when the same one comes again: its alias may have moved meanwhile.

Kept in this process's memory alone, for a bounded number of requests, for so long.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from loradock.server.aliases.live import Chosen
from loradock.server.services.call import Call

MAX_REMEMBERED = 10_000  # of one project, so that no other's are pushed out


class Repeats:
    """Remembers who answers each request. Belongs to the event loop's thread."""

    def __init__(self, *, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._known: defaultdict[str, OrderedDict[bytes, tuple[Chosen, float]]]
        self._known = defaultdict(OrderedDict)  # by project; the oldest first

    def first(self, call: Call) -> Chosen | None:
        """Say who answered the same request before, if that is remembered."""
        known = self._known[call.principal.project]
        while known and next(iter(known.values()))[1] <= time.monotonic():
            known.popitem(last=False)
        found = None if call.repeat_key is None else known.get(call.repeat_key)
        return None if found is None else found[0]

    @contextmanager
    def kept(self, call: Call, chosen: Chosen) -> Iterator[None]:
        """Remember who answers a call from now on; not if it breaks off, whatever by.

        A repetition keeps nothing longer, so no alias is held back by what is asked for ever.
        """
        known, key = self._known[call.principal.project], call.repeat_key
        if key is None or key in known:
            yield
            return
        while len(known) >= MAX_REMEMBERED:
            known.popitem(last=False)
        known[key] = chosen, time.monotonic() + self._max_age_s
        try:
            yield
        except BaseException:
            known.pop(key, None)
            raise

"""What the demo's callers saw, call by call, and a picture of it over time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from rich.text import Text

BUCKET_S = 0.25  # of the picture
HEIGHTS = "▁▂▃▄▅▆▇█"
STYLES = {1: "cyan", 2: "magenta"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: who answered, or why it failed."""

    begun: float
    done: float
    version: int | None = None
    is_own: bool = False  # the text is that version's own greedy answer
    text: str = ""
    failure: str = ""


class Tally:
    """All calls so far. Any thread may use it."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def add(self, call: Call) -> None:
        """Count a call."""
        with self._lock:
            self._calls.append(call)

    def calls(self) -> list[Call]:
        """Give the calls so far."""
        with self._lock:
            return list(self._calls)

    def by_version(self) -> Counter[int]:
        """Count the answers of each version."""
        return Counter(call.version for call in self.calls() if call.version is not None)

    def first_done(self, version: int, since: float) -> float | None:
        """Give when a version's first answer since some time came."""
        times = [c.done for c in self.calls() if c.version == version and c.done >= since]
        return min(times, default=None)

    def late(self, after: float, before: float | None, version: int) -> int:
        """Count the calls begun after a move to `version`, and before the next, that it missed."""
        return sum(
            call.version not in (None, version)
            for call in self.calls()
            if call.begun > after and (before is None or call.done < before)
        )

    def drawn(self) -> Text:
        """Draw answers per moment, a line for each version, and the counts."""
        calls = self.calls()
        picture = Text()
        for version, style in STYLES.items():
            answers = [call for call in calls if call.version == version]
            picture.append(f"  v{version} ")
            picture.append(self._bars(answers), style=style)
            picture.append(f" {len(answers)} answers\n")
        num_failed = sum(bool(call.failure) for call in calls)
        picture.append(f"  {num_failed} failed", style="bold red" if num_failed else "bold green")
        return picture

    def _bars(self, calls: list[Call]) -> str:
        counts = Counter(int((call.done - self._begun) / BUCKET_S) for call in calls)
        num_buckets = int((time.monotonic() - self._begun) / BUCKET_S)
        highest = max(counts.values(), default=1)
        return "".join(_bar(counts[place], highest) for place in range(num_buckets))


def _bar(count: int, highest: int) -> str:
    return HEIGHTS[(count * len(HEIGHTS) - 1) // highest] if count else " "

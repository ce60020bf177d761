"""What this server counts, in Prometheus's terms: once a call and once an answer, never a token.

Knows what a call's facts say; neither the engine nor the wire. docs/observability.md lists all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from loradock.server.answering.progress import Progress
from loradock.server.services.call import Call

BASE, OTHER = "(base)", "(other)"  # no adapter has such a name
WHO = ("project", "adapter", "version")
UNUSED_S = 900.0  # then a version's figures may make room for another's

_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_WAIT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_GAP_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

Who = tuple[str, str, str]


class Metrics:
    """One server's figures. Belongs to the event loop's thread; read from any."""

    def __init__(self, *, max_versions: int) -> None:
        """Keep figures of their own for so many versions; the others share one line."""
        self.registry = registry = CollectorRegistry()
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=registry)

        def count(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"loradock_{name}", help, labels, registry=registry)

        def spread(name: str, help: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
            name = f"loradock_{name}_seconds"
            return Histogram(name, help, labels, buckets=bounds, registry=registry)

        self._calls = count("calls", "Calls of all services that have ended.", "method", "reason")
        self._call_s = spread("call", "From a call's begin to its end.", _CALL_S, "method")
        arm_and_reason = (*WHO, "arm", "reason")
        self._requests = count("requests", "Inference requests that have ended.", *arm_and_reason)
        self._prompt = count("prompt_tokens", "Tokens of prompts.", *WHO)
        self._cached = count("cached_prompt_tokens", "Of these, found in the prefix cache.", *WHO)
        self._output = count("output_tokens", "Tokens of answers.", *WHO)
        self._hits = count("adapter_hits", "Requests whose version was resident.", *WHO)
        self._misses = count("adapter_misses", "Requests that waited for their version.", *WHO)
        self._waits = spread("adapter_wait", "Waiting for a version.", _WAIT_S, *WHO)
        self._queue = spread("queue", "Waiting for a place in the batch.", _WAIT_S, *WHO)
        self._first = spread("first_token", "From a call to its first token.", _WAIT_S, *WHO)
        self._gaps = spread("inter_token", "From a token to the next.", _GAP_S, *WHO)
        self._seen = _Seen(max_versions, self._forget)

    def call_ended(
        self, method: str, reason: str, seconds: float, call: Call | None, *, is_inference: bool
    ) -> None:
        """Count a call; `call` is None for one that was refused at the door."""
        self._calls.labels(method, reason).inc()
        self._call_s.labels(method).observe(seconds)
        if is_inference:
            arm = "" if call is None else str(call.facts.get("arm") or "")
            self._requests.labels(*self._who(call), arm, reason).inc()

    def answer_ended(self, call: Call, progress: Progress) -> None:
        """Count what was done for a request that was admitted, whatever way it ended."""
        who = self._who(call)
        self._prompt.labels(*who).inc(progress.num_prompt_tokens)
        self._cached.labels(*who).inc(progress.num_cached_tokens)
        self._output.labels(*who).inc(progress.num_output_tokens)
        (self._hits if progress.was_resident else self._misses).labels(*who).inc()
        if not progress.was_resident:
            self._waits.labels(*who).observe(progress.adapter_wait_s)
        if progress.first_token_at is not None:
            self._queue.labels(*who).observe(progress.queued_s)
            self._first.labels(*who).observe(progress.first_token_s)
        gaps = self._gaps.labels(*who)
        for gap in progress.gaps_s:
            gaps.observe(gap)

    def _who(self, call: Call | None) -> Who:
        """Say whose figures a call counts among; a name that was never resolved gets no line."""
        if call is not None and call.is_of_base:
            return (call.principal.project, BASE, "")
        if call is None or not call.facts.get("adapter"):
            return (OTHER, OTHER, OTHER)
        facts = call.facts
        who = (call.principal.project, str(facts["adapter"]), str(facts["version"]))
        return who if self._seen.has_room_for(who) else (OTHER, OTHER, OTHER)

    def _forget(self, who: Who) -> None:
        labels = dict(zip(WHO, who, strict=True))
        for metric in (
            *(self._requests, self._prompt, self._cached, self._output, self._hits, self._misses),
            *(self._waits, self._queue, self._first, self._gaps),
        ):
            metric.remove_by_labels(labels)


class _Seen:
    """The versions that have lines of their own: bounded, since each costs some hundred lines."""

    def __init__(self, at_most: int, forget: Callable[[Who], None]) -> None:
        self._at_most = at_most
        self._forget = forget
        self._used: dict[Who, float] = {}  # the longest unused first

    def has_room_for(self, who: Who) -> bool:
        now = time.monotonic()
        if self._used.pop(who, None) is None and len(self._used) >= self._at_most:
            oldest = next(iter(self._used), None)
            if oldest is None or self._used[oldest] + UNUSED_S > now:
                return False
            del self._used[oldest]
            self._forget(oldest)
        self._used[who] = now
        return True

"""What is counted while a request is answered; logs, metrics and spans all tell it from here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from loradock.engine.protocol import RowEvent
from loradock.server.services.call import Call


@dataclass(slots=True)
class Progress:
    """One request's way through the engine. Moments are on the clock of `time.monotonic`."""

    adapter_wait_s: float = 0.0
    was_resident: bool = True
    queued_s: float = 0.0
    first_token_s: float = 0.0  # since the call came in
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    finish: str = ""
    submitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    gaps_s: list[float] = field(default_factory=list)  # from each token to the next

    def take(self, event: RowEvent, call: Call) -> None:
        """Count what one step did for the row."""
        now = time.monotonic()
        self.num_cached_tokens = event.cached_tokens or self.num_cached_tokens
        self.queued_s = self.queued_s if event.queued_s is None else event.queued_s
        if not (event.tokens or event.finish):
            return
        if self.first_token_at is None:
            self.first_token_at, self.first_token_s = now, now - call.started
        elif event.tokens and self.last_token_at is not None:
            self.gaps_s.append(now - self.last_token_at)
        self.last_token_at = now

    def tell(self, call: Call) -> None:
        """Add it to what log lines tell of the call."""
        call.facts |= {
            "prompt_tokens": self.num_prompt_tokens,
            "cached_tokens": self.num_cached_tokens,
            "output_tokens": self.num_output_tokens,
            "adapter_wait_s": round(self.adapter_wait_s, 6),
            "queued_s": round(self.queued_s, 6),
            "first_token_s": round(self.first_token_s, 6),
            "longest_gap_s": round(max(self.gaps_s, default=0.0), 6),
        }

"""What a server does in a second, from two looks at it, and how that looks in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loradock.cli.output import aligned, size_text, text_of
from loradock.cli.server_view import named, status_fields

if TYPE_CHECKING:
    from loradock.client import Residency, ServerStatus

SHOWN = ("server", "rows", "engine", "keys, values", "memory", "disk", "drained", "degraded")
HEAD = ["VERSION", "STATE", "REQUESTS/S", "TOKENS/S", "LEASES", "SIZE", "LIVE AS"]


@dataclass(frozen=True, slots=True)
class VersionRates:
    """What one version did, of those that are on the server."""

    version_digest: str
    adapter: str
    version_number: int | None
    requests_per_s: float
    tokens_per_s: float  # of its answers


@dataclass(frozen=True, slots=True)
class ServerRates:
    """What a server did between two looks, and how it was at the second."""

    seconds: float
    steps_per_s: float
    tokens_per_s: float  # computed, of prompts and of answers
    versions: tuple[VersionRates, ...]
    status: ServerStatus


def rates_of(before: ServerStatus, now: ServerStatus, seconds: float) -> ServerRates:
    """Hold two looks at one server against each other."""
    earlier = {(r.adapter, r.version_digest): r for r in before.server.residencies}
    use, used = now.engine_use, before.engine_use
    return ServerRates(
        seconds,
        (use.num_steps - used.num_steps) / seconds,
        (use.num_step_tokens - used.num_step_tokens) / seconds,
        tuple(
            _version(r, earlier.get((r.adapter, r.version_digest)), seconds)
            for r in now.server.residencies
        ),
        now,
    )


def _version(now: Residency, before: Residency | None, seconds: float) -> VersionRates:
    """Give what a version did; one that was not there before did everything since."""
    hits, tokens = (0, 0) if before is None else (before.num_hits, before.num_output_tokens)
    return VersionRates(
        now.version_digest,
        now.adapter,
        now.version_number,
        max(0, now.num_hits - hits) / seconds,  # a server forgets what it had no use for
        max(0, now.num_output_tokens - tokens) / seconds,
    )


def lines_of(rates: ServerRates) -> list[str]:
    """Give what to show of a server at work, its busiest versions first."""
    use = rates.status.engine_use
    fields = status_fields(rates.status) | {
        "engine": f"{rates.steps_per_s:.4g} steps/s, {rates.tokens_per_s:.4g} tokens/s",
        "keys, values": f"{use.num_used_blocks} of {use.num_blocks} blocks used, "
        f"{use.num_cached_blocks} cached",
    }
    lines = aligned([[f"{name}:", text_of(fields[name])] for name in SHOWN])
    pairs = zip(rates.versions, rates.status.server.residencies, strict=True)
    busiest = sorted(pairs, key=lambda pair: (-pair[0].tokens_per_s, -pair[0].requests_per_s))
    return [*lines, "", *aligned([HEAD, *(_row(*pair) for pair in busiest)])]


def _row(did: VersionRates, place: Residency) -> list[str]:
    return [
        named(place.adapter, place.version_number, place.version_digest),
        place.state.value,
        text_of(did.requests_per_s),
        text_of(did.tokens_per_s),
        text_of(place.num_leases),
        size_text(place.size_bytes),
        ", ".join(place.live_aliases),
    ]

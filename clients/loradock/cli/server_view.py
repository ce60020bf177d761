"""How a server looks in a terminal: what it is, what it has resident, what it answers with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradock.cli.output import short_digest, size_text, split_text

if TYPE_CHECKING:
    from loradock.client import ServerStatus, Tier

RESIDENCY_COLUMNS = {
    "version": lambda r: named(r.adapter, r.version_number, r.version_digest),
    "digest": lambda r: short_digest(r.version_digest),
    "state": lambda r: r.state,
    "pinned": lambda r: "yes" if r.pinned else "",
    "live as": lambda r: ", ".join(r.live_aliases),
    "size": lambda r: size_text(r.size_bytes),
    "leases": lambda r: r.num_leases,
    "hits": lambda r: r.num_hits,
    "last use": lambda r: r.last_use_time or "",
    "load": lambda r: f"{r.load_s * 1000:.0f} ms" if r.load_s else "",
    "reason": lambda r: r.reason,
}
LIVE_COLUMNS = {
    "alias": lambda a: f"{a.adapter}:{a.alias}",
    "live": lambda a: named(a.adapter, a.live_number, a.live_digest),
    "desired": lambda a: named(a.adapter, a.desired_number, a.desired_digest),
    "split": lambda a: split_text(a.split),
    "generation": lambda a: a.generation,
    "overridden": lambda a: "yes" if a.overridden else "",
    "reason": lambda a: a.reason,
}


def named(adapter: str, number: int | None, digest: str) -> str:
    """Name a version, by its digest if its number is not known."""
    return short_digest(digest) if number is None else f"{adapter}@{number}"


def status_fields(found: ServerStatus) -> dict[str, object]:
    """Give what to show of a server."""
    server, limits = found.server, found.limits
    return {
        "server": server.server_id,
        "address": server.address,
        "release": found.release,
        "base": server.base_model.removeprefix("baseModels/"),
        "engine": found.engine_profile,
        "context": f"{limits.context_length_tokens} tokens",
        "rows": f"{found.num_running_rows} of {limits.max_running_rows} running, "
        f"{found.num_waiting_rows} waiting",
        "memory": _tier_text(found.memory, "adapters"),
        "disk": _tier_text(found.disk, "files"),
        "sequence": server.sequence,
        "drained": "yes: new requests are refused" if found.drained else "no",
        "degraded": found.degraded or "no",
        "started": server.started_at,
    }


def _tier_text(tier: Tier, items: str) -> str:
    used, budget = size_text(tier.used_bytes), size_text(tier.budget_bytes)
    return f"{used} of {budget} for {tier.num_items} {items}"

"""Running servers, from messages."""

from __future__ import annotations

from loradock.client._names import part_after
from loradock.client._values import server as values
from loradock.client._wire.registry import base_digests_of, split_of
from loradock.client._wire.scalars import enum_of, time_of
from loradock.v1 import server_service_pb2 as wire


def residency_of(message: wire.Residency) -> values.Residency:
    """Read one version's place on a server."""
    return values.Residency(
        version_digest=message.version_digest,
        state=enum_of(
            values.ResidencyState, wire.ResidencyState, message.state, "RESIDENCY_STATE_"
        ),
        size_bytes=message.size_bytes,
        num_leases=message.num_leases,
        reason=message.reason,
        adapter=_part(message.version, "adapters"),
        version_number=_number(message.version),
        live_aliases=tuple(part_after(name, "aliases") for name in message.live_aliases),
        pinned=message.pinned,
        num_hits=message.num_hits,
        last_use_time=time_of(message, "last_use_time"),
        load_s=message.load_duration.ToTimedelta().total_seconds(),
        last_error=message.last_error,
        retry_time=time_of(message, "retry_time"),
        num_output_tokens=message.num_output_tokens,
    )


def tier_of(message: wire.Tier) -> values.Tier:
    """Read how full a tier is."""
    return values.Tier(message.used_bytes, message.budget_bytes, message.num_items)


def engine_use_of(message: wire.EngineUse) -> values.EngineUse:
    """Read what an engine has done, and what it holds."""
    return values.EngineUse(
        num_steps=message.num_steps,
        num_step_tokens=message.num_step_tokens,
        num_blocks=message.num_blocks,
        num_used_blocks=message.num_used_blocks,
        num_cached_blocks=message.num_cached_blocks,
    )


def _part(name: str, collection: str) -> str:
    return part_after(name, collection) if name else ""


def _number(name: str) -> int | None:
    return int(part_after(name, "versions")) if name else None


def live_alias_of(message: wire.LiveAlias) -> values.LiveAlias:
    """Read what a server answers an alias with."""
    return values.LiveAlias(
        adapter=part_after(message.name, "adapters"),
        alias=part_after(message.name, "aliases"),
        live_digest=message.live_digest,
        desired_digest=message.desired_digest,
        generation=message.generation,
        overridden=message.overridden,
        reason=message.reason,
        live_number=_number(message.live_version),
        desired_number=_number(message.desired_version),
        split=split_of(message),
    )


def server_of(message: wire.Server) -> values.Server:
    """Read a heartbeat."""
    return values.Server(
        server_id=message.server_id,
        address=message.address,
        base_model=message.base_model,
        base_digests=base_digests_of(message.base_digests),
        sequence=message.sequence,
        residencies=tuple(residency_of(residency) for residency in message.residencies),
        divergences=tuple(message.divergences),
        started_at=time_of(message, "started_at"),
        seen_at=time_of(message, "seen_at"),
        drained=message.drained,
    )


def server_status_of(message: wire.GetServerResponse) -> values.ServerStatus:
    """Read the server that answers."""
    limits = message.limits
    return values.ServerStatus(
        server=server_of(message.server),
        release=message.release,
        engine_profile=message.engine_profile,
        limits=values.ServerLimits(
            max_message_bytes=limits.max_message_bytes,
            max_chunk_bytes=limits.max_chunk_bytes,
            max_blob_bytes=limits.max_blob_bytes,
            context_length_tokens=limits.context_length_tokens,
            max_running_rows=limits.max_running_rows,
        ),
        live_aliases=tuple(live_alias_of(alias) for alias in message.live_aliases),
        num_running_rows=message.num_running_rows,
        num_waiting_rows=message.num_waiting_rows,
        degraded=tuple(message.degraded),
        drained=message.drained,
        memory=tier_of(message.memory),
        disk=tier_of(message.disk),
        engine_use=engine_use_of(message.engine_use),
    )

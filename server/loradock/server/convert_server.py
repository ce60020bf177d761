"""Servers, residencies and live aliases to messages."""

from __future__ import annotations

from loradock.registry import resources as nouns
from loradock.server import names, residency
from loradock.server.convert_alias import split_message
from loradock.server.convert_registry import base_digests, timestamp
from loradock.server.live import AliasKey
from loradock.server.live import LiveAlias as Live
from loradock.v1 import server_service_pb2 as wire

_STATES = {
    residency.LOADING: wire.RESIDENCY_STATE_LOADING,
    residency.RESIDENT: wire.RESIDENCY_STATE_RESIDENT,
    residency.DRAINING: wire.RESIDENCY_STATE_DRAINING,
    residency.FAILED: wire.RESIDENCY_STATE_FAILED,
}


def residency_message(noun: nouns.Residency) -> wire.Residency:
    """Write one version's place on one server."""
    return wire.Residency(
        version_digest=noun.digest,
        state=_STATES.get(noun.state, wire.RESIDENCY_STATE_UNSPECIFIED),
        size_bytes=noun.size_bytes,
        num_leases=noun.leases,
        reason=noun.reason,
    )


def server(beat: nouns.Heartbeat) -> wire.Server:
    """Write what a server last told."""
    return wire.Server(
        server_id=beat.server_id,
        address=beat.address,
        base_model=names.base_name(beat.base_name),
        base_digests=base_digests(beat.base_digests),
        sequence=beat.sequence,
        residencies=[residency_message(noun) for noun in beat.residencies],
        divergences=beat.divergences,
        started_at=timestamp(beat.started_at),
        seen_at=timestamp(beat.seen_at),
    )


def live_alias(key: AliasKey, live: Live) -> wire.LiveAlias:
    """Write what an alias is answered with."""
    return wire.LiveAlias(
        name=names.alias_name(*key),
        live_digest=live.version.digest,
        desired_digest=live.desired_digest,
        generation=live.generation,
        overridden=live.is_overridden,
        reason=live.reason,
        split=None if live.split is None else split_message(live.split.split),
    )

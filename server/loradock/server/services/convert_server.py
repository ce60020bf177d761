"""Servers, residencies and live aliases to messages."""

from __future__ import annotations

from collections.abc import Mapping

from loradock.engine.protocol import EngineState
from loradock.registry import resources as nouns
from loradock.server.aliases.live import AliasKey, Live, LiveAlias
from loradock.server.inside import Inside
from loradock.server.residency import place as states
from loradock.server.residency.disk_cache import DiskCache
from loradock.server.residency.place import Place
from loradock.server.residency.residencies import Residencies
from loradock.server.services import names
from loradock.server.services.convert_alias import split_message
from loradock.server.services.convert_registry import base_digests, timestamp
from loradock.v1 import server_service_pb2 as wire

_STATES = {
    states.LOADING: wire.RESIDENCY_STATE_LOADING,
    states.RESIDENT: wire.RESIDENCY_STATE_RESIDENT,
    states.DRAINING: wire.RESIDENCY_STATE_DRAINING,
    states.FAILED: wire.RESIDENCY_STATE_FAILED,
    states.CACHED: wire.RESIDENCY_STATE_CACHED,
}


def place(inside: Inside, noun: Place) -> wire.Residency:
    """Write one version's place here, with all that is known of it."""
    return _place(inside, noun, _answered(inside.live, noun.version.project))


def _answered(live: Live, project: str) -> dict[str, list[str]]:
    """Name the aliases by the versions that they are answered with."""
    names_of: dict[str, list[str]] = {}
    for key, alias in live.table.items():
        if key[0] == project:
            for version in alias.versions:
                names_of.setdefault(version.digest, []).append(names.alias_name(*key))
    return names_of


def _place(inside: Inside, noun: Place, answered: Mapping[str, list[str]]) -> wire.Residency:
    version = noun.version
    state = inside.residencies.state_of(noun)
    on_disk = version.delta.weights.size_bytes if state == states.CACHED else 0
    message = wire.Residency(
        version_digest=version.digest,
        state=_STATES.get(state, wire.RESIDENCY_STATE_UNSPECIFIED),
        size_bytes=noun.size_bytes or on_disk,
        num_leases=noun.num_leases,
        reason=noun.reason,
        version=names.version_name(version.project, version.adapter, version.number),
        live_aliases=answered.get(version.digest, ()),
        pinned=inside.pins.is_pinned(version),
        num_hits=noun.num_hits,
        last_use_time=timestamp(noun.last_used_at),
        last_error=noun.last_error,
        retry_time=timestamp(noun.retry_time),
        num_output_tokens=noun.num_output_tokens,
    )
    if noun.load_s:
        message.load_duration.FromNanoseconds(int(noun.load_s * 1e9))
    return message


def places(inside: Inside, project: str) -> list[wire.Residency]:
    """Write the places of a project's versions here."""
    found = [noun for noun in inside.residencies.places() if noun.version.project == project]
    found.sort(key=lambda noun: (noun.version.adapter, noun.version.number))
    answered = _answered(inside.live, project)
    return [_place(inside, noun, answered) for noun in found]


def memory(residencies: Residencies) -> wire.Tier:
    """Write what adapters take of this host's memory."""
    room = residencies.room
    return wire.Tier(
        used_bytes=room.used_bytes,
        budget_bytes=room.budget_bytes,
        num_items=len(room.slot_bytes),
    )


def disk(cache: DiskCache) -> wire.Tier:
    """Write what weights take of this host's disk."""
    return wire.Tier(
        used_bytes=cache.used_bytes, budget_bytes=cache.budget_bytes, num_items=cache.num_files
    )


def engine_use(state: EngineState) -> wire.EngineUse:
    """Write what the engine has done, and what it holds."""
    return wire.EngineUse(
        num_steps=state.num_steps,
        num_step_tokens=state.num_step_tokens,
        num_blocks=state.num_blocks,
        num_used_blocks=state.num_blocks - state.num_free_blocks - state.num_cached_blocks,
        num_cached_blocks=state.num_cached_blocks,
    )


def residency_message(noun: nouns.Residency) -> wire.Residency:
    """Write what a server told of a version."""
    return wire.Residency(
        version_digest=noun.digest,
        state=_STATES.get(noun.state, wire.RESIDENCY_STATE_UNSPECIFIED),
        size_bytes=noun.size_bytes,
        num_leases=noun.leases,
        reason=noun.reason,
    )


def server(beat: nouns.Heartbeat, project: str) -> wire.Server:
    """Write what a server last told; of other projects nothing."""
    return wire.Server(
        server_id=beat.server_id,
        address=beat.address,
        base_model=names.base_name(beat.base_name),
        base_digests=base_digests(beat.base_digests),
        sequence=beat.sequence,
        residencies=[
            residency_message(noun) for noun in beat.residencies if noun.project in ("", project)
        ],
        divergences=[told for told in beat.divergences if told.startswith(f"projects/{project}/")],
        started_at=timestamp(beat.started_at),
        seen_at=timestamp(beat.seen_at),
        drained=beat.drained,
    )


def live_alias(key: AliasKey, live: LiveAlias, table: Live) -> wire.LiveAlias:
    """Write what an alias is answered with."""
    desired = table.number(key[0], key[1], live.desired_digest)
    return wire.LiveAlias(
        name=names.alias_name(*key),
        live_digest=live.version.digest,
        desired_digest=live.desired_digest,
        generation=live.generation,
        overridden=live.is_overridden,
        reason=live.reason,
        live_version=names.version_name(key[0], key[1], live.version.number),
        desired_version="" if desired is None else names.version_name(key[0], key[1], desired),
        split=None if live.split is None else split_message(live.split.split),
    )

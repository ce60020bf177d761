"""Whether the accounts add up: what is listed, what memory is held for, what the engine has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loradock.engine.protocol import EngineState
from loradock.server.residency.place import LOADING, Place
from loradock.server.residency.room import Room


def violations(
    places: Sequence[Place], room: Room, engine: EngineState, num_leases: int
) -> Iterator[str]:
    """Say what does not add up, a sentence each. Cheap: it runs beside traffic."""
    yield from _of_memory(places, room)
    yield from _of_engine(places, engine)
    if sum(place.num_leases for place in places) != num_leases:
        yield f"there are {num_leases} leases, but not of what is listed"
    if negative := [place.digest for place in places if place.num_leases < 0]:
        yield f"more leases were given back than taken of {negative}"


def _of_memory(places: Sequence[Place], room: Room) -> Iterator[str]:
    """Leased + idle + loading + free is the budget, to the byte."""
    held = room.slot_bytes
    listed = {place.digest: place.size_bytes for place in places if place.is_in_engine}
    coming = {d: size for d, size in held.items() if d in _coming(places) and d not in listed}
    leased = {place.digest for place in places if place.is_in_engine and place.num_leases}
    in_use = sum(size for digest, size in listed.items() if digest in leased)
    idle = sum(size for digest, size in listed.items() if digest not in leased)
    if in_use + idle + sum(coming.values()) + room.free_bytes != room.budget_bytes:
        yield (
            f"{in_use} bytes leased + {idle} idle + {sum(coming.values())} loading + "
            f"{room.free_bytes} free are not the budget of {room.budget_bytes}"
        )
    if room.free_bytes < 0:
        yield f"more is held than the budget of {room.budget_bytes}: {-room.free_bytes} bytes"
    if odd := sorted(held.keys() ^ (listed.keys() | coming.keys())):
        yield f"memory is held for what is not listed, or the other way round: {odd}"


def _of_engine(places: Sequence[Place], engine: EngineState) -> Iterator[str]:
    listed = {place.digest: place.size_bytes for place in places if place.is_in_engine}
    resident = {digest: adapter.size_bytes for digest, adapter in engine.resident.items()}
    if wrong := sorted(d for d, size in listed.items() if resident.get(d) != size):
        yield f"the engine does not have {wrong} as they are listed"
    if lost := sorted(resident.keys() - listed.keys() - _coming(places)):
        yield f"the engine has {lost}, which are not listed"
    is_idle = not engine.num_running and not engine.num_waiting
    if is_idle and engine.num_free_blocks + engine.num_cached_blocks != engine.num_blocks:
        yield (
            f"no row runs, but of {engine.num_blocks} blocks {engine.num_free_blocks} are free "
            f"and {engine.num_cached_blocks} cached"
        )


def _coming(places: Sequence[Place]) -> set[str]:
    return {place.digest for place in places if place.state == LOADING}

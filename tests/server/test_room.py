"""S8 at the moment in which memory comes free: who is let in, and who has just gone away."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from served import reason_of, refusal_of, running

from loradock.registry.names import parse_reference
from loradock.server.residency.room import Room

FIRST, SECOND, THIRD = (("default", "triage", f"sha256:{n}") for n in range(3))
SIZE = 10


@pytest.fixture
async def room():
    """Memory for one, which has it."""
    full = Room(SIZE, lambda missing_bytes: False)
    await full.take(FIRST, SIZE)
    return full


async def waiting(room, *keys):
    """Let each wait for memory, in this order."""
    tasks = [asyncio.create_task(room.take(key, SIZE)) for key in keys]
    await asyncio.sleep(0)
    return tasks


async def ended(*tasks):
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1.0)
    return ["cancelled" if task.cancelled() else task.done() for task in tasks]


@pytest.mark.contract("S8")
async def test_s8_who_has_just_gone_is_passed_over(room):
    second, third = await waiting(room, SECOND, THIRD)
    second.cancel()
    assert room.give_back(FIRST)
    room.serve()  # before the one who was cancelled has run
    assert await ended(second, third) == ["cancelled", True]
    assert list(room.slot_bytes) == [THIRD[-1]]


@pytest.mark.contract("S8")
async def test_s8_who_goes_as_he_is_let_in_leaves_his_place_to_the_next(room):
    second, third = await waiting(room, SECOND, THIRD)
    assert room.give_back(FIRST)
    room.serve()
    second.cancel()  # before it has run with what it was given
    assert await ended(second, third) == ["cancelled", True]
    assert list(room.slot_bytes) == [THIRD[-1]]
    assert (room.used_bytes, room.free_bytes) == (SIZE, 0)


@pytest.mark.contract("S8")
async def test_s8_who_gives_up_as_memory_comes_free_hears_why(tiny_base, tiny_adapter, tmp_path):
    """A rollback window closes while one waits, and nobody looks before he gives up."""
    async with running(tiny_base, tmp_path) as served:
        for seed in (1, 2):
            await served.publish("triage", tiny_adapter(seed))
        await served.ask("triage@1")
        (place,) = served.parts.inside.residencies.places()
    settings: dict[str, Any] = {
        "max_adapter_bytes": place.size_bytes * 3 // 2,
        "follow_interval_s": 60,
    }
    async with running(tiny_base, tmp_path, **settings) as served:
        inside = served.parts.inside
        await served.ask("triage@1")
        kept = await inside.live.resolve("default", parse_reference("triage@1"))
        inside.residencies.keep(kept.version, 0.2)
        error = await refusal_of(served.ask("triage@2", timeout=1.0))
        assert reason_of(error) == "ADAPTER_MEMORY_FULL"
        assert inside.residencies.check() == []
        assert (await served.ask("triage@2")).answerer.version_number == 2

"""What an operator steers by hand: pins, prefetches, drains; and what is shown of it, to whom."""

import asyncio
import socket
import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served import alias_name, reason_of, refusal_of, running, until

from loradock.client import AsyncClient, Client, Unavailable
from loradock.server.errors import StartRefused
from loradock.server.residency import pins
from loradock.server.services.principal import Authenticator, Principal, Role
from loradock.v1 import server_service_pb2 as wire

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PARENT = "projects/default"


@pytest.fixture
async def served(tiny_base, tiny_adapter, tmp_path):
    """Three versions, none of them asked for yet."""
    async with running(tiny_base, tmp_path) as running_server:
        for seed in (1, 2, 3):
            await running_server.publish("triage", tiny_adapter(seed))
        yield running_server


async def health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status


async def do(served, verb, reference, **options):
    request = getattr(wire, f"{verb}AdapterRequest")(parent=PARENT, reference=reference)
    call = getattr(served.servers, f"{verb}Adapter")(request, timeout=20, **options)
    return (await call).residency


async def unload(served, digest):
    request = wire.UnloadAdapterRequest(version_digest=digest)
    request.drain_timeout.seconds = 10
    return (await served.servers.UnloadAdapter(request, timeout=20)).residency


def num_on_disk(served):
    return len(list(served.server.config.cache_folder.glob("*.safetensors")))


async def test_prefetch_brings_weights_to_disk_and_no_further(served):
    place = await do(served, "Prefetch", "triage@1")
    assert place.state == wire.RESIDENCY_STATE_CACHED
    assert place.size_bytes > 0
    assert num_on_disk(served) == 1
    assert served.parts.engine.state().resident == {}
    assert served.parts.inside.residencies.room.used_bytes == 0
    again = await do(served, "Prefetch", "triage@1")
    assert again == place
    assert served.parts.inside.residencies.cache.num_downloads == 1
    await served.ask("triage@1")
    assert served.parts.inside.residencies.cache.num_downloads == 1, "the load found it there"


async def test_the_listing_tells_tier_bytes_leases_use_and_what_is_live(served):
    await served.set_alias("triage", 2)
    answers = [await served.ask("triage") for _ in range(3)]
    digest = answers[0].answerer.version_digest
    await do(served, "Prefetch", "triage@1")
    await do(served, "Pin", "triage@3")
    look = await served.look()
    cached, live, pinned = look.server.residencies
    assert [place.version.rpartition("/")[2] for place in (cached, live, pinned)] == list("123")
    assert (cached.state, live.state) == (
        wire.RESIDENCY_STATE_CACHED,
        wire.RESIDENCY_STATE_RESIDENT,
    )
    assert live.version_digest == digest
    assert list(live.live_aliases) == [alias_name("triage")]
    assert (live.num_hits, live.num_leases, live.pinned) == (3, 0, False)
    assert live.num_output_tokens == sum(answer.usage.output_tokens for answer in answers) > 0
    assert live.last_use_time.seconds
    assert live.load_duration.ToMilliseconds() > 0
    assert (pinned.pinned, list(pinned.live_aliases)) == (True, [])
    assert look.memory.used_bytes == live.size_bytes + pinned.size_bytes
    assert (look.memory.num_items, look.disk.num_items) == (2, 3)
    (alias,) = look.live_aliases
    assert alias.live_version == alias.desired_version == live.version
    assert list(look.degraded) == []
    use = look.engine_use
    assert use.num_step_tokens >= use.num_steps >= 3
    assert (use.num_used_blocks, use.num_blocks > use.num_cached_blocks) == (0, True)


async def test_what_is_pinned_stays_until_it_is_unpinned(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        for seed in (1, 2, 3):
            await served.publish("triage", tiny_adapter(seed))
        size = (await do(served, "Load", "triage@1")).size_bytes
    async with running(tiny_base, tmp_path, max_adapter_bytes=size * 5 // 2) as served:
        pinned = await do(served, "Pin", "triage@1")
        for number in (2, 3, 2, 3):
            await served.ask(f"triage@{number}")
            assert pinned.version_digest in served.residencies
        error = await refusal_of(unload(served, pinned.version_digest))
        assert reason_of(error) == "ADAPTER_PINNED"
        assert not (await do(served, "Unpin", "triage@1")).pinned
        await served.ask("triage@2")
        assert pinned.version_digest not in served.residencies


async def test_a_pinned_alias_keeps_what_it_is_answered_with(served):
    await served.set_alias("triage", 1)
    first = await do(served, "Pin", "triage")
    await served.set_alias("triage", 2, etag="1", wait_s=10)
    await until(lambda: pinned_numbers(served) == [2])
    second = (await served.ask("triage")).answerer.version_digest
    assert reason_of(await refusal_of(unload(served, second))) == "ADAPTER_PINNED"
    assert (await unload(served, first.version_digest)).state == wire.RESIDENCY_STATE_CACHED


def pinned_numbers(served):
    inside = served.parts.inside
    places = inside.residencies.places()
    return [p.version.number for p in places if inside.pins.is_pinned(p.version)]


async def test_readiness_waits_for_what_is_pinned_from_the_start(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        for adapter in ("triage", "other"):
            await served.publish(adapter, tiny_adapter(1))
    (tmp_path / "blobs").rename(tmp_path / "hidden")
    async with running(tiny_base, tmp_path, pin="triage, other@1") as served:
        both = ("default/other@1", "default/triage:production")
        await until(lambda: told(served, *both))
        await served.set_alias("triage", 1)
        await asyncio.sleep(pins.TEND_S)
        assert await told(served, *both)
        assert await health(served.channel) == NOT_SERVING
        (tmp_path / "blobs").rename(tmp_path / "instead")
        (tmp_path / "hidden").rename(tmp_path / "blobs")
        await until(lambda: health_is(served, SERVING))
        assert {place.state for place in served.residencies.values()} == {"resident"}
        assert list((await served.look()).degraded) == []


async def test_a_pin_of_what_the_catalog_does_not_have_is_told_again_and_again_and_waited_for(
    tiny_base, tiny_adapter, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(pins, "TEND_S", 0.01)
    monkeypatch.setattr(pins, "REMIND_S", 0.3)
    said: list[str] = []
    told = (
        "pinned default/triage:production is not resident: the catalog has no alias "
        "'triage:production', which is waited for; this server is not ready before it is"
    )
    async with running(tiny_base, tmp_path, say=said.append, pin="triage") as served:
        started = time.monotonic()
        await until(lambda: caplog.messages.count(told) >= 3)
        assert caplog.messages.count(told) <= 2 + (time.monotonic() - started) / 0.3
        assert told in said
        assert list((await served.look()).degraded) == [told]
        await served.publish("triage", tiny_adapter(1))
        await served.set_alias("triage", 1)
        await until(lambda: health_is(served, SERVING))
        assert list((await served.look()).degraded) == []


async def test_what_a_pin_waits_for_can_come_by_the_server_that_waits(
    tiny_base, tiny_adapter, tmp_path
):
    async with (
        running(tiny_base, tmp_path, pin="triage") as served,
        AsyncClient(served.server.address) as client,
    ):
        with pytest.raises(Unavailable, match="backend unhealthy"):
            await client.generate("hello", base=True)
        assert (await client.admin.diagnose()).findings
        await client.versions.push("triage", tiny_adapter(1), base="tiny")
        await client.aliases.set("triage", "production", 1)
        await until(lambda: health_is(served, SERVING))
        answer = await client.generate("hello", adapter="triage", max_tokens=4)
        assert answer.answerer.version_number == 1


async def health_is(served, status):
    return await health(served.channel) == status


async def told(served, *references):
    """Whether exactly these are told as pinned and not resident."""
    degraded = [line for line in (await served.look()).degraded if line.startswith("pinned")]
    return len(degraded) == len(references) and all(
        line.startswith(f"pinned {reference} is not resident")
        for line, reference in zip(degraded, references, strict=True)
    )


@pytest.mark.parametrize("pin", ["Triage", "a@@1", "a:b:c"])
async def test_a_pin_that_is_no_reference_is_refused_at_the_start(tiny_base, tmp_path, pin):
    with pytest.raises(StartRefused, match="pin: "):
        async with running(tiny_base, tmp_path, pin=pin):
            pass


@pytest.mark.contract("S14")
async def test_a_drained_server_refuses_what_is_new_ends_what_runs_and_can_be_taken_back(served):
    stream = served.stream("triage@1", max_tokens=900)
    events = aiter(stream)
    await anext(events)
    drained = await served.servers.DrainServer(wire.DrainServerRequest(), timeout=10)
    assert drained.num_inside == 1
    assert await health(served.channel) == NOT_SERVING
    error = await refusal_of(served.ask("triage@1"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert (await served.look()).drained, "it can still be looked at"
    assert [event async for event in events][-1].tail.usage.output_tokens == 900
    again = wire.DrainServerRequest()
    again.drain_timeout.seconds = 10
    assert (await served.servers.DrainServer(again, timeout=20)).num_inside == 0
    await served.servers.UndrainServer(wire.UndrainServerRequest(), timeout=10)
    assert await health(served.channel) == SERVING
    assert (await served.ask("triage@1")).answerer.version_number == 1


@pytest.mark.contract("S14")
async def test_s14_the_registry_s_calls_go_round_a_drained_server_that_can_still_be_examined(
    tiny_base, tmp_path
):
    async with (
        running(tiny_base, tmp_path) as drained,
        running(tiny_base, tmp_path) as other,
        AsyncClient(drained.server.address) as to_drained,
        AsyncClient(f"ipv4:{drained.server.address},{other.server.address}") as to_both,
    ):
        await to_both.adapters.create("triage")
        await to_drained.server.drain()
        await until(lambda: goes_by(to_both, drained))
        for turn in range(8):  # each is sent once only, wherever it goes
            await to_both.adapters.update("triage", owner=f"owner-{turn}")
        with pytest.raises(Unavailable):
            await to_drained.adapters.get("triage")
        assert (await to_drained.admin.diagnose()).findings
        await to_drained.server.undrain()
        await until(lambda: health_is(drained, SERVING))
        assert (await to_drained.adapters.get("triage")).owner == "owner-7"


async def goes_by(client, served):
    """Whether a few calls that may be sent again come to another server than this."""
    knocked_at = served.server.gate._knocked_at
    for _ in range(4):
        await client.adapters.get("triage")
    return served.server.gate._knocked_at == knocked_at


async def test_drain_and_exit_asks_the_process_to_end(served):
    exit_asked = served.server.traffic.exit_asked
    assert not exit_asked.is_set()
    await served.servers.DrainServer(wire.DrainServerRequest(exit=True), timeout=10)
    assert exit_asked.is_set()


class ByProject(Authenticator):
    """Lets callers say which project they are of."""

    def principal(self, metadata):
        return Principal(metadata.get("project", "default"), "test", frozenset(Role))


@pytest.mark.contract("X1")
async def test_x1_projects_with_the_same_content_see_nothing_of_each_other(
    tiny_base, tiny_adapter, tmp_path
):
    async with running(tiny_base, tmp_path, ByProject(None, "default")) as served:
        await served.publish("triage", tiny_adapter(1))
        registry = served.server.registry
        (version,) = registry.versions.list("default", "triage").items
        weights, config = version.delta.weights, version.delta.config
        for ref in (weights, config):
            with registry.blobs.writer("rival", ref) as writer:
                writer.write(b"".join(registry.blobs.read("default", ref.digest)))
                writer.commit()
        theirs = registry.versions.publish(
            "rival",
            "spy",
            base=version.base.name,
            base_digests=version.base.digests,
            delta=version.delta,
            profile=version.profile,
            lineage=version.lineage,
            by="r",
        ).version
        assert theirs.digest == version.digest
        mine = (("project", "default"),)
        rival = (("project", "rival"),)
        await served.ask("triage@1", metadata=mine)
        assert await seen(served, mine) == ["projects/default/adapters/triage/versions/1"]
        assert await seen(served, rival) == []
        unload_it = wire.UnloadAdapterRequest(version_digest=version.digest)
        error = await refusal_of(served.servers.UnloadAdapter(unload_it, metadata=rival, timeout=9))
        assert reason_of(error) == "NOT_RESIDENT"

        load = wire.LoadAdapterRequest(parent="projects/rival", reference="spy@1")
        await served.servers.LoadAdapter(load, metadata=rival, timeout=20)
        assert await seen(served, rival) == ["projects/rival/adapters/spy/versions/1"]
        inside = served.parts.inside
        (size,) = inside.residencies.room.slot_bytes.values()
        assert inside.residencies.room.used_bytes == size, "its bytes are there once"
        await served.servers.UnloadAdapter(unload_it, metadata=mine, timeout=9)
        assert await seen(served, rival) == ["projects/rival/adapters/spy/versions/1"]
        assert version.digest in inside.engine.state().resident, "the other one has it still"
        assert inside.residencies.check() == []
        await served.servers.UnloadAdapter(unload_it, metadata=rival, timeout=9)
        assert inside.engine.state().resident == {}
        assert inside.residencies.check() == []


async def seen(served, metadata):
    look = await served.servers.GetServer(wire.GetServerRequest(), metadata=metadata, timeout=9)
    places = look.server.residencies
    return [p.version for p in places if p.state == wire.RESIDENCY_STATE_RESIDENT]


async def test_pins_are_tended_though_one_of_them_can_not_be(served):
    """One that is unloaded behind the pins' back comes again."""
    await do(served, "Pin", "triage@1")
    inside = served.parts.inside
    (place,) = inside.residencies.places()
    inside.residencies.let_go(place.version)
    assert place.state == "absent"
    await asyncio.sleep(0)
    await until(lambda: place.state == "resident", timeout_s=pins.TEND_S * 10)


@pytest.mark.contract("S14")
def test_s14_a_process_that_waits_for_its_pins_can_be_drained_and_ended(tiny_base, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-c", "from loradock.cli.main import main; main()", "serve"),
        *("--model", str(tiny_base), "--model-name", "tiny", "--dtype", "float32"),
        *("--data-dir", str(tmp_path), "--port", str(port), "--pin", "nowhere"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None and server.stdout is not None
            assert any("bringing in what is pinned: nowhere" in line for line in server.stderr)
            with Client(f"127.0.0.1:{port}") as client:
                while not (told := client.server.status().degraded):
                    time.sleep(0.05)
                assert told[0].startswith("pinned default/nowhere:production is not resident")
                assert client.server.drain(exit=True) == 0
            server.communicate(timeout=30)
            assert server.returncode == 0
        finally:
            server.kill()

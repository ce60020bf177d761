"""What running servers tell the catalog of themselves."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest
from served import BASE, running, until

from loradock.server import heartbeat
from loradock.server.aliases.follow_wait import Followed, FollowWait
from loradock.v1 import server_service_pb2

RESIDENT = server_service_pb2.RESIDENCY_STATE_RESIDENT


async def listed(served):
    request = server_service_pb2.ListServersRequest()
    return (await served.servers.ListServers(request, timeout=20)).servers


async def test_heartbeats_tell_base_sequence_and_what_is_resident(
    tiny_base, tiny_adapter, tmp_path
):
    async with running(tiny_base, tmp_path, heartbeat_interval_s=0.02) as served:
        await served.publish("triage", tiny_adapter(1))
        await served.set_alias("triage", 1)
        version = (await served.ask("triage")).answerer
        latest = served.server.registry.reader.latest_sequence

        async def told():
            return [
                (server.sequence, [residency.state for residency in server.residencies])
                for server in await listed(served)
            ] == [(latest(), [RESIDENT])]

        await until(told)
        (server,) = await listed(served)
        assert server.server_id == version.server_id
        assert server.address == served.server.address
        assert server.base_model == f"baseModels/{BASE}"
        assert server.base_digests == version.base_digests
        (residency,) = server.residencies
        assert residency.version_digest == version.version_digest
        assert not server.divergences

        async def is_newer():
            (now,) = await listed(served)
            return now.seen_at.ToNanoseconds() > server.seen_at.ToNanoseconds()

        await until(is_newer)


async def test_heartbeats_tell_at_once_whether_a_server_is_drained(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path, heartbeat_interval_s=30.0) as served:
        fleet = served.server.registry.fleet

        async def told(drained):
            await until(lambda: [beat.drained for beat in fleet.list()] == [drained])
            assert [server.drained for server in await listed(served)] == [drained]

        await told(False)
        await served.servers.DrainServer(server_service_pb2.DrainServerRequest(), timeout=10)
        await told(True)
        await served.servers.UndrainServer(server_service_pb2.UndrainServerRequest(), timeout=10)
        await told(False)
        stream = served.stream(None, max_tokens=900)
        await anext(aiter(stream))
        stopping = asyncio.create_task(served.server.stop())
        await until(lambda: [beat.drained for beat in fleet.list()] == [True])
        await stopping


async def test_who_waits_until_servers_follow_does_not_wait_for_drained_ones(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path, heartbeat_interval_s=30.0) as served:
        registry = served.server.registry
        await until(lambda: len(registry.fleet.list()) == 1)
        (own,) = registry.fleet.list()
        wait = FollowWait(registry, served.server.threads)
        late = replace(own, server_id="late", sequence=own.sequence - 1)
        registry.fleet.beat(late)
        why = ("late has not seen the change yet",)
        assert await wait.until_followed("an alias", 0.1) == Followed(2, 1, why)
        registry.fleet.beat(replace(late, drained=True))
        assert await wait.until_followed("an alias", 20) == Followed(1, 1, ())


async def test_a_server_that_says_goodbye_is_listed_no_more(tiny_base, tmp_path):
    """Of a listing in pages, too."""
    async with running("", tmp_path, roles="registry", model="") as registry:
        url = registry.server.config.catalog_url
        blobs = registry.server.config.blobs_url
        other = {"database_url": url, "blob_url": blobs, "data_dir": tmp_path / "other"}
        async with running(tiny_base, tmp_path, **other) as one:
            async with running(tiny_base, tmp_path, **other) as two:
                known = sorted(served.parts.identity.server_id for served in (one, two))
                await until(lambda: ids_are(registry, known))
                request = server_service_pb2.ListServersRequest(page_size=1)
                for server_id in known:
                    page = await registry.servers.ListServers(request, timeout=20)
                    assert [server.server_id for server in page.servers] == [server_id]
                    request.page_token = page.next_page_token
                assert not page.next_page_token
            assert await ids_are(registry, [one.parts.identity.server_id])
        assert not await listed(registry)


@pytest.mark.parametrize("hangs", [False, True])
async def test_s14_a_beat_that_was_on_its_way_does_not_come_back_after_the_goodbye(
    tiny_base, tmp_path, monkeypatch, hangs
):
    """Nor does one that hangs hold up the end."""
    monkeypatch.setattr(heartbeat, "FORGET_S", 1.0)
    async with running(tiny_base, tmp_path, heartbeat_interval_s=30.0) as served:
        pulse, fleet = served.parts.inside.pulse, served.server.registry.fleet
        await until(lambda: ids_are(served, [served.parts.identity.server_id]))
        beat, on_its_way, may_arrive = fleet.beat, threading.Event(), threading.Event()

        def slow(told):
            on_its_way.set()
            may_arrive.wait(10)
            beat(told)

        monkeypatch.setattr(fleet, "beat", slow)
        beating = asyncio.create_task(pulse.beat())
        await asyncio.to_thread(on_its_way.wait, 10)
        beating.cancel()
        if not hangs:
            asyncio.get_running_loop().call_later(0.1, may_arrive.set)
        started = time.monotonic()
        await pulse.forget()
        assert time.monotonic() - started < 5
        if not hangs:
            await asyncio.sleep(0.3)
            assert fleet.list() == []
        may_arrive.set()


async def ids_are(served, wanted):
    return [server.server_id for server in await listed(served)] == wanted

"""What running servers tell the catalog of themselves."""

from served import BASE, running, until

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


async def ids_are(served, wanted):
    return [server.server_id for server in await listed(served)] == wanted

"""Overrides look at what was yanked while the catalog still answered."""

import pytest
from served import alias_name, reason_of, refusal_of, running, until

from loradock.registry.errors import CatalogUnavailable
from loradock.v1 import server_service_pb2 as wire


async def override(served):
    request = wire.OverrideAliasRequest(name=alias_name("triage"), reason="v2 leaks", previous=True)
    return await served.servers.OverrideAlias(request, timeout=20)


@pytest.mark.contract("S6")
@pytest.mark.contract("R8")
async def test_s6_an_override_never_goes_to_what_was_yanked_before_the_catalog_went(
    tiny_base, tiny_adapter, tmp_path, monkeypatch
):
    def down(*args, **options):
        raise CatalogUnavailable("it is down")

    async with running(tiny_base, tmp_path) as served:
        for seed in (1, 2):
            await served.publish("triage", tiny_adapter(seed))
        await served.set_alias("triage", 1)
        await served.ask("triage")
        await served.set_alias("triage", 2, etag="1", wait_s=20)
        registry, follower = served.server.registry, served.parts.follower
        version = ("default", "triage", 1)

        async def has_seen_all():
            is_up_to_date = follower.applied_sequence == registry.reader.latest_sequence()
            return is_up_to_date and not follower._side_tasks

        registry.versions.yank(*version, reason="leaks worse", by="ann")
        await until(has_seen_all)
        with monkeypatch.context() as outage:
            for name in ("latest_sequence", "alias", "resolve", "changes_since"):
                outage.setattr(type(registry.reader), name, down)
            assert reason_of(await refusal_of(override(served))) == "VERSION_YANKED"
            assert (await served.ask("triage")).answerer.version_number == 2
        registry.versions.unyank(*version, reason="it was not", by="ann")
        await until(has_seen_all)
        with monkeypatch.context() as outage:
            for name in ("latest_sequence", "alias", "resolve", "changes_since"):
                outage.setattr(type(registry.reader), name, down)
            await override(served)
            assert (await served.ask("triage")).answerer.version_number == 1

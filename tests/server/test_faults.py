"""S10 and S11 over a network that breaks in every way, between server and catalog and store."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from fault_proxy import FaultProxy
from served import Running, alias_name, reason_of, refusal_of, running, until

from loradock.registry.registry import open_registry
from loradock.registry.resources import VersionState
from loradock.server.residency.place import RESIDENT
from loradock.v1 import server_service_pb2

FAULT_S = 0.8  # long enough for the server to look at the catalog, and to beat
FAR_TOO_LONG_S = 2.0  # for an answer of 12 tokens of a tiny base


@dataclass
class Faulty:
    """A server, its proxies, and what version 1 answers."""

    server: Running
    database: FaultProxy
    store: FaultProxy
    expected: str


@pytest.fixture
async def served(tiny_base, tiny_adapter, tmp_path, postgres_url, s3_url):
    """Production's shape: version 1 resident under an alias, 2 and 3 never asked for."""
    with (
        FaultProxy.of_database(postgres_url) as (database, database_url),
        FaultProxy.of_store(s3_url) as (store, blob_url),
    ):
        open_registry(database_url, blob_url, migrate=True).close()
        settings: dict[str, Any] = {
            **{"database_url": database_url, "blob_url": blob_url},
            **{"follow_interval_s": 0.1, "heartbeat_interval_s": 0.2, "drain_grace_s": 1.0},
        }
        async with running(tiny_base, tmp_path, **settings) as served:
            for seed in (1, 2, 3):
                await served.publish("triage", tiny_adapter(seed))
            await served.set_alias("triage", 1)
            expected = (await served.ask("triage")).text
            yield Faulty(served, database, store, expected)
            database.pass_on()
            store.pass_on()


async def ask_on(served, seconds):
    """Ask the resident version for so long; every answer is right and on time."""
    end_at = time.monotonic() + seconds
    num_answers = 0
    while time.monotonic() < end_at:
        started = time.monotonic()
        assert (await served.server.ask("triage", timeout=10)).text == served.expected
        assert time.monotonic() - started < FAR_TOO_LONG_S
        num_answers += 1
    return num_answers


def faults_of(proxy, *, corrupts):
    faults = {
        "refuse": proxy.refuse,
        "hang": proxy.hang,
        "cut": lambda: proxy.cut(beyond=10),
        "delay": lambda: proxy.delay(0.3),
        "throttle": lambda: proxy.throttle(2000),
    }
    return faults | ({"corrupt": proxy.corrupt} if corrupts else {})


@pytest.mark.contract("S10")
async def test_s10_resident_versions_answer_through_every_fault_of_the_network(served):
    for proxy in (served.database, served.store):
        for name, switch in faults_of(proxy, corrupts=proxy is served.store).items():
            await asyncio.to_thread(switch)
            assert await ask_on(served, FAULT_S / 2) > 1, name
    served.database.pass_on()
    served.store.pass_on()
    await until(lambda: follows(served, 2), timeout_s=30)


async def follows(served, number):
    """Whether the server follows the catalog again, and brings in what it wants."""
    try:
        alias = await served.server.alias("triage")
        if alias.version_number != number:
            await served.server.set_alias("triage", number, etag=alias.etag)
    except Exception:
        return False
    return (await served.server.ask("triage")).answerer.version_number == number


@pytest.mark.contract("S10")
async def test_s10_a_catalog_that_does_not_answer_is_told_until_it_does(served):
    served.database.refuse()
    await until(lambda: is_degraded(served))
    assert await ask_on(served, FAULT_S) > 1
    error = await refusal_of(served.server.ask("unheard-of"))
    assert reason_of(error) == "CATALOG_UNAVAILABLE"
    served.database.pass_on()
    started = time.monotonic()
    await until(lambda: is_whole(served))
    assert time.monotonic() - started < 10
    assert reason_of(await refusal_of(served.server.ask("unheard-of"))) == "NOT_FOUND"


@pytest.mark.contract("S10")
@pytest.mark.parametrize(("name", "what"), [("database", "catalog"), ("store", "object store")])
async def test_s10_what_takes_connections_and_never_answers_is_told_until_it_does(
    served, name, what
):
    proxy = getattr(served, name)
    proxy.hang()
    await until(lambda: is_degraded(served, f"the {what} does not answer"))
    assert await ask_on(served, FAULT_S) > 1
    proxy.pass_on()
    started = time.monotonic()
    await until(lambda: is_whole(served))
    assert time.monotonic() - started < 10


@pytest.mark.contract("S10")
async def test_s10_a_catalog_that_hangs_holds_up_no_thread_for_each_look(served):
    """So that once it answers, whoever asks it finds a thread at once."""
    threads = served.server.server.threads
    served.database.hang()
    await until(lambda: is_degraded(served, "catalog"))
    before = len(threads._running)
    await asyncio.sleep(3.0)
    assert len(threads._running) <= before + 1


@pytest.mark.contract("S10")
async def test_s10_names_that_are_not_known_are_unavailable_while_the_catalog_hangs(served):
    """Also more of them than threads speak with it; and then none waits for it any more."""
    threads = served.server.server.threads
    served.database.hang()
    names = [*(f"unheard-of-{number}" for number in range(20)), "triage@7", "triage:staging"]
    for error in await asyncio.gather(*(refusal_of(served.server.ask(name)) for name in names)):
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error) == "CATALOG_UNAVAILABLE"
    await until(lambda: is_degraded(served))
    before = len(threads._running)
    assert reason_of(await refusal_of(served.server.ask("unheard-of"))) == "CATALOG_UNAVAILABLE"
    assert len(threads._running) <= before
    served.database.pass_on()
    await until(lambda: is_whole(served))
    assert reason_of(await refusal_of(served.server.ask(names[0]))) == "NOT_FOUND"


async def is_degraded(served, what="catalog"):
    return any(what in reason for reason in (await served.server.look()).degraded)


async def is_whole(served):
    return not (await served.server.look()).degraded


@pytest.mark.contract("S11")
async def test_s11_a_damaged_download_is_found_by_its_digest_and_fetched_again(served):
    served.store.corrupt()
    error = await refusal_of(served.server.ask("triage@2"))
    assert reason_of(error) == "ADAPTER_LOAD_FAILED"
    assert "sha256" in str(error.details())
    assert await ask_on(served, 0.1)
    served.store.pass_on()

    async def is_answered():
        try:
            return (await served.server.ask("triage@2")).answerer.version_number == 2
        except Exception:
            return False

    await until(is_answered)
    assert not list(served.server.server.config.cache_folder.glob(".*"))


@pytest.mark.contract("S9")
async def test_s9_a_throttled_store_delays_the_cold_version_alone(served):
    served.store.throttle(40_000)
    started = time.monotonic()
    cold = asyncio.create_task(served.server.ask("triage@3"))
    num_answers = await ask_on(served, 0.3)
    assert num_answers > 3
    assert not cold.done()
    await cold
    assert time.monotonic() - started > 0.3


@pytest.mark.contract("S14")
async def test_s14_a_server_ends_in_bounded_time_though_the_catalog_hangs(served):
    served.database.hang()
    hanging = asyncio.create_task(refusal_of(served.server.alias("triage")))
    await until(lambda: served.server.server.gate.num_inside)
    started = time.monotonic()
    await served.server.server.stop()
    assert time.monotonic() - started < 20
    await hanging


async def override(served, alias="production"):
    """Go back to the alias's previous version."""
    request = server_service_pb2.OverrideAliasRequest(
        name=alias_name("triage", alias), reason="it leaks", previous=True
    )
    return await served.server.servers.OverrideAlias(request, timeout=20)


@pytest.mark.contract("S6")
async def test_s6_an_override_waits_for_no_catalog_that_hangs(served):
    """Not even once every thread that speaks with the catalog hangs in a call."""
    await served.server.set_alias("triage", 2, etag="1", wait_s=10)
    assert (await served.server.ask("triage")).answerer.version_number == 2
    served.database.hang()
    hanging = [asyncio.create_task(served.server.roll_back("triage")) for _ in range(40)]
    await asyncio.sleep(0.2)
    started = time.monotonic()
    answer = await override(served)
    assert time.monotonic() - started < 5, "its probe gives up after two seconds"
    assert answer.live_alias.overridden
    assert (await served.server.ask("triage")).answerer.version_number == 1
    for call in hanging:
        call.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.contract("S6")
async def test_s6_a_catalog_that_fails_at_an_aliass_first_use_costs_no_rollback(served):
    """What the alias may go back to is brought in once the catalog answers, asked for or not."""
    key = ("default", "triage", "staging")
    aliases = served.server.server.registry.aliases
    previous = aliases.set(*key, version_number=2, expected_generation=None, by="olga")
    aliases.set(*key, version_number=3, expected_generation=1, by="olga")
    served.database.delay(0.05)
    first_use = asyncio.create_task(served.server.ask("triage:staging"))
    await until(lambda: served.server.parts.inside.live.get(key))
    served.database.refuse()  # while the server asks what the previous version is
    assert (await first_use).answerer.version_number == 3
    await until(lambda: is_degraded(served))
    assert previous.version_digest not in served.server.residencies
    served.database.pass_on()
    await until(lambda: is_resident(served, previous.version_digest))
    served.database.refuse()
    served.store.refuse()
    await override(served, "staging")
    assert (await served.server.ask("triage:staging")).answerer.version_number == 2


def is_resident(served, digest):
    place = served.server.residencies.get(digest)
    return place is not None and place.state == RESIDENT


@pytest.mark.contract("S6")
@pytest.mark.contract("R8")
async def test_s6_a_catalog_that_fails_at_a_yank_lets_no_override_go_there_later(served):
    await served.server.set_alias("triage", 2, etag="1", wait_s=10)
    registry, live = served.server.server.registry, served.server.parts.inside.live
    digest = (await served.server.ask("triage@1")).answerer.version_digest
    served.database.delay(0.05)
    yank = partial(registry.versions.yank, "default", "triage", 1, reason="worse", by="ann")
    yanking = asyncio.create_task(asyncio.to_thread(yank))
    await until(lambda: live.number("default", "triage", digest) is None)
    served.database.refuse()  # while the server asks what became of the version
    await asyncio.gather(yanking, return_exceptions=True)
    await until(lambda: is_degraded(served))
    assert not is_yanked(served, digest)
    served.database.pass_on()
    await until(lambda: is_yanked(served, digest))
    served.database.refuse()
    assert reason_of(await refusal_of(override(served))) == "VERSION_YANKED"


def is_yanked(served, digest):
    version = served.server.parts.inside.residencies.version("default", "triage", digest)
    return version.state is VersionState.YANKED

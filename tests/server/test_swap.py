"""S4 and what surrounds a move: the flip under load, the rollback window, yanks, failed loads."""

import asyncio
import itertools
import threading
from collections import Counter
from functools import partial
from typing import Any

import grpc
import pytest
from oracle import Oracle
from served import alias_name, reason_of, running, until

from loradock.v1 import registry_service_pb2, server_service_pb2

CALLERS = 16


@pytest.fixture
async def two_versions(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        for seed in (1, 2):
            await served.publish("triage", tiny_adapter(seed))
        await served.set_alias("triage", 1)
        yield served


def live_of(served, adapter="triage"):
    return served.parts.inside.live.get(("default", adapter, "production"))


def states(served):
    return {digest: place.state for digest, place in served.residencies.items()}


async def move(served, number, **options):
    etag = (await served.alias("triage")).etag
    return await served.set_alias("triage", number, etag=etag, **options)


async def own_answers(served, texts, oracles):
    """Give each version's own greedy answers, as transformers and PEFT have them too."""
    answers = {}
    for text, number in itertools.product(texts, oracles):
        answer = await served.ask(f"triage@{number}", text)
        oracle = oracles[number]
        assert oracle.is_greedy(oracle.prompt(text), answer.token_ids)
        answers[text, number] = answer.text
    return answers


@pytest.mark.contract("S4")
async def test_s4_swap_under_load_fails_nothing_and_mixes_nothing(
    two_versions, tiny_base, tiny_adapter
):
    texts = [f"question {n}" for n in range(8)]
    oracles = {number: Oracle(tiny_base, tiny_adapter(number)) for number in (1, 2)}
    expected = await own_answers(two_versions, texts, oracles)
    assert all(expected[text, 1] != expected[text, 2] for text in texts)
    seen: Counter[int] = Counter()
    stop = asyncio.Event()

    async def unary(offset):
        for turn in itertools.count(offset):
            if stop.is_set():
                return
            text = texts[turn % len(texts)]
            answer = await two_versions.ask("triage", text)
            assert answer.text == expected[text, answer.answerer.version_number]
            seen[answer.answerer.version_number] += 1

    async def streaming(offset):
        for turn in itertools.count(offset):
            if stop.is_set():
                return
            text = texts[turn % len(texts)]
            events = [event async for event in two_versions.stream("triage", text)]
            number = events[0].head.answerer.version_number
            assert "".join(event.delta.text for event in events) == expected[text, number]
            seen[number] += 1

    kinds = itertools.cycle((unary, streaming))
    callers = [asyncio.create_task(next(kinds)(n)) for n in range(CALLERS)]
    for number in (2, 1, 2, 1):
        before = seen[number]
        moved = await move(two_versions, number, wait_s=20)
        assert (moved.followed.num_servers, moved.followed.num_following) == (1, 1)
        await until(partial(answered, seen, number, before + CALLERS, callers))
    stop.set()
    await asyncio.gather(*callers)
    assert seen[1] and seen[2]


def answered(seen, number, count, callers):
    """Whether a version has answered so often, or a caller has failed."""
    return seen[number] > count or any(caller.done() for caller in callers)


@pytest.mark.contract("S4")
async def test_s4_requests_in_flight_finish_on_the_version_they_were_admitted_with(two_versions):
    whole = (await two_versions.ask("triage@1", max_tokens=900)).text
    stream = two_versions.stream("triage", max_tokens=900)
    events = aiter(stream)
    assert (await anext(events)).head.answerer.version_number == 1
    await move(two_versions, 2, wait_s=20)
    assert (await two_versions.ask("triage")).answerer.version_number == 2
    assert "".join([event.delta.text async for event in events]) == whole


async def test_flip_brings_the_new_version_in_beside_the_old_and_keeps_the_old_for_a_rollback(
    two_versions,
):
    await two_versions.ask("triage")
    old = live_of(two_versions).version.digest
    await move(two_versions, 2, wait_s=20)
    assert states(two_versions) == {
        old: "resident",
        live_of(two_versions).version.digest: "resident",
    }
    await two_versions.roll_back("triage")
    await until(lambda: live_of(two_versions).version.digest == old)
    assert (await two_versions.ask("triage")).answerer.generation == 3


async def test_old_version_goes_when_its_rollback_window_closes_and_its_last_lease_ends(
    tiny_base, tiny_adapter, tmp_path
):
    settings: dict[str, Any] = {"rollback_window_s": 0.01, "follow_interval_s": 0.02}
    async with running(tiny_base, tmp_path, **settings) as served:
        for seed in (1, 2):
            await served.publish("triage", tiny_adapter(seed))
        await served.set_alias("triage", 1)
        old = (await served.ask("triage")).answerer.version_digest
        leased = served.stream("triage", max_tokens=900)
        events = aiter(leased)
        await anext(events)
        await move(served, 2, wait_s=20)
        await until(lambda: states(served)[old] == "draining")
        answered = [event async for event in events]
        assert answered[-1].tail.usage.output_tokens > 0
        await until(lambda: old not in states(served))


async def test_failed_load_leaves_the_live_table_and_says_why(two_versions):
    await two_versions.ask("triage")
    old = live_of(two_versions).version.digest
    for path in two_versions.server.config.folder.glob("blobs/**/*"):
        if path.is_file():
            path.rename(path.with_name(path.name + ".gone"))
    moved = await move(two_versions, 2, wait_s=10)
    assert (moved.followed.num_servers, moved.followed.num_following) == (1, 0)
    assert "triage" in moved.followed.reasons[0]
    live = live_of(two_versions)
    assert live.version.digest == old
    assert live.is_divergent
    assert (await two_versions.ask("triage")).answerer.version_digest == old
    look = await two_versions.look()
    assert look.server.divergences
    assert look.live_aliases[0].desired_digest != look.live_aliases[0].live_digest
    failed = [
        r for r in look.server.residencies if r.state == server_service_pb2.RESIDENCY_STATE_FAILED
    ]
    assert failed[0].reason

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await two_versions.ask("triage@2")
    assert reason_of(caught.value) == "ADAPTER_LOAD_FAILED"

    for path in two_versions.server.config.folder.glob("blobs/**/*.gone"):
        path.rename(path.with_name(path.name.removesuffix(".gone")))
    await until(lambda: live_of(two_versions).version.digest != old)
    assert not live_of(two_versions).is_divergent


async def test_yank_of_a_live_version_stops_new_requests_and_unyank_lets_them(two_versions):
    await two_versions.ask("triage")
    await two_versions.ask("triage@1")
    name = "projects/default/adapters/triage/versions/1"
    yank = registry_service_pb2.YankVersionRequest(name=name, reason="leaks")
    await two_versions.registry.YankVersion(yank, timeout=10)

    async def refused(reference):
        try:
            await two_versions.ask(reference)
        except grpc.aio.AioRpcError as error:
            return reason_of(error) == "VERSION_YANKED"
        return False

    await until(lambda: refused("triage"))
    await until(lambda: refused("triage@1"))
    (told,) = (await two_versions.look()).degraded
    assert told == f"{alias_name('triage')}: answers nobody, for triage@1 was yanked: leaks"
    unyank = registry_service_pb2.UnyankVersionRequest(name=name, reason="it does not")
    await two_versions.registry.UnyankVersion(unyank, timeout=10)

    async def answers():
        return not await refused("triage")

    await until(answers)
    assert not (await two_versions.look()).degraded


async def test_yank_while_a_version_is_brought_in_is_not_missed(two_versions, monkeypatch):
    await two_versions.ask("triage")
    engine, live = two_versions.parts.engine, two_versions.parts.inside.live
    begun, heard, go_on = threading.Event(), threading.Event(), threading.Event()
    make_resident, forget_version = engine.make_resident, live.forget_version

    def slowly(source):
        begun.set()
        go_on.wait(30)
        return make_resident(source)

    def hear(digest):
        forget_version(digest)
        heard.set()

    monkeypatch.setattr(engine, "make_resident", slowly)
    monkeypatch.setattr(live, "forget_version", hear)
    await move(two_versions, 2)
    await until(begun.is_set)
    name = "projects/default/adapters/triage/versions/2"
    yank = registry_service_pb2.YankVersionRequest(name=name, reason="leaks")
    await two_versions.registry.YankVersion(yank, timeout=10)
    await until(heard.is_set)
    go_on.set()
    await until(lambda: "yanked" in live_of(two_versions).reason)
    assert (await two_versions.ask("triage")).answerer.version_number == 1


async def test_deleted_alias_is_not_found(two_versions):
    from loradock.v1 import alias_service_pb2

    await two_versions.ask("triage")
    alias = await two_versions.alias("triage")
    request = alias_service_pb2.DeleteAliasRequest(name=alias.name, etag=alias.etag)
    await two_versions.aliases.DeleteAlias(request, timeout=10)
    await until(lambda: live_of(two_versions) is None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await two_versions.ask("triage")
    assert reason_of(caught.value) == "NOT_FOUND"


async def test_stale_etag_loses_and_says_so(two_versions):
    await move(two_versions, 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await two_versions.set_alias("triage", 1, etag="1")
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert reason_of(caught.value) == "STALE_GENERATION"

"""C3: the same request under the same id has the same answer, wherever its alias is by then."""

import asyncio
import fcntl
import time
from types import SimpleNamespace
from typing import Any

import pytest
from served import inference, reason_of, refusal_of, running, target_of, until

from loradock.server.answering import repeats

ID = (("x-request-id", "job 7"),)
HOT: dict[str, Any] = {"temperature": 1.5, "max_tokens": 20, "metadata": ID}


@pytest.fixture
async def triage(tiny_base, tiny_adapter, tmp_path):
    """Two versions of one adapter, the first of which is in production."""
    async with running(tiny_base, tmp_path, max_deadline_s=60) as served:
        for seed in (1, 2):
            await served.publish("triage", tiny_adapter(seed), labels=["a", "b"])
        await served.set_alias("triage", 1)
        yield served


async def move_on(served):
    await served.set_alias("triage", 2, etag="1", wait_s=20)


async def number_of(answer):
    return (await answer).answerer.version_number


@pytest.mark.contract("C3")
async def test_c3_a_repeated_request_is_answered_by_the_version_that_answered_it(triage):
    classify = inference.ClassifyRequest(
        target=target_of("triage"), prompt=inference.Prompt(text="hello there")
    )
    first = await triage.ask("triage", **HOT)
    assert await number_of(triage.inference.Classify(classify, metadata=ID)) == 1
    await move_on(triage)
    again = await triage.ask("triage", **HOT)
    assert (again.text, again.token_ids) == (first.text, first.token_ids)
    assert again.answerer == first.answerer, "generation and all"
    assert await number_of(triage.inference.Classify(classify, metadata=ID)) == 1
    stream = triage.stream("triage")  # the method is another one, and so is the id
    assert (await anext(aiter(stream))).head.answerer.version_number == 2
    others = (
        triage.ask("triage", "another text", **HOT),
        triage.ask("triage", **{**HOT, "metadata": (("x-request-id", "job 8"),)}),
        triage.ask("triage:production", **HOT),
    )
    assert [await number_of(answer) for answer in others] == [2, 2, 2]


@pytest.mark.contract("C3")
async def test_c3_what_was_yanked_answers_no_repeated_request(triage):
    await triage.ask("triage", **HOT)
    await move_on(triage)
    registry, follower = triage.server.registry, triage.parts.follower
    registry.versions.yank("default", "triage", 1, reason="it leaks", by="ann")
    await until(lambda: follower.applied_sequence == registry.reader.latest_sequence())
    assert reason_of(await refusal_of(triage.ask("triage", **HOT))) == "VERSION_YANKED"
    assert await number_of(triage.ask("triage")) == 2


@pytest.mark.contract("C3")
async def test_c3_a_request_that_failed_is_answered_anew(triage):
    await triage.ask("triage")
    engine = triage.parts.engine
    decoder, engine.decoder = engine.decoder, None
    assert reason_of(await refusal_of(triage.ask("triage", **HOT))) == "ENGINE_FAILED"
    engine.decoder = decoder
    await move_on(triage)
    assert await number_of(triage.ask("triage", **HOT)) == 2


@pytest.mark.contract("C3")
async def test_c3_who_asks_the_same_meanwhile_is_answered_alike_whoever_leaves(triage):
    await triage.ask("triage@2")
    registry = triage.server.registry
    digest = registry.versions.get("default", "triage", 1).delta.weights.digest
    file = triage.server.config.cache_folder / f"{digest.removeprefix('sha256:')}.safetensors"
    registry.blobs.fetch(digest, file)
    with file.open() as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)  # version 1 is brought in no sooner than this ends
        leaves, stays = (asyncio.create_task(triage.ask("triage", **HOT)) for _ in range(2))
        await until(lambda: len(triage.residencies) == 2)
        await triage.ask("triage@2")  # so both are inside
        leaves.cancel()
        await move_on(triage)
        comes = asyncio.create_task(triage.ask("triage", **HOT))
        assert await number_of(triage.ask("triage")) == 2
    assert [await number_of(answer) for answer in (stays, comes)] == [1, 1]


@pytest.mark.contract("C3")
async def test_c3_so_many_requests_are_remembered_for_so_long(triage, monkeypatch):
    monkeypatch.setattr(repeats, "MAX_REMEMBERED", 2)
    texts = ("first", "second", "third")
    for text in texts:
        await triage.ask("triage", text, **HOT)
    await move_on(triage)
    assert [await number_of(triage.ask("triage", text, **HOT)) for text in texts[::-1]] == [1, 1, 2]
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 61)  # past max_deadline_s
    monkeypatch.setattr(repeats, "time", later)
    assert await number_of(triage.ask("triage", "third", **HOT)) == 2

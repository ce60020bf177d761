"""Answers through the wire: who answered, S3, S5, S13, S18, S19."""

import asyncio
import io
import json
import logging
from typing import Any

import grpc
import pytest
from served import (
    BASE,
    Running,
    inference,
    info_of,
    reason_of,
    refusal_of,
    running,
    target_of,
    until,
)

from loradock.server.services.principal import Authenticator, Principal
from loradock.server.telemetry.logs import JsonFormatter


@pytest.fixture
async def served(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path) as running_server:
        yield running_server


@pytest.fixture
async def triage(served, tiny_adapter):
    """Two versions of one adapter, the first of which is in production."""
    for seed in (1, 2):
        await served.publish("triage", tiny_adapter(seed))
    await served.set_alias("triage", 1)
    return served


@pytest.mark.contract("S3")
async def test_s3_unknown_names_are_not_found_and_never_answered_by_the_base(triage):
    unknown = ("nobody", "triage:staging", "triage@9", "triage@sha256:" + "0" * 64, "acme/triage")
    for reference in unknown:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await triage.ask(reference)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND, reference
        assert reason_of(caught.value) == "NOT_FOUND"
        assert {"kind", "name"} <= set(info_of(caught.value).metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        request = inference.GenerateRequest(prompt=inference.Prompt(text="hi"))
        await triage.inference.Generate(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    base = await triage.ask(None)
    assert (base.answerer.adapter, base.answerer.version_digest) == ("", "")


@pytest.fixture
def log_lines():
    """What the server writes to its log, line by line."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("loradock")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.contract("S18")
async def test_s18_answers_and_log_lines_say_who_answered(triage, log_lines):
    version = (await triage.alias("triage")).version_digest
    metadata = (("x-request-id", "my-request"),)
    answer = await triage.ask("triage", metadata=metadata)
    who = answer.answerer
    assert (who.adapter, who.version_number) == ("triage", 1)
    assert (who.alias, who.generation) == ("production", 1)
    assert who.version_digest == version
    assert who.base_model == f"baseModels/{BASE}"
    assert who.base_digests.weights.startswith("sha256:")
    assert who.request_id == "my-request"
    assert who.engine_profile == "cpu/float32"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.output_tokens == len(answer.token_ids)
    assert 0 < answer.timings.first_token_seconds <= answer.timings.total_seconds

    head = (await anext(aiter(triage.stream("triage@2")))).head.answerer
    assert (head.version_number, head.alias) == (2, "")

    lines = [line for line in log_lines() if line.get("request_id") == "my-request"]
    said = [line["message"] for line in lines]
    assert said == ["weights fetched", "adapter is resident", "answered"]
    for line in lines:
        assert (line["adapter"], line["version"], line["digest"]) == ("triage", 1, version)
        assert line["alias"] == "production"
        assert line["base_weights"] == who.base_digests.weights
    assert {"status", "seconds", "first_token_s", "output_tokens"} <= set(lines[-1])


@pytest.mark.contract("S18")
async def test_s18_every_method_says_who_answered(triage):
    prompt = inference.Prompt(text="hi")
    asked: dict[str, Any] = {"target": target_of("triage"), "prompt": prompt}
    calls = triage.inference
    answers = [
        await calls.Generate(inference.GenerateRequest(**asked), timeout=20),
        await calls.Score(inference.ScoreRequest(**asked, continuations=["a"]), timeout=20),
        await calls.Classify(inference.ClassifyRequest(**asked, labels=["a"]), timeout=20),
        await calls.CountTokens(inference.CountTokensRequest(**asked), timeout=20),
    ]
    heads = [event.head async for event in triage.stream("triage") if event.HasField("head")]
    told = [answer.answerer for answer in (*answers, *heads)]
    assert len({who.request_id for who in told}) == len(told) == 5
    for who in told:
        assert who.request_id and who.server_id
        who.request_id = ""
        assert who == told[0]


@pytest.mark.contract("S18")
async def test_s18_refused_request_is_told_with_what_it_asked_for(triage, log_lines):
    await refusal_of(triage.ask("nobody:staging", metadata=(("x-request-id", "mine"),)))
    (line,) = [line for line in log_lines() if line.get("request_id") == "mine"]
    assert (line["status"], line["reference"]) == ("NOT_FOUND", "nobody:staging")
    assert line["base_weights"].startswith("sha256:")


async def test_stream_gives_head_text_and_tail_that_make_the_unary_answer(triage):
    whole = await triage.ask("triage", max_tokens=40)
    events = [event async for event in triage.stream("triage", max_tokens=40)]
    assert events[0].head.answerer.adapter == "triage"
    assert "".join(event.delta.text for event in events) == whole.text
    assert [i for event in events for i in event.delta.token_ids] == list(whole.token_ids)
    assert events[-1].tail.finish_reason == whole.finish_reason
    assert events[-1].tail.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.contract("S5")
async def test_s5_the_same_prompt_of_another_version_shares_nothing(triage):
    """A long common prefix, asked of base and both versions in turn, twice over."""
    text = "the same long question, " * 4
    first = {who: await triage.ask(who, text) for who in (None, "triage@1", "triage@2")}
    again = {who: await triage.ask(who, text) for who in (None, "triage@1", "triage@2")}
    assert len({tuple(answer.token_ids) for answer in first.values()}) == 3
    for who, answer in first.items():
        assert answer.usage.cached_tokens == 0, "nobody else's blocks are reused"
        assert again[who].token_ids == answer.token_ids
        assert again[who].usage.cached_tokens > 0, "one's own are"


class Tenants(Authenticator):
    """Lets callers say themselves whose they are."""

    def principal(self, metadata):
        return Principal(metadata["tenant"], "test")


@pytest.mark.contract("S5")
async def test_s5_tenants_share_no_cached_block(tiny_base, tmp_path):
    text = "the same long question, " * 4
    async with running(tiny_base, tmp_path, Tenants(None, "")) as served:
        cached = [
            (await served.ask(None, text, metadata=(("tenant", name),))).usage.cached_tokens
            for name in ("ana", "ben", "ana", "ben")
        ]
    assert cached[:2] == [0, 0]
    assert all(cached[2:])


async def test_settings_of_the_request_go_before_the_profile_and_that_before_the_server(
    tiny_base, tiny_adapter, tmp_path
):
    async with running(tiny_base, tmp_path, default_max_tokens=3) as served:
        await served.publish("bare", tiny_adapter(1))
        await served.publish("shaped", tiny_adapter(1), decoding={"max_tokens": 5})

        async def length(adapter, **sampling):
            request = inference.GenerateRequest(
                target=target_of(adapter),
                prompt=inference.Prompt(text="hello"),
                sampling=inference.Sampling(**sampling),
            )
            return (await served.inference.Generate(request, timeout=20)).usage.output_tokens

        assert await length("bare@1") == 3
        assert await length("shaped@1") == 5
        assert await length("shaped@1", max_tokens=7) == 7


async def test_profile_template_and_system_wrap_what_is_asked(served, tiny_adapter):
    await served.publish("plain", tiny_adapter(1))
    await served.publish("shaped", tiny_adapter(1), template="Q: {{ content }}\nA:", system="Be.")

    async def asked(adapter, **prompt):
        request = inference.GenerateRequest(
            target=target_of(adapter),
            prompt=inference.Prompt(**prompt),
            sampling=inference.Sampling(max_tokens=8),
        )
        return (await served.inference.Generate(request, timeout=20)).token_ids

    turns = [
        inference.Message(role="system", content="Be."),
        inference.Message(role="user", content="Q: why?\nA:"),
    ]
    by_hand = await asked("plain@1", chat=inference.Chat(messages=turns))
    assert await asked("shaped@1", text="why?") == by_hand
    own_system = [turns[0], inference.Message(role="user", content="why?")]
    assert await asked("shaped@1", chat=inference.Chat(messages=own_system)) == by_hand
    assert await asked("shaped@1", raw="why?") == await asked("plain@1", raw="why?")


@pytest.mark.contract("S13")
async def test_s13_cancelled_and_expired_requests_leave_the_batch(triage):
    endless = {"max_tokens": 900, "text": "go on"}
    stream = triage.stream("triage", **endless)
    await anext(aiter(stream))
    stream.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await triage.ask("triage", timeout=0.05, **endless)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    unary = asyncio.create_task(triage.ask("triage", **endless))
    await until(lambda: not triage.is_idle)
    unary.cancel()
    await until(lambda: triage.is_idle)
    await until(lambda: not any(place.leases for place in triage.residencies.values()))
    assert triage.parts.bridge.num_rows == 0
    assert triage.server.gate.num_inside == 0
    state = triage.parts.engine.state()
    assert state.num_free_blocks + state.num_cached_blocks == state.num_blocks


@pytest.mark.contract("S19")
async def test_s19_prompt_that_can_never_fit_is_refused_with_the_numbers(triage):
    limit = triage.parts.identity.base.context_length
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await triage.ask("triage", "word " * limit)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = info_of(caught.value)
    assert info.reason == "PROMPT_TOO_LONG"
    assert int(info.metadata["prompt_tokens"]) > limit
    assert int(info.metadata["limit_tokens"]) <= limit
    assert info.metadata["max_tokens"] == "12"


@pytest.mark.contract("S19")
async def test_s19_stop_strings_end_the_answer_and_never_leak(triage):
    whole = await triage.ask("triage", max_tokens=40)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    events = [event async for event in triage.stream("triage", max_tokens=40, stop=[stop])]
    text = "".join(event.delta.text for event in events)
    assert text == whole.text[: whole.text.index(stop)]
    assert events[-1].tail.finish_reason == inference.FINISH_REASON_STOP
    cut = await triage.ask("triage", max_tokens=40, stop=[stop])
    assert cut.text == text


@pytest.mark.contract("S19")
async def test_s19_slow_reader_is_cancelled(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path, stream_buffer_tokens=8) as served:
        options = (("grpc.http2.lookahead_bytes", 700), ("grpc.http2.bdp_probe", 0))
        async with grpc.aio.insecure_channel(served.server.address, options) as channel:
            stream = Running(served.server, channel).stream(None, max_tokens=900, logprobs=True)
            await until(lambda: served.parts.engine.state().num_steps and served.is_idle)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stream:
                    pass
        assert reason_of(caught.value) == "SLOW_READER"
        assert served.parts.engine.state().num_steps < 900


async def test_count_tokens_counts_what_the_answer_counts(triage):
    request = inference.CountTokensRequest(
        target=target_of("triage"), prompt=inference.Prompt(text="how many?")
    )
    counted = await triage.inference.CountTokens(request, timeout=20)
    asked = await triage.ask("triage", "how many?")
    assert counted.num_tokens == asked.usage.prompt_tokens
    assert counted.answerer.version_digest == asked.answerer.version_digest


async def test_the_same_request_id_draws_the_same_tokens(triage):
    metadata = (("x-request-id", "once"),)
    hot = {"temperature": 1.0, "max_tokens": 20}
    first = await triage.ask("triage", metadata=metadata, **hot)
    assert (await triage.ask("triage", metadata=metadata, **hot)).token_ids == first.token_ids
    assert (await triage.ask("triage", **hot)).token_ids != first.token_ids

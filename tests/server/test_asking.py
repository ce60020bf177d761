"""How a request is read: whose setting counts, what ends an answer, what is refused at once."""

import shutil
from typing import Any

import grpc
import pytest
from oracle import Oracle
from served import inference, info_of, reason_of, refusal_of, running, target_of, until
from tiny_base import EOS, edit_json

HOT = {"temperature": 1.0, "seed": 7}


@pytest.fixture
async def served(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path) as running_server:
        await running_server.publish("bare", tiny_adapter(1))
        yield running_server


@pytest.mark.parametrize(
    ("profile", "request_", "same_as"),
    [
        ({"temperature": 1.0}, {"seed": 7}, HOT),
        ({"temperature": 1.0}, {"temperature": 0.0}, {}),
        ({"temperature": 1.0, "top_k": 1}, {"seed": 7}, {}),
        ({"temperature": 1.0, "top_k": 1}, {"seed": 7, "top_k": 0}, HOT),
        ({"temperature": 1.0, "top_p": 1e-5}, {"seed": 7}, {}),
        ({"temperature": 1.0, "top_p": 1e-5}, {"seed": 7, "top_p": 1.0}, HOT),
        ({"repetition_penalty": 3.0}, {}, {"repetition_penalty": 3.0}),
        ({"repetition_penalty": 3.0}, {"repetition_penalty": 1.0}, {}),
        ({"max_tokens": 5}, {"max_tokens": 7}, {"max_tokens": 7}),
    ],
)
async def test_request_goes_before_profile_goes_before_server(
    served, tiny_adapter, profile, request_, same_as
):
    await served.publish("shaped", tiny_adapter(1), decoding=profile)
    answer = await served.ask("shaped@1", **request_)
    assert answer.token_ids == (await served.ask("bare@1", **same_as)).token_ids
    greedy, hot = await served.ask("bare@1"), await served.ask("bare@1", **HOT)
    assert greedy.token_ids != hot.token_ids, "the settings make a difference"


@pytest.mark.contract("S19")
@pytest.mark.parametrize("place", ["request", "profile"])
async def test_s19_stop_string_over_the_borders_of_tokens_is_found_and_never_leaks(
    served, tiny_base, tiny_adapter, place
):
    whole = await served.ask("bare@1", max_tokens=40)
    pieces = Oracle(tiny_base).pieces(whole.token_ids)
    assert "".join(pieces) == whole.text
    stop, before = spanning_stop(pieces)
    if place == "profile":
        await served.publish("shaped", tiny_adapter(1), decoding={"stop": [stop]})
        stream = served.stream("shaped@1", max_tokens=40, stop=["no such text"])
    else:
        stream = served.stream("bare@1", max_tokens=40, stop=["no such text", stop])
    events = [event async for event in stream]
    assert "".join(event.delta.text for event in events) == before
    assert events[-1].tail.finish_reason == inference.FINISH_REASON_STOP


def spanning_stop(pieces):
    """Find a string over three tokens that comes once, and what stands before it."""
    text = "".join(pieces)
    for at in range(4, len(pieces) - 3):
        stop = pieces[at][-1] + pieces[at + 1] + pieces[at + 2][0]
        before = "".join(pieces[: at + 1])[:-1]
        if text.find(stop) == len(before):
            return stop, before
    raise AssertionError("no such string")


async def test_any_of_the_bases_ends_ends_an_answer(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path / "one") as served:
        whole = await served.ask(None, max_tokens=40)
    last = whole.token_ids[20]
    base = shutil.copytree(tiny_base, tmp_path / "base")
    edit_json(base / "generation_config.json", eos_token_id=[EOS, last])
    async with running(base, tmp_path / "two") as served:
        cut = await served.ask(None, max_tokens=40)
    num_before = list(whole.token_ids).index(last)
    assert cut.token_ids == whole.token_ids[:num_before]
    assert cut.finish_reason == inference.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_brought_in(
    served, sampling, field
):
    error = await refusal_of(served.ask("bare@1", **sampling))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).metadata["field"] == f"sampling.{field}"
    assert "inf]" not in str(error.details())
    assert not served.residencies


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ({}, "prompt"),
        ({"raw": ""}, "prompt.raw"),
        ({"text": "x" * (1 << 20) + "x"}, "prompt"),
        ({"chat": inference.Chat()}, "prompt.chat"),
        (
            {"chat": inference.Chat(messages=[inference.Message(role="tool", content="x")])},
            "prompt.chat",
        ),
    ],
)
async def test_prompts_that_make_no_sense_are_refused(served, prompt, field):
    request = inference.GenerateRequest(
        target=target_of("bare@1"), prompt=inference.Prompt(**prompt)
    )
    error = await refusal_of(served.inference.Generate(request, timeout=20))
    assert info_of(error).metadata["field"] == field
    assert not served.residencies


async def test_a_text_of_which_the_tokenizer_leaves_nothing_is_refused(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    normalizer = {"type": "Replace", "pattern": {"String": "~"}, "content": ""}
    edit_json(base / "tokenizer.json", normalizer=normalizer)
    target, prompt = target_of(None), inference.Prompt(text="hi")
    async with running(base, tmp_path / "data") as served:
        nothing = inference.GenerateRequest(target=target, prompt=inference.Prompt(raw="~~"))
        calls: dict[str, Any] = {
            "prompt": served.inference.Generate(nothing, timeout=20),
            "continuations": served.inference.Score(
                inference.ScoreRequest(target=target, prompt=prompt, continuations=["a", "~"]),
                timeout=20,
            ),
            "labels": served.inference.Classify(
                inference.ClassifyRequest(target=target, prompt=prompt, labels=["a", "~"]),
                timeout=20,
            ),
        }
        for field, call in calls.items():
            error = await refusal_of(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert info_of(error).metadata["field"] == field


@pytest.mark.contract("S13")
async def test_s13_no_call_outlives_the_servers_longest_deadline(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path, max_deadline_s=0.05) as served:
        error = await refusal_of(served.ask(None, max_tokens=900))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason_of(error) == "DEADLINE_EXCEEDED"
        await until(lambda: served.is_idle)


async def test_log_probabilities_are_those_of_the_tokens(served, tiny_base, tiny_adapter):
    oracle = Oracle(tiny_base, tiny_adapter(1))
    answer = await served.ask("bare@1", "hello", logprobs=True, **HOT)
    wanted = oracle.logprob(oracle.prompt("hello"), list(answer.token_ids))
    assert len(answer.token_logprobs) == len(answer.token_ids)
    assert sum(answer.token_logprobs) == pytest.approx(wanted, abs=1e-3)

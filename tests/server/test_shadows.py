"""S12's shadows: a candidate computes along, and no caller notices."""

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf import duration_pb2
from served import TIMEOUT_S, alias_name, running, target_of, until

from loradock.server.answering import shadows
from loradock.v1 import inference_service_pb2 as inference
from loradock.v1 import resources_pb2
from loradock.v1 import rollout_service_pb2 as wire
from loradock.v1.rollout_service_pb2_grpc import RolloutServiceStub

FAST: dict[str, Any] = {"heartbeat_interval_s": 0.1, "follow_interval_s": 0.05}
KEY = ("default", "triage", "production")
LABELS = ["billing", "bug"]


@asynccontextmanager
async def shadowing(tiny_base, tiny_adapter, folder, seed=2, candidate=None, **settings):
    """Serve a version whose answers a second one computes along, all of them."""
    async with running(tiny_base, folder, **(FAST | settings)) as served:
        await served.publish("triage", tiny_adapter(1), labels=LABELS)
        await served.publish(
            "triage", tiny_adapter(seed), **(candidate or {"labels": LABELS[::-1]})
        )
        await served.set_alias("triage", 1)
        a_day = duration_pb2.Duration(seconds=86_400)
        request = wire.StartRolloutRequest(
            name=alias_name("triage"),
            version_number=2,
            etag="1",
            stages=[
                wire.RolloutStage(weight_basis_points=weight, hold=a_day) for weight in (0, 100)
            ],
            shadow_basis_points=10_000,
        )
        await RolloutServiceStub(served.channel).StartRollout(request, timeout=TIMEOUT_S)
        await served.ask("triage@1")
        await served.inference.CountTokens(
            inference.CountTokensRequest(
                target=target_of("triage"), prompt=inference.Prompt(text="hi")
            ),
            timeout=TIMEOUT_S,
        )
        live = served.parts.inside.live
        await until(lambda: live.table[KEY].split is not None)
        yield served


async def shadow(served):
    """What the catalog knows of the shadows."""
    request = wire.GetRolloutRequest(name=f"{alias_name('triage')}/rollout")
    stub = RolloutServiceStub(served.channel)
    rollout = (await stub.GetRollout(request, timeout=TIMEOUT_S)).rollout
    return {arm.arm: arm for arm in rollout.arms}["shadow"]


async def counted(served, num_calls):
    async def all_told():
        told = await shadow(served)
        return told.num_calls + told.num_dropped >= num_calls

    await until(all_told)
    return await shadow(served)


@pytest.mark.contract("S12")
async def test_s12_shadows_compute_all_kinds_of_requests_and_agree_where_they_are_the_same(
    tiny_base, tiny_adapter, tmp_path
):
    """The candidate has the incumbent's weights, and is another version by its labels' order."""
    prompt: dict[str, Any] = {
        "target": target_of("triage"),
        "prompt": inference.Prompt(text="hello there"),
    }
    async with shadowing(tiny_base, tiny_adapter, tmp_path, seed=1) as served:
        answer = await served.ask("triage")
        assert answer.answerer.arm == "incumbent"
        await counted(served, 1)
        events = [event async for event in served.stream("triage")]
        assert events[0].head.answerer.arm == "incumbent"
        await counted(served, 2)
        score = inference.ScoreRequest(**prompt, continuations=["yes", "no", "maybe"])
        await served.inference.Score(score, timeout=TIMEOUT_S)
        await counted(served, 3)
        classify = inference.ClassifyRequest(**prompt, labels=LABELS)
        await served.inference.Classify(classify, timeout=TIMEOUT_S)
        told = await counted(served, 4)
        assert (told.num_calls, told.num_errors, told.num_agreed) == (4, 0, 4)
        assert told.latency_p50_seconds > 0
        assert not told.HasField("first_difference_tokens")


@pytest.mark.contract("S12")
async def test_s12_shadows_tell_after_how_many_tokens_they_differ(
    tiny_base, tiny_adapter, tmp_path
):
    async with shadowing(tiny_base, tiny_adapter, tmp_path) as served:
        one = (await served.ask("triage@1", max_tokens=20)).token_ids
        other = (await served.ask("triage@2", max_tokens=20)).token_ids
        alike = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        await served.ask("triage", max_tokens=20)
        told = await counted(served, 1)
        assert (told.num_calls, told.num_agreed) == (1, 0)
        assert told.first_difference_tokens == alike


@pytest.mark.contract("S12")
async def test_s12_shadow_that_fails_reaches_no_caller(tiny_base, tiny_adapter, tmp_path):
    candidate = {"system": "never mind " * 2000}  # no prompt fits
    async with shadowing(tiny_base, tiny_adapter, tmp_path, candidate=candidate) as served:
        expected = (await served.ask("triage@1")).text
        for n in range(5):
            answer = await served.ask("triage", metadata=(("x-request-id", f"r{n}"),))
            assert answer.text == expected
            await counted(served, n + 1)
        told = await shadow(served)
        assert (told.num_calls, told.num_errors, told.num_agreed) == (5, 5, 0)
        assert served.is_idle


@pytest.mark.contract("S12")
async def test_s12_shadow_leaves_its_place_to_a_caller_who_waits_for_it(
    tiny_base, tiny_adapter, tmp_path
):
    """There is one place, and the shadow would take it for a thousand tokens."""
    endless = {"decoding": resources_pb2.Decoding(max_tokens=900)}
    options: dict[str, Any] = {"candidate": endless, "max_running_rows": 1}
    async with shadowing(
        tiny_base, tiny_adapter, tmp_path, default_max_tokens=1, **options
    ) as served:
        started = time.monotonic()
        await served.ask("triage@2", max_tokens=900)
        alone_s = time.monotonic() - started
        asked = inference.GenerateRequest(
            target=target_of("triage"), prompt=inference.Prompt(text="hello there")
        )
        await served.inference.Generate(asked, timeout=TIMEOUT_S)
        await until(lambda: served.parts.engine.state().num_running == 1)
        started = time.monotonic()
        await served.ask("triage@1", max_tokens=1)
        waited_s = time.monotonic() - started
        assert waited_s < max(0.3, alone_s / 3)
        told = await counted(served, 1)
        assert (told.num_calls, told.num_dropped) == (0, 1)


@pytest.mark.contract("S12")
async def test_s12_shadow_that_is_not_done_in_time_says_nothing_of_the_candidate(
    tiny_base, tiny_adapter, tmp_path, monkeypatch
):
    """It may have waited for room: what guards take for a failure has to be the candidate's."""
    monkeypatch.setattr(shadows, "MAX_S", 0.05)
    endless = {"decoding": resources_pb2.Decoding(max_tokens=900)}
    async with shadowing(
        tiny_base, tiny_adapter, tmp_path, candidate=endless, default_max_tokens=1
    ) as served:
        asked = inference.GenerateRequest(
            target=target_of("triage"), prompt=inference.Prompt(text="hello there")
        )
        await served.inference.Generate(asked, timeout=TIMEOUT_S)
        told = await counted(served, 1)
        assert (told.num_calls, told.num_errors, told.num_dropped) == (0, 0, 1)
        await until(lambda: served.is_idle)


@pytest.mark.contract("S12")
async def test_s12_busy_server_drops_shadows_and_answers_its_callers_alike(
    tiny_base, tiny_adapter, tmp_path
):
    options: dict[str, Any] = {"max_running_rows": 2}
    async with shadowing(tiny_base, tiny_adapter, tmp_path, **options) as served:
        expected = (await served.ask("triage@1")).text

        async def caller(number):
            for n in range(12):
                answer = await served.ask("triage", metadata=(("x-request-id", f"{number}-{n}"),))
                assert (answer.text, answer.answerer.arm) == (expected, "incumbent")

        await asyncio.gather(*(caller(number) for number in range(6)))
        told = await counted(served, 72)
        assert told.num_dropped > 0
        assert told.num_calls + told.num_dropped == 72
        assert told.num_errors == 0
        live = served.parts.inside.live.table[KEY]
        await until(lambda: served.is_idle)
        leases = served.residencies
        assert leases[live.version.digest].leases == 0
        assert leases[live.split.candidate.digest].leases == 1  # the split's own

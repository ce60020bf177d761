"""S12 on real servers: shares, sticky keys, shadows; rollouts to their end, and taken back."""

import asyncio
import itertools
import logging
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from served import alias_name, reason_of, running, target_of, until

from loradock.v1 import inference_service_pb2 as inference
from loradock.v1 import resources_pb2
from loradock.v1 import rollout_service_pb2 as wire
from loradock.v1.rollout_service_pb2_grpc import RolloutServiceStub

ROLLOUT = f"{alias_name('triage')}/rollout"
FAST: dict[str, Any] = {"heartbeat_interval_s": 0.1, "follow_interval_s": 0.05}
HELD_S = 3600
TOO_LONG = "never mind " * 2000  # as a system message: no prompt fits the context


@asynccontextmanager
async def serving(tiny_base, tiny_adapter, folder, candidate=None, **settings):
    """Serve two versions, the first in production, the second as told."""
    async with running(tiny_base, folder, **(FAST | settings)) as served:
        await served.publish("triage", tiny_adapter(1))
        await served.publish("triage", tiny_adapter(2), **(candidate or {}))
        await served.set_alias("triage", 1)
        yield served


@pytest.fixture
async def served(tiny_base, tiny_adapter, tmp_path):
    async with serving(tiny_base, tiny_adapter, tmp_path) as served:
        yield served


def rollouts(served):
    return RolloutServiceStub(served.channel)


def stage(weight, hold_s=0.0):
    hold = duration_pb2.Duration()
    hold.FromMicroseconds(int(hold_s * 1e6))
    return wire.RolloutStage(weight_basis_points=weight, hold=hold)


async def start(served, *stages, min_calls=1, **fields):
    request = wire.StartRolloutRequest(
        name=alias_name("triage"),
        version_number=2,
        etag=(await served.alias("triage")).etag,
        stages=[stage(*each) for each in stages],
        guards=wire.RolloutGuards(min_calls=min_calls, max_latency_ratio=1000.0),
        **fields,
    )
    return (await rollouts(served).StartRollout(request, timeout=20)).rollout


async def status(served):
    request = wire.GetRolloutRequest(name=ROLLOUT)
    return (await rollouts(served).GetRollout(request, timeout=20)).rollout


async def split_is_live(*servers):
    """Wait until servers have brought the candidate in beside the incumbent."""
    for served in servers:
        await ask(served)
    tables = [served.parts.inside.live for served in servers]
    key = ("default", "triage", "production")
    await until(lambda: all(live.get(key).split is not None for live in tables))


async def ask(served, key="", request_id="", **sampling):
    """Ask the alias; give the answer."""
    target = target_of("triage")
    target.sticky_key = key
    request = inference.GenerateRequest(
        target=target,
        prompt=inference.Prompt(text="hello there"),
        sampling=inference.Sampling(**{"max_tokens": 1, **sampling}),
    )
    metadata = (("x-request-id", request_id),) if request_id else ()
    return await served.inference.Generate(request, timeout=30, metadata=metadata)


def facts_of(record):
    return getattr(record, "facts", {})


async def arms_of(served, keys):
    answers = await asyncio.gather(*(ask(served, key) for key in keys))
    for answer in answers:
        number = {"incumbent": 1, "candidate": 2}[answer.answerer.arm]
        assert answer.answerer.version_number == number
    return {key: answer.answerer.arm for key, answer in zip(keys, answers, strict=True)}


@pytest.mark.contract("S12")
async def test_s12_traffic_follows_the_weight_and_a_key_keeps_its_arm(served, caplog):
    caplog.set_level(logging.INFO, "loradock")
    await start(served, (3000, HELD_S), (6000, HELD_S))
    await split_is_live(served)
    keys = [f"user-{n}" for n in range(300)]
    first = await arms_of(served, keys)
    taken = Counter(first.values())["candidate"]
    assert abs(taken - 90) <= 4 * (300 * 0.3 * 0.7) ** 0.5
    assert await arms_of(served, keys[:50]) == {key: first[key] for key in keys[:50]}
    arms_told = Counter(facts_of(record).get("arm") for record in caplog.records)
    assert arms_told["candidate"] == taken + Counter(first[k] for k in keys[:50])["candidate"]
    by_id = [(await ask(served, request_id="the same")).answerer.arm for _ in range(3)]
    assert len(set(by_id)) == 1


@pytest.mark.contract("S12")
async def test_s12_all_servers_choose_the_same_arm_and_a_rising_weight_takes_nothing_back(
    tiny_base, tiny_adapter, tmp_path
):
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        one = await enter(serving(tiny_base, tiny_adapter, tmp_path / "one"))
        shared = {
            "database_url": f"sqlite:///{one.server.config.folder / 'catalog.db'}",
            "blob_url": one.server.config.blobs_url,
            "roles": "inference",
        }
        other = await enter(running(tiny_base, tmp_path / "other", **(FAST | shared)))
        await start(one, (3000,), (6000, HELD_S), min_calls=100)
        await split_is_live(one, other)
        keys = [f"user-{n}" for n in range(60)]
        first = await arms_of(one, keys)
        assert await arms_of(other, keys) == first

        async def is_at_second():
            await arms_of(one, keys)
            return (await status(one)).stage == 1

        await until(is_at_second)
        for server in (one, other):
            await until(partial(has_weight, server, 6000))
        second = await arms_of(other, keys)
        assert await arms_of(one, keys) == second
        left = [key for key in keys if first[key] == "candidate" != second[key]]
        assert not left
        assert Counter(second.values())["candidate"] > Counter(first.values())["candidate"]


def has_weight(served, weight):
    return weight_on(served) == weight


def weight_on(served):
    live = served.parts.inside.live.get(("default", "triage", "production"))
    return None if live.split is None else live.split.split.weight


@pytest.mark.contract("S12")
@pytest.mark.contract("S18")
async def test_s12_candidate_that_is_not_resident_gets_nothing_and_the_server_says_why(
    served,
):
    await ask(served)
    for path in served.server.config.folder.glob("blobs/**/*"):
        if path.is_file():
            path.rename(path.with_name(path.name + ".gone"))
    await start(served, (5000,), (10_000,))
    live = served.parts.inside.live
    key = ("default", "triage", "production")
    await until(lambda: live.get(key).reason)
    assert set((await arms_of(served, ["a", "b", "c"])).values()) == {"incumbent"}
    look = await served.look()
    assert "50 % by @2" in look.server.divergences[0]

    async def waits():
        return "can't follow" in (await status(served)).waits_for

    await until(waits)
    for path in served.server.config.folder.glob("blobs/**/*.gone"):
        path.rename(path.with_name(path.name.removesuffix(".gone")))

    async def is_promoted():
        await asyncio.gather(*(ask(served, str(n)) for n in range(8)))
        return live.get(key).version.number == 2

    await until(is_promoted, 60)
    await until(lambda: not live.get(key).is_divergent)


async def test_rollout_runs_to_its_end_under_load_and_no_call_fails(served):
    seen: Counter[tuple[str, int]] = Counter()
    stop = asyncio.Event()

    async def caller(number):
        for turn in itertools.count():
            if stop.is_set():
                return
            answer = (await ask(served, f"{number}-{turn}", max_tokens=2)).answerer
            seen[answer.arm, answer.version_number] += 1

    callers = [asyncio.create_task(caller(n)) for n in range(8)]
    await start(served, (100,), (1000,), (5000,), (10_000,), min_calls=1)
    weights = set()

    async def is_over():
        assert not any(task.done() for task in callers)
        now = await status(served)
        weights.add(now.stages[now.stage].weight_basis_points)
        return now.state == wire.ROLLOUT_STATE_PROMOTED

    await until(is_over, 60)
    live = served.parts.inside.live
    await until(lambda: live.get(("default", "triage", "production")).version.number == 2)
    before = seen["incumbent", 2]
    await until(lambda: seen["incumbent", 2] > before)
    stop.set()
    await asyncio.gather(*callers)
    assert seen["incumbent", 1] and seen["candidate", 2]
    assert not seen["candidate", 1]
    alias = await served.alias("triage")
    assert (alias.version_number, alias.HasField("split"), alias.previous_number) == (2, False, 1)


@pytest.mark.contract("S12")
async def test_candidate_that_fails_its_callers_is_taken_back_by_itself(
    tiny_base, tiny_adapter, tmp_path
):
    candidate = {"system": TOO_LONG}
    async with serving(tiny_base, tiny_adapter, tmp_path, candidate) as served:
        await start(served, (5000, HELD_S), min_calls=5)
        failed = 0

        async def is_aborted():
            nonlocal failed
            for n in range(10):
                try:
                    await ask(served, f"user-{n}")
                except grpc.aio.AioRpcError as error:
                    assert reason_of(error) == "PROMPT_TOO_LONG"
                    failed += 1
            return (await status(served)).state == wire.ROLLOUT_STATE_ABORTED

        await until(is_aborted)
        assert failed
        told = await status(served)
        assert "calls fail, against 0 of" in told.state_reason
        assert {r.guard: r.state for r in told.guard_reports}["errors"] == "BROKEN"
        alias = await served.alias("triage")
        assert (alias.version_number, alias.HasField("split")) == (1, False)
        await until(lambda: weight_on(served) is None)
        assert set((await arms_of(served, [f"user-{n}" for n in range(10)])).values()) == {
            "incumbent"
        }


@pytest.mark.contract("S12")
async def test_candidate_that_is_slow_is_taken_back_by_itself(tiny_base, tiny_adapter, tmp_path):
    """It answers its callers with more tokens, which takes it longer."""
    slow = {"decoding": resources_pb2.Decoding(max_tokens=200)}
    async with serving(tiny_base, tiny_adapter, tmp_path, slow, default_max_tokens=1) as served:
        request = wire.StartRolloutRequest(
            name=alias_name("triage"),
            version_number=2,
            etag=(await served.alias("triage")).etag,
            stages=[stage(5000, HELD_S)],
            guards=wire.RolloutGuards(min_calls=10, max_latency_ratio=3.0, confidence=0.99),
        )
        await rollouts(served).StartRollout(request, timeout=20)
        target = target_of("triage")

        async def is_aborted():
            for _ in range(4):
                asked = inference.GenerateRequest(target=target, prompt=inference.Prompt(text="hi"))
                await served.inference.Generate(asked, timeout=30)
            return (await status(served)).state == wire.ROLLOUT_STATE_ABORTED

        await until(is_aborted, 60)
        assert "latency_p50" in (await status(served)).state_reason
        assert (await served.alias("triage")).version_number == 1


async def test_start_refuses_guards_that_compare_nothing_and_says_what_to_give(served):
    for stages, options, field in (
        ([(100, HELD_S)], {"min_calls": 0}, "guards.min_calls: is not in 1.."),
        ([(10_000, HELD_S)], {}, "stages: give each arm requests"),
        ([(0, HELD_S)], {"shadow_basis_points": 10}, "stages: give each arm requests"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=field) as caught:
            await start(served, *stages, **options)
        assert reason_of(caught.value) == "INVALID_FIELD"


async def test_pause_holds_resume_goes_on_and_validate_only_starts_nothing(served):
    stub = rollouts(served)
    await start(served, (100,), validate_only=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status(served)
    assert reason_of(caught.value) == "NOT_FOUND"
    await start(served, (100, HELD_S), (200, HELD_S), reason="beats 1")
    await stub.PauseRollout(wire.PauseRolloutRequest(name=ROLLOUT, reason="lunch"), timeout=10)
    paused = await status(served)
    assert (paused.waits_for, paused.state_reason) == ("it is paused", "lunch")
    assert (paused.reason, paused.state_by) == ("beats 1", "anonymous")
    await stub.ResumeRollout(wire.ResumeRolloutRequest(name=ROLLOUT), timeout=10)
    assert "is held for another" in (await status(served)).waits_for
    promoted = await stub.PromoteRollout(wire.PromoteRolloutRequest(name=ROLLOUT), timeout=10)
    assert promoted.rollout.state == wire.ROLLOUT_STATE_PROMOTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AbortRollout(wire.AbortRolloutRequest(name=ROLLOUT), timeout=10)
    assert reason_of(caught.value) == "ROLLOUT_ENDED"

"""Who may wait, who goes first, how long, and what a caller is told who waited in vain."""

import asyncio
import shutil
import threading
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from served import Running, inference, info_of, reason_of, refusal_of, running, target_of, until

from loradock.engine.protocol import Generate, Priority, Sampling, Score
from loradock.server.answering.admission import MEMORIES, Admission
from loradock.server.errors import PermissionDenied, QueueFull
from loradock.server.services.call import Call
from loradock.server.services.convert_inference import read_priority
from loradock.server.services.principal import Principal, Role

Settings = dict[str, Any]
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
ANSWER = 900  # tokens: longer than any wait here


@pytest.fixture
async def narrow(tiny_base, tmp_path):
    """A server in whose batch one row runs."""
    settings: Settings = {"max_running_rows": 1, "max_queue": 4, "max_requests_per_project": 3}
    async with running(tiny_base, tmp_path, **settings) as served:
        yield served


@asynccontextmanager
async def busy(served, num_rows=12):
    """Keep the batch taken by rows that nobody reads."""
    engine = served.parts.engine
    names = [f"busy-{number}" for number in range(num_rows)]
    for name in names:
        how = Sampling(ANSWER, ignore_eos=True)
        engine.submit(Generate(name, (5,), how, None, "default", None, HIGH))
    await until(lambda: engine.state().num_running)
    yield
    for name in names:
        engine.cancel(name)
    await until(lambda: served.is_idle)


def retry_s(error):
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(error).details)
    return info.retry_delay.ToTimedelta().total_seconds()


@pytest.mark.contract("S8")
async def test_s8_who_exceeds_the_places_is_told_when_to_come_again(narrow):
    async with busy(narrow):
        waiting = [asyncio.create_task(narrow.ask(None)) for _ in range(3)]
        await until(lambda: narrow.parts.engine.state().num_waiting >= 11 + 3)
        refusals = [await refusal_of(narrow.ask(None)) for _ in range(3)]
    for error in refusals:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "QUEUE_FULL"
        facts = info_of(error).metadata
        assert (facts["num_taken"], facts["limit"]) == ("3", "3")
    times = [retry_s(error) for error in refusals]
    assert times == sorted(times)
    assert len(set(times)) == 3, "each is told a time of its own"
    assert all(answer.text for answer in await asyncio.gather(*waiting))


@pytest.mark.contract("S8")
async def test_s8_what_would_fill_the_memory_many_times_over_is_turned_away(tiny_base, tmp_path):
    settings: Settings = {"kv_tokens": 1024, "max_running_rows": 1}
    async with running(tiny_base, tmp_path, **settings) as served, busy(served):
        asks = [
            asyncio.create_task(served.ask(None, max_tokens=ANSWER)) for _ in range(MEMORIES + 4)
        ]
        done, waiting = await asyncio.wait(asks, timeout=1)
        reasons = {info_of(await refusal_of(task)).metadata["what"] for task in done}
        assert reasons == {"tokens"}
        assert 1 <= len(waiting) <= MEMORIES + 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_s17_one_project_leaves_room_for_others_and_low_for_the_rest():
    admission = Admission(max_requests=8, max_per_project=0, max_tokens=100)
    with ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(admission.request("a", LOW))
        with pytest.raises(QueueFull) as low, admission.request("a", LOW):
            pass
        for _ in range(3):
            inside.enter_context(admission.request("a", NORMAL))
        with pytest.raises(QueueFull) as own, admission.request("a", HIGH):
            pass
        for _ in range(2):
            inside.enter_context(admission.request("b", NORMAL))
        with pytest.raises(QueueFull) as full, admission.request("c", HIGH):
            pass
    told = [(e.value.what, e.value.num_taken, e.value.limit) for e in (low, own, full)]
    of_project = "requests of this project"
    assert told == [(of_project, 3, 3), (of_project, 6, 6), ("requests", 8, 8)]
    with admission.request("c", LOW):
        pass


def test_s8_the_time_to_come_again_follows_the_rate_of_ends():
    """Requests that take 20 ms free a place every 20 ms; the tenth in line is told ten times it."""
    admission = Admission(max_requests=1, max_per_project=1, max_tokens=100)
    for _ in range(10):
        with admission.request("a", NORMAL):
            time.sleep(0.02)
    told = []
    with admission.request("a", NORMAL):
        for _ in range(10):
            with pytest.raises(QueueFull) as refused, admission.request("a", NORMAL):
                pass
            told.append(refused.value.retry_after_s)
    assert told[0] == 0.05, "never at once"
    assert 0.15 < told[-1] < 0.6


def test_s8_work_takes_memory_and_gives_it_back():
    admission = Admission(max_requests=8, max_per_project=8, max_tokens=100)
    large = Generate("row", (1,) * 60, Sampling(60))
    with admission.work(large):  # too large for the bound, but alone
        small = Score("row", (1,), ((1, 2), (3,)))
        with pytest.raises(QueueFull, match="120 tokens run or wait"), admission.work(small):
            pass
    with admission.work(small), admission.work(Generate("row", (1,) * 90, Sampling(6))):
        pass


async def test_who_is_more_important_is_answered_first(narrow):
    order = []

    async def ask(name, priority):
        request = inference.GenerateRequest(
            target=target_of(None),
            prompt=inference.Prompt(text=name),
            sampling=inference.Sampling(max_tokens=4),
            priority=priority,
        )
        await narrow.inference.Generate(request, timeout=30)
        order.append(name)

    levels = {"low": 3, "absent": 0, "high": 1}
    tasks = []
    async with busy(narrow, 1):
        for name, priority in levels.items():
            tasks.append(asyncio.create_task(ask(name, priority)))
            await until(lambda: narrow.parts.engine.state().num_waiting == len(tasks))
    await asyncio.gather(*tasks)
    assert order == ["high", "absent", "low"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask("unknown", 9)
    assert reason_of(caught.value) == "INVALID_FIELD"


async def test_x1_to_go_before_others_takes_a_role():
    call = Call("/", "id", Principal("default", "who", frozenset({Role.INFER})), time.monotonic())
    assert read_priority(inference.PRIORITY_LOW, call) is LOW
    with pytest.raises(PermissionDenied):
        read_priority(inference.PRIORITY_HIGH, call)


@asynccontextmanager
async def hung_load(served):
    """Let the engine bring nothing in, until the end."""
    engine, ended = served.parts.engine, threading.Event()
    make_resident = engine.make_resident

    def hang(source):
        ended.wait(30)
        return make_resident(source)

    engine.make_resident = hang
    try:
        yield
    finally:
        engine.make_resident = make_resident
        ended.set()


@pytest.mark.contract("S7")
async def test_s7_a_load_that_hangs_keeps_nobody_else_waiting(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path, max_running_rows=2) as served:
        for seed, name in enumerate(("cold", "warm")):
            await served.publish(name, tiny_adapter(seed))
        await served.ask("warm@1")
        async with hung_load(served):
            cold = [asyncio.create_task(served.ask("cold@1")) for _ in range(4)]
            for _ in range(5):
                assert (await served.ask("warm@1")).text
                assert (await served.ask(None)).text
            state = served.parts.engine.state()
            assert (state.num_running, state.num_waiting) == (0, 0), "rows of cold ones don't queue"
            assert not any(task.done() for task in cold)
        assert all(answer.text for answer in await asyncio.gather(*cold))


@pytest.mark.contract("S17")
@pytest.mark.parametrize("other", ["other@1", None])
async def test_s17_who_floods_an_adapter_keeps_no_other_waiting(
    tiny_base, tiny_adapter, tmp_path, other
):
    """Forty answers of one adapter are waited for; another's comes after those that run."""
    num_rows, ended = 2, []
    settings: Settings = {"max_running_rows": num_rows, "max_queue": 62}
    async with running(tiny_base, tmp_path, **settings) as served:
        for seed, name in enumerate(("flooded", "other")):
            await served.publish(name, tiny_adapter(seed))
            await served.ask(f"{name}@1")

        async def flood():
            await served.ask("flooded@1", max_tokens=100)
            ended.append(1)

        flooding = [asyncio.create_task(flood()) for _ in range(40)]
        await until(lambda: served.parts.engine.state().num_waiting > 30)
        before = len(ended)
        await served.ask(other, max_tokens=10)
        assert len(ended) - before <= 2 * num_rows
        await asyncio.gather(*flooding)


@pytest.mark.contract("S9")
async def test_s9_each_failure_doubles_the_time_to_come_again(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        await served.publish("gone", tiny_adapter(1))
        shutil.move(tmp_path / "blobs", tmp_path / "elsewhere")
        told = []
        for _ in range(9):
            error = await refusal_of(served.ask("gone@1"))
            assert reason_of(error) == "ADAPTER_LOAD_FAILED"
            told.append(retry_s(error))
            (place,) = served.parts.inside.residencies.places()
            place.retry_at = 0.0  # as if it had been waited for
        assert told == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30], abs=0.3)
        shutil.rmtree(tmp_path / "blobs", ignore_errors=True)
        shutil.move(tmp_path / "elsewhere", tmp_path / "blobs")
        assert (await served.ask("gone@1")).text
        assert (place.num_failures, place.back_off_s) == (0, 0.0), "the next failure begins anew"


@contextmanager
def slow_steps(engine):
    """Let each step take 5 ms more."""
    forward = engine.decoder.forward

    def wait(batch):
        time.sleep(0.005)
        return forward(batch)

    engine.decoder.forward = wait
    yield
    engine.decoder.forward = forward


async def stage_of(call):
    error = await refusal_of(call)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason_of(error) == "DEADLINE_EXCEEDED"
    return info_of(error).metadata["stage"]


@pytest.mark.contract("S13")
async def test_s13_a_deadline_that_passes_says_during_what(tiny_base, tiny_adapter, tmp_path):
    """At each stage of a request's way; and nothing of it is left."""
    settings: Settings = {
        "max_running_rows": 1,
        "max_deadline_s": 0.4,
        "stream_buffer_tokens": 10_000,
    }
    async with running(tiny_base, tmp_path, **settings) as served:
        await served.publish("cold", tiny_adapter(1))
        async with hung_load(served):
            assert await stage_of(served.ask("cold@1")) == "load"
        async with busy(served):
            assert await stage_of(served.ask(None)) == "queue"
        with slow_steps(served.parts.engine):
            assert await stage_of(served.ask(None, max_tokens=ANSWER)) == "batch"
        options = (("grpc.http2.lookahead_bytes", 700), ("grpc.http2.bdp_probe", 0))
        async with grpc.aio.insecure_channel(served.server.address, options) as channel:
            stream = Running(served.server, channel).stream(None, max_tokens=300, logprobs=True)
            await until(lambda: served.parts.engine.state().num_steps and served.is_idle)
            await asyncio.sleep(0.5)

            async def read():
                async for _ in stream:
                    pass

            assert await stage_of(read()) == "stream"
        await until(lambda: served.is_idle)


@pytest.mark.contract("S13")
async def test_s13_callers_hear_it_before_they_give_up_themselves(narrow):
    """By their own deadline: the server speaks a little before it, so that the stage is known."""
    async with busy(narrow):
        assert await stage_of(narrow.ask(None, timeout=1.5)) == "queue"


@pytest.mark.contract("S15")
async def test_s15_health_says_when_the_engine_cannot_go_on(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        asked = health_pb2.HealthCheckRequest()
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
        engine: Any = served.parts.engine
        engine.decoder = None  # nothing can be computed any more
        causes: list[str] = []
        while len(causes) < 3:
            causes.append(info_of(await refusal_of(served.ask(None))).metadata["cause"])
        assert causes == ["compute", "compute", "engine"]

        async def is_out():
            return (await health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING

        await until(is_out)
        error = await refusal_of(served.ask(None))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error) == "ENGINE_STOPPED"

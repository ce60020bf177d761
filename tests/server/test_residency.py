"""S7, S8, S9, S11: what is brought in, once; what may not go; what can't come; what was broken."""

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from served import Running, reason_of, refusal_of, running, until

from loradock.registry.names import parse_reference
from loradock.v1 import server_service_pb2

NUM_CALLERS = 100


@pytest.fixture
async def served(tiny_base, tiny_adapter, tmp_path):
    """Two versions of an adapter, neither of them asked for yet."""
    async with running(tiny_base, tmp_path) as running_server:
        for seed in (1, 2):
            await running_server.publish("triage", tiny_adapter(seed))
        yield running_server


def cached_files(served: Running):
    return sorted(served.server.config.cache_folder.glob("*.safetensors"))


@contextmanager
def blobs_gone(served: Running):
    """Take the blobs away, and put them back."""
    folder = served.server.config.folder
    (folder / "blobs").rename(folder / "elsewhere")
    (folder / "blobs").mkdir()
    yield
    (folder / "blobs").rename(folder / "instead")
    (folder / "elsewhere").rename(folder / "blobs")


async def load(served: Running, reference: str):
    request = server_service_pb2.LoadAdapterRequest(parent="projects/default", reference=reference)
    return (await served.servers.LoadAdapter(request, timeout=20)).residency


async def unload(served: Running, digest: str):
    request = server_service_pb2.UnloadAdapterRequest(version_digest=digest)
    request.drain_timeout.seconds = 10
    return (await served.servers.UnloadAdapter(request, timeout=20)).residency


def messages(caplog, text):
    return [record for record in caplog.records if record.getMessage() == text]


@pytest.mark.contract("S7")
async def test_s7_100_first_requests_for_a_cold_version_are_one_download_and_one_load(
    served, caplog
):
    caplog.set_level("INFO", "loradock")
    answers = await asyncio.gather(
        *(served.ask("triage@1", f"question {n}") for n in range(NUM_CALLERS))
    )
    assert {answer.answerer.version_number for answer in answers} == {1}
    assert len(messages(caplog, "weights fetched")) == 1
    assert len(messages(caplog, "adapter is resident")) == 1


@pytest.mark.contract("S7")
async def test_s7_versions_of_the_same_weights_download_them_once(served, tiny_adapter, caplog):
    for system in ("Be brief.", "Be kind."):
        await served.publish("same", tiny_adapter(1), system=system)
    caplog.set_level("INFO", "loradock")
    await asyncio.gather(*(served.ask(f"{name}") for name in ("triage@1", "same@1", "same@2")))
    assert len(served.residencies) == 3
    assert len(messages(caplog, "weights fetched")) == 1


@pytest.fixture
async def tight(tiny_base, tiny_adapter, tmp_path):
    """Four versions, and memory for one of them."""
    async with running(tiny_base, tmp_path) as served:
        for seed in range(1, 5):
            await served.publish("triage", tiny_adapter(seed))
        size = (await load(served, "triage@1")).size_bytes
    settings = {"max_adapter_bytes": size * 3 // 2, "max_queue": 3}
    async with running(tiny_base, tmp_path, **settings) as served:
        yield served
        assert served.parts.inside.residencies.check() == []


@asynccontextmanager
async def in_use(served: Running, reference: str):
    """Hold a version as a request does that goes on."""
    inside = served.parts.inside
    resolved = await inside.live.resolve("default", parse_reference(reference))
    async with inside.residencies.lease(resolved.version):
        yield


@pytest.mark.contract("S8")
async def test_s8_no_room_is_told_before_the_deadline_and_the_leased_stays(tight):
    async with in_use(tight, "triage@1"):
        error = await refusal_of(tight.ask("triage@2", timeout=2.0))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "ADAPTER_MEMORY_FULL"
        assert retry_delay_s(error) > 0
        assert (await tight.ask("triage@1")).answerer.version_number == 1
    assert (await tight.ask("triage@2")).answerer.version_number == 2
    assert len(tight.residencies) == 1


@pytest.mark.contract("S8")
async def test_s8_who_waits_for_room_gets_it_in_order(tight):
    order = []

    async def ask(number):
        order.append((await tight.ask(f"triage@{number}")).answerer.version_number)

    async with in_use(tight, "triage@1"):
        tasks = []
        for number in (3, 2, 4):
            tasks.append(asyncio.create_task(ask(number)))
            await until(lambda: num_waiting(tight) == len(tasks))
        error = await refusal_of(tight.ask("triage@2"))
        assert reason_of(error) == "QUEUE_FULL"
        assert "3 requests for versions not here yet" in str(error.details())
        assert order == []
    await asyncio.gather(*tasks)
    assert order == [3, 2, 4]


async def test_a_version_comes_in_though_nobody_may_queue(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path, max_queue=0) as served:
        await served.publish("triage", tiny_adapter(1))
        assert (await served.ask("triage@1")).answerer.version_number == 1


@pytest.mark.contract("S8")
async def test_s8_who_waits_for_room_and_goes_away_delays_nobody(tight):
    async with in_use(tight, "triage@1"):
        impatient = asyncio.create_task(tight.ask("triage@3"))
        await until(lambda: num_waiting(tight) == 1)
        patient = asyncio.create_task(tight.ask("triage@2"))
        await until(lambda: num_waiting(tight) == 2)
        impatient.cancel()
        await until(lambda: num_waiting(tight) == 1)
    assert (await patient).answerer.version_number == 2
    assert [place.state for place in tight.residencies.values()] == ["resident"]


def num_waiting(served: Running) -> int:
    return sum(p.waits_for_room for p in served.parts.inside.residencies.places())


async def test_a_version_larger_than_all_memory_is_refused_as_such(
    tiny_base, tiny_adapter, tmp_path
):
    async with running(tiny_base, tmp_path, max_adapter_bytes=1000) as served:
        await served.publish("triage", tiny_adapter(1))
        error = await refusal_of(served.ask("triage@1"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(error) == "ADAPTER_TOO_LARGE"


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(error).details)
    return float(info.retry_delay.ToTimedelta().total_seconds())


@pytest.mark.contract("S9")
async def test_s9_failed_load_is_told_backs_off_and_delays_nobody(served, caplog):
    caplog.set_level("INFO", "loradock")
    whole = served.stream("triage@1", max_tokens=900)
    events = aiter(whole)
    await anext(events)
    with blobs_gone(served):
        first = await refusal_of(served.ask("triage@2"))
        again = await refusal_of(served.ask("triage@2"))
        for error in (first, again):
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(error) == "ADAPTER_LOAD_FAILED"
            assert 0 < retry_delay_s(error) <= 0.5
        assert len(messages(caplog, "adapter could not be brought in")) == 1, "it backs off"
        (failed,) = [p for p in served.residencies.values() if p.state == "failed"]
        assert failed.reason
        assert (await served.ask("triage@1")).answerer.version_number == 1
        assert [event async for event in events][-1].tail.usage.output_tokens

    async def answers():
        try:
            return await served.ask("triage@2")
        except grpc.aio.AioRpcError as error:
            assert reason_of(error) == "ADAPTER_LOAD_FAILED"

    await until(answers)
    listed = {digest for digest, place in served.residencies.items() if place.state == "resident"}
    assert listed == set(served.parts.engine.state().resident)
    assert len(listed) == 2


async def test_a_failed_load_is_degraded_as_long_as_callers_are_refused_for_it(served):
    health = served.parts.inside.health
    with blobs_gone(served):
        assert reason_of(await refusal_of(served.ask("triage@1"))) == "ADAPTER_LOAD_FAILED"
    (place,) = served.parts.inside.residencies.places()
    place.retry_at = time.monotonic() + 60.0
    (told,) = health.degraded("default")
    assert told.startswith("triage@1 could not be brought in: ")
    assert health.degraded("other") == []
    place.retry_at = time.monotonic()
    assert health.degraded("default") == [], "who asks now is let try"
    (failed,) = (await served.look()).server.residencies
    assert failed.state == server_service_pb2.RESIDENCY_STATE_FAILED and failed.reason


@pytest.mark.contract("S11")
@pytest.mark.parametrize("damage", ["a flipped byte", "a missing end"])
async def test_s11_corrupt_file_in_the_cache_is_fetched_again_and_never_loaded(
    served, damage, caplog
):
    first = await served.ask("triage@1")
    await unload(served, first.answerer.version_digest)
    (file,) = cached_files(served)
    content = bytearray(file.read_bytes())
    if damage == "a missing end":
        del content[-8:]
    else:
        content[-1] ^= 1
    file.write_bytes(content)
    with blobs_gone(served):
        assert reason_of(await refusal_of(served.ask("triage@1"))) == "ADAPTER_LOAD_FAILED"
        assert not cached_files(served)

    async def answers_as_before():
        try:
            return (await served.ask("triage@1")).token_ids == first.token_ids
        except grpc.aio.AioRpcError as error:
            assert reason_of(error) == "ADAPTER_LOAD_FAILED"

    await until(answers_as_before)
    assert messages(caplog, "cached file is corrupt: fetching it again")
    assert cached_files(served) == [file]


async def test_what_is_on_disk_needs_no_store(served):
    first = await served.ask("triage@1")
    await unload(served, first.answerer.version_digest)
    with blobs_gone(served):
        assert (await served.ask("triage@1")).token_ids == first.token_ids


async def test_disk_cache_keeps_its_budget(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path, cache_bytes=1) as served:
        for seed in (1, 2):
            await served.publish("triage", tiny_adapter(seed))
            assert await served.ask(f"triage@{seed}")
        assert len(cached_files(served)) == 1, "what was in use stayed; the next took its place"
        assert len(served.residencies) == 2


async def test_load_and_unload_by_hand(served):
    loaded = await load(served, "triage@2")
    assert loaded.state == server_service_pb2.RESIDENCY_STATE_RESIDENT
    assert loaded.size_bytes > 0
    await unload(served, loaded.version_digest)
    assert served.residencies == {}
    assert served.parts.engine.state().resident == {}
    error = await refusal_of(unload(served, loaded.version_digest))
    assert reason_of(error) == "NOT_RESIDENT"

"""S7, S9, S10: cold versions over a real object store, with a network that does what it likes."""

import asyncio
import re
import time
from collections import defaultdict
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from fault_proxy import FaultProxy
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served import reason_of, refusal_of, running, until

from loradock.v1 import server_service_pb2 as wire

NUM_CALLERS = 100
BLOB_PATH = "/blobs/sha256/"


@pytest.fixture
async def far(tiny_base, tiny_adapter, tmp_path, s3_url):
    """Three versions that lie in S3 behind a proxy, none of them asked for yet."""
    with FaultProxy.of_store(s3_url) as (proxy, url):
        settings: dict[str, Any] = {"blob_url": url, "max_downloads": 2, "rollback_window_s": 0.0}
        async with running(tiny_base, tmp_path, **settings) as served:
            for seed in (1, 2, 3):
                await served.publish("triage", tiny_adapter(seed))
            proxy.requests.clear()
            yield served, proxy
            proxy.pass_on()


def gets(proxy):
    return [line for line in proxy.requests if line.startswith("GET ") and BLOB_PATH in line]


@contextmanager
def delayed(proxy, seconds):
    proxy.delay(seconds)
    yield
    proxy.pass_on()


@pytest.mark.contract("S7")
async def test_s7_100_first_requests_are_one_get_and_one_load_and_running_rows_miss_no_step(far):
    served, proxy = far
    await served.ask("triage@2")
    proxy.requests.clear()
    steps = watch_steps(served)
    others_done = asyncio.Event()
    running_rows = asyncio.create_task(keep_running(served, others_done))
    await until(lambda: steps)
    with delayed(proxy, 1.5):  # longer than a gap may be, so a step that waited for it would show
        answers = await asyncio.gather(
            *(served.ask("triage@1", f"question {n}", max_tokens=2) for n in range(NUM_CALLERS))
        )
    others_done.set()
    await running_rows
    assert {answer.answerer.version_number for answer in answers} == {1}
    assert len(gets(proxy)) == 1
    assert served.parts.inside.residencies.num_loads == 2
    by_row = defaultdict(list)
    for at, (_, events) in enumerate(steps):
        for event in events:
            by_row[event.row].append(at)
    ran_long = [at for at in by_row.values() if len(at) >= 900]
    assert all(at == list(range(at[0], at[0] + len(at))) for at in ran_long), "none sat a step out"
    gaps_s = [after - before for (before, _), (after, _) in pairwise(steps)]
    assert max(gaps_s) < 1.0, "nor did any step wait for the download"
    first_answer = min(at[0] for at in by_row.values() if len(at) < 10)
    assert any(at[0] < first_answer < at[-1] for at in ran_long), "one ran when the load was done"


async def keep_running(served, others_done):
    while not others_done.is_set():
        await served.ask("triage@2", max_tokens=900)


def watch_steps(served):
    """Note when every step from now on ended, and its events."""
    steps, deliver = [], served.parts.bridge._deliver

    def watch(events):
        steps.append((time.monotonic(), events))
        deliver(events)

    served.parts.bridge._deliver = watch
    return steps


@pytest.mark.contract("S9")
async def test_s9_a_slow_store_delays_nobody_whose_version_is_here_or_on_disk(far):
    served, proxy = far
    await served.ask("triage@1")
    request = wire.PrefetchAdapterRequest(parent="projects/default", reference="triage@2")
    await served.servers.PrefetchAdapter(request, timeout=20)
    proxy.hang()
    cold = [asyncio.create_task(served.ask("triage@3", timeout=20)) for _ in range(20)]
    await until(lambda: "loading" in {place.state for place in served.residencies.values()})
    for reference in (None, "triage@1", "triage@2"):
        await served.ask(reference, timeout=5)
    assert not any(task.done() for task in cold)
    proxy.pass_on()
    for answer in await asyncio.gather(*cold):
        assert answer.answerer.version_number == 3


@pytest.mark.contract("S10")
async def test_s10_store_outage_is_told_as_degraded_and_is_over_by_itself(far):
    served, proxy = far
    await served.ask("triage@1")
    assert list((await served.look()).degraded) == []
    proxy.refuse()
    assert reason_of(await refusal_of(served.ask("triage@2"))) == "ADAPTER_LOAD_FAILED"
    degraded = (await served.look()).degraded
    assert any(line.startswith("the object store does not answer since") for line in degraded)
    assert any(line.startswith("triage@2 could not be brought in") for line in degraded)
    assert await health(served) == health_pb2.HealthCheckResponse.SERVING
    await served.ask("triage@1")
    proxy.pass_on()

    async def answers():
        look = await served.look()
        return not any("object store" in line for line in look.degraded)

    await until(answers)
    await until(lambda: not served.parts.inside.residencies.places()[1].back_off_s)
    assert (await served.ask("triage@2")).answerer.version_number == 2
    look = await served.look()
    assert list(look.degraded) == []
    assert look.server.residencies[1].last_error, "it can still be read what was wrong"


@pytest.mark.contract("S10")
async def test_s10_an_alias_that_can_not_follow_is_told_as_degraded_with_why(far):
    served, proxy = far
    await served.set_alias("triage", 1)
    await served.ask("triage")
    proxy.refuse()
    await served.set_alias("triage", 2, etag="1")

    async def is_told():
        lines = (await served.look()).degraded
        told = r"aliases/production: wants @2 \(sha256:\w+\), serves @1 \(sha256:\w+\): ."
        return any(re.search(told, line) for line in lines)

    await until(is_told)
    assert (await served.ask("triage")).answerer.version_number == 1
    proxy.pass_on()

    async def follows():
        return (await served.ask("triage")).answerer.version_number == 2

    await until(follows)
    await until(lambda: is_not_degraded(served))


async def is_not_degraded(served):
    return not (await served.look()).degraded


async def health(served):
    stub = health_pb2_grpc.HealthStub(served.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status


async def test_a_store_that_is_down_is_found_out_before_anybody_needs_it(far):
    served, proxy = far
    proxy.refuse()
    await until(lambda: served.parts.inside.health.degraded("default"))
    since = time.monotonic()
    proxy.pass_on()
    await until(lambda: not served.parts.inside.health.degraded("default"))
    assert time.monotonic() - since < 20
